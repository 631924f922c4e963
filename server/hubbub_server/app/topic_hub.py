"""The topics of this node: loaded on demand, kept while they are used, their heads compared with the log's.

Any node can hold any topic; none owns one. A topic with local listeners is heard live, all others move when used.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from itertools import islice
from types import TracebackType
from typing import Any, Final, Self

import structlog

from hubbub_server.app.active_topic import ActiveTopic, Interest, Subscriber
from hubbub_server.app.committer import CommitGuard, Committer, Pending
from hubbub_server.app.side_by_side import side_by_side
from hubbub_server.app.topic_fold import TopicDamaged
from hubbub_server.app.topic_loader import TopicLoader
from hubbub_server.domain.commands import Answer, Command
from hubbub_server.domain.cursor import TopicHead
from hubbub_server.domain.errors import LogUnavailable, StoreUnavailable, Unavailable
from hubbub_server.domain.frozen import dataclass
from hubbub_server.domain.ids import TopicId, shard_of
from hubbub_server.obs import metrics
from hubbub_server.ports.clock import Clock, IdSource
from hubbub_server.ports.message_store import MessageStore
from hubbub_server.ports.record_codec import RecordCodec
from hubbub_server.ports.topic_directory import TopicDirectory
from hubbub_server.ports.topic_log import TopicLog

_MAX_IDLE_TOPICS: Final = 10_000
_FORGET_AT_ONCE: Final = 8
_CHECK_AGAIN_S: Final = 1.0
_MAX_KEPT_BYTES: Final = 256 * 1024 * 1024
_BOUND_MEMORY_S: Final = 10.0
_TOPICS_A_TURN: Final = 1_000
_LOADS_AT_ONCE: Final = 16

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicPorts:
    """What topics stand on; each of them takes what it needs."""

    log: TopicLog
    guard: CommitGuard
    loader: TopicLoader
    directory: TopicDirectory
    messages: MessageStore
    codec: RecordCodec
    clock: Clock
    ids: IdSource


class TopicHub:
    """Active topics of one node. Use as `async with`; the block owns every task that topics start."""

    def __init__(
        self,
        ports: TopicPorts,
        *,
        interest: Interest | None = None,
        head_check_interval_s: float = 30.0,
        recheck_delay_s: float = 1.0,
        window_capacity: int = 4096,
        max_idle_topics: int = _MAX_IDLE_TOPICS,
        max_kept_bytes: int = _MAX_KEPT_BYTES,
    ) -> None:
        """Takes the ports, and what tests make small.

        `window_capacity` is the number of client ids kept for each conversation; `max_kept_bytes` bounds what all
        topics together keep of ids and records, both of which can be read again.
        """
        self._ports = ports
        self._log = ports.log
        self._interest = interest
        self._head_check_interval_s = head_check_interval_s
        self._recheck_delay_s = recheck_delay_s
        self._window_capacity = window_capacity
        self._max_idle_topics = max_idle_topics
        self._max_kept_bytes = max_kept_bytes
        self._topics: OrderedDict[TopicId, tuple[ActiveTopic, Committer]] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._group = asyncio.TaskGroup()
        self._disturbed = asyncio.Event()
        self._new_topics: list[TopicId] = []
        self._is_rechecking = False
        self._is_closing = False

    async def __aenter__(self) -> Self:
        """Starts comparing heads."""
        await self._group.__aenter__()
        self._log.on_disturbance(self._disturbed.set)
        self._spawn(self._compare_heads_for_ever)
        self._spawn(self._bound_memory_for_ever)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends all tasks; appends that are under way are the log adapter's to finish."""
        self._is_closing = True
        for task in tuple(self._tasks):
            task.cancel()
        await self._group.__aexit__(kind, error, trace)

    def _spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if not self._is_closing:
            task = self._group.create_task(self._contained(work))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _contained(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """One topic's fault must not end the node: it is logged, and the head checks heal what they can."""
        try:
            await work()
        except Exception:
            log.exception("topic task failed")

    def is_live(self) -> bool:
        """Tells whether the log can be heard; while False commands are refused."""
        return self._log.is_live()

    @property
    def shards(self) -> int:
        """Number of shards of the log."""
        return self._log.shards

    def epoch(self, shard: int) -> int:
        """Epoch of a shard's log, as this node knows it."""
        return self._log.epoch(shard)

    def topic(self, topic_id: TopicId) -> ActiveTopic:
        """Returns the topic, not necessarily loaded. Raises ValueError for an id of neither form."""
        return self._entry(topic_id)[0]

    def _entry(self, topic_id: TopicId) -> tuple[ActiveTopic, Committer]:
        entry = self._topics.get(topic_id)
        if entry is None:
            ports = self._ports
            topic = ActiveTopic(
                topic_id,
                log=ports.log,
                loader=ports.loader,
                directory=ports.directory,
                codec=ports.codec,
                clock=ports.clock,
                spawn=self._spawn,
                window_capacity=self._window_capacity,
                interest=self._interest,
            )
            committer = Committer(
                topic,
                log=ports.log,
                guard=ports.guard,
                messages=ports.messages,
                codec=ports.codec,
                clock=ports.clock,
                ids=ports.ids,
                spawn=self._spawn,
            )
            self._forget_idle()
            entry = self._topics[topic_id] = (topic, committer)
            metrics.active_topics.set(len(self._topics))
        self._topics.move_to_end(topic_id)
        return entry

    def _forget_idle(self) -> None:
        """Makes room for one more topic; whoever still holds a dropped one may finish with it.

        Looks at a few of the oldest each time and moves those in use behind the others, so it costs the same always.
        """
        for topic_id in list(islice(self._topics, _FORGET_AT_ONCE)):
            if len(self._topics) < self._max_idle_topics:
                return
            topic, committer = self._topics[topic_id]
            if committer.is_idle and not topic.is_in_use:
                del self._topics[topic_id]
            else:
                self._topics.move_to_end(topic_id)

    async def _bound_memory_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_BOUND_MEMORY_S)
            await self._contained(self._bound_memory)

    async def _bound_memory(self) -> None:
        """Shrinks topics, those that were not used for longest first, until all together keep little enough."""
        topics = [topic for topic, _ in self._topics.values()]
        kept_bytes = 0
        for start in range(0, len(topics), _TOPICS_A_TURN):
            kept_bytes += sum(topic.kept_bytes for topic in topics[start : start + _TOPICS_A_TURN])
            await asyncio.sleep(0)
        for topic in topics:
            if kept_bytes <= self._max_kept_bytes:
                return
            before = topic.kept_bytes
            try:
                await topic.shrink()
            except StoreUnavailable:
                return  # ids that the store cannot answer for must stay
            kept_bytes -= before - topic.kept_bytes

    async def at_head(self, topic_id: TopicId) -> ActiveTopic:
        """Returns the topic with a state that has everything that was acknowledged before the call.

        Raises:
            LogUnavailable, StoreUnavailable: that cannot be had now.
            TopicDamaged: it cannot be had with this program (a record is poison), or records are lost.
        """
        topic = self.topic(topic_id)
        try:
            await topic.refresh()
        except ValueError as error:
            log.error("topic damaged", topic_id=topic_id, reason=str(error))
            raise TopicDamaged("a record of this topic cannot be read") from error
        return topic

    async def all_at_head(self, topic_ids: Sequence[TopicId]) -> list[ActiveTopic]:
        """Returns topics as `at_head` does, in this order; what is in memory is compared in one request a shard.

        Raises:
            LogUnavailable, StoreUnavailable, TopicDamaged: as `at_head`, for any of them.
        """
        heads = await self._log.read_heads(topic_ids)

        async def bring(topic_id: TopicId) -> ActiveTopic:
            topic = self.topic(topic_id)
            return topic if topic.confirm(heads.get(topic_id)) else await self.at_head(topic_id)

        return await side_by_side(bring, topic_ids, at_once=_LOADS_AT_ONCE)

    def loaded(self, topic_id: TopicId) -> ActiveTopic | None:
        """Returns the topic as this node has it in memory, as of whenever; None when it has not."""
        entry = self._topics.get(topic_id)
        return entry[0] if entry is not None and entry[0].is_loaded else None

    def enqueue(self, topic_id: TopicId, command: Command, *, session_id: str = "", traceparent: str = "") -> Pending:
        """Queues a command in the order of the calls. Its future gets the answer or a HubbubError.

        Raises:
            LogUnavailable: this node cannot hear the log.
            RateLimited: too many commands wait for this topic.
        """
        if not self._log.is_live() or self._is_closing:
            raise LogUnavailable("this node has lost the log")
        return self._entry(topic_id)[1].enqueue(command, session_id=session_id, traceparent=traceparent)

    async def submit(
        self, topic_id: TopicId, command: Command, *, timeout_s: float, session_id: str = "", traceparent: str = ""
    ) -> Answer:
        """Queues a command and waits for its answer.

        Raises:
            HubbubError: as decided; OutcomeUnknown after `timeout_s` when the command may still be committed.
        """
        return await wait_for_answer(
            self.enqueue(topic_id, command, session_id=session_id, traceparent=traceparent), timeout_s
        )

    async def subscribe(self, topic_id: TopicId, subscriber: Subscriber) -> TopicHead:
        """Adds a listener to a topic; it hears everything after the returned head."""
        topic = self.topic(topic_id)
        is_new = not topic.subscribers
        head = await topic.subscribe(subscriber)
        if is_new:  # interest takes a moment to reach all servers of a NATS cluster
            self._new_topics.append(topic_id)
            if not self._is_rechecking:
                self._is_rechecking = True
                self._spawn(self._recheck)
        return head

    async def _recheck(self) -> None:
        """Compares the heads of topics that are new here, a moment later and many in one request."""
        try:
            while self._new_topics:
                topic_ids, self._new_topics = self._new_topics, []
                await asyncio.sleep(self._recheck_delay_s)
                await self._compare_heads(topic_ids)
        finally:
            self._is_rechecking = False

    async def _compare_heads_for_ever(self) -> None:
        pause_s = self._head_check_interval_s
        while True:
            try:
                async with asyncio.timeout(pause_s):
                    await self._disturbed.wait()
            except TimeoutError:
                pass
            self._disturbed.clear()
            is_done = await self._compare_heads([t for t, (topic, _) in self._topics.items() if topic.subscribers])
            pause_s = self._head_check_interval_s if is_done else min(_CHECK_AGAIN_S, self._head_check_interval_s)

    async def _compare_heads(self, topic_ids: Iterable[TopicId]) -> bool:
        """Compares heads; tells whether all shards answered. One that does not costs the others nothing."""
        by_shard: dict[int, list[TopicId]] = {}
        for topic_id in topic_ids:
            by_shard.setdefault(shard_of(topic_id, self._log.shards), []).append(topic_id)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._compare_shard(*each)) for each in by_shard.items()]
        return all(task.result() for task in tasks)

    async def _compare_shard(self, shard: int, topic_ids: list[TopicId]) -> bool:
        try:
            epoch = self._log.epoch(shard)
            as_of = await self._log.read_last_sequence(shard)
            heads = await self._log.read_heads(topic_ids)
        except Unavailable:
            return False
        except Exception:
            log.exception("heads not compared", shard=shard)
            return False
        for topic_id in topic_ids:
            if entry := self._topics.get(topic_id):
                head = heads.get(topic_id)
                position = head.facts.last_position if head else 0
                entry[0].check_head(self._log.epoch(shard), position, as_of if self._log.epoch(shard) == epoch else 0)
        return True


async def wait_for_answer(pending: Pending, timeout_s: float) -> Answer:
    """Waits for a queued command.

    Raises:
        OutcomeUnknown: not answered in time, and it may be in the log.
        LogUnavailable: not answered in time, and it is certainly not done.
        HubbubError: refused.
    """
    timer = asyncio.get_running_loop().call_later(timeout_s, pending.expire)
    try:
        return await pending.future
    finally:
        timer.cancel()
