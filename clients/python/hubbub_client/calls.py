"""Unary calls: with a deadline and a token, repeated while that helps, and with our own errors."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from grpc import aio

from hubbub_client.backoff import Backoff
from hubbub_client.cancellation import is_task_cancelled
from hubbub_client.errors import ClientClosed, InvalidCredentials, TokenExpired, Unavailable, error_of_call
from hubbub_client.tokens import Tokens
from hubbub_client.transport import Stubs, Transport

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
Method = Callable[[Stubs], aio.UnaryUnaryMultiCallable[_Request, _Response]]
Metadata = tuple[tuple[str, str], ...]

ATTEMPT_TIMEOUT_S = 10.0


def bearer(token: str) -> Metadata:
    """Returns the metadata that carries an access token."""
    return (("authorization", f"Bearer {token}"),)


class Calls:
    """Makes unary calls.

    Args:
        transport: where they go.
        timeout_s: how long one call may take with all its repeats.
    """

    def __init__(self, transport: Transport, *, timeout_s: float) -> None:
        self._transport, self._timeout_s = transport, timeout_s

    async def once(
        self, method: Method[_Request, _Response], request: _Request, *, timeout_s: float, token: str = ""
    ) -> _Response:
        """Makes one attempt.

        Raises:
            CallFailed: it was refused, or not answered in time.
            ClientClosed: the client was closed meanwhile.
        """
        try:
            return await method(self._transport.stubs)(
                request, timeout=timeout_s, metadata=bearer(token) if token else ()
            )
        except aio.AioRpcError as error:
            raise error_of_call(error) from error
        except asyncio.CancelledError as error:
            if is_task_cancelled():
                raise
            raise ClientClosed("the client was closed during a call") from error  # by its channel, not by our caller

    async def repeatedly(
        self, method: Method[_Request, _Response], request: _Request, *, tokens: Tokens | None = None
    ) -> _Response:
        """Makes attempts until one is answered, at most for the time-out. Only for calls that may be repeated.

        Raises:
            CallFailed: refused for good, or the last refusal when time ran out.
            ClientClosed: the client was closed meanwhile.
            SignedOut: the token ended and there is no way to a new one.
        """
        end_s = time.monotonic() + self._timeout_s
        backoff = Backoff(0.2, 10.0)
        was_refused = False
        while True:
            token = await tokens.current() if tokens else ""
            remaining_s = max(0.001, end_s - time.monotonic())
            try:
                return await self.once(method, request, timeout_s=min(ATTEMPT_TIMEOUT_S, remaining_s), token=token)
            except (TokenExpired, InvalidCredentials):
                if tokens is None or was_refused:
                    raise
                was_refused = True
                await tokens.replace(token)
            except Unavailable as error:
                delay_s = error.retry_delay_s or backoff.next_s()
                if time.monotonic() + delay_s >= end_s:
                    raise
                await asyncio.sleep(delay_s)
