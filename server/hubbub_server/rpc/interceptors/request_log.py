"""Writes the one line that each RPC leaves, and counts it. No content, names, addresses or tokens."""

import asyncio
import time
from typing import Final

import grpc
import structlog

from hubbub_server.obs import metrics
from hubbub_server.rpc.call import Call
from hubbub_server.wire.status import reason_of

log = structlog.get_logger()

_OUR_FAULTS: Final = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})
_REFUSALS: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
_PROBES: Final = "/grpc.health."  # every second, from every Envoy


class RequestLog:
    """Logs each RPC when it has ended. The outermost layer."""

    def __init__(self, *, node_id: str) -> None:
        """`node_id` names this node in every line."""
        self._node_id = node_id

    def enter(self, call: Call) -> None:
        """Implements Layer."""
        call.began_s = time.monotonic()

    def leave(self, call: Call) -> None:
        """Implements Layer."""
        duration_s = time.monotonic() - call.began_s
        code = _code_of(call)
        metrics.rpcs.labels(method=call.method, code=code.name).inc()
        usual = log.debug if call.method.startswith(_PROBES) else log.info
        is_cancelled = isinstance(call.error, asyncio.CancelledError)
        is_our_fault = code in _OUR_FAULTS and not is_cancelled  # by its transport, because of what the client sent
        write = log.error if is_our_fault else log.warning if code in _REFUSALS else usual
        is_refused = call.error is not None and not is_cancelled
        write(
            "stream closed" if call.is_stream else "rpc finished",
            rpc=call.method,
            code=code.name,
            reason=reason_of(call.error) if call.error is not None and is_refused else "",
            duration_ms=round(duration_s * 1000, 3),
            user_id=call.caller.user_id if call.caller else "",
            conversation_id=call.conversation_id,
            node=self._node_id,
            request_id=call.request_id,
        )


def _code_of(call: Call) -> grpc.StatusCode:
    code: grpc.StatusCode | None = call.context.code()  # the stubs forget None
    if isinstance(call.error, asyncio.CancelledError) and not code:  # else the transport has said why it cancelled
        remaining_s = call.time_remaining_s()
        is_late = remaining_s is not None and remaining_s <= 0
        return grpc.StatusCode.DEADLINE_EXCEEDED if is_late else grpc.StatusCode.CANCELLED
    return code or grpc.StatusCode.OK
