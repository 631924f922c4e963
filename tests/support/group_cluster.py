"""A cluster on fakes with one group: its log can be filled, snapshotted, and trimmed."""

from dataclasses import replace

from hubbub_server.app.take_snapshots import TakeSnapshots
from hubbub_server.domain.commands import SendMessage
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.ids import TopicId, UserId, shard_of
from tests.support.app_node import ALICE, BOB, GROUP, AppCluster, AppNode, create_group, message_id, send
from tests.support.fakes.topic_states import FakeTopicStates
from tests.support.loaders import fake_loader

_EIGHT_DAYS_S = 8 * 24 * 3600.0


class GroupCluster(AppCluster):
    """What nodes share, and what workers would do to it."""

    @property
    def shard(self) -> int:
        """The group's shard."""
        return shard_of(GROUP, self.server.shards)

    async def fill(self, first: int = 1, last: int = 5) -> None:
        """Makes the group, with Bob, and sends messages `first` to `last` of Alice's."""
        async with self.node() as node:
            await create_group(node, BOB)
            for serial in range(first, last + 1):
                await node.send(send(ALICE, serial))

    async def snapshot(self, topic_id: TopicId = GROUP) -> None:
        """Takes a topic's snapshot, the group's by default."""
        log = self.server.connect()
        states = FakeTopicStates(self.server, log)
        await TakeSnapshots(loader=fake_loader(self.server, log, self.store), states=states).take(topic_id)
        self.server.nodes.remove(log)

    def trim(self, *, keep: int = 0) -> None:
        """Removes all records of the group's shard but the newest `keep` of the group, and lets days pass."""
        log = self.server.by_topic[GROUP]
        below = log[-keep].sequence if keep else self.server.last_sequences[self.shard] + 1
        self.server.trim(self.shard, below_sequence=below)
        self.clock.advance(_EIGHT_DAYS_S)

    def position(self) -> int:
        """Position of the group's newest record; fails when it is trimmed."""
        return self.server.by_topic[GROUP][-1].facts.last_position

    def fresh(self, sender_id: UserId, serial: int) -> SendMessage:
        """Returns a command with an id of now."""
        return replace(send(sender_id, serial), client_message_id=message_id(serial, time_ms=self.clock.now_ms()))


async def state_on(node: AppNode) -> ConversationState:
    """Returns the group's state at its head."""
    state = (await node.hub.at_head(GROUP)).state
    assert isinstance(state, ConversationState)
    return state
