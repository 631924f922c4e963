"""What every level shares: markers by folder, the options of the suites, and no network in unit tests."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.services import Services

# A busy machine is slow, not wrong.
settings.register_profile("hubbub", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# For the mutants: what is killed once is killed each time, not by what happens to be drawn.
settings.register_profile("repeatable", settings.get_profile("hubbub"), derandomize=True, database=None)
settings.load_profile(os.environ.get("HUBBUB_HYPOTHESIS", "hubbub"))

TESTS = Path(__file__).resolve().parent
MARKER_OF_FOLDER = {
    "unit": "unit",
    "proto": "unit",
    "golden": "unit",
    "contract": "contract",
    "rpc": "rpc",
    "scenario": "scenario",
    "integration": "integration",
    "e2e": "e2e",
    "foreign": "foreign",
    "chaos": "chaos",
    "soak": "unit",
    "mutants": "unit",
    "fuzz": "unit",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options that choose what a suite runs on."""
    parser.addoption("--adapters", default="all", help='contract suites: comma-separated adapters, or "all"')
    parser.addoption("--harness", default="all", help='scenarios: comma-separated harnesses, or "all"')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks each test with the level of its folder; a folder without a level is an error."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        if folder not in MARKER_OF_FOLDER:
            raise pytest.UsageError(f"{item.path}: put tests in one of {', '.join(MARKER_OF_FOLDER)}")
        item.add_marker(getattr(pytest.mark, MARKER_OF_FOLDER[folder]))
    items.sort(key=lambda item: "unit" in item.keywords)  # the long ones first: they are to run side by side


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keeps tests together that share servers; see `make test`."""
    from tests.support.side_by_side import ByServers

    return ByServers(config, log)


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    """Servers that all tests of a run share, started when first asked for."""
    with Services() as started:
        yield started


@pytest.fixture(autouse=True)
def no_network_in_unit_tests(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuses connections from unit tests: what needs a socket belongs to another level."""
    if request.node.get_closest_marker("unit") is None:
        return

    def refuse(_socket: socket.socket, address: Any) -> None:
        pytest.fail(f"a unit test opened a connection to {address!r}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
