"""A database that breaks: how it is told from one that is only full or locked, and when it is looked at again.

    a statement fails ─▶ meet: nothing is tried until `due` ─▶ a check finds it whole ─▶ a write succeeds ─▶ over
                          ▲                                           │ it does not
                          └───────────── twice as long ◀──────────────┘

It is said once in the log, until it is over.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Sequence

import structlog

from contract.errors import DiskFull, Internal
from storage.ledger import Conflict

log = structlog.get_logger()

FIRST_SECONDS, MOST_SECONDS = 1.0, 60.0
"""Between two checks of a broken database: the time doubles from the one to the other."""
MEND = "run .venv/bin/optivus doctor, restore it from a backup, or set another DATA_DIR."


class Broken(Internal):
    """Nothing can be written, and trying again does not help."""


class Trouble:
    """text: what is wrong; None while nothing is, or while it is tried whether something still is."""

    def __init__(self) -> None:
        self.text: str | None = None
        self._lock = threading.Lock()
        self._told = False
        self._after = 0.0
        self._seconds = FIRST_SECONDS

    def meet(self, reason: str) -> None:
        """Something is wrong. It is said once, until it is over."""
        with self._lock:  # readers and the writer may meet it at once
            told, self._told = self._told, True
            self.text = reason
            self._after = time.monotonic() + self._seconds
            self._seconds = min(2 * self._seconds, MOST_SECONDS)
        if not told:
            log.error("ledger_broken", error=reason)

    @property
    def due(self) -> bool:
        """Whether it is time for a check."""
        return time.monotonic() >= self._after

    def over(self) -> None:
        """A write has succeeded. Beside one that fails it proves nothing: only after a check does it."""
        with self._lock:
            ended = self._told and self.text is None
            if ended:
                self._told, self._seconds = False, FIRST_SECONDS
        if ended:
            log.info("ledger_whole")


def missing(connection: sqlite3.Connection, migrations: Sequence[str]) -> list[str]:
    """What the migrations have made and is not there any more, such as `table jobs`."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as new:
        for script in migrations:
            new.executescript(script)
        return sorted(schema(new).keys() - schema(connection).keys())


def schema(connection: sqlite3.Connection) -> dict[str, str]:
    """The statements that make its tables and indices, by what they make."""
    query = "SELECT type || ' ' || name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"
    return dict(connection.execute(query).fetchall())


def fault(connection: sqlite3.Connection, migrations: Sequence[str]) -> str | None:
    """What is wrong with a database, by a quick look at all of it."""
    try:
        if gone := missing(connection, migrations):
            return f"it has no {gone[0]}"
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite3.Error as exc:
        return str(exc)
    return None if verdict == "ok" else str(verdict)


def remedy(exc: sqlite3.Error) -> str:
    """What to do, at the start."""
    if _full(exc):
        return "free space under DATA_DIR."
    return "stop the program that has locked it." if "locked" in str(exc) else MEND


def _full(exc: Exception) -> bool:
    return "full" in str(exc) or "disk I/O" in str(exc)


def translate(exc: Exception) -> Exception:
    """What is told to who waits for a write."""
    if isinstance(exc, sqlite3.IntegrityError):
        return Conflict(str(exc))
    if isinstance(exc, sqlite3.OperationalError):
        if _full(exc):
            return DiskFull("The server's disk is full; free space under DATA_DIR and send the request again.")
        if "locked" in str(exc):
            return Internal("Another program has locked the server's ledger; send the request again in a minute.")
    return broken() if is_breakage(exc) else exc


def is_breakage(exc: Exception) -> bool:
    """Whether the database is what is wrong, not the statement's values, nor something that passes."""
    kinds = (sqlite3.OperationalError, sqlite3.InternalError)
    passing = _full(exc) or "locked" in str(exc)
    return (isinstance(exc, kinds) or type(exc) is sqlite3.DatabaseError) and not passing


def broken() -> Broken:
    return Broken("The server's ledger is broken; its operator finds the reason in the log and in /health.")
