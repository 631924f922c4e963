"""One client of Redis or Valkey: scripts, each under a time-out, on a bounded pool that connects when first asked."""

import asyncio
from types import TracebackType
from typing import Any, Final, Self

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript

from hubbub_server.adapters.redis.errors import map_errors

_CALL_TIMEOUT_S: Final = 1.0
_CONNECTIONS_MAX: Final = 8

Script = AsyncScript


class RedisConnection:
    """Use as `async with`; it opens also while the server is away, and closes its sockets at the end."""

    def __init__(self, url: str, *, name: str) -> None:
        """Takes the address; `name` is what CLIENT LIST shows."""
        self._redis = Redis.from_url(
            url,
            client_name=name,
            decode_responses=True,
            max_connections=_CONNECTIONS_MAX,
            protocol=2,  # nothing is pushed to us
            # The time-out of a call ends everything below it; a broken connection is noticed by the first call after
            # and replaced in the same call. Every script may run twice.
            retry=Retry(NoBackoff(), 1),
            socket_timeout=_CALL_TIMEOUT_S,
            socket_connect_timeout=_CALL_TIMEOUT_S,
        )

    async def __aenter__(self) -> Self:
        """Connects to nothing yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the sockets."""
        await self._redis.aclose()

    def script(self, source: str) -> Script:
        """Prepares a Lua script; the server learns it, and learns it again, when it is run."""
        return self._redis.register_script(source)

    async def run(self, script: Script, *, keys: list[str], args: list[str | int]) -> Any:
        """Runs a script and returns its answer, at the latest after a second.

        A call that is cancelled or late drops its connection: an answer that comes later is nobody else's.

        Raises:
            RegistryUnavailable: there was no answer, or a refusal.
        """
        with map_errors():
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                return await script(keys=keys, args=args)
