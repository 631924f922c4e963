"""docs/GUARANTEES.md says which test guards what: each of them is there; and so is each case that has to be a test."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.report import EXPECTED
from tests.chaos.catalogue import CATALOGUE

TESTS = Path(__file__).resolve().parents[1]
GUARANTEES = TESTS.parent / "docs" / "GUARANTEES.md"
MATRIX_COLUMNS = 8
CASES = (
    *("C06", "C07", "C11", "C13", "C17", "C21", "C25", "C26", "C30", "C31", "C33", "C34", "C35", "C39"),
    *("C41", "C42", "C65", "C81", "C82", "C85", "C87", "C89", "C90"),
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def named_tests() -> list[str]:
    """Returns what stands in backticks and names a file of tests, or a test of one after `::`."""
    return sorted(
        set(re.findall(r"`((?:[a-z0-9_/]+/)?test_[a-z0-9_]+\.py(?:::test_[a-z0-9_]+)?)`", GUARANTEES.read_text()))
    )


def functions(path: Path) -> Iterator[Function]:
    """Finds the tests of a file, those of classes too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, Function) and node.name.startswith("test_"):
            yield node


def machines(path: Path) -> list[str]:
    """Finds Hypothesis machines that are run: `TestX = X.TestCase`."""
    return re.findall(r"^(Test\w+)(?:: \w+)? = \w+\.TestCase$", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("named", named_tests())
def test_every_test_that_the_guarantees_name_is_there(named: str) -> None:
    path, _, function = named.partition("::")
    [found] = [each for each in TESTS.rglob(Path(path).name) if each.as_posix().endswith(f"/{path}")]
    names = [each.name for each in functions(found)] + machines(found)
    assert function in names if function else names


def test_every_folder_that_the_guarantees_name_has_tests() -> None:
    folders = re.findall(r"`(tests/[a-z0-9_/]+?)/?`", GUARANTEES.read_text())
    assert folders
    for folder in folders:
        assert [*(TESTS.parent / folder).glob("**/test_*.py"), *(TESTS.parent / folder).glob("*.patch")], folder


def test_every_mutant_that_the_guarantees_name_is_there() -> None:
    named = re.findall(r"`(G\d+-[a-z-]+)`", GUARANTEES.read_text())
    assert named
    assert not set(named) - {path.stem for path in (TESTS / "mutants").glob("*.patch")}


def test_every_measurement_that_the_guarantees_name_is_one_of_the_report() -> None:
    named = re.findall(r"`python -m bench\.([a-z_]+)`", GUARANTEES.read_text())
    assert named
    assert not set(named) - set(EXPECTED)


def matrix() -> dict[tuple[str, ...], str]:
    """Returns the longest pauses of the failure matrix by the faults of chaos in their row."""
    rows = [line.split("|") for line in GUARANTEES.read_text().splitlines() if line.startswith("| ")]
    pauses = {tuple(row[7].strip().split(", ")): row[8].strip() for row in rows if len(row) == MATRIX_COLUMNS + 2}
    return {faults: pause for faults, pause in pauses.items() if faults not in (("–",), ("faults of chaos",))}


def test_every_fault_of_chaos_stands_in_one_row_of_the_matrix() -> None:
    faults = [fault for row in matrix() for fault in row]
    assert sorted(faults) == sorted(kind.name for kind in CATALOGUE)


@pytest.mark.parametrize(("faults", "pause"), matrix().items(), ids=lambda value: str(value[0]))
def test_pauses_of_the_matrix_are_those_of_the_report(faults: tuple[str, ...], pause: str) -> None:
    measured = json.loads((TESTS.parent / "docs" / "report.json").read_text())["figures"]["chaos"]["faults"]
    both = ("longest_pause_s", "slowest_send_s")
    assert pause == " · ".join(f"{max(measured[fault][name] for fault in faults):.1f}" for name in both)


def test_every_case_is_named_by_a_test() -> None:
    paths = TESTS.glob("*/**/test_*.py")
    text = " ".join(ast.get_docstring(test) or "" for path in paths for test in functions(path))
    assert not set(CASES) - set(re.findall(r"\bC\d\d\b", text))
