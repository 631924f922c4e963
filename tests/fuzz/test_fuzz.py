"""The fuzzer finds nothing in a few executions, and notices what is broken on purpose (C86)."""

from collections.abc import Callable
from typing import Any

import pytest

from hubbub_server.edge import connection
from hubbub_server.edge.connection import EdgeConnection
from hubbub_server.edge.frame_watch import FrameWatch
from hubbub_server.edge.grpc_messages import BadMessages, MessageReader
from hubbub_server.edge.http2 import Http2, WindowUpdated
from hubbub_server.edge.stream import EdgeStream
from tests.fuzz.__main__ import execute
from tests.fuzz.house import open_house
from tests.support.virtual_time import run_in_virtual_time

SEED = 11
EXECUTIONS = 60


async def _find(executions: int) -> list[str]:
    async with open_house() as house:
        for number in range(executions):
            faults, _ = await execute(house, SEED, number)
            if faults:
                return faults
    return []


def test_nearly_right_conversations_harm_nobody_else() -> None:
    assert run_in_virtual_time(_find(EXECUTIONS)) == []


def test_an_execution_is_made_of_its_seed_and_number_alone() -> None:
    async def said() -> list[bytes]:
        async with open_house() as house:
            return [(await execute(house, SEED, number))[1] for number in range(5)]

    assert run_in_virtual_time(said()) == run_in_virtual_time(said())


def _raise_on_what_is_gone(patch: pytest.MonkeyPatch) -> None:
    """TRAPS 1.20."""

    def send_trailers(self: Http2, stream_id: int, trailers: Any) -> bool:
        self._connection.send_trailers(stream_id, list(trailers))
        return True

    def send_body(self: Http2, stream_id: int, data: bytes) -> bool:
        self._connection.send_data(stream_id, data)
        return True

    patch.setattr(Http2, "send_trailers", send_trailers)
    patch.setattr(Http2, "send_body", send_body)
    patch.setattr(EdgeStream, "take_gone", lambda self: self._task.cancel() if self._task else None)


def _never_cancel(patch: pytest.MonkeyPatch) -> None:
    def take_gone(self: EdgeStream) -> None:
        self._is_gone = True

    patch.setattr(EdgeStream, "take_gone", take_gone)


def _let_bad_messages_through(patch: pytest.MonkeyPatch) -> None:
    feed = MessageReader.feed

    def raise_value_error(self: MessageReader, data: bytes) -> list[bytes]:
        try:
            return feed(self, data)
        except BadMessages as error:
            raise ValueError from error

    patch.setattr(MessageReader, "feed", raise_value_error)


def _forget_the_cut_frame(patch: pytest.MonkeyPatch) -> None:
    find = FrameWatch.find_breach

    def find_breach(self: FrameWatch, data: bytes) -> Any:
        self._skip = min(self._skip, 24)
        return find(self, data)

    patch.setattr(FrameWatch, "find_breach", find_breach)


def _flush_for_ever(patch: pytest.MonkeyPatch) -> None:
    flush = EdgeConnection._flush

    def flush_and_again(self: EdgeConnection) -> None:
        flush(self)
        if self._streams:
            self.schedule()

    patch.setattr(EdgeConnection, "_flush", flush_and_again)


def _hear_of_no_window(patch: pytest.MonkeyPatch) -> None:
    takers = {kind: taker for kind, taker in connection._TAKERS.items() if kind is not WindowUpdated}
    patch.setattr(connection, "_TAKERS", takers)


@pytest.mark.parametrize(
    "break_it",
    [
        _raise_on_what_is_gone,
        _never_cancel,
        _let_bad_messages_through,
        _forget_the_cut_frame,
        _flush_for_ever,
        _hear_of_no_window,
    ],
)
def test_what_is_broken_on_purpose_is_found(
    break_it: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it(monkeypatch)
    assert run_in_virtual_time(_find(10 * EXECUTIONS)) != []
