"""The ways out, over the real road: whatever comes when, a client hears every event once, in order, to the final."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from base64 import b64encode
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import answers, connection
from gateway.auth import Authenticators, Credentials, Tokens
from gateway.connection import Connection
from gateway.health import Health
from gateway.http import HttpDoor
from gateway.outbound import Budget, OutboundQueue, Outgoing
from storage.space import Space
from tests.peers import Peer
from tests.roads import ME, Road
from tests.toys.contract_toy import Echo

PATIENCE = 60.0
NOBODY = Credentials(None, None)


class Reader:
    """A client on one connection, which reads when it is told to.

    expected: by job, the seq that must come next. over: the jobs whose final came. strange: the jobs that began before
    this connection, of which it may hear anything until it resumes them.
    """

    def __init__(self, road: Road, budget: Budget, *strange: str) -> None:
        self.expected: dict[str, int] = defaultdict(lambda: 1)
        self.over: set[str] = set()
        self._strange = set(strange)
        self._resuming = 0
        self._road = road
        self._queue = OutboundQueue(budget)
        self._connection = Connection(ME, "", self._send, lambda: self._queue, road.queue, road.folders)

    async def _send(self, packets: list[Outgoing]) -> None:
        for packet in packets:
            self._queue.put_nowait(packet)

    async def resume(self, jobs: dict[str, int]) -> None:
        self._resuming += 1
        answer = await self._connection.resume(jobs)
        assert answer["resumed"] == list(jobs)
        self._queue.put_nowait(Outgoing([orjson.dumps(["resumed", jobs])]))

    async def read(self) -> None:
        """The next packet; a long answer is left out where it is sent, and named."""
        packet = await self._queue.get()
        name, body = orjson.loads(packet.encode(b64=True).lstrip("42"))
        if name == "resumed":
            self.expected.update({job: seq + 1 for job, seq in body.items()})
            self.over -= body.keys()
            self._strange -= body.keys()
            self._resuming -= 1
        elif name != "progress" and body["job_id"] not in self._strange:
            assert body["seq"] == self.expected[body["job_id"]]
            self.expected[body["job_id"]] += 1
            self.over |= {body["job_id"]} if name == "message" else set()

    async def read_to_the_end(self, jobs: list[str]) -> None:
        async with asyncio.timeout(PATIENCE):
            while self._resuming or not self.over.issuperset(jobs):
                await self.read()

    def close(self) -> None:
        self._connection.close()
        self._queue.close()


class Story:
    """One client's life, as hypothesis writes it."""

    def __init__(self, road: Road, memory: int) -> None:
        self.jobs: list[str] = []
        self._road = road
        self._budget = Budget(memory)
        self.reader = Reader(road, self._budget)

    async def asks(self, partials: int, partial_bytes: int, result_bytes: int) -> None:
        message = {"type": "contract_echo", "partials": partials, "partial_bytes": partial_bytes}
        self.jobs.append(await self._road.queue.submit({**message, "result_bytes": result_bytes}, ME))

    async def asks_wrongly(self, items: int) -> None:
        """A batch that ends as it begins: all of its events are one step."""
        self.jobs.append(await self._road.queue.submit({"type": "contract_echo", "data": [{"file": 5}] * items}, ME))

    async def reads(self, packets: int) -> None:
        for _ in range(packets):
            try:
                async with asyncio.timeout(0):
                    await self.reader.read()
            except TimeoutError:
                return

    async def lets_go(self, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)

    async def resumes(self, back: int) -> None:
        """Some jobs from earlier places, on the connection that it has."""
        places = {job: max(0, self.reader.expected[job] - 1 - back) for job in self.jobs}
        await self.reader.resume(places)

    async def connects_anew(self, back: int) -> None:
        before = self.reader
        before.close()  # where its own resume has not been heard of, it is begun again from the same places
        self.reader = Reader(self._road, self._budget, *self.jobs)
        await self.reader.resume({job: max(0, before.expected[job] - 1 - back) for job in self.jobs})


ACTIONS = st.one_of(
    st.tuples(st.just("asks"), st.integers(0, 400), st.integers(0, 2_000), st.sampled_from((1, 70_000, 400_000))),
    st.tuples(st.just("asks"), st.integers(0, 20), st.just(60_000), st.just(1)),
    st.tuples(st.just("asks_wrongly"), st.integers(1, 400)),
    st.tuples(st.just("reads"), st.integers(1, 300)),
    st.tuples(st.just("lets_go"), st.integers(1, 200)),
    st.tuples(st.just("resumes"), st.integers(0, 300)),
    st.tuples(st.just("connects_anew"), st.integers(0, 300)),
)
MEMORY = st.sampled_from((1, 1 << 20, 64 << 20))


def in_a_road(live: Callable[[Road], Awaitable[None]]) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            road = await Road(Path(folder), [Echo], max_items=400, open_jobs=1000, open_jobs_per_client=1000).start()
            try:
                await live(road)
            finally:
                await road.close()

    asyncio.run(run())


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(ACTIONS, max_size=12), MEMORY)
def test_every_event_is_heard_once_in_order_whatever_happens(actions: list[tuple[Any, ...]], memory: int) -> None:
    async def live(road: Road) -> None:
        story = Story(road, memory)
        for name, *arguments in actions:
            await getattr(story, name)(*arguments)
        await story.reader.read_to_the_end(story.jobs)
        await story.reads(1000)
        for job in story.jobs:
            assert await road.queue.told(job, story.reader.expected[job] - 1) == []
        story.reader.close()

    in_a_road(live)


def test_an_answer_that_cannot_be_read_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "RETRY_SECONDS", 0.01)

    async def live(road: Road) -> None:
        story = Story(road, 1 << 20)
        await story.asks(0, 0, 200_000)
        await road.final(story.jobs[0])
        [blob] = road.folders.blobs.iterdir()
        kept = blob.rename(road.folders.data / "kept")
        blob.symlink_to(blob)  # which cannot be opened
        await story.asks(1, 1, 1)
        await story.connects_anew(0)
        await story.reader.read_to_the_end(story.jobs[1:])
        kept.replace(blob)
        await story.reader.read_to_the_end(story.jobs)
        story.reader.close()

    in_a_road(live)


# Server-sent events.

JOBS = st.tuples(st.integers(0, 400), st.integers(0, 2_000), st.integers(0, 300), st.integers(0, 400))
"""partials, bytes of each, turns of the loop until it is followed, seq after which it is."""


@contextlib.asynccontextmanager
async def http_door(road: Road, *middlewares: Any) -> AsyncIterator[tuple[str, Authenticators]]:
    callers = Authenticators(Tokens.stored(road.folders.data / "secret.key"))
    health = Health(road.queue, road.transport, road.ledger, Space(road.folders.data), lambda: 0, "0")
    app = web.Application(middlewares=middlewares)
    HttpDoor(road.queue, road.following, callers, road.folders, health).attach(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", callers
    finally:
        await runner.cleanup()


async def followed(http: aiohttp.ClientSession, path: str, after: int) -> list[dict[str, Any]]:
    """Every event of a stream to its end, but hints."""
    async with http.get(path, headers={"Last-Event-ID": str(after)}) as response:
        assert response.status in (200, 204)  # the latter where nothing is left
        blocks = (await response.read()).split(b"\n\n")
    bodies = [orjson.loads(line[6:]) for block in blocks for line in block.split(b"\n") if line[:6] == b"data: "]
    return [body for body in bodies if "seq" in body]


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(JOBS, max_size=8))
def test_every_stream_of_events_is_whole_wherever_it_begins(jobs: list[tuple[int, int, int, int]]) -> None:
    """Some streams are opened while their job runs, some when it is over, and some at its last event."""

    async def live(road: Road) -> None:
        async with http_door(road) as (url, callers):
            who = callers.identity(NOBODY)
            headers = {"Authorization": f"Bearer {callers.token(who)}"}
            async with aiohttp.ClientSession(url, headers=headers) as http, asyncio.TaskGroup() as streams:
                found = []
                for partials, size, turns, after in jobs:
                    message = {"type": "contract_echo", "partials": partials, "partial_bytes": size}
                    job = await road.queue.submit({**message, "result_bytes": 200_000}, who)
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    place = min(after, len(await road.queue.told(job, 0)))
                    found.append((partials, place, streams.create_task(followed(http, f"/jobs/{job}/events", place))))
        for partials, place, stream in found:
            bodies = stream.result()
            assert [body["seq"] for body in bodies] == list(range(place + 1, partials + 2))
            assert not bodies or len(bodies[-1]["echo"]["text"]) == 200_000

    in_a_road(live)


@pytest.mark.parametrize("door", ["/events", ""])
def test_who_takes_nothing_of_an_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch, door: str) -> None:
    monkeypatch.setattr(answers, "UNREAD_SECONDS", 0.2)
    over = asyncio.Event()

    @web.middleware
    async def watch(request: web.Request, handler: Any) -> Any:
        try:
            return await answers.answer_errors(request, handler)
        finally:
            over.set()

    async def live(road: Road) -> None:
        async with http_door(road, watch) as (url, callers):
            who = callers.identity(NOBODY)
            token = callers.token(who)
            job = await road.queue.submit({"type": "contract_echo", "result_bytes": 40_000_000}, who)
            await road.final(job)
            host, port = url.removeprefix("http://").split(":")
            _, writer = await asyncio.open_connection(host, int(port), limit=1024)
            writer.write(f"GET /jobs/{job}{door} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
            async with asyncio.timeout(PATIENCE):
                await over.wait()
            writer.transport.abort()

    in_a_road(live)


async def test_answers_of_files_come_whole_through_every_door(url: str) -> None:
    """Bytes as an attachment or as base64, long texts as they are, and what is too long for a message elsewhere."""
    async with Peer(url) as peer, aiohttp.ClientSession(headers={"Authorization": f"Bearer {peer.token}"}) as http:
        for message in (
            {"type": "contract_tone", "pieces": 100, "piece_samples": 5_000},
            {"type": "contract_echo", "result_bytes": 2_500_000, "id": '{"$blob"'},
            {"type": "contract_echo", "result_bytes": 5_000_000},
            {"type": "contract_tone", "data": [{"piece_samples": 20_000}, {"piece_samples": 20_001}]},
        ):
            answer = await peer.answer(message)
            job = answer["job_id"]
            async with http.get(f"{url}/jobs/{job}") as response:
                whole = (await response.json())["answer"]
            [*_, last] = await followed(http, f"{url}/jobs/{job}/events", 0)
            assert last == whole
            assert orjson.loads(orjson.dumps(answer, default=base64)) == whole or answer["truncated"]
            async with http.head(f"{url}/jobs/{job}") as head:
                assert (head.status, head.content_length) == (200, response.content_length)
            async with http.head(f"{url}/jobs/{job}/events") as none:
                assert none.status == 405


def base64(content: bytes) -> str:
    return b64encode(content).decode()


async def test_an_answer_that_breaks_off_ends_its_connection() -> None:
    """Nothing can be said after the head but that; the words of an error would be taken for a part of the answer."""

    async def breaks(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 1000
        await response.prepare(request)
        await answers.Writer(request, response).write(b"begun", Path("nowhere.json"))
        return response

    app = web.Application(middlewares=[answers.answer_errors])
    app.router.add_get("/", breaks)
    async with TestServer(app) as server, aiohttp.ClientSession() as http, http.get(server.make_url("/")) as response:
        assert await response.content.read(5) == b"begun"
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
