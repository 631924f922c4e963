"""An instance whose store is a CQL server, made by `hubbub migrate`."""

import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from hubbub_server.adapters.cql.schema import MIGRATIONS
from tests.e2e.instance import READY_S, Instance, Person
from tests.support.cassandra import KEYSPACE, CassandraServer
from tests.support.services import Services
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(600)

BACK_S = 120.0


@pytest.fixture
def server(services: Services, monkeypatch: pytest.MonkeyPatch) -> CassandraServer:
    """The shared server, and settings that name it."""
    server = services.cassandra()
    server.empty_tables()
    monkeypatch.setenv("HUBBUB_STORE__KIND", "cql")
    monkeypatch.setenv("HUBBUB_STORE__CQL__PORT", str(server.port))
    monkeypatch.setenv("HUBBUB_STORE__CQL__KEYSPACE", KEYSPACE)
    return server


def stored_number(server: CassandraServer, conversation_id: str) -> int:
    """Reads up to which message the store has a conversation."""
    rows = server.admin().execute(
        "SELECT applied_message_number FROM conversations WHERE conversation_id = %s LIMIT 1", (conversation_id,)
    )
    return max((number or 0 for (number,) in rows), default=0)


def migrate() -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "hubbub_server", "migrate")
    return subprocess.run(command, capture_output=True, text=True, timeout=READY_S, check=False)


def test_migrate_says_what_it_did_or_why_it_cannot(server: CassandraServer, monkeypatch: pytest.MonkeyPatch) -> None:
    again = migrate()
    monkeypatch.setenv("HUBBUB_STORE__CQL__PORT", "1")
    refused = migrate()
    monkeypatch.setenv("HUBBUB_STORE__KIND", "sqlite")
    needless = migrate()

    assert (again.returncode, again.stdout.strip()) == (0, f"the store has version {len(MIGRATIONS)}, 0 steps new")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("hubbub: the store cannot be reached")
    assert (needless.returncode, needless.stdout.split(":")[0]) == (0, "nothing to do")


def test_outage_of_the_store_costs_no_message_and_is_caught_up(server: CassandraServer, tmp_path: Path) -> None:
    """G8: sends go on, also through a node that was started meanwhile and has the conversation not in memory."""
    with (
        Instance(tmp_path / "var") as instance,
        Person(instance.url, "erin") as erin,
        Person(instance.url, "frank") as frank,
    ):
        room = erin.talk_to(frank)
        assert erin.send(room, str(uuid.uuid4()), "one").status_code == 200
        wait_until(lambda: stored_number(server, room) == 1)

        server.kill()
        assert erin.send(room, _new_id(), "two").status_code == 200
        before = instance.kill("node-1")
        wait_until(lambda: instance.runs_again("node-1", before))
        wait_until(lambda: frank.call("GET", f"/v1/conversations/{room}/messages").status_code == 200)
        assert erin.send(room, _new_id(), "three").status_code == 200
        assert frank.texts(room) == ["one", "two", "three"]

        server.start()
        server.wait_ready()
        wait_until(lambda: stored_number(server, room) == 3, BACK_S)
        assert frank.texts(room) == ["one", "two", "three"]


def _new_id() -> str:
    """A UUIDv7 of now: the store need not be asked whether it was used."""
    from uuid_utils import uuid7

    return str(uuid7())
