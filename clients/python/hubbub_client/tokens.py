"""The tokens of the signed-in device: renewed in time, by one call at a time, stored before they are used."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

from hubbub_client.cancellation import is_task_cancelled
from hubbub_client.errors import CallFailed, ClientClosed, HubbubError
from hubbub_client.model import Credentials

# The clock of this machine may be wrong: an access token is taken to live for at least and at most this long.
_LIFE_MIN_S: Final = 10.0
_LIFE_MAX_S: Final = 600.0
_USED_SHARE: Final = 0.8  # of its life, before a new one is fetched


class Tokens:
    """Hands out the access token and renews it.

    Args:
        credentials: what the device holds now.
        renew: makes new credentials from the present ones; raises SignedOut when there is no way.
        tasks: owns the one renewal that may be running, so that a caller who goes away does not end it for the others.
        changed: called with each new pair before it is used.
    """

    def __init__(
        self,
        credentials: Credentials,
        renew: Callable[[Credentials], Awaitable[Credentials]],
        tasks: asyncio.TaskGroup,
        changed: Callable[[Credentials], None] | None = None,
    ) -> None:
        self._renew, self._tasks, self._changed = renew, tasks, changed
        self._renewal: asyncio.Task[HubbubError | None] | None = None
        self._take(credentials)

    def _take(self, credentials: Credentials) -> None:
        if self._changed is not None:
            self._changed(credentials)
        self.credentials = credentials
        life_s = (credentials.access_expire_time - datetime.now(UTC)).total_seconds()
        self.renew_at_s = time.monotonic() + _USED_SHARE * min(_LIFE_MAX_S, max(_LIFE_MIN_S, life_s))

    async def current(self) -> str:
        """Returns an access token that is good for a while, a renewed one when the present one is old.

        Raises:
            SignedOut: there is no way to a new one.
        """
        if time.monotonic() >= self.renew_at_s:
            try:
                await self.replace(self.credentials.access_token)
            except CallFailed:
                self.renew_at_s = time.monotonic() + _LIFE_MIN_S  # the present one may still do
        return self.credentials.access_token

    async def replace(self, stale: str) -> None:
        """Renews the access token unless `stale` is no longer the present one.

        Raises:
            SignedOut: there is no way to a new one.
            CallFailed: the server cannot renew it now.
            ClientClosed: the client was closed meanwhile.
        """
        if self.credentials.access_token != stale:
            return
        if self._renewal is None:
            self._renewal = self._tasks.create_task(self._run_renewal())
        renewal = self._renewal
        try:
            error = await asyncio.shield(renewal)
        except asyncio.CancelledError as cancelled:
            if is_task_cancelled():
                raise
            raise ClientClosed("the client was closed while it renewed its token") from cancelled
        if error is not None:
            raise error

    def close(self) -> None:
        """Ends a renewal that may be running."""
        if self._renewal is not None:
            self._renewal.cancel()

    async def _run_renewal(self) -> HubbubError | None:
        try:
            self._take(await self._renew(self.credentials))
        except HubbubError as error:
            return error
        finally:
            self._renewal = None
        return None
