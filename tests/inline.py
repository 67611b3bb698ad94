"""A transport without processes: the workers' engines run on the test's event loop, behind the real codec."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Collection, Mapping
from typing import Any

from contract.messages import Event, Task
from contract.pipe import Do, Events, encode, from_worker, to_worker
from pipeline.transport.base import Transport
from workers.base import Worker
from workers.runtime.context import BaseEngine
from workers.runtime.engine import engine_of


class InlineTransport(Transport):
    """For tests of everything above the workers' processes."""

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
        self._waiting += [message.task for message in to_worker().feed(encode(Do(task))) if isinstance(message, Do)]
        self._running.set()

    def cancel(self, job: str) -> None:
        self._waiting = [task for task in self._waiting if task.job != job]
        for engine in self._engines.values():
            engine.cancel(job)

    def more(self, job: str, ended: bool = False) -> None:
        if ended:
            waiting = self._waiting
            self._waiting = [dataclasses.replace(task, ended=True) if task.job == job else task for task in waiting]
        for engine in self._engines.values():
            engine.more(job, ended)
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
        received = over_the_pipe(event)
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


def over_the_pipe(event: Event) -> Event:
    """What a server receives of an event."""
    [received] = [message for message in from_worker().feed(encode(Events((event,)))) if isinstance(message, Events)]
    return received.events[0]
