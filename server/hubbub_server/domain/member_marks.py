"""What each member of a conversation need not read: their own newest message, or the newest one when they joined.

So sending is reading (C25), and nobody finds a thousand unread messages on joining. Beside it the newest later message
that mentions them, which spares nearly every question to the store for mentions.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import field
from types import MappingProxyType

from hubbub_server.domain.frozen import dataclass
from hubbub_server.domain.ids import UserId

_RECENT_MAX = 64
_EMPTY: Mapping[UserId, "MemberMark"] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberMark:
    """The newest message that a member sent, or that was there when they joined; it and all before it count as read.

    `mention_number` is the newest message after it that mentions them; 0: none.
    """

    message_number: int = 0
    counted_number: int = 0
    mention_number: int = 0


@dataclasses.dataclass(slots=True, eq=False)
class MemberMarks:
    """An immutable map. Setting costs O(1) amortised: `_recent` is small and copied, `_settled` is shared."""

    _settled: Mapping[UserId, MemberMark] = field(default_factory=lambda: _EMPTY)
    _recent: Mapping[UserId, MemberMark] = field(default_factory=lambda: _EMPTY)

    def __eq__(self, other: object) -> bool:
        """Equal when they hold the same, however it is split."""
        return isinstance(other, MemberMarks) and dict(self.items()) == dict(other.items())

    def __hash__(self) -> int:
        """Never needed; it would cost a pass over all members."""
        raise TypeError("unhashable")

    def get(self, user_id: UserId) -> MemberMark | None:
        """Returns a member's mark; None for who is no member."""
        return self._recent.get(user_id) or self._settled.get(user_id)

    def items(self) -> Iterator[tuple[UserId, MemberMark]]:
        """Iterates over all of them."""
        return iter({**self._settled, **self._recent}.items())

    def with_all(self, changes: Mapping[UserId, MemberMark]) -> "MemberMarks":
        """Returns the map with these marks set."""
        recent = {**self._recent, **changes}
        if len(recent) < _RECENT_MAX:
            return MemberMarks(self._settled, recent)
        return MemberMarks({**self._settled, **recent}, _EMPTY)

    def without(self, user_id: UserId) -> "MemberMarks":
        """Returns the map without a user's mark."""
        return MemberMarks({u: mark for u, mark in self.items() if u != user_id}, _EMPTY)
