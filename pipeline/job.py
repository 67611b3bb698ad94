"""A job's whole life as a pure function: no I/O, no clock, no waiting, so that any history can be replayed in a test.

    begin(job) ─▶ Step(job, tasks to submit, what the client is told)
    advance(job, event) ─▶ Step     signal(job, …) ─▶ Step     opened(job, blob, value) ─▶ Step
    restart(job) ─▶ Step            loaded(job) ─▶ Step        finish(job, state, failure) ─▶ Step

Rules:
- A run is one stage for one item. It is `queued` once its references are there, and ends `done`, `failed` or `skipped`;
  one that waits for a signal is `waiting` before it is `done`.
- Only events of a run's current attempt count; a late event of an older attempt, of an ended run or of an ended job
  changes nothing: `advance` then returns the very same job (the fence).
- A lost attempt is tried again, alone and from its checkpoint, until its error's `tries` are used up. An attempt that
  was not to blame (`counted` false) is tried again freely. What failed elsewhere and may pass is tried again after a
  while, beside others, as its stage's `retry` says.
- A job whose runs all wait for signals is `waiting`.
- `seq` counts 1, 2, 3 … over what a client must not miss: partials, audio and the one final answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from rpds import HashTrieMap

from contract.errors import ERRORS, Internal, ServiceError, WorkerDied
from contract.messages import Event
from pipeline.change import Change, shown
from pipeline.plans import Retry
from pipeline.references import Key, Run
from pipeline.steps import EMPTY, Book, Job, Out, State, Step

__all__ = [
    "Job",
    "Out",
    "State",
    "Step",
    "advance",
    "begin",
    "finish",
    "loaded",
    "opened",
    "restart",
    "signal",
    "waiting_key",
    "waiting_name",
]


def begin(job: Job) -> Step:
    """The first step: the tasks that depend on nothing but the request."""
    return Change(job).start()


def advance(job: Job, event: Event) -> Step:
    """What an event of a worker changes; the same job, and nothing else, when it comes too late to count."""
    run = job.runs.get((event.stage, event.item))
    if job.state.ended or run is None or run.settled or event.attempt != run.attempt:
        return Step(job)
    return _started(job) if event.kind == "started" else _RULES[event.kind](Change(job), event, run)


def _started(job: Job) -> Step:
    """A task is at work. The ledger learns of the first one alone."""
    if job.state is State.PROCESSING:
        return Step(job)
    return Step(dataclasses.replace(job, state=State.PROCESSING, version=job.version + 1))


def signal(job: Job, name: str, data: Any) -> Step:
    """What was waited for is there; the same job where nothing waits for it. name: see `waiting_name`."""
    key = waiting_key(name)
    run = job.run(key)
    if job.state.ended or run is None or run.state != "waiting":
        return Step(job)
    return Change(job).come(key, dataclasses.replace(run, state="done", result=data))


def waiting_name(key: Key) -> str:
    """By which name a run is signalled: its stage's, and the indices of its item behind dots."""
    return ".".join([key[0], *map(str, key[1])])


def waiting_key(name: str) -> Key:
    """The run that such a name means; of no job where it is none."""
    stage, *item = name.split(".")
    return (stage, tuple(map(int, item))) if all(map(str.isdecimal, item)) else ("", ())


def opened(job: Job, blob: str, value: Any) -> Step:
    """The value of a blob that a step asked for in `reads`; an exception where it cannot be had."""
    return Step(job) if job.state.ended else Change(job).read(blob, value)


def restart(job: Job) -> Step:
    """After a restart of the server: every run that was under way is queued again, as a new attempt, not counted."""
    due = {key: run.attempt for key, run in job.runs.items() if run.state == "queued"}
    return loaded(job, HashTrieMap(due))


def loaded(job: Job, due: HashTrieMap[Key, int] = EMPTY) -> Step:
    """A job as the ledger has it, while its tasks are under way: handed out and told is what was not begun yet.

    due: attempts that are not under way either, of before the server started.
    """
    book = Book(kept=HashTrieMap(job.runs), due=due, resuming=True)
    return Change(dataclasses.replace(job, runs=EMPTY, book=book)).start()


def finish(job: Job, state: State, failure: dict[str, Any] | None = None) -> Step:
    """End a job from outside: cancelled, or failed by its deadline. Nothing happens to one that has ended."""
    return Step(job) if job.state.ended else Change(job).end(state, failure or {})


# What each other kind of event does. Every kind has a row.


def _on_progress(change: Change, event: Event, run: Run) -> Step:
    change.hint(event)
    return dataclasses.replace(change.step(), job=change.job)  # a hint is not a change: nothing to write


def _on_partial(change: Change, event: Event, run: Run) -> Step:
    place = {"stage": event.stage, "item": shown(event.item), "index": event.index}
    change.tell("partial", (event.stage, event.item), {**place, "data": event.data}, event.index)
    return change.step()


def _on_audio(change: Change, event: Event, run: Run) -> Step:
    place = {"stage": event.stage, "item": shown(event.item), "index": event.index}
    change.tell("audio", (event.stage, event.item), {**place, **event.data}, event.index)
    return change.step()


def _on_checkpoint(change: Change, event: Event, run: Run) -> Step:
    change.set((event.stage, event.item), dataclasses.replace(run, checkpoint=event.data))
    return change.step()


def _on_made(change: Change, event: Event, run: Run) -> Step:
    change.made = (event.data,)
    return change.step()


def _on_done(change: Change, event: Event, run: Run) -> Step:
    return _ended(change, event, Run("done", run.attempt, run.deaths, run.retries, result=event.data))


def _on_failed(change: Change, event: Event, run: Run) -> Step:
    key = (event.stage, event.item)
    error: type[ServiceError] = ERRORS.get(event.data["error_code"], Internal)
    pause = _pause(change.plan.by_name[event.stage].retry, event.data, run)
    if pause is not None:
        change.requeue(key, run, after=pause)
        return change.settle()
    if run.deaths + 1 < error.tries:
        change.requeue(key, run, counted=True)
        return change.settle()
    return _ended(change, event, dataclasses.replace(run, state="failed", result=event.data, checkpoint=None))


def _pause(retry: Retry | None, failure: dict[str, Any], run: Run) -> float | None:
    """Seconds until a failure is tried again; None where it is not."""
    details = failure.get("details", {})
    if retry is None or failure["error_code"] not in retry.codes or run.retries + 1 >= retry.tries:
        return None
    if not details.get("retry") and "retry_after" not in details:
        return None
    pause = float(details.get("retry_after", retry.seconds * 2**run.retries))
    return pause if pause <= retry.longest else None


def _on_lost(change: Change, event: Event, run: Run) -> Step:
    if not event.data["counted"]:
        change.requeue((event.stage, event.item), run)
        return change.settle()
    died = WorkerDied(
        "The process that worked on this request died each time it was tried; the input may be what kills it.",
        reason=event.data["reason"],
    )
    return _on_failed(change, dataclasses.replace(event, data=died.answer()), run)


def _ended(change: Change, event: Event, run: Run) -> Step:
    change.end_run((event.stage, event.item), run)
    return change.settle()


_RULES: dict[str, Callable[[Change, Event, Run], Step]] = {
    "progress": _on_progress,
    "partial": _on_partial,
    "audio": _on_audio,
    "checkpoint": _on_checkpoint,
    "made": _on_made,
    "done": _on_done,
    "failed": _on_failed,
    "lost": _on_lost,
}
