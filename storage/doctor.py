"""What is wrong with what a server keeps, and what of it can be mended while no server runs.

    the ledger's pages ─▶ its tables and indices ─▶ its rows ─▶ files without a row ─▶ rows without a file ─▶ the key

Nothing is deleted that this program has not named itself, and no file while the ledger, which knows whose it is, is
damaged. A ledger that must be written anew stays beside the new one.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from contract.folders import KEY_BYTES, Folders
from contract.messages import BLOB_NAME, FILE_ID
from storage.sqlite import MIGRATIONS, unreadable
from storage.trouble import missing, schema

_TABLES = ("jobs", "tasks", "events", "blobs", "files")


class Finding(NamedTuple):
    """One thing that is wrong. mended: whether it is so no longer."""

    sentence: str
    mended: bool = False


def examine(folders: Folders, repair: bool) -> Iterator[Finding]:
    """Everything that is wrong; repair: mend what can be. The caller owns DATA_DIR meanwhile. Raises: OSError."""
    path = folders.ledger
    if path.exists():
        faults = list(_ledger(path, repair))
        yield from faults
        with contextlib.suppress(sqlite3.Error), contextlib.closing(_opened(path)) as db:
            if not missing(db, _migrations(db)):
                for job in unreadable(db):
                    yield Finding(f"The rows of job {job} are damaged; the server answers it as failed when it starts.")
                yield from _files(db, folders, repair and not faults)
    if folders.key.exists() and folders.key.stat().st_size < KEY_BYTES:
        yield Finding(
            f"{folders.key} was cut short; the server makes a new one when it starts, and clients get new tokens."
        )


def _opened(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    db.text_factory = lambda content: content.decode(errors="surrogateescape")
    return db


def _migrations(db: sqlite3.Connection) -> Sequence[str]:
    """Those that have made a ledger; all, where it does not say."""
    with contextlib.suppress(sqlite3.Error):
        return MIGRATIONS[: db.execute("PRAGMA user_version").fetchone()[0]] or MIGRATIONS
    return MIGRATIONS


def _ledger(path: Path, repair: bool) -> Iterator[Finding]:
    """Its pages, tables and indices."""
    if not path.is_file():
        yield Finding(f"{path} is no file; move it away, and the server begins with an empty ledger.")
        return
    with contextlib.closing(_opened(path)) as db:
        found = _faults(db)
        if not found:
            return
        if repair and _reindexed(db):
            yield from (Finding(f"The ledger is damaged: {fault}.", mended=True) for fault in found)
            return
    yield from (Finding(f"The ledger is damaged: {fault}.", mended=repair) for fault in found)
    if repair:
        aside, lost = _written_anew(path)
        yield Finding(
            f"What could be read of the ledger was written anew, {lost}; the damaged one is {aside}.", mended=True
        )


def _faults(db: sqlite3.Connection) -> list[str]:
    try:
        gone = [f"it has no {what}" for what in missing(db, _migrations(db))]
        return gone + [text for (text,) in db.execute("PRAGMA integrity_check(20)") if text != "ok"]
    except sqlite3.Error as exc:
        return [str(exc)]


def _reindexed(db: sqlite3.Connection) -> bool:
    """Whether indices, made anew, were all that was wrong."""
    try:
        with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as new:
            for script in _migrations(db):
                new.executescript(script)
            wanted = schema(new)
        gone = missing(db, _migrations(db))
        for what in gone:
            if what.startswith("index "):
                db.execute(wanted[what])
        db.execute("REINDEX")
    except sqlite3.Error:
        return False
    return not _faults(db)


def _written_anew(path: Path) -> tuple[Path, str]:
    """A new ledger with every row that can still be read. Returns where the old one is, and what the new one lacks."""
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    for file in path.parent.glob(f"{path.name}*"):
        if file.name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
            file.rename(aside.with_name(aside.name + file.name.removeprefix(path.name)))
    cut = []
    with contextlib.closing(_opened(aside)) as old, contextlib.closing(sqlite3.connect(path)) as new:
        for script in (migrations := _migrations(old)):  # the server runs the others
            new.executescript(script)
        new.execute(f"PRAGMA user_version={len(migrations)}")
        cut = [table for table in _TABLES if not _rows_copied(old, new, table)]
        for table in _TABLES[1:4]:  # what belongs to a job that is lost
            new.execute(f"DELETE FROM {table} WHERE job NOT IN (SELECT id FROM jobs)")
        new.commit()
    return aside, f"without some of its {' and '.join(cut)}" if cut else "whole"


def _rows_copied(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> bool:
    """Whether all rows could be read: from the beginning to where the damage is, and from the end to there."""
    columns = [row[1] for row in new.execute(f"PRAGMA table_info({table})")]
    keys = [row[1] for row in new.execute(f"PRAGMA table_info({table})") if row[5]]
    places = ", ".join("?" * len(columns))
    for order in ("", " DESC"):
        by = ", ".join(f"{key}{order}" for key in keys)
        try:
            for row in old.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY {by}"):
                with contextlib.suppress(sqlite3.Error, UnicodeError):
                    new.execute(f"INSERT OR IGNORE INTO {table} VALUES ({places})", row)
        except sqlite3.Error:
            continue
        return order == ""
    return False


def _files(db: sqlite3.Connection, folders: Folders, repair: bool) -> Iterator[Finding]:
    """Files without a row, and rows without a file: those may lie on a disk that is not there today."""
    for folder, query, name in (
        (folders.blobs, "SELECT name FROM blobs", BLOB_NAME),
        (folders.uploads, "SELECT id FROM files", FILE_ID),
    ):
        known = {text for (text,) in db.execute(query)}
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.name in known:
                continue
            ours = path.is_file() and name.fullmatch(path.name) is not None
            if ours and repair:
                path.unlink()
            what = "belongs to no job and no upload" if ours else "is none of the server's, and stays where it is"
            yield Finding(f"{path} {what}.", mended=ours and repair)
    for job, blob in db.execute("SELECT job, name FROM blobs").fetchall():
        if not (folders.blobs / blob).is_file():
            yield Finding(f"A result of job {job} is lost: {folders.blobs / blob} is not there.")
    for number, path_text in db.execute("SELECT id, path FROM files").fetchall():
        if not Path(path_text).is_file():
            yield Finding(f"The file {number} is lost: {path_text} is not there.")
