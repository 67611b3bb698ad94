"""A voice that makes no sense but needs no model: the sound is played, voices, events and files are real.

Each word of the text is a piece of a sawtooth, 50 ms for each letter, at most 500 ms; a saved voice makes another
sawtooth. A first word with a slash in it is the path of a fifo, of which each piece costs one byte.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from media.encode import WavFile, encoded
from storage.voices import Voices
from tests.scripts import pass_gates
from workers.fish import worker as fish

RATE = 44100
LETTER_SAMPLES = 2205


class Speaker(fish.Fish):
    name = "fish"

    def load(self) -> dict[str, Any]:
        return {"device": "cpu"}

    def info(self) -> dict[str, Any]:
        return {}

    def run(self, params: Any, ctx: Any) -> Any:
        if params.check:
            return {"duration": 1.0}
        voices = Voices(self.folders.voices)
        if params.text is None:
            [(_, reference)] = params.recordings
            sound = np.linspace(-(1 << 15), (1 << 15) - 1, RATE, dtype=np.int16)
            voice = voices.save(ctx.owner, sound, RATE, reference.text, params.name, params.description)
            return {"reference_id": voice.reference_id, "message": "Reference processed successfully"}
        first = params.seed or 0
        if params.reference_id:
            first += len(voices.find(params.reference_id, ctx.owner).text)
        for _, reference in params.recordings:
            first += ctx.local(reference.audio).stat().st_size + len(reference.text)
        words = params.text.split()
        gate = words.pop(0) if "/" in words[0] else None
        sizes = [min(RATE // 2, LETTER_SAMPLES * len(word)) for word in words]
        whole = np.arange(first, first + sum(sizes)).astype(np.int16)
        for index, size in enumerate(sizes):
            yield gate
            start = sum(sizes[:index])
            ctx.progress((index + 1) / len(sizes))
            if params.stream:
                ctx.audio(index, start, whole[start : start + size], RATE)
        self.folders.speech.mkdir(parents=True, exist_ok=True)
        path = self.folders.speech / f"tts_{ctx.key}.wav"
        with WavFile(path, RATE) as wav:
            wav.append(whole)
        ctx.made(path, path.name)
        return {"fish": str(path), **_sound(whole, params), "sample_rate": RATE, "duration": len(whole) / RATE}

    def key(self, unit: Any) -> Any:
        return None

    def forward(self, units: list[Any]) -> list[Any]:
        return pass_gates(units)


def _sound(whole: Any, params: Any) -> dict[str, Any]:
    match params.audio_format:
        case "none":
            return {}
        case "list":
            return {"audio_data": (whole / 32768).tolist()}
        case "wav" | "pcm" | "mp3" | "opus" as kind:
            return {"audio_data": encoded(whole, RATE, kind)}
        case other:
            raise ValueError(other)
