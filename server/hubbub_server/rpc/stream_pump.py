"""Drives a LiveStream over an RPC of grpc.aio: one reader, one writer.

Theory of operation. The task of the RPC is the only writer: it waits for frames and writes them, and a write waits
while the client does not read. A second task reads, if the client may send. When the session ends, the writer ends the
reader and gives the status. When the client goes, the core cancels the RPC's task: CancelledError goes through, as
grpc.aio needs it, and whatever happens the LiveStream is closed.

A client that stopped reading cannot be reset: grpc.aio has no call for it, and a status waits behind the message that
the client does not take (measured). So at the session's abort the blocked write is given up and the session is freed at
once; what is left is one message and the status, which the client gets when it reads again, if its connection lives.
"""

import asyncio

from hubbub_server.domain.errors import HubbubError
from hubbub_server.rpc.call import Call
from hubbub_server.rpc.pumped import PumpedStream, ReadFrame
from hubbub_server.wire.frames import encode_messages, read_connect_request


async def pump(call: Call, live: PumpedStream, *, takes_frames: bool, read: ReadFrame = read_connect_request) -> None:
    """Implements Pump."""
    await (pump_both_ways(call, live, read) if takes_frames else pump_down(call, live))


async def pump_both_ways(call: Call, live: PumpedStream, read: ReadFrame = read_connect_request) -> None:
    """Serves a stream on which the client sends frames. Returns at its end, raises the error that it ends with."""
    try:
        async with asyncio.TaskGroup() as tasks:
            reader = tasks.create_task(_read_frames(call, live, read), name="stream reader")
            await _write_frames(call, live)
            reader.cancel()
    finally:
        await live.aclose()
    raise_end_error(live)


async def pump_down(call: Call, live: PumpedStream) -> None:
    """Serves a stream on which only the server sends."""
    try:
        await _write_frames(call, live)
    finally:
        await live.aclose()
    raise_end_error(live)


async def _read_frames(call: Call, live: PumpedStream, read: ReadFrame) -> None:
    user_id = call.authenticated.user_id
    while (message := await call.read()) is not None:
        try:
            frame = read(message, user_id)
        except HubbubError as error:
            live.break_off(error)
        else:
            live.receive(frame)
    live.half_close()


async def _write_frames(call: Call, live: PumpedStream) -> None:
    """Writes until the stream ends or must be given up."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  # coroutines run in tasks
    is_aborted = False

    def abort() -> None:
        nonlocal is_aborted
        if not is_aborted:
            is_aborted = True
            task.cancel()

    live.on_abort(abort)
    try:
        while frames := await live.next_frames():
            for message in encode_messages(frames):
                await call.write(message)
    except asyncio.CancelledError:
        if not is_aborted or task.uncancel():
            raise


def raise_end_error(live: PumpedStream) -> None:
    """Raises what the stream ends with, if that is not OK."""
    if live.end_error is not None:
        raise live.end_error
