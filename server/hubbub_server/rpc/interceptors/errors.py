"""Turns what was raised into the one status of the RPC."""

import asyncio
from typing import Any

import grpc.aio
import structlog

from hubbub_server.domain.errors import HubbubError
from hubbub_server.rpc.call import Call
from hubbub_server.rpc.interceptors.layered import Proceed
from hubbub_server.wire.status import is_told, status_of

log = structlog.get_logger()


class StrayCancellation(Exception):
    """Something inside was cancelled while the RPC itself was not. A fault of ours."""


class Errors:
    """Ends a failed RPC with its status. What callers may not know is logged with its stack and told as INTERNAL.

    A cancelled RPC (the client is gone, or the server stops) raises CancelledError on, as grpc.aio needs it. A
    CancelledError that nobody meant for this RPC would leave the client without any answer; it becomes INTERNAL.
    """

    async def around(self, call: Call, proceed: Proceed) -> Any:
        """Implements Layer."""
        try:
            return await proceed()
        except grpc.aio.AbortError:
            raise  # a status is on its way already
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                call.error = exc
                raise
            error: BaseException = StrayCancellation("a CancelledError leaked")
            error.__cause__ = exc
        except Exception as exc:
            error = _cause_of(exc)
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
