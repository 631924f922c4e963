"""What tests of markers do and look at."""

from dataclasses import replace

from hubbub_server.app.as_member import member_at_head
from hubbub_server.app.frames import ReadUpTo
from hubbub_server.app.markers import MemberMarker
from hubbub_server.app.read_states import ReadState
from hubbub_server.domain.commands import RecordMembership, SendMessage
from hubbub_server.domain.ids import TopicId, UserId
from hubbub_server.domain.message import (
    BroadcastAudience,
    BroadcastMention,
    EntityKind,
    TextContent,
    TextEntity,
    UserMention,
)
from hubbub_server.domain.signals import ReadMarker, Signal
from tests.support.app_node import ALICE, BOB, GROUP, AppNode, create_group, send

EVERYBODY_HEARS = BroadcastMention(audience=BroadcastAudience.ALL)


def read(number: int, *, seen: int = 0) -> ReadUpTo:
    return ReadUpTo(conversation_id=GROUP, message_number=number, unread_mark_position=seen)


def at(user_id: UserId, read_number: int, delivered_number: int = 0) -> MemberMarker:
    return MemberMarker(user_id=user_id, read_number=read_number, delivered_number=max(read_number, delivered_number))


def mention(*kinds: EntityKind, serial: int, sender_id: UserId = ALICE) -> SendMessage:
    entities = tuple(TextEntity(start=index, length=1, kind=kind) for index, kind in enumerate(kinds))
    command = send(sender_id, serial)
    assert isinstance(command.content, TextContent)
    return replace(command, content=replace(command.content, entities=entities))


def of(user_id: UserId) -> UserMention:
    return UserMention(user_id=user_id)


def bob_read(number: int) -> Signal:
    return Signal(conversation_id=GROUP, user_id=BOB, kind=ReadMarker(message_number=number))


async def group_with(node: AppNode, *user_ids: UserId, messages: int = 0) -> None:
    """Makes Alice's group, known on everybody's own topic, with messages of hers."""
    await create_group(node, *user_ids)
    for user_id in (ALICE, *user_ids):
        joined = RecordMembership(conversation_id=GROUP, epoch=1, position=3, joined=True)
        await node.submit(joined, topic_id=user_id)
    for serial in range(1, messages + 1):
        await node.send(send(ALICE, serial))


async def read_state(node: AppNode, user_id: UserId) -> ReadState:
    topic, state = await member_at_head(node.hub, user_id, GROUP)
    return await node.read_states.of(topic, state, await node.read_states.own(user_id))


async def unread(node: AppNode, user_id: UserId) -> tuple[int, int]:
    """Returns unread messages and mentions."""
    state = await read_state(node, user_id)
    return state.unread_count, state.mention_count


def somebody(number: int) -> UserId:
    return UserId(TopicId(f"u{number}"))
