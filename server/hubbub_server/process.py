"""The life of a process: it begins with logging and an event loop, and ends by a signal or by a loss.

It ends by SIGTERM or SIGINT (exit 0), or when something is gone for good that it cannot live without (exit 1): what
runs it starts it again.
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from hubbub_server.obs.garbage import tame_garbage_collector
from hubbub_server.obs.logging import set_up_logging

log = structlog.get_logger()


class Life:
    """Why this process ends. `ended` is set by a signal or by `fail`."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.is_failed = False
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.ended.set)

    def fail(self) -> None:
        """Ends the process with an error."""
        log.error("nats connection closed for good")
        self.is_failed = True
        self.ended.set()


def run_process(live: Callable[[Life], Coroutine[Any, Any, None]], *, role: str, name: str, log_level: str) -> None:
    """Runs `live` to its end. Raises SystemExit."""
    set_up_logging(log_level, role=role, name=name)
    tame_garbage_collector()

    async def run() -> bool:
        life = Life()
        await live(life)
        return life.is_failed

    with asyncio.Runner(loop_factory=_new_event_loop) as runner:
        raise SystemExit(1 if runner.run(run()) else 0)


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # noqa: PLC0415  # faster, and not there on every platform
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
