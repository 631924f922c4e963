"""The id window: which client ids a conversation has seen, so that a retried send is one message (G3).

Theory of operation. Every committed message enters the window under (sender, client id). Entries at or below the
store's applied position may leave it; they can still be looked up in the store. `floor_ms` is the largest time (commit
time, or the time inside a UUIDv7) of all entries that ever left. An id that is not in the window was certainly never
used if it is a UUIDv7 whose own time is after `floor_ms`: had it been used and left, the floor would not be below it.
This holds for any client clock. Every other missing id must be looked up. What a look-up finds is true; that it finds
nothing counts only if the store had applied everything that ever left the window when it was made.
"""

from collections.abc import Mapping
from dataclasses import field
from itertools import chain, islice, takewhile
from types import MappingProxyType

from hubbub_server.domain.frozen import dataclass
from hubbub_server.domain.ids import ClientMessageId, UserId, uuid7_time_ms
from hubbub_server.domain.limits import FUTURE_ID_TOLERANCE_MS

IdKey = tuple[UserId, ClientMessageId]

_RECENT_MAX = 64
_EMPTY: Mapping[IdKey, "IdEntry"] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class IdEntry:
    """The first use of a client id, and all that its repeated answer needs."""

    message_number: int
    content_hash: str
    epoch: int
    position: int
    commit_time_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IdLookup:
    """What the store knew of some ids: all that were used at or below `applied_position` are in `found`."""

    applied_position: int
    keys: frozenset[IdKey]
    found: Mapping[IdKey, IdEntry]


@dataclass(frozen=True, slots=True)
class IdWindow:
    """An immutable window. Adding costs O(1) amortised: `_recent` is small and copied, `_settled` is shared."""

    floor_ms: int = 0
    evicted_position: int = 0
    _settled: Mapping[IdKey, IdEntry] = field(default_factory=lambda: _EMPTY)
    _recent: Mapping[IdKey, IdEntry] = field(default_factory=lambda: _EMPTY)

    def __len__(self) -> int:
        """Number of entries."""
        return len(self._settled) + len(self._recent)

    def get(self, key: IdKey) -> IdEntry | None:
        """Returns the entry of an id, None when it is not in the window (which proves nothing by itself)."""
        return self._recent.get(key) or self._settled.get(key)

    def is_never_used(self, key: IdKey, now_ms: int) -> bool:
        """Tells that an id which is not in the window was certainly never used; False means: look it up."""
        id_time_ms = uuid7_time_ms(key[1])
        return id_time_ms is not None and self.floor_ms < id_time_ms <= now_ms + FUTURE_ID_TOLERANCE_MS

    def add(self, key: IdKey, entry: IdEntry) -> "IdWindow":
        """Returns a window that has one more entry."""
        recent = {**self._recent, key: entry}
        if len(recent) < _RECENT_MAX:
            return IdWindow(self.floor_ms, self.evicted_position, self._settled, recent)
        return IdWindow(self.floor_ms, self.evicted_position, {**self._settled, **recent}, _EMPTY)

    def trim(self, applied_position: int, capacity: int) -> "IdWindow":
        """Returns a window of at most `capacity` entries, if enough of them are at or below `applied_position`."""
        excess = max(len(self) - capacity, 0)
        in_commit_order = chain(self._settled.items(), self._recent.items())
        leaving = list(takewhile(lambda item: item[1].position <= applied_position, islice(in_commit_order, excess)))
        if not leaving:
            return self
        kept = {**self._settled, **self._recent}
        floor_ms, evicted_position = self.floor_ms, self.evicted_position
        for key, entry in leaving:
            del kept[key]
            floor_ms = max(floor_ms, entry_time_ms(key[1], entry.commit_time_ms))
            evicted_position = max(evicted_position, entry.position)
        return IdWindow(floor_ms, evicted_position, kept, _EMPTY)

    def floor_at(self, position: int) -> int:
        """Returns the floor, in milliseconds, as if all entries up to `position` had left."""
        entries = chain(self._settled.items(), self._recent.items())
        times_ms = (entry_time_ms(k[1], entry.commit_time_ms) for k, entry in entries if entry.position <= position)
        return max([self.floor_ms, *times_ms])

    def joined(self, older: "IdWindow") -> "IdWindow":
        """Returns a window with the entries of both; `older` is of the same conversation and reaches further back."""
        entries = {**older._settled, **older._recent, **self._settled, **self._recent}
        in_commit_order = dict(sorted(entries.items(), key=lambda item: item[1].position))
        return IdWindow(older.floor_ms, older.evicted_position, in_commit_order, _EMPTY)


def entry_time_ms(client_message_id: str, commit_time_ms: int) -> int:
    """Returns the time by which an entry raises the floor when it leaves: the larger of commit time and own time."""
    return max(commit_time_ms, uuid7_time_ms(client_message_id) or 0)
