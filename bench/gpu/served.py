"""The server that is measured, with one model, and a library's own process beside it.

Both run in processes of their own, as whoever uses them has it: neither has the other's threads or memory.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from bench.gpu.turns import Figures, Turn, forward_seconds, of_main_thread, of_process
from tests.servers import Server

LOADING_SECONDS = 150.0
MODELS = {"whisper": "AI_WHISPER_MODEL", "fish": "AI_FISH_MODEL", "florence": "AI_FLORENCE_MODEL"}

T = TypeVar("T")


class Served:
    """worker: the one whose model is loaded."""

    def __init__(self, server: Server, worker: str) -> None:
        self.url = server.url
        self._server, self._worker = server, worker

    def turn(self, who: str, act: Callable[[], Figures], warm_up: Callable[[], object] = lambda: None) -> Turn:
        return Turn(who, act, self._processes, lambda: forward_seconds(self.url, self._worker), warm_up)

    def _processes(self) -> dict[str, Path]:
        worker = self._server.worker(self._worker)
        return {
            "worker": of_process(worker),
            "of it the main thread": of_main_thread(worker),
            "server": of_process(self._server.pid),
            "clients": of_process(os.getpid()),
        }


@contextlib.contextmanager
def serving(folder: Path, worker: str, model: Path, device: str, **settings: str) -> Iterator[Served]:
    """A server whose worker has loaded the model; files are read in `folder`. A variable of this environment has the
    last word about `settings`. Raises: RuntimeError where the model cannot be loaded."""
    own = dict.fromkeys(MODELS.values(), "none") | {MODELS[worker]: str(model)}
    own |= {f"{worker.upper()}_DEVICE": device, f"{worker.upper()}_PRELOAD": "1", "MEDIA_ROOTS": str(folder)}
    own |= {"MAX_OPEN_JOBS_PER_CLIENT": "1000", "DRAIN_SECONDS": "1"}
    chosen = {name: os.environ.get(name, value) for name, value in settings.items()}
    server = Server(folder / f"{worker}-data", **own, **chosen)
    try:
        server.start()
        wait_until_ready(server, worker)
        yield Served(server, worker)
    finally:
        (folder / "server.log").write_text("".join(server.log))
        try:
            server.stop()
        except subprocess.TimeoutExpired:
            server.kill()


def wait_until_ready(server: Server, worker: str) -> None:
    end = time.monotonic() + LOADING_SECONDS
    while time.monotonic() < end:
        with urllib.request.urlopen(f"{server.url}/health", timeout=20) as health:
            status = json.load(health)["workers"][worker]
        if status["state"] == "ready":
            return
        if status.get("error"):
            raise RuntimeError(status["error"])
        time.sleep(0.05)
    raise RuntimeError(f"{worker} was not loaded within {LOADING_SECONDS:.0f} s")


class Library:
    """A process that calls a model's library directly. load: called there first, with the arguments."""

    def __init__(self, load: Callable[..., None], *arguments: Any) -> None:
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), load, arguments)
        self._pid = self._pool.submit(os.getpid)
        self._called: Future[Any] = self._pid

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        self._called = called = self._pool.submit(function, *arguments)
        return called.result()

    def turn(self, who: str, act: Callable[[], Figures], warm_up: Callable[[], object] = lambda: None) -> Turn:
        return Turn(who, act, lambda: {"library": of_process(self._pid.result())}, warm_up=warm_up)

    def __enter__(self) -> Library:
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._called.done():  # nobody waits any more for what it is at
            for child in multiprocessing.active_children():
                child.kill()
        self._pool.shutdown(cancel_futures=True)
