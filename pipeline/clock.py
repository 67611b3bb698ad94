"""Time and jobs that wait: what they wait for may come in weeks, so waiting does not count against the deadline.

A job's deadline moves on by as long as it has waited for nothing but signals.
"""

from __future__ import annotations

import dataclasses

from pipeline.job import Job, State, Step, waiting_name


def clocked(step: Step, before: Job, now: float) -> Step:
    """A step whose job says what it waits for and since when, or whose deadline its wait has moved.

    now: seconds since 1970.
    """
    job = step.job
    if job.state is State.WAITING:
        since = before.waiting_since if before.waiting_since is not None else now
        job = dataclasses.replace(job, waiting_for=waiting_name(min(job.book.waits)), waiting_since=since)
    elif before.waiting_since is not None:
        deadline = before.deadline + now - before.waiting_since
        job = dataclasses.replace(job, waiting_for=None, waiting_since=None, deadline=deadline)
    else:
        return step
    return dataclasses.replace(step, job=job)
