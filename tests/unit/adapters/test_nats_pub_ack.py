"""Every answer to an append: acknowledged, refused, or unknown; nothing in between."""

import json

import pytest

from hubbub_server.adapters.nats.pub_ack import read_pub_ack
from hubbub_server.ports.topic_log import AppendUnknown, Conflict, LogFull


def refusal(code: int, text: str = "") -> bytes:
    return json.dumps(
        {"error": {"code": 400, "err_code": code, "description": text}, "stream": "LOG_1", "seq": 0}
    ).encode()


def test_an_acknowledgement_carries_the_sequence() -> None:
    assert read_pub_ack(b'{"stream":"LOG_1","seq":7}', "LOG_1") == 7


@pytest.mark.parametrize(
    "answer",
    [
        b'{"stream":"LOG_1","seq":7,"duplicate":true}',
        b'{"stream":"LOG_2","seq":7}',
        b'{"stream":"LOG_1"}',
        b'{"stream":"LOG_1","seq":"seven"}',
        b'{"stream":"LOG_1","seq":null}',
        b'{"error":"text"}',
        b'{"error":{"err_code":"x"}}',
        b"[]",
        b"7",
        b"",
        b"\xff",
    ],
)
def test_what_is_no_plain_acknowledgement_leaves_the_outcome_unknown(answer: bytes) -> None:
    """A duplicate flag too: something else was stored before, not this."""
    with pytest.raises(AppendUnknown):
        read_pub_ack(answer, "LOG_1")


@pytest.mark.parametrize("code", [10071, 10164])
def test_a_wrong_expectation_and_a_publish_in_flight_are_conflicts(code: int) -> None:
    """10164 comes from replicated streams only."""
    with pytest.raises(Conflict):
        read_pub_ack(refusal(code), "LOG_1")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (10047, "insufficient storage resources available"),
        (10023, "insufficient resources"),
        (10077, "maximum bytes exceeded"),
        (10077, "maximum messages exceeded"),
    ],
)
def test_a_limit_means_full(code: int, text: str) -> None:
    with pytest.raises(LogFull):
        read_pub_ack(refusal(code, text), "LOG_1")


@pytest.mark.parametrize(
    ("code", "text"), [(10077, "no space left on device"), (10008, "no leader"), (0, ""), (99999, "new")]
)
def test_any_other_refusal_leaves_the_outcome_unknown(code: int, text: str) -> None:
    """A failure to store may have happened on some replicas only."""
    with pytest.raises(AppendUnknown) as unknown:
        read_pub_ack(refusal(code, text), "LOG_1")

    assert not isinstance(unknown.value, LogFull)
