"""Checks that every failure keeps the error contract: exactly one ErrorInfo. For tests; costs nothing on success."""

import asyncio
from collections.abc import Callable

import grpc
from google.rpc import error_details_pb2, status_pb2

from hubbub_server.rpc.call import DETAILS_KEY, Call
from hubbub_server.rpc.interceptors.layered import OURS


class Conformance:
    """Reports statuses that break the contract."""

    def __init__(self, report: Callable[[str], None]) -> None:
        """`report` gets one sentence for each breach; a test fails when it got any."""
        self._report = report

    def enter(self, call: Call) -> None:
        """Implements Layer."""

    def leave(self, call: Call) -> None:
        """Implements Layer."""
        if isinstance(call.error, asyncio.CancelledError):
            return  # nobody hears of it, or the transport says why in words of its own
        code: grpc.StatusCode | None = call.context.code()  # the stubs forget None
        if code in (None, grpc.StatusCode.OK) or not call.method.startswith(OURS):
            return
        infos = 0
        for key, value in call.context.trailing_metadata():
            if key == DETAILS_KEY and isinstance(value, bytes):
                details = status_pb2.Status.FromString(value).details
                infos += sum(
                    detail.TypeName() == error_details_pb2.ErrorInfo.DESCRIPTOR.full_name for detail in details
                )
        if infos != 1:
            self._report(f"{call.method} ended with {code.name} and {infos} ErrorInfo instead of one")
