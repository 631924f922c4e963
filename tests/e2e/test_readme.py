"""Every command in README.md's code blocks is run: most of them here, the others where `ELSEWHERE` says."""

import json
import os
import re
import shutil
import signal
import subprocess
from itertools import takewhile
from pathlib import Path

import pytest

from tests.e2e.instance import STOP_S, Instance

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = {
    "make test": ".ci/run calls it",
    "make cluster": "test_cluster.py, by the options in its target",
    ".venv/bin/hubbub chat alice bob": "test_terminal.py, on a pseudo-terminal",
    ".venv/bin/hubbub chat bob alice": "test_terminal.py, on a pseudo-terminal",
}


def commands() -> list[str]:
    """The lines of README.md's code blocks that are commands, without their comments."""
    blocks = re.findall(r"^```\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = (line.split("  #")[0].strip() for block in blocks for line in block.splitlines())
    return [line for line in lines if line.startswith(("make ", "curl ", ".venv/", "HUBBUB_"))]


def test_every_command_of_the_readme_is_run_somewhere() -> None:
    here = [line for line in commands() if line not in ELSEWHERE]
    assert set(ELSEWHERE) <= set(commands())
    assert [line.split()[0] for line in here] == ["make", "curl"], "run the new command in a test, then name it here"


@pytest.mark.skipif(not (ROOT / ".venv").exists(), reason="make run would build an environment of its own")
def test_make_run_prints_ready_and_ctrl_c_stops_it(tmp_path: Path) -> None:
    process = subprocess.Popen(
        ("make", "--no-print-directory", "run", f"DATA={tmp_path / 'var'}"),
        cwd=ROOT,
        env={**os.environ, "HUBBUB_PORT": "0"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout as lines:
        said = list(takewhile(lambda line: line != "ready\n", lines))
        os.killpg(process.pid, signal.SIGINT)  # a terminal tells the whole group
        process.wait(STOP_S)
    assert any("gRPC, gRPC-Web, REST" in line for line in said)


def test_the_curl_line_signs_alice_in(instance: Instance, tmp_path: Path) -> None:
    (line,) = (line for line in commands() if line.startswith("curl "))
    (tmp_path / "var").symlink_to(instance.data)
    curl = shutil.which("curl")
    assert curl, "curl is part of the README's second example"
    done = subprocess.run(
        line.replace("localhost:8080", f"127.0.0.1:{instance.port}"),
        shell=True,
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert json.loads(done.stdout)["credentials"]["accessToken"]
