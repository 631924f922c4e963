"""Programs of the tests that are built by `go install`, once for each version, in var/go."""

import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.support.tools import find_tool

BUILT: Final = Path(__file__).resolve().parents[2] / "var" / "go"
BUILD_TIMEOUT_S: Final = 400.0


def go_program(package: str, version: str) -> Path:
    """Returns the program of a package, built if need be. Skips the test where Go is missing, fails it in CI."""
    go = find_tool("go")
    if not go:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no {package} without go")
    folder = BUILT / version
    program = folder / package.rpartition("/")[2]
    if not program.exists():
        built = subprocess.run(
            [go, "install", f"{package}@{version}"],
            env=os.environ | {"GOBIN": str(folder)},
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT_S,
            check=False,
        )
        assert built.returncode == 0, built.stderr
    return program
