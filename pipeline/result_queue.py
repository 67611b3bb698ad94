"""The ResultQueue: takes every worker's events, lets `job` decide, writes the ledger, and only then acts.

    submit ─▶ begin() ──┐                                ┌─▶ transport.submit(next tasks)
                        ├─▶ Step ─▶ ledger (committed) ──┤
    events ─▶ advance() ┘                                └─▶ listeners (what the clients are told)

Everything that a client hears, but for progress hints, has reached the disk before. Where somebody else has changed a
job, it is loaded, and what happened to it is played again on that (`replay`).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
from collections import defaultdict
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import structlog

from contract import clock
from contract.errors import DeadlineExceeded, Draining, JobNotFound, ServiceError, as_failure
from contract.identity import Identity, Party, may_read, may_signal, whose
from contract.messages import Event, Task
from pipeline.admission import Deadlines, Limits, Places
from pipeline.aside import set_aside
from pipeline.backlog import Backlog
from pipeline.clock import clocked
from pipeline.counts import Counts
from pipeline.intake import Intake
from pipeline.job import Job, Out, State, Step, advance, begin, finish, opened, restart, signal, waiting_key
from pipeline.listeners import Listeners
from pipeline.listing import listed, page, place
from pipeline.plans import Plan
from pipeline.replay import Cause, Changes, Effects
from pipeline.stored import changed, out_of, restored, value_of
from pipeline.transport.base import Transport
from storage.ledger import PAGE_BYTES, Conflict, Ledger, ReadFailed
from storage.recordings import Recordings
from storage.records import EventRecord, JobRecord, StoredJob

log = structlog.get_logger()


class _NotAwaited(Exception):
    """No job waits for this signal, or no longer."""


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
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.listeners = Listeners()
        self._deadlines = Deadlines(self._open, self._late)
        self.recordings = Recordings(intake.folders, transport.more, self._on_recorded, limits.file_bytes, intake.space)
        self._taker: asyncio.Task[None] | None = None
        self._retries: set[asyncio.Task[None]] = set()
        effects = Effects(self._act, self._hint, self._told_elsewhere, self._ended_elsewhere, self._read)
        self._changes = Changes(ledger, self._open, self._told, Backlog(transport.hold), effects)

    # Life.

    async def start(self) -> None:
        """Go on with every unfinished job, then take events."""
        aside = [stored.job for stored in await self._ledger.unfinished() if not self._goes_on(stored)]
        await asyncio.gather(*map(self._set_aside, aside))
        if self._open:
            log.info("jobs_resumed", jobs=len(self._open))
        self._taker = asyncio.create_task(self._take_events())
        self._taker.add_done_callback(_report)

    def _goes_on(self, stored: StoredJob) -> bool:
        """Take a job up that the ledger has; who waits is taken up when the signal comes. False where that cannot be.

        One such job must not keep the others, nor the server, from going on.
        """
        if not stored.readable or self._plan_of(stored.job) is None:
            return False
        if stored.job.waiting_for is not None:
            return True
        try:
            self._take_up(stored)
        except Exception:
            log.exception("job_not_taken_up", job=stored.job.id)
            if stored.job.id in self._open:
                self._leave(self._open[stored.job.id])
            return False
        return True

    async def _set_aside(self, record: JobRecord) -> None:
        await set_aside(record, self._ledger, planned=self._plan_of(record) is not None)

    async def drain(self, seconds: float) -> None:
        """Refuse new work and wait for what runs. What does not end in time stays in the ledger for the next start."""
        self.draining = True
        await self._transport.drain(seconds)
        self._take(self._transport.left())
        with contextlib.suppress(ServiceError):
            await self._ledger.settled()  # what was written before has now been told

    async def close(self) -> None:
        """Stop the workers and hand to the ledger what they still said."""
        await self._transport.close()
        self._deadlines.close()
        if self._taker is not None:
            self._taker.remove_done_callback(_report)
            self._taker.cancel()
            await asyncio.gather(self._taker, return_exceptions=True)
        self._take(self._transport.left())
        for retry in self._retries:  # the ledger has what they would have handed out
            retry.cancel()
        await asyncio.gather(*self._retries, return_exceptions=True)
        await self._changes.close()

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
            known = await self._ledger.job_by_key(who.client, key)
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
            known = await self._ledger.job_by_key(*key)
            assert known is not None, "a duplicate key belongs to a job"
            return known

    async def _accept(self, message: Any, who: Identity) -> str:
        job_id = f"job_{secrets.token_hex(12)}"
        self._places.take(job_id, who)  # counted before anything is awaited, so that a burst cannot pass the limit
        try:
            async with self._intake.read(message, who) as (request, plan, files):
                now = clock.now()
                job = Job(job_id, request, plan, now, now + self._limits.deadline_seconds)
                step = clocked(begin(job), job, now)
                change = changed(step, now)
                await self._ledger.accept(change._replace(files=change.files + files))
        except BaseException:
            self._places.give_back(job_id)
            raise
        self._enter(step.job)
        self.counts.accepted[request.type] += 1
        log.info("accepted", job=job.id, type=request.type)
        asyncio.get_running_loop().call_soon(self._act, step)  # after the door has said "accepted"
        return job.id

    async def cancel(self, job_id: Any, who: Party) -> bool:
        """End a job as cancelled; False when it had ended. Raises: JobNotFound."""
        record = await self.job(job_id, who)
        job = self._open.get(record.id)
        if record.finished_at is not None or (job is not None and job.state.ended):
            return False
        return await self._play(record.id, partial(finish, state=State.CANCELLED))

    async def signal(self, job_id: Any, name: str, data: Any, who: Identity) -> bool:
        """What a job waits for has come; False where it does not wait for that, or no longer.

        name: as `waiting_for` of a listing has it. Once this returns the signal has reached the disk.
        Raises: JobNotFound, the same for another owner's job as for one that never was; InvalidInput, and what files
        in `data` give.
        """
        record = await self._ledger.job(job_id) if isinstance(job_id, str) else None
        if record is None or not may_signal(record, who):
            raise JobNotFound("You have no job of this id, or it is older than the server keeps them.", field="job_id")
        plan = self._plan_of(record)
        stage = plan.by_name.get(waiting_key(name)[0]) if plan is not None else None
        if stage is None or stage.wait is None or record.finished_at is not None:
            return False
        with contextlib.suppress(_NotAwaited):
            async with self._intake.signalled(stage.wait, data, who) as said:
                await self._heard(record.id, name, said)
            return True
        return False

    async def _heard(self, job_id: str, name: str, said: dict[str, Any]) -> None:
        """Raises: _NotAwaited."""
        awaited = False

        def cause(job: Job) -> Step:
            nonlocal awaited
            step = signal(job, name, said)
            awaited = step.job is not job
            return step

        await self._play(job_id, cause)
        await self._changes.settled(job_id)
        if not awaited:
            raise _NotAwaited

    async def _play(self, job_id: str, cause: Cause) -> bool:
        """Change a job that is open, or that waits in the ledger; False where it is neither."""
        async with self._turns.setdefault(job_id, asyncio.Lock()):  # what was read is old once another has taken it up
            if job_id in self._open:
                self._changes.play(job_id, [cause])
                return True
            stored = await self._ledger.load(job_id)
            if stored is None or stored.job.waiting_for is None or self._plan_of(stored.job) is None:
                return False
            self._take_up(stored, cause)
            return True

    async def job(self, job_id: Any, who: Party) -> JobRecord:
        """A job that `who` may read. Raises: JobNotFound, the same for another's as for one that never was."""
        record = await self._ledger.job(job_id) if isinstance(job_id, str) else None
        if record is None or not may_read(record, who):
            raise JobNotFound("You have no job of this id, or it is older than the server keeps them.", field="job_id")
        return record

    async def last_seqs(self, job_ids: Collection[str], who: Party) -> dict[str, int]:
        """The last `seq` of those of these jobs that `who` may read."""
        return await self._ledger.seqs(whose(who), job_ids)

    async def told(self, job_id: str, seq: int, enough: int = PAGE_BYTES) -> list[EventRecord]:
        """A page of what the job's client was told after `seq`, of at least `enough` bytes; empty when that is all.

        Nothing that the listeners have yet to hear is in it, so that who reads and listens hears each event once. The
        caller has made sure that it asks for its own job.
        """
        page = await self._ledger.told(job_id, seq, enough)
        last = self._told.get(job_id)
        return page if last is None else [event for event in page if event.seq <= last]

    async def final(self, job_id: str) -> bytes | None:
        """The body of a job's final answer, None before its end. The caller has made sure that it asks for its own."""
        return await self._ledger.answer(job_id)

    def is_open(self, job_id: str) -> bool:
        """Whether the listeners have yet to hear the job's final answer."""
        return job_id in self._open

    async def jobs(self, who: Party, limit: int, before: str | None = None) -> dict[str, Any]:
        """A page of the jobs that `who` may read, within retention, newest first.

        before: `next` of the page before. Raises: InvalidInput.
        """
        records = await self._ledger.jobs(whose(who), limit + 1, place(before))
        return page([self.describe(record) for record in records], limit)

    def describe(self, record: JobRecord) -> dict[str, Any]:
        """A job as clients see it in listings. Times: seconds since 1970."""
        job = self._open.get(record.id)
        if job is not None:  # it may be ahead of the ledger
            record = record._replace(state=job.state, waiting_for=job.waiting_for, waiting_since=job.waiting_since)
        position = self._position(record.id) if record.state == State.PENDING else None
        return listed(record, self._fractions.get(record.id), position)

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
        causes: defaultdict[str, list[Cause]] = defaultdict(list)
        waited_for: set[str] = set()
        for event in events:
            if event.job in self._open:
                causes[event.job].append(partial(advance, event=event))
                if event.kind not in ("started", "progress"):
                    waited_for.add(event.job)
        for job_id, several in causes.items():
            self._changes.play(job_id, several, soon=job_id in waited_for)

    def _act(self, step: Step) -> None:
        """The effects of a step that has reached the disk."""
        job = step.job
        for task in step.tasks:
            if task.attempt == 1:
                self._transport.submit(task)
            else:
                self._later(self._submit_again(task))
        if step.whole and job.id in self._open:
            self.recordings.finish(job.id)
            self._transport.more(job.id, ended=True)
        for blob in step.reads:
            self._later(self._open_blob(job.id, blob))
        if job.id in self._open:
            self._told[job.id] = job.seq
        self._tell(job, tuple(out for out in step.outs if out.seq is not None))
        if job.state.ended and job.id in self._open:
            self._leave(job)
            if job.book.active:
                self._transport.cancel(job.id)
            self.counts.ended(step, clock.now() - job.created_at)
        elif job.state is State.WAITING and self._open.get(job.id) is job:
            self._leave(job)
            log.info("waiting", job=job.id, type=job.request.type, signal=job.waiting_for)

    async def _submit_again(self, task: Task) -> None:
        """A later attempt gets what the earlier ones finished."""
        if self.draining:
            return  # the ledger has it, for the next start
        await asyncio.sleep(task.after)
        place = (task.job, task.stage, task.item)
        try:
            finished = await self._ledger.finished(*place)
        except ReadFailed as exc:
            log.exception("partials_not_read", job=task.job)
            self._take([Event.of(task, "failed", as_failure(exc))])
            return
        current = self._open.get(task.job)
        if current is not None and not current.state.ended:
            self._transport.submit(dataclasses.replace(task, finished=tuple(finished)))

    def _on_recorded(self, job_id: str, size: int) -> None:
        """A recording is whole."""
        live = self._open[job_id].plan.live
        assert live is not None and live.live is not None, "only live jobs have one"
        self._changes.play(job_id, [partial(signal, name=live.live, data={"bytes": size})])

    async def _open_blob(self, job_id: str, name: str) -> None:
        """Give a job the value of a blob that its plan looks into."""
        value = await self._read(name)
        if job_id in self._open:
            self._changes.play(job_id, [partial(opened, blob=name, value=value)])

    async def _read(self, blob: str) -> Any:
        return await asyncio.to_thread(value_of, blob, self._intake.folders)

    def _told_elsewhere(self, job: Job, events: list[EventRecord]) -> None:
        """What another server has told, for those who listen here."""
        self._told[job.id] = events[-1].seq
        self._tell(job, tuple(map(out_of, events)))

    def _ended_elsewhere(self, job: Job) -> None:
        self._leave(job)
        self._transport.cancel(job.id)

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

    def _plan_of(self, record: JobRecord) -> Plan | None:
        """The plan that a job began with."""
        plan = self._plans.get(record.plan)
        return plan.of_version(record.plan_version) if plan is not None else None

    def _take_up(self, stored: StoredJob, *causes: Cause) -> None:
        """Go on with a job that the ledger has; its plan is there."""
        plan = self._plan_of(stored.job)
        assert plan is not None, "whoever calls this has looked"
        job = restored(stored, plan)
        self._places.hold(job.id, job.request.limited_as)
        self._enter(job, told=job.seq)
        self._changes.loaded(job)
        self._changes.play(job.id, [restart, *causes])

    def _enter(self, job: Job, told: int = 0) -> None:
        self._open[job.id] = job
        self._told[job.id] = told
        self._deadlines.add(job.deadline, job.id)
        if job.plan.live:
            self.recordings.enter(job.id, job.request, ended=_recorded(job))

    def _leave(self, job: Job) -> None:
        self._open.pop(job.id, None)
        self._told.pop(job.id, None)
        self._fractions.pop(job.id, None)
        self.recordings.leave(job.id)
        self._places.give_back(job.id)

    def _late(self, job_id: str) -> None:
        job = self._open[job_id]
        now = clock.now()
        if job.state is State.WAITING or job.deadline > now:  # it is about to leave, or has waited meanwhile
            self._deadlines.add(max(job.deadline, now + 1), job_id)
            return
        hours = (job.deadline - job.created_at) / 3600
        late = DeadlineExceeded(f"The job was not done within {round(hours, 4):g} hours (JOB_DEADLINE_HOURS).")
        self._changes.play(job_id, [partial(finish, state=State.FAILED, failure=as_failure(late))])


def _recorded(job: Job) -> bool:
    """Whether a live job's recording is whole."""
    assert job.plan.live is not None and job.plan.live.live is not None
    run = job.runs.get((job.plan.live.live, ()))
    return run is not None and run.settled


def _report(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("road_broken", exc_info=task.exception())
