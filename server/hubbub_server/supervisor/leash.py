"""Starts a program so that it dies with its parent, also when the parent is killed by SIGKILL.

`python -m hubbub_server.supervisor.leash PARENT_PID PROGRAM ARGUMENT…` becomes PROGRAM. A program of its own, because
code between fork and exec (`preexec_fn`) of a process with threads may hang, and beside an open gRPC channel now and
then crashes the child. Where the kernel has no such leash (not Linux) the program starts all the same and outlives a
killed parent.
"""

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def leashed(program: str | os.PathLike[str], *arguments: str | os.PathLike[str]) -> list[str]:
    """Returns the command that starts a program, named by its path, on a leash of this process.

    The program has the process id of what was started; it dies with the thread that started it.
    """
    command = [os.fspath(each) for each in (program, *arguments)]
    return [sys.executable, "-m", "hubbub_server.supervisor.leash", str(os.getpid()), *command]


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
