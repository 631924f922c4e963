"""Turns what was raised into the one status of the RPC."""

import asyncio

import grpc.aio
import structlog

from hubbub_server.domain.errors import HubbubError
from hubbub_server.rpc.call import Call
from hubbub_server.wire.status import is_told, status_of

log = structlog.get_logger()


class StrayCancellation(Exception):
    """Something inside was cancelled while the RPC itself was not. A fault of ours."""


async def tell(call: Call, error: BaseException) -> None:
    """Ends a failed RPC with its status. What callers may not know is logged with its stack and told as INTERNAL.

    Raises:
        CancelledError: the RPC was cancelled (the client is gone, or the server stops): grpc.aio needs it. One that
            nobody meant for this RPC would leave the client without any answer; it becomes INTERNAL.
        grpc.aio.AbortError: the status is on its way.
    """
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            call.error = error
            raise error
        stray = StrayCancellation("a CancelledError leaked")
        stray.__cause__ = error
        error = stray
    elif isinstance(error, ExceptionGroup):
        error = _cause_of(error)
    call.error = error
    if not is_told(error):
        log.error("rpc failed", rpc=call.method, request_id=call.request_id, exc_info=error)
    await call.abort(status_of(error, request_id=call.request_id))


def _cause_of(error: Exception) -> Exception:
    """Unwraps what a TaskGroup wraps: the error that callers may know, if all of the group are such."""
    if not isinstance(error, ExceptionGroup):
        return error
    causes = [_cause_of(each) for each in error.exceptions]
    if all(isinstance(cause, HubbubError) and is_told(cause) for cause in causes):
        return causes[0]
    return error
