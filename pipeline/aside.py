"""The end of a job that cannot go on after a start, so that it keeps no other from going on."""

from __future__ import annotations

import structlog

from contract import clock
from contract.errors import Internal, as_failure
from pipeline.stored import failed
from storage.ledger import Conflict, Ledger
from storage.records import JobRecord

log = structlog.get_logger()


async def set_aside(record: JobRecord, ledger: Ledger, planned: bool) -> None:
    """Answer a job as failed. planned: its plan is there, so it is its rows that are damaged."""
    lost = "whole of this job" if planned else "pipeline that this job began with"
    gone = as_failure(Internal(f"This server no longer has the {lost}; send it again."))
    log.error("job_set_aside", job=record.id, reason=gone["message"])
    try:
        await ledger.advanced(failed(record, {"status": "error", **gone}, clock.now()), record.version)
    except Conflict:
        """Somebody else goes on with it."""
    except Exception:  # what says where it stands is damaged too: it stays as it is
        log.exception("job_not_ended", job=record.id)
