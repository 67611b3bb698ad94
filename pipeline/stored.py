"""A job as the ledger keeps it: steps as changes to write, records as jobs to go on with.

Step ─▶ changed() ─▶ Change          StoredJob, Plan ─▶ restored() ─▶ Job
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from rpds import HashTrieMap

from contract.folders import Folders
from contract.messages import Request
from pipeline.job import Job, Out, State, Step
from pipeline.plans import Plan
from pipeline.references import Key, Run
from storage import blobs
from storage.records import (
    BlobRecord,
    Change,
    EventRecord,
    FileRecord,
    JobRecord,
    RunRecord,
    StoredJob,
    new_file_id,
)


def changed(step: Step, now: float) -> Change:
    """What the ledger has to write of a step, the first or any other. now: seconds since 1970."""
    job = step.job
    runs: list[RunRecord] = []
    held: list[BlobRecord] = []
    for key in step.changed:
        run = job.run(key)
        if run is None:
            continue
        runs.append(_run_record(key, run))
        if run.state == "done" and isinstance(run.result, (dict, list)):
            held += [BlobRecord(*found) for found in blobs.held(run.result)]
    events = [event_of(out) for out in step.outs if out.seq is not None]
    return Change(_record(job, now), tuple(runs), tuple(events), _files(step, now), tuple(held))


def _files(step: Step, now: float) -> tuple[FileRecord, ...]:
    owner = step.job.request.owner
    return tuple(FileRecord(new_file_id(), owner, file["path"], file["name"], file["bytes"], now) for file in step.made)


def restored(stored: StoredJob, plan: Plan) -> Job:
    """The job to go on with."""
    record = stored.job
    request = Request(
        id=record.client_id,
        client=record.client,
        owner=record.owner,
        type=record.type,
        params=record.params,
        key=record.key,
        warnings=record.warnings,
        limited_as=record.limited_as,
    )
    return Job(
        id=record.id,
        request=request,
        plan=plan,
        created_at=record.created_at,
        deadline=record.deadline,
        state=State(record.state),
        version=record.version,
        seq=record.seq,
        priority=record.priority,
        runs=HashTrieMap(map(_keyed_run, stored.runs)),
        waiting_for=record.waiting_for,
        waiting_since=record.waiting_since,
    )


def event_of(out: Out) -> EventRecord:
    """What a client was told, to be kept."""
    assert out.seq is not None, "hints are not kept"
    return EventRecord(out.seq, out.kind, out.stage, out.item, out.index, out.text)


def out_of(event: EventRecord) -> Out:
    """What was kept, to be told."""
    kind: Any = event.kind
    return Out(kind, event.seq, orjson.loads(event.body), event.stage, event.item, event.idx)


def failed(record: JobRecord, body: Mapping[str, Any], now: float) -> Change:
    """The end of a job of which nobody has the plan, with the answer `body`."""
    seq = record.seq + 1
    final = {"job_id": record.id, "id": record.client_id, "seq": seq, "type": record.type, **body}
    ended = record._replace(state=State.FAILED, version=record.version + 1, seq=seq, finished_at=now)
    return Change(ended, events=(EventRecord(seq, "final", "", (), None, orjson.dumps(final)),))


def _record(job: Job, now: float) -> JobRecord:
    request = job.request
    return JobRecord(
        job.id,
        request.client,
        request.owner,
        request.limited_as,
        request.id,
        request.type,
        job.plan.name,
        job.plan.version,
        request.params,
        request.warnings,
        request.key,
        job.priority,
        job.created_at,
        job.deadline,
        job.waiting_for,
        job.waiting_since,
        now if job.state.ended else None,
        job.state,
        job.version,
        job.seq,
    )


def _run_record(key: Key, run: Run) -> RunRecord:
    stage, item = key
    return RunRecord(
        stage,
        item,
        state=run.state,
        attempt=run.attempt,
        deaths=run.deaths,
        retries=run.retries,
        checkpoint=run.checkpoint,
        result=run.result,
    )


def _keyed_run(record: RunRecord) -> tuple[Key, Run]:
    state: Any = record.state
    run = Run(state, record.attempt, record.deaths, record.retries, record.checkpoint, record.result)
    return (record.stage, record.item), run


def value_of(name: str, folders: Folders) -> Any:
    """A blob's JSON, or the exception that says why it cannot be had."""
    try:
        return blobs.read(name, folders)
    except (OSError, ValueError) as exc:
        return exc
