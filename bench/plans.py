"""What a client process is told to do: a file, since plans with thousands of tokens are too long for arguments."""

import json
import sys
from pathlib import Path
from typing import Any


def read_plan() -> dict[str, Any]:
    """Reads the file that this process was started with."""
    plan: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    return plan
