"""Starts a program so that it dies with its parent, also when the parent is killed by SIGKILL.

`python -m hubbub_server.supervisor.leash PARENT_PID PROGRAM ARGUMENT…` becomes PROGRAM. A program of its own, because
code between fork and exec of a process with threads may hang. Where the kernel has no such leash (not Linux) the
program starts all the same and outlives a killed parent.
"""

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    """Asks the kernel for SIGKILL at the parent's death, then becomes the program."""
    parent_pid, program, *arguments = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent_pid):
            sys.exit("the parent died while this started")
    os.execv(program, [program, *arguments])


if __name__ == "__main__":
    main()
