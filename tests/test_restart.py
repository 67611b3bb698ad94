"""The server killed, stopped and started again: nothing accepted is lost, nothing is told twice or left behind."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from client import Client, Final, OptivusError, Partial
from storage.database import Database
from storage.retention import SWEEP_ROWS
from tests.drills import DrillServer, Gate, gates, gone, indexes, resumed, steps, told
from tests.processes import descendants
from tests.servers import ROOT


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DrillServer]:
    with DrillServer(tmp_path) as server:
        yield server


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with gates(tmp_path, "gate") as (gate,):
        yield gate


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "trace"


@pytest.mark.parametrize("whole_group", [False, True])
def test_killed_server_leaves_no_process_and_no_file_and_goes_on_from_checkpoints(
    server: DrillServer, gate: Gate, trace: Path, whole_group: bool
) -> None:
    with Client(server.url) as client:
        job = client.submit("drill", script=["go", "go", gate.step, "go"], trace=str(trace))
        gate.reached()
        assert any(isinstance(event, Partial) and event.index == 1 for event in job.events())  # so its step has ended
        processes, token = descendants(server.pid), client.token
        assert any((server.data / "work").iterdir())
        if whole_group:
            server.kill_all()
        else:
            server.kill()
        gone(*processes)
        assert whole_group or not any((server.data / "work").iterdir())
    server.start()
    gate.reached()
    gate.open()
    (events,) = resumed(server, token, [job.id])
    assert sorted(set(indexes(events))) == [0, 1, 2, 3]
    assert steps(trace) in ([0, 1, 2, 2, 3], [0, 1, 2, 1, 2, 3]), "the checkpoint after 1 may have come too late"
    assert not any((server.data / "work").iterdir())


def test_killed_server_leaves_no_process_that_it_had_not_listened_to(server: DrillServer, tmp_path: Path) -> None:
    with gates(tmp_path, "first", "second") as (first, second), Client(server.url) as client:
        client.submit("drill", script=[first.step, second.step])
        first.reached()
        processes = descendants(server.pid)
        server.signal(signal.SIGSTOP)
        first.open()
        second.reached()  # what the worker said meanwhile lies unread
        server.kill()
        gone(*processes)


def test_killed_server_leaves_no_process_that_holds_its_interpreter(server: DrillServer, gate: Gate) -> None:
    with Client(server.url) as client:
        client.submit("drill", script=[f"freeze {gate.path}"])
        gate.reached()
        processes = descendants(server.pid)
        server.kill()
        gone(*processes)


@pytest.mark.parametrize(
    ("number", "everybody"), [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGINT, True)]
)
def test_server_told_to_stop_refuses_new_work_and_hands_back_the_rest_uncounted(
    server: DrillServer, gate: Gate, trace: Path, number: signal.Signals, everybody: bool
) -> None:
    """Also when its whole group is told: by Ctrl-C in a terminal, or by a supervisor."""
    with Client(server.url) as client:
        held = client.submit("drill", script=["go", gate.step, "go"], trace=str(trace))
        gate.reached()
        jobs = [held, *(client.submit("single", script=["go"] * 50) for _ in range(20))]
        for pid in [*(descendants(server.pid) if everybody else ()), server.pid]:
            os.kill(pid, number)
        with pytest.raises(OptivusError) as refused:
            while True:  # what is accepted until then counts too
                jobs.append(client.submit("single", script=["go"]))
        assert refused.value.code == "DRAINING"
        token = client.token
        assert server.ended() == 0
    assert server.rows("SELECT DISTINCT deaths FROM tasks") == [(0,)]
    server.start()
    gate.reached()
    gate.open()
    for events in resumed(server, token, [job.id for job in jobs]):
        assert isinstance(events[-1], Final)
        assert events[-1].status == "success"
    assert steps(trace).count(2) == 1
    assert server.rows("SELECT DISTINCT deaths FROM tasks") == [(0,)]


def test_running_work_ends_and_is_told_before_the_server_does(tmp_path: Path, gate: Gate) -> None:
    with DrillServer(tmp_path, DRAIN_SECONDS="20") as server, Client(server.url) as client:
        job = client.submit("drill", script=["go", gate.step, "go"])
        gate.reached()
        server.signal(signal.SIGTERM)
        with pytest.raises(OptivusError):
            while True:
                client.submit("single", script=["go"])
        gate.open()
        assert indexes(told(job)) == [0, 1, 2]
        assert server.ended() == 0


def test_second_signal_ends_the_server_at_once_and_loses_nothing(tmp_path: Path, gate: Gate) -> None:
    with DrillServer(tmp_path, DRAIN_SECONDS="20") as server:
        with Client(server.url) as client:
            job = client.submit("drill", script=["go", gate.step, "go"])
            gate.reached()
            processes, token = descendants(server.pid), client.token
            server.signal(signal.SIGTERM)
            with pytest.raises(OptivusError):
                while True:
                    client.submit("single", script=["go"])
            server.signal(signal.SIGTERM)
            assert server.ended() == -signal.SIGTERM
            gone(*processes)
        server.start()
        gate.reached()
        gate.open()
        (events,) = resumed(server, token, [job.id])
        assert sorted(set(indexes(events))) == [0, 1, 2]


def test_server_stopped_while_a_model_loads_keeps_the_job(tmp_path: Path) -> None:
    server = DrillServer(tmp_path)
    server.data.mkdir()
    with gates(server.data, "drill.load") as (loading,):
        server.start()
        with Client(server.url) as client:
            job = client.submit("drill", script=["go"])
            loading.reached()
            processes, token = descendants(server.pid), client.token
            assert server.stop() == 0
            gone(*processes)
        with server:
            loading.reached()
            loading.open()
            (events,) = resumed(server, token, [job.id])
            assert indexes(events) == [0]


def test_second_server_on_the_same_data_refuses_to_start(server: DrillServer) -> None:
    second = start_again(server)
    assert second.returncode == 1
    assert "Another Optivus server is running on" in second.stderr
    assert "Traceback" not in second.stderr
    with Client(server.url) as client:
        assert client.submit("drill", script=["go"]).result()["status"] == "success"


async def test_ledger_of_a_newer_version_is_refused_with_a_sentence(tmp_path: Path) -> None:
    server = DrillServer(tmp_path)
    server.data.mkdir()
    await Database(server.data / "ledger.sqlite3", ["SELECT 1"] * 99).close()
    refused = await asyncio.to_thread(start_again, server)
    assert refused.returncode == 2
    assert "set another DATA_DIR" in refused.stderr
    assert "Traceback" not in refused.stderr


def start_again(server: DrillServer) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "server.py"], cwd=ROOT, env=server.env, capture_output=True, text=True, timeout=20, check=False
    )


def test_full_disk_refuses_new_work_and_corrupts_nothing(server: DrillServer) -> None:
    """The disk is full for one process: no file of it may grow."""
    with Client(server.url) as client:
        first = client.submit("drill", script=["go"]).id
        limit = max(file.stat().st_size for file in server.data.glob("ledger.sqlite3*")) + 4096
        unlimited = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (limit, unlimited[1]))
        accepted = [first]
        with pytest.raises(OptivusError) as refused:
            while True:
                accepted.append(client.submit("drill", script=["x" * 1000]).id)
        assert refused.value.code == "DISK_FULL"
        with pytest.raises(OptivusError):
            client.submit("drill", script=["x" * 1000])
        assert len(client.jobs()) == len(accepted)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, unlimited)
        accepted.append(client.submit("drill", script=["go"]).id)
        for events in resumed(server, client.token, accepted):
            assert isinstance(events[-1], Final)
            assert events[-1].status == "success"
    assert server.rows("PRAGMA integrity_check") == [("ok",)]


def test_all_old_jobs_are_forgotten_however_many(tmp_path: Path) -> None:
    server = DrillServer(tmp_path, RETENTION_HOURS="1")
    with server, Client(server.url) as client:
        client.submit("drill", script=["go"]).result()
        token = client.token
    columns = (
        "client, owner, limited_as, client_id, type, plan, params, warnings, priority, deadline, state, version, seq"
    )
    copies = f"""
        WITH RECURSIVE n(n) AS (SELECT 1 UNION SELECT n + 1 FROM n WHERE n < {2 * SWEEP_ROWS + 1})
        INSERT INTO jobs ({columns}, created_at, finished_at, id, idempotency_key)
        SELECT {columns}, created_at - 7200, finished_at - 7200, id || n, id || n FROM jobs, n"""
    with closing(sqlite3.connect(server.data / "ledger.sqlite3", isolation_level=None)) as ledger:
        ledger.execute(copies)
    with server, Client(server.url, token) as client:
        while len(client.jobs()) > 1:
            continue  # the sweep goes on beside us
        assert client.submit("drill", script=["go"]).result()["status"] == "success"
    assert server.rows("SELECT count(*) FROM jobs") == [(2,)]
    assert server.rows("SELECT count(*) FROM events") == [(4,)]
