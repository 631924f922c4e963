"""Makes sure that each user's own topic has what membership events of conversations mean for that user.

The committing node writes these effects at once (app/effects.py); it may die in between. This reads every membership
event in the log and submits the same command again: what is there already, or newer, stays (domain/user_topic.py).
"""

from collections.abc import Sequence
from functools import partial
from typing import Final, Protocol

import structlog

from hubbub_server.app.project import decode_record
from hubbub_server.domain.commands import RecordMembership
from hubbub_server.domain.errors import HubbubError
from hubbub_server.domain.events import Event, MemberRemoved, MembersAdded
from hubbub_server.domain.ids import UserId, is_conversation_id
from hubbub_server.ports.record_codec import RecordCodec
from hubbub_server.ports.record_consumer import PoisonRecord
from hubbub_server.ports.topic_log import LogRecord
from hubbub_server.workers.backoff import Backoff
from hubbub_server.workers.shard_role import Batch, RequireLease
from hubbub_server.workers.side_by_side import side_by_side

_MEMBERSHIP_KINDS: Final = frozenset({MembersAdded.__name__, MemberRemoved.__name__})
_TIMEOUT_S: Final = 10.0

log = structlog.get_logger()


class UserTopics(Protocol):
    """Users' own topics; the part of TopicHub that is needed here."""

    async def submit(self, topic_id: UserId, command: RecordMembership, *, timeout_s: float) -> object:
        """Decides and commits a command on a topic. Raises HubbubError."""


class Relay:
    """Implements ShardRole for one shard."""

    role = "relay"

    def __init__(self, shard: int, *, hub: UserTopics, codec: RecordCodec, backoff: Backoff) -> None:
        self._shard = shard
        self._hub = hub
        self._codec = codec
        self._backoff = backoff

    async def start(self, acknowledged: int) -> None:
        """Needs no preparation: what was acknowledged is on the users' topics."""

    async def handle(self, batch: Batch, require_lease: RequireLease) -> None:
        """Relays the membership events of a batch, until every topic concerned has them."""
        await self.replay(batch.records, require_lease)

    async def replay(self, records: Sequence[LogRecord], require_lease: RequireLease) -> None:
        """Relays the membership events of records."""
        for record in records:
            if record.facts.kinds.isdisjoint(_MEMBERSHIP_KINDS):
                continue
            for decoded in decode_record(self._codec, self._shard, record):
                try:
                    commands = _commands(decoded.event)
                    await side_by_side(partial(self._submit_until_done, require_lease), commands, require_lease)
                except ValueError as exc:
                    raise PoisonRecord(shard=self._shard, sequence=record.sequence, reason=str(exc)) from exc

    async def _submit_until_done(self, require_lease: RequireLease, each: tuple[UserId, RecordMembership]) -> None:
        user_id, command = each
        while True:
            try:
                await self._hub.submit(user_id, command, timeout_s=_TIMEOUT_S)
            except HubbubError as error:
                log.warning("effect not written", shard=self._shard, error=type(error).__name__, reason=str(error))
                await self._backoff.wait()
                require_lease()
            except ValueError as error:
                # Poison, but on the user's topic. This record is good and must not be skipped: it waits for a replay.
                raise ValueError(f"the topic of {user_id} cannot be read: {error}") from error
            else:
                self._backoff.reset()
                return


def _commands(event: Event) -> list[tuple[UserId, RecordMembership]]:
    match event.kind:
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
