"""Cuts growing sound into utterances. The detector hears each stretch again, backwards, once its continuation is there.

    sound ─▶ frames of 32 ms ─▶ the detector, forwards ──────────────▶ silent ⇄ speaking ─▶ utterances
              └─ held ────────▶ every 2 s back over the last 8 s ─────┘ what was missed is added

An utterance ends with a silence of 0.6 s, or of 1.2 s while it is shorter than 8 s, or before it gets longer than 30 s,
where it is quietest. Those that end in the same call are joined while they fit into 30 s and no long silence lies
between them: a recording that comes faster than it was spoken is cut like a file.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from media.audio import SAMPLE_RATE, Audio
from media.detector import BLOCK, FRAME, SILENCE, SPEECH, SURE, SURE_FRAMES, Listener, Span, heard_backwards, runs
from media.speech import JOIN_GAP, MAX_PIECE, Piece, split

_LONG = 8 * SAMPLE_RATE
_END_SILENCE, _END_SILENCE_SHORT = SAMPLE_RATE * 3 // 5, SAMPLE_RATE * 6 // 5
"""Whisper errs more with a few words alone, so a short utterance may go on after a longer pause."""
_PAUSE = SAMPLE_RATE // 4
_BREATH = SAMPLE_RATE // 2
"""Samples; a shorter silence does not end speech, as in `media.speech`."""
_PADDING = SAMPLE_RATE * 2 // 5
"""Silence left on either side of speech, as in `media.speech`."""
_SHORTEST = SAMPLE_RATE // 5
"""Less is a click, on which Whisper would invent a word."""

_LOOK, _BACK, _COLD = 64, 250, 16
"""Frames from one look back to the next; frames that each look hears; and the latest of these, which it does not judge,
because the detector takes much of what it hears first for speech."""
_FORGET = BLOCK // _LOOK
"""The detector's memory is cleared after so many looks, as in files."""


class Utterances:
    """start: the sample of the recording that is fed first."""

    def __init__(self, start: int = 0) -> None:
        self._listener = Listener()
        self._first = start
        self._held = np.empty(0, np.float32)
        self._begin = start  # of what is held
        self._seen = start  # frames before this were looked at
        self._free = start  # samples before this belong to an earlier utterance
        self._speech: list[Span] = []  # of the utterance in hand
        self._forwards: dict[int, float] = {}  # probabilities of the frames that are held
        self._sure: set[int] = set()  # frames of which both directions are sure

    @property
    def position(self) -> int:
        """A later attempt that is fed from this sample on misses nothing that was said."""
        return max(self._begin, self._free)

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
        end = self._begin + len(self._held)
        ended: list[_Ended] = []
        while frames := min((end - self._seen) // FRAME, _LOOK - self._frames % _LOOK):
            for probability in self._listener(self._between(self._seen, self._seen + frames * FRAME)):
                ended += self._after(float(probability))
            if self._frames % _LOOK == 0:
                self._look_back()
            if self._frames % (_FORGET * _LOOK) == 0:
                self._listener = Listener()
        if last:
            self._look_back()
            self._seen = end
            ended += self._end()
        speech = [span for utterance in ended for span in utterance.speech]
        pieces = [self._piece(span, speech) for span in _joined([utterance.span for utterance in ended])]
        self._forget()
        return pieces

    def _after(self, probability: float) -> list[_Ended]:
        """What ends with the next frame."""
        begin, self._seen = self._seen, self._seen + FRAME
        goes_on = bool(self._speech) and self._speech[-1].end == begin
        self._forwards[begin] = probability
        if probability >= SPEECH or (goes_on and probability >= SILENCE):
            if self._speech and begin - self._speech[-1].end < _BREATH:
                begin = self._speech.pop().start
            self._speech.append(Span(begin, self._seen))
        if self._speech and self._speech[-1].end + _BREATH <= self._seen and _short(self._speech[-1]):
            self._speech.pop()
        if not self._speech:
            return []
        if self._silent:
            self._look_back()
            return self._end() if self._silent else []
        return self._cut() if self._seen - self._start >= MAX_PIECE else []

    def _look_back(self) -> None:
        """Add the speech of the last seconds that the detector understands only from what comes after it."""
        frames = min(_BACK, (self._seen - max(self._free, self._first)) // FRAME)
        begin = self._seen - frames * FRAME
        likely = heard_backwards(self._between(begin, self._seen))[:-_COLD]
        for number, probability in enumerate(likely):
            frame = begin + number * FRAME
            if (self._forwards[frame] + probability) / 2 >= SURE:
                self._sure.add(frame)
        heard = runs(likely, _BREATH / SAMPLE_RATE)
        found = (Span(begin + first * FRAME, begin + last * FRAME) for first, last in heard)
        speech: list[Span] = []
        for span in sorted([*self._speech, *(span for span in found if not _short(span))]):
            if speech and span.start - speech[-1].end < _BREATH:
                speech[-1] = Span(speech[-1].start, max(speech[-1].end, span.end))
            else:
                speech.append(span)
        self._speech = speech

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
        self._free = free = start + part.end
        said = [Span(span.start, min(span.end, free)) for span in self._speech if span.start < free]
        self._speech = [Span(max(span.start, free), span.end) for span in self._speech if span.end > free]
        return [_Ended(Span(start, free), said)]

    @property
    def _frames(self) -> int:
        """How many frames were looked at."""
        return (self._seen - self._first) // FRAME

    @property
    def _silent(self) -> bool:
        """Whether the utterance in hand is followed by enough silence."""
        spoken_to = self._speech[-1].end
        return self._seen - spoken_to >= (_END_SILENCE if spoken_to - self._start >= _LONG else _END_SILENCE_SHORT)

    @property
    def _heard(self) -> bool:
        return not all(_short(span) for span in self._speech)

    @property
    def _start(self) -> int:
        """The sample at which the utterance in hand begins."""
        return max(self._speech[0].start - _PADDING, self._free, self._begin) if self._speech else self._seen

    def _piece(self, span: Span, speech: list[Span]) -> Piece:
        inside = (Span(max(start, span.start), min(end, span.end)) for start, end in speech)
        relative = tuple(Span(start - span.start, end - span.start) for start, end in inside if start < end)
        sure = sum(span.start <= frame < span.end for frame in self._sure) >= SURE_FRAMES
        return Piece(span.start, self._between(*span), relative, sure=sure)

    def _between(self, start: int, end: int) -> Audio:
        return self._held[start - self._begin : end - self._begin]

    def _forget(self) -> None:
        """What lies before the utterance in hand, or could not belong to the next one."""
        keep = min(self._start, self._seen - _BACK * FRAME) - _PADDING
        if keep > self._begin:
            self._held = self._between(keep, self._begin + len(self._held)).copy()
            self._forwards = {frame: likely for frame, likely in self._forwards.items() if frame >= keep}
            self._sure = {frame for frame in self._sure if frame >= keep}
            self._begin = keep


class _Ended(NamedTuple):
    """speech: where somebody speaks in it."""

    span: Span
    speech: list[Span]


def _short(span: Span) -> bool:
    return span.end - span.start < _SHORTEST


def _joined(spans: list[Span]) -> list[Span]:
    """Neighbours as one, with the silence between them, while it is not long and they fit into MAX_PIECE."""
    joined: list[Span] = []
    for span in spans:
        if joined and span.end - joined[-1].start <= MAX_PIECE and span.start - joined[-1].end <= JOIN_GAP:
            joined[-1] = Span(joined[-1].start, span.end)
        else:
            joined.append(span)
    return joined
