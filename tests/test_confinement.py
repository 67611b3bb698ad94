"""A hole in a decoder leads no further: what a confined worker cannot read, write, run, reach or stop."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from client import Client, OptivusError
from config import library_folders
from media import limits
from storage.premises import in_container
from tests import drive
from tests.burglars.burglar import FETCHED
from tests.drills import gone
from tests.servers import Server
from workers.runtime import confine, landlock, masks, sockets

SECRET = "what nobody may read"
BURGLARS = Path(__file__).parent / "burglars"

has_landlock = pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock, or has it switched off")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds a program from outside")


@pytest.fixture(scope="module", params=["beside the media", "among the media"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Its data lie outside the media roots, or, as by default, under them."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "media").mkdir()
    roots = folder / "media" if request.param == "beside the media" else folder
    with Server(folder, MEDIA_ROOTS=str(roots), WORKERS_PATH=str(BURGLARS)) as server:
        yield server


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file of somebody else, such as a key in a home."""
    (tmp_path / "id_ed25519").write_text(SECRET)
    return tmp_path / "id_ed25519"


def tried(server: Server, *tries: tuple[str, object], worker: str = "burglar", **more: Any) -> list[Any]:
    """What each try gave, None where it was refused."""
    with Client(server.url) as client:
        return list(client.submit(worker, tries=[[how, str(what)] for how, what in tries], **more).result()["got"])


def facts(server: Server, worker: str) -> dict[str, Any]:
    tried(server, worker=worker)
    with urllib.request.urlopen(f"{server.url}/health", timeout=20) as health:
        process: dict[str, Any] = json.load(health)["workers"][worker]["processes"][0]
        return process


@has_landlock
def test_a_confined_worker_reads_neither_key_nor_ledger(server: Server) -> None:
    if not facts(server, "burglar")["confined"]:
        pytest.skip("DATA_DIR lies among the media, and this system lets no process hide files from itself")
    data = server.folder / "data_dir"
    assert len((data / "secret.key").read_bytes()) > 16
    files = [path for path in data.iterdir() if path.is_file()]
    assert {"secret.key", "ledger.sqlite3", "ledger.sqlite3-wal"} <= {path.name for path in files}
    got = tried(server, *(("read", path) for path in files), *(("cat", path) for path in files))
    assert not any(got)


@has_landlock
def test_a_confined_worker_reads_nothing_of_others(server: Server, outside: Path) -> None:
    memory = f"/proc/{server.pid}/environ"
    assert tried(server, ("read", outside), ("list", outside.parent), ("cat", outside), ("read", memory)) == [None] * 4


@has_landlock
def test_a_confined_worker_writes_only_where_it_says(server: Server, outside: Path) -> None:
    model, media = server.folder / "data_dir" / "models" / FETCHED, server.folder / "media" / "clip"
    media.write_text("a clip")
    refused = [("write", outside), ("write", outside.with_name("new")), ("unlink", outside)]
    refused += [("write", model), ("write", media), ("unlink", media), ("write", server.folder / "new")]
    assert tried(server, *refused) == [None] * len(refused)
    own = ("speech", "fs_path"), ("work", "data_dir/work"), ("blob", "data_dir/blobs")
    assert None not in tried(server, *(("write", server.folder / path / name) for name, path in own))


@has_landlock
def test_a_confined_worker_reaches_and_stops_nobody(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        got = tried(server, ("tcp", server.port), ("unix", path), ("udp", server.port), ("signal", server.pid))
    assert got == [None] * 4


@has_landlock
def test_a_file_that_came_after_the_worker_is_read(server: Server) -> None:
    tried(server)
    (server.folder / "media" / "late").write_text("hello")
    assert tried(server, file=str(server.folder / "media" / "late")) == ["hello"]


@has_landlock
def test_what_a_confined_worker_needs_is_fetched_before(server: Server) -> None:
    assert facts(server, "burglar")["pid"] == server.worker("burglar")
    assert (server.folder / "data_dir" / "models" / FETCHED).read_text() == "weights"
    with pytest.raises(OptivusError, match="nowhere to be had") as refused, Client(server.url) as client:
        client.submit("absent").result()
    assert refused.value.code == "MODEL_UNAVAILABLE"


def test_a_users_own_worker_is_not_confined(server: Server, outside: Path) -> None:
    assert facts(server, "guest")["confined"] is False
    reads, writes, connects = ("read", outside), ("write", outside.with_name("new")), ("tcp", server.port)
    assert tried(server, reads, writes, connects, worker="guest") == [SECRET, len("burgled"), "connected"]


@pytest.mark.parametrize(("kernel", "used"), [(-1, 0), (1, 0), (2, 2), (7, 7)])
@on_linux
def test_the_first_landlock_is_not_used(monkeypatch: pytest.MonkeyPatch, kernel: int, used: int) -> None:
    """It refuses to rename a file into another folder, which is how a voice is saved."""
    monkeypatch.setattr(landlock, "_libc", SimpleNamespace(syscall=lambda *_: kernel))
    assert landlock.version.__wrapped__() == used


@on_linux
def test_a_32_bit_python_is_given_no_filter_for_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would refuse each of its calls."""
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    monkeypatch.setattr(sockets, "_filter", None)
    assert not sockets.restrict(network=False)


class Strange(BaseModel):
    prompt: str = "x" * 300
    home: str = "~nobody-of-this-name/model"
    folder: Path


def test_a_setting_that_is_no_path_opens_nothing(tmp_path: Path) -> None:
    assert list(confine._named(Strange(folder=tmp_path), drive.folders(tmp_path))) == [(tmp_path, landlock.READ)]


def test_what_a_worker_makes_beside_modules_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nor would Landlock let a download be moved there."""
    found = replace(drive.folders(tmp_path / "server" / "data"), downloads=tmp_path / "server" / "downloads")
    for folder in (found.work, found.downloads):
        folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path / "server")
    (tmp_path / "cuda").mkdir()
    monkeypatch.setenv("LD_LIBRARY_PATH", f":{tmp_path / 'cuda'}")
    granted = confine._system(found, library_folders())
    grants = {path: rights for path, rights in granted if path.is_relative_to(tmp_path)}
    assert grants == {found.downloads: landlock.READ, tmp_path / "cuda": landlock.READ}


@pytest.mark.skipif(Path("/dev/nvidia-uvm").exists(), reason="the GPUs are awake")
@pytest.mark.parametrize("hangs", [False, True])
def test_all_gpus_are_woken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hangs: bool) -> None:
    """Or none, and the worker says so and goes on."""
    program = tmp_path / "nvidia-modprobe"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n{"exec sleep 60" if hangs else "exit 1"}\n')
    program.chmod(0o755)
    for number in range(3):
        (tmp_path / "gpus" / str(number)).mkdir(parents=True)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(confine, "_GPUS", tmp_path / "gpus")
    monkeypatch.setattr(confine, "_WAKING_SECONDS", 0.5 if hangs else 60.0)
    confine._wake_gpus()
    assert hangs or (tmp_path / "asked").read_text().splitlines() == ["-c 0 -u", "-c 1", "-c 2"]


@has_landlock
def test_a_workers_temporary_files_go_with_it(tmp_path: Path) -> None:
    with Server(tmp_path, WORKERS_PATH=str(BURGLARS)) as server:
        (made,) = tried(server, ("temporary", ""))
        assert Path(made).exists()
        killed = server.worker("burglar")
        os.kill(killed, signal.SIGKILL)
        gone(killed)
        tried(server, ("temporary", ""))
        server.stop()
    assert not list((tmp_path / "data_dir" / "temporary").iterdir())


class FakeLibc:
    """A kernel that lets this process have no mount namespace of its own, or has each mount end with an error."""

    def __init__(self, unshare: int, error: int = 0) -> None:
        self.asked: list[int] = []
        self._unshare, self._error = unshare, error

    def unshare(self, flags: int) -> int:
        self.asked.append(flags)
        return self._unshare

    def mount(self, source: bytes | None, *_: object) -> int:
        ctypes.set_errno(self._error)
        return -1 if source and self._error else 0


@on_linux
def test_root_keeps_its_rights_over_the_files_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for no user namespace, in which it would be nobody to them."""
    kernel = FakeLibc(unshare=-1)
    monkeypatch.setattr(masks, "_libc", kernel)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert not masks.lay_over([])
    assert len(kernel.asked) == 1


@pytest.mark.parametrize(("error", "done"), [(0, True), (errno.ENOENT, True), (errno.EPERM, False)])
@on_linux
def test_a_file_that_vanished_needs_no_mask(monkeypatch: pytest.MonkeyPatch, error: int, done: bool) -> None:
    monkeypatch.setattr(masks, "_libc", FakeLibc(unshare=0, error=error))
    assert masks.lay_over([Path("ledger.sqlite3-wal")]) is done


def test_no_worker_leaves_a_core_behind(server: Server) -> None:
    assert tried(server, ("core", "")) == tried(server, ("core", ""), worker="guest") == [0]


def test_root_is_told_that_it_is_needless(server: Server) -> None:
    told = [line for line in server.log if '"running_as_root"' in line]
    assert len(told) == (os.geteuid() == 0 and not in_container())


@on_linux
def test_a_started_program_is_bounded(tmp_path: Path) -> None:
    wait = "import sys; sys.stdin.read(1); open('large', 'wb', 0).write(bytes(4096))"
    with subprocess.Popen([sys.executable, "-c", wait], stdin=subprocess.PIPE, cwd=tmp_path) as program:
        limits.bound(program.pid, 1.5, 1024)
        assert resource.prlimit(program.pid, resource.RLIMIT_CPU) == (2, 2)
        assert resource.prlimit(program.pid, resource.RLIMIT_CORE) == (0, 0)
        assert resource.prlimit(program.pid, resource.RLIMIT_DATA)[0] < 2**40
        program.communicate(b".")
    assert (tmp_path / "large").stat().st_size <= 1024


@on_linux
def test_a_limit_that_the_operator_set_lower_stays() -> None:
    with subprocess.Popen(["sleep", "60"]) as program:
        resource.prlimit(program.pid, resource.RLIMIT_DATA, (1 << 30, 1 << 30))
        limits.bound(program.pid, 1.5)
        found = resource.prlimit(program.pid, resource.RLIMIT_DATA)
        program.kill()
    assert found == (1 << 30, 1 << 30)
