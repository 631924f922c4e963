"""Turns what SQLite raises into StoreUnavailable."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from hubbub_server.domain.errors import StoreUnavailable


@contextmanager
def map_errors() -> Iterator[None]:
    """Maps everything that says "not now": no file, no table yet, locked, full, damaged, too slow.

    Wrong SQL parameters and broken constraints are our faults and pass unchanged.
    """
    try:
        yield
    except TimeoutError as exc:
        raise StoreUnavailable("the store is too slow") from exc
    except OSError as exc:
        raise StoreUnavailable(f"the store's file cannot be reached: {exc.strerror}") from exc
    except sqlite3.OperationalError as exc:
        raise StoreUnavailable(f"the store cannot be used: {exc}") from exc
    except (sqlite3.ProgrammingError, sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InternalError):
        raise
    except sqlite3.DatabaseError as exc:  # no subclass: the file is damaged or is no database
        raise StoreUnavailable(f"the store is damaged: {exc}") from exc
