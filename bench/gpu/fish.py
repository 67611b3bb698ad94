"""`fish` in the sizes of fish-speech 1.5: one listener, from the very first request on, and many at once.

A listener plays sound as `optivus say --play` does: it begins when LEAD_SECONDS of it are there and runs dry where the
next piece comes after all before it was heard. RTF is the time until the last sound for each second of sound.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import socketio

from bench.gpu.fish_model import MICRO, PUBLISHED, make_fish
from bench.gpu.parts import Setup
from bench.gpu.served import Served, serving
from bench.gpu.table import Goal, print_rows
from bench.gpu.turns import Figures, take, take_turns
from gateway.packets import Json

LEAD_SECONDS = 0.1
"""What players hold back (client/player.py)."""
FRAMES_A_SECOND = 21.5
TEXT = (
    "She read the letter twice, folded it along the old lines, and put it back where it had been for all these years."
)
FIRST, LAST, RTF = "ms to the first sound", "ms until all hear something", "RTF"
RATE, DRY = "x real time in all", "listeners that ran dry"


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """seconds: of sound for each listener."""

    name: str
    streams: int
    seconds: float


def measure(setup: Setup, plan: Plan) -> None:
    published = plan.name == "1.5"
    sizes, codec = (PUBLISHED, "firefly_layout.json") if published else (MICRO, "firefly.json")
    model = make_fish(setup.folder / f"fish-{plan.name}", sizes, codec)
    first, one, many = "server, first request", "server, 1 stream", f"server, {plan.streams} streams"
    with serving(setup.folder, "fish", model, setup.device, FISH_BATCH=str(plan.streams)) as served:
        begun = {first: [take(served.turn(first, lambda: alone(served, plan)), setup.gpu)]}
        turns = [
            served.turn(one, lambda: alone(served, plan)),
            served.turn(many, lambda: together(served, plan)),
        ]
        found = begun | take_turns(turns, setup.until, setup.gpu)
    goals = [Goal(who, FIRST, 80, most=True) for who in (first, one)] + [Goal(one, RTF, 0.10, most=True)]
    goals += [Goal(many, RATE, 100), Goal(many, DRY, 0, most=True, always=True)]
    print_rows(f"fish {plan.name}, {plan.seconds:g} s of sound each", found, goals)


def alone(served: Served, plan: Plan) -> Figures:
    [heard] = asyncio.run(_listened(served.url, 1, plan.seconds))
    return {FIRST: 1e3 * heard.pieces[0].at, RTF: heard.pieces[-1].at / heard.seconds, DRY: heard.dry}


def together(served: Served, plan: Plan) -> Figures:
    heard = asyncio.run(_listened(served.url, plan.streams, plan.seconds))
    last = max(one.pieces[-1].at for one in heard)
    worst = max(one.pieces[0].at for one in heard)
    return {RATE: sum(one.seconds for one in heard) / last, DRY: sum(one.dry for one in heard), LAST: 1e3 * worst}


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """Sound that arrived. at: seconds since it was asked for. seconds: how long it sounds."""

    at: float
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Heard:
    pieces: Sequence[Piece]

    @property
    def seconds(self) -> float:
        return sum(piece.seconds for piece in self.pieces)

    @property
    def dry(self) -> bool:
        return ran_dry(self.pieces)


def ran_dry(pieces: Sequence[Piece]) -> bool:
    """Whether a player that begins with LEAD_SECONDS of sound has nothing left to play before the last piece.

    >>> ran_dry([Piece(1.0, 0.2), Piece(1.1, 0.2)]), ran_dry([Piece(1.0, 0.2), Piece(1.3, 0.2)])
    (False, True)
    """
    held, began = 0.0, None
    for piece in pieces:
        if began is not None and piece.at > began + held:
            return True
        held += piece.seconds
        if began is None and held >= LEAD_SECONDS:
            began = piece.at
    return False


async def _listened(url: str, count: int, seconds: float) -> list[Heard]:
    """All ask at the same moment, each over a connection of its own."""
    links = [socketio.AsyncClient(json=Json, reconnection=False) for _ in range(count)]
    for link in links:
        await link.connect(url, transports=["websocket"])
    try:
        return await asyncio.gather(*(_heard(link, seed, seconds) for seed, link in enumerate(links)))
    finally:
        for link in links:
            await link.disconnect()


async def _heard(link: socketio.AsyncClient, seed: int, seconds: float) -> Heard:
    pieces: list[Piece] = []
    answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    began = time.perf_counter()

    async def on_audio(body: dict[str, Any]) -> None:
        pieces.append(Piece(time.perf_counter() - began, len(body["audio"]) / 2 / body["sample_rate"]))

    async def on_message(body: dict[str, Any]) -> None:
        answer.set_result(body)

    link.on("audio", on_audio)
    link.on("message", on_message)
    options = {"stream": True, "audio_format": "none", "seed": seed, "markup": "none"}
    frames = round(seconds * FRAMES_A_SECOND)
    await link.emit("message", {"type": "fish", "text": TEXT, "max_new_tokens": frames, **options})
    told = await answer
    assert told.get("cut"), f"not spoken to the last frame: {told}"
    return Heard(pieces)
