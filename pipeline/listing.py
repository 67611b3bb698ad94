"""A job as clients see it in listings."""

from __future__ import annotations

import contextlib
import math
from typing import Any

from contract.errors import InvalidInput
from pipeline.job import State
from storage.records import JobRecord, Place

PAGE_JOBS = 100
"""Jobs of a listing that does not say how many it wants."""
MAX_PAGE_JOBS = 1000


def page_size(limit: Any) -> int:
    """How many jobs a client asks for at once. Raises: InvalidInput."""
    if isinstance(limit, int) and not isinstance(limit, bool) and 1 <= limit <= MAX_PAGE_JOBS:
        return limit
    raise InvalidInput(f"'limit' must be a number of jobs from 1 to {MAX_PAGE_JOBS}.", field="limit")


def page(jobs: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """jobs: those of the page and, where there are more, the one behind it.

    `next` says when the last one came and not only which it is, since it may be forgotten before the next page.
    """
    more = {"next": f"{jobs[limit - 1]['created_at']!r} {jobs[limit - 1]['job_id']}"} if len(jobs) > limit else {}
    return {"jobs": jobs[:limit], **more}


def place(before: Any) -> Place | None:
    """Behind which a page begins: `next` of the one before. Raises: InvalidInput."""
    if before is None:
        return None
    created_at, _, job_id = before.partition(" ") if isinstance(before, str) else ("", "", "")
    with contextlib.suppress(ValueError):
        if math.isfinite(time := float(created_at)):
            return Place(time, job_id)
    raise InvalidInput("'before' must be what `next` of the page before says.", field="before")


def listed(record: JobRecord, fraction: float | None, position: int | None) -> dict[str, Any]:
    """position: among the jobs that have not begun, from 1. Times: seconds since 1970."""
    state = State(record.state)
    return {
        "job_id": record.id,
        "id": record.client_id,
        "type": record.type,
        "state": state,
        "created_at": record.created_at,
        "finished_at": record.finished_at,
        "fraction": 1.0 if state is State.COMPLETED else fraction,
        "queue_position": position,
        **(
            {"waiting_for": {"name": record.waiting_for, "since": record.waiting_since}}
            if state is State.WAITING
            else {}
        ),
    }
