"""The process of one worker: a main thread that steps the engine, a link thread that talks to the server, and a lane.

    server ──Do, More, Cancel, Leave──────────────────────────────────▶ link thread ──▶ main thread ◀──▶ lane's threads
    server ◀─Loaded, Ready, Unavailable, Leaving, Events, Info, Grown, Beat───┴─────────────┴────────────────┘

The messages are those of `contract.pipe`. While it holds tasks the link beats twice a second with the age of the step
in hand, so the server can tell a stopped process from a busy one and a busy one from a hung one. When the server is
gone the stream ends, and so does the process.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import queue
import resource
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any

import structlog

from contract import logs
from contract.errors import ModelUnavailable, ServiceError, as_failure
from contract.folders import Folders
from contract.known_secrets import hide
from contract.launch import Launch
from contract.logs import take_strays
from contract.messages import Event, Task
from contract.pipe import (
    Beat,
    Cancel,
    Do,
    Events,
    Failure,
    FromWorker,
    Grown,
    Info,
    Leave,
    Leaving,
    Loaded,
    More,
    Ready,
    ToWorker,
    Unavailable,
    encode,
    to_worker,
)
from storage.workdirs import clear_workdir
from workers.base import Worker
from workers.runtime.confine import confine
from workers.runtime.context import BaseEngine
from workers.runtime.discovery import add_folders
from workers.runtime.engine import engine_of
from workers.runtime.growth import Growth, ram_gb
from workers.runtime.warm_up import warm_up

log = structlog.get_logger()

BEAT_SECONDS = 0.5
INFO_SECONDS = 5.0
ENDS = frozenset({"done", "failed", "lost"})
LEAST_LANE_THREADS = 2
"""So that a file which takes long to prepare does not hold up a small one."""
SWITCH_SECONDS = 0.0002
"""How long a thread may keep the interpreter from another. The model's asks for it between any two of its kernels: with
Python's 5 ms it made 2 600 small operations a second beside four busy threads, and 15 000 with this."""
PULLED = 64
"""The exit status of a process that fetched what another's model needs."""
OUT_OF_MEMORY = "out of memory"
"""Why a process leaves by itself."""


def make(launch: Launch) -> Worker:
    """The worker that a process is started for."""
    add_folders(launch.workers_path)
    module = importlib.import_module(launch.module)
    cls = next(cls for cls in vars(module).values() if getattr(cls, "name", None) == launch.name)
    settings = cls.Settings.model_validate(launch.settings)
    worker: Worker = cls(settings, launch.folders)
    return worker


def _confined(worker: Worker, launch: Launch) -> bool:
    """Confine this process, which has one thread yet, as its worker says. Whether it is."""
    own = "confinement" in vars(type(worker))  # a subclass may do what the class did not think of
    allowed = worker.confinement(worker.settings, worker.folders) if own else None
    if allowed is None:
        return False
    if sys.platform == "linux":  # elsewhere nothing is given up, and macOS bears no fork of who uses its network
        _pull_apart(worker)
    return confine(allowed, worker.settings, launch)


def _pull_apart(worker: Worker) -> None:
    """What has to be fetched or converted first, in a process that may write it; if it fails, it goes on in this one's
    place and says why.
    """
    if worker.pull.__func__ is Worker.pull.__func__:  # type: ignore[attr-defined]  # there is nothing
        return
    child = os.fork()
    if not child:
        _die_with_parent()
        worker.pull(worker.settings, worker.folders, None)
        os._exit(PULLED)
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) != PULLED:
        os._exit(1)


def serve(launch: Launch, connection: Connection) -> None:
    """The process's whole life; the target of `multiprocessing.Process`."""
    os.setpgid(0, 0)  # what it starts, ffmpeg for one, is killed with it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold what users sent
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's: it drains, and then lets its workers go
    _die_with_parent()
    hide(launch.secrets)
    logs.configure(launch.log_level)
    take_strays()
    link = _Link(socket.socket(fileno=os.dup(connection.fileno())), launch.folders)
    connection.close()
    signal.signal(signal.SIGTERM, link.terminate)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # which the fork server holds back
    try:
        try:
            worker = make(launch)
            confined = _confined(worker, launch)
        finally:
            link.start()
        facts = worker.load()
        link.send(Loaded())
        warm_up(worker)
        told = {"loaded_gb": _loaded(worker), "pid": os.getpid(), "confined": confined}
        link.send(Ready({**facts, **told}))
    except Exception as exc:
        if not isinstance(exc, ServiceError):
            log.exception("load_failed", worker=launch.name, of="operator")
            exc = ModelUnavailable(f"The model of {launch.name} could not be loaded; the server's log has the reason.")
        link.send(Unavailable(Failure(**as_failure(exc))))
        link.finish()
        return
    try:
        _work(worker, link)
        link.finish()
    except Exception:  # which multiprocessing would print by itself
        log.exception("worker_broken", worker=launch.name)
        os._exit(1)


def _work(worker: Worker, link: _Link) -> None:
    threads = max(LEAST_LANE_THREADS, getattr(worker.settings, "threads", 0))
    sys.setswitchinterval(SWITCH_SECONDS)
    engine = link.engine = engine_of(worker, link.emit, threads, link.wake)
    told: tuple[float, dict[str, Any]] = (0.0, {})
    growth = Growth(worker.settings.max_growth_gb)
    while True:
        for message in link.take(wait=not engine.busy):
            match message:
                case Do(task):
                    engine.add(task)
                case More(job, ended):
                    engine.more(job, ended)
                case Cancel(job):
                    engine.cancel(job)
                case Leave():
                    return
        if engine.busy:
            engine.step()
        if engine.out_of_memory:
            link.send(Leaving(OUT_OF_MEMORY))  # before the failure, which is tried again in another process
            link.give_back(OUT_OF_MEMORY)
            return
        link.flush()
        told = _inform(worker, engine, link, growth, told)


def _loaded(worker: Worker) -> dict[str, float]:
    """Gigabytes that the process has with its model: of the machine's memory, and of a GPU's where that is told."""
    taken = {}
    if (ram := ram_gb()) is not None:
        taken["ram"] = ram
    if (vram := worker.info().get("vram_used_gb")) is not None:
        taken["vram"] = vram
    return taken


def _inform(
    worker: Worker, engine: BaseEngine, link: _Link, growth: Growth, told: tuple[float, dict[str, Any]]
) -> tuple[float, dict[str, Any]]:
    """Tell what has changed for /health, when there is nothing to do or it was long ago. told: when, and what."""
    if link.holds and time.monotonic() - told[0] < INFO_SECONDS:
        return told
    now = time.monotonic()
    held, grown = growth.look(not link.holds, now)
    info = {**worker.info(), "forward_seconds": round(engine.forward_seconds, 1), "ram_gb": held}
    if info != told[1]:
        link.send(Info(info))
    if grown:
        link.send(Grown())
    return now, info


class _Link(threading.Thread):
    """Reads what the server says, beats, and sends events."""

    def __init__(self, sock: socket.socket, folders: Folders) -> None:
        super().__init__(name="link", daemon=True)
        self.engine: BaseEngine | None = None
        self._sock = sock
        self._sock.setblocking(True)
        self._folders = folders
        self._inbox: queue.SimpleQueue[ToWorker | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._held: dict[tuple[Any, ...], Task] = {}
        self._cancelled: set[str] = set()
        self._outbox: list[Event] = []
        self._finished = False

    @property
    def holds(self) -> bool:
        """Whether the process has tasks."""
        return bool(self._held)

    def run(self) -> None:
        try:
            self._listen()
        except OSError as exc:  # a server that was killed before it had read everything resets the connection
            log.debug("server_gone", error=str(exc))
        finally:
            self._abandon()

    def _listen(self) -> None:
        selector = selectors.DefaultSelector()
        selector.register(self._sock, selectors.EVENT_READ)
        reader = to_worker()
        next_beat = 0.0
        while True:
            if not selector.select(max(0.0, next_beat - time.monotonic()) if self._held else None):
                self._beat()
                next_beat = time.monotonic() + BEAT_SECONDS
                continue
            data = self._sock.recv(1 << 18)
            if not data:
                return
            for message in reader.feed(data):
                match message:
                    case Do(task):
                        self._held[task.job, task.stage, task.item] = task
                    case Cancel(job):
                        self._cancelled.add(job)
                self._inbox.put(message)

    def take(self, wait: bool) -> Iterable[ToWorker]:
        """Every message that is there; waits for one, or to be woken, only when asked to."""
        if wait and (message := self._inbox.get()):
            yield message
        while not self._inbox.empty():
            if message := self._inbox.get():
                yield message

    def wake(self) -> None:
        """End the wait of `take`."""
        self._inbox.put(None)

    def emit(self, event: Event) -> None:
        """The main thread's ends wait for the end of the step, so that many short tasks share a frame.

        All else goes at once, but for the end of a task for which the memory did not suffice: `Leaving` goes before it.
        """
        ended = event.kind in ENDS
        if ended:
            self._held.pop((event.job, event.stage, event.item), None)
            if not any(task.job == event.job for task in list(self._held.values())):
                self._cancelled.discard(event.job)
        with self._lock:
            self._outbox.append(event)
        ours = threading.current_thread() is threading.main_thread()
        if self.engine and self.engine.out_of_memory:
            self.wake()  # the main thread says `Leaving` before any of it
        elif not ended or not ours:
            self.flush()

    def terminate(self, number: int, frame: Any) -> None:
        """SIGTERM. The server sends it when a cancelling was not heard; a supervisor sends it to everybody who belongs
        to the server, and then the server drains and lets its workers go.
        """
        if self._cancelled:
            self._abandon()

    def give_back(self, reason: str) -> None:
        """Tell the end of those that have ended, and let others do what is still held."""
        for task in list(self._held.values()):
            self.emit(Event.of(task, "lost", {"counted": False, "reason": reason}))
            clear_workdir(task, self._folders)  # what the lane's slice says when it misses its files comes after
        self.flush()

    def finish(self) -> None:
        """Say no more, and stay until the server has read everything and hangs up.

        A task that it sends to a closed connection would be answered by a reset, and what it had not read yet be lost.
        What the lane still says is dropped.
        """
        with self._lock:
            self._finished = True
        self._sock.shutdown(socket.SHUT_WR)
        self.join()

    def flush(self) -> None:
        with self._lock:
            if self._outbox:
                events, self._outbox = self._outbox, []
                self._send(Events(tuple(events)))

    def send(self, message: FromWorker) -> None:
        with self._lock:
            self._send(message)

    def _send(self, message: FromWorker) -> None:
        if self._finished:
            return
        try:
            self._sock.sendall(encode(message))
        except OSError:
            self._abandon()

    def _beat(self) -> None:
        engine = self.engine
        started = engine.step_started if engine else None
        self.send(Beat(time.monotonic() - started if started else 0.0))
        if engine and (hints := engine.late_hints()):
            self.send(Events(tuple(hints)))

    def _abandon(self) -> None:
        """The server is gone: leave no temporary file and no process behind, whatever the main thread is doing."""
        for task in list(self._held.values()):
            clear_workdir(task, self._folders)
        os.killpg(0, signal.SIGKILL)


def _die_with_parent() -> None:
    """Linux: be killed when the fork server dies, which ends when nobody holds its pipe any more: so do not hold it.

    The stream's end does the same everywhere, but for a process whose main thread never lets go of the interpreter.
    """
    server: Any = forkserver._forkserver
    if getattr(server, "_forkserver_alive_fd", None) is not None:
        os.close(server._forkserver_alive_fd)
        server._forkserver_alive_fd = server._forkserver_address = None
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
