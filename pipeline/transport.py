"""How tasks reach workers and events come back: an interface with few holes, and a fake that uses the real codec.

`submit` never refuses: admission is decided before a job begins. Every submitted task ends with exactly one `done`,
`failed` or `lost` event unless the transport is closed first; what is then still open the ledger hands out again.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any

import orjson

from contract.messages import Event, Task
from workers.base import Worker
from workers.context import BaseEngine
from workers.engine import engine_of


class Transport(ABC):
    """The road between the ResultQueue and the workers."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._some = asyncio.Event()

    @abstractmethod
    async def start(self) -> None:
        """Get ready to take tasks."""

    @abstractmethod
    def submit(self, task: Task) -> None:
        """Queue a task for its worker."""

    @abstractmethod
    def cancel(self, job: str) -> None:
        """Free the workers of a job's tasks as soon as can be."""

    @abstractmethod
    def more(self, job: str) -> None:
        """The recording of a live job has grown, or ended: wake its task."""

    @abstractmethod
    def hold(self, workers: Collection[str]) -> None:
        """Hear these workers, and only these, no more until the next call: they wait when their pipes are full."""

    @abstractmethod
    async def drain(self, seconds: float) -> None:
        """Hand out no more tasks; return when those under way have ended, or after `seconds`."""

    @abstractmethod
    async def close(self) -> None:
        """Stop every worker."""

    @abstractmethod
    def status(self) -> dict[str, dict[str, Any]]:
        """For each worker: ``state``, ``queued``, ``running``, ``restarts`` and its processes' facts."""

    async def events(self) -> AsyncIterator[list[Event]]:
        """Everything that has happened since the last time, in order; for ever."""
        while True:
            await self._some.wait()
            self._some.clear()
            yield self.left()

    def left(self) -> list[Event]:
        """What `events` has not given yet; for the end, when nobody waits for it any more."""
        events, self._events = self._events, []
        return events

    def _happened(self, *events: Event) -> None:
        self._events.extend(events)
        self._some.set()


class InlineTransport(Transport):
    """Runs the workers' engines in this very process, on the event loop: for tests of everything above it."""

    def __init__(self, crew: Mapping[str, Worker]) -> None:
        super().__init__()
        self._crew = crew
        self._engines: dict[str, BaseEngine] = {}
        self._waiting: list[Task] = []
        self._running = asyncio.Event()
        self._held: frozenset[str] = frozenset()
        self._pump: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        for name, worker in self._crew.items():
            worker.load()
            self._engines[name] = engine_of(worker, self._emit)
        self._pump = asyncio.create_task(self._run())

    def submit(self, task: Task) -> None:
        self._waiting.append(Task.decode(orjson.loads(task.encode())))
        self._running.set()

    def cancel(self, job: str) -> None:
        self._waiting = [task for task in self._waiting if task.job != job]
        for engine in self._engines.values():
            engine.cancel(job)

    def more(self, job: str) -> None:
        for engine in self._engines.values():
            engine.more(job)
        self._running.set()

    def hold(self, workers: Collection[str]) -> None:
        self._held = frozenset(workers)
        self._running.set()

    async def drain(self, seconds: float) -> None:
        self._waiting.clear()
        for engine in self._engines.values():
            while engine.busy:
                engine.step()

    async def close(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)

    def status(self) -> dict[str, dict[str, Any]]:
        waiting = {name: sum(task.worker == name for task in self._waiting) for name in self._engines}
        return {name: {"state": "ready", "queued": waiting[name]} for name in self._engines}

    def _emit(self, event: Event) -> None:
        """Called by the engines, some of which have a thread of their own."""
        received = Event.decode(orjson.loads(event.encode()))
        if threading.current_thread() is threading.main_thread():
            self._happened(received)
        else:
            self._loop.call_soon_threadsafe(self._happened, received)

    async def _run(self) -> None:
        while True:
            await self._running.wait()
            tasks, self._waiting = self._waiting, []
            for task in tasks:
                self._emit(Event.of(task, "started", "inline"))
                self._engines[task.worker].add(task)
            busy = [engine for name, engine in self._engines.items() if engine.busy and name not in self._held]
            for engine in busy:
                engine.step()
            if not busy and not self._waiting:
                self._running.clear()
            await asyncio.sleep(0)
