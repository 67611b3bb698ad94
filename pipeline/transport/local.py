"""The workers of this machine: for each a WorkQueue and one supervised process, or several by setting."""

from __future__ import annotations

import asyncio
import dataclasses
import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from contract.declaration import Declaration, ModelSettings, WorkerSettings
from contract.launch import Launch
from contract.messages import Event, Task
from pipeline.transport.base import Transport
from pipeline.transport.pool import Pool, Processes
from pipeline.transport.room import Room

log = structlog.get_logger()

CLOSE_SECONDS = 10.0
LONGEST_FOLDER = 70
"""Bytes of a path; a socket's, of a folder and a file more, may have 104 on macOS and 108 on Linux."""

Crew = Mapping[str, tuple[type[Declaration], WorkerSettings]]


class LocalTransport(Transport):
    """Processes on this machine. Making it starts the fork server, so make it before anything else is opened."""

    def __init__(self, crew: Crew, serve: Callable[..., None], launch: Launch) -> None:
        """serve: what a worker's process runs. launch: what it is told, but for what is the worker's own."""
        super().__init__()
        self._crew = crew
        on = {name: one for name, one in crew.items() if not one[1].switched_off(name)}
        processes = Processes(start_context(on, serve.__module__, launch.folders.run), serve)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        computing = sum(settings.replicas for _, settings in on.values() if isinstance(settings, ModelSettings))
        self._pools: dict[str, Pool] = {}
        for name, (worker, settings) in crew.items():
            plain = settings.model_dump()
            if isinstance(settings, ModelSettings):
                plain["threads"] = settings.threads or max(1, cores // computing)
            own = dataclasses.replace(launch, module=worker.__module__, name=name, settings=plain)
            self._pools[name] = Pool(worker, settings, own, processes, self._tell)
        room = Room(self._pools.values())
        for pool in self._pools.values():
            pool.room = room
        self._quiet = asyncio.Event()

    async def start(self) -> None:
        for name, (_, settings) in self._crew.items():
            pool = self._pools[name]
            for _ in range(settings.replicas if settings.preload and not pool.off else 0):
                pool.start()

    def submit(self, task: Task) -> None:
        self._pools[task.worker].submit(task)

    def cancel(self, job: str) -> None:
        for pool in self._pools.values():
            pool.cancel(job)

    def more(self, job: str, ended: bool = False) -> None:
        for pool in self._pools.values():
            pool.more(job, ended)

    def hold(self, workers: Collection[str]) -> None:
        for name, pool in self._pools.items():
            pool.hold(name in workers)

    async def drain(self, seconds: float) -> None:
        for pool in self._pools.values():
            pool.draining = True
        try:
            async with asyncio.timeout(seconds):
                while any(pool.ending() for pool in self._pools.values()):
                    self._quiet.clear()
                    await self._quiet.wait()
        except TimeoutError:
            log.info("drain_timed_out", handed_back=sum(pool.running() for pool in self._pools.values()))

    async def close(self) -> None:
        for pool in self._pools.values():
            pool.draining = True
            for process in pool.processes:
                if process.state == "ready" and not process.held:
                    process.leave()
                else:
                    process.kill("server stops")
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                while any(pool.processes for pool in self._pools.values()):
                    self._quiet.clear()
                    await self._quiet.wait()
        except TimeoutError:  # they end with this process
            log.warning("workers_not_gone", processes=sum(len(pool.processes) for pool in self._pools.values()))

    def status(self) -> dict[str, dict[str, Any]]:
        return {name: pool.status() for name, pool in self._pools.items()}

    def _tell(self, *events: Event) -> None:
        self._quiet.set()
        self._happened(*events)


def start_context(crew: Crew, host: str, run: Path) -> Any:
    """The start method: a fork server that has imported, and only imported, what workers need; spawn elsewhere.

    host: the module that the processes run. run: the folder for the fork server's socket.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver, resource_tracker

    context = multiprocessing.get_context("forkserver")
    modules = {module for worker, _ in crew.values() for module in worker.imports}
    context.set_forkserver_preload(["__main__", host, *sorted(modules)])
    # A supervisor may tell every process to stop; the fork server, and so the workers, end when this one does.
    resource_tracker.ensure_running()  # else the fork server does so, which unblocks the signal
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    with _temporary_in(run):
        forkserver.ensure_running()
    signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
    return context


@contextmanager
def _temporary_in(folder: Path) -> Iterator[None]:
    """Temporary folders are made here and not in the system's, where one of a server that was killed would stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("pymp-*"):
        shutil.rmtree(left, ignore_errors=True)
    if len(os.fsencode(folder)) > LONGEST_FOLDER:
        yield
        return
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
