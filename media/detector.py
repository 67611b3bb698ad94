"""Where somebody speaks, by Silero's detector, which hears every stretch of sound forwards and backwards.

    sound ─▶ frames of 32 ms ─┬─▶ forwards, from silence anew every 16 s ──┬─▶ the larger of the two ─▶ spans
                              └─▶ backwards, the same ─────────────────────┘

The detector carries along what it has heard: after music it takes words for more of it, and a soft beginning comes too
early for it. Backwards it comes to the same words from the other side. What the one or the other takes for speech is
speech; a span is sure where both agree. What is not sure may be a sound like speech: whoever hears it has to judge.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from media.audio import SAMPLE_RATE, Audio

FRAME = 512
"""Samples in a frame; the detector gives one probability for each frame."""
_CONTEXT = 64
"""Samples of the previous frame, which the detector is given again."""
BLOCK = 16 * SAMPLE_RATE // FRAME
"""The detector's memory is cleared after so many frames, so that music makes it deaf no longer than this."""

SPEECH, SILENCE = 0.3, 0.2
"""A frame above the first probability is speech, one below the second is not; between them it is as the last one."""
SURE, SURE_FRAMES = 0.5, SAMPLE_RATE // 5 // FRAME + 1
"""Speech is sure where the mean of both directions reaches this for longer than a click. Music and noise hardly ever
reach it, though one direction alone now and then does."""


class Span(NamedTuple):
    """First sample and end, in samples; the end is excluded."""

    start: int
    end: int


class Speech(NamedTuple):
    """spans: where somebody speaks, in order. sure: which of them hold what is speech beyond doubt."""

    spans: tuple[Span, ...]
    sure: tuple[bool, ...]


def speech(audio: Audio, *, shortest: float = 0.2, pause: float = 0.5, threads: int = 1) -> Speech:
    """The spans of speech in sound at SAMPLE_RATE.

    shortest: seconds; less speech is a click. pause: seconds; a shorter silence ends no span. threads: that listen.
    """
    forwards = probabilities(audio, threads=threads)
    backwards = probabilities(audio, backwards=True, threads=threads)
    spans, sure = [], []
    for first, last in runs(np.maximum(forwards, backwards), pause):
        if (last - first) * FRAME > shortest * SAMPLE_RATE:
            spans.append(Span(first * FRAME, min(last * FRAME, len(audio))))
            mean = (forwards[first:last] + backwards[first:last]) / 2
            sure.append(int((mean >= SURE).sum()) >= SURE_FRAMES)
    return Speech(tuple(spans), tuple(sure))


def probabilities(audio: Audio, *, backwards: bool = False, threads: int = 1) -> Audio:
    """The probability of speech in every frame; the last frame is filled up with silence."""
    samples = np.pad(audio, (0, -len(audio) % FRAME))
    step = BLOCK * FRAME
    blocks = [samples[start : start + step] for start in range(0, len(samples), step)]
    heard = partial(_heard, listen=heard_backwards if backwards else _heard_forwards)
    if threads == 1 or len(blocks) <= 1:
        return np.concatenate([np.empty(0, np.float32), *map(heard, blocks)])
    with ThreadPoolExecutor(threads, "detector") as pool:  # the detector lets go of the interpreter
        return np.concatenate([*pool.map(heard, blocks)])


def _heard(sound: Audio, listen: Callable[[Audio], Audio]) -> Audio:
    """Nobody speaks where there is nothing at all, which is not listened to."""
    return listen(sound) if sound.any() else np.zeros(len(sound) // FRAME, np.float32)


def _heard_forwards(sound: Audio) -> Audio:
    return Listener()(sound)


def heard_backwards(sound: Audio) -> Audio:
    """The probabilities of whole frames, in their order, from what comes after each."""
    heard: Audio = Listener()(sound[::-1])[::-1]
    return heard


def runs(probability: Audio, pause: float) -> list[tuple[int, int]]:
    """Frames from which to which somebody speaks. pause: seconds; a shorter silence ends no run."""
    found: list[tuple[int, int]] = []
    for frame, likely in enumerate(probability):
        goes_on = bool(found) and found[-1][1] == frame
        if likely >= SPEECH or (goes_on and likely >= SILENCE):
            again = found and (frame - found[-1][1]) * FRAME < pause * SAMPLE_RATE
            found.append((found.pop()[0] if again else frame, frame + 1))
    return found


class Listener:
    """Silero's probabilities of speech, frame after frame, with its memory kept between two calls."""

    def __init__(self) -> None:
        from faster_whisper.vad import get_vad_model

        self._session: Any = get_vad_model().session
        self._h = np.zeros((1, 1, 128), np.float32)
        self._c = np.zeros((1, 1, 128), np.float32)
        self._context = np.zeros(_CONTEXT, np.float32)

    def __call__(self, sound: Audio) -> Audio:
        """sound: whole frames. Returns one probability for each."""
        if not len(sound):
            return sound
        frames = sound.reshape(-1, FRAME)
        before = np.concatenate([self._context[np.newaxis], frames[:-1, -_CONTEXT:]])
        self._context = frames[-1, -_CONTEXT:].copy()
        inputs = {"input": np.concatenate([before, frames], axis=1), "h": self._h, "c": self._c}
        output, self._h, self._c = self._session.run(None, inputs)
        probabilities: Audio = output.reshape(-1)
        return probabilities
