"""Every foreign client plays tests/foreign/steps.py, straight to a node and through Envoy, with the same outcome."""

from typing import Any

import pytest

from bench.figure import write_figure
from tests.foreign.clients import Client
from tests.foreign.stage import ROLES, SETTINGS, Lines, Played, play_all
from tests.foreign.steps import STEPS, Step

# The first one builds the clients, and waits for the longest step of all.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """What came of all clients."""
    result = play_all(tmp_path_factory.mktemp("foreign"))
    write_matrix(result)
    return result


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
@pytest.mark.parametrize(("client", "path"), ROLES, ids=lambda part: part.name if isinstance(part, Client) else part)
def test_every_client_has_the_same_outcome_of_each_step(played: Played, client: Client, path: str, step: Step) -> None:
    if client.name in played.missing:
        pytest.skip(played.missing[client.name])
    lines = played.lines[client.name, path]
    assert outcome_of(lines, step) == step.outcome, [line for line in lines if "error" in line]


@pytest.mark.parametrize("path", SETTINGS)
def test_no_stream_is_left_when_all_clients_are_gone(played: Played, path: str) -> None:
    """Also not those that ended by a deadline, were cancelled, or whose connection was closed."""
    assert played.left[path] == 0


def outcome_of(lines: Lines, step: Step) -> Any:
    """Returns what a client saw in a step; None when it did not get there."""
    return next((line.get("outcome") for line in lines if line["step"] == step.name), None)


def write_matrix(result: Played) -> None:
    """Keeps client × path × step: the seconds of each that had the expected outcome."""
    matrix: dict[str, dict[str, dict[str, float | str]]] = {}
    for (name, path), lines in result.lines.items():
        cells = matrix.setdefault(name, {}).setdefault(path, {})
        for step in STEPS:
            took = next((line.get("seconds", 0.0) for line in lines if line["step"] == step.name), 0.0)
            cells[step.name] = took if outcome_of(lines, step) == step.outcome else "differs"
    holds = not any("differs" in cells.values() for paths in matrix.values() for cells in paths.values())
    if not result.missing:
        figures = {"seconds": matrix, "streams_left": result.left}
        write_figure("foreign_clients", "make test, pytest tests/foreign", figures, holds=holds)
