"""Lists messages that mention somebody, in all their conversations, newest first.

The store finds them by time: those of the user, and for each conversation those of all its members. What it does not
have yet is in the log of the few topics whose newest record is above the floor of their shard, or that are dead for the
projector: the floor passes them, and their records wait. That is looked at first, the floors before the dead, so what
is projected or dies meanwhile is found twice, never not at all.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hubbub_server.app.active_topic import ActiveTopic
from hubbub_server.app.as_member import members_at_head
from hubbub_server.app.page_tokens import PageTokens, count_that_fit, size_of_page
from hubbub_server.app.read_states import ReadStates
from hubbub_server.app.side_by_side import side_by_side
from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.app.topic_reader import TopicReader
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.ids import ConversationId, TopicId, UserId
from hubbub_server.domain.limits import PAGE_MAX_BYTES
from hubbub_server.domain.user_topic import UserTopicState
from hubbub_server.ports.dead_letters import DeadLetters
from hubbub_server.ports.marker_store import TimedMention
from hubbub_server.ports.message_store import StoredMessage
from hubbub_server.ports.projection import PROJECTOR_ROLE
from hubbub_server.ports.topic_directory import TopicDirectory

_AT_ONCE: Final = 16
_ROUNDS_MAX: Final = 5
"""As often mentions are read to fill a page, when many are of users who are blocked, or in conversations left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnMention:
    """A message that mentions the caller."""

    conversation_id: ConversationId
    message: StoredMessage


@dataclass(frozen=True, slots=True)
class _Rooms:
    """The conversations in which a user is mentioned, as of their heads, and what the store lacks of them."""

    own: UserTopicState
    topics: Mapping[ConversationId, ActiveTopic]
    states: Mapping[ConversationId, ConversationState]
    recent: Sequence[TimedMention]

    def counts(self, mention: TimedMention) -> bool:
        """Tells whether a mention is for the user to see."""
        sender_id = mention.sender_id
        state = self.states.get(mention.conversation_id)
        return (
            state is not None
            and sender_id != self.own.user_id
            and sender_id not in self.own.blocked
            and mention.message_number <= state.last_message_number
        )


class OwnMentions:
    """The use case of ListMyMentions."""

    def __init__(
        self,
        *,
        hub: TopicHub,
        reader: TopicReader,
        read_states: ReadStates,
        directory: TopicDirectory,
        letters: DeadLetters,
        id_key: bytes,
    ) -> None:
        """`id_key` as in Conversations."""
        self._hub = hub
        self._reader = reader
        self._read_states = read_states
        self._directory = directory
        self._letters = letters
        self._page_tokens = PageTokens(id_key)

    async def list(self, caller_id: UserId, *, page_size: int, page_token: str) -> tuple[Sequence[OwnMention], str]:
        """Lists mentions, newest first, and the token of the next page ("" on the last).

        Raises:
            InvalidField, Unavailable: as they say.
        """
        size = size_of_page(page_size, default=50, maximum=200)
        scope = f"mentions {caller_id}"
        before = _place_of(self._page_tokens.read_text(scope, page_token))
        rooms = await self._rooms(caller_id)
        found, rest = await self._find(rooms, before, size)

        async def read(mention: TimedMention) -> StoredMessage:
            topic, number = rooms.topics[mention.conversation_id], mention.message_number
            (message,) = await self._reader.messages(topic, number, number)
            return message

        messages = await side_by_side(read, found, at_once=_AT_ONCE)
        count = count_that_fit((len(message.body) for message in messages), PAGE_MAX_BYTES)
        if count < len(found):
            rest = found[count - 1]
        page = [
            OwnMention(conversation_id=mention.conversation_id, message=message)
            for mention, message in zip(found[:count], messages, strict=False)
        ]
        return page, self._page_tokens.make_text(scope, _text_of(rest)) if rest is not None else ""

    async def _rooms(self, caller_id: UserId) -> _Rooms:
        own = await self._read_states.own(caller_id)
        topics: dict[ConversationId, ActiveTopic] = {}
        states: dict[ConversationId, ConversationState] = {}
        joined = [each.conversation_id for each in own.joined()]
        for room in await members_at_head(self._hub, caller_id, joined):
            if room is not None:
                topic, state = room
                topics[state.conversation_id], states[state.conversation_id] = topic, state

        async def recent(topic: ActiveTopic) -> list[TimedMention]:
            return [
                TimedMention(
                    commit_time_ms=message.commit_time_ms,
                    conversation_id=ConversationId(topic.topic_id),
                    message_number=message.message_number,
                    sender_id=message.sender_id,
                )
                for message in await self._reader.mentions_not_stored(topic, caller_id)
            ]

        behind = await self._not_stored(topics.values())
        found = await side_by_side(recent, behind, at_once=_AT_ONCE)
        return _Rooms(own, topics, states, [mention for each in found for mention in each])

    async def _not_stored(self, topics: Iterable[ActiveTopic]) -> Sequence[ActiveTopic]:
        """Returns the topics with records that may not be in the store yet."""
        waiting = [topic for topic in topics if topic.moved_at]
        shards = sorted({topic.shard for topic in waiting})

        async def read(shard: int) -> tuple[tuple[int, int], Collection[TopicId]]:
            row = await self._directory.read_shard(shard)
            dead = await self._letters.topics(role=PROJECTOR_ROLE, shard=shard)
            return (row.epoch, row.sequence) if row else (0, 0), dead

        found = dict(zip(shards, await side_by_side(read, shards, at_once=_AT_ONCE), strict=True))
        behind = []
        for topic in waiting:
            floor, dead = found[topic.shard]
            if (topic.state.epoch, topic.moved_at) > floor or topic.topic_id in dead:
                behind.append(topic)
        return behind

    async def _find(
        self, rooms: _Rooms, before: TimedMention | None, size: int
    ) -> tuple[Sequence[TimedMention], TimedMention | None]:
        """Returns mentions before a place, newest first, and where the next page starts; None: there are no more."""
        found: list[TimedMention] = []
        for _ in range(_ROUNDS_MAX):
            read, before = await self._read(rooms, before, size)
            found += filter(rooms.counts, read)
            if len(found) > size or (len(found) == size and before is not None):
                return found[:size], found[size - 1]
            if before is None:
                break
        return found, before

    async def _read(
        self, rooms: _Rooms, before: TimedMention | None, size: int
    ) -> tuple[Sequence[TimedMention], TimedMention | None]:
        """Returns all mentions from `before` down to a place, newest first, and that place; None: all there are."""

        async def read(target: UserId | ConversationId) -> Sequence[TimedMention]:
            return await self._reader.stored_mentions(target, before=before, limit=size)

        pages = [await read(rooms.own.user_id)]
        oldest_ms = pages[0][-1].commit_time_ms if len(pages[0]) == size else 0
        with_all = [
            conversation_id
            for conversation_id, state in rooms.states.items()
            if state.last_broadcast_number and state.commit_time_ms >= oldest_ms
        ]
        pages += await side_by_side(read, with_all, at_once=_AT_ONCE)
        ends = [page[-1] for page in pages if len(page) == size]
        end = max(ends, default=None)  # what is older than the newest of them is not all known
        known = {mention for page in (*pages, rooms.recent) for mention in page}
        return sorted(
            (each for each in known if (before is None or each < before) and (end is None or each >= end)),
            reverse=True,
        ), end


def _text_of(mention: TimedMention) -> str:
    return f"{mention.commit_time_ms}.{mention.conversation_id}.{mention.message_number}"


def _place_of(text: str | None) -> TimedMention | None:
    if text is None:
        return None
    time_ms, conversation_id, number = text.split(".")
    return TimedMention(
        commit_time_ms=int(time_ms),
        conversation_id=ConversationId(TopicId(conversation_id)),
        message_number=int(number),
        sender_id=UserId(TopicId("")),
    )
