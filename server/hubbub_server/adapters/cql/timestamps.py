"""The timestamp law, and the only place that makes writes.

CQL keeps, of each cell, the value with the largest write timestamp. So when the timestamp is the place of the event
that caused the write, `epoch << 40 | position`, writes commute: again, late, or from two workers at once, they end in
the same rows. It holds only if *every* write obeys it, repair tools included: one plain UPDATE carries the wall clock,
and one plain DELETE shadows its rows, so that the projector could never write them again. Therefore:

* Writes are `Insert` statements made here; a session prepares nothing else that writes (`check_is_timed`).
* A cell has one source topic, so places compare. New projection code writes new columns, never other values at old
  places: at equal timestamps CQL keeps the larger value.
* No null is bound: it is a delete, and leaves a tombstone a row.
* No TTL on what can be replayed: it would come back.

*Merged* cells make use of that tie. A cell that is the maximum of all that was ever written to it stands at one fixed
place, (0, 0), which is before every event: there every write has the same timestamp, so the largest value stays,
whatever came last. (For a non-negative bigint the larger value is the larger number.)
"""

import re
from dataclasses import dataclass
from typing import Final

_POSITION_BITS: Final = 40
_EPOCH_MAX: Final = (1 << 10) - 1
"""Timestamps count as microseconds since 1970. This keeps them before 2006: ScyllaDB refuses those of the future."""

_MERGE_TIMESTAMP: Final = 0
_TIMED: Final = re.compile(r"(INSERT INTO .*|DELETE .*|UPDATE \S+) USING TIMESTAMP \?(?! AND TTL)( .*)?", re.DOTALL)


def timestamp_of(epoch: int, position: int) -> int:
    """Returns the write timestamp of what the event at this place caused; both count from 1."""
    if not (1 <= epoch <= _EPOCH_MAX and 1 <= position < 1 << _POSITION_BITS):
        raise ValueError(f"epoch {epoch}, position {position} is no place of an event")
    return epoch << _POSITION_BITS | position


def check_is_timed(cql: str) -> None:
    """Raises ValueError for a statement that writes without a timestamp of its own, or for a time only."""
    statement = cql.strip()
    if not (statement.startswith("SELECT ") or _TIMED.fullmatch(statement)):
        raise ValueError(f"a write without USING TIMESTAMP, or no statement of ours: {statement}")


@dataclass(frozen=True, slots=True)
class Write:
    """A statement and the values of its markers, the timestamp last."""

    cql: str
    values: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Insert:
    """An upsert of some columns of a row. Columns that it does not name stay as they are."""

    cql: str

    @classmethod
    def into(cls, table: str, *columns: str) -> "Insert":
        """Makes the statement; `columns` begin with the primary key."""
        markers = ", ".join("?" * len(columns))
        return cls(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({markers}) USING TIMESTAMP ?")

    def at(self, epoch: int, position: int, *values: object) -> Write:
        """Returns the write that the event at this place causes; values in the order of the columns."""
        return self._write(timestamp_of(epoch, position), values)

    def merged(self, *values: object) -> Write:
        """Returns a write of a merged cell: it keeps the largest value."""
        return self._write(_MERGE_TIMESTAMP, values)

    def _write(self, timestamp: int, values: tuple[object, ...]) -> Write:
        if None in values:
            raise ValueError("null deletes: leave the column out, or write a value that says so")
        return Write(self.cql, (*values, timestamp))
