"""A recording that is sent while its job runs: nothing of it is lost or heard twice, and it holds up nobody."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from contract.errors import DiskFull, InvalidInput, TooLarge
from contract.folders import Folders
from contract.messages import Event, Request, Task
from storage import recordings
from storage.recordings import Recordings
from storage.space import Space
from tests import drive
from tests.conftest import contract_like_server
from tests.peers import Peer
from tests.roads import ME, Road
from tests.toys.listener import Listener

SOUND = b"0123456789abcdefghijklmnopqrstuvwxyz"


async def begin(peer: Peer) -> str:
    accepted = await peer.ask({"type": "toy_listener", "id": "mic"})
    assert accepted["status"] == "accepted"
    return str(accepted["job_id"])


async def send(peer: Peer, job_id: str, sound: bytes = b"", **more: Any) -> Any:
    return await peer.ask({"job_id": job_id, "audio": sound, **more}, event="audio")


async def partial(peer: Peer, job_id: str, index: int) -> str:
    body = await peer.wait(
        lambda event, body: (event, body.get("job_id"), body.get("index")) == ("partial", job_id, index)
    )
    return str(body["data"])


async def test_a_recording_is_heard_while_it_is_sent(url: str) -> None:
    async with Peer(url) as peer:
        job_id = await begin(peer)
        assert (await send(peer, job_id, SOUND[:12]))["received"] == 12
        assert await partial(peer, job_id, 0) == "0123456789"
        await send(peer, job_id, SOUND[12:])
        assert await partial(peer, job_id, 2) == "klmnopqrst"
        await send(peer, job_id, end=True)
        assert (await peer.final(job_id))["heard"] == SOUND.decode()


async def test_a_piece_may_come_twice_and_a_hole_is_told(url: str) -> None:
    async with Peer(url) as peer:
        job_id = await begin(peer)
        assert (await send(peer, job_id, SOUND[:10], offset=0))["received"] == 10
        assert (await send(peer, job_id, SOUND[20:], offset=20, end=True))["received"] == 10
        assert (await send(peer, job_id, SOUND[5:15], offset=5))["received"] == 15
        assert (await send(peer, job_id, SOUND[:3], offset=0))["received"] == 15
        await send(peer, job_id, SOUND[15:], offset=15, end=True)
        assert (await peer.final(job_id))["heard"] == SOUND.decode()


async def test_another_connection_of_the_client_goes_on(url: str) -> None:
    async with Peer(url) as peer:
        job_id, token = await begin(peer), peer.token
        await send(peer, job_id, SOUND[:20])
    async with Peer(url, token) as later:
        await later.ask({"type": "resume", "jobs": {job_id: 0}})
        await send(later, job_id, SOUND[20:], offset=20, end=True)
        assert (await later.final(job_id))["heard"] == SOUND.decode()
        told = {body["index"]: body["data"] for body in later.of(job_id, "partial")}  # live ones before the replay, too
        assert told == {0: "0123456789", 1: "abcdefghij", 2: "klmnopqrst"}


async def test_a_recording_survives_its_server_and_its_worker(tmp_path: Path) -> None:
    server = contract_like_server(tmp_path)
    with server:
        async with Peer(server.url) as peer:
            job_id, token = await begin(peer), peer.token
            await send(peer, job_id, SOUND[:15])
            assert await partial(peer, job_id, 0) == "0123456789"
            os.kill(server.worker("toy_listener"), signal.SIGKILL)
            await send(peer, job_id, SOUND[15:20])
            assert await partial(peer, job_id, 1) == "abcdefghij"
        server.kill()
        server.start()
        async with Peer(server.url, token) as later:
            await later.ask({"type": "resume", "jobs": {job_id: 0}})
            await send(later, job_id, SOUND[20:], offset=20, end=True)
            assert (await later.final(job_id))["heard"] == SOUND.decode()


async def test_listeners_wait_for_places_of_their_own(url: str) -> None:
    """Two places: the third is heard when one of them has ended, whole."""
    async with Peer(url) as peer:
        jobs = [await begin(peer) for _ in range(3)]
        for job_id in jobs:
            await send(peer, job_id, SOUND, end=job_id == jobs[2])
        assert await partial(peer, jobs[1], 0) == "0123456789"
        assert not peer.of(jobs[2])
        await send(peer, jobs[0], end=True)
        assert (await peer.final(jobs[2]))["heard"] == SOUND.decode()
        await peer.ask({"type": "cancel", "job_id": jobs[1]})
        assert (await peer.final(jobs[1]))["status"] == "cancelled"
        assert (await send(peer, jobs[1], b"more"))["error_code"] == "JOB_NOT_FOUND"


async def test_a_recording_may_come_by_http(url: str) -> None:
    async with aiohttp.ClientSession(url) as http:
        async with http.post("/jobs", json={"type": "toy_listener"}) as accepted:
            said = await accepted.json()
        path, who = f"/jobs/{said['job_id']}", {"Authorization": f"Bearer {said['token']}"}
        for query, sound, status, received in (
            ("?offset=0", SOUND[:20], 200, 20),
            ("?offset=10", SOUND[10:30], 200, 30),
            ("?offset=x", b"", 400, None),
            ("?offset=30&end=1", SOUND[30:], 200, len(SOUND)),
        ):
            async with http.post(f"{path}/audio{query}", data=sound, headers=who) as answer:
                assert (answer.status, (await answer.json()).get("received")) == (status, received)
        async with http.post(f"{path}/audio", data=SOUND) as refused:
            assert refused.status == 404
        async with http.get(f"{path}/events", headers=who) as events:
            assert f'"heard":"{SOUND.decode()}"' in await events.text()


async def test_only_its_client_adds_to_a_recording(url: str) -> None:
    async with Peer(url) as peer, Peer(url) as other:
        job_id = await begin(peer)
        assert (await send(other, job_id, b"x"))["error_code"] == "JOB_NOT_FOUND"
        assert (await send(other, "job_of_nobody", b"x"))["error_code"] == "JOB_NOT_FOUND"
        await send(peer, job_id, SOUND, end=True)
        assert (await peer.final(job_id))["heard"] == SOUND.decode()


@pytest.mark.parametrize(
    "message",
    [None, [], {"audio": b"x"}, {"audio": "text"}, {"audio": 5}, {"audio": b"x", "offset": -1}, {"offset": "0"}],
)
async def test_malformed_pieces_are_refused(url: str, message: Any) -> None:
    async with Peer(url) as peer:
        job_id = await begin(peer)
        sent = {"job_id": job_id, **message} if isinstance(message, dict) else message
        reply = await peer.ask(sent, event="audio")
        assert reply.get("error_code") == ("INVALID_INPUT" if message != {"audio": b"x"} else None)
        await peer.ask({"type": "cancel", "job_id": job_id})


async def test_a_recording_that_nobody_goes_on_with_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "SILENCE_SECONDS", 0.05)
    road = await Road(tmp_path, [Listener]).start()
    job_id = await road.queue.submit({"type": "toy_listener"}, ME)
    await road.queue.recordings.append(job_id, ME, None, SOUND)
    assert (await asyncio.wait_for(road.final(job_id), 10))["heard"] == SOUND.decode()
    await road.close()


@dataclasses.dataclass
class Told:
    """What one recording, of the job "j" of ours, has told so far."""

    path: Path
    recordings: Recordings
    grown: int = 0
    ends: list[int] = dataclasses.field(default_factory=list)

    async def append(self, offset: int | None, sound: bytes, *, end: bool = False) -> int:
        return await self.recordings.append("j", ME, offset, sound, end=end)


@pytest_asyncio.fixture
async def told(tmp_path: Path) -> AsyncIterator[Told]:
    folders: Folders = drive.folders(tmp_path / "data", tmp_path)
    folders.uploads.mkdir(parents=True)
    path = folders.uploads / "file"
    path.touch()

    def grow(job_id: str) -> None:
        made.grown += 1

    made = Told(path, Recordings(folders, grow, lambda job_id, size: made.ends.append(size), 3, Space(folders.data)))
    request = Request(1, ME.client, ME.owner, "listen", {"file": {"$file": {"kind": "upload", "value": "file"}}})
    made.recordings.enter("j", request)
    yield made
    made.recordings.leave("j")


async def test_a_recording_has_a_limit_and_an_end(told: Told) -> None:
    assert await told.append(None, b"ab") == 2
    with pytest.raises(TooLarge):
        await told.append(2, b"cd")
    assert (told.grown, told.ends) == (1, [])
    assert await told.append(2, b"", end=True) == 2
    assert (told.grown, told.ends) == (1, [2])
    with pytest.raises(InvalidInput):
        await told.append(2, b"c")
    assert await told.append(1, b"b", end=True) == 2
    assert told.ends == [2]
    assert told.path.read_bytes() == b"ab"


async def test_a_recording_leaves_the_last_of_the_disk_to_the_ends_of_jobs(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: (10**12, 10**12 - 10**8, 10**8))
    with pytest.raises(DiskFull):
        await told.append(None, b"a")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: (10**12, 9 * 10**11, 10**8 + 1))
    assert await told.append(None, b"a") == 1
    with pytest.raises(DiskFull):
        await told.append(1, b"bc")
    assert told.path.read_bytes() == b"a"


async def test_pieces_are_written_in_the_order_in_which_they_came(told: Told) -> None:
    """Also when nobody waits for one of them any more, and none comes after the end."""
    impatient = asyncio.ensure_future(told.append(None, b"a"))
    others = [asyncio.ensure_future(told.append(None, sound, end=sound == b"c")) for sound in (b"b", b"c", b"d")]
    await asyncio.sleep(0)
    impatient.cancel()
    received = await asyncio.gather(impatient, *others, return_exceptions=True)
    assert received[1:3] == [2, 3]
    assert isinstance(received[0], asyncio.CancelledError)
    assert isinstance(received[3], InvalidInput)
    assert told.path.read_bytes() == b"abc"
    assert told.ends == [3]


async def test_a_recording_whose_file_was_deleted_has_ended(told: Told) -> None:
    assert await told.append(None, b"ab") == 2
    told.path.unlink()
    with pytest.raises(InvalidInput):
        await told.append(2, b"c")
    assert told.ends == [0]
    assert not told.path.exists()


async def test_a_later_attempt_knows_that_the_recording_has_ended(tmp_path: Path) -> None:
    """Its first one was lost after the recording had ended, before the worker was told."""
    road = Road(tmp_path, [Listener])
    handed: list[Task] = []
    road.transport.submit = handed.append  # type: ignore[method-assign, assignment]
    await road.start()
    job_id = await road.queue.submit({"type": "toy_listener"}, ME)
    await road.queue.recordings.append(job_id, ME, None, SOUND, end=True)
    assert not handed[0].ended
    lost = Event.of(handed[0], "lost", {"counted": True, "reason": "died"})
    road.transport._happened(lost)
    while len(handed) < 2:
        await asyncio.sleep(0)
    assert (handed[1].attempt, handed[1].ended) == (2, True)
    await road.close()
