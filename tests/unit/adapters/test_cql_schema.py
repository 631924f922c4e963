"""The texts that make the schema. ScyllaDB was not at hand: what concerns it is checked as text."""

import re
from dataclasses import replace

import pytest
from cassandra import InvalidRequest

from hubbub_server.adapters.cql import schema
from hubbub_server.adapters.cql.cluster import CqlEndpoint
from hubbub_server.adapters.cql.schema import MIGRATIONS, bucket_of, check_version, id_slot, keyspace_cql
from hubbub_server.domain.errors import StoreUnavailable

ENDPOINT = CqlEndpoint(contact_points=("127.0.0.1",), port=9042, datacenter="dc1", keyspace="hubbub", replicas=3)


def test_keyspace_of_cassandra() -> None:
    assert keyspace_cql(ENDPOINT) == (
        "CREATE KEYSPACE IF NOT EXISTS hubbub WITH replication = {'class': 'NetworkTopologyStrategy', 'dc1': 3} "
        "AND durable_writes = true"
    )


@pytest.mark.parametrize(("tablets", "text"), [(True, "true"), (False, "false")])
def test_keyspace_of_scylladb_says_whether_it_has_tablets(tablets: bool, text: str) -> None:
    """They are fixed when the keyspace is made."""
    assert keyspace_cql(replace(ENDPOINT, tablets=tablets)).endswith(f" AND tablets = {{'enabled': {text}}}")


@pytest.mark.parametrize("keyspace", ["", "Hubbub", "hub bub", "1hub", "h" * 49, "hubbub; DROP KEYSPACE x"])
def test_keyspace_has_a_plain_name(keyspace: str) -> None:
    with pytest.raises(ValueError, match="keyspace"):
        keyspace_cql(replace(ENDPOINT, keyspace=keyspace))


def test_datacenter_cannot_end_the_text() -> None:
    with pytest.raises(ValueError, match="datacenter"):
        keyspace_cql(replace(ENDPOINT, datacenter="dc1': 3}; --"))


@pytest.mark.parametrize("migration", MIGRATIONS)
def test_migrations_only_add_and_may_run_twice(migration: str) -> None:
    """Old and new nodes work side by side, and an interrupted run is finished by the next.

    ScyllaDB has no IF NOT EXISTS for columns; there what it answers says that they are there.
    """
    assert re.match(r"CREATE TABLE IF NOT EXISTS |ALTER TABLE \w+ ADD \(", migration)


class _Refusing:
    """The driver's session with a server that refuses all changes."""

    def __init__(self, text: str) -> None:
        self.text = text

    def execute(self, statement: str, *, timeout: float) -> None:
        raise InvalidRequest(self.text)


@pytest.mark.parametrize(
    "answer",
    [
        "Column with name 'framed' already exists",  # Cassandra 5
        "Invalid column name framed because it conflicts with an existing column",  # ScyllaDB, Cassandra 3
    ],
)
def test_columns_that_an_interrupted_run_added_are_no_failure(answer: str) -> None:
    schema._change_once(_Refusing(answer), "ALTER TABLE user_topics ADD (framed blob)")


@pytest.mark.parametrize(
    ("statement", "answer"),
    [
        ("ALTER TABLE user_topics ADD (framed blob)", "unconfigured table user_topics"),
        ("CREATE TABLE IF NOT EXISTS mentions (user_id text PRIMARY KEY)", "a type of that name already exists"),
    ],
)
def test_any_other_refusal_of_a_change_is_one(statement: str, answer: str) -> None:
    with pytest.raises(InvalidRequest):
        schema._change_once(_Refusing(answer), statement)


@pytest.mark.parametrize("migration", MIGRATIONS)
def test_tables_have_nothing_that_scylladb_with_tablets_lacks(migration: str) -> None:
    """And no collections, no time to live, no time windows: none of them goes with replays."""
    unwanted = r"\bcounter\b|\bcdc\b|\bVIEW\b|\bINDEX\b|\b(list|set|map)<|time_to_live|TimeWindow"

    assert not re.search(unwanted, migration, re.IGNORECASE)


def test_buckets_change_at_multiples_of_4096() -> None:
    assert [bucket_of(number) for number in (1, 4_095, 4_096, 8_191, 8_192)] == [0, 0, 1, 1, 2]


def test_slots_are_what_stored_rows_say() -> None:
    """Fixed for ever: another slot would not find what is stored."""
    assert [id_slot(f"00000000-0000-4000-8000-{n:012d}") for n in (1, 2, 3)] == [1, 59, 45]


def test_older_tables_are_refused_and_newer_ones_to_writers() -> None:
    """A newer one has columns that this program would leave empty."""
    known = len(MIGRATIONS)

    check_version(known, for_writing=True)
    check_version(known + 1, for_writing=False)
    for version, for_writing in ((known - 1, False), (0, True), (known + 1, True)):
        with pytest.raises(StoreUnavailable):
            check_version(version, for_writing=for_writing)
