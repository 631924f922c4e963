"""What disks of chaos runs do. In a process of its own: mounts and limits are of a process."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.disk import Disk, FolderDisk, find_disk


def live_through_it(root: str, kind: str) -> None:
    """Writes, loses power, fills the disk, and prints what came of it."""
    new_disk: Callable[[Path], Disk] = FolderDisk if kind == "folder" else find_disk(Path(root) / "scratch")
    folder = Path(root) / "disk"
    disk = new_disk(folder)
    found: dict[str, Any] = {"disk": new_disk.__name__}
    with (folder / "synced").open("wb") as file:
        file.write(b"synced")
        file.flush()
        os.fsync(file.fileno())
    (folder / "unsynced").write_bytes(b"unsynced")
    disk.cut_power()
    disk.restore()
    found["after power cut"] = sorted(path.name for path in folder.iterdir() if path.is_file())
    found["synced"] = (folder / "synced").read_text()

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    disk.fill(os.getpid())
    try:
        (folder / "full").write_bytes(b"x" * 8192)
    except OSError as error:
        found["full"] = error.strerror
    disk.free(os.getpid())
    found["free again"] = (folder / "free").write_bytes(b"x" * 8192)
    disk.close()
    print(json.dumps(found))


def run(root: Path, kind: str) -> dict[str, Any]:
    program = f"from tests.chaos.test_disk import live_through_it; live_through_it({str(root)!r}, {kind!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_disk_that_lost_power_has_what_was_synced_and_nothing_else(tmp_path: Path) -> None:
    found = run(tmp_path, "best")
    if found["disk"] == "FolderDisk":
        pytest.skip("mounting is not allowed here")

    assert (found["after power cut"], found["synced"]) == (["synced"], "synced")
    assert (found["full"], found["free again"]) == ("No space left on device", 8192)


def test_a_folder_that_lost_power_has_what_was_written(tmp_path: Path) -> None:
    found = run(tmp_path, "folder")

    assert (found["after power cut"], found["synced"]) == (["synced", "unsynced"], "synced")
    assert (found["full"], found["free again"]) == ("File too large", 8192)


def test_mounts_are_gone_with_their_process(tmp_path: Path) -> None:
    run(tmp_path, "best")

    assert str(tmp_path) not in Path("/proc/mounts").read_text()
