"""A worker that has one minute of speech and gives it in the form that it is asked for."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from workers.base import Context, Params, Run, Worker

SECONDS = 60
SPEECH = Path(__file__).parents[2] / "examples/jfk.flac"
PIECE_SECONDS = 0.08

Form = Literal["list", "wav", "pcm", "mp3", "opus", "stream"]


def speech(rate: int) -> npt.NDArray[np.int16]:
    """int16, (SECONDS * rate,): a short speech, over and over."""
    from media.audio import decode
    from media.encode import as_int16

    once = np.concatenate([as_int16(block) for block in decode(SPEECH, rate)])
    return np.fromiter(cycle(once), np.int16, SECONDS * rate)


class MinuteParams(Params):
    audio_format: Form
    rate: int = 44_100


class Minute(Worker):
    name = "minute"
    message_type = "minute"
    answer = "$minute"
    Params = MinuteParams
    example = {"audio_format": "opus"}

    def load(self) -> dict[str, Any]:
        self._speech = {rate: speech(rate) for rate in (16_000, 44_100)}
        return {"device": "cpu"}

    def run(self, params: MinuteParams, ctx: Context) -> Run:
        from media.encode import encoded

        samples, rate = self._speech[params.rate], params.rate
        if params.audio_format == "stream":
            size = round(PIECE_SECONDS * rate)
            for index, start in enumerate(range(0, len(samples), size)):
                ctx.audio(index, start, samples[start : start + size], rate)
                yield None
            return {"sample_rate": rate}
        if params.audio_format == "list":
            return {"sample_rate": rate, "audio_data": samples / np.float32(1 << 15)}
        return {"sample_rate": rate, "audio_data": encoded(samples, rate, params.audio_format)}

    def forward(self, units: list[None]) -> list[None]:
        return units
