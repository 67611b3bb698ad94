"""SQLite with one writer thread and group commit: everything that waits is one transaction and one fsync.

    write(statements, done) ─▶ queue ─▶ writer thread: BEGIN … all that waits … COMMIT ─▶ done(None), on the loop

A change that breaks a rule (a duplicate key, a stale version) is told so alone; the changes beside it are committed.
A full disk, or a lock that another program holds, refuses what may be refused and keeps the rest, in order, until it
can be written. A database that breaks while it is used does the same (`trouble`), but is tried less and less often.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import structlog

from contract.errors import ServiceError
from storage.ledger import Conflict, Done, ReadFailed, Unusable
from storage.trouble import MEND, Trouble, broken, fault, is_breakage, missing, remedy, translate

log = structlog.get_logger()
T = TypeVar("T")

RETRY_SECONDS = 1.0
"""Between two tries to write what a full disk or a lock holds back."""
DEFER_SECONDS = 0.05
"""How long a write that nobody waits for may stay in memory."""
LOCK_SECONDS = 10.0
"""How long a write waits for a lock that another program holds."""


class Statement(NamedTuple):
    """One change. one_row: it must change exactly one row, or its write is a `Conflict`."""

    sql: str
    args: tuple[object, ...] = ()
    one_row: bool = False


class _Write(NamedTuple):
    statements: Sequence[Statement]
    done: Done
    refusable: bool


class Database:
    """path: the database file; made, and brought to the newest migration, when opened.

    migrations: SQL scripts, appended and never edited; `PRAGMA user_version` counts those that ran.
    """

    def __init__(self, path: Path, migrations: Sequence[str]) -> None:
        self._path = path
        self._migrations = migrations
        self.trouble = Trouble()
        self._loop = asyncio.get_running_loop()
        self._writes: queue.SimpleQueue[list[_Write] | None] = queue.SimpleQueue()
        self._deferred: list[_Write] = []
        self._flush_timer: asyncio.TimerHandle | None = None
        try:
            self._writer = self._connect()
            self._migrate(migrations)
            gone = missing(self._writer, migrations)
        except sqlite3.DatabaseError as exc:
            raise Unusable(f"{path} cannot be used ({exc}); {remedy(exc)}") from exc
        if gone:
            raise Unusable(f"{path} cannot be used (it has no {gone[0]}); {MEND}")
        self._local = threading.local()
        self._readers = ThreadPoolExecutor(2, "ledger-read")
        self.commits = 0
        self._thread = threading.Thread(target=self._run, name="ledger-write", daemon=True)
        self._thread.start()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=LOCK_SECONDS)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA cache_size=-8000")
        connection.text_factory = _text
        return connection

    def _migrate(self, migrations: Sequence[str]) -> None:
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        if version > len(migrations):
            raise Unusable(f"{self._path} was written by a newer Optivus; update, or set another DATA_DIR.")
        for number, script in enumerate(migrations[version:], version + 1):
            self._writer.executescript(f"BEGIN; {script}; PRAGMA user_version={number}; COMMIT;")

    def write(self, statements: Sequence[Statement], done: Done, refusable: bool = False, soon: bool = True) -> None:
        """Commit all of `statements` or none, in order with other writes; then call `done` on the event loop.

        soon: nobody waits for one that is not: it shares the commit of the next that is, or has one of its own a little
            later, so that it costs no fsync on anybody's way.

        done: None when it reached the disk; else `Conflict`, what is wrong with the statements, or, only if
            `refusable`, what keeps them from the disk.
        """
        self._deferred.append(_Write(statements, done, refusable))
        if soon:
            self._flush()
        elif self._flush_timer is None:
            self._flush_timer = self._loop.call_later(DEFER_SECONDS, self._flush)

    def _flush(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        writes, self._deferred = self._deferred, []
        self._writes.put(writes)

    async def commit(self, statements: Sequence[Statement], refusable: bool = True) -> None:
        """Return when the statements, and all that was written before, have reached the disk.

        Raises: Conflict, and, if `refusable`, DiskFull or Internal when the disk cannot be written now.
        """
        future: asyncio.Future[None] = self._loop.create_future()

        def done(error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        self.write(statements, done, refusable)
        await future

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `query`, run beside the event loop on a connection of its own. Raises: ReadFailed."""
        return await self._loop.run_in_executor(self._readers, self._read_here, query)

    def _read_here(self, query: Callable[[sqlite3.Connection], T]) -> T:
        try:
            connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
            if connection is None:
                connection = self._local.connection = self._connect()
            return query(connection)
        except sqlite3.Error as exc:
            if is_breakage(exc) and self.trouble.text is None:
                self.trouble.meet(str(exc))
                self._writes.put([])  # for the writer, to look when it is whole again
            raise ReadFailed(str(exc)) from exc

    async def close(self) -> None:
        """Commit what waits, then close."""
        self._flush()
        self._writes.put(None)
        await self._loop.run_in_executor(None, self._thread.join)
        self._readers.shutdown()
        self._writer.close()

    # The writer thread.

    def _run(self) -> None:
        held: list[_Write] = []  # until the disk can be written again
        while True:
            group, closing = self._gather(waiting=bool(held) or self.trouble.text is not None)
            held = self._commit_group(held + group)
            if closing:
                return

    def _is_whole(self) -> bool:
        """Whether writing may be tried."""
        trouble = self.trouble
        if trouble.text is not None and trouble.due:
            trouble.text = fault(self._writer, self._migrations)
            if trouble.text is not None:
                trouble.meet(trouble.text)
        return trouble.text is None

    def _gather(self, waiting: bool) -> tuple[list[_Write], bool]:
        """Everything that waits now; waits itself only when there is nothing."""
        group: list[_Write] = []
        try:
            writes = self._writes.get(timeout=RETRY_SECONDS if waiting else None)
            while writes is not None:
                group += writes
                writes = self._writes.get_nowait()
        except queue.Empty:
            return group, False
        return group, True

    def _commit_group(self, group: list[_Write]) -> list[_Write]:
        """Commit together what can be; returns the writes to be tried again later."""
        whole = self._is_whole()
        error = self._try(group) if group and whole else None
        outcomes: list[tuple[Done, Exception | None]] = []
        held: list[_Write] = []
        blocked: ServiceError | None = None if whole else broken()
        for write in group:
            result: Exception | None = blocked
            if error is not None and blocked is None:  # one of them is wrong, or together they are too much
                result = self._try([write]) if len(group) > 1 else error
                blocked = result if isinstance(result, ServiceError) else None
            if blocked is not None and not write.refusable:
                held.append(write)
            else:
                outcomes.append((write.done, result))
        if outcomes:
            self._loop.call_soon_threadsafe(_tell, outcomes)
        return held

    def _try(self, writes: list[_Write]) -> Exception | None:
        execute = self._writer.execute
        try:
            execute("BEGIN IMMEDIATE")
            for write in writes:
                for sql, args, one_row in write.statements:
                    if execute(sql, args).rowcount != 1 and one_row:
                        raise Conflict(sql)
            execute("COMMIT")
        except Exception as exc:  # noqa: BLE001 - whatever it is, the writer lives on and its waiter is told
            with contextlib.suppress(sqlite3.Error):
                self._writer.rollback()
            if is_breakage(exc):
                self.trouble.meet(str(exc))
            return translate(exc)
        self.commits += 1
        if any(write.statements for write in writes):
            self.trouble.over()
        return None


def _tell(outcomes: list[tuple[Done, Exception | None]]) -> None:
    for done, error in outcomes:
        try:
            done(error)
        except Exception:  # one waiter's failure must not keep the others from their answer
            log.exception("after_commit_failed")


def _text(content: bytes) -> str:
    """Bytes that are no text must not keep the rest of their table from being read."""
    return content.decode(errors="surrogateescape")
