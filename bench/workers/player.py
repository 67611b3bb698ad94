"""A worker that plays sound in real time and computes nothing: what is left is the road.

`pieces` is the whole of its work, so that a floor without a road can do the same.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from workers.base import AsyncWorker, Context, Params

RATE = 44_100
FIRST_SAMPLES = RATE * 40 // 1000
PIECE_SAMPLES = RATE * 80 // 1000


class PlayerParams(Params):
    seconds: float = Field(gt=0, le=600)
    align: float = Field(0, ge=0, description="begin when the monotonic clock is a multiple of this; 0: at once")
    pace: float = Field(1, gt=0, description="seconds of sound for each second of time")


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """due: when it is told, in seconds by the monotonic clock."""

    index: int
    start: int
    samples: npt.NDArray[np.int16]
    due: float


async def pieces(params: PlayerParams) -> AsyncIterator[Piece]:
    """Each piece of a sawtooth when the time of its first sample has come: 40 ms of sound at once, then 80 ms each."""
    began = time.monotonic()
    if params.align:
        began += params.align - began % params.align
    end = round(params.seconds * RATE)
    for index, start in enumerate([0, *range(FIRST_SAMPLES, end, PIECE_SAMPLES)]):
        stop = min(end, start + (PIECE_SAMPLES if index else FIRST_SAMPLES))
        piece = Piece(index, start, np.arange(start, stop).astype(np.int16), began + start / RATE / params.pace)
        if (left := piece.due - time.monotonic()) > 0:
            await asyncio.sleep(left)
        yield piece


class Player(AsyncWorker):
    name = "player"
    message_type = "player"
    answer = "$player"
    Params = PlayerParams
    example = {"seconds": 0.1}
    open_tasks = 64
    concurrency = 64

    async def run_async(self, params: PlayerParams, ctx: Context) -> Any:
        """When each piece was due."""
        due = []
        async for piece in pieces(params):
            ctx.audio(piece.index, piece.start, piece.samples, RATE)
            due.append(piece.due)
        return {"due": due}
