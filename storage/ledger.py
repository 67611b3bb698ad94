"""The durable truth: jobs, tasks, events, blobs and files, and every statement that changes or reads them.

A job is written when it is accepted and by each `Step` after that, always with its version compared, so that two
writers can never both win. What a client has been told stands in `events` word for word; a replay is a read.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from rpds import HashTrieMap

from contract.messages import Item, Request
from pipeline.job import Job, State, Step
from pipeline.plans import Plan
from pipeline.references import Key, Run
from storage import blobs
from storage.database import Database, Statement

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
)

PAGE_BYTES = 256 * 1024
"""A page of events has about so many bytes. A slow reader costs as much while it takes them."""
_ROW_BYTES = 200
"""What an event takes in memory beside its text."""

_JOB = (
    "id, client, owner, client_id, type, plan, params, warnings, idempotency_key, priority, created_at, deadline, "
    "finished_at, state, version, seq"
)
_PUT_FILE = (
    "INSERT INTO files (id, owner, path, name, bytes, created_at) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (path) DO "
    "UPDATE SET name=excluded.name, bytes=excluded.bytes, created_at=excluded.created_at WHERE owner=excluded.owner"
)
_INSERT_JOB = f"INSERT INTO jobs ({_JOB}) VALUES ({', '.join('?' * 16)})"
_UPDATE_JOB = "UPDATE jobs SET state=?, version=?, seq=?, finished_at=? WHERE id=? AND version=?"
_PUT_TASK = (
    "INSERT INTO tasks (job, stage, item, state, attempt, deaths, holder, checkpoint, result) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET state=excluded.state, attempt=excluded.attempt, "
    "deaths=excluded.deaths, holder=excluded.holder, checkpoint=excluded.checkpoint, result=excluded.result"
)
_INSERT_EVENT = "INSERT INTO events (job, seq, kind, stage, item, idx, body) VALUES (?, ?, ?, ?, ?, ?, ?)"
_INSERT_BLOB = "INSERT OR IGNORE INTO blobs (name, job, bytes) VALUES (?, ?, ?)"


class JobRow(NamedTuple):
    """A job as the ledger has it, for listings and readers; `seq` counts what its client was told."""

    id: str
    client: str
    owner: str
    client_id: str
    type: str
    plan: str
    params: str
    warnings: str
    key: str | None
    priority: int
    created_at: float
    deadline: float
    finished_at: float | None
    state: str
    version: int
    seq: int


class EventRow(NamedTuple):
    """What a client was told. body: JSON."""

    seq: int
    kind: str
    body: bytes


class FileRow(NamedTuple):
    """A file that the server keeps for its owner. path: absolute."""

    id: str
    owner: str
    path: str
    name: str
    bytes: int
    created_at: float


class Expired(NamedTuple):
    """What the retention is over for: ids of jobs, names of their blobs, paths of files."""

    jobs: list[str]
    blobs: list[str]
    files: list[str]


class Ledger(Database):
    """The database of one server."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, MIGRATIONS)


# Changes.


def accepted(step: Step, now: float) -> list[Statement]:
    """A new job with its first step, as one change."""
    job = step.job
    request = job.request
    row = (
        job.id,
        request.client,
        request.owner,
        _json(request.id),
        request.type,
        job.plan.name,
        _json(request.params),
        _json(request.warnings),
        request.key,
        job.priority,
        job.created_at,
        job.deadline,
        now if job.state.ended else None,
        job.state,
        job.version,
        job.seq,
    )
    return [Statement(_INSERT_JOB, row), *_details(step)]


def advanced(step: Step, version: int, now: float) -> list[Statement]:
    """A step from `version` to the step's own."""
    job = step.job
    ended = now if job.state.ended else None
    row = (job.state, job.version, job.seq, ended, job.id, version)
    made = [
        FileRow(new_file_id(), job.request.owner, file["path"], file["name"], file["bytes"], now) for file in step.made
    ]
    files = [statement for file in made for statement in file_added(file)]
    return [Statement(_UPDATE_JOB, row, one_row=True), *_details(step), *files]


def _details(step: Step) -> Iterator[Statement]:
    job = step.job
    for key in step.changed:
        run = job.runs[key]
        args = (job.id, key[0], _json(key[1]), run.state, run.attempt, run.deaths, None)
        yield Statement(_PUT_TASK, (*args, _json_or_null(run.checkpoint), _json_or_null(run.result)))
        if run.state == "done":
            for name, size in blobs.references(run.result):
                yield Statement(_INSERT_BLOB, (name, job.id, size))
    for out in step.outs:
        if out.seq is not None:
            place = (out.stage, _json(out.item), out.index)
            yield Statement(_INSERT_EVENT, (job.id, out.seq, out.kind, *place, out.text.decode()))


def new_file_id() -> str:
    return f"file_{secrets.token_hex(16)}"


def file_added(file: FileRow) -> list[Statement]:
    """An upload, or what a worker made; a later attempt of its task may have made it again."""
    return [Statement(_PUT_FILE, file)]


def file_removed(file_id: str) -> list[Statement]:
    return [Statement("DELETE FROM files WHERE id=?", (file_id,), one_row=True)]


def forgotten(old: Expired) -> list[Statement]:
    """Forget jobs and files; what lies on the disk is the caller's to delete."""
    return [
        *(Statement("DELETE FROM jobs WHERE id=?", (job_id,)) for job_id in old.jobs),
        *(Statement("DELETE FROM files WHERE path=?", (path,)) for path in old.files),
    ]


# Reads: each takes a connection, for `Database.read`.


def job_row(db: sqlite3.Connection, job_id: str) -> JobRow | None:
    row = db.execute(f"SELECT {_JOB} FROM jobs WHERE id=?", (job_id,)).fetchone()
    return JobRow(*row) if row else None


def job_by_key(db: sqlite3.Connection, client: str, key: str) -> str | None:
    row = db.execute("SELECT id FROM jobs WHERE client=? AND idempotency_key=?", (client, key)).fetchone()
    return row[0] if row else None


def client_id(row: JobRow) -> Any:
    """The `id` that the client gave the job."""
    return orjson.loads(row.client_id)


def jobs_of(db: sqlite3.Connection, client: str, limit: int = 1000) -> list[JobRow]:
    """A client's jobs, newest first."""
    query = f"SELECT {_JOB} FROM jobs WHERE client=? ORDER BY created_at DESC LIMIT ?"
    return [JobRow(*row) for row in db.execute(query, (client, limit))]


def unfinished(db: sqlite3.Connection, plans: Mapping[str, Plan]) -> tuple[list[Job], list[JobRow]]:
    """Jobs to go on with, oldest first, and those whose plan this server no longer has."""
    jobs: list[Job] = []
    orphans: list[JobRow] = []
    query = f"SELECT {_JOB} FROM jobs WHERE finished_at IS NULL ORDER BY created_at"
    for row in map(JobRow._make, db.execute(query).fetchall()):
        plan = plans.get(row.plan)
        if plan is None:
            orphans.append(row)
        else:
            jobs.append(_job(row, plan, dict(_runs(db, row.id))))
    return jobs, orphans


def _job(row: JobRow, plan: Plan, runs: Mapping[Key, Run]) -> Job:
    request = Request(
        id=orjson.loads(row.client_id),
        client=row.client,
        owner=row.owner,
        type=row.type,
        params=orjson.loads(row.params),
        key=row.key,
        warnings=tuple(orjson.loads(row.warnings)),
    )
    times = (row.created_at, row.deadline)
    return Job(
        row.id, request, plan, *times, State(row.state), row.version, row.seq, row.priority, HashTrieMap(dict(runs))
    )


def _runs(db: sqlite3.Connection, job_id: str) -> Iterator[tuple[Key, Run]]:
    query = "SELECT stage, item, state, attempt, deaths, checkpoint, result FROM tasks WHERE job=?"
    for stage, item, state, attempt, deaths, checkpoint, result in db.execute(query, (job_id,)):
        run = Run(state, attempt, deaths, 0, _load(checkpoint), _load(result))
        yield (stage, tuple(orjson.loads(item))), run


def events_after(db: sqlite3.Connection, job_id: str, seq: int, enough: int = PAGE_BYTES) -> list[EventRow]:
    """What the client was told after `seq`, in order: a page, which ends with the event that makes `enough` bytes."""
    page: list[EventRow] = []
    query = "SELECT seq, kind, CAST(body AS BLOB) FROM events WHERE job=? AND seq>? ORDER BY seq"
    with contextlib.closing(db.execute(query, (job_id, seq))) as found:
        for row in found:
            page.append(EventRow(*row))
            enough -= len(page[-1].body) + _ROW_BYTES
            if enough <= 0:
                break
    return page


def last_seqs(db: sqlite3.Connection, client: str, job_ids: Iterable[str]) -> dict[str, int]:
    """The `seq` of those of these jobs that the client has."""
    query = "SELECT id, seq FROM jobs WHERE client=? AND id IN (SELECT value FROM json_each(?))"
    return dict(db.execute(query, (client, _json(list(job_ids)))))


def final_event(db: sqlite3.Connection, job_id: str) -> bytes | None:
    row = db.execute("SELECT CAST(body AS BLOB) FROM events WHERE job=? AND kind='final'", (job_id,)).fetchone()
    return row[0] if row else None


def finished_partials(db: sqlite3.Connection, job_id: str, stage: str, item: Item) -> list[Any]:
    """What one run has told by index, as `Task.finished` has it; a later one of the same index replaces the earlier."""
    query = (
        "SELECT idx, kind, json_remove(body, '$.audio') FROM events "
        "WHERE job=? AND kind IN ('partial', 'audio') AND stage=? AND item=? ORDER BY seq"
    )
    found = {}
    for index, kind, text in db.execute(query, (job_id, stage, _json(item))):
        body = orjson.loads(text)
        found[index] = body["data"] if kind == "partial" else {"start": body["start"], "end": body["end"]}
    return [found[index] for index in sorted(found)]


def file_row(db: sqlite3.Connection, file_id: str) -> FileRow | None:
    row = db.execute("SELECT id, owner, path, name, bytes, created_at FROM files WHERE id=?", (file_id,)).fetchone()
    return FileRow(*row) if row else None


def made_file(db: sqlite3.Connection, path: str, owner: str) -> FileRow | None:
    """An owner's file by its path."""
    query = "SELECT id, owner, path, name, bytes, created_at FROM files WHERE path=? AND owner=?"
    row = db.execute(query, (path, owner)).fetchone()
    return FileRow(*row) if row else None


def owner_of_path(db: sqlite3.Connection, path: str) -> str | None:
    row = db.execute("SELECT owner FROM files WHERE path=?", (path,)).fetchone()
    return row[0] if row else None


def expired(db: sqlite3.Connection, before: float, limit: int) -> Expired:
    """Some of the jobs that ended, and of the files that came, before that time: at most `limit` of each."""
    jobs = db.execute("SELECT id FROM jobs WHERE finished_at < ? LIMIT ?", (before, limit)).fetchall()
    blobs = [row for job in jobs for row in db.execute("SELECT name FROM blobs WHERE job=?", job)]
    files = db.execute("SELECT path FROM files WHERE created_at < ? LIMIT ?", (before, limit)).fetchall()
    return Expired(*([text for (text,) in found] for found in (jobs, blobs, files)))


def known_blobs(db: sqlite3.Connection) -> set[str]:
    return {name for (name,) in db.execute("SELECT name FROM blobs")}


def known_uploads(db: sqlite3.Connection) -> set[str]:
    return {file_id for (file_id,) in db.execute("SELECT id FROM files")}


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _json_or_null(value: Any) -> str | None:
    return None if value is None else _json(value)


def _load(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)


def orphans_ended(rows: Iterable[JobRow], body: Mapping[str, Any], now: float) -> Iterator[Statement]:
    """End jobs whose plan is gone with the answer `body`."""
    for row in rows:
        final = {"job_id": row.id, "id": orjson.loads(row.client_id), "seq": row.seq + 1, "type": row.type, **body}
        update = (State.FAILED, row.version + 1, row.seq + 1, now, row.id, row.version)
        yield Statement(_UPDATE_JOB, update, one_row=True)
        yield Statement(_INSERT_EVENT, (row.id, row.seq + 1, "final", "", "[]", None, _json(final)))
