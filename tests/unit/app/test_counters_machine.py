"""G10: whatever happens, in whatever order, on whatever node: the numbers of every device are what the log says.

Two nodes share a log and a store that is brought up to date now and then. After every step the counters of each user on
each node are compared with a recount of the whole log, event by event, which knows nothing of states, marks or rows.
"""

from collections.abc import Iterable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubbub_server.app.effects import MembershipEffects
from hubbub_server.app.frames import ReadUpTo
from hubbub_server.app.take_snapshots import TakeSnapshots
from hubbub_server.domain.commands import (
    AddMembers,
    ChangeConversationPreferences,
    CreateGroup,
    RemoveMember,
    SendMessage,
    SetBlock,
)
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.errors import HubbubError
from hubbub_server.domain.events import (
    ConversationJoined,
    ConversationMarkedUnread,
    ConversationPreferencesChanged,
    MemberRemoved,
    MembersAdded,
    MessageSent,
    ReadMarkerMoved,
    UserBlocked,
    UserUnblocked,
)
from hubbub_server.domain.ids import ConversationId, TopicId, UserId
from hubbub_server.domain.message import BroadcastAudience, BroadcastMention, TextContent, TextEntity, UserMention
from hubbub_server.domain.preferences import ConversationPreferences
from tests.support.app_node import ALICE, BOB, CAROL, AppCluster, AppNode, message_id
from tests.support.fakes.topic_states import FakeTopicStates
from tests.support.loaders import fake_loader
from tests.support.virtual_time import run_in_virtual_time

ROOMS = [ConversationId(TopicId(f"croom{number}")) for number in range(2)]
USERS = [ALICE, BOB, CAROL]
DIRECT = ConversationId(TopicId("cdirect"))
_FOREVER_MS = 253_402_300_799_000

Numbers = dict[ConversationId, tuple[int, int, bool]]
"""Unread messages, mentions, whether marked unread: of conversations with any of it."""


# ---- the recount


@dataclass
class _Recount:
    """What one user has of one conversation, by its log alone."""

    is_member: bool = False
    read: int = 0
    messages: list[tuple[int, UserId, bool]] = field(default_factory=list)

    def take_all(self, cluster: AppCluster, room: ConversationId, user_id: UserId) -> None:
        number = 0
        for event in cluster.events(room):
            match event.kind:
                case MembersAdded(members=members) if user_id in {member.user_id for member in members}:
                    self.is_member, self.read = True, number
                case MemberRemoved(user_id=removed) if removed == user_id:
                    self.is_member = False
                case MessageSent(message=message):
                    number += 1
                    assert isinstance(message.content, TextContent)
                    kinds = [entity.kind for entity in message.content.entities]
                    is_mentioned = any(
                        isinstance(kind, BroadcastMention)
                        or (isinstance(kind, UserMention) and kind.user_id == user_id)
                        for kind in kinds
                    )
                    self.messages.append((number, message.sender_id, is_mentioned))
                    if message.sender_id == user_id:
                        self.read = number
                case _:
                    pass


def recount(cluster: AppCluster, user_id: UserId) -> tuple[Numbers, int]:
    """Returns the numbers of a user, and the badge."""
    read: dict[ConversationId, int] = {}
    marked: set[ConversationId] = set()
    muted: set[ConversationId] = set()
    blocked: set[UserId] = set()
    for event in cluster.events(user_id):
        match event.kind:
            case ConversationJoined(conversation_id=room):
                read.pop(room, None)
                marked.discard(room)
                muted.discard(room)
            case ReadMarkerMoved(conversation_id=room, marker=marker):
                read[room] = max(read.get(room, 0), marker.message_number)
                marked.discard(room)
            case ConversationMarkedUnread(conversation_id=room):
                marked.add(room)
            case ConversationPreferencesChanged(conversation_id=room, preferences=preferences):
                (muted.add if preferences.mute_end_time_ms else muted.discard)(room)
            case UserBlocked(user_id=other):
                blocked.add(other)
            case UserUnblocked(user_id=other):
                blocked.discard(other)
            case _:
                pass
    numbers: Numbers = {}
    for room in ROOMS:
        found = _Recount()
        found.take_all(cluster, room, user_id)
        start = max(found.read, read.get(room, 0))
        after = [(sender_id, is_mentioned) for number, sender_id, is_mentioned in found.messages if number > start]
        mentions = sum(is_mentioned and sender_id not in blocked for sender_id, is_mentioned in after)
        if found.is_member and (after or room in marked):
            numbers[room] = (len(after), mentions, room in marked)
    badge = sum(unread or 1 for room, (unread, _, _) in numbers.items() if room not in muted)
    return numbers, badge


# ---- the machine


Step = tuple[str, int, int, int, int]
"""What, by which node, by which user, in which room, and a number for the rest."""

steps = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("send", "send", "mention", "mention all", "read", "read", "unread", "mute", "block", "project"),
                *("add", "remove", "forget", "snapshot"),
            ]
        ),
        st.integers(0, 1),
        st.integers(0, 2),
        st.integers(0, 1),
        st.integers(0, 7),
    ),
    max_size=40,
)


class Machine:
    """Does steps on nodes, and checks the counters that they tell."""

    def __init__(self, cluster: AppCluster, nodes: list[AppNode]) -> None:
        self.cluster = cluster
        self.nodes = nodes
        self.serial = 0

    async def start(self) -> None:
        for room in ROOMS:
            command = CreateGroup(creator_id=ALICE, title="tea", user_ids=(BOB, CAROL))
            await self.nodes[0].submit(command, topic_id=room)

    async def do(self, step: Step) -> None:
        what, node_number, user_number, room_number, rest = step
        node, user_id, room = self.nodes[node_number], USERS[user_number], ROOMS[room_number]
        with suppress(HubbubError):
            await self._do(what, node, user_id, room, rest)

    async def _do(self, what: str, node: AppNode, user_id: UserId, room: ConversationId, rest: int) -> None:
        match what:
            case "send":
                await self.send(node, user_id, room, ())
            case "mention":
                kinds = (UserMention(user_id=USERS[rest % 3]), UserMention(user_id=USERS[rest // 3]))
                await self.send(node, user_id, room, kinds)
            case "mention all":
                await self.send(node, user_id, room, (BroadcastMention(audience=BroadcastAudience.HERE),))
            case "read":
                await node.markers.mark_read(user_id, await self.up_to(node, user_id, room, rest))
            case "unread":
                await node.markers.mark_unread(user_id, room)
            case "mute":
                end_ms = _FOREVER_MS if rest % 2 else None
                command = ChangeConversationPreferences(
                    conversation_id=room,
                    preferences=ConversationPreferences(mute_end_time_ms=end_ms),
                    names=["mute_end_time_ms"],
                )
                await node.submit(command, topic_id=user_id)
            case "block":
                other = USERS[(USERS.index(user_id) + 1 + rest % 2) % 3]
                block = SetBlock(user_id=other, conversation_id=DIRECT, blocked=rest < 4)
                await node.submit(block, topic_id=user_id)
            case "add":
                await node.submit(AddMembers(actor_id=ALICE, user_ids=(USERS[1 + rest % 2],)), topic_id=room)
                await self.tell(node, room)
            case "remove":
                await node.submit(RemoveMember(actor_id=ALICE, user_id=USERS[1 + rest % 2]), topic_id=room)
                await self.tell(node, room)
            case "forget":
                for topic_id in (room, user_id):
                    await node.hub.topic(topic_id).shrink()
            case "snapshot":
                for topic_id in (room, user_id):
                    await self.snapshots(node).take(topic_id)
            case _:
                await self.cluster.project()

    def snapshots(self, node: AppNode) -> TakeSnapshots:
        server = self.cluster.server
        loader = fake_loader(server, node.log, self.cluster.store)
        return TakeSnapshots(loader=loader, states=FakeTopicStates(server, node.log))

    async def send(
        self,
        node: AppNode,
        sender_id: UserId,
        room: ConversationId,
        kinds: Iterable[UserMention | BroadcastMention],
    ) -> None:
        self.serial += 1
        entities = tuple(TextEntity(start=index, length=1, kind=kind) for index, kind in enumerate(kinds))
        command = SendMessage(
            sender_id=sender_id,
            client_message_id=message_id(self.serial, time_ms=self.cluster.clock.now_ms() + self.serial),
            content=TextContent(text="text", entities=entities),
        )
        await node.submit(command, topic_id=room)

    async def up_to(self, node: AppNode, user_id: UserId, room: ConversationId, rest: int) -> ReadUpTo:
        own = await node.read_states.own(user_id)
        seen = own.kept_of(room).unread_mark_position if rest % 2 else 0
        return ReadUpTo(conversation_id=room, message_number=1 + rest, unread_mark_position=seen)

    async def tell(self, node: AppNode, room: ConversationId) -> None:
        """Does what the relay would do."""
        topic = await node.hub.at_head(room)
        assert isinstance(topic.state, ConversationState)
        await MembershipEffects(node.hub).spread(topic.state, USERS)

    async def check(self) -> None:
        for user_id in USERS:
            expected, badge = recount(self.cluster, user_id)
            for node in self.nodes:
                counters = await node.markers.counters(user_id)
                found = {
                    each.conversation_id: (
                        each.read_state.unread_count,
                        each.read_state.mention_count,
                        each.read_state.unread_mark_position > 0,
                    )
                    for each in counters.conversations
                }
                assert (found, counters.badge_count) == (expected, badge), user_id


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_counters_are_what_the_log_says_on_every_node(todo: list[Step]) -> None:
    async def run() -> None:
        cluster = AppCluster()
        async with AsyncExitStack() as stack:
            nodes = [await stack.enter_async_context(cluster.node()) for _ in range(2)]
            machine = Machine(cluster, nodes)
            await machine.start()
            for room in ROOMS:
                await machine.tell(nodes[0], room)
            for step in todo:
                await machine.do(step)
                await machine.check()
            async with cluster.node() as fresh:  # a fresh login, on a node that knows nothing
                machine.nodes = [fresh]
                await machine.check()
            await cluster.project()
            cluster.server.states.clear()
            async with cluster.node() as fresh:  # and one that has nothing but the store
                machine.nodes = [fresh]
                await machine.check()

    run_in_virtual_time(run())
