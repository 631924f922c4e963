"""Brings topics of a client up to date: for each cursor events, or Gap, Reset, TopicEnded; then CaughtUp.

Reading writes nothing (C10). Every answer is authorised on the state at the head; an ex-member's part ends at the
removal.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from hubbub_server.app.active_topic import ActiveTopic
from hubbub_server.app.frames import CaughtUp, Gap, Outgoing, Rejected, Reset, TopicEnded
from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.app.topic_reader import OlderEpoch, TopicReader
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.cursor import Cursor, TopicHead
from hubbub_server.domain.errors import ConversationNotFound, HubbubError, InvalidField
from hubbub_server.domain.ids import UserId, is_conversation_id
from hubbub_server.domain.limits import GAP_MAX_BYTES, GAP_MESSAGES, SYNC_MAX_CURSORS, SYNC_MAX_EVENTS
from hubbub_server.ports.message_store import StoredMessage


class Sync:
    """Serves requests of HistoryService.Sync and SyncOnce."""

    def __init__(self, *, hub: TopicHub, reader: TopicReader) -> None:
        """Takes the topics and their reader."""
        self._hub = hub
        self._reader = reader

    async def serve(self, caller_id: UserId, cursors: Sequence[Cursor]) -> AsyncIterator[Outgoing]:
        """Answers one request; the last frame is CaughtUp. A topic that cannot be served is Rejected by itself.

        Raises:
            InvalidField: 0 or more than 500 cursors, a topic twice, a negative position; before the first frame.
        """
        if not 1 <= len(cursors) <= SYNC_MAX_CURSORS:
            raise InvalidField("cursors", f"1 to {SYNC_MAX_CURSORS} cursors")
        if len({cursor.topic_id for cursor in cursors}) < len(cursors):
            raise InvalidField("cursors", "each topic once")
        if any(cursor.position < 0 for cursor in cursors):
            raise InvalidField("cursors.position", "0 or more")
        heads: list[TopicHead] = []
        for cursor in cursors:
            try:
                async for frame in self._serve_topic(caller_id, cursor, heads):
                    yield frame
            except HubbubError as error:
                yield Rejected(topic_id=cursor.topic_id, error=error)
        yield CaughtUp(heads=tuple(heads))

    async def _serve_topic(self, caller_id: UserId, cursor: Cursor, heads: list[TopicHead]) -> AsyncIterator[Outgoing]:
        if cursor.topic_id != caller_id and not is_conversation_id(cursor.topic_id):
            raise ConversationNotFound
        topic = await self._hub.at_head(cursor.topic_id)
        state = topic.state
        if isinstance(state, ConversationState) and caller_id not in state.members:
            left_at = state.former_members.get(caller_id)
            if left_at is None:
                raise ConversationNotFound
            is_served = cursor.epoch == state.epoch and 0 <= left_at - cursor.position <= SYNC_MAX_EVENTS
            if is_served:
                with suppress(OlderEpoch):
                    async for frame in self._reader.events(topic, cursor.position, left_at):
                        yield frame
            yield TopicEnded(topic_id=cursor.topic_id)
            return
        head = state.head
        if cursor.epoch != head.cursor.epoch or cursor.position > head.cursor.position:
            yield Reset(head=head)
        elif head.cursor.position - cursor.position > SYNC_MAX_EVENTS:
            yield await self._gap(topic, cursor, head)
        else:
            try:
                async for frame in self._reader.events(topic, cursor.position, head.cursor.position):
                    yield frame
            except OlderEpoch:
                # The user's topic told in this epoch of a joining of before: such a cursor lies below its first event.
                yield await self._gap(topic, cursor, head)
        heads.append(head)

    async def _gap(self, topic: ActiveTopic, cursor: Cursor, head: TopicHead) -> Gap:
        last = head.last_message_number
        messages = await self._reader.messages(topic, max(1, last - GAP_MESSAGES + 1), last) if last else []
        return Gap(start=cursor, head=head, newest_messages=tuple(_newest_that_fit(messages)))


def _newest_that_fit(messages: list[StoredMessage]) -> list[StoredMessage]:
    size_bytes = 0
    for count, message in enumerate(reversed(messages)):
        size_bytes += len(message.body)
        if size_bytes > GAP_MAX_BYTES and count > 0:
            return messages[len(messages) - count :]
    return messages
