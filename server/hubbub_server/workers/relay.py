"""Makes sure that other topics have what an event means for them.

A membership event of a conversation belongs on the topics of the users concerned, a block on a user's topic in the
direct conversation of the two.

The committing node writes these effects at once (app/effects.py); it may die in between. This reads every such
event in the log and submits the same command again: what is there already, or newer, stays (domain/user_topic.py,
domain/conversation.py).
"""

from collections.abc import Sequence
from functools import partial
from typing import Final, Protocol

import structlog

from hubbub_server.app.project import decode_record
from hubbub_server.domain.commands import RecordBlock, RecordMembership
from hubbub_server.domain.errors import HubbubError
from hubbub_server.domain.events import (
    Event,
    MemberRemoved,
    MembersAdded,
    SourcePlace,
    UserBlocked,
    UserUnblocked,
)
from hubbub_server.domain.ids import TopicId, UserId, is_conversation_id, is_user_id
from hubbub_server.ports.record_codec import RecordCodec
from hubbub_server.ports.record_consumer import PoisonRecord
from hubbub_server.ports.topic_log import LogRecord
from hubbub_server.workers.backoff import Backoff
from hubbub_server.workers.shard_role import Batch, RequireLease
from hubbub_server.workers.side_by_side import side_by_side

_RELAYED_KINDS: Final = frozenset(kind.__name__ for kind in (MembersAdded, MemberRemoved, UserBlocked, UserUnblocked))
_TIMEOUT_S: Final = 10.0

log = structlog.get_logger()

Effect = tuple[TopicId, RecordMembership | RecordBlock]


class Topics(Protocol):
    """Topics; the part of TopicHub that is needed here."""

    async def submit(self, topic_id: TopicId, command: RecordMembership | RecordBlock, *, timeout_s: float) -> object:
        """Decides and commits a command on a topic. Raises HubbubError."""


class Relay:
    """Implements ShardRole for one shard."""

    role = "relay"

    def __init__(self, shard: int, *, hub: Topics, codec: RecordCodec, backoff: Backoff) -> None:
        self._shard = shard
        self._hub = hub
        self._codec = codec
        self._backoff = backoff

    async def start(self, acknowledged: int) -> None:
        """Needs no preparation: what was acknowledged is on the other topics."""

    async def handle(self, batch: Batch, require_lease: RequireLease) -> None:
        """Relays the events of a batch, until every topic concerned has them."""
        await self.replay(batch.records, require_lease)

    async def replay(self, records: Sequence[LogRecord], require_lease: RequireLease) -> None:
        """Relays the events of records."""
        for record in records:
            if record.facts.kinds.isdisjoint(_RELAYED_KINDS):
                continue
            for decoded in decode_record(self._codec, self._shard, record):
                try:
                    commands = _commands(decoded.event)
                    await side_by_side(partial(self._submit_until_done, require_lease), commands, require_lease)
                except ValueError as exc:
                    raise PoisonRecord(shard=self._shard, sequence=record.sequence, reason=str(exc)) from exc

    async def _submit_until_done(self, require_lease: RequireLease, each: Effect) -> None:
        topic_id, command = each
        while True:
            try:
                await self._hub.submit(topic_id, command, timeout_s=_TIMEOUT_S)
            except HubbubError as error:
                log.warning("effect not written", shard=self._shard, error=type(error).__name__, reason=str(error))
                await self._backoff.wait()
                require_lease()
            except ValueError as error:
                # Poison, but on the other topic. This record is good and must not be skipped: it waits for a replay.
                raise ValueError(f"the topic {topic_id} cannot be read: {error}") from error
            else:
                self._backoff.reset()
                return


def _commands(event: Event) -> list[Effect]:
    match event.kind:
        case UserBlocked(user_id=user_id, conversation_id=direct_id):
            return [(direct_id, _block(event, user_id, blocked=True))]
        case UserUnblocked(user_id=user_id, conversation_id=direct_id):
            return [(direct_id, _block(event, user_id, blocked=False))]
        case MembersAdded(members=members):
            user_ids, joined = [member.user_id for member in members], True
        case MemberRemoved(user_id=user_id):
            user_ids, joined = [user_id], False
        case _:
            return []
    conversation_id = event.topic_id
    if not is_conversation_id(conversation_id):
        raise ValueError(f"{type(event.kind).__name__} does not belong to a user's topic")
    command = RecordMembership(
        conversation_id=conversation_id, epoch=event.epoch, position=event.position, joined=joined
    )
    return [(user_id, command) for user_id in user_ids]


def _block(event: Event, user_id: UserId, *, blocked: bool) -> RecordBlock:
    blocker_id = event.topic_id
    if not is_user_id(blocker_id):
        raise ValueError(f"{type(event.kind).__name__} does not belong to a conversation")
    return RecordBlock(
        blocker_id=blocker_id, user_id=user_id, blocked=blocked, source=SourcePlace(event.epoch, event.position)
    )
