"""What parts of a text are: mentions, code, links. The text itself is never parsed, so who sends says it.

`start` and `length` count code points, as Python's `len` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from re import compile as regex
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class UserMention:
    """A user is meant; one that is no member when the message is committed is left out there."""

    start: int
    length: int
    user_id: str


class BroadcastAudience(Enum):
    """Which members a broadcast mention is for; kinds newer than this client read as ALL."""

    ALL = "all"
    HERE = "here"


@dataclass(frozen=True, slots=True, kw_only=True)
class BroadcastMention:
    """All members are meant; in groups of more than 100 only owners and admins may."""

    start: int
    length: int
    audience: BroadcastAudience = BroadcastAudience.ALL


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """Code, to be shown as it is; `language` only of a block."""

    start: int
    length: int
    is_block: bool = False
    language: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A link: http, https or mailto."""

    start: int
    length: int
    url: str


TextEntity = UserMention | BroadcastMention | Code | Link

_MENTION: Final = regex(r"(?<![\w@`])@([a-zA-Z0-9_.-]{3,32})")
_CODE: Final = regex(r"`[^`]+`")


def mentions_of(text: str, user_ids: Mapping[str, str]) -> list[TextEntity]:
    """Finds `@name`, `@all` and `@here` as people type them; between `back-ticks` there are none.

    Args:
        text: what was typed.
        user_ids: whom names mean, by login name in lower case; other names stay words.
    """
    code = [match.span() for match in _CODE.finditer(text)]
    found: list[TextEntity] = []
    for match in _MENTION.finditer(text):
        start, end = match.span()
        name = match[1].lower()
        while name.endswith((".", "-")) and name not in user_ids:  # the end of a sentence
            name, end = name[:-1], end - 1
        if any(first <= start < last for first, last in code):
            continue
        if name in ("all", "here"):
            audience = BroadcastAudience(name)
            found.append(BroadcastMention(start=start, length=end - start, audience=audience))
        elif name in user_ids:
            found.append(UserMention(start=start, length=end - start, user_id=user_ids[name]))
    return found
