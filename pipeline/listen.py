"""The `listen` plan: speech is written down while the client sends it. Its recording comes by the event `audio`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, create_model

from contract.declaration import Declaration
from contract.params import Params
from pipeline.plans import Plan, Stage

_AS_WHISP = ("language", "task", "initial_prompt", "hotwords", "word_timestamps")
"""Parameters that mean what they mean for a file."""


class ListenParams(Params):
    format: Literal["pcm_s16le", "pcm_f32le", "webm", "ogg", "mp4"] = Field(
        "pcm_s16le",
        description="little-endian mono samples of 16 bits or as floats, or what a browser's `MediaRecorder` gives",
    )
    sample_rate: int = Field(16_000, ge=8_000, le=48_000, description="of `pcm_s16le` and `pcm_f32le`, in Hz")


class RecordingEnd(Params):
    """What the signal `recording` says: nothing more will come. bytes: how many there are."""

    bytes: int = Field(ge=0)


def following(worker: str) -> tuple[Stage, Stage]:
    """The stages of a worker that follows a recording, and of the end that it waits for."""
    end = Stage("recording", wait=RecordingEnd)
    return end, Stage(worker, worker, "$request", live=end.name)


def listen(found: Mapping[str, type[Declaration]], limit: int) -> Plan:
    """The plan over the workers that this server has."""
    theirs = found["whisper"].Params.model_fields
    fields = {name: (theirs[name].annotation, theirs[name]) for name in _AS_WHISP}
    return Plan(
        name="listen",
        params=create_model("Listen", __base__=ListenParams, **fields),  # type: ignore[call-overload]
        stages=following("whisper"),
        answer={"transcribe_audio": "$whisper"},
    )
