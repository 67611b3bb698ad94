"""Cuts sound that is still coming into utterances, hearing every sample once.

    sound ─▶ frames of 32 ms ─▶ Silero's detector, which remembers ─▶ silent ⇄ speaking ─▶ utterances
                                                                       └ held: only what is being said, and a margin

An utterance ends with a silence of 0.6 s, or of 1.2 s while it is shorter than 8 s, or before it gets longer than 30 s,
where it is quietest. Those that end in the same call are joined while they fit into 30 s and no long silence lies
between them: a recording that comes faster than it was spoken is cut like a file.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from media.audio import SAMPLE_RATE, Audio
from media.speech import JOIN_GAP, MAX_PIECE, Piece, Span, split

_LONG = 8 * SAMPLE_RATE
_END_SILENCE, _END_SILENCE_SHORT = SAMPLE_RATE * 3 // 5, SAMPLE_RATE * 6 // 5
"""Whisper errs more with a few words alone, so a short utterance may go on after a longer pause."""
_PAUSE = SAMPLE_RATE // 4
_BREATH = SAMPLE_RATE // 2
"""Speech goes on after a shorter silence, as in `media.speech`."""
_PADDING = SAMPLE_RATE * 2 // 5
"""Silence left on either side of speech, as in `media.speech`."""
_SHORTEST = SAMPLE_RATE // 5
"""Less is a click, on which Whisper would invent a word."""

_FRAME = 512
_CONTEXT = 64
"""Samples of the frame before that the detector hears again."""
_SPEECH, _SILENCE = 0.5, 0.35
"""Probabilities above and below which the detector is sure; between them it stays what it was, as Silero does it."""


class Utterances:
    """start: the sample of the recording that is fed first."""

    def __init__(self, start: int = 0) -> None:
        self._detector = _Detector()
        self._held = np.empty(0, np.float32)
        self._begin = start  # of what is held
        self._seen = start  # frames before this were looked at
        self._free = start  # samples before this belong to an earlier utterance
        self._speech: list[Span] = []  # of the utterance in hand

    @property
    def position(self) -> int:
        """The sample from which the recording is to be fed again for nothing that is said to be lost."""
        return self._start if self._speech else self._begin

    @property
    def open(self) -> Piece | None:
        """What is being said, as far as it was heard."""
        return self._piece(Span(self._start, self._begin + len(self._held)), self._speech) if self._heard else None

    @property
    def paused_at(self) -> int | None:
        """The sample at which the speaker has fallen silent, maybe only for a moment."""
        return self._speech[-1].end if self._heard and self._seen - self._speech[-1].end >= _PAUSE else None

    def feed(self, sound: Audio, *, last: bool = False) -> list[Piece]:
        """The utterances that ended in `sound` (float32, 16 kHz), which follows what was fed before.

        last: the recording is over, and so is what was being said.
        """
        self._held = np.concatenate([self._held, sound])
        first = self._seen - self._begin
        frames = (len(self._held) - first) // _FRAME
        ended: list[_Ended] = []
        for probability in self._detector(self._held[first : first + frames * _FRAME]):
            ended += self._after(float(probability))
        if last:
            self._seen = self._begin + len(self._held)
            ended += self._end()
        speech = [span for utterance in ended for span in utterance.speech]
        pieces = [self._piece(span, speech) for span in _joined([utterance.span for utterance in ended])]
        self._forget()
        return pieces

    def _after(self, probability: float) -> list[_Ended]:
        """What ends with the next frame."""
        begin, self._seen = self._seen, self._seen + _FRAME
        goes_on = bool(self._speech) and self._speech[-1].end == begin
        if probability >= _SPEECH or (goes_on and probability >= _SILENCE):
            if self._speech and begin - self._speech[-1].end < _BREATH:
                begin = self._speech.pop().start
            self._speech.append(Span(begin, self._seen))
        if not self._speech:
            return []
        spoken_to = self._speech[-1].end
        if self._seen - spoken_to >= (_END_SILENCE if spoken_to - self._start >= _LONG else _END_SILENCE_SHORT):
            return self._end()
        return self._cut() if self._seen - self._start >= MAX_PIECE else []

    def _end(self) -> list[_Ended]:
        """The utterance in hand, if it is one."""
        if not self._heard:
            self._speech = []
            return []
        ended = _Ended(Span(self._start, min(self._speech[-1].end + _PADDING, self._seen)), self._speech)
        self._free, self._speech = ended.span.end, []
        return [ended]

    def _cut(self) -> list[_Ended]:
        """The beginning of an utterance that has become too long."""
        start = self._start
        (part, *_) = split(self._held[start - self._begin :], Span(0, MAX_PIECE + 1))
        ended = _Ended(Span(start, start + part.end), self._speech)
        self._free = ended.span.end
        self._speech = [Span(max(span.start, self._free), span.end) for span in self._speech if span.end > self._free]
        return [ended]

    @property
    def _heard(self) -> bool:
        return bool(self._speech) and self._speech[-1].end - self._speech[0].start >= _SHORTEST

    @property
    def _start(self) -> int:
        """Of the utterance in hand."""
        return max(self._speech[0].start - _PADDING, self._free, self._begin) if self._speech else self._seen

    def _piece(self, span: Span, speech: list[Span]) -> Piece:
        inside = (Span(max(start, span.start), min(end, span.end)) for start, end in speech)
        relative = tuple(Span(start - span.start, end - span.start) for start, end in inside if start < end)
        return Piece(span.start, self._held[span.start - self._begin : span.end - self._begin], relative)

    def _forget(self) -> None:
        """What lies before the utterance in hand, or could not belong to the next one."""
        keep = self._start if self._speech else self._seen - _PADDING
        if keep > self._begin:
            self._held = self._held[keep - self._begin :].copy()
            self._begin = keep


class _Ended(NamedTuple):
    """speech: where somebody speaks in it; what lies beyond the span belongs to the next one."""

    span: Span
    speech: list[Span]


def _joined(spans: list[Span]) -> list[Span]:
    """Neighbours as one, with the silence between them, while it is not long and they fit into MAX_PIECE."""
    joined: list[Span] = []
    for span in spans:
        if joined and span.end - joined[-1].start <= MAX_PIECE and span.start - joined[-1].end <= JOIN_GAP:
            joined[-1] = Span(joined[-1].start, span.end)
        else:
            joined.append(span)
    return joined


class _Detector:
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
        frames = sound.reshape(-1, _FRAME)
        before = np.concatenate([self._context[np.newaxis], frames[:-1, -_CONTEXT:]])
        self._context = frames[-1, -_CONTEXT:].copy()
        inputs = {"input": np.concatenate([before, frames], axis=1), "h": self._h, "c": self._c}
        output, self._h, self._c = self._session.run(None, inputs)
        probabilities: Audio = output.reshape(-1)
        return probabilities
