"""What a TopicHub on fakes stands on: a loader, and a guard that lets everything pass."""

from hubbub_server.app.topic_loader import TopicLoader
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
