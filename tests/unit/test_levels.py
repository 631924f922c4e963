"""CI's last word: which levels and adapters ran."""

from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest

from scripts import levels
from tests.support.account_stores import ACCOUNTS
from tests.support.logs import LOGS
from tests.support.node_registries import REGISTRIES
from tests.support.stores import STORES
from tests.support.worker_ports import DEAD_LETTERS, LEASES


def everything() -> dict[tuple[str, str], str]:
    """A run in which each level and each adapter has one test; values are what junit says about it."""
    ran = {(f"tests.{level}.test_it", "test_x"): "" for level in levels.LEVELS}
    return ran | {("tests.contract.test_port", f"test_x[{adapter}]"): "" for adapter in levels.ADAPTERS}


def judged(folder: Path, *runs: Mapping[tuple[str, str], str]) -> int:
    """Judges runs of tests, one file a run."""
    paths = []
    for index, run in enumerate(runs):
        cases = "".join(
            f"<testcase classname='{classname}' name={quoteattr(name)}>{outcome and f'<{outcome}/>'}</testcase>"
            for (classname, name), outcome in run.items()
        )
        paths.append(folder / f"{index}.xml")
        paths[-1].write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    return levels.judge(levels.read(str(path) for path in paths))


def test_run_of_every_level_on_every_adapter_is_good(tmp_path: Path) -> None:
    assert judged(tmp_path, everything()) == 0


@pytest.mark.parametrize("left_out", [key for key in everything() if key != ("tests.contract.test_it", "test_x")])
def test_level_or_adapter_that_did_not_run_fails(
    tmp_path: Path, left_out: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    ran = {key: outcome for key, outcome in everything().items() if key != left_out}
    assert judged(tmp_path, ran) == 1
    assert "did not run: " in capsys.readouterr().out


@pytest.mark.parametrize("outcome", ["skipped", "failure", "error"])
def test_contract_that_was_skipped_or_failed_on_an_adapter_fails(
    tmp_path: Path, outcome: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without Java the CQL tests say so and are skipped: good enough for a laptop, not for CI."""
    ran = everything() | {("tests.contract.test_port", "test_y[cql-5]"): outcome}
    assert judged(tmp_path, ran) == 1
    assert "1/1" in capsys.readouterr().out


def test_foreign_client_that_was_skipped_fails_and_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = everything() | {("tests.foreign.test_clients", "test_x[grpc-go-direct-hello]"): "skipped"}
    assert judged(tmp_path, ran) == 1
    assert "did not run: grpc-go\n" in capsys.readouterr().out


def test_test_that_passed_when_it_ran_again_counts_as_passed(tmp_path: Path) -> None:
    key = ("tests.unit.test_it", "test_x")
    assert judged(tmp_path, everything() | {key: "failure"}, {key: ""}) == 0


def test_every_adapter_of_the_contract_suites_is_counted() -> None:
    registries: tuple[Mapping[str, object], ...] = (STORES, LOGS, ACCOUNTS, LEASES, DEAD_LETTERS, REGISTRIES)
    assert {name for registry in registries for name in registry} == set(levels.ADAPTERS)
