"""The server that is measured, with one model, and a library's own process beside it.

Both run in processes of their own, as whoever uses them has it: neither has the other's threads or memory.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from bench.gpu.turns import Figures, Turn, forward_seconds
from tests.servers import Server

LOADING_SECONDS = 150.0
MODELS = {"whisper": "AI_WHISPER_MODEL", "fish": "AI_FISH_MODEL", "florence": "AI_FLORENCE_MODEL"}

T = TypeVar("T")


class Served:
    """worker: the one whose model is loaded."""

    def __init__(self, server: Server, worker: str) -> None:
        self.url = server.url
        self._server, self._worker = server, worker

    def turn(self, who: str, act: Callable[[], Figures]) -> Turn:
        return Turn(who, act, self._processes, lambda: forward_seconds(self.url, self._worker))

    def _processes(self) -> dict[str, int]:
        return {"worker": self._server.worker(self._worker), "server": self._server.pid, "clients": os.getpid()}


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
        with server:
            _wait_until_ready(server, worker)
            yield Served(server, worker)
    except Exception:
        (folder / "server.log").write_text("".join(server.log))
        raise


def _wait_until_ready(server: Server, worker: str) -> None:
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
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, context, load, arguments)
        self._pid = self._pool.submit(os.getpid)

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        return self._pool.submit(function, *arguments).result()

    def turn(self, who: str, act: Callable[[], Figures]) -> Turn:
        return Turn(who, act, lambda: {"library": self._pid.result()})

    def __enter__(self) -> Library:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:  # whatever it is at, nobody waits for it any more
            for child in multiprocessing.active_children():
                child.kill()
        self._pool.shutdown(cancel_futures=True)
