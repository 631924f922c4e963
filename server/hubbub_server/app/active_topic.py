"""One topic in the memory of this node: its state at a known head, the newest records, and who listens here.

Theory of operation. `state` is the fold of all records up to `sequence`. It moves only in `apply`, synchronously, one
record after the other: one at or below the state's position is dropped, one that does not follow it directly is never
applied. So whatever the live feed does (late, twice, never), listeners here hear every record once and
in order. Live records are hints; the truth is fetched: `refresh` reads the head from the leader and fetches what lies
between. Nothing here is authoritative: a decision on a stale state fails at the log's compare-and-set.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any, Final, Protocol

from hubbub_server.app.frames import Events, Signals
from hubbub_server.app.topic_fold import TAIL_MAX_RECORDS, LoadedTopic, TopicDamaged, decode_events, fold
from hubbub_server.app.topic_loader import READ_MAX_BYTES, TopicLoader
from hubbub_server.domain import topic as domain
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.cursor import Cursor, TopicHead
from hubbub_server.domain.errors import LogUnavailable, StoreUnavailable, Unavailable
from hubbub_server.domain.events import ConversationJoined, Event, MemberRemoved
from hubbub_server.domain.frozen import dataclass
from hubbub_server.domain.ids import TopicId, UserId, shard_of
from hubbub_server.domain.topic import TopicState
from hubbub_server.obs import metrics
from hubbub_server.ports.clock import Clock
from hubbub_server.ports.record_codec import RecordCodec
from hubbub_server.ports.topic_directory import TopicDirectory
from hubbub_server.ports.topic_log import LogRecord, RecordHead, TopicLog

_TAIL_MAX_BYTES: Final = 256 * 1024
_CONFIRMED_FOR_S: Final = 60.0
_WINDOW_CAPACITY: Final = 4096
_SHRUNK_IDS: Final = 64
# Measured with tracemalloc: an id in a window, a record without its body.
_ID_BYTES: Final = 500
_RECORD_BYTES: Final = 800

Spawn = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


class LogRecreated(LogUnavailable):
    """The log of this topic is not the one that the state was folded from, or was trimmed: load again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One record on its way to the listeners of this node; made once a record, shared by all of them.

    `turns` are its events that change what a stream listens to; nearly every record has none.
    """

    topic_id: TopicId
    head: TopicHead
    frame: Events
    turns: tuple[MemberRemoved | ConversationJoined, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a node knows of a record that it made itself: its events, and the states before and after them."""

    record_id: str
    before: TopicState
    events: tuple[Event, ...]
    state: TopicState


class Subscriber(Protocol):
    """Hears a topic on this node. Called synchronously, must not block and must not raise."""

    def on_delivery(self, topic: "ActiveTopic", delivery: Delivery) -> None:
        """The next record of the topic; none is left out since the subscription."""

    def on_reset(self, topic: "ActiveTopic") -> None:
        """The topic's log was recreated: what was heard before is of another epoch."""

    def on_signal(self, frame: Signals, is_for: Callable[[UserId], bool]) -> None:
        """A signal of the topic, for the users of whom `is_for` says so."""


class Interest(Protocol):
    """Hears which topics this node hears live. Called synchronously, must not block and must not raise."""

    def topic_heard(self, topic: "ActiveTopic") -> None:
        """From now on."""

    def topic_unheard(self, topic: "ActiveTopic") -> None:
        """No more."""


class ActiveTopic:
    """A topic in memory. Implements TopicListener."""

    def __init__(  # noqa: PLR0913  # the ports, and who hears of its interest
        self,
        topic_id: TopicId,
        *,
        log: TopicLog,
        loader: TopicLoader,
        directory: TopicDirectory,
        codec: RecordCodec,
        clock: Clock,
        spawn: Spawn,
        window_capacity: int = _WINDOW_CAPACITY,
        interest: Interest | None = None,
    ) -> None:
        """Makes an empty shell; `load` fills it."""
        self.topic_id = topic_id
        self.shard = shard_of(topic_id, log.shards)
        self.state = domain.empty_state(topic_id, epoch=0)
        self.sequence = 0
        self.moved_at = 0
        """Sequence of the newest record in `state`, also when it is trimmed; 0: it has none of this epoch."""
        self.subscribers: set[Subscriber] = set()
        self.is_loaded = False
        self.is_trusted = False
        """Whether the shard was looked at after the state was loaded; set by who commits."""
        self._log = log
        self._loader = loader
        self._directory = directory
        self._codec = codec
        self._clock = clock
        self._spawn = spawn
        self._window_capacity = window_capacity
        self._interest = interest
        self._tail: deque[LogRecord] = deque()
        self._tail_bytes = 0
        self._confirmed_at_s = float("-inf")
        self._heard_position = 0
        self._covered = 0
        self._proof = (0, 0)
        """At this position the state has every record up to this sequence."""
        self._is_repairing = False
        self._is_trimming = False
        self._is_followed = False
        self._before_reset: Cursor | None = None
        self._loading = asyncio.Lock()
        self._following = asyncio.Lock()
        self._moved = asyncio.Event()
        self._made: Made | None = None

    @property
    def head(self) -> TopicHead:
        """The head of the state."""
        return self.state.head

    @property
    def covered(self) -> int:
        """Up to this sequence of the shard every record of the topic is in `state`; 0: that is not proved yet."""
        position, sequence = self._proof
        if self.state.position >= position:
            self._covered = sequence
        return self._covered

    # ---- reading

    async def load(self) -> None:
        """Fills the shell, once.

        Raises:
            LogUnavailable: the log cannot be read, or does not continue what is stored.
            StoreUnavailable: the store is down and nothing else tells the state.
        """
        if self.is_loaded and not self._loading.locked():
            return
        async with self._loading:  # single flight; the reads inside are bounded by their adapters
            if not self.is_loaded:
                await self._load()

    async def _load(self) -> None:
        self._become(await self._loader.load(self.topic_id))

    def _become(self, loaded: LoadedTopic) -> None:
        self.state, self.sequence = loaded.state, loaded.sequence
        self.moved_at = loaded.places[-1].sequence
        self._covered, self._proof = 0, (0, 0)
        self._tail.clear()
        self._tail_bytes = 0
        for record in loaded.tail:
            self._keep(record)
        self._confirmed_at_s = self._clock.monotonic_s()
        self.is_loaded = True
        self.is_trusted = False
        self._tell_reset()

    async def refresh(self) -> None:
        """Brings the state to the leader's head as of now. Raises LogUnavailable or StoreUnavailable."""
        async with self._loading:
            if not self.is_loaded:
                await self._load()
                return  # a load that began after the call; one that was under way may have read an older head
        known_sequence = self.sequence
        head = await self._log.read_head(self.topic_id)
        await self._catch_up(head, known_sequence)
        await self.load()  # somebody else may be loading it again just now

    def confirm(self, head: RecordHead | None) -> bool:
        """Tells whether the state is at a head that was read from the leader just now; False: `refresh` finds out."""
        is_same_log = self.is_loaded and self._log.epoch(self.shard) == self.state.epoch
        is_at_head = self.sequence == head.sequence if head else self.sequence == 0 and self._is_confirmed()
        if is_same_log and is_at_head:
            self._confirmed_at_s = self._clock.monotonic_s()
        return is_same_log and is_at_head

    async def reach(self, position: int) -> None:
        """Brings the state to `position` at least, if the log has it. Raises LogUnavailable or StoreUnavailable."""
        await self.load()
        if self.state.position < position:
            await self.refresh()

    async def ensure_confirmed(self) -> None:
        """Checks the head at the leader if nothing has confirmed it for 60 s, or the log is another one."""
        await self.load()
        is_fed = self._is_followed and self._log.is_live()
        if self._log.epoch(self.shard) != self.state.epoch:
            await self.refresh()
            return
        if not is_fed and not self._is_confirmed():
            await self.refresh()

    def _is_confirmed(self) -> bool:
        return self._clock.monotonic_s() - self._confirmed_at_s <= _CONFIRMED_FOR_S

    async def _catch_up(self, head: LogRecord | None, known_sequence: int) -> None:
        """Fetches up to `head`. It was read after we knew `known_sequence`; live records may have passed it since.

        No head says nothing about a state that expects none, unless it is younger than anything that can be trimmed:
        others may have committed, and their records may be trimmed, since it was confirmed.
        """
        is_lower = (head.sequence if head else 0) < known_sequence
        proves_nothing = head is None and not self._is_confirmed()
        if self._log.epoch(self.shard) != self.state.epoch or is_lower or proves_nothing:
            await self._load_again()
            return
        while head is not None and self.sequence < head.sequence:
            before = self.sequence
            for record in await self._log.read_range(
                self.topic_id,
                after_sequence=before,
                up_to_sequence=head.sequence,
                max_bytes=READ_MAX_BYTES,
            ):
                self.apply(record)
            if self.sequence == before:  # what follows in this log does not continue our state
                await self._load_again()
                return
        self._confirmed_at_s = self._clock.monotonic_s()

    async def _load_again(self) -> None:
        """Loads the topic anew: the log was recreated or trimmed under us, or may have been.

        With another epoch the state is given up at once. When the load fails then, the topic stays unloaded, and
        whoever loads it next tells the listeners.
        """
        async with self._loading:
            if self._log.epoch(self.shard) != self.state.epoch:
                self._give_up()
            loaded = await self._loader.load(self.topic_id)
            if not self.is_loaded or loaded.state.epoch != self.state.epoch or not self._continue_to(loaded):
                self._give_up()
                self._become(loaded)

    def _give_up(self) -> None:
        if self.is_loaded:
            self._before_reset = self.head.cursor
        self.is_loaded = False

    def _continue_to(self, loaded: LoadedTopic) -> bool:
        """Applies what a load brought, so that listeners hear it; tells whether the state came as far."""
        for record in loaded.tail:
            self.apply(record)
        if self.state.position == loaded.state.position:
            self.sequence = loaded.sequence
        self.is_trusted = False
        self._confirmed_at_s = self._clock.monotonic_s()
        return self.state.position >= loaded.state.position

    def _tell_reset(self) -> None:
        before, self._before_reset = self._before_reset, None
        if before is not None and before != self.head.cursor:
            for subscriber in tuple(self.subscribers):
                subscriber.on_reset(self)

    # ---- moving

    def expect(self, made: Made) -> None:
        """Spares the decoding and folding of a record of this node, whoever brings it: live, or the acknowledgement."""
        self._made = made

    def apply(self, record: LogRecord) -> bool:
        """Folds a record if it is the next one and delivers it; tells whether the state is at or past it now.

        Raises:
            RecordUndecodable, ValueError: the record is poison; the state stays where it was.
        """
        facts = record.facts
        if facts.last_position <= self.state.position:
            return True
        if not self.is_loaded or facts.first_position != self.state.position + 1:
            return False
        made, self._made = self._made, None
        if made is not None and made.record_id == facts.record_id:
            events = made.events
            # Ids may have left the window since it was made.
            state = made.state if made.before is self.state else fold(self.state, record, events)
        else:
            events = decode_events(self._codec, record)
            state = fold(self.state, record, events)
        self.state, self.sequence, self.moved_at = state, record.sequence, record.sequence
        self._keep(record)
        self._confirmed_at_s = self._clock.monotonic_s()
        self._moved.set()
        self._moved = asyncio.Event()
        delivery = Delivery(
            topic_id=self.topic_id,
            head=self.state.head,
            frame=Events(body=record.body, count=len(events)),
            turns=tuple(e.kind for e in events if isinstance(e.kind, MemberRemoved | ConversationJoined)),
        )
        subscribers = tuple(self.subscribers)
        metrics.delivered_events.inc(len(events) * len(subscribers))
        for subscriber in subscribers:
            subscriber.on_delivery(self, delivery)
        return True

    def _keep(self, record: LogRecord) -> None:
        self._tail.append(record)
        self._tail_bytes += len(record.body)
        while len(self._tail) > TAIL_MAX_RECORDS or self._tail_bytes > _TAIL_MAX_BYTES:
            self._tail_bytes -= len(self._tail.popleft().body)
        if (
            isinstance(self.state, ConversationState)
            and len(self.state.window) > 2 * self._window_capacity
            and not self._is_trimming
        ):
            self._is_trimming = True
            self._spawn(self._trim_window)

    async def _trim_window(self) -> None:
        """Keeps the window at its capacity. While the store is down it grows."""
        try:
            await self._let_ids_leave(self._window_capacity)
        except StoreUnavailable:
            return
        finally:
            self._is_trimming = False

    async def _let_ids_leave(self, capacity: int) -> None:
        """Lets ids leave the window, the oldest first, that the store can answer for."""
        applied = await self._directory.read_applied(self.topic_id)
        if applied is None or not isinstance(self.state, ConversationState):
            return
        window = self.state.window.trim(applied.position, capacity)
        if window is not self.state.window:  # a commit that is under way knows its state again
            self.state = replace(self.state, window=window)

    @property
    def kept_bytes(self) -> int:
        """Estimates the memory of what `shrink` may forget."""
        ids = len(self.state.window) if isinstance(self.state, ConversationState) else 0
        return _ID_BYTES * ids + _RECORD_BYTES * len(self._tail) + self._tail_bytes

    async def shrink(self) -> None:
        """Forgets what can be read again: records, and client ids that the store has. Raises StoreUnavailable."""
        self._tail.clear()
        self._tail_bytes = 0
        await self._let_ids_leave(_SHRUNK_IDS)

    async def recall_ids(self) -> None:
        """Gives the window every id that the store has not applied; a snapshot that was the start left some out.

        Raises:
            LogUnavailable, StoreUnavailable: they cannot be had.
        """
        known = self.head.cursor
        try:
            loaded = (await self._loader.load(self.topic_id, from_store=True)).state
        except TopicDamaged as error:
            raise StoreUnavailable("the store has not caught up with this conversation") from error
        if (loaded.epoch, loaded.position) < (known.epoch, known.position):
            raise StoreUnavailable("the store does not know this conversation, and the log has it no more")
        state = self.state
        if (
            isinstance(state, ConversationState)
            and isinstance(loaded, ConversationState)
            and loaded.epoch == state.epoch
            and loaded.window.evicted_position < state.window.evicted_position
        ):
            self.state = replace(state, window=state.window.joined(loaded.window))

    async def wait_moved(self, timeout_s: float) -> bool:
        """Waits until a record is applied; tells whether one was within the time."""
        moved = self._moved
        try:
            async with asyncio.timeout(timeout_s):
                await moved.wait()
        except TimeoutError:
            return False
        return True

    def tail(self) -> Iterator[LogRecord]:
        """Iterates over the newest records in memory, oldest first; the last one is at `sequence`."""
        return iter(self._tail)

    # ---- live

    @property
    def is_in_use(self) -> bool:
        """Tells whether somebody listens, or the node still hears the topic's live records."""
        return bool(self.subscribers) or self._is_followed or self._following.locked()

    async def subscribe(self, subscriber: Subscriber) -> TopicHead:
        """Adds a listener; it hears every record after the returned head. Idempotent.

        Nothing is awaited between the adding and the return, so the caller may look at `state` as of that head, and the
        state is a loaded one.

        Raises:
            LogUnavailable, StoreUnavailable: the topic cannot be loaded; nothing was added.
        """
        await self.load()
        async with self._following:
            if not self._is_followed:
                await self._log.follow(self.topic_id, self)
                try:
                    await self.refresh()  # what came between the load and the registration
                except BaseException:
                    await asyncio.shield(self._log.unfollow(self.topic_id))
                    raise
                self._is_followed = True
                if self._interest is not None:
                    self._interest.topic_heard(self)
            else:
                await self.load()  # somebody else may be loading it again just now
            self.subscribers.add(subscriber)
        return self.head

    def subscribe_now(self, subscriber: Subscriber) -> TopicHead | None:
        """Adds a listener to a topic that is loaded and heard already; None: `subscribe` has to be awaited."""
        if not (self._is_followed and self.is_loaded):
            return None
        self.subscribers.add(subscriber)
        return self.head

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Removes a listener, at once; with the last one the node stops hearing the topic. Idempotent."""
        self.subscribers.discard(subscriber)
        if not self.subscribers and self._is_followed:
            self._spawn(self._unfollow_if_unused)

    async def _unfollow_if_unused(self) -> None:
        async with self._following:
            if self._is_followed and not self.subscribers:
                self._is_followed = False
                if self._interest is not None:
                    self._interest.topic_unheard(self)
                await self._log.unfollow(self.topic_id)

    def on_record(self, record: LogRecord) -> None:
        """Hears a live record: applies it if it is next, drops it if it is known, fetches if something is missing."""
        try:
            is_applied = self.apply(record)
        except ValueError:
            is_applied = False  # poison, or another log: the fetch finds out
        if not is_applied:
            self._fetch_up_to(record.facts.last_position, record.facts.epoch)

    def on_poke(self, position: int) -> None:
        """Hears from another node how far the topic is."""
        if position > self.state.position:
            self._fetch_up_to(position, self.state.epoch)

    def check_head(self, epoch: int, position: int, as_of: int) -> None:
        """Compares with a head that was read from the log; fetches if we are behind, or of another epoch.

        `as_of`: no record of the topic is between that head and this sequence of the shard.
        """
        if self.is_loaded and epoch == self.state.epoch:
            self._covered, self._proof = self.covered, (position, as_of)
        if not self.is_loaded or epoch != self.state.epoch or position > self.state.position:
            metrics.head_mismatches.inc()
            self._fetch_up_to(position, epoch)

    def _fetch_up_to(self, position: int, epoch: int) -> None:
        self._heard_position = max(self._heard_position, position)
        if self.is_loaded and epoch == self.state.epoch:
            metrics.live_gaps_repaired.inc()
        if not self._is_repairing:
            self._is_repairing = True
            self._spawn(self._repair)

    async def _repair(self) -> None:
        """Fetches until the state has passed everything that was heard of; the 30 s check goes on where this fails."""
        try:
            for _ in range(3):
                heard = self._heard_position
                await self.refresh()
                if self._heard_position <= max(heard, self.state.position):
                    break
        except Unavailable:
            pass  # counted as a mismatch by the next head check, which tries again
        finally:
            self._is_repairing = False
