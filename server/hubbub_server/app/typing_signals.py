"""Who types: tells the members of a conversation, seldom enough, and that it is over.

Theory of operation. Nothing is stored. This node remembers, for as long as a receiver would show it, what it told of a
user in a conversation: the *start* that others show, when it was told, when a stop was. A start is passed on at most
once every 3 s; those between are answered and forgotten, since a client repeats them. A stop passes when it ends a
start that was told here, and else at most once every 3 s: the start may have been told by another node. Receivers
forget a start by themselves after 7 s, twice the interval and a second: one repetition may come just too early.

What ends without a stop: a message of the user (the receivers see it), a removal (they see it too), the end of the
stream that told of it (a stop is told here), the death of a node (nothing is told, it runs out). A start that was still
being checked when the user's message was submitted is over too.

Who becomes invisible, or shares their typing no more, is somebody who left: stops are told at once by the nodes that
told starts. For as long as a start may be shown, its node therefore listens to the user's own topic, where that is said
by whatever node. What the user chose is asked at the head of that topic: a node may hear late.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Final

from hubbub_server.app.active_topic import ActiveTopic, Delivery
from hubbub_server.app.as_member import member_at_head
from hubbub_server.app.conversation_signals import ConversationSignals
from hubbub_server.app.frames import Signals
from hubbub_server.app.throttle import Throttle
from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.domain.ids import ConversationId, UserId, is_conversation_id
from hubbub_server.domain.limits import TYPING_EXPIRES_S, TYPING_INTERVAL_S, TYPING_MAX_MEMBERS
from hubbub_server.domain.signals import Signal, Typing
from hubbub_server.domain.user_topic import UserTopicState
from hubbub_server.ports.clock import Clock

TRIES_BURST: Final = 20
TRIES_PER_S: Final = 10.0
_REMEMBERED_MAX: Final = 50_000
_LISTENED_S: Final = TYPING_EXPIRES_S + 10.0
"""What a start may be shown for, and what it may take to find out what its user chose."""
_NEVER_S: Final = float("-inf")

_Place = tuple[UserId, ConversationId]


@dataclass(slots=True)
class _Told:
    """What was told of a user in a conversation; `session_id` is of the stream that said it last.

    `ended_at` is when it was last over, as a number in the order of all that is said here.
    """

    making: int = 0
    session_id: str = ""
    is_active: bool = False
    ended_at: int = 0
    started_s: float = _NEVER_S
    stopped_s: float = _NEVER_S
    touched_s: float = _NEVER_S


class _Typist:
    """Somebody of whom a start may be shown. Implements Subscriber of their own topic."""

    __slots__ = ("_hide", "conversation_ids", "leaving", "user_id")

    def __init__(self, user_id: UserId, hide: Callable[["_Typist", ActiveTopic], None]) -> None:
        self.user_id = user_id
        self.conversation_ids: set[ConversationId] = set()
        self.leaving: asyncio.TimerHandle | None = None
        self._hide = hide

    def on_delivery(self, topic: ActiveTopic, delivery: Delivery) -> None:
        """See Subscriber."""
        self._hide(self, topic)

    def on_reset(self, topic: ActiveTopic) -> None:
        """See Subscriber."""
        self._hide(self, topic)

    def on_signal(self, frame: Signals, is_for: Callable[[UserId], bool]) -> None:
        """See Subscriber. Users' own topics have no signals."""


class TypingSignals:
    """The use case of SetTyping."""

    def __init__(
        self,
        *,
        hub: TopicHub,
        signals: ConversationSignals,
        clock: Clock,
        max_members: int = TYPING_MAX_MEMBERS,
    ) -> None:
        """In conversations of more than `max_members` nobody is told."""
        self._hub = hub
        self._signals = signals
        self._clock = clock
        self._max_members = max_members
        self._tries = Throttle(clock, text="too many typing signals", burst=TRIES_BURST, per_s=TRIES_PER_S)
        self._order = count(1)
        self._told: OrderedDict[_Place, _Told] = OrderedDict()
        """The one that was touched longest ago comes first."""
        self._by_session: dict[str, set[_Place]] = {}
        self._typists: dict[UserId, _Typist] = {}

    def said(self, user_id: UserId, conversation_id: str) -> int:
        """Returns the place of something that is said now among all that is said here: what ends it comes later."""
        if is_conversation_id(conversation_id):
            self._touch((user_id, conversation_id))  # so that what ends it is noted
        return next(self._order)

    async def set(
        self, caller_id: UserId, conversation_id: str, typing: Typing, *, session_id: str = "", said_at: int = 0
    ) -> None:
        """Tells the other members, or does not, see above.

        `session_id` is the stream with which it ends, `said_at` when it was `said`, if that was not just now.

        Raises:
            RateLimited: too often.
            ConversationNotFound: absent, or the caller is no member.
            Unavailable: that cannot be told now.
        """
        self._tries.take(caller_id)
        said_at = said_at or self.said(caller_id, conversation_id)
        _, state = await member_at_head(self._hub, caller_id, conversation_id)
        if len(state.members) > self._max_members:
            return
        if typing.active and not await self._listen(caller_id):  # first: what is chosen after the look at it is heard
            return
        own = await self._hub.at_head(caller_id)
        place = (caller_id, state.conversation_id)
        if self._is_shown(own) and self._is_news(place, typing, session_id, said_at):
            if (typist := self._typists.get(caller_id)) is not None and typing.active:
                typist.conversation_ids.add(state.conversation_id)
            self._tell(place, typing)

    def _is_shown(self, own: ActiveTopic) -> bool:
        assert isinstance(own.state, UserTopicState)  # noqa: S101  # by the form of the id
        return own.state.preferences.shows_typing(self._clock.now_ms())

    async def _listen(self, user_id: UserId) -> bool:
        """Listens to a user's own topic for as long as a start of now may be shown; False: to too many already."""
        typist = self._typists.get(user_id)
        if typist is None:
            if len(self._typists) >= _REMEMBERED_MAX:
                return False
            typist = self._typists[user_id] = _Typist(user_id, self._hide)
        try:
            await self._hub.subscribe(user_id, typist)
        finally:
            self._typists[user_id] = typist
            if typist.leaving is not None:
                typist.leaving.cancel()
            typist.leaving = asyncio.get_running_loop().call_later(_LISTENED_S, self._leave, typist)
        return True

    def _leave(self, typist: _Typist) -> None:
        if self._typists.get(typist.user_id) is typist:
            del self._typists[typist.user_id]
        self._hub.topic(typist.user_id).unsubscribe(typist)

    def _hide(self, typist: _Typist, own: ActiveTopic) -> None:
        """The user's own topic says something: perhaps that nobody is to know that they type."""
        if not self._is_shown(own):
            conversation_ids, typist.conversation_ids = typist.conversation_ids, set()
            for conversation_id in conversation_ids:
                self._end_shown((typist.user_id, conversation_id))

    def message_submitted(self, user_id: UserId, conversation_id: ConversationId) -> None:
        """The user's message is on its way, which ends the typing for all who will see it."""
        if (told := self._told.get((user_id, conversation_id))) is not None:
            self._end(told)

    def session_ended(self, session_id: str) -> None:
        """A stream is closed: what it told is over."""
        for place in self._by_session.pop(session_id, ()):
            self._told[place].session_id = ""
            self._end_shown(place)

    def _end_shown(self, place: _Place) -> None:
        """Ends what was told of a user in a conversation: with a stop, if it may be shown."""
        if (told := self._told.get(place)) is None:
            return
        is_shown = told.is_active and self._clock.monotonic_s() - told.started_s < TYPING_EXPIRES_S
        self._end(told)
        if is_shown:
            self._tell(place, Typing(making=told.making, active=False))

    def _end(self, told: _Told) -> None:
        told.is_active, told.ended_at, told.stopped_s = False, next(self._order), self._clock.monotonic_s()

    def _is_news(self, place: _Place, typing: Typing, session_id: str, said_at: int) -> bool:
        """Decides what passes, and remembers it."""
        told = self._touch(place)
        now_s = told.touched_s
        if told.ended_at > said_at:
            return False
        if not typing.active:
            is_news = told.is_active or now_s - told.stopped_s >= TYPING_INTERVAL_S
            if is_news:
                self._end(told)
            return is_news
        self._bind(place, told, session_id)
        if now_s - told.started_s < TYPING_INTERVAL_S:
            return False
        told.making, told.is_active, told.started_s = typing.making, True, now_s
        return True

    def _touch(self, place: _Place) -> _Told:
        told = self._told.get(place)
        if told is None:
            told = self._told[place] = _Told()
        told.touched_s = self._clock.monotonic_s()
        self._told.move_to_end(place)
        while (oldest := self._oldest()) is not None:
            self._bind(oldest, self._told[oldest], "")
            del self._told[oldest]
        return told

    def _oldest(self) -> _Place | None:
        """Returns the next place that need not be remembered."""
        place, told = next(iter(self._told.items()))
        is_over = self._clock.monotonic_s() - told.touched_s >= TYPING_EXPIRES_S
        return place if is_over or len(self._told) > _REMEMBERED_MAX else None

    def _bind(self, place: _Place, told: _Told, session_id: str) -> None:
        if told.session_id != session_id:
            if (places := self._by_session.get(told.session_id)) is not None:
                places.discard(place)
                if not places:
                    del self._by_session[told.session_id]
            told.session_id = session_id
            if session_id:
                self._by_session.setdefault(session_id, set()).add(place)

    def _tell(self, place: _Place, typing: Typing) -> None:
        user_id, conversation_id = place
        self._signals.publish(Signal(conversation_id=conversation_id, user_id=user_id, kind=typing))
