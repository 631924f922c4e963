"""A process with many streams that counts what they get, without grpcio: `python -m bench.receivers PLAN`.

Commands on stdin, one JSON object a line, each answered by one on stdout: `count` (events so far, own CPU seconds,
latencies since the last count, streams that ended).
"""

import asyncio
import base64
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import uvloop

from bench.h2_client import GrpcCall, GrpcConnection
from bench.plans import read_plan
from bench.process import cpu_s
from bench.wires import WIRES, Answer
from tests.soak.plan import read_commands, say

_OPEN_WITHIN_S: Final = 60.0
_OPENING_AT_ONCE: Final = 50
_LATENCIES_MAX: Final = 200_000
_ZERO: Final = str(uuid.UUID(int=0)).encode()


@dataclass(frozen=True)
class ReceiversPlan:
    """What one process does; see StreamOpening."""

    port: int
    path: str
    metadata: tuple[tuple[tuple[str, str], ...], ...]
    first_message: str
    has_one_request: bool
    wire: str
    connections: int
    streams_a_connection: int


class Receivers:
    """All streams of this process."""

    def __init__(self, plan: ReceiversPlan) -> None:
        """Opens nothing yet."""
        self._plan = plan
        self._read: Callable[[bytes], Answer] = WIRES[plan.wire]
        self._known = (b"", Answer())
        self._calls: list[GrpcCall] = []
        self._opened = 0
        self._events = 0
        self._latencies_ms: list[float] = []
        self._goodbyes = 0
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Opens all streams, then obeys."""
        first = base64.b64decode(self._plan.first_message)
        for _ in range(self._plan.connections):
            connection = await GrpcConnection.open(self._plan.port)
            for _ in range(self._plan.streams_a_connection):
                self._open(connection, first)
            await self._wait_opened(_OPENING_AT_ONCE)
        await self._wait_opened(0)
        say(ready=True)
        async for _ in read_commands():
            say(**self._count())

    async def _wait_opened(self, missing: int) -> None:
        try:
            async with asyncio.timeout(_OPEN_WITHIN_S):
                while self._opened + missing < len(self._calls):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as exc:
            ends = [call.end for call in self._calls if call.end]
            raise RuntimeError(f"{self._opened} of {len(self._calls)} streams opened, ended: {ends[:5]}") from exc

    def _open(self, connection: GrpcConnection, first: bytes) -> None:
        metadata = self._plan.metadata[len(self._calls) % len(self._plan.metadata)]

        def take(data: bytes) -> None:
            known, answer = self._known
            if data != known:
                answer = self._read(data)
                self._known = (data, answer)
            if answer.events:
                self._events += answer.events
                if answer.stamps and len(self._latencies_ms) < _LATENCIES_MAX:
                    now_s = time.monotonic()
                    self._latencies_ms += [(now_s - stamp) * 1000 for stamp in answer.stamps]
            if answer.opens:
                self._opened += 1
                self._changed.set()
            if answer.reply:
                connection.send(call, answer.reply)
            self._goodbyes += answer.is_over

        call = connection.start(self._plan.path, metadata, take)
        self._calls.append(call)
        connection.send(call, first.replace(_ZERO, str(uuid.uuid4()).encode()), is_last=self._plan.has_one_request)

    def _count(self) -> dict[str, Any]:
        latencies_ms, self._latencies_ms = self._latencies_ms, []
        return {
            "events": self._events,
            "cpu_s": cpu_s(os.getpid()),
            "latencies_ms": latencies_ms,
            "ended": [call.end for call in self._calls if call.end],
            "goodbyes": self._goodbyes,
            "streams": len(self._calls),
        }


def main() -> None:
    """Reads the plan."""
    fields = read_plan()
    metadata = tuple(tuple((name, value) for name, value in each) for each in fields["metadata"])
    uvloop.run(Receivers(ReceiversPlan(**{**fields, "metadata": metadata})).run())


if __name__ == "__main__":
    main()
