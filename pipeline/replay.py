"""How open jobs change: causes are played, the step is written, and played again where somebody else was faster.

    causes ─▶ played() ─▶ Step ─▶ ledger ─▶ Effects: told and acted on
                 ▲                   │ conflict: the ledger has another state of the job
                 │                   ▼
              load ◀── what the job has missed: the causes of every write that conflicted, and what came meanwhile

A job whose write conflicted is loaded when all of its writes have been answered, and what it has missed is played on
what was loaded, in order. Nothing was told of a step that was not written, so nothing is told twice. A cause that no
longer counts (an event of an older attempt) changes nothing, as `job.advance` has it.

Our own writes are a chain, each from the version that the one before makes. The first write after a job was loaded
leaves a gap in its versions that nobody guesses, so that no version of another server is one of ours: when one of our
writes conflicts, those behind it do too.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import structlog

from contract import clock
from contract.errors import Internal, as_failure
from contract.logs import about
from pipeline.backlog import Backlog
from pipeline.clock import clocked
from pipeline.job import Job, State, Step, finish, loaded, opened
from pipeline.stored import changed, restored
from storage.ledger import Conflict, Ledger, ReadFailed
from storage.records import EventRecord

log = structlog.get_logger()

Cause = Callable[[Job], Step]
"""What changes a job, whatever state it is in: an event, its deadline, a cancellation, a restart."""

GAP_BITS = 32
RETRY_SECONDS, MOST_RETRY_SECONDS = 1.0, 60.0
"""Until a job is loaded again that could not be, or whose write failed or conflicted again; the time doubles."""


class Effects(NamedTuple):
    """What follows. act: of a step that is in the ledger; hint: of one that has nothing to write.

    elsewhere: these events of a job were told by another server. left: it has ended there, or is forgotten. read: the
    value of a blob, or the exception that says why it cannot be had.
    """

    act: Callable[[Step], None]
    hint: Callable[[Step], None]
    elsewhere: Callable[[Job, list[EventRecord]], None]
    left: Callable[[Job], None]
    read: Callable[[str], Awaitable[Any]]


class _Missed(NamedTuple):
    """Of a job that is to be loaded. unwritten: the causes of writes that conflicted. since: what came after these."""

    unwritten: list[Cause]
    since: list[Cause]


class Changes:
    """The changes of all open jobs.

    open_jobs: as they are when all is written; shared with who lists them. told: the last `seq` of each that was told.
    """

    def __init__(
        self, ledger: Ledger, open_jobs: dict[str, Job], told: dict[str, int], backlog: Backlog, effects: Effects
    ) -> None:
        self._ledger = ledger
        self._open = open_jobs
        self._told = told
        self._backlog = backlog
        self._effects = effects
        self._under_way: Counter[str] = Counter()
        self._missed: dict[str, _Missed] = {}
        self._loaded: set[str] = set()
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._stuck: Counter[str] = Counter()
        self._found: dict[str, int] = {}

    def loaded(self, job: Job) -> None:
        """A job as the ledger has it, which another server may have too."""
        self._open[job.id] = job
        self._loaded.add(job.id)

    def play(self, job_id: str, causes: Iterable[Cause], *, soon: bool = True) -> None:
        """Let these change an open job, and write what they make of it; nothing to do where nothing has changed.

        soon: somebody waits for the effects; nobody does to learn that a task has started.
        """
        if job_id in self._missed:
            self._missed[job_id].since.extend(causes)
            return
        before = self._open[job_id]
        step, counted = played(before, causes, self._effects.hint)
        if step.job is before:
            return
        step = clocked(step, before, clock.now())
        try:
            self._write(before, step, counted, soon)
        except Exception:
            with about(job_id, before.request.params):
                log.exception("step_not_writable")
            self._write(before, broken(before), [broken], soon)

    async def settled(self, job_id: str) -> None:
        """Return when all that was played of a job has been decided and written. Raises: DiskFull, Internal."""
        while job_id in self._under_way or job_id in self._loading:
            if job_id in self._loading:
                await asyncio.wait([self._loading[job_id]])
            await self._ledger.settled()

    async def close(self) -> None:
        """A job that is still to be loaded waits for the next start."""
        loading = tuple(self._loading.values())
        for one in loading:
            one.cancel()
        await asyncio.gather(*loading, return_exceptions=True)
        self._loading.clear()

    def _write(self, before: Job, step: Step, causes: list[Cause], soon: bool) -> None:
        if before.id in self._loaded:
            version = step.job.version + secrets.randbits(GAP_BITS)
            step = dataclasses.replace(step, job=dataclasses.replace(step.job, version=version))
        done = partial(self._written, step, causes)
        self._ledger.advance(changed(step, clock.now()), before.version, done, soon=soon)
        self._loaded.discard(before.id)
        self._open[before.id] = step.job
        self._under_way[before.id] += 1
        self._backlog.add(step)

    def _written(self, step: Step, causes: list[Cause], error: Exception | None) -> None:
        job = step.job
        self._backlog.remove(step)
        self._under_way[job.id] -= 1
        if error is None:
            self._unstick(job.id)
            self._effects.act(step)
        elif isinstance(error, Conflict):
            log.info("job_changed_elsewhere", job=job.id)
            self._missed.setdefault(job.id, _Missed([], [])).unwritten.extend(causes)
        else:
            log.error("step_not_written", job=job.id, version=job.version, exc_info=error)
            self._missed.setdefault(job.id, _Missed([], [])).unwritten.append(broken)
        if self._under_way[job.id]:
            return
        del self._under_way[job.id]
        if job.id in self._missed:
            again = asyncio.ensure_future(self._play_again(job, self._pause(job.id, isinstance(error, Conflict))))
            self._loading[job.id] = again

    def _pause(self, job_id: str, conflict: bool) -> float:
        """Seconds until a job is loaded again: at once where another server has changed it, and else ever later."""
        stuck = self._stuck[job_id] + (not conflict)
        return min(RETRY_SECONDS * 2 ** min(stuck - 1, 10), MOST_RETRY_SECONDS) if stuck else 0.0

    def _look(self, job: Job) -> None:
        """Count how often a job was loaded in vain: as it was the last time, though a write of ours had failed."""
        self._stuck[job.id] = self._stuck[job.id] + 1 if self._found.get(job.id) == job.version else 0
        self._found[job.id] = job.version

    def _unstick(self, job_id: str) -> None:
        self._stuck.pop(job_id, None)
        self._found.pop(job_id, None)

    async def _play_again(self, ours: Job, wait: float) -> None:
        """Go on from what the ledger has of a job, and tell what it was told elsewhere."""
        counted: Step | None = None
        while True:
            await asyncio.sleep(wait)
            try:
                job = await self._load(ours)
                counted = await self._counted(job) if job is not None and not job.state.ended else None
                break
            except ReadFailed as exc:
                log.warning("job_not_read", job=ours.id, error=str(exc.__cause__ or exc))
                self._stuck[ours.id] += 1
                wait = self._pause(ours.id, conflict=True)
        missed = self._missed.pop(ours.id)
        del self._loading[ours.id]
        if job is None or counted is None:
            log.info("job_ended_elsewhere", job=ours.id)
            self._unstick(ours.id)
            self._effects.left(ours)
            return
        self._look(job)
        self.loaded(job)
        self.play(job.id, [partial(_as_counted, counted), *missed.unwritten, *missed.since])

    async def _load(self, ours: Job) -> Job | None:
        stored = await self._ledger.load(ours.id)
        while told := await self._ledger.told(ours.id, self._told[ours.id]):
            self._effects.elsewhere(ours, told)
        return restored(stored, ours.plan) if stored is not None else None

    async def _counted(self, job: Job) -> Step:
        """What follows for a job from the ledger whose tasks are under way; it has read all that it looks into."""
        steps = [_worked_out(job, partial(loaded, due=self._open[job.id].book.due))]
        unread = list(steps[0].reads)
        while unread:
            value = await self._effects.read(unread[0])
            steps.append(_worked_out(steps[-1].job, partial(opened, blob=unread.pop(0), value=value)))
            unread += steps[-1].reads
        return dataclasses.replace(_merged(steps), reads=())


def played(job: Job, causes: Iterable[Cause], hint: Callable[[Step], None]) -> tuple[Step, list[Cause]]:
    """One step for all that changes the job, and the causes that did; the very same job when none does.

    hint: told the steps that change nothing but have something to say.
    """
    steps: list[Step] = []
    counted: list[Cause] = []
    for cause in causes:
        step = _worked_out(job, cause)
        if step.job is not job:
            job = step.job
            steps.append(step)
            counted.append(cause)
        elif step.outs:
            hint(step)
    if not steps:
        return Step(job), counted
    return steps[0] if len(steps) == 1 else _merged(steps), counted


def _as_counted(counted: Step, job: Job) -> Step:
    """The first cause of a job that was loaded."""
    return counted


def broken(job: Job) -> Step:
    """The end of a job that the server could not go on with."""
    failure = Internal("The server could not go on with this job; its log has the reason.")
    return finish(job, State.FAILED, as_failure(failure))


def _worked_out(job: Job, cause: Cause) -> Step:
    """A job's next step. One that cannot be worked out ends this job, and must not end the road of all the others."""
    try:
        return cause(job)
    except Exception:
        with about(job.id, job.request.params):
            log.exception("step_not_worked_out")
        return broken(job)


def _merged(steps: list[Step]) -> Step:
    """Several steps of one job as one change: later runs stand for earlier ones, all outs stay, in order."""
    changed_runs = {key: None for step in steps for key in step.changed}
    job = steps[-1].job
    tasks = tuple(
        task
        for step in steps
        for task in step.tasks
        if not job.state.ended and job.runs[task.stage, task.item].attempt == task.attempt
    )
    return Step(
        job,
        tasks,
        outs=tuple(out for step in steps for out in step.outs),
        changed=tuple(changed_runs),
        made=tuple(made for step in steps for made in step.made),
        reads=tuple(blob for step in steps for blob in step.reads),
        whole=any(step.whole for step in steps),
    )
