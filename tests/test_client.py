"""The Python client against a real server whose model follows a script (tests/client_workers)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from client import (
    AsyncClient,
    AsyncJob,
    Cancelled,
    Client,
    Event,
    Final,
    OptivusError,
    Partial,
    Progress,
    ServerUnreachable,
)
from tests.proxy import Proxy
from tests.scripts import Script, scripted_server
from tests.servers import Server

WORDS = ["ask", "not", "what", "your", "country", "can"]
EVERY_SEQ = [1, 2, 3, 4, 5, 6, 7]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with scripted_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def script(server: Server) -> Iterator[Script]:
    """Six words, each when the test says so."""
    with Script(server.folder, WORDS, gated=True) as script:
        yield script


@pytest.fixture
def quick(server: Server) -> Iterator[Script]:
    """Six words, at once."""
    with Script(server.folder, WORDS) as script:
        yield script


async def heard(job: AsyncJob, at: Callable[[Event], Any] = lambda event: None) -> list[Event]:
    """A job's kept events; `at` is called, and awaited if need be, with each."""
    kept: list[Event] = []
    async for event in job.events():
        if isinstance(event, Progress):
            continue
        kept.append(event)
        done = at(event)
        if asyncio.iscoroutine(done):
            await done
    return kept


def seqs(events: list[Event]) -> list[int]:
    return [event.seq for event in events if not isinstance(event, Progress)]


def words(events: list[Event]) -> list[str]:
    return [event.data["text"].strip() for event in events if isinstance(event, Partial)]


async def test_events_come_in_order_and_end_with_the_answer(server: Server, quick: Script) -> None:
    async with AsyncClient(server.url) as client:
        job = await client.submit("whisp", file=quick.path, id={"mine": 1})
        events = await heard(job)
        assert seqs(events) == EVERY_SEQ
        assert words(events) == WORDS
        answer = await job.result()
        assert events[-1] == Final(7, "success", answer)
        assert answer["id"] == {"mine": 1}
        assert [chunk["text"].strip() for chunk in answer["transcribe_audio"]["chunks"]] == WORDS
        assert await heard(job) == events


async def test_progress_is_a_fraction_with_an_estimate(server: Server, script: Script) -> None:
    async with AsyncClient(server.url) as client:
        job = await client.submit("whisp", file=script.path)
        script.open(1)
        async for event in job.events():
            if isinstance(event, Progress):
                break
        assert event == Progress(stage="whisper", item=(), fraction=1 / 6, eta=5.0)
        await job.cancel()


async def test_cut_connection_leaves_neither_hole_nor_duplicate(server: Server, script: Script) -> None:
    async with Proxy(server) as proxy, AsyncClient(proxy.url) as client:
        token = client.token
        job = await client.submit("whisp", file=script.path)
        script.open(2)

        def cut_twice(event: Event) -> None:
            if isinstance(event, Partial) and event.seq in (2, 4):
                proxy.cut()
                script.open(2)

        events = await heard(job, cut_twice)
        assert seqs(events) == EVERY_SEQ
        assert words(events) == WORDS
        assert client.token == token


async def test_lost_event_is_asked_for_again(server: Server, script: Script) -> None:
    async with Proxy(server) as proxy, AsyncClient(proxy.url) as client:
        job = await client.submit("whisp", file=script.path)
        lost = proxy.lose(b'"seq":2')
        script.open(3)
        await lost.wait()
        script.open(3)
        events = await heard(job)
        assert seqs(events) == EVERY_SEQ
        assert words(events) == WORDS


async def test_event_is_taken_once_and_in_its_place() -> None:
    async def no(*_: object) -> bool:
        return False

    job = AsyncJob("job_1", 0, no, no)
    job.add(Partial(1, "whisper", (), 0, {"text": "ask"}))
    assert [job.place(seq) for seq in (1, 2, 3)] == ["old", "next", "later"]


async def test_killed_server_goes_on_with_the_job_after_its_restart(server: Server, script: Script) -> None:
    async with Proxy(server) as proxy, AsyncClient(proxy.url) as client:
        job = await client.submit("whisp", file=script.path)
        script.open(2)

        async def restart(event: Event) -> None:
            if isinstance(event, Partial) and event.seq == 2:
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
                script.open(20)

        events = await heard(job, restart)
        assert seqs(events) == EVERY_SEQ
        assert words(events) == WORDS
        assert (await job.result())["status"] == "success"


async def test_lost_acknowledgement_makes_one_job(server: Server, quick: Script) -> None:
    async with Proxy(server) as proxy, AsyncClient(proxy.url) as client:
        proxy.lose(cut=True)
        job = await client.submit("whisp", file=quick.path)
        assert seqs(await heard(job)) == EVERY_SEQ
        assert [(row.job_id, row.state) for row in await client.jobs()] == [(job.id, "completed")]


async def test_same_key_is_the_same_job_in_a_later_process_too(server: Server, quick: Script) -> None:
    async with AsyncClient(server.url) as client:
        job = await client.submit("whisp", file=quick.path, idempotency_key="talk")
        answer = await job.result()
    async with AsyncClient(server.url, token=client.token) as later:
        again = await later.submit("whisp", file=quick.path, idempotency_key="talk")
        assert again.id == job.id
        assert await again.result() == answer


async def test_job_is_taken_up_again_after_any_event(server: Server, quick: Script) -> None:
    async with AsyncClient(server.url) as client:
        answer = await (job := await client.submit("whisp", file=quick.path)).result()
    async with AsyncClient(server.url, token=client.token) as later:
        assert seqs(await heard(await later.job(job.id, last_seq=4))) == [5, 6, 7]
        assert await (await later.job(job.id, last_seq=7)).result() == answer
        assert seqs(await heard(await later.job(job.id, last_seq=99))) == EVERY_SEQ
    async with AsyncClient(server.url) as stranger:
        with pytest.raises(OptivusError) as refused:
            await stranger.job(job.id)
    assert refused.value.code == "JOB_NOT_FOUND"


async def test_answer_too_large_for_a_message_arrives_whole(server: Server) -> None:
    texts = [str(number % 10) * 60_000 for number in range(60)]
    with Script(server.folder, texts) as large:
        async with AsyncClient(server.url) as client:
            answer = await (await client.submit("whisp", file=large.path)).result()
    assert [chunk["text"].strip() for chunk in answer["transcribe_audio"]["chunks"]] == texts
    assert answer["status"] == "success"


async def test_upload_is_reported_and_transcribed(server: Server, tmp_path: Path) -> None:
    with Script(tmp_path, WORDS, padding=1_000_000) as local:
        size = local.path.stat().st_size
        async with AsyncClient(server.url) as client:
            reports: list[tuple[int, int]] = []
            file_id = await client.upload(local.path, lambda sent, total: reports.append((sent, total)))
            assert reports == sorted(reports)
            assert len(reports) > 1
            assert reports[-1] == (size, size)
            by_id = await client.transcribe(file_id)
            by_path = await client.transcribe(str(local.path), language="es")
    assert by_id["transcribe_audio"]["text"].split() == WORDS
    assert by_path["transcribe_audio"]["language"] == "es"


async def test_refused_message_raises_its_code(server: Server) -> None:
    async with AsyncClient(server.url) as client:
        with pytest.raises(OptivusError, match=r"\w") as refused:
            await client.submit("whisp", file="not_there.mp3")
        assert refused.value.code == "FILE_NOT_FOUND"
        assert refused.value.details["field"] == "file"
        assert await client.jobs() == []


async def test_failed_job_raises_and_its_events_end(server: Server, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text("no script")
    async with AsyncClient(server.url) as client:
        job = await client.submit("whisp", file=await client.upload(bad))
        with pytest.raises(OptivusError) as failed:
            await job.result()
        final = (await heard(job))[-1]
    assert failed.value.code == "INTERNAL"
    assert isinstance(final, Final)
    assert final.status == "error"


async def test_cancelled_job_raises_cancelled(server: Server, script: Script) -> None:
    async with AsyncClient(server.url) as client:
        job = await client.submit("whisp", file=script.path)
        script.open(1)

        async def cancel(event: Event) -> None:
            if isinstance(event, Partial):
                assert await job.cancel()

        final = (await heard(job, cancel))[-1]
        assert isinstance(final, Final)
        assert final.status == "cancelled"
        with pytest.raises(Cancelled):
            await job.result()
        assert not await job.cancel()


async def test_absent_server_is_named() -> None:
    with pytest.raises(ServerUnreachable, match=r"http://127\.0\.0\.1:1;"):
        async with AsyncClient("http://127.0.0.1:1"):
            pass


async def test_server_that_stays_away_ends_the_waiting(server: Server, script: Script) -> None:
    seen: list[bool] = []
    async with Proxy(server) as proxy, AsyncClient(proxy.url, patience=0.3, notify=seen.append) as client:
        job = await client.submit("whisp", file=script.path)
        proxy.close()
        with pytest.raises(ServerUnreachable, match=proxy.url):
            await job.result()
        with pytest.raises(ServerUnreachable):
            await client.submit("whisp", file=script.path)
    assert seen == [False]


async def test_closing_ends_the_waiting(server: Server, script: Script) -> None:
    async with AsyncClient(server.url) as client:
        job = await client.submit("whisp", file=script.path)
        waiting = asyncio.create_task(job.result())
        await asyncio.sleep(0)
    with pytest.raises(OptivusError, match="closed"):
        await waiting
    async with AsyncClient(server.url, token=client.token) as later:
        script.open(6)
        assert (await (await later.job(job.id)).result())["status"] == "success"


def test_sync_client_has_the_same_names(server: Server, quick: Script, tmp_path: Path) -> None:
    with Client(server.url) as client:
        job = client.submit("whisp", file=quick.path)
        assert seqs([event for event in job.events() if not isinstance(event, Progress)]) == EVERY_SEQ
        assert client.job(job.id).result() == job.result()
        assert not job.cancel()
        assert [row.job_id for row in client.jobs()] == [job.id]
        assert client.transcribe(client.upload(quick.path))["transcribe_audio"]["text"].split() == WORDS
        with pytest.raises(OptivusError):
            client.submit("whisp")


def test_ctrl_c_interrupts_the_sync_client(server: Server, script: Script) -> None:
    with Client(server.url) as client:
        job = client.submit("whisp", file=script.path)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            job.result()
        assert job.cancel()


def test_sync_client_names_an_absent_server() -> None:
    with pytest.raises(ServerUnreachable), Client("http://127.0.0.1:1"):
        pass
