"""The read side of a SQLite store: nodes read, only the worker writes."""

import sqlite3
from pathlib import Path

from hubbub_server.adapters.sqlite.connections import SqliteConnections


def open_reader(
    path: Path, *, connections: int = 2, timeout_s: float = 2.0, max_waiting: int = 1_000
) -> SqliteConnections:
    """Returns read-only connections for the three reading stores; open it with `async with`.

    The file need not exist yet. A call is one consistent read.
    """
    return SqliteConnections(
        path,
        connect=_connect,
        begin="BEGIN",
        connections=connections,
        timeout_s=timeout_s,
        max_waiting=max_waiting,
    )


def _connect(path: Path) -> sqlite3.Connection:
    # A reader of a WAL file is never kept waiting by the writer, save for moments of recovery and of the last close.
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False, timeout=1.0
    )
