"""Milliseconds and protobuf's times."""

from hypothesis import given
from hypothesis import strategies as st

from hubbub_server.wire.times import duration, milliseconds, timestamp
from hubbub_server.wire.varint import encode_varint, read_varint


@given(st.integers(min_value=-62_135_596_800_000, max_value=253_402_300_799_999))
def test_a_time_survives(time_ms: int) -> None:
    assert milliseconds(timestamp(time_ms)) == time_ms
    assert 0 <= timestamp(time_ms).nanos < 1_000_000_000


@given(st.floats(min_value=0, max_value=1e6))
def test_a_duration_is_rounded_up_to_a_millisecond(span_s: float) -> None:
    span_ms = duration(span_s).ToMilliseconds()

    assert -1e-6 <= span_ms / 1000 - span_s <= 0.001 + 1e-6


@given(st.integers(min_value=0, max_value=2**35 - 1), st.binary(max_size=5))
def test_a_varint_survives_before_other_bytes(number: int, rest: bytes) -> None:
    encoded = encode_varint(number)

    assert read_varint(encoded + rest, 0) == (number, len(encoded))
