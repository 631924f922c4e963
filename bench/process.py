"""What the kernel says about a process and the machine: CPU time and resident memory, from /proc alone."""

import os
from pathlib import Path

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used, in user and kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def machine_cpu_s() -> float:
    """CPU seconds that all processes of the machine have used, over all cores."""
    _, user, nice, system, _idle, _waiting, *others = Path("/proc/stat").read_text().splitlines()[0].split()
    return sum(int(ticks) for ticks in (user, nice, system, *others[:3])) / _TICKS_A_SECOND


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
