"""What gRPC is over HTTP/2: heads of calls, messages in bytes, trailers."""

import itertools
from urllib.parse import unquote

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub_server.edge.grpc_messages import (
    METADATA_FIELD_BYTES,
    BadMessages,
    MessageReader,
    Refusal,
    RequestHead,
    decode_binary,
    encode_binary,
    percent_encode,
    prefixed,
    read_head,
    trailers_of,
)

CALL = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/a.B/C"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
]


def head_of(*more: tuple[bytes, bytes], metadata_max_bytes: int = 8_192) -> RequestHead:
    return read_head([*CALL, *more], metadata_max_bytes=metadata_max_bytes)


@given(st.lists(st.binary(max_size=40)), st.lists(st.integers(0, 300)))
def test_messages_are_found_however_their_bytes_were_cut(messages: list[bytes], cuts: list[int]) -> None:
    data = b"".join(map(prefixed, messages))
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    reader = MessageReader(40)

    found = [each for start, end in itertools.pairwise(edges) for each in reader.feed(data[start:end])]

    assert found == messages
    assert not reader.is_inside


def test_a_reader_knows_that_a_message_is_not_complete() -> None:
    reader = MessageReader(40)
    assert reader.feed(prefixed(b"whole") + prefixed(b"half")[:-1]) == [b"whole"]
    assert reader.is_inside


def test_a_message_of_the_largest_size_is_taken_and_one_more_byte_is_refused_at_its_prefix() -> None:
    assert MessageReader(10).feed(prefixed(b"x" * 10)) == [b"x" * 10]
    with pytest.raises(BadMessages) as refused:
        MessageReader(10).feed(prefixed(b"x" * 11)[:5])
    assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_compressed_message_is_refused() -> None:
    with pytest.raises(BadMessages) as refused:
        MessageReader(10).feed(b"\1\0\0\0\1x")
    assert refused.value.code is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize(
    ("text", "timeout_s"),
    [(b"1H", 3600.0), (b"2M", 120.0), (b"3S", 3.0), (b"250m", 0.25), (b"9u", 9e-6), (b"99999999n", 0.099999999)],
)
def test_a_deadline_is_read_in_every_unit(text: bytes, timeout_s: float) -> None:
    assert head_of((b"grpc-timeout", text)).timeout_s == pytest.approx(timeout_s)


@pytest.mark.parametrize("text", [b"", b"S", b"1", b"1s", b"-1S", b"1.5S", b"123456789S", b"1S\n", "\u0661S".encode()])
def test_a_malformed_deadline_is_refused(text: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        head_of((b"grpc-timeout", text))
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_metadata_is_what_belongs_to_the_call_and_binary_values_are_decoded() -> None:
    head = head_of((b"authorization", b"Bearer x"), (b"a-bin", b"AP8"), (b"a-bin", b"AP8="), (b"grpc-timeout", b"1S"))
    assert head.path == "/a.B/C"
    assert head.metadata == (("authorization", "Bearer x"), ("a-bin", b"\0\xff"), ("a-bin", b"\0\xff"))


@pytest.mark.parametrize("value", [b"A", b"not base64!", b"A==="])
def test_a_malformed_binary_value_is_refused(value: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        head_of((b"a-bin", value))
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_metadata_up_to_its_bound_is_taken_and_one_more_byte_is_refused() -> None:
    bound = len("te-t") + 10 + METADATA_FIELD_BYTES
    assert head_of((b"te-t", b"x" * 10), metadata_max_bytes=bound).metadata
    with pytest.raises(Refusal) as refused:
        head_of((b"te-t", b"x" * 11), metadata_max_bytes=bound)
    assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    "changed",
    [
        {b":method": b"GET"},
        {b"content-type": b"text/html"},
        {b"content-type": b"application/grpcx"},
        {b"content-type": b""},
    ],
)
def test_what_is_no_grpc_is_refused_with_a_status_of_http(changed: dict[bytes, bytes]) -> None:
    with pytest.raises(Refusal) as refused:
        read_head([(name, changed.get(name, value)) for name, value in CALL], metadata_max_bytes=8_192)
    assert refused.value.http_status == 415


@pytest.mark.parametrize("kind", [b"application/grpc+proto", b"application/grpc;charset=utf-8"])
def test_every_content_type_of_grpc_is_taken(kind: bytes) -> None:
    assert read_head([(n, kind if n == b"content-type" else v) for n, v in CALL], metadata_max_bytes=8_192).path


def test_compression_is_refused_with_what_is_taken_instead() -> None:
    with pytest.raises(Refusal) as refused:
        head_of((b"grpc-encoding", b"gzip"))
    assert refused.value.code is grpc.StatusCode.UNIMPLEMENTED
    assert (b"grpc-accept-encoding", b"identity") in refused.value.headers
    assert head_of((b"grpc-encoding", b"identity")).path


@given(st.text(max_size=100))
def test_a_message_of_a_status_survives_and_is_printable_ascii(text: str) -> None:
    encoded = percent_encode(text)
    assert unquote(encoded.decode("ascii")) == text.encode("utf-8", "replace").decode()
    assert all(0x20 <= byte < 0x7F for byte in encoded)


def test_a_long_message_of_a_status_is_cut() -> None:
    assert len(percent_encode("x" * 10_000)) == 2_048


@given(st.binary(max_size=50))
def test_binary_values_survive(value: bytes) -> None:
    encoded = encode_binary(value)
    assert not encoded.endswith(b"=")
    assert decode_binary(encoded) == value


def test_trailers_have_status_message_and_details() -> None:
    trailers = trailers_of(
        grpc.StatusCode.NOT_FOUND, "100 % gone\n", (("grpc-status-details-bin", b"\0\xff"), ("k", "v"))
    )
    assert trailers == [
        (b"grpc-status", b"5"),
        (b"grpc-message", b"100 %25 gone%0A"),
        (b"grpc-status-details-bin", b"AP8"),
        (b"k", b"v"),
    ]
