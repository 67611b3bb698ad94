"""A disk that is almost full: new work is refused, what runs ends, and who looks is told."""

from __future__ import annotations

import asyncio
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from structlog.testing import capture_logs

from contract.errors import DiskFull
from gateway.answers import answer_errors
from gateway.auth import Authenticators, Tokens
from gateway.files import FileDoor, Uploads
from gateway.submit import SubmitDoor
from storage.space import Space
from tests.drills import DrillServer
from tests.roads import ME, Road
from tests.toys.toy import Toy

GB = 10**9
CALLERS = Authenticators(Tokens(b"k" * 32))
Usage = namedtuple("Usage", "total used free")


class Disk:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, total: int, free: int) -> None:
        self.total, self.free = total, free
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(self.total, self.total - self.free, self.free))


@pytest.mark.parametrize(
    ("total", "least"), [(4 * 2**20, 41_943), (50 * GB, GB // 2), (100 * GB, GB), (10_000 * GB, GB)]
)
def test_a_hundredth_stays_free_and_a_gigabyte_at_most(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, total: int, least: int
) -> None:
    disk = Disk(monkeypatch, total, least)
    Space(tmp_path).check()
    disk.free = least - 1
    with pytest.raises(DiskFull) as refused:
        Space(tmp_path).check()
    assert refused.value.details == {"retry_after": 60}
    Space(tmp_path, 0).check()


def test_the_log_says_once_when_it_begins_and_when_it_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    disk, space = Disk(monkeypatch, 100 * GB, 2 * GB), Space(tmp_path)
    with capture_logs() as logs:
        with pytest.raises(DiskFull, match="no room"):
            space.check(GB + 1)
        for disk.free in (0, 1, 2 * GB, 3 * GB):
            for _ in range(3):
                space.lacks()
    assert [line["event"] for line in logs] == ["disk_almost_full", "disk_has_room"]


async def test_what_runs_ends_while_new_work_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    disk = Disk(monkeypatch, 100 * GB, 2 * GB)
    road = await Road(tmp_path, [Toy]).start()
    message = {"type": "toy", "words": ["w"], "idempotency_key": "k"}
    road.transport.hold(["toy"])
    job = await road.queue.submit(message, ME)
    disk.free = 0
    with pytest.raises(DiskFull):
        await road.queue.submit({**message, "idempotency_key": "other"}, ME)
    assert await road.queue.submit(message, ME) == job
    road.transport.hold([])
    assert (await road.final(job))["status"] == "success"
    await road.close()


@pytest.mark.parametrize("path", ["/files", "/jobs"])
async def test_an_upload_without_room_is_refused_before_it_is_sent(tmp_path: Path, path: str) -> None:
    road = await Road(tmp_path, [Toy]).start()
    uploads, app = Uploads(road.ledger, road.folders, 10**16), web.Application(middlewares=[answer_errors])
    FileDoor(road.ledger, CALLERS, uploads).attach(app)
    SubmitDoor(road.queue, road.following, CALLERS, uploads, road.plans).attach(app)
    async with TestServer(app) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        writer.write(f"{head}Content-Length: {10**15}\r\n\r\n".encode())
        assert b" 503 " in await reader.readline()
        writer.close()
    assert not road.folders.uploads.exists()
    await road.close()


async def test_health_and_every_door_say_that_the_disk_has_too_little_room(tmp_path: Path) -> None:
    with DrillServer(tmp_path, LEAST_FREE_GB="1000000") as server:
        async with ClientSession(server.url) as door, door.get("/health") as answer:
            health = await answer.json()
            assert (answer.status, health["status"], health["error_code"]) == (503, "unhealthy", "DISK_FULL")
            assert health["disk_free_gb"] > 0
        async with ClientSession(server.url) as door:
            form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n--b--\r\n'
            headers = {"Content-Type": "multipart/form-data; boundary=b"}
            async with door.post("/files", data=form, headers=headers) as answer:
                assert (answer.status, (await answer.json())["error_code"]) == (503, "DISK_FULL")
            async with door.post("/jobs", json={"type": "drill", "script": ["go"]}) as answer:
                assert (await answer.json())["details"] == {"retry_after": 60}
