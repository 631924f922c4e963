"""What nghttp2 lets pass and the edge does not (C86): RFC 9113 5.1, 5.1.1, 6.3; h2spec asks for the same."""

import pytest
from hyperframe.frame import DataFrame, Frame, HeadersFrame, PingFrame, PriorityFrame, RstStreamFrame, WindowUpdateFrame

from hubbub_server.edge.frame_watch import FrameWatch
from hubbub_server.edge.http2 import ErrorCode

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PASSED_OVER, CLOSED = ErrorCode.PROTOCOL_ERROR, ErrorCode.STREAM_CLOSED


def headers(stream: int, *, end: bool = False) -> Frame:
    return HeadersFrame(stream, b"block", flags=["END_HEADERS", "END_STREAM"] if end else ["END_HEADERS"])


def body(stream: int, *, end: bool = False) -> Frame:
    return DataFrame(stream, b"\0" * 300, flags=["END_STREAM"] if end else [])


def numberless(frame: Frame) -> Frame:
    frame.stream_id = 0
    return frame


GOOD = {
    "a call": (headers(1), body(1), body(1, end=True)),
    "trailers": (headers(1), body(1), headers(1, end=True)),
    "numbers that are passed over": (headers(1, end=True), headers(9, end=True)),
    "calls side by side": (headers(1), headers(3), body(1, end=True), headers(3, end=True)),
    "what may still come for an ended stream": (
        headers(1, end=True),
        WindowUpdateFrame(1, 5),
        PriorityFrame(1),
        RstStreamFrame(1),
        RstStreamFrame(1),
    ),
    "priority of a stream to come": (PriorityFrame(7), headers(7)),
    "what nghttp2 judges": (PingFrame(0), body(5), headers(2, end=True), headers(2)),
}
BAD = {
    "DATA after the end": ((headers(1, end=True),), body(1), CLOSED),
    "DATA after the end in DATA": ((headers(1), body(1, end=True)), body(1), CLOSED),
    "DATA after a reset": ((headers(1), RstStreamFrame(1)), body(1), CLOSED),
    "HEADERS after the end": ((headers(1, end=True), headers(3)), headers(1), CLOSED),
    "HEADERS after a reset": ((headers(1), RstStreamFrame(1)), headers(1), CLOSED),
    "a number that was passed over": ((headers(1), headers(5)), headers(3), PASSED_OVER),
    "a number below the first": ((headers(5),), headers(3), PASSED_OVER),
    "PRIORITY of the connection": ((headers(1),), numberless(PriorityFrame(1)), PASSED_OVER),
}


@pytest.mark.parametrize("frames", GOOD.values(), ids=GOOD)
def test_what_is_allowed_passes(frames: tuple[Frame, ...]) -> None:
    assert FrameWatch().find_breach(PREFACE + b"".join(frame.serialize() for frame in frames)) is None


@pytest.mark.parametrize("step", [1, 2, 7, 9, 10_000])
@pytest.mark.parametrize(("before", "frame", "code"), BAD.values(), ids=BAD)
def test_a_breach_is_found_where_it_begins_however_the_bytes_are_cut(
    before: tuple[Frame, ...], frame: Frame, code: ErrorCode, step: int
) -> None:
    good = PREFACE + b"".join(each.serialize() for each in before)
    data = good + frame.serialize() + b"what follows is not looked at"
    watch = FrameWatch()
    for start in range(0, len(data), step):
        if (breach := watch.find_breach(data[start : start + step])) is not None:
            assert (start + breach.at, breach.code) == (len(good), code)
            return
    pytest.fail("no breach was found")


def test_memory_is_bounded_and_streams_long_ago_are_not_judged() -> None:
    watch = FrameWatch()
    watch.find_breach(PREFACE + headers(5).serialize())
    for stream in range(9, 9 + 4 * 5_000, 4):
        assert watch.find_breach(headers(stream, end=True).serialize()) is None
    assert len(watch._streams) + len(watch._older) <= 1_024
    assert watch.find_breach(headers(5, end=True).serialize()) is None
    assert watch.find_breach(headers(3).serialize()) is None
    assert watch.find_breach(headers(19_999).serialize()) == (0, PASSED_OVER)
