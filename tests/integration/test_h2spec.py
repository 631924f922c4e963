"""What h2spec finds at the stream edge, on both event loops and with both sets of bounds (C86).

h2spec asks for RFC 7540; a case that fails is known here by number, with what RFC 9113 says instead.
"""

import asyncio
import subprocess
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import pytest
import uvloop

from bench.figure import write_figure
from hubbub_server.edge.limits import STRANGERS, TRUSTED_PROXY, EdgeLimits
from tests.support.go_programs import go_program
from tests.support.node import NodeCluster

PACKAGE, VERSION = "github.com/summerwind/h2spec/cmd/h2spec", "v2.2.1+incompatible"
CASES: Final = 145
PASSED_MIN: Final = 140
WITHIN_S: Final = 120.0
REPLACED: Final = {
    "http2/5.3.1/2": "RFC 9113 5.3.2: priorities of RFC 7540 are deprecated, the rules of its 5.3.1 are gone. We send"
    " SETTINGS_NO_RFC7540_PRIORITIES, and a PRIORITY frame that depends on itself is ignored as all others",
    "http2/6.9.1/3": "RFC 9113 5.4.1: an endpoint may choose to treat a stream error as a connection error. nghttp2"
    " answers the window of a stream that is too large with GOAWAY(FLOW_CONTROL_ERROR)",
}
LOOPS: Final[Mapping[str, Callable[[], asyncio.AbstractEventLoop]]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}
LIMITS: Final = {"strangers": STRANGERS, "proxy": TRUSTED_PROXY}


def read_outcomes(report: Path) -> dict[str, str]:
    """Returns by number what was wrong with each case: nothing, if it passed."""
    outcomes = {}
    for suite in ElementTree.parse(report).iter("testsuite"):
        for number, case in enumerate(suite.iter("testcase"), 1):
            wrong = " ".join(f"{child.tag}: {''.join(child.itertext())}" for child in case)
            outcomes[f"{suite.get('package')}/{number}"] = " ".join(wrong.split())
    return outcomes


async def _ask(program: Path, report: Path, limits: EdgeLimits) -> None:
    cluster = NodeCluster(transport="edge", edge_limits=limits)
    async with cluster.node() as node:
        port = node.stream_address.rpartition(":")[2]
        asking = await asyncio.create_subprocess_exec(
            *(program, "--port", port, "--junit-report", report, "--timeout", "2"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(WITHIN_S):
                await asking.wait()
        finally:
            if asking.returncode is None:
                asking.kill()
                await asking.wait()


@pytest.mark.timeout(600)
def test_all_cases_pass_but_for_those_that_rfc_9113_has_replaced(tmp_path: Path) -> None:
    """A case that fails and is not in the table fails the test, and so does one in the table that passes."""
    program = go_program(PACKAGE, VERSION)
    failed: dict[str, dict[str, str]] = {}
    passed: dict[str, int] = {}
    for (loop, factory), (name, limits) in product(LOOPS.items(), LIMITS.items()):
        report = tmp_path / f"{loop}-{name}.xml"
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(_ask(program, report, limits))
        outcomes = read_outcomes(report)
        assert len(outcomes) == CASES
        failed[f"{loop}, {name}"] = {number: wrong for number, wrong in outcomes.items() if wrong}
        passed[f"{loop}, {name}"] = CASES - len(failed[f"{loop}, {name}"])
    holds = all(set(wrong) == set(REPLACED) for wrong in failed.values()) and min(passed.values()) >= PASSED_MIN
    write_figure(
        "h2spec",
        "pytest tests/integration/test_h2spec.py",
        {"h2spec": VERSION, "cases": CASES, "passed": passed, "replaced": REPLACED},
        holds=holds,
    )
    assert holds, failed
