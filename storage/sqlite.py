"""The ledger in SQLite: tables, migrations, and every statement that changes or reads them.

What a client has been told stands in `events` word for word; a replay is a read. JSON stands in the columns that say
so below; `item` is JSON too, so that one index finds a run.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import orjson
from pydantic import ConfigDict, TypeAdapter

from contract.identity import Whose
from contract.messages import LOCAL_OWNER, Item
from storage.database import Database, Statement
from storage.ledger import PAGE_BYTES, Done, Ledger, ReadFailed
from storage.records import Change, EventRecord, Expired, FileRecord, JobRecord, Known, Place, RunRecord, StoredJob

MIGRATIONS = (
    """
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY, client TEXT NOT NULL, owner TEXT NOT NULL, client_id TEXT NOT NULL, type TEXT NOT NULL,
        plan TEXT NOT NULL, params TEXT NOT NULL, warnings TEXT NOT NULL, idempotency_key TEXT,
        priority INTEGER NOT NULL, created_at REAL NOT NULL, deadline REAL NOT NULL, finished_at REAL,
        state TEXT NOT NULL, version INTEGER NOT NULL, seq INTEGER NOT NULL,
        UNIQUE (client, idempotency_key)
    ) WITHOUT ROWID;
    CREATE INDEX jobs_of_client ON jobs (client, created_at);
    CREATE INDEX jobs_unfinished ON jobs (created_at) WHERE finished_at IS NULL;
    CREATE INDEX jobs_finished ON jobs (finished_at) WHERE finished_at IS NOT NULL;
    CREATE TABLE tasks (
        job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, stage TEXT NOT NULL, item TEXT NOT NULL,
        state TEXT NOT NULL, attempt INTEGER NOT NULL, deaths INTEGER NOT NULL, holder TEXT, lease REAL,
        checkpoint TEXT, result TEXT,
        PRIMARY KEY (job, stage, item)
    ) WITHOUT ROWID;
    CREATE TABLE events (
        job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, seq INTEGER NOT NULL, kind TEXT NOT NULL,
        stage TEXT NOT NULL, item TEXT NOT NULL, idx INTEGER, body TEXT NOT NULL,
        PRIMARY KEY (job, seq)
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX one_final ON events (job) WHERE kind = 'final';
    CREATE TABLE blobs (
        name TEXT PRIMARY KEY, job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, bytes INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX blobs_of_job ON blobs (job);
    CREATE TABLE files (
        id TEXT PRIMARY KEY, owner TEXT NOT NULL, path TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
        bytes INTEGER NOT NULL, created_at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX files_by_age ON files (created_at)
    """,
    """
    ALTER TABLE jobs ADD COLUMN plan_version INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE jobs ADD COLUMN waiting_for TEXT;
    ALTER TABLE jobs ADD COLUMN waiting_since REAL;
    ALTER TABLE jobs ADD COLUMN limited_as TEXT NOT NULL DEFAULT '';
    UPDATE jobs SET limited_as = client;
    CREATE INDEX jobs_of_account ON jobs (owner, created_at) WHERE owner <> 'local';
    ALTER TABLE tasks DROP COLUMN holder;
    ALTER TABLE tasks DROP COLUMN lease;
    ALTER TABLE tasks ADD COLUMN retries INTEGER NOT NULL DEFAULT 0
    """,
    """
    CREATE TABLE clock (one INTEGER PRIMARY KEY CHECK (one = 1), seen REAL NOT NULL) WITHOUT ROWID
    """,
)

_STORED = TypeAdapter(StoredJob, config=ConfigDict(strict=True))
_EVENT_BYTES = 200
"""What an event takes in memory beside its text."""

_JOB = (
    "id, client, owner, limited_as, client_id, type, plan, plan_version, params, warnings, idempotency_key, priority, "
    "created_at, deadline, waiting_for, waiting_since, finished_at, state, version, seq"
)
_HEAD = _JOB.replace("params, warnings", "'{}', '[]'")
"""A job without what may be large."""
_INSERT_JOB = f"INSERT INTO jobs ({_JOB}) VALUES ({', '.join('?' * 20)})"
_UPDATE_JOB = (
    "UPDATE jobs SET state=?, version=?, seq=?, deadline=?, waiting_for=?, waiting_since=?, finished_at=? "
    "WHERE id=? AND version=?"
)
_RUN = "stage, item, state, attempt, deaths, retries, checkpoint, result"
_PUT_RUN = (
    f"INSERT INTO tasks (job, {_RUN}) VALUES ({', '.join('?' * 9)}) ON CONFLICT DO UPDATE SET state=excluded.state, "
    "attempt=excluded.attempt, deaths=excluded.deaths, retries=excluded.retries, "
    "checkpoint=excluded.checkpoint, result=excluded.result"
)
_INSERT_EVENT = "INSERT INTO events (job, seq, kind, stage, item, idx, body) VALUES (?, ?, ?, ?, ?, ?, ?)"
_INSERT_BLOB = "INSERT OR IGNORE INTO blobs (job, name, bytes) VALUES (?, ?, ?)"
_FILE = "id, owner, path, name, bytes, created_at"
_PUT_FILE = (
    f"INSERT INTO files ({_FILE}) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (path) DO "
    "UPDATE SET name=excluded.name, bytes=excluded.bytes, created_at=excluded.created_at WHERE owner=excluded.owner"
)


_OLD_FILES = """
    WITH held (text) AS (
        SELECT params FROM jobs WHERE finished_at IS NULL
        UNION ALL SELECT result FROM tasks JOIN jobs ON jobs.id=tasks.job WHERE finished_at IS NULL
    ), needed AS MATERIALIZED (
        SELECT atom FROM held, json_tree(CASE WHEN json_valid(text) THEN text END) WHERE json_tree.type='text'
    )
    SELECT path FROM files
    WHERE created_at < ? AND id NOT IN (SELECT atom FROM needed) AND path NOT IN (SELECT atom FROM needed) LIMIT ?
"""
"""Those that no unfinished job has: one may wait longer than files are kept. What the jobs have is looked at once."""
_DUE = (
    "SELECT min(at) FROM (SELECT min(finished_at) AS at FROM jobs WHERE finished_at >= ? "
    "UNION ALL SELECT min(created_at) FROM files WHERE created_at >= ?)"
)
_LATEST = "SELECT max(at) FROM (SELECT max(created_at) AS at FROM jobs UNION ALL SELECT max(finished_at) FROM jobs)"
_SEE = "INSERT INTO clock VALUES (1, ?) ON CONFLICT DO UPDATE SET seen=excluded.seen"
_MOVE = (
    "UPDATE jobs SET created_at=created_at+?1, deadline=deadline+?1, waiting_since=waiting_since+?1, "
    "finished_at=finished_at+?1",
    "UPDATE files SET created_at=created_at+?1",
)
_POSTPONE = "UPDATE jobs SET deadline=deadline+? WHERE finished_at IS NULL AND waiting_since IS NULL"


class SqliteLedger(Ledger):
    """One file, of one server. path: made, and brought to the newest migration, when it is opened.

    Raises: Unusable, when opened.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path, MIGRATIONS)

    @property
    def trouble(self) -> str | None:
        return self._database.trouble.text

    @property
    def commits(self) -> int:
        return self._database.commits

    # Jobs.

    async def accept(self, change: Change) -> None:
        await self._database.commit([Statement(_INSERT_JOB, _job_row(change.job)), *_details(change)])

    def advance(self, change: Change, version: int, done: Done, *, soon: bool = True) -> None:
        job = change.job
        waits = (job.deadline, job.waiting_for, job.waiting_since)
        row = (job.state, job.version, job.seq, *waits, job.finished_at, job.id, version)
        self._database.write([Statement(_UPDATE_JOB, row, one_row=True), *_details(change)], done, soon=soon)

    async def unfinished(self) -> list[StoredJob]:
        query = f"SELECT {_JOB} FROM jobs WHERE finished_at IS NULL ORDER BY created_at"
        return await self._database.read(lambda db: [_readable(db, row) for row in db.execute(query).fetchall()])

    async def load(self, job_id: str) -> StoredJob | None:
        query = f"SELECT {_JOB} FROM jobs WHERE id=?"

        def load(db: sqlite3.Connection) -> StoredJob | None:
            row = db.execute(query, (job_id,)).fetchone()
            return _stored(db, row) if row else None

        try:
            return await self._database.read(load)
        except ValueError as exc:
            raise ReadFailed(f"the rows of {job_id} are damaged") from exc

    async def job(self, job_id: str) -> JobRecord | None:
        row = await self._one(f"SELECT {_HEAD} FROM jobs WHERE id=?", job_id)
        return _job(row) if row else None

    async def job_by_key(self, client: str, key: str) -> str | None:
        row = await self._one("SELECT id FROM jobs WHERE client=? AND idempotency_key=?", client, key)
        return row[0] if row else None

    async def jobs(self, whose: Whose, limit: int, after: Place | None = None) -> list[JobRecord]:
        where, args = _theirs(whose)
        if after is not None:
            where, args = f"{where} AND (created_at, id) < (?, ?)", (*args, *after)
        query = f"SELECT {_HEAD} FROM jobs WHERE {where} ORDER BY created_at DESC, id DESC LIMIT ?"
        return await self._database.read(lambda db: [_job(row) for row in db.execute(query, (*args, limit))])

    async def seqs(self, whose: Whose, job_ids: Collection[str]) -> dict[str, int]:
        where, args = _theirs(whose)
        query = f"SELECT id, seq FROM jobs WHERE id IN (SELECT value FROM json_each(?)) AND {where}"
        return await self._database.read(lambda db: dict(db.execute(query, (_json(list(job_ids)), *args))))

    # What clients were told.

    async def told(self, job_id: str, after: int, enough: int = PAGE_BYTES) -> list[EventRecord]:
        return await self._database.read(lambda db: _page(db, job_id, after, enough))

    async def answer(self, job_id: str) -> bytes | None:
        row = await self._one("SELECT CAST(body AS BLOB) FROM events WHERE job=? AND kind='final'", job_id)
        return row[0] if row else None

    async def finished(self, job_id: str, stage: str, item: Item) -> list[Any]:
        return await self._database.read(lambda db: _finished(db, job_id, stage, item))

    # Files.

    async def keep(self, file: FileRecord) -> None:
        await self._database.commit([Statement(_PUT_FILE, file)])

    async def file(self, file_id: str) -> FileRecord | None:
        row = await self._one(f"SELECT {_FILE} FROM files WHERE id=?", file_id)
        return FileRecord(*row) if row else None

    async def file_at(self, path: str) -> FileRecord | None:
        row = await self._one(f"SELECT {_FILE} FROM files WHERE path=?", path)
        return FileRecord(*row) if row else None

    async def drop(self, file_id: str) -> None:
        await self._database.commit([Statement("DELETE FROM files WHERE id=?", (file_id,), one_row=True)])

    # What is over, and the ledger itself.

    async def known(self) -> Known:
        def known(db: sqlite3.Connection) -> Known:
            unfinished = "SELECT id FROM jobs WHERE finished_at IS NULL"
            queries = ("SELECT name FROM blobs", "SELECT id FROM files", unfinished)
            return Known(*(frozenset(text for (text,) in db.execute(query)) for query in queries))

        return await self._database.read(known)

    async def expired(self, before: float, limit: int) -> Expired:
        return await self._database.read(lambda db: _expired(db, before, limit))

    async def next_due(self, after: float) -> float | None:
        (at,) = await self._one(_DUE, after, after)
        return None if at is None else float(at)

    async def seen(self) -> float | None:
        (at,) = await self._one("SELECT seen FROM clock") or await self._one(_LATEST)
        return None if at is None else float(at)

    def see(self, now: float) -> None:
        self._database.write([Statement(_SEE, (now,))], _ignore, soon=False)

    async def move(self, ages: float, deadlines: float, now: float) -> None:
        moved = [Statement(sql, (ages,)) for sql in _MOVE] if ages else []
        postponed = Statement(_POSTPONE, (deadlines - ages,))
        await self._database.commit([*moved, postponed, Statement(_SEE, (now,))], refusable=False)

    async def forget(self, old: Expired) -> None:
        jobs = [Statement("DELETE FROM jobs WHERE id=?", (job_id,)) for job_id in old.jobs]
        files = [Statement("DELETE FROM files WHERE path=?", (path,)) for path in old.files]
        await self._database.commit([*jobs, *files], refusable=False)

    async def settled(self) -> None:
        await self._database.commit([])

    async def close(self) -> None:
        await self._database.close()

    async def _one(self, query: str, *args: object) -> Any:
        """The first row, None where there is none."""
        return await self._database.read(lambda db: db.execute(query, args).fetchone())


def _ignore(error: Exception | None) -> None:
    """Nobody waits for it, and the next one says the same."""


def _theirs(whose: Whose) -> tuple[str, tuple[str | float, ...]]:
    """A condition on jobs, and its arguments. Each of the two has an index of its own."""
    if whose.client is None:
        return f"owner=? AND owner <> '{LOCAL_OWNER}'", (whose.owner,)
    return "client=? AND +owner=?", (whose.client, whose.owner)


# Records as rows.


def _job_row(job: JobRecord) -> tuple[object, ...]:
    return (
        job.id,
        job.client,
        job.owner,
        job.limited_as,
        _json(job.client_id),
        job.type,
        job.plan,
        job.plan_version,
        _json(job.params),
        _json(job.warnings),
        job.key,
        job.priority,
        job.created_at,
        job.deadline,
        job.waiting_for,
        job.waiting_since,
        job.finished_at,
        job.state,
        job.version,
        job.seq,
    )


def _details(change: Change) -> Iterator[Statement]:
    """All of a change but the job's own row."""
    job_id = change.job.id
    for run in change.runs:
        counts = (run.state, run.attempt, run.deaths, run.retries)
        values = (_json_or_null(run.checkpoint), _json_or_null(run.result))
        yield Statement(_PUT_RUN, (job_id, run.stage, _json(run.item), *counts, *values))
    for blob in change.blobs:
        yield Statement(_INSERT_BLOB, (job_id, *blob))
    for event in change.events:
        place = (event.kind, event.stage, _json(event.item), event.idx)
        yield Statement(_INSERT_EVENT, (job_id, event.seq, *place, event.body.decode()))
    for file in change.files:
        yield Statement(_PUT_FILE, file)


# Rows as records.


def _job(row: tuple[Any, ...]) -> JobRecord:
    values = list(row)
    values[8], values[9] = orjson.loads(row[8]), tuple(orjson.loads(row[9]))
    try:
        values[4] = orjson.loads(row[4])
    except orjson.JSONDecodeError:  # a damaged one is nobody's, and the job is theirs all the same
        values[4] = None
    return JobRecord(*values)


def _stored(db: sqlite3.Connection, row: tuple[Any, ...]) -> StoredJob:
    """Raises: ValueError where the rows are damaged."""
    runs = db.execute(f"SELECT {_RUN} FROM tasks WHERE job=?", (row[0],))
    try:
        return _STORED.validate_python(StoredJob(_job(row), tuple(map(_run, runs))))
    except TypeError as exc:
        raise ValueError("a number stands where a list should") from exc


def _readable(db: sqlite3.Connection, row: tuple[Any, ...]) -> StoredJob:
    try:
        return _stored(db, row)
    except ValueError:
        return StoredJob(_job((*row[:8], "{}", "[]", *row[10:])), (), readable=False)


def _run(row: tuple[Any, ...]) -> RunRecord:
    stage, item, state, attempt, deaths, retries, checkpoint, result = row
    counts = (attempt, deaths, retries)
    return RunRecord(stage, tuple(orjson.loads(item)), state, *counts, _load(checkpoint), _load(result))


def unreadable(db: sqlite3.Connection) -> list[str]:
    """The unfinished jobs whose rows are damaged."""
    rows = db.execute(f"SELECT {_JOB} FROM jobs WHERE finished_at IS NULL").fetchall()
    return [row[0] for row in rows if not _readable(db, row).readable]


def _page(db: sqlite3.Connection, job_id: str, after: int, enough: int) -> list[EventRecord]:
    page: list[EventRecord] = []
    query = "SELECT seq, kind, stage, item, idx, CAST(body AS BLOB) FROM events WHERE job=? AND seq>? ORDER BY seq"
    with contextlib.closing(db.execute(query, (job_id, after))) as found:
        for seq, kind, stage, item, index, body in found:
            page.append(EventRecord(seq, kind, stage, tuple(orjson.loads(item)), index, body))
            enough -= len(body) + _EVENT_BYTES
            if enough <= 0:
                break
    return page


def _finished(db: sqlite3.Connection, job_id: str, stage: str, item: Item) -> list[Any]:
    query = (
        "SELECT idx, kind, json_remove(body, '$.audio') FROM events "
        "WHERE job=? AND kind IN ('partial', 'audio') AND stage=? AND item=? ORDER BY seq"
    )
    found = {}
    for index, kind, text in db.execute(query, (job_id, stage, _json(item))):
        body = orjson.loads(text)
        found[index] = body["data"] if kind == "partial" else {"start": body["start"], "end": body["end"]}
    return [found[index] for index in sorted(found)]


def _expired(db: sqlite3.Connection, before: float, limit: int) -> Expired:
    jobs = db.execute("SELECT id FROM jobs WHERE finished_at < ? LIMIT ?", (before, limit)).fetchall()
    blobs = [row for job in jobs for row in db.execute("SELECT name FROM blobs WHERE job=?", job)]
    files = db.execute(_OLD_FILES, (before, limit)).fetchall()
    return Expired(*(tuple(text for (text,) in found) for found in (jobs, blobs, files)))


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _json_or_null(value: Any) -> str | None:
    return None if value is None else _json(value)


def _load(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)
