"""Passwords by argon2id, in threads: a hash costs about 0.1 s and 64 MiB, so few run at a time and few may wait."""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self, TypeVar

from argon2 import Parameters, PasswordHasher, profiles
from argon2.exceptions import InvalidHashError, VerificationError

from hubbub_server.domain.errors import RateLimited

_T = TypeVar("_T")
_RETRY_AFTER_S: Final = 2.0


class Argon2PasswordHasher:
    """Hashes passwords by argon2id with the second parameters that RFC 9106 recommends (t=3, p=4, 64 MiB).

    `threads` hashes run at once, `max_waiting` more may wait, the next is RateLimited. A cancelled call
    leaves the line; a hash that has begun ends by itself. Hashes made with other parameters still verify: they are in
    the PHC string.
    """

    def __init__(
        self, *, threads: int = 2, max_waiting: int = 64, parameters: Parameters = profiles.RFC_9106_LOW_MEMORY
    ) -> None:
        self._argon2 = PasswordHasher.from_parameters(parameters)
        self._threads = threads
        self._max_pending = threads + max_waiting
        self._pending = 0
        self._pool: ThreadPoolExecutor | None = None
        self._nobodys_hash = ""

    async def __aenter__(self) -> Self:
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="argon2")
        self._nobodys_hash = await self.hash(secrets.token_urlsafe())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def hash(self, password: str) -> str:
        """Returns a PHC string of argon2id."""
        return await self._in_thread(self._argon2.hash, password)

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Tells whether the password fits; None costs as much as a real hash and does not."""
        return await self._in_thread(self._verify, password, password_hash)

    def _verify(self, password: str, password_hash: str | None) -> bool:
        try:
            self._argon2.verify(password_hash or self._nobodys_hash, password)
        except (VerificationError, InvalidHashError):
            return False
        return password_hash is not None

    async def _in_thread(self, call: Callable[..., _T], *args: str | None) -> _T:
        if self._pool is None:
            raise RuntimeError("the hasher is not open")
        if self._pending >= self._max_pending:
            raise RateLimited("too many passwords are being checked", retry_after_s=_RETRY_AFTER_S)
        self._pending += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, call, *args)
        finally:
            self._pending -= 1
