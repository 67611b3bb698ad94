"""A file that is flipped with a link, a pipe and a folder while it is read: nobody reads the secret, nobody hangs."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import pytest

from contract.errors import NoAudio, ServiceError
from contract.folders import Folders
from contract.messages import Event, FileRef, Task
from storage import opening
from storage.files import bind_path, opened
from tests.drive import folders as folders_in
from tests.flip_workers.reader import Reader, ReaderParams
from tests.flips import PUBLIC, REFUSED, Flipped, answers, on_linux, within
from tests.inline import over_the_pipe
from tests.peers import PATIENCE, Peer
from tests.servers import Server
from workers.base import AsyncWorker, Context, Run, Worker, WorkerSettings
from workers.runtime.async_engine import AsyncEngine
from workers.runtime.engine import Engine

pytestmark = on_linux

TIMES = 3000
SECONDS = 60.0
REQUESTS = 300
TWICE = (2 * PUBLIC).decode()

Found = Counter[Any]


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """The server's own folders lie under the root, as they do by default."""
    root = tmp_path / "root"
    return Folders((root,), root / "data", root / "voices", root / "speech", root / "downloads")


@pytest.fixture(params=["outside", "root/data", "root/speech"])
def flipped(tmp_path: Path, request: pytest.FixtureRequest) -> Flipped:
    return Flipped(tmp_path / "root" / "films" / "talk.wav", tmp_path / request.param / "secret")


@pytest.fixture
def ref(flipped: Flipped) -> FileRef:
    return FileRef("path", str(flipped.path), flipped.path.name)


def tried(times: int, read: Callable[[], Any]) -> Found:
    """What so many tries gave: what was read, or the code of the refusal."""
    found: Found = Counter()
    for _ in range(times):
        try:
            found[read()] += 1
        except ServiceError as exc:
            found[exc.code] += 1
    return found


@pytest.mark.parametrize("way", ["at_once", "step_by_step"])
def test_a_flipped_file_is_itself_or_refused(
    way: str, flipped: Flipped, ref: FileRef, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "without_links", getattr(opening, way))

    def read() -> bytes:
        file = opened(ref, folders)
        return file.path.read_bytes() + file.path.read_bytes()

    with flipped.flipping():
        found = within(SECONDS, lambda: tried(TIMES, read))
    assert found.keys() <= {2 * PUBLIC, *REFUSED}
    assert found[2 * PUBLIC]
    assert len(found) > 1, "it was never flipped in between"
    assert read() == 2 * PUBLIC


def test_the_door_tells_nothing_of_what_a_flipped_path_leads_to(flipped: Flipped, folders: Folders) -> None:
    """Not even that there is something."""
    with flipped.flipping():
        found = within(SECONDS, lambda: tried(TIMES, lambda: bind_path(str(flipped.path), folders, lambda path: False)))
    assert {ref.value for ref in found if isinstance(ref, FileRef)} == {str(flipped.path)}
    assert {code for code in found if isinstance(code, str)} <= REFUSED


# Through a worker's context.


class Scripted(Worker):
    """Runs the test's own script, which is given the path that the context names."""

    name = "scripted"
    Params = ReaderParams
    script: ClassVar[Callable[[Path], Run]]

    def run(self, params: ReaderParams, ctx: Context) -> Run:
        assert params.file
        self.path = ctx.local(params.file)
        return (yield from type(self).script(self.path))

    def forward(self, units: list[Any]) -> list[Any]:
        return units


def task(ref: FileRef, attempt: int = 1) -> Task:
    return Task("j", "read", (), "reader", {"file": ref}, client="c", attempt=attempt)


def test_a_worker_reads_one_file_however_often_it_asks(flipped: Flipped, ref: FileRef, folders: Folders) -> None:
    events: list[Event] = []
    engine = Engine(Reader(Reader.Settings(), folders), lambda event: events.append(over_the_pipe(event)))

    def work() -> None:
        for attempt in range(TIMES):
            engine.add(task(ref, attempt))
            engine.step()

    with flipped.flipping():
        within(SECONDS, work)
    found = Counter(event.data if event.kind == "done" else event.data["error_code"] for event in events)
    assert found.total() == TIMES
    assert found.keys() <= {TWICE, *REFUSED}
    assert found[TWICE]


def reads(path: Path) -> Run:
    yield path.read_bytes()
    return path.read_text()


def fails(path: Path) -> Run:
    yield path.read_bytes()
    raise NoAudio("It is silent.")


def breaks(path: Path) -> Run:
    yield path.read_bytes()
    raise RuntimeError("a fault of the worker")


@pytest.mark.parametrize(
    ("script", "cancelled", "end"),
    [(reads, False, "done"), (fails, False, "failed"), (breaks, False, "failed"), (reads, True, "lost")],
)
def test_a_tasks_file_is_let_go_when_it_ends(
    script: Callable[[Path], Run], cancelled: bool, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scripted, "script", staticmethod(script), raising=False)
    (tmp_path / "talk.wav").write_bytes(PUBLIC)
    events: list[Event] = []
    worker = Scripted(Scripted.Settings(), folders_in(tmp_path / "data", tmp_path))
    engine = Engine(worker, events.append)
    engine.add(task(FileRef("path", str(tmp_path / "talk.wav"))))
    assert worker.path.read_bytes() == PUBLIC
    if cancelled:
        engine.cancel("j")
    engine.step()
    assert [event.kind for event in events] == [end]
    assert not worker.path.exists()


class Waiting(AsyncWorker):
    """Reads a file when it may."""

    name = "waiting"
    Params = ReaderParams
    reading: threading.Semaphore
    may_end: threading.Event

    async def run_async(self, params: ReaderParams, ctx: Context) -> str:
        assert params.file
        self.held, self.path = ctx, ctx.local(params.file)
        self.reading.release()
        await asyncio.to_thread(self.may_end.wait)
        return self.path.read_text()


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_waiting_tasks_file_is_let_go_when_it_ends(cancelled: bool, tmp_path: Path) -> None:
    (tmp_path / "talk.wav").write_bytes(PUBLIC)
    ended: queue.Queue[Event] = queue.Queue()
    worker = Waiting(WorkerSettings(), folders_in(tmp_path / "data", tmp_path))
    worker.reading, worker.may_end = threading.Semaphore(0), threading.Event()
    engine = AsyncEngine(worker, ended.put)
    engine.add(task(FileRef("path", str(tmp_path / "talk.wav"))))
    assert worker.reading.acquire(timeout=PATIENCE)
    assert worker.path.read_bytes() == PUBLIC
    if cancelled:
        engine.cancel("j")
    else:
        worker.may_end.set()
    assert ended.get(timeout=PATIENCE).kind == ("lost" if cancelled else "done")
    worker.may_end.set()
    assert not worker.path.exists()


# Through a server, whose processes do not wait for the one that flips.


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "root" / "fs_audio").mkdir(parents=True)
    own = {"FS_PATH": str(folder / "root" / "fs_audio"), "WORKERS_PATH": str(Path(__file__).parent / "flip_workers")}
    with Server(folder, MEDIA_ROOTS=str(folder / "root"), **own) as server:
        yield server
    assert not [line for line in server.log if '"exception"' in line or "Traceback" in line]


async def test_every_download_of_a_flipped_file_is_answered(server: Server, tmp_path: Path) -> None:
    """Of one that the server made, where clients may write."""
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with Peer(server.url) as peer, aiohttp.ClientSession(server.url, timeout=timeout) as http:
        path = (await peer.answer({"type": "reader", "make": "made.wav"}))["read"]
        flipped = Flipped(Path(path), tmp_path / "outside" / "secret")

        async def ask() -> tuple[int, bytes]:
            headers = {"Authorization": f"Bearer {peer.token}"}
            async with http.get("/files", params={"path": path}, headers=headers) as response:
                return response.status, b"" if response.status == 404 else await response.read()

        with flipped.flipping():
            found = await answers(REQUESTS, ask)
        assert found.keys() <= {(200, PUBLIC), (404, b"")}
        assert await ask() == (200, PUBLIC)
