"""Calls of the signed-in user, repeated while that helps, for as long as the client is open."""

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from hubbub_client.calls import Calls, Method
from hubbub_client.errors import HubbubError
from hubbub_client.tokens import Tokens

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Unary:
    """Makes calls.

    Args:
        calls: how they are made.
        tokens: access tokens.
        stopped: returns why the client is not open, None when it is.
    """

    def __init__(self, calls: Calls, tokens: Tokens, stopped: Callable[[], HubbubError | None]) -> None:
        self._calls, self._tokens, self._stopped = calls, tokens, stopped

    async def call(self, method: Method[_Request, _Response], request: _Request) -> _Response:
        """Makes one call.

        Raises:
            CallFailed: refused for good, or the last refusal when time ran out.
            ClientClosed, Displaced, SignedOut: the client is not open.
        """
        if (stopped := self._stopped()) is not None:
            raise stopped
        return await self._calls.repeatedly(method, request, tokens=self._tokens)

    async def pages(self, method: Method[Any, _Response], request: Any) -> AsyncIterator[_Response]:
        """Yields page after page of a list; `request` must have `page_token`, the answers `next_page_token`."""
        while True:
            page: Any = await self.call(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token
