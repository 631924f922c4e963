"""The disk of one server: it loses power, it is full.

Where mounting is allowed a `LoopDisk` is an ext4 file system of its own in one file. Its power cut is the kernel's own:
from that instant on nothing reaches the device, and after mounting again there is what the journal of the file system
makes of what was on it; bytes that were written and never synced are gone. A `FolderDisk` needs no right at all, and
proves less: the image that it puts back has what the server wrote, synced or not.
"""

import ctypes
import errno
import fcntl
import os
import resource
import shutil
import struct
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

_SIZE_BYTES: Final = 2**30
_TIMEOUT_S: Final = 20.0
_CLONE_NEWNS: Final = 0x20000
_MS_REC_PRIVATE: Final = 0x4000 | 1 << 18
_EXT4_IOC_SHUTDOWN: Final = 0x8004587D
_WITHOUT_LOG_FLUSH: Final = struct.pack("I", 2)
_BALLAST: Final = "ballast"
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class Disk(Protocol):
    """What holds the files of one server. All methods block for some milliseconds."""

    def cut_power(self) -> None:
        """Ends writing, as a power cut does. The server is frozen, and killed next."""

    def restore(self) -> None:
        """Brings back what was on the disk at the cut. The server is dead."""

    def fill(self, pid: int) -> None:
        """Leaves no room for what the server with this process id writes."""

    def free(self, pid: int) -> None:
        """Ends what `fill` did; a process that is gone is no error."""

    def close(self) -> None:
        """Gives everything back but the file of the disk. The server is dead."""


def find_disk(scratch: Path) -> Callable[[Path], Disk]:
    """Returns the best kind of disk that can be had; `scratch` is for trying.

    Where disks can be mounted, this process and its children get mounts of their own: they are gone with the last one.
    """
    if _LIBC.unshare(_CLONE_NEWNS) == 0 and _LIBC.mount(b"none", b"/", None, _MS_REC_PRIVATE, None) == 0:
        with suppress(OSError, subprocess.CalledProcessError):
            disk = LoopDisk(scratch)
            disk.cut_power()
            disk.close()
            return LoopDisk
    return FolderDisk


class LoopDisk:
    """Implements Disk: ext4 in a file."""

    def __init__(self, folder: Path) -> None:
        """Makes the file beside the folder and mounts it there.

        Raises:
            subprocess.CalledProcessError: a command failed; its output is with the error.
        """
        self._folder = folder
        self._image = folder.with_suffix(".img")
        folder.mkdir(parents=True, exist_ok=True)
        with self._image.open("wb") as image:
            image.truncate(_SIZE_BYTES)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1", str(self._image))
        self._mount()

    def cut_power(self) -> None:
        """See Disk."""
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _EXT4_IOC_SHUTDOWN, _WITHOUT_LOG_FLUSH)
        finally:
            os.close(descriptor)

    def restore(self) -> None:
        """See Disk."""
        self.close()
        self._mount()

    def fill(self, pid: int) -> None:
        """See Disk."""
        with (self._folder / _BALLAST).open("wb") as ballast:
            at, size_bytes = 0, _SIZE_BYTES
            while size_bytes >= 1024:
                try:
                    os.posix_fallocate(ballast.fileno(), at, size_bytes)
                    at += size_bytes
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size_bytes //= 2

    def free(self, pid: int) -> None:
        """See Disk."""
        (self._folder / _BALLAST).unlink(missing_ok=True)

    def close(self) -> None:
        """See Disk."""
        deadline_s = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                _run("umount", str(self._folder))
                return
            except subprocess.CalledProcessError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.05)  # a process that was killed holds its files for a moment

    def _mount(self) -> None:
        _run("mount", "-o", "loop", str(self._image), str(self._folder))


class FolderDisk:
    """Implements Disk: a folder and a copy of it; full is what the kernel's limit for the size of files makes so."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder."""
        self._folder = folder
        self._copy = folder.with_suffix(".image")
        folder.mkdir(parents=True, exist_ok=True)

    def cut_power(self) -> None:
        """See Disk."""
        shutil.copytree(self._folder, self._copy)

    def restore(self) -> None:
        """See Disk."""
        shutil.rmtree(self._folder)
        self._copy.rename(self._folder)

    def fill(self, pid: int) -> None:
        """See Disk."""
        _limit_file_size(pid, 0)

    def free(self, pid: int) -> None:
        """See Disk."""
        _limit_file_size(pid, resource.RLIM_INFINITY)

    def close(self) -> None:
        """See Disk."""


def _limit_file_size(pid: int, size_bytes: int) -> None:
    with suppress(ProcessLookupError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, hard))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT_S)
