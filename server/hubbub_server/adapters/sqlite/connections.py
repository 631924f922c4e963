"""Connections to one SQLite file, each used by one thread at a time, behind one awaitable call.

Theory of operation. A call waits for a free slot; there are as many slots as threads, so what is handed to a thread
starts at once. The slot is free again when the thread is done, not when the caller gave up: a disk that hangs uses up
the slots and nothing else. A call is one transaction. Its deadline also ends the SQL itself. Whatever goes wrong, the
connection is closed (which rolls back) and the next call opens another one: so a file may appear, vanish and come back.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from hubbub_server.adapters.sqlite.errors import map_errors
from hubbub_server.domain.errors import StoreUnavailable

T = TypeVar("T")

_STEPS_BETWEEN_DEADLINE_CHECKS: Final = 10_000


class SqliteConnections:
    """A bounded pool. `begin` opens each transaction; `connect` opens a connection and runs in a thread.

    When `max_waiting` calls wait already, a further one is refused at once.
    """

    def __init__(
        self,
        path: Path,
        *,
        connect: Callable[[Path], sqlite3.Connection],
        begin: str,
        connections: int,
        timeout_s: float,
        max_waiting: int,
    ) -> None:
        self._path = path
        self._connect = connect
        self._begin = begin
        self._connections = connections
        self._timeout_s = timeout_s
        self._max_waiting = max_waiting
        self._waiting = 0
        self._idle: list[tuple[sqlite3.Connection, int]] = []
        self._free = asyncio.Semaphore(connections)
        self._threads: ThreadPoolExecutor | None = None

    async def __aenter__(self) -> Self:
        """Starts the threads; connects at the first call."""
        self._threads = ThreadPoolExecutor(self._connections, thread_name_prefix="sqlite")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Refuses further calls, waits a bounded time for the running ones, and closes the connections."""
        threads, self._threads = self._threads, None
        if threads is None:
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                for _ in range(self._connections):
                    await self._free.acquire()
        except TimeoutError:  # a thread hangs in the kernel: it is left behind, the process ends with it
            pass
        finally:
            threads.shutdown(wait=False)
            while self._idle:
                self._idle.pop()[0].close()

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `work` in a thread, in a transaction of its own.

        A caller that is cancelled or too late leaves a started transaction to itself: it ends soon, either way.

        Raises:
            StoreUnavailable: it failed or took longer than the time-out; a write may be there all the same.
        """
        if self._threads is None:
            raise StoreUnavailable("the store is closed")
        if self._waiting >= self._max_waiting:
            raise StoreUnavailable("too many calls wait for the store")
        deadline_s = time.monotonic() + self._timeout_s
        with map_errors():
            async with asyncio.timeout(self._timeout_s):
                self._waiting += 1
                try:
                    await self._free.acquire()
                finally:
                    self._waiting -= 1
                return await self._start(work, deadline_s)

    def _start(self, work: Callable[[sqlite3.Connection], T], deadline_s: float) -> "asyncio.Future[T]":
        if self._threads is None:  # closed while this call waited
            self._free.release()
            raise StoreUnavailable("the store is closed")
        loop = asyncio.get_running_loop()
        running = self._threads.submit(self._transact, work, deadline_s)
        running.add_done_callback(lambda _: loop.call_soon_threadsafe(self._free.release))
        return asyncio.wrap_future(running)

    def _transact(self, work: Callable[[sqlite3.Connection], T], deadline_s: float) -> T:
        connection, inode = self._take()
        try:
            connection.set_progress_handler(lambda: time.monotonic() > deadline_s, _STEPS_BETWEEN_DEADLINE_CHECKS)
            connection.execute(self._begin)
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        self._idle.append((connection, inode))
        return result

    def _take(self) -> tuple[sqlite3.Connection, int]:
        try:
            inode = os.stat(self._path).st_ino
        except FileNotFoundError:
            inode = 0
        while True:
            try:
                connection, opened_inode = self._idle.pop()
            except IndexError:
                break
            if opened_inode == inode:
                return connection, inode
            connection.close()  # the file was removed or replaced: what we hold is a ghost
        connection = self._connect(self._path)
        return connection, os.stat(self._path).st_ino
