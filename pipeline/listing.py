"""A job as clients see it in listings."""

from __future__ import annotations

from typing import Any

from pipeline.job import State
from storage.records import JobRecord


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
