"""Ledgers that are damaged, before a start and while a server runs: said in a sentence, never retried in a loop."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from client import Client, OptivusError
from contract.errors import Internal
from storage import trouble
from storage.database import Database, Statement
from storage.ledger import Conflict, ReadFailed
from tests.drills import DrillServer, Gate, gates
from tests.roads import ME, Road
from tests.test_restart import start_again
from workers.base import Context, Params, Run, Worker

NOTES = ("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)",)


class EchoParams(Params):
    text: str


class Echo(Worker):
    name = "echo"
    message_type = "echo"
    answer = {"said": "$echo"}
    Params = EchoParams
    example = {"text": "hello"}

    def run(self, params: EchoParams, ctx: Context) -> Run:
        yield from ()
        return params.text


@pytest.fixture
def server(tmp_path: Path) -> DrillServer:
    return DrillServer(tmp_path)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with gates(tmp_path, "gate") as (gate,):
        yield gate


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as ledger:
        for statement in statements:
            ledger.execute(statement)


def drop_events(path: Path) -> None:
    change(path, "DROP TABLE events")


def drop_an_index(path: Path) -> None:
    change(path, "DROP INDEX one_final")


def overwrite_its_pages(path: Path) -> None:
    """All but the first, which has the schema."""
    change(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))


def cut_it_short(path: Path) -> None:
    change(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    path.write_bytes(path.read_bytes()[:5000])


def make_it_a_folder(path: Path) -> None:
    for file in path.parent.glob("ledger.sqlite3*"):
        file.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [drop_events, drop_an_index, overwrite_its_pages, cut_it_short, make_it_a_folder])
async def test_a_damaged_ledger_is_refused_at_the_start_with_what_to_do(
    server: DrillServer, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    road = await Road(tmp_path, [Echo]).start()
    await road.final(await road.queue.submit({"type": "echo", "text": "x"}, ME))
    await road.close()
    (tmp_path / "data").rename(server.data)
    damage(server.data / "ledger.sqlite3")
    refused = await asyncio.to_thread(start_again, server)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("optivus: ")
    assert "optivus doctor" in refused.stderr
    assert "Traceback" not in refused.stderr


DAMAGES = {
    "params": "UPDATE jobs SET params='{\"text\": ' WHERE id=?",
    "params of a number": "UPDATE jobs SET params=7 WHERE id=?",
    "text that is none": "UPDATE jobs SET params=CAST(X'7B22FF227D' AS TEXT) WHERE id=?",
    "client_id": "UPDATE jobs SET client_id='{' WHERE id=?",
    "created_at": "UPDATE jobs SET created_at='long ago' WHERE id=?",
    "deadline": "UPDATE jobs SET deadline='never' WHERE id=?",
    "state": "UPDATE jobs SET state='potato' WHERE id=?",
    "version": "UPDATE jobs SET version='two' WHERE id=?",
    "seq": "UPDATE jobs SET seq='two' WHERE id=?",
    "task's item": "UPDATE tasks SET item='[' WHERE job=?",
    "task's attempt": "UPDATE tasks SET attempt='one' WHERE job=?",
    "task's checkpoint": "UPDATE tasks SET checkpoint='{' WHERE job=?",
    "task's state": "UPDATE tasks SET state='potato' WHERE job=?",
    "task's stage": "UPDATE tasks SET stage='potato' WHERE job=?",
}

HARMLESS = {"client_id", "task's state", "task's stage"}
"""The job is worked out again all the same."""


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_row_that_cannot_be_read_ends_its_own_job_and_no_other(tmp_path: Path, damage: str) -> None:
    road = Road(tmp_path, [Echo])  # not started: its jobs wait for the next start
    jobs = [await road.queue.submit({"type": "echo", "text": "x"}, ME) for _ in range(3)]
    await road.ledger.close()
    with closing(sqlite3.connect(tmp_path / "data" / "ledger.sqlite3", isolation_level=None)) as ledger:
        ledger.execute(DAMAGES[damage], (jobs[1],))
    road = await Road(tmp_path, [Echo]).start()
    assert [(await road.final(job))["said"] for job in (jobs[0], jobs[2])] == ["x", "x"]
    if damage not in ("version", "seq"):  # what says where it stands is gone: it is left alone, and said in the log
        answer = await road.final(jobs[1])
        if damage not in HARMLESS:
            assert (answer["status"], answer["error_code"]) == ("error", "INTERNAL")
            assert answer["message"]
    assert len((await road.queue.jobs(ME, 10))["jobs"]) == 3
    assert not road.queue.open_jobs
    await road.close()


async def test_a_database_that_breaks_is_not_tried_in_a_loop_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(tmp_path / "notes.sqlite3", NOTES)
    tries: list[int] = []
    write = database._try

    def counted(writes: Any) -> Exception | None:
        tries.append(len(writes))
        return write(writes)

    monkeypatch.setattr(database, "_try", counted)
    told: list[Exception | None] = []
    change(tmp_path / "notes.sqlite3", "DROP TABLE notes")
    for _ in range(200):
        database.write([Statement("INSERT INTO notes (text) VALUES ('x')")], told.append)
        with pytest.raises(Internal):
            await database.commit([Statement("INSERT INTO notes (text) VALUES ('y')")])
    assert len(tries) < 10
    assert told == []
    assert "notes" in str(database.trouble.text)
    with pytest.raises(ReadFailed):
        await database.read(lambda db: db.execute("SELECT * FROM notes").fetchall())
    change(tmp_path / "notes.sqlite3", NOTES[0])
    monkeypatch.setattr(trouble.Trouble, "due", True)
    await database.commit([Statement("INSERT INTO notes (text) VALUES ('z')")], refusable=False)
    assert told == [None] * 200
    assert database.trouble.text is None
    await database.close()


async def test_a_job_whose_writes_always_conflict_is_not_tried_in_a_loop(tmp_path: Path) -> None:
    """Its events have numbers already that its row says are still to come."""
    road = await Road(tmp_path, [Echo]).start()
    job = await road.queue.submit({"type": "echo", "text": "x"}, ME)
    await road.final(job)
    await road.close()
    ledger = tmp_path / "data" / "ledger.sqlite3"
    change(ledger, "UPDATE jobs SET seq=0, finished_at=NULL, state='pending'", "UPDATE tasks SET state='queued'")
    road = Road(tmp_path, [Echo])
    conflicts: list[Exception] = []
    advance = road.ledger.advance

    def counted(change: Any, version: int, done: Any, *, soon: bool = True) -> None:
        def told(error: Exception | None) -> None:
            if isinstance(error, Conflict):
                conflicts.append(error)
            done(error)

        advance(change, version, told, soon=soon)

    road.ledger.advance = counted  # type: ignore[method-assign]
    await road.start()
    for _ in range(300):
        await road.ledger.settled()
        await asyncio.sleep(0)
    assert len(conflicts) < 5
    await road.close()


def test_a_server_whose_ledger_breaks_is_unhealthy_and_refuses_jobs(server: DrillServer, gate: Gate) -> None:
    with server, Client(server.url) as client:
        client.submit("drill", script=["go", gate.step, "go"])
        gate.reached()
        change(server.data / "ledger.sqlite3", "DROP TABLE events")
        gate.open()
        with pytest.raises(OptivusError) as refused:
            while True:
                client.submit("drill", script=["go"])
        assert refused.value.code == "INTERNAL"
        assert "ledger is broken" in str(refused.value)
        status, health = health_of(server)
        assert (status, health["status"]) == (503, "unhealthy")
        assert "events" in health["message"]
        lines = [line for line in server.log if '"ledger_broken"' in line]
        assert len(lines) == 1


def health_of(server: DrillServer) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"{server.url}/health", timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.load(exc)
