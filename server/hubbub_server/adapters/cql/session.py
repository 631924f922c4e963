"""The bridge between the driver's threads and asyncio: prepared reads and writes as awaitable calls.

Theory of operation. The driver works in threads of its own. Whatever blocks in it (connect, prepare, close) runs in a
thread of ours; a request does not block, and its outcome comes on the driver's reactor thread, which puts it into a
queue and wakes the loop once for all that wait there. An outcome whose caller is gone is dropped.

A session need not be connected: until it is, and its statements are prepared, calls are refused and a task goes on
trying. Later the driver itself reconnects. Requests under way are bounded; a slot is free again when the driver is done
with the request, which its time-out sees to, not when the caller gave up. After some failures in a row calls are
refused at once, save one a second (breaker.py); what counts is what the driver says, whoever still waits for it.
"""

import asyncio
import random
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from cassandra import InvalidRequest
from cassandra.cluster import Cluster, Session
from cassandra.query import BatchStatement, BatchType, PreparedStatement

from hubbub_server.adapters.cql.breaker import CircuitBreaker
from hubbub_server.adapters.cql.cluster import CqlEndpoint, new_cluster
from hubbub_server.adapters.cql.errors import is_outage, map_errors
from hubbub_server.adapters.cql.schema import check_version, read_version
from hubbub_server.adapters.cql.shared_reads import SharedReads
from hubbub_server.adapters.cql.timestamps import Insert, Write, check_is_timed
from hubbub_server.domain.errors import StoreUnavailable

Row = tuple[Any, ...]

_RECONNECT_S: Final = (0.5, 2.0)
_CLOSE_TIMEOUT_S: Final = 5.0
_PAGE_ROWS: Final = 5_000


class CqlSession:
    """A connection to a cluster for given statements; `async with` opens and closes it."""

    def __init__(
        self,
        endpoint: CqlEndpoint,
        *,
        selects: Iterable[str],
        inserts: Iterable[Insert] = (),
        read_timeout_s: float = 2.0,
        write_timeout_s: float = 10.0,
        open_timeout_s: float = 5.0,
        max_in_flight: int = 256,
        max_waiting: int = 1_000,
    ) -> None:
        """Names the statements.

        Args:
            endpoint: Where the cluster is.
            selects: All that `read` will be called with.
            inserts: All that `write` will be called with; none: the session only reads.
            read_timeout_s: Deadline of a read, with its waiting and its retry.
            write_timeout_s: The same of a write. More than the server's own, so that it is the server who gives up.
            open_timeout_s: How long `async with` waits for the connection; then it is opened in the background.
            max_in_flight: Requests under way.
            max_waiting: Requests that wait for their turn; a further one is refused.
        """
        self._endpoint = endpoint
        self._statements = (*selects, *(insert.cql for insert in inserts))
        self._is_for_writing = any(not statement.lstrip().startswith("SELECT ") for statement in self._statements)
        for statement in self._statements:
            check_is_timed(statement)
        self._read_timeout_s = read_timeout_s
        self._write_timeout_s = write_timeout_s
        self._open_timeout_s = open_timeout_s
        self._slots = asyncio.Semaphore(max_in_flight)
        self._max_waiting = max_waiting
        self._waiting = 0
        self._breaker = CircuitBreaker()
        self._reads = SharedReads()
        self._prepared: dict[str, PreparedStatement] = {}
        self._driver: Session | None = None
        self._why_not = "not opened"
        self._landed: deque[tuple[asyncio.Future[list[Row]], list[Row] | Exception]] = deque()
        self._is_waking = False
        self._lock = threading.Lock()  # of the next two, which a thread of ours changes
        self._cluster: Cluster | None = None
        self._is_closing = False

    async def __aenter__(self) -> Self:
        """Waits a bounded time for the connection; without it the session is open all the same."""
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="cql")
        self._tried = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._connecting = self._tasks.create_task(self._connect())
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._open_timeout_s):
                    await self._tried.wait()
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the connection; requests under way fail, and may be done all the same."""
        self._driver, self._why_not = None, "closed"
        self._connecting.cancel()
        try:
            with suppress(TimeoutError):  # then a thread hangs in the network: it is left behind
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await self._loop.run_in_executor(self._threads, self._close)
        finally:
            self._threads.shutdown(wait=False)
            await self._tasks.__aexit__(None, None, None)

    # ---- calls

    async def read(self, select: str, *values: object) -> list[Row]:
        """Reads all rows, at LOCAL_QUORUM. Identical reads at the same time are one; do not change the list.

        Raises:
            StoreUnavailable: no answer within the deadline, or none is to be expected.
        """
        rows: list[Row] = await self._reads.run(
            (select, values), lambda: self._request([(select, values)], self._read_timeout_s)
        )
        return rows

    async def write(self, writes: Sequence[Write]) -> None:
        """Writes rows of *one partition*, at LOCAL_QUORUM: all of them at once, in isolation.

        Raises:
            StoreUnavailable: not confirmed within the deadline, so it may be written or not; write it again.
        """
        await self._request([(write.cql, write.values) for write in writes], self._write_timeout_s)

    async def _request(self, calls: list[tuple[str, tuple[object, ...]]], timeout_s: float) -> list[Row]:
        driver = self._driver
        if driver is None:
            raise StoreUnavailable(f"the store is not connected: {self._why_not}")
        if self._waiting >= self._max_waiting:
            raise StoreUnavailable("too many calls wait for the store")
        if not self._breaker.admits(self._loop.time()):
            raise StoreUnavailable("the store failed a moment ago", retry_after_s=self._breaker.pause_s)
        statement = self._bind(calls)
        with map_errors():
            async with asyncio.timeout(timeout_s):
                await self._take_slot()
                return await self._send(driver, statement, timeout_s)

    async def _take_slot(self) -> None:
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1

    def _bind(self, calls: list[tuple[str, tuple[object, ...]]]) -> Any:
        if len(calls) == 1:
            cql, values = calls[0]
            return self._prepared[cql].bind(values)
        batch = BatchStatement(BatchType.UNLOGGED)
        for cql, values in calls:
            batch.add(self._prepared[cql], values)
        batch.is_idempotent = True
        return batch

    # ---- the bridge

    def _send(self, driver: Session, statement: Any, timeout_s: float) -> "asyncio.Future[list[Row]]":
        """Sends a request; the slot that was taken for it is free again when it has landed."""
        answer: asyncio.Future[list[Row]] = self._loop.create_future()
        rows: list[Row] = []
        try:
            response = driver.execute_async(statement, timeout=timeout_s)
        except BaseException:
            self._slots.release()
            raise

        def on_page(page: list[Row] | None) -> None:
            if page:
                rows.extend(page)
            if response.has_more_pages:  # servers cut pages by size too
                response.start_fetching_next_page()
            else:
                self._land(answer, rows)

        response.add_callbacks(on_page, lambda error: self._land(answer, error))
        return answer

    def _land(self, answer: "asyncio.Future[list[Row]]", outcome: list[Row] | Exception) -> None:
        """Runs on a thread of the driver."""
        self._landed.append((answer, outcome))
        if not self._is_waking:
            self._is_waking = True
            with suppress(RuntimeError):  # the loop is closed, so nobody waits
                self._loop.call_soon_threadsafe(self._hand_out)

    def _hand_out(self) -> None:
        self._is_waking = False  # before the queue is emptied: what comes later wakes the loop again
        while self._landed:
            answer, outcome = self._landed.popleft()
            self._slots.release()
            # Also when the caller is gone: the one call that an open breaker let through may have been given up with
            # its batch, whose other writes were refused.
            if isinstance(outcome, Exception) and is_outage(outcome):
                self._breaker.failed(self._loop.time())
            else:
                self._breaker.succeeded()
            if answer.done():
                continue
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

    # ---- connecting

    async def _connect(self) -> None:
        while self._driver is None:
            try:
                with map_errors():
                    self._driver = await self._loop.run_in_executor(self._threads, self._open)
            except StoreUnavailable as error:
                self._why_not = str(error)
            self._tried.set()
            if self._driver is None:
                await asyncio.sleep(random.uniform(*_RECONNECT_S))

    def _open(self) -> Session:
        """Runs in a thread: connects and prepares."""
        cluster = new_cluster(self._endpoint)
        with self._lock:
            if self._is_closing:
                raise StoreUnavailable("closed")
            self._cluster = cluster
        try:
            session = cluster.connect()
            session.use_client_timestamp = False  # every write has its own
            session.default_fetch_size = _PAGE_ROWS
            try:
                session.set_keyspace(self._endpoint.keyspace)
            except InvalidRequest as exc:
                raise StoreUnavailable("the store has no keyspace: run `hubbub migrate`") from exc
            check_version(read_version(session), for_writing=self._is_for_writing)
            self._prepared = {statement: _prepare(session, statement) for statement in self._statements}
        except BaseException:
            cluster.shutdown()
            raise
        return session

    def _close(self) -> None:
        with self._lock:
            self._is_closing = True
            cluster = self._cluster
        if cluster is not None:
            cluster.shutdown()


def _prepare(session: Session, statement: str) -> PreparedStatement:
    prepared = session.prepare(statement)
    prepared.is_idempotent = True
    return prepared
