"""The timestamp law: nothing that writes goes without the place of the event that caused it."""

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub_server.adapters.cql import event_store, message_store, projection, topic_directory
from hubbub_server.adapters.cql.cluster import CqlEndpoint
from hubbub_server.adapters.cql.session import CqlSession
from hubbub_server.adapters.cql.timestamps import Insert, check_is_timed, timestamp_of

ROOT = Path(__file__).parents[3]
SQLITE = ROOT / "server/hubbub_server/adapters/sqlite"
ENDPOINT = CqlEndpoint(contact_points=("127.0.0.1",), port=1, datacenter="dc", keyspace="k")
WRITES = re.compile(r"^\s*(INSERT|UPDATE|DELETE|BEGIN|TRUNCATE)\b")
PLACES = st.tuples(st.integers(1, 1_023), st.integers(1, 2**40 - 1))


def texts_in(path: Path) -> list[str]:
    """Returns all strings of a module, those in f-strings with what they interpolate left out."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "X" for part in node.values]
            found.append("".join(str(part) for part in parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def test_every_text_that_writes_carries_a_timestamp() -> None:
    """Also a migration's own row, a tool, a measurement, and whatever is added later: only SQL is not looked at."""
    paths = [path for folder in ("server", "bench", "scripts") for path in (ROOT / folder).rglob("*.py")]
    writing = [text for path in paths if SQLITE not in path.parents for text in texts_in(path) if WRITES.match(text)]

    assert len(writing) >= 2  # the maker of all inserts, and the row of a migration
    # A part of an f-string is its beginning alone; then the whole is looked at as well.
    whole = [text for text in writing if not text.endswith(("INTO ", "UPDATE "))]
    assert [text for text in whole if "USING TIMESTAMP" not in text] == []


def test_every_statement_of_the_four_ports_keeps_the_law() -> None:
    selects = [*event_store.SELECTS, *message_store.SELECTS, *topic_directory.SELECTS, *projection.SELECTS]

    for statement in (*selects, *(insert.cql for insert in projection.INSERTS)):
        check_is_timed(statement)
    assert all(select.lstrip().startswith("SELECT ") for select in selects)


def test_statements_use_nothing_that_scylladb_with_tablets_lacks() -> None:
    """No lightweight transactions, no time to live, no collections, no counters."""
    texts = " ".join(insert.cql for insert in projection.INSERTS)

    assert not re.search(r"\bIF\b|\bTTL\b|[+{\[]", texts)


@pytest.mark.parametrize(
    "plain",
    [
        "INSERT INTO t (a) VALUES (?)",
        "UPDATE t SET b = ? WHERE a = ?",
        "DELETE FROM t WHERE a = ?",
        "DELETE b FROM t WHERE a = ?",
        "TRUNCATE t",
        "INSERT INTO t (a) VALUES (?) USING TTL ?",
        "INSERT INTO t (a) VALUES (?) USING TTL ? AND TIMESTAMP ?",
        "INSERT INTO t (a) VALUES (?) USING TIMESTAMP ? AND TTL ?",
        "INSERT INTO t (a) VALUES (?) USING TIMESTAMP 5",
        "BEGIN BATCH INSERT INTO t (a) VALUES (?) USING TIMESTAMP ? APPLY BATCH",
    ],
)
def test_session_does_not_take_a_plain_write(plain: str) -> None:
    """A repair tool that goes past the law cannot be written with our session."""
    with pytest.raises(ValueError, match="TIMESTAMP"):
        check_is_timed(plain)
    with pytest.raises(ValueError, match="TIMESTAMP"):
        CqlSession(ENDPOINT, selects=[plain])


@pytest.mark.parametrize(
    "timed",
    [
        "UPDATE t USING TIMESTAMP ? SET b = ? WHERE a = ?",
        "DELETE FROM t USING TIMESTAMP ? WHERE a = ?",
        "INSERT INTO t (a) VALUES (?) USING TIMESTAMP ?",
    ],
)
def test_updates_and_deletes_with_a_timestamp_are_taken(timed: str) -> None:
    check_is_timed(timed)


@given(first=PLACES, second=PLACES)
def test_timestamps_are_in_the_order_of_places(first: tuple[int, int], second: tuple[int, int]) -> None:
    """The epoch counts before the position."""
    assert (timestamp_of(*first) < timestamp_of(*second)) == (first < second)


@given(place=PLACES)
def test_timestamps_never_lie_in_the_future(place: tuple[int, int]) -> None:
    """Servers may refuse those that do; 2006 in microseconds."""
    assert 0 < timestamp_of(*place) < 1_136_073_600_000_000


@pytest.mark.parametrize("place", [(0, 1), (1, 0), (-1, 1), (1, -1), (1_024, 1), (1, 2**40)])
def test_what_is_no_place_has_no_timestamp(place: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no place"):
        timestamp_of(*place)


def test_null_is_never_bound() -> None:
    """It would be a delete, with a tombstone."""
    insert = Insert.into("t", "a", "b")

    with pytest.raises(ValueError, match="null"):
        insert.at(1, 1, "key", None)
    with pytest.raises(ValueError, match="null"):
        insert.merged("key", None)


def test_write_ends_with_its_timestamp() -> None:
    insert = Insert.into("t", "a", "b")

    assert insert.at(2, 5, "key", "value").values == ("key", "value", (2 << 40) + 5)
    assert insert.merged("key", 7).values == ("key", 7, 0)
