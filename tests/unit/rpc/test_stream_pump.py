"""The pump of a stream: whatever ends it, the LiveStream is closed and the right thing comes out."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hubbub.chat.v1 import chat_service_pb2

from hubbub_server.app.authenticate import Caller
from hubbub_server.app.frames import Ack, ClientFrame, Events, Outgoing
from hubbub_server.domain.errors import HubbubError, ProtocolBreach, RateLimited
from hubbub_server.domain.ids import DeviceSessionId, TopicId, UserId
from hubbub_server.rpc.stream_pump import pump_both_ways, pump_down

pytestmark = pytest.mark.asyncio

_WITHIN_S = 5.0
_FRAME = Events(body=b"body", count=1)
_ACK = chat_service_pb2.ConnectRequest(ack=chat_service_pb2.Ack(processed_events=7)).SerializeToString()


class FakeCall:
    """The two sides of an RPC. `is_blocked` makes writes wait for ever; `incoming` are what the client sends."""

    def __init__(self, *incoming: bytes | None) -> None:
        self.incoming = list(incoming)
        self.is_blocked = False
        self.written: list[bytes] = []
        self.waiting: set[str] = set()
        self.authenticated = Caller(
            user_id=UserId(TopicId("u1")), device_session_id=DeviceSessionId("d1"), token_expire_time_ms=0
        )

    async def read(self) -> bytes | None:
        """Gives what is left of `incoming`, then waits."""
        if self.incoming:
            return self.incoming.pop(0)
        await self.wait("read")
        return None

    async def write(self, message: bytes) -> None:
        """Takes a message."""
        if self.is_blocked:
            await self.wait("write")
        self.written.append(message)

    async def wait(self, where: str) -> None:
        """Waits for ever and shows where."""
        self.waiting.add(where)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.waiting.discard(where)


class FakeLive:
    """A LiveStream that gives `outgoing`, then waits, or ends when `is_ended`."""

    def __init__(self, call: FakeCall, *outgoing: Outgoing, end_error: HubbubError | None = None) -> None:
        self.outgoing = list(outgoing)
        self.end_error = end_error
        self.is_ended = False
        self.closed = 0
        self.heard: list[ClientFrame | HubbubError | str] = []
        self.abort: Callable[[], None] = lambda: None
        self._call = call
        self._ready = asyncio.Event()

    def receive(self, frame: ClientFrame) -> None:
        """Hears a frame."""
        self.heard.append(frame)

    def break_off(self, error: HubbubError) -> None:
        """Hears that there was none."""
        self.heard.append(error)
        self._end()

    def half_close(self) -> None:
        """Hears the end."""
        self.heard.append("half close")
        self._end()

    def _end(self) -> None:
        self.is_ended = True
        self._ready.set()

    async def next_frames(self) -> Sequence[Outgoing]:
        """Gives all frames at once."""
        if self.outgoing:
            frames, self.outgoing = self.outgoing, []
            return frames
        if not self.is_ended:
            self._call.waiting.add("next_frames")
            try:
                await self._ready.wait()
            finally:
                self._call.waiting.discard("next_frames")
        return []

    def on_abort(self, callback: Callable[[], None]) -> None:
        """Keeps the callback."""
        self.abort = callback

    async def aclose(self) -> None:
        """Counts."""
        self.closed += 1


def _start(pump: Callable[..., Awaitable[None]], call: FakeCall, live: FakeLive) -> "asyncio.Task[Any]":
    return asyncio.ensure_future(pump(call, live))


async def _until_waiting(call: FakeCall, where: str) -> None:
    async with asyncio.timeout(_WITHIN_S):
        while where not in call.waiting:  # noqa: ASYNC110  # a turn of the loop at a time
            await asyncio.sleep(0)


@pytest.mark.parametrize("pump", [pump_both_ways, pump_down])
@pytest.mark.parametrize("where", ["next_frames", "write", "read"])
async def test_cancelled_at_any_await_it_closes_the_stream_and_stays_cancelled(
    pump: Callable[..., Awaitable[None]], where: str
) -> None:
    call = FakeCall()
    live = FakeLive(call, _FRAME)
    call.is_blocked = where == "write"
    task = _start(pump, call, live)
    await _until_waiting(call, "next_frames" if where == "read" else where)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert live.closed == 1
    assert call.waiting == set()


@pytest.mark.parametrize("where", ["next_frames", "write"])
async def test_an_abort_gives_up_what_blocks_and_ends_with_the_streams_error(where: str) -> None:
    call = FakeCall()
    live = FakeLive(call, _FRAME, end_error=RateLimited("read too slowly", retry_after_s=1))
    call.is_blocked = where == "write"
    task = _start(pump_both_ways, call, live)
    await _until_waiting(call, where)

    live.abort()
    live.abort()
    with pytest.raises(RateLimited):
        await task

    assert live.closed == 1
    assert call.waiting == set()
    assert task.cancelling() == 0


async def test_a_client_that_goes_during_an_abort_is_a_cancelled_rpc() -> None:
    call = FakeCall()
    live = FakeLive(call, end_error=RateLimited("read too slowly", retry_after_s=1))
    task = _start(pump_both_ways, call, live)
    await _until_waiting(call, "next_frames")

    live.abort()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert live.closed == 1


async def test_frames_are_heard_and_the_last_one_is_a_half_close() -> None:
    call = FakeCall(_ACK, None)
    live = FakeLive(call, _FRAME)

    async with asyncio.timeout(_WITHIN_S):
        await _start(pump_both_ways, call, live)

    assert live.heard == [Ack(processed_events=7), "half close"]
    assert [message[-4:] for message in call.written] == [b"body"]
    assert live.closed == 1


async def test_what_is_no_frame_breaks_the_stream_off() -> None:
    call = FakeCall(b"\xff")
    live = FakeLive(call, end_error=ProtocolBreach("something that is no frame"))

    async with asyncio.timeout(_WITHIN_S):
        with pytest.raises(ProtocolBreach):
            await _start(pump_both_ways, call, live)

    assert [type(heard) for heard in live.heard] == [ProtocolBreach]
    assert live.closed == 1


async def test_a_fault_of_the_reader_ends_the_stream_at_once() -> None:
    call = FakeCall()
    live = FakeLive(call)

    def fail(frame: ClientFrame) -> None:
        raise ZeroDivisionError

    live.receive = fail  # type: ignore[method-assign]  # a fault of ours
    call.incoming.append(_ACK)

    with pytest.raises(ExceptionGroup) as failure:
        await _start(pump_both_ways, call, live)

    assert isinstance(failure.value.exceptions[0], ZeroDivisionError)
    assert live.closed == 1
