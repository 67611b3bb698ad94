"""Time and jobs that wait: what they wait for may come in weeks, so waiting counts neither as time nor as a place.

A job's deadline moves on by as long as it has waited.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from pipeline.job import Job, State, Step, waiting_name


def clocked(step: Step, before: Job, now: float) -> Step:
    """A step with the time that its job began to wait, or with the deadline that the wait has moved.

    now: seconds since 1970.
    """
    job = step.job
    waits = job.state is State.WAITING
    if waits and before.waiting_since is None:
        job = dataclasses.replace(job, waiting_since=now)
    elif not waits and before.waiting_since is not None:
        job = dataclasses.replace(job, waiting_since=None, deadline=before.deadline + now - before.waiting_since)
    return step if job is step.job else dataclasses.replace(step, job=job)


def waiting_for(job: Job) -> dict[str, Any] | None:
    """What a listing says of a job that waits: the signal that is next, and since when, in seconds since 1970."""
    if job.state is not State.WAITING:
        return None
    return {"name": waiting_name(min(job.book.waits)), "since": job.waiting_since}
