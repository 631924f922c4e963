"""compose.yaml as Docker Compose would read it: variables replaced by their defaults, merges done."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).resolve().parents[2]
SECRETS_FOLDER = "deploy/secrets"
_VARIABLE = re.compile(r"\$\{\w+:-([^}]*)\}")


def read_compose() -> dict[str, Any]:
    """Reads compose.yaml."""
    text = _VARIABLE.sub(r"\1", (REPO / "compose.yaml").read_text())
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def make_secrets(folder: Path) -> Path:
    """Makes the secrets in a folder that is not there yet, as a person does; returns it."""
    made = run_make_secrets(folder)
    assert made.returncode == 0, made.stderr
    return folder


def run_make_secrets(folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs deploy/make-secrets.sh."""
    command = [str(REPO / "deploy" / "make-secrets.sh"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def mounted_secrets(compose: Mapping[str, Any], service: str) -> dict[str, str]:
    """Returns where a service sees each secret: path in the container → file name in the folder of secrets."""
    seen = {}
    for each in compose["services"][service].get("secrets", []):
        source, target = (each, each) if isinstance(each, str) else (each["source"], each["target"])
        file = Path(compose["secrets"][source]["file"])
        assert str(file.parent) == SECRETS_FOLDER
        seen[str(Path("/run/secrets") / target)] = file.name
    return seen


def mounted_configs(compose: Mapping[str, Any], service: str) -> dict[str, Path]:
    """Returns where a service sees each configuration: path in the container → file of the repository."""
    return {
        each["target"]: REPO / compose["configs"][each["source"]]["file"]
        for each in compose["services"][service].get("configs", [])
    }
