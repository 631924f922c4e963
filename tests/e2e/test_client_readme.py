"""The examples in the SDK's README run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.instance import Instance
from tests.support.waiting import PATIENCE_S

README = Path(__file__).parents[2] / "clients/python/README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_of_the_readme_runs(instance: Instance, example: str, tmp_path: Path) -> None:
    (tmp_path / "var").symlink_to(instance.data)
    script = tmp_path / "example.py"
    script.write_text(example.replace("127.0.0.1:8080", f"127.0.0.1:{instance.port}"), encoding="utf-8")

    subprocess.run([sys.executable, str(script)], cwd=tmp_path, check=True, timeout=PATIENCE_S)


def test_the_readme_has_examples() -> None:
    assert len(EXAMPLES) >= 3
