"""The ResultQueue: takes every worker's events, lets `job` decide, writes the ledger, and only then acts.

    submit ─▶ begin() ──┐                                ┌─▶ transport.submit(next tasks)
                        ├─▶ Step ─▶ ledger (committed) ──┤
    events ─▶ advance() ┘                                └─▶ listeners (what the clients are told)

Everything that a client hears, but for progress hints, has reached the disk before.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import structlog

from contract.errors import DeadlineExceeded, Draining, Internal, JobNotFound, ServiceError, as_failure
from contract.logs import about
from contract.messages import Event, Task
from pipeline.admission import Deadlines, Limits, Places
from pipeline.backlog import Backlog
from pipeline.intake import Identity, Intake
from pipeline.job import Job, Out, State, Step, advance, begin, finish, restart
from pipeline.listeners import Listeners
from pipeline.plans import Plan
from pipeline.transport.base import Transport
from storage import ledger as rows
from storage.database import Conflict, Statement
from storage.ledger import EventRow, JobRow, Ledger
from storage.recordings import Recordings

log = structlog.get_logger()


@dataclasses.dataclass(slots=True)
class Counts:
    """For metrics: finished jobs by (type, state), their seconds by type, and refused submissions."""

    finished: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)
    seconds: defaultdict[str, float] = dataclasses.field(default_factory=lambda: defaultdict(float))
    accepted: Counter[str] = dataclasses.field(default_factory=Counter)
    refused: int = 0


class ResultQueue:
    """Every open job of this server. All methods belong to the event loop."""

    def __init__(
        self, ledger: Ledger, transport: Transport, plans: Mapping[str, Plan], intake: Intake, limits: Limits
    ) -> None:
        self.counts = Counts()
        self.draining = False
        self._ledger = ledger
        self._transport = transport
        self._plans = plans
        self._intake = intake
        self._limits = limits
        self._open: dict[str, Job] = {}
        self._told: dict[str, int] = {}
        self._fractions: dict[str, float] = {}
        self._places = Places(limits)
        self._keys: dict[tuple[str, str], asyncio.Future[str]] = {}
        self.listeners = Listeners()
        self._deadlines = Deadlines(self._open, self._late)
        self.recordings = Recordings(intake.folders, transport.more, limits.file_bytes)
        self._taker: asyncio.Task[None] | None = None
        self._retries: set[asyncio.Task[None]] = set()
        self._backlog = Backlog(transport.hold)

    # Life.

    async def start(self) -> None:
        """Go on with every unfinished job, then take events."""
        jobs, orphans = await self._ledger.read(lambda db: rows.unfinished(db, self._plans))
        if orphans:
            gone = as_failure(Internal("This server no longer has the pipeline of this job; send it again."))
            body = {"status": "error", **gone}
            await self._ledger.commit(list(rows.orphans_ended(orphans, body, time.time())), refusable=False)
        for job in jobs:
            self._places.hold(job.request.client)
            self._enter(job, told=job.seq)
            self._write(job, _worked_out(job, restart))
        if jobs:
            log.info("jobs_resumed", jobs=len(jobs))
        self._taker = asyncio.create_task(self._take_events())
        self._taker.add_done_callback(_report)

    async def drain(self, seconds: float) -> None:
        """Refuse new work and wait for what runs. What does not end in time stays in the ledger for the next start."""
        self.draining = True
        await self._transport.drain(seconds)
        self._take(self._transport.left())
        with contextlib.suppress(ServiceError):
            await self._ledger.commit([])  # what was written before has now been told

    async def close(self) -> None:
        """Stop the workers and hand to the ledger what they still said."""
        await self._transport.close()
        self._deadlines.close()
        if self._taker is not None:
            self._taker.remove_done_callback(_report)
            self._taker.cancel()
            await asyncio.gather(self._taker, return_exceptions=True)
        self._take(self._transport.left())

    # What the doors ask for.

    async def submit(self, message: Any, who: Identity) -> str:
        """Accept a message; returns the job's id once it has reached the disk.

        Raises: every `ServiceError` that a message can be refused with.
        """
        try:
            return await self._submit(message, who)
        except Exception:
            self.counts.refused += 1
            raise

    async def _submit(self, message: Any, who: Identity) -> str:
        if self.draining:
            raise Draining("The server is shutting down; send this again in a minute.")
        key = message.get("idempotency_key") if isinstance(message, dict) else None
        if not isinstance(key, str):
            return await self._accept(message, who)
        if (who.client, key) not in self._keys:
            known = await self._ledger.read(lambda db: rows.job_by_key(db, who.client, key))
            if known is not None:
                return known
        return await self._accept_once(message, who, (who.client, key))

    async def _accept_once(self, message: Any, who: Identity, key: tuple[str, str]) -> str:
        """Accept a message with an idempotency key; those that come meanwhile get the same answer."""
        if key not in self._keys:
            self._keys[key] = asyncio.ensure_future(self._accept(message, who))
            self._keys[key].add_done_callback(lambda _: self._keys.pop(key, None))
        try:
            return await asyncio.shield(self._keys[key])
        except Conflict:  # it was accepted between our look into the ledger and our turn
            known = await self._ledger.read(lambda db: rows.job_by_key(db, *key))
            assert known is not None, "a duplicate key belongs to a job"
            return known

    async def _accept(self, message: Any, who: Identity) -> str:
        self._places.take(who.client)  # counted before anything is awaited, so that a burst cannot pass the limit
        try:
            request, plan = await self._intake.read(message, who)
            now = time.time()
            job = Job(f"job_{secrets.token_hex(12)}", request, plan, now, now + self._limits.deadline_seconds)
            step = begin(job)
            await self._ledger.commit(rows.accepted(step, now))
        except BaseException:
            self._places.give_back(who.client)
            raise
        self._enter(step.job)
        self.counts.accepted[request.type] += 1
        log.info("accepted", job=job.id, type=request.type)
        asyncio.get_running_loop().call_soon(self._act, step)  # after the door has said "accepted"
        return job.id

    async def cancel(self, job_id: Any, client: str) -> bool:
        """End a job as cancelled; False when it had ended. Raises: JobNotFound."""
        await self.job(job_id, client)
        job = self._open.get(job_id)
        if job is None or job.state.ended:
            return False
        self._write(job, finish(job, State.CANCELLED))
        return True

    async def signal(self, job_id: Any, name: str, data: Any, who: Identity) -> bool:
        """Give a job what it waits for from outside; False when it does not wait for that. Raises: JobNotFound."""
        await self.job(job_id, who.client)
        return False  # no plan has a stage that waits

    async def job(self, job_id: Any, client: str) -> JobRow:
        """A client's own job. Raises: JobNotFound, the same for another's as for one that never was."""
        row = await self._ledger.read(lambda db: rows.job_row(db, job_id)) if isinstance(job_id, str) else None
        if row is None or row.client != client:
            raise JobNotFound("You have no job of this id, or it is older than the server keeps them.", field="job_id")
        return row

    async def last_seqs(self, job_ids: Collection[str], client: str) -> dict[str, int]:
        """The last `seq` of those of these jobs that are the client's."""
        return await self._ledger.read(lambda db: rows.last_seqs(db, client, job_ids))

    async def told(self, job_id: str, seq: int, enough: int = rows.PAGE_BYTES) -> list[EventRow]:
        """A page of what the job's client was told after `seq`, of at least `enough` bytes; empty when that is all.

        Nothing that the listeners have yet to hear is in it, so that who reads and listens hears each event once. The
        caller has made sure that it asks for its own job.
        """
        page = await self._ledger.read(lambda db: rows.events_after(db, job_id, seq, enough))
        last = self._told.get(job_id)
        return page if last is None else [event for event in page if event.seq <= last]

    async def final(self, job_id: str) -> bytes | None:
        """The body of a job's final answer, None before its end. The caller has made sure that it asks for its own."""
        return await self._ledger.read(lambda db: rows.final_event(db, job_id))

    def is_open(self, job_id: str) -> bool:
        """Whether the listeners have yet to hear the job's final answer."""
        return job_id in self._open

    async def jobs(self, client: str) -> list[dict[str, Any]]:
        """A client's jobs within retention, newest first."""
        found = await self._ledger.read(lambda db: rows.jobs_of(db, client))
        return [self.describe(row) for row in found]

    def describe(self, row: JobRow) -> dict[str, Any]:
        """A job as clients see it in listings. Times: seconds since 1970."""
        state = self._open[row.id].state if row.id in self._open else State(row.state)
        waiting = state is State.PENDING
        return {
            "job_id": row.id,
            "id": rows.client_id(row),
            "type": row.type,
            "state": state,
            "created_at": row.created_at,
            "finished_at": row.finished_at,
            "fraction": 1.0 if state is State.COMPLETED else self._fractions.get(row.id),
            "queue_position": self._position(row.id) if waiting else None,
        }

    def _position(self, job_id: str) -> int:
        pending = [job.id for job in self._open.values() if job.state is State.PENDING]
        return pending.index(job_id) + 1 if job_id in pending else 1

    @property
    def open_jobs(self) -> int:
        return len(self._open)

    # Events become steps, steps become changes, and only then effects.

    async def _take_events(self) -> None:
        async for events in self._transport.events():
            self._take(events)

    def _take(self, events: list[Event]) -> None:
        before: dict[str, Job] = {}
        waited_for: set[str] = set()
        steps: dict[str, list[Step]] = defaultdict(list)
        for event in events:
            job = self._open.get(event.job)
            if job is None:
                continue
            step = _worked_out(job, lambda job, event=event: advance(job, event))  # type: ignore[misc]
            if step.job is not job:
                self._open[job.id] = step.job
                before.setdefault(job.id, job)
                if event.kind != "started":
                    waited_for.add(job.id)
                steps[job.id].append(step)
            elif step.outs:
                self._hint(step)
        for job_id, several in steps.items():
            step = several[0] if len(several) == 1 else _merged(several)
            self._write(before[job_id], step, soon=job_id in waited_for)

    def _write(self, before: Job, step: Step, soon: bool = True) -> None:
        """Make a step the job's state, and write it; nothing to do where nothing has changed.

        soon: somebody waits for its effects; nobody does to learn that a task has started.
        """
        if step.job is before:
            return
        self._open[before.id] = step.job
        try:
            statements: list[Statement] = rows.advanced(step, before.version, time.time())
        except Exception:
            with about(before.id, before.request.params):
                log.exception("step_not_writable")
            step = finish(before, State.FAILED, as_failure(_broken()))
            self._open[before.id] = step.job
            statements = rows.advanced(step, before.version, time.time())
        self._backlog.add(step)
        self._ledger.write(statements, partial(self._written, step), soon=soon)

    def _written(self, step: Step, error: Exception | None) -> None:
        self._backlog.remove(step)
        if error is None:
            self._act(step)
        else:
            log.error("step_not_written", job=step.job.id, version=step.job.version, exc_info=error)
            self._later(self._end_from_ledger(step.job))

    async def _end_from_ledger(self, job: Job) -> None:
        """A job whose last step could not be written ends where the ledger has it; nothing of the step was told."""
        row = await self._ledger.read(lambda db: rows.job_row(db, job.id))
        if row is None or job.id not in self._open:
            return
        kept = dataclasses.replace(job, state=State(row.state), version=row.version, seq=row.seq)
        if kept.state.ended:
            self._leave(kept)
        else:
            self._write(kept, finish(kept, State.FAILED, as_failure(_broken())))

    def _act(self, step: Step) -> None:
        """The effects of a step that has reached the disk."""
        job = step.job
        for task in step.tasks:
            if task.attempt == 1:
                self._transport.submit(task)
            else:
                self._later(self._submit_again(task))
        if job.id in self._open:
            self._told[job.id] = job.seq
        self._tell(job, tuple(out for out in step.outs if out.seq is not None))
        if job.state.ended and job.id in self._open:
            self._leave(job)
            if any(not run.settled for run in job.runs.values()):
                self._transport.cancel(job.id)
            self.counts.finished[job.request.type, job.state.value] += 1
            seconds = time.time() - job.created_at
            self.counts.seconds[job.request.type] += seconds
            _log_end(step, seconds)

    async def _submit_again(self, task: Task) -> None:
        """A later attempt gets what the earlier ones finished."""
        if self.draining:
            return  # the ledger has it, for the next start
        place = (task.job, task.stage, task.item)
        try:
            finished = await self._ledger.read(lambda db: rows.finished_partials(db, *place))
        except sqlite3.Error as exc:
            log.exception("partials_not_read", job=task.job)
            self._take([Event.of(task, "failed", as_failure(exc))])
            return
        current = self._open.get(task.job)
        if current is not None and not current.state.ended:
            self._transport.submit(dataclasses.replace(task, finished=tuple(finished)))

    def _hint(self, step: Step) -> None:
        fraction = step.outs[0].body.get("fraction")
        if fraction is not None and len(step.job.runs) == 1:
            self._fractions[step.job.id] = fraction
        self._tell(step.job, step.outs)

    def _tell(self, job: Job, outs: tuple[Out, ...]) -> None:
        if outs:
            self.listeners.tell(job.request.client, job.id, outs)

    def _later(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._retries.add(task)
        task.add_done_callback(self._retries.discard)
        task.add_done_callback(_report)

    # Open jobs.

    def _enter(self, job: Job, told: int = 0) -> None:
        self._open[job.id] = job
        self._told[job.id] = told
        self._deadlines.add(job.deadline, job.id)
        if job.plan.live:
            self.recordings.enter(job)

    def _leave(self, job: Job) -> None:
        self._open.pop(job.id, None)
        self._told.pop(job.id, None)
        self._fractions.pop(job.id, None)
        self.recordings.leave(job.id)
        self._places.give_back(job.request.client)

    def _late(self, job_id: str) -> None:
        job = self._open[job_id]
        hours = (job.deadline - job.created_at) / 3600
        late = DeadlineExceeded(f"The job was not done within {hours:g} hours (JOB_DEADLINE_HOURS).")
        self._write(job, finish(job, State.FAILED, as_failure(late)))


def _log_end(step: Step, seconds: float) -> None:
    """The last line of a job's life, whose first is `accepted`."""
    job = step.job
    code = next((out.body.get("error_code") for out in step.outs if out.kind == "final"), None)
    failure = {"code": code} if job.state is State.FAILED else {}
    log.info(_ENDS[job.state], job=job.id, type=job.request.type, seconds=round(seconds, 3), **failure)


_ENDS = {State.COMPLETED: "done", State.FAILED: "failed", State.CANCELLED: "cancelled"}


def _worked_out(job: Job, decide: Callable[[Job], Step]) -> Step:
    """A job's next step. One that cannot be worked out ends this job, and must not end the road of all the others."""
    try:
        return decide(job)
    except Exception:
        with about(job.id, job.request.params):
            log.exception("step_not_worked_out")
        return finish(job, State.FAILED, as_failure(_broken()))


def _broken() -> Internal:
    return Internal("The server could not go on with this job; its log has the reason.")


def _merged(steps: list[Step]) -> Step:
    """Several steps of one job as one change: later runs stand for earlier ones, all outs stay, in order."""
    changed = {key: None for step in steps for key in step.changed}
    job = steps[-1].job
    tasks = tuple(
        task
        for step in steps
        for task in step.tasks
        if not job.state.ended and job.runs[task.stage, task.item].attempt == task.attempt
    )
    outs = tuple(out for step in steps for out in step.outs)
    return Step(job, tasks, outs, tuple(changed), tuple(made for step in steps for made in step.made))


def _report(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("road_broken", exc_info=task.exception())
