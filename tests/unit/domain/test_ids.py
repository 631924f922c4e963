"""Forms of ids, their times, and ids that are derived."""

import sys
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub_server.domain.ids import (
    canonical_uuid,
    direct_conversation_id,
    group_conversation_id,
    is_conversation_id,
    is_user_id,
    shard_of,
    uuid7_time_ms,
)
from tests.unit.domain.builders import ALICE, BOB, CAROL, uuid4, uuid7

KEY = b"k" * 32


@pytest.mark.parametrize("text", ["c1", "c" + "z" * 31])
def test_conversation_id_of_2_to_32_characters_has_the_form(text: str) -> None:
    assert is_conversation_id(text)
    assert not is_user_id(text)
    assert is_user_id("u" + text[1:])
    assert not is_conversation_id("u" + text[1:])


@pytest.mark.parametrize("tail", ["", "z" * 32, "A", "a.b", "*", ">", "a b", "a\n", "é", "٣", "a-b", "a\0"], ids=repr)
def test_id_that_is_no_subject_token_or_too_long_is_refused(tail: str) -> None:
    """TRAPS 3.14: a dot, a star or a space would change the route."""
    assert not is_conversation_id("c" + tail)
    assert not is_user_id("u" + tail)


@given(st.uuids())
def test_uuid_in_any_case_has_one_canonical_form(value: uuid.UUID) -> None:
    assert canonical_uuid(str(value).upper()) == canonical_uuid(str(value)) == str(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0" * 32,
        "{01890a5d-ac96-774b-bcce-b302099a8057}",
        "urn:uuid:01890a5d-ac96-774b-bcce-b302099a8057",
        "01890a5d-ac96-774b-bcce-b302099a805",
        "01890a5d-ac96-774b-bcce-b302099a80577",
        "01890a5d-ac96-774b-bcce-b302099a8057\n",
        "01890a5g-ac96-774b-bcce-b302099a8057",
        "01890a5d_ac96_774b_bcce_b302099a8057",
    ],
)
def test_other_spellings_of_a_uuid_are_refused(text: str) -> None:
    assert canonical_uuid(text) is None


def test_no_other_character_folds_into_a_hexadecimal_digit() -> None:
    """An id with two spellings would be two messages (G3)."""
    digits = set("0123456789abcdef-")
    folding = [chr(c) for c in range(128, sys.maxunicode + 1) if set(chr(c).lower()) & digits]
    assert all(canonical_uuid("0" * 7 + c + "-0000-0000-0000-" + "0" * 12) is None for c in folding)


@given(st.integers(0, 2**48 - 1))
def test_time_of_a_uuid7_comes_back(time_ms: int) -> None:
    assert uuid7_time_ms(uuid7(time_ms)) == time_ms


@pytest.mark.parametrize("version", [version for version in "012345689abcdef"])
def test_other_versions_have_no_time(version: str) -> None:
    assert uuid7_time_ms(f"01890a5d-ac96-{version}74b-bcce-b302099a8057") is None
    assert uuid7_time_ms(uuid4()) is None


def test_direct_conversation_has_one_id_whoever_starts() -> None:
    """C05: each pair has its own log."""
    assert direct_conversation_id(KEY, ALICE, BOB) == direct_conversation_id(KEY, BOB, ALICE)
    assert is_conversation_id(direct_conversation_id(KEY, ALICE, BOB))
    others = {direct_conversation_id(KEY, ALICE, CAROL), direct_conversation_id(KEY, BOB, CAROL)}
    assert direct_conversation_id(KEY, ALICE, BOB) not in others
    assert direct_conversation_id(b"x" * 32, ALICE, BOB) != direct_conversation_id(KEY, ALICE, BOB)


def test_group_id_follows_from_creator_and_request() -> None:
    first = group_conversation_id(KEY, ALICE, uuid4(1))
    assert first == group_conversation_id(KEY, ALICE, uuid4(1))
    assert is_conversation_id(first)
    assert first not in {group_conversation_id(KEY, BOB, uuid4(1)), group_conversation_id(KEY, ALICE, uuid4(2))}


def test_shard_of_a_topic_never_changes() -> None:
    """Stored subjects depend on these values."""
    assert [shard_of(topic, 8) for topic in (ALICE, BOB, CAROL)] == [3, 0, 7]
    assert all(0 <= shard_of(topic, 3) < 3 for topic in (ALICE, BOB, CAROL))
