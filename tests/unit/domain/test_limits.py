"""What a text and a name may be: at the bound and one beside it."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub_server.domain.errors import InvalidField
from hubbub_server.domain.limits import (
    NAME_MAX_CHARACTERS,
    TEXT_MAX_BYTES,
    TEXT_MAX_CODE_POINTS,
    check_text,
    clean_name,
)

INVISIBLE = {
    "space": " ",
    "no-break space": "\u00a0",
    "newline": "\n",
    "zero width space": "\u200b",
    "zero width joiner": "\u200d",
    "word joiner": "\u2060",
    "soft hyphen": "\u00ad",
    "byte order mark": "\ufeff",
    "right-to-left override": "\u202e",
    "combining acute": "\u0301",
    "variation selector": "\ufe0f",
    "hangul filler": "\u3164",
    "halfwidth hangul filler": "\uffa0",
    "hangul choseong filler": "\u115f",
    "hangul jungseong filler": "\u1160",
    "braille blank": "\u2800",
    "null notehead": "\U0001d159",
    "tag space": "\U000e0020",
    "unassigned default ignorable": "\U000e0fff",
    "unassigned default ignorable in the basic plane": "\ufff0",
    "noncharacter": "\uffff",
}
VISIBLE = {
    "letter": "a",
    "digit": "7",
    "full stop": ".",
    "arabic": "س",
    "emoji": "🙂",
    "flag": "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "emoji newer than this Python's Unicode": "\U0001fae8",
    "private use": "\ue000",
    "family emoji": "👩‍👩‍👧",
}


@pytest.mark.parametrize("character", VISIBLE.values(), ids=VISIBLE.keys())
def test_one_visible_character_is_a_text(character: str) -> None:
    check_text("text", character)
    check_text("text", f" {character}\n")


@pytest.mark.parametrize("character", INVISIBLE.values(), ids=INVISIBLE.keys())
def test_text_without_anything_visible_is_refused(character: str) -> None:
    with pytest.raises(InvalidField, match="visible"):
        check_text("text", character * 3)


@pytest.mark.parametrize("text", ["x" * TEXT_MAX_CODE_POINTS, "🙂" * TEXT_MAX_CODE_POINTS])
def test_text_of_8000_code_points_is_accepted(text: str) -> None:
    check_text("text", text)


@pytest.mark.parametrize("text", ["", "x" * (TEXT_MAX_CODE_POINTS + 1)])
def test_text_of_none_or_8001_code_points_is_refused(text: str) -> None:
    with pytest.raises(InvalidField, match="code points") as refused:
        check_text("content.text.text", text)
    assert refused.value.field == "content.text.text"


def test_the_byte_limit_of_a_text_holds_for_the_widest_code_points() -> None:
    assert len(("🙂" * TEXT_MAX_CODE_POINTS).encode()) <= TEXT_MAX_BYTES


@pytest.mark.parametrize("name", ["x", "x" * NAME_MAX_CHARACTERS, "José", "سارة", "Zoë 🙂", "می‌خواهم", "👩‍🚀"])
def test_name_of_1_to_100_visible_characters_is_kept(name: str) -> None:
    assert clean_name("title", name) == unicodedata.normalize("NFC", name)


@pytest.mark.parametrize("name", ["", " ", "x" * (NAME_MAX_CHARACTERS + 1), *INVISIBLE.values()])
def test_name_that_is_empty_too_long_or_invisible_is_refused(name: str) -> None:
    with pytest.raises(InvalidField):
        clean_name("title", name)


@pytest.mark.parametrize("character", ["\u0000", "\u0007", "\n", "\u2028", "\u202e", "\u2066", "\u200b", "\u0085"])
def test_name_with_a_control_or_direction_character_inside_is_refused(character: str) -> None:
    """C62: a name that turns the text around it."""
    with pytest.raises(InvalidField, match="control"):
        clean_name("title", f"a{character}b")


def test_name_is_composed_and_trimmed_before_it_is_measured() -> None:
    assert clean_name("title", "  " + "e\u0301" * NAME_MAX_CHARACTERS + "\t\n") == "é" * NAME_MAX_CHARACTERS


@given(st.text(max_size=120))
def test_a_clean_name_stays_as_it_is(name: str) -> None:
    try:
        cleaned = clean_name("title", name)
    except InvalidField:
        return
    assert clean_name("title", cleaned) == cleaned
    assert 1 <= len(cleaned) <= NAME_MAX_CHARACTERS
