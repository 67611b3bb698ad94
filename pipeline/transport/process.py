"""One incarnation of a worker process: a fresh pipe, the tasks it holds, and the watch over it.

    starting ──loaded, ready──▶ ready ──leave──▶ leaving ─┐
        └──unavailable─▶ leaving ─────────────────┴─▶ gone (the stream ended)

A process that says what is no message of the pipe is broken, or does what a stranger's file wants: it is killed.

A shared queue would be simpler, but a consumer killed while it waits there leaves the lock held and hangs every other;
a pipe of one's own ends with the process, and its end is the news of its death.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import multiprocessing.context
import os
import signal
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import structlog

from contract.errors import ModelUnavailable, as_failure
from contract.messages import Event, Item, Task
from contract.pipe import (
    Beat,
    Cancel,
    Do,
    Events,
    FromWorker,
    Garbled,
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
    from_worker,
)

log = structlog.get_logger()

SILENCE_SECONDS = 1.5
"""Without a beat for so long a process is looked at; its beats are 0.5 s apart."""
LOOK_AGAIN_SECONDS = 0.5
HUNG_STEPS = 3
"""A step of so many times its declared length is hung."""
WARM_UP_SECONDS = 5.0
"""What a process may need for its example beside its steps."""
CANCEL_SECONDS = 5.0
TERMINATE_SECONDS = 2.0
LEAVE_SECONDS = 5.0

HUNG, STOPPED, GARBLED = "hung", "stopped", "said what is no message"
"""Reasons to kill a process that lie in itself."""

TaskKey = tuple[str, str, Item]


def task_key(message: Task | Event) -> TaskKey:
    return message.job, message.stage, message.item


class Owner(Protocol):
    """What an incarnation tells the pool that started it."""

    def on_ready(self, process: Incarnation) -> None: ...
    def on_unavailable(self, process: Incarnation, failure: dict[str, Any]) -> None: ...
    def on_events(self, process: Incarnation, events: list[Event]) -> None: ...
    def on_grown(self, process: Incarnation) -> None: ...
    def on_gone(self, process: Incarnation) -> None: ...


class Incarnation(asyncio.Protocol):
    """A running process, from its start until its pipe has ended.

    target, launch: what the process runs, and its argument.
    step_seconds: the worker's longest honest step.
    """

    def __init__(
        self,
        owner: Owner,
        context: multiprocessing.context.BaseContext,
        target: Callable[..., None],
        launch: Any,
        step_seconds: float,
    ) -> None:
        self.state: Literal["starting", "ready", "leaving", "gone"] = "starting"
        self.held: dict[TaskKey, Task] = {}
        self.info: dict[str, Any] = {}
        self.killed_for: str | None = None
        """Why the server itself killed it, or why it left."""
        self.unavailable = False
        """Whether it said that its model cannot be had."""
        self.retiring = False
        """Whether it takes no more tasks, and leaves when it has done those that it holds."""
        self.idle_since = 0.0
        self._owner = owner
        self._context = context
        self._target = target
        self._launch = launch
        self._step_seconds = step_seconds
        self._loop = asyncio.get_running_loop()
        self._process: Any = None
        self._transport: asyncio.Transport | None = None
        self._reader = from_worker()
        self._heard = 0.0
        self._on_hold = False
        self._released = -math.inf
        self._watch: asyncio.TimerHandle | None = None
        self._timers: set[asyncio.TimerHandle] = set()
        self._when_gone: Callable[[], None] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def own_end(self) -> bool:
        """Of one that is gone: whether it died by itself, or for what it did. Its tasks may have been the cause."""
        return self.killed_for in (None, HUNG, STOPPED, GARBLED)

    async def start(self) -> None:
        """Start the process. Off the event loop, since the fork server may still be importing."""
        ours, theirs = self._context.Pipe(duplex=True)
        # mypy: each context has its own Process class
        self._process = self._context.Process(target=self._target, args=(self._launch, theirs), daemon=True)  # type: ignore[attr-defined]
        await self._loop.run_in_executor(None, self._process.start)
        theirs.close()  # else the end of the stream would never be seen
        sock = socket.socket(fileno=os.dup(ours.fileno()))
        ours.close()
        sock.setblocking(False)
        await self._loop.create_unix_connection(lambda: self, sock=sock)
        if self.killed_for:
            self._signal(signal.SIGKILL)

    # What the pool asks for.

    def send_task(self, task: Task) -> None:
        if not self.held:
            self._start_watch()
        self.held[task_key(task)] = task
        self._send(Do(task))

    def cancel(self, job: str) -> None:
        """Ask for a job's tasks back, then insist: a model that does not listen is terminated, then killed."""
        if any(task.job == job for task in self.held.values()):
            self._send(Cancel(job))
            self._later(CANCEL_SECONDS, self._insist, job)

    def more(self, job: str, ended: bool) -> None:
        """Wake a job's task that waits for more of its recording. ended: the recording is whole."""
        if any(task.job == job for task in self.held.values()):
            self._send(More(job, ended))

    def hold(self, on: bool) -> None:
        """Read nothing more from one that is ready, or go on; its silence meanwhile is not its own."""
        if self._transport is None or self._transport.is_closing() or on is self._on_hold:
            return
        if on and self.state != "ready":
            return
        self._on_hold = on
        self._heard = self._released = self._loop.time()
        if on:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def leave(self) -> None:
        """Let the process end by itself; it holds nothing."""
        self.state = "leaving"
        self._send(Leave())
        self._later(LEAVE_SECONDS, self.kill, "left too slowly")

    def retire(self, then: Callable[[], None]) -> None:
        """Take no more tasks, leave when none is held, and then call `then`, once the system has freed what it had."""
        self.retiring, self._when_gone = True, then
        if not self.held:
            self.leave()

    def kill(self, reason: str, hard: bool = True) -> None:
        self.killed_for = self.killed_for or reason
        log.warning("worker_killed", pid=self.pid, reason=reason)
        if self.pid is None:
            return  # `start` sees `killed_for`
        self._signal(signal.SIGKILL if hard else signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        """To the process and whatever it has started: it leads a group of its own, once it is far enough to."""
        for send in (os.kill, os.killpg):
            with contextlib.suppress(ProcessLookupError):  # it was faster, or leads no group yet
                send(self._process.pid, number)

    # The pipe.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._start_watch()

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        try:
            for message in self._reader.feed(data):
                self._hear(message)
        except Garbled as exc:
            log.error("worker_garbled", worker=self._launch.name, pid=self.pid, reason=str(exc), of="operator")
            self.kill(GARBLED)
            assert self._transport is not None, "data come by it"
            self._transport.abort()  # what follows cannot be read

    def _hear(self, message: FromWorker) -> None:
        match message:
            case Events(events):
                self._take(events)
            case Beat(step):
                if min(step, self._heard - self._released) > HUNG_STEPS * self._step_seconds:
                    self.kill(HUNG)
            case Info(facts):
                self.info |= facts
            case Grown():
                self._owner.on_grown(self)
            case Loaded():
                self._later(WARM_UP_SECONDS + HUNG_STEPS * self._step_seconds, self._check_warm_up)
            case Ready(facts):
                self.state, self.info, self.idle_since = "ready", facts, self._loop.time()
                self._stop_watch()
                self._owner.on_ready(self)
            case Leaving(reason):
                self.state, self.killed_for = "leaving", self.killed_for or reason
                self._later(LEAVE_SECONDS, self.kill, "left too slowly")
            case Unavailable(failure):
                self.state, self.unavailable = "leaving", True
                self._later(LEAVE_SECONDS, self.kill, "left too slowly")
                self._owner.on_unavailable(self, failure.body())

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = "gone"
        self._stop_watch()
        for timer in self._timers:
            timer.cancel()
        self._signal(signal.SIGKILL)  # the stream may end before the process does
        self._loop.add_reader(self._process.sentinel, self._reap)
        self._owner.on_gone(self)

    def _reap(self) -> None:
        self._loop.remove_reader(self._process.sentinel)
        self._process.join()
        self._process.close()
        self._process = None
        if self._when_gone is not None:
            self._when_gone()

    def _send(self, message: ToWorker) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode(message))

    def _take(self, told: Iterable[Event]) -> None:
        """Of other tasks than its own a process has nothing to tell."""
        events = []
        for event in told:
            key = task_key(event)
            if key in self.held:
                events.append(event)
                if event.kind in ("done", "failed", "lost"):
                    del self.held[key]
        if not self.held:
            self.idle_since = self._loop.time()
            self._stop_watch()
            if self.retiring and self.state == "ready":
                self.leave()
        self._owner.on_events(self, events)

    # The watch: while it loads, which may take long, and while it holds tasks.

    def _start_watch(self) -> None:
        self._heard = self._loop.time()
        self._watch = self._loop.call_later(SILENCE_SECONDS, self._check)

    def _stop_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _check(self) -> None:
        """A silent process may be stopped, which nothing but its state shows, or hold its interpreter's lock."""
        silent = 0.0 if self._on_hold else self._loop.time() - self._heard
        if silent >= SILENCE_SECONDS and _stopped(self.pid):
            self.kill(STOPPED)
        elif silent > HUNG_STEPS * self._step_seconds and self.state == "ready":
            self.kill(HUNG)
        else:
            quiet = SILENCE_SECONDS - silent
            self._watch = self._loop.call_later(quiet if quiet > 0 else LOOK_AGAIN_SECONDS, self._check)

    def _check_warm_up(self) -> None:
        if self.state == "starting":
            self.unavailable = True
            self.kill(HUNG)
            name = self._launch.name
            hung = ModelUnavailable(
                f"The model of {name} was loaded, but it did not come to the end of its first step."
            )
            self._owner.on_unavailable(self, as_failure(hung))

    def _insist(self, job: str) -> None:
        if any(task.job == job for task in self.held.values()):
            self.kill("cancelled", hard=False)
            self._later(TERMINATE_SECONDS, self.kill, "cancelled")

    def _later(self, seconds: float, action: Callable[..., None], *args: Any) -> None:
        def run() -> None:
            self._timers.discard(timer)
            action(*args)

        timer = self._loop.call_later(seconds, run)
        self._timers.add(timer)


def _stopped(pid: int | None) -> bool:
    """Whether the system says that a process is stopped; False where it cannot be asked."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except OSError:
        return False
