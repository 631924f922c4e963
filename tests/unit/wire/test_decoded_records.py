"""Records that were decoded before."""

import pytest

from hubbub_server.ports.record_codec import RecordUndecodable
from hubbub_server.wire.decoded_records import DecodedRecords
from hubbub_server.wire.record_codec import ProtoRecordCodec
from tests.unit.domain.builders import ALICE, NOW_MS, events_of, group, send, uuid7

PLAIN = ProtoRecordCodec()


def body(number: int) -> bytes:
    (event,) = events_of(group(), send(ALICE, uuid7(NOW_MS, number)))
    return PLAIN.encode(event)


def test_a_record_is_decoded_once() -> None:
    """Whatever object has its bytes: each role has read them by itself."""
    codec = DecodedRecords(PLAIN)
    first = codec.decode(body(1))

    assert codec.decode(bytes(bytearray(body(1)))) is first
    assert first == PLAIN.decode(body(1))


def test_the_oldest_leave_when_bodies_are_too_many() -> None:
    codec = DecodedRecords(PLAIN, max_bytes=2 * len(body(1)))
    first, second, third = map(codec.decode, map(body, (1, 2, 3)))

    assert codec.decode(body(3)) is third
    assert codec.decode(body(2)) is second
    assert codec.decode(body(1)) is not first


def test_a_body_that_is_too_large_is_decoded_all_the_same() -> None:
    codec = DecodedRecords(PLAIN, max_bytes=1)

    assert codec.decode(body(1)) == PLAIN.decode(body(1))


def test_what_is_no_record_is_refused_each_time() -> None:
    codec = DecodedRecords(PLAIN)
    for _ in range(2):
        with pytest.raises(RecordUndecodable):
            codec.decode(b"x")
