"""What is unread for a user: derived from a conversation at its head and the user's own topic, never counted (G10).

The effective marker is the larger of what the user marked read and of what counts as read by itself: the own newest
message, and what was there on joining (domain/member_marks.py). Unread is the difference of counted numbers. Mentions
are rows of the store and, for what it does not have yet, messages of the log; the state knows the newest mention of
each member, so nobody asks who was not mentioned since.
"""

from dataclasses import dataclass, replace

from hubbub_server.app.active_topic import ActiveTopic
from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.app.topic_reader import TopicReader
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.events import ReadMarker
from hubbub_server.domain.ids import UserId
from hubbub_server.domain.limits import MENTION_COUNT_MAX
from hubbub_server.domain.member_marks import MemberMark
from hubbub_server.domain.user_topic import UserTopicState


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadState:
    """What is unread; `mention_count` ends at MENTION_COUNT_MAX."""

    marker: ReadMarker
    unread_count: int
    mention_count: int
    unread_mark_position: int

    @property
    def badge_count(self) -> int:
        """What it adds to the badge: one that is only marked unread counts 1."""
        return self.unread_count or int(self.unread_mark_position > 0)


class ReadStates:
    """Derives read states."""

    def __init__(self, *, hub: TopicHub, reader: TopicReader) -> None:
        """Takes the topics and their reader."""
        self._hub = hub
        self._reader = reader

    async def own(self, user_id: UserId) -> UserTopicState:
        """Returns the user's own topic at the log's head. Raises LogUnavailable, StoreUnavailable."""
        state = (await self._hub.at_head(user_id)).state
        assert isinstance(state, UserTopicState)  # noqa: S101  # by the form of the id
        return state

    async def of(self, topic: ActiveTopic, state: ConversationState, own: UserTopicState) -> ReadState:
        """Returns what is unread for a member, as of both states.

        Raises:
            LogUnavailable, StoreUnavailable: there are mentions, and they cannot be counted now.
        """
        kept = own.kept_of(state.conversation_id)
        mark = state.marks.get(own.user_id) or MemberMark()
        marker = effective_marker(state, kept.marker, mark)
        newest_mention = max(mark.mention_number, state.last_broadcast_number)
        return ReadState(
            marker=marker,
            unread_count=state.last_counted_number - marker.counted_number,
            mention_count=(
                await self._count_mentions(topic, state, own, marker.message_number)
                if newest_mention > marker.message_number
                else 0
            ),
            unread_mark_position=kept.unread_mark_position,
        )

    async def _count_mentions(
        self, topic: ActiveTopic, state: ConversationState, own: UserTopicState, after_number: int
    ) -> int:
        count, before_number = 0, state.last_message_number + 1
        while True:
            mentions = await self._reader.mentions(
                topic,
                own.user_id,
                after_number=after_number,
                before_number=before_number,
                limit=MENTION_COUNT_MAX,
            )
            count += sum(mention.sender_id not in own.blocked for mention in mentions)
            if len(mentions) < MENTION_COUNT_MAX or count >= MENTION_COUNT_MAX:
                return min(count, MENTION_COUNT_MAX)
            before_number = mentions[-1].message_number


def effective_marker(state: ConversationState, marker: ReadMarker, mark: MemberMark) -> ReadMarker:
    """Returns how far a member has read, never past the head: a log that lost records may end before a marker."""
    if marker.message_number < mark.message_number:
        marker = ReadMarker(epoch=state.epoch, message_number=mark.message_number, counted_number=mark.counted_number)
    if marker.message_number > state.last_message_number:
        return replace(marker, message_number=state.last_message_number, counted_number=state.last_counted_number)
    return marker
