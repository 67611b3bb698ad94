"""Worker processes that die, stop, hang, or do not listen: the jobs go on, and each is answered once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from faster_whisper import decode_audio

from client import Cancelled, Client, Final, OptivusError, Partial
from pipeline.transport.process import CANCEL_SECONDS
from tests.drills import DrillServer, Gate, gates, gone, indexes, resumed, steps, told
from tests.processes import descendants
from tests.recordings import EXAMPLE, write

STEP_SECONDS = 0.3
DEADLINE_SECONDS = 1.0
IDLE_SECONDS = 0.3
RATE = 16_000
PAUSE_SECONDS = 2.5
"""A chunk of a piece may go over two of them."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DrillServer]:
    folder = tmp_path_factory.mktemp("server")
    settings = {"SWIFT_STEP_SECONDS": str(STEP_SECONDS), "DRILL_PRELOAD": "true", "SWIFT_PRELOAD": "true"}
    with DrillServer(folder, **settings) as server:
        yield server


@pytest.fixture
def client(server: DrillServer) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "trace"


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with gates(tmp_path, "gate") as (gate,):
        yield gate


class Ignored(NamedTuple):
    """A job that was cancelled while its worker could not hear it, and one whose step it shared."""

    job_id: str
    beside_id: str
    worker: int
    token: str | None


@pytest.fixture(scope="module", autouse=True)
def ignored(server: DrillServer) -> Iterator[Ignored]:
    """Begun before all other tests, since it takes the seconds that a worker has to hear."""
    with gates(server.folder, "first", "deaf") as (first, deaf), Client(server.url) as client:
        client.submit("stubborn", script=[first.step])
        worker = first.reached()
        job = client.submit("stubborn", script=[f"deaf {deaf.path}"])
        beside = client.submit("stubborn", script=["go", "go"])
        first.open()
        assert deaf.reached() == worker
        deaf.open()
        assert job.cancel()
        yield Ignored(job.id, beside.id, worker, client.token)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_dead_or_stopped_worker_is_noticed_and_its_task_goes_on_from_its_checkpoint(
    client: Client, gate: Gate, trace: Path, number: signal.Signals
) -> None:
    job = client.submit("drill", script=["go", "go", gate.step, "go"], trace=str(trace))
    first = gate.reached()
    os.kill(first, number)
    gone(first)
    assert gate.reached() != first
    gate.open()
    events = told(job)
    assert indexes(events) == [0, 1, 2, 3]
    assert steps(trace) == [0, 1, 2, 2, 3]
    assert job.result()["drill"]["steps"] == 4


def test_what_a_worker_has_started_is_killed_with_it(server: DrillServer, client: Client, gate: Gate) -> None:
    job = client.submit("drill", script=[f"child {gate.path}"])
    program = gate.reached()
    os.kill(server.worker("drill"), signal.SIGKILL)
    gone(program)
    assert gate.reached() != program
    gate.open()
    told(job)


def test_shortly_frozen_worker_goes_on_where_it_was(client: Client, gate: Gate, trace: Path) -> None:
    job = client.submit("drill", script=["go", gate.step, "go"], trace=str(trace))
    worker = gate.reached()
    os.kill(worker, signal.SIGSTOP)
    gate.open()
    os.kill(worker, signal.SIGCONT)
    told(job)
    assert job.result()["drill"]["pid"] == worker
    assert steps(trace) == [0, 1, 2]


@pytest.mark.parametrize("hang", ["loop", "freeze"])
def test_hung_step_is_ended_after_three_times_its_length_and_run_again(
    client: Client, tmp_path: Path, trace: Path, hang: str
) -> None:
    began = time.monotonic()
    job = client.submit("swift", script=["go", f"{hang}-once {tmp_path / 'hang'}", "go"], trace=str(trace))
    events = told(job)
    assert time.monotonic() - began > 3 * STEP_SECONDS
    assert indexes(events) == [0, 1, 2]
    assert steps(trace) == [0, 1, 1, 2]


def test_job_that_kills_its_worker_three_times_is_set_aside_and_all_others_succeed(
    server: DrillServer, client: Client, gate: Gate, trace: Path
) -> None:
    held = client.submit("drill", script=[gate.step])  # so that all of these wait together
    gate.reached()
    poison = client.submit("drill", script=["go", "die"], trace=str(trace), label="poison")
    good = [client.submit("drill", script=["go"] * 4) for _ in range(6)]
    gate.open()
    with pytest.raises(OptivusError) as died:
        poison.result()
    assert died.value.code == "WORKER_DIED"
    assert steps(trace, "poison") == [0, 1, 1, 1]
    assert [job.result()["drill"]["steps"] for job in (held, *good)] == [1, 4, 4, 4, 4, 4, 4]
    assert all(indexes(told(job)) == [0, 1, 2, 3] for job in good)


def test_batch_survives_a_poisonous_item_and_a_killed_worker(client: Client, gate: Gate) -> None:
    scripts = [["go"]] * 100
    scripts[30], scripts[60] = ["die"], [gate.step]
    job = client.submit("drill", data=[{"script": script} for script in scripts])
    os.kill(gate.reached(), signal.SIGKILL)
    gate.reached()
    gate.open()
    final = told(job)[-1]
    assert isinstance(final, Final)
    assert [item.get("error_code") for item in final.answer["data"]] == [None] * 30 + ["WORKER_DIED"] + [None] * 69


def test_event_that_the_ledger_cannot_hold_ends_its_own_job_only(client: Client) -> None:
    good = client.submit("drill", script=["go"] * 50)
    bad = client.submit("drill", script=["go", "huge", "go"])
    with pytest.raises(OptivusError) as failed:
        bad.result()
    assert failed.value.code == "INTERNAL"
    assert len(told(good)) == 51
    assert client.submit("drill", script=["go"]).result()["status"] == "success"


def test_cancelled_job_that_waits_never_runs(client: Client, gate: Gate, trace: Path) -> None:
    first = client.submit("single", script=[gate.step])
    gate.reached()
    waiting = client.submit("single", script=["go"], trace=str(trace), label="waiting")
    last = client.submit("single", script=["go"], trace=str(trace), label="last")
    assert waiting.cancel()
    with pytest.raises(Cancelled):
        waiting.result()
    gate.open()
    last.result()
    first.result()
    assert steps(trace, "waiting") == []
    assert not waiting.cancel()


def test_cancelled_job_frees_its_worker_between_two_steps(client: Client, gate: Gate, trace: Path) -> None:
    job = client.submit("single", script=[gate.step] + ["go"] * 10_000, trace=str(trace))
    worker = gate.reached()
    assert job.cancel()
    gate.open()
    answer = client.submit("single", script=["go"]).result()
    assert answer["single"]["pid"] == worker
    assert len(steps(trace)) < 10_000
    assert [event.status for event in told(job) if isinstance(event, Final)] == ["cancelled"]


def test_one_clients_many_tasks_do_not_stand_before_anothers_single_one(
    server: DrillServer, client: Client, gate: Gate, trace: Path
) -> None:
    client.submit("single", script=[gate.step])
    gate.reached()
    many = client.submit("single", data=[{"script": ["go"], "trace": str(trace), "label": "many"}] * 50)
    with Client(server.url) as other:
        one = other.submit("single", script=["go"], trace=str(trace), label="one")
        gate.open()
        one.result()
    told(many)
    order = [line.split()[0] for line in trace.read_text().splitlines()]
    assert order.index("one") <= 1


def test_model_that_kills_its_process_is_unavailable_and_not_started_for_ever(
    server: DrillServer, client: Client
) -> None:
    for loads in (3, 6):
        with pytest.raises(OptivusError) as failed:
            client.submit("crasher").result()
        assert failed.value.code == "MODEL_UNAVAILABLE"
        assert len((server.data / "crashes").read_text()) == loads
    assert client.submit("drill", script=["go"]).result()["status"] == "success"


def test_worker_that_ignores_cancelling_is_killed_and_its_other_tasks_go_back_uncounted(
    server: DrillServer, ignored: Ignored
) -> None:
    job, beside = resumed(server, ignored.token, [ignored.job_id, ignored.beside_id])
    assert [event.status for event in job if isinstance(event, Final)] == ["cancelled"]
    assert isinstance(beside[-1], Final)
    assert beside[-1].answer["stubborn"]["pid"] != ignored.worker
    both = f"('{ignored.job_id}', '{ignored.beside_id}')"
    assert server.rows(f"SELECT DISTINCT deaths FROM tasks WHERE job IN {both}") == [(0,)]
    ((seconds,),) = server.rows(f"SELECT max(finished_at) - min(finished_at) FROM jobs WHERE id IN {both}")
    assert seconds >= CANCEL_SECONDS


def test_worker_stopped_while_it_loads_is_replaced(tmp_path: Path) -> None:
    server = DrillServer(tmp_path)
    server.data.mkdir()
    with gates(server.data, "drill.load") as (loading,), server, Client(server.url) as client:
        job = client.submit("drill", script=["go"])
        first = loading.reached()
        os.kill(first, signal.SIGSTOP)
        gone(first)
        assert loading.reached() != first
        loading.open()
        assert job.result()["status"] == "success"


def test_killed_fork_server_is_replaced_with_its_workers(tmp_path: Path) -> None:
    with DrillServer(tmp_path) as server, gates(tmp_path, "gate") as (gate,), Client(server.url) as client:
        job = client.submit("drill", script=["go", gate.step])
        worker = gate.reached()
        for pid in descendants(server.pid):
            if pid != worker:
                os.kill(pid, signal.SIGKILL)
        gone(worker)  # it ends with the process that made it
        assert gate.reached() != worker
        gate.open()
        assert indexes(told(job)) == [0, 1]


def test_replicas_run_tasks_side_by_side(tmp_path: Path) -> None:
    settings = {"DRILL_REPLICAS": "2", "DRILL_PRELOAD": "true", "SINGLE_REPLICAS": "2"}
    with gates(tmp_path, "one", "two") as (one, two), DrillServer(tmp_path, **settings) as server:  # noqa: SIM117
        with Client(server.url) as client:
            for kind in ("single", "drill"):
                jobs = [client.submit(kind, script=[gate.step]) for gate in (one, two)]
                assert one.reached() != two.reached()
                one.open()
                two.open()
                assert [job.result()["status"] for job in jobs] == ["success", "success"]


def test_idle_worker_leaves_and_comes_back_but_a_busy_one_stays(tmp_path: Path) -> None:
    settings = {f"{name}_IDLE_UNLOAD_MINUTES": str(IDLE_SECONDS / 60) for name in ("DRILL", "SINGLE")}
    with gates(tmp_path, "gate") as (gate,), DrillServer(tmp_path, **settings) as server, Client(server.url) as client:
        busy = client.submit("drill", script=[gate.step])
        worker = gate.reached()
        for _ in range(2):  # twice the idle time passes for another one
            gone(client.submit("single", script=["go"]).result()["single"]["pid"])
        gate.open()
        assert busy.result()["drill"]["pid"] == worker
        gone(worker)
        assert client.submit("drill", script=["go"]).result()["drill"]["pid"] != worker


def test_job_past_its_deadline_fails_and_frees_its_worker(tmp_path: Path) -> None:
    settings = {"JOB_DEADLINE_HOURS": str(DEADLINE_SECONDS / 3600)}
    with gates(tmp_path, "gate") as (gate,), DrillServer(tmp_path, **settings) as server, Client(server.url) as client:
        worker = None
        while worker is None:  # its start may take longer than the deadline
            with suppress(OptivusError):
                worker = client.submit("single", script=["go"]).result()["single"]["pid"]
        late, behind = (client.submit("single", script=[gate.step] + ["go"] * 10_000) for _ in range(2))
        assert gate.reached() == worker
        for job in (late, behind):
            with pytest.raises(OptivusError) as failed:
                job.result()
            assert failed.value.code == "DEADLINE_EXCEEDED"
        gate.open()
        assert client.submit("single", script=["go"]).result()["single"]["pid"] == worker


def test_model_that_nobody_has_is_unavailable_and_the_server_goes_on(tmp_path: Path) -> None:
    settings = {"AI_WHISPER_MODEL": "nobody/has-this", "HF_HUB_OFFLINE": "1"}
    settings["MEDIA_ROOTS"] = str(EXAMPLE.parent)
    with DrillServer(tmp_path, **settings) as server, Client(server.url) as client:
        for _ in range(2):
            with pytest.raises(OptivusError) as failed:
                client.submit("whisp", file=EXAMPLE).result()
            assert failed.value.code == "MODEL_UNAVAILABLE"
            assert client.submit("drill", script=["go"]).result()["status"] == "success"


def test_whisper_killed_in_mid_file_and_then_the_server_give_one_correct_transcript(
    tmp_path: Path, whisper_model: Path
) -> None:
    """A checkpoint follows the chunks of each piece, so that a death between them tells that one piece again."""
    recording = long_recording(tmp_path / "long.wav")
    settings = {"AI_WHISPER_MODEL": str(whisper_model), "WHISPER_BEAM_SIZE": "1", "WHISPER_THREADS": "2"}
    with DrillServer(tmp_path, **settings) as server:
        with Client(server.url) as client:
            undisturbed = client.submit("whisp", file=recording).result()["transcribe_audio"]
            job = client.submit("whisp", file=recording)
            partials = (event for event in job.events() if isinstance(event, Partial))
            before = [next(partials), next(partials)]
            os.kill(server.worker("whisper"), signal.SIGKILL)
            before += [next(partials), next(partials)]
            token = client.token
        server.kill()
        server.start()
        with Client(server.url, token) as client:
            job = client.job(job.id)
            events = told(job)
            assert job.result()["transcribe_audio"] == undisturbed
    assert events[: len(before)] == before
    chunks = {event.index: event.data for event in events if isinstance(event, Partial)}
    assert [chunks[index] for index in sorted(chunks)] == undisturbed["chunks"]
    assert indexes(events).count(0) == 1, "its checkpoint was kept before the next piece's chunks were told"
    known = -1
    for index in indexes(events):
        if index <= known:
            speech = sum(chunks[again]["end"] - chunks[again]["start"] for again in range(index, known + 1))
            assert speech <= 30 + 2 * PAUSE_SECONDS, f"chunks {index} to {known} are more than one piece"
        known = max(known, index)


def long_recording(path: Path) -> Path:
    """The example seven times, more than 90 s, with pauses long enough that each is a piece of its own."""
    example = decode_audio(str(EXAMPLE))
    pause = np.zeros(int(PAUSE_SECONDS * RATE), np.float32)
    return write(path, np.concatenate([example, pause] * 7), rate=RATE)
