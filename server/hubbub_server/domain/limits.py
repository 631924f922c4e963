"""The limits of the contract, in one place, and the rules for text and names."""

import re
import unicodedata
from typing import Final

from hubbub_server.domain.errors import InvalidField

TEXT_MAX_CODE_POINTS: Final = 8_000
TEXT_MAX_BYTES: Final = 32 * 1024
NAME_MAX_CHARACTERS: Final = 100
FALLBACK_MAX_CODE_POINTS: Final = 500
FRAME_MAX_BYTES: Final = 256 * 1024
REQUEST_ID_MAX_CHARACTERS: Final = 64
RESUME_TOKEN_MAX_BYTES: Final = 4 * 1024
GROUP_MAX_MEMBERS: Final = 1_000
MEMBERS_PER_CHANGE: Final = 500
RECORD_MAX_EVENTS: Final = 256
RECORD_MAX_BYTES: Final = 200 * 1024
SYNC_MAX_CURSORS: Final = 500
SYNC_MAX_EVENTS: Final = 1_000
GAP_MESSAGES: Final = 50
GAP_MAX_BYTES: Final = 128 * 1024
PAGE_MAX_BYTES: Final = 256 * 1024
LIST_MAX_BYTES: Final = 1024 * 1024
HEADS_PER_FRAME: Final = 1_000
TYPING_INTERVAL_S: Final = 3.0
TYPING_EXPIRES_S: Final = 7.0
TYPING_MAX_MEMBERS: Final = 100
FUTURE_ID_TOLERANCE_MS: Final = 5 * 60 * 1000
PASSWORD_MIN_CODE_POINTS: Final = 8
PASSWORD_MAX_CODE_POINTS: Final = 256
USERS_PER_GET: Final = 200
ENTITIES_MAX: Final = 100
LINK_MAX_BYTES: Final = 2_048
LINKS_MAX_BYTES: Final = 8 * 1024
BROADCAST_FREE_MEMBERS: Final = 100
"""Groups of more members leave @here and @all to owners and admins."""
RECEIPTS_FULL_MEMBERS: Final = 100
RECEIPTS_COUNT_MEMBERS: Final = 1_000
READERS_MAX: Final = 100
MENTION_COUNT_MAX: Final = 1_000
PINNED_MAX: Final = 20
DRAFTS_MAX: Final = 50
DRAFTS_MAX_BYTES: Final = 128 * 1024
BLOCKED_MAX: Final = 5_000
QUIET_HOURS_MAX: Final = 14
STATUS_TEXT_MAX_CODE_POINTS: Final = 100
STATUS_EMOJI_MAX_CODE_POINTS: Final = 16

# Letters and symbols that draw nothing: Hangul fillers, the braille blank, the null notehead.
_BLANKS: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800\U0001d159")
# Format characters with a use inside words and emoji: ZWNJ, ZWJ, and the tags of flag emoji.
_ALLOWED_FORMATS: Final = frozenset("\u200c\u200d") | {chr(c) for c in range(0xE0020, 0xE0080)}


def _is_visible(character: str) -> bool:
    category = unicodedata.category(character)
    if category == "Cn":  # unassigned: perhaps an emoji that is newer than this Python
        return not _is_never_drawn(ord(character))
    return (category[0] in "LNPS" or category == "Co") and character not in _BLANKS


def _is_never_drawn(code_point: int) -> bool:
    is_noncharacter = 0xFDD0 <= code_point <= 0xFDEF or code_point & 0xFFFE == 0xFFFE
    is_ignorable = code_point == 0x2065 or 0xFFF0 <= code_point <= 0xFFF8 or 0xE0000 <= code_point <= 0xE0FFF
    return is_noncharacter or is_ignorable


def check_text(field: str, text: str) -> None:
    """Checks a message text: 1 to 8,000 code points, at most 32 KiB of UTF-8, something visible in it.

    Raises:
        InvalidField: it breaks one of them.
    """
    if not 1 <= len(text) <= TEXT_MAX_CODE_POINTS:
        raise InvalidField(field, f"1 to {TEXT_MAX_CODE_POINTS} code points")
    if len(text.encode()) > TEXT_MAX_BYTES:
        raise InvalidField(field, f"at most {TEXT_MAX_BYTES} bytes of UTF-8")
    if not any(map(_is_visible, text)):
        raise InvalidField(field, "at least one visible character")


def check_draft(field: str, text: str) -> None:
    """Checks a draft: as a message text, but it may be empty, or invisible. Raises InvalidField."""
    if len(text) > TEXT_MAX_CODE_POINTS or len(text.encode()) > TEXT_MAX_BYTES:
        raise InvalidField(field, f"at most {TEXT_MAX_CODE_POINTS} code points and {TEXT_MAX_BYTES} bytes of UTF-8")


def clean_name(field: str, name: str) -> str:
    """Returns a display name or title in NFC without outer white space: 1 to 100 characters, none of them a control.

    Raises:
        InvalidField: it is empty, too long, invisible, or holds control or direction characters.
    """
    cleaned = unicodedata.normalize("NFC", name).strip()
    if not 1 <= len(cleaned) <= NAME_MAX_CHARACTERS:
        raise InvalidField(field, f"1 to {NAME_MAX_CHARACTERS} visible characters")
    if not any(map(_is_visible, cleaned)):
        raise InvalidField(field, "at least one visible character")
    if has_control(cleaned):
        raise InvalidField(field, "no control or direction characters")
    return cleaned


def has_control(text: str) -> bool:
    """Tells whether a text that is shown beside others has characters that would change how those are shown."""
    controls = (c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp"))
    return any(character not in _ALLOWED_FORMATS for character in controls)


_LOGIN_NAME = re.compile(r"[a-z0-9_.-]{3,32}\Z")


def clean_login_name(field: str, name: str) -> str:
    """Returns a login name with upper case folded: 3 to 32 of [a-z0-9_.-].

    Raises:
        InvalidField: it is none. Folding is ASCII only: the Kelvin sign is no k.
    """
    if not name.isascii() or not _LOGIN_NAME.match(folded := name.lower()):
        raise InvalidField(field, "3 to 32 of [a-z0-9_.-]")
    return folded
