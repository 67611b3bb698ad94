"""Runs the tasks of a worker that waits more than it computes: `async def run`, up to `concurrency` side by side.

The tasks live on an event loop in a thread of their own; the main thread only hands them over.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeVar

from contract.logs import about
from contract.messages import Task
from workers.base import AsyncWorker
from workers.runtime.context import CANCELLED, BaseEngine, Emit

T = TypeVar("T")


class AsyncEngine(BaseEngine):
    """Takes any number of tasks; so many as the worker's `concurrency` are under way, the others wait in order."""

    busy = False

    def __init__(self, worker: AsyncWorker, emit: Emit) -> None:
        super().__init__(worker, emit)
        self._async_worker = worker
        self._running: dict[asyncio.Task[None], Task] = {}
        self._places = asyncio.Semaphore(worker.concurrency)
        self._loop = asyncio.new_event_loop()
        # asyncio's own executor has few threads on small machines, and a task that waits for one cannot be cancelled
        self._loop.set_default_executor(ThreadPoolExecutor(2 * worker.concurrency, "task"))
        threading.Thread(target=self._loop.run_forever, name="tasks", daemon=True).start()

    def add(self, task: Task) -> None:
        self._loop.call_soon_threadsafe(self._start, task)

    def cancel(self, job: str) -> None:
        self._loop.call_soon_threadsafe(self._cancel, job)

    def more(self, job: str, ended: bool) -> None:
        """Nothing: `MORE` is for tasks that are generators."""

    def step(self) -> None:
        """Nothing: the tasks step by themselves."""

    def _start(self, task: Task) -> None:
        running = self._loop.create_task(self._run(task))
        self._running[running] = task
        running.add_done_callback(self._ended)

    def _ended(self, running: asyncio.Task[None]) -> None:
        task = self._running.pop(running)
        if running.cancelled():  # perhaps before its first step, so it cannot say so itself
            self._end(task, "lost", CANCELLED)

    def _cancel(self, job: str) -> None:
        for running in [running for running, task in self._running.items() if task.job == job]:
            running.cancel()

    async def _run(self, task: Task) -> None:
        ctx = self._context(task)
        with about(task.job, task.params):
            try:
                async with self._places:
                    with closing(ctx):
                        result = await self._async_worker.run_async(self._params(task), ctx)
                self._end(task, "done", result)
            except Exception as exc:  # noqa: BLE001 - it is this task's, and logged there
                self._fail(task, exc)


async def in_thread(work: Callable[[], T], stop: Callable[[], Any]) -> T:
    """Run blocking work in a thread; when the task is cancelled, call `stop` and wait until the work has ended.

    So what the work holds, files above all, is let go before the task is reported as cancelled.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop()
        await asyncio.wait([running])
        raise
