"""What metrics and logs say of jobs."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict

import structlog

from pipeline.job import State, Step

log = structlog.get_logger()

_ENDS = {State.COMPLETED: "done", State.FAILED: "failed", State.CANCELLED: "cancelled"}


@dataclasses.dataclass(slots=True)
class Counts:
    """For metrics: finished jobs by (type, state), their seconds by type, and refused submissions."""

    finished: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)
    seconds: defaultdict[str, float] = dataclasses.field(default_factory=lambda: defaultdict(float))
    accepted: Counter[str] = dataclasses.field(default_factory=Counter)
    refused: int = 0

    def ended(self, step: Step, seconds: float) -> None:
        """A job's last step; its log line is the last of its life, whose first is `accepted`."""
        job = step.job
        self.finished[job.request.type, job.state.value] += 1
        self.seconds[job.request.type] += seconds
        code = next((out.body.get("error_code") for out in step.outs if out.kind == "final"), None)
        failure = {"code": code} if job.state is State.FAILED else {}
        log.info(_ENDS[job.state], job=job.id, type=job.request.type, seconds=round(seconds, 3), **failure)
