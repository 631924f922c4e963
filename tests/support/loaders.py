"""What a TopicHub on fakes stands on: its ports, with a guard that lets everything pass."""

from hubbub_server.app.committer import CommitGuard
from hubbub_server.app.topic_hub import TopicPorts
from hubbub_server.app.topic_loader import TopicLoader
from hubbub_server.ports.clock import Clock, IdSource
from hubbub_server.wire.record_codec import ProtoRecordCodec
from tests.support.fakes.log_shards import FakeLogShards
from tests.support.fakes.store import FakeStore
from tests.support.fakes.topic_log import FakeLogServer, FakeTopicLog
from tests.support.fakes.topic_states import FakeTopicStates


def fake_loader(server: FakeLogServer, log: FakeTopicLog, store: FakeStore) -> TopicLoader:
    """Returns a loader that uses the link of one node."""
    return TopicLoader(
        log=log,
        shards=FakeLogShards(server, log),
        states=FakeTopicStates(server, log),
        directory=store,
        codec=ProtoRecordCodec(),
    )


class OpenGuard:
    """A CommitGuard of a log that nobody doubts."""

    async def ensure(self, shard: int, *, is_fresh: bool = False) -> None:
        """Lets every commit pass."""


def fake_ports(  # as many as a hub has
    server: FakeLogServer,
    log: FakeTopicLog,
    store: FakeStore,
    *,
    clock: Clock,
    ids: IdSource,
    guard: CommitGuard | None = None,
) -> TopicPorts:
    """Returns the ports of one node, on its link to the log; without a guard nobody doubts it."""
    return TopicPorts(
        log=log,
        guard=guard or OpenGuard(),
        loader=fake_loader(server, log, store),
        directory=store,
        messages=store,
        codec=ProtoRecordCodec(),
        clock=clock,
        ids=ids,
    )
