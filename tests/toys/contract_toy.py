"""Workers without a model for the tests of the contract: one does what it is told at once, one waits at a gate."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from contract.messages import FileRef
from workers.base import Context, Params, Run, Worker


class EchoParams(Params):
    file: FileRef | None = None
    partials: int = Field(0, ge=0, le=10_000)
    partial_bytes: int = Field(1, ge=0, le=64_000)
    result_bytes: int = Field(2, ge=0, le=64_000_000)


class Echo(Worker):
    """Sends as many partials, and a result as large, as it is asked for."""

    name = "contract_echo"
    message_type = "contract_echo"
    answer: ClassVar[dict[str, Any]] = {"echo": "$contract_echo"}
    Params = EchoParams
    example: ClassVar[dict[str, Any]] = {"partials": 1}

    def run(self, params: EchoParams, ctx: Context) -> Run:
        size = ctx.local(params.file).stat().st_size if params.file else None
        for index in range(params.partials):
            ctx.partial(index, "p" * params.partial_bytes)
        yield None
        return {"bytes": size, "text": "r" * params.result_bytes}

    def forward(self, units: list[Any]) -> list[Any]:
        return units


class ToneParams(Params):
    pieces: int = Field(3, ge=0, le=1000)
    piece_samples: int = Field(2048, ge=1, le=22050)
    dies_after: int | None = None


class Tone(Worker):
    """Plays a sawtooth, and gives it as bytes at the end. Its process may be told to die in the first attempt."""

    name = "contract_tone"
    message_type = "contract_tone"
    answer: ClassVar[dict[str, Any] | str] = "$contract_tone"
    Params = ToneParams
    example: ClassVar[dict[str, Any]] = {"pieces": 2}

    def run(self, params: ToneParams, ctx: Context) -> Run:
        whole = np.arange(params.pieces * params.piece_samples, dtype=np.int16)
        for index in range(len(ctx.finished), params.pieces):
            if index == params.dies_after and not ctx.finished:
                os.kill(os.getpid(), signal.SIGKILL)
            start = ctx.finished[-1]["end"] if index == len(ctx.finished) > 0 else index * params.piece_samples
            ctx.audio(index, start, whole[start : start + params.piece_samples], 44100)
            yield None
        return {"audio_data": whole.tobytes(), "owner": ctx.owner, "resumed": len(ctx.finished)}

    def forward(self, units: list[Any]) -> list[Any]:
        return units


class HoldParams(Params):
    gate: str


class Hold(Worker):
    """Ends a job when its gate, a file, is no longer locked: it stays open for as long as a test likes."""

    name = "contract_hold"
    message_type = "contract_hold"
    answer: ClassVar[dict[str, Any]] = {"held": "$contract_hold"}
    Params = HoldParams
    example: ClassVar[dict[str, Any]] = {"gate": "/dev/zero"}
    open_tasks: ClassVar[int] = 1

    def run(self, params: HoldParams, ctx: Context) -> Run:
        ctx.partial(0, "held")
        yield params.gate
        return True

    def forward(self, units: list[Any]) -> list[Any]:
        for gate in units:
            with contextlib.suppress(FileNotFoundError), Path(gate).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
        return units
