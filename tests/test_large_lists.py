"""Results of hours: a list that no event can carry is fanned out over, and gathered with what failed on the way."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from contract.errors import NoAudio
from contract.messages import MAX_EVENT_BYTES
from contract.params import Params
from pipeline.plans import Plan, Stage
from tests.roads import ME, Road
from workers.base import Context, Run, Worker

SEGMENTS = 400
PADDING = "p" * 400
"""So that all segments together are above what an event carries."""


class HearParams(Params):
    whole: bool


class Hear(Worker):
    """Gives a list; `whole`: among so many other fields that no field alone is large."""

    name = message_type = "hear_hours"
    Params = HearParams
    example: ClassVar[dict[str, Any]] = {"whole": False}

    def run(self, params: HearParams, ctx: Context) -> Run:
        yield None
        segments = [{"number": number, "text": PADDING} for number in range(SEGMENTS)]
        fields = {f"field_{number}": PADDING for number in range(SEGMENTS)} if params.whole else {}
        return {"segments": segments, "title": "Hours", **fields}

    def forward(self, units: list[Any]) -> list[Any]:
        return units


class SayParams(Params):
    number: int


class Say(Worker):
    name = message_type = "say_number"
    Params = SayParams
    batch = 64
    example: ClassVar[dict[str, Any]] = {"number": 0}

    def run(self, params: SayParams, ctx: Context) -> Run:
        yield None
        if params.number == 7:
            raise NoAudio("Nobody can say this number.")
        return {"file": f"{params.number}.wav"}

    def forward(self, units: list[Any]) -> list[Any]:
        return units


class JoinParams(Params):
    pieces: list[Any]
    title: str


class Join(Worker):
    name = message_type = "join_pieces"
    Params = JoinParams
    example: ClassVar[dict[str, Any]] = {"pieces": [], "title": ""}

    def run(self, params: JoinParams, ctx: Context) -> Run:
        yield None
        return {"title": params.title, "pieces": params.pieces}

    def forward(self, units: list[Any]) -> list[Any]:
        return units


class Asked(BaseModel):
    whole: bool


PLAN = Plan(
    "hours",
    Asked,
    (
        Stage("hear", "hear_hours", {"whole": "$request.whole"}),
        Stage("say", "say_number", {"number": "$item.number"}, over="$hear.segments", on_error="keep"),
        Stage("join", "join_pieces", {"pieces": "$say*.file", "title": "$hear.title"}),
    ),
    {"joined": "$join"},
)


@pytest.mark.parametrize("whole", [False, True], ids=["a large field", "a result large as a whole"])
async def test_a_list_of_hours_is_fanned_out_over_and_a_failure_stays_in_its_place(tmp_path: Path, whole: bool) -> None:
    assert SEGMENTS * len(PADDING) > MAX_EVENT_BYTES
    road = await Road(tmp_path, [Hear, Say, Join], PLAN).start()
    final = await road.final(await road.queue.submit({"type": "hours", "whole": whole}, ME))
    assert final["status"] == "success", final
    pieces = final["joined"]["pieces"]
    assert final["joined"]["title"] == "Hours"
    assert [piece for piece in pieces if isinstance(piece, str)] == [f"{n}.wav" for n in range(SEGMENTS) if n != 7]
    assert (pieces[7]["status"], pieces[7]["error_code"]) == ("error", "NO_AUDIO")
    await road.close()


async def test_after_a_restart_the_list_is_read_again_and_no_piece_is_made_twice(tmp_path: Path) -> None:
    road = await Road(tmp_path, [Hear, Say, Join], PLAN).start()
    road.transport.hold(["join_pieces"])
    job = await road.queue.submit({"type": "hours", "whole": False}, ME)
    while (stored := await road.ledger.load(job)) is None or len(stored.runs) < SEGMENTS + 2:
        await asyncio.sleep(0)
    await road.close()
    road = await Road(tmp_path, [Hear, Say, Join], PLAN).start()
    final = await road.final(job)
    assert len(final["joined"]["pieces"]) == SEGMENTS
    stored = await road.ledger.load(job)
    assert stored is not None
    attempts = {run.stage: run.attempt for run in stored.runs}
    assert (attempts["hear"], attempts["say"]) == (1, 1)
    await road.close()
