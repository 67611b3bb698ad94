"""Jobs that wait for somebody: over restarts, for whoever may say so, outside their deadline and without a place."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from contract.errors import InvalidInput, JobNotFound, QueueFull
from contract.identity import Identity
from contract.messages import FileRef
from contract.params import Params
from pipeline.job import State
from pipeline.plans import Plan, Stage
from storage.retention import Retention
from tests.roads import ME, YOU, Road
from tests.toys.looker import Looker


class Asked(Params):
    image: FileRef


class Approval(BaseModel):
    approved: bool
    image: FileRef | None = None


FIRST = Plan(
    "approved",
    Asked,
    (
        Stage("look", "looker", {"image": "$request.image"}),
        Stage("approval", wait=Approval, params="$look"),
        Stage("again", "looker", {"image": "$request.image"}, when="$approval.approved"),
    ),
    {"looked": "$look", "again": "$again"},
)
SECOND = dataclasses.replace(
    FIRST, stages=(FIRST.stages[0], Stage("sign_off", wait=Approval, params="$look"), *FIRST.stages[2:]), version=2
) if False else dataclasses.replace(FIRST, version=2, stages=FIRST.stages[:1], answer={"only": "$look"}, before=(FIRST,))
WITHOUT = dataclasses.replace(SECOND, before=())
PICTURE = b"a picture"
YES = {"approved": True}


async def road(folder: Path, plan: Plan = FIRST, **limits: Any) -> Road:
    return await Road(folder, [Looker], plan, **limits).start()


async def waiting(road: Road, job: str) -> dict[str, Any]:
    """The job's entry in its client's listing, once it waits."""
    while True:
        [entry] = [entry for entry in await road.queue.jobs(ME) if entry["job_id"] == job]
        if entry["state"] == State.WAITING:
            return entry
        await asyncio.sleep(0)
