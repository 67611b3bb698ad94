"""The database below SQLite's ledger: group commit, order, refusals, a full disk, migrations."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from contract.errors import DiskFull
from storage.database import Database, Statement
from storage.ledger import Conflict, Unusable

MIGRATIONS = ("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)",)
SMALL_DISK = (*MIGRATIONS, "PRAGMA max_page_count=60")
BIG = "x" * 100_000
"""Some 25 pages: two of them fit on the small disk."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "notes.sqlite3"


@pytest_asyncio.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    database = Database(path, MIGRATIONS)
    yield database
    await database.close()


@pytest_asyncio.fixture
async def small(path: Path) -> AsyncIterator[Database]:
    """A database that is full when it has 60 pages."""
    database = Database(path, SMALL_DISK)
    yield database
    await database.close()


class Writes:
    """Several writes, and what became of each, in the order in which that was told."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.told: list[tuple[int, type[Exception] | None]] = []

    def add(self, number: int, text: str = "") -> None:
        self._write(number, note(number, text))

    def change(self, number: int) -> None:
        self._write(number, Statement("UPDATE notes SET text='' WHERE id=?", (number,), one_row=True))

    def _write(self, number: int, statement: Statement) -> None:
        def done(error: Exception | None) -> None:
            self.told.append((number, type(error) if error else None))

        self._database.write([statement], done)


def note(number: int, text: str) -> Statement:
    return Statement("INSERT INTO notes (id, text) VALUES (?, ?)", (number, text))


async def add(database: Database, number: int, text: str = "") -> None:
    await database.commit([note(number, text)])


async def notes(database: Database) -> list[int]:
    return await database.read(lambda db: [number for (number,) in db.execute("SELECT id FROM notes ORDER BY id")])


@contextmanager
def locked(path: Path) -> Iterator[sqlite3.Connection]:
    """Another program holds the lock meanwhile, so that what is written gathers behind it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other
        other.execute("COMMIT")


async def test_writes_that_wait_share_a_commit_and_keep_their_order(database: Database, path: Path) -> None:
    writes = Writes(database)
    with locked(path):
        for number in range(200):
            writes.add(number)
    await database.commit([])
    assert writes.told == [(number, None) for number in range(200)]
    assert database.commits <= 3
    assert await notes(database) == list(range(200))


async def test_a_wrong_write_is_told_so_alone(database: Database, path: Path) -> None:
    """A stale version, a duplicate key, and values that SQLite cannot bind."""
    writes = Writes(database)
    with locked(path):
        writes.add(1)
        writes.change(77)
        writes.add(2)
        writes.add(1)
        writes.add(2**70)
        writes.add(3, "\ud800")
        writes.add(4)
    await database.commit([])
    outcomes = [error for _, error in writes.told]
    assert outcomes == [None, Conflict, None, Conflict, OverflowError, UnicodeEncodeError, None]
    assert await notes(database) == [1, 2, 4]


async def test_a_full_disk_refuses_what_may_be_refused_and_keeps_the_rest_until_there_is_room(
    small: Database, path: Path
) -> None:
    writes = Writes(small)
    await add(small, 1, BIG)
    await add(small, 2, BIG)
    with pytest.raises(DiskFull):
        await add(small, 3, BIG)
    writes.add(4, BIG)
    writes.add(5)
    with pytest.raises(DiskFull):
        await add(small, 6, "behind those that wait")
    assert writes.told == []
    with locked(path) as other:
        other.execute("DELETE FROM notes WHERE id=1")
    await small.commit([], refusable=False)
    await add(small, 7)
    assert writes.told == [(4, None), (5, None)]
    assert await notes(small) == [2, 4, 5, 7]
    assert await small.read(lambda db: db.execute("PRAGMA integrity_check").fetchone()) == ("ok",)


async def test_a_full_disk_behind_a_conflict_loses_no_other_write(small: Database, path: Path) -> None:
    writes = Writes(small)
    await add(small, 1, BIG)
    await add(small, 2, BIG)
    with locked(path):
        writes.change(77)
        writes.add(3, BIG)
        writes.add(4)
    with pytest.raises(DiskFull):
        await small.commit([])
    assert writes.told == [(77, Conflict)]
    with locked(path) as other:
        other.execute("DELETE FROM notes WHERE id=1")
    await small.commit([], refusable=False)
    assert writes.told == [(77, Conflict), (3, None), (4, None)]


async def test_each_migration_runs_once(path: Path) -> None:
    for migrations in (MIGRATIONS, MIGRATIONS, (*MIGRATIONS, "INSERT INTO notes VALUES (1, 'migrated')")):
        database = Database(path, migrations)
        found = await notes(database)
        await database.close()
    assert found == [1]


@pytest.mark.parametrize("damaged", [True, False])
async def test_a_damaged_or_newer_file_is_refused_and_left_as_it_is(path: Path, damaged: bool) -> None:
    if damaged:
        path.write_bytes(b"not a database, but as long as one is" * 1000)
    else:
        await Database(path, [*MIGRATIONS, "SELECT 1"]).close()
    content = path.read_bytes()
    with pytest.raises(Unusable, match="DATA_DIR"):
        Database(path, MIGRATIONS)
    assert path.read_bytes() == content


async def test_what_waits_is_committed_before_the_end(path: Path) -> None:
    database = Database(path, MIGRATIONS)
    writes = Writes(database)
    for number in range(100):
        writes.add(number)
    await database.close()
    assert len(writes.told) == 100
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT count(*) FROM notes").fetchone() == (100,)
