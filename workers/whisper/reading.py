"""What stands before and after Whisper's model: sound as what it hears, and what it has written as text.

    piece ─▶ mel, where it sounds ─▶ Unit ─▶ `decoding` ─▶ Pass ─▶ segments with words ─▶ Outcome
                                      ▲                                                      │
                                      └────────── the next pass over the piece ◀─────────────┘

It runs beside the model, in the task's own slices.
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from media.audio import SAMPLE_RATE
from workers.whisper.alignment import Text, words_of
from workers.whisper.lines import crosses, parted
from workers.whisper.rest import frames, gone_on, unsure
from workers.whisper.segments import Split, split, unlooped
from workers.whisper.silences import sounding
from workers.whisper.tokens import MAX_TEXT, Tokenizers
from workers.whisper.units import Outcome, Pass, Segment, Unit, best
from workers.whisper.words import says_something

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

_PAUSE = 0.5
"""Seconds of silence between two sentences that part a line."""
_FRAMES = 3000
"""Frames that Whisper was trained to hear at once: 30 s."""
_QUICK_SILENCE, _QUICK_STEP = 800, 500
"""Frames of silence that follow the sound, because Whisper goes on writing without them, as measured. Lengths are whole
steps of this."""


class Reader:
    """Of one loaded model."""

    def __init__(self, model: WhisperModel, tokenizers: Tokenizers) -> None:
        self._extract = model.feature_extractor
        self._tokenizers = tokenizers

    def prepared(self, unit: Unit) -> Unit:
        """A unit with all that the model needs."""
        if unit.encoded is not None or unit.mel is not None:
            return unit
        from faster_whisper.audio import pad_or_trim

        mel = pad_or_trim(self._extract(unit.audio)[:, : frames(unit)], encoded_frames(unit))[np.newaxis]
        speech = [(start / SAMPLE_RATE, end / SAMPLE_RATE) for start, end in unit.speech or ()]
        sounds = () if unit.quick or unit.audio is None else tuple(sounding(unit.audio, speech))
        return dataclasses.replace(unit, mel=mel, sounds=sounds)

    def outcome(self, one: Pass) -> Outcome:
        """The text of a pass and what is left of the piece, prepared, or another try."""
        unit = one.unit
        if one.silent:
            return Outcome(language=unit.language)
        outcome = Outcome(language=unit.language, detected=one.detected, then=unit)
        if one.echo:
            return dataclasses.replace(outcome, then=dataclasses.replace(unit, hints=(), tried=()))
        if one.parts is None:
            return dataclasses.replace(outcome, then=None) if unit.settled else outcome
        segments, said = self._segments(unit, one.parts, one.alignment)
        outcome = gone_on(dataclasses.replace(outcome, segments=segments), one.parts, said)
        if unit.quick:  # what it leaves is heard again soon
            return dataclasses.replace(outcome, then=None)
        return dataclasses.replace(outcome, then=outcome.then and self.prepared(outcome.then))

    def _segments(self, unit: Unit, parts: Split, alignment: Any) -> tuple[tuple[Segment, ...], float | None]:
        """The segments, and the second at which the last word ends, if it was looked for."""
        tokenizer = self._tokenizers.of(unit.language, unit.task)
        timed = None if alignment is None else words_of(Text(unit, parts.spans, tokenizer), alignment)
        pauses = _pauses(unit)
        segments: list[Segment] = []
        for number, span in enumerate(parts.spans):
            text = tokenizer.decode(span.tokens)
            if timed is None:
                if says_something(text) and span.start < span.end:
                    segments.append(Segment(span.start, span.end, text))
            elif words := timed[number]:
                segments += parted(Segment(words[0].start, words[-1].end, text, words), pauses)
        said = segments[-1].end if segments and timed is not None else None
        if not unit.words:
            segments = [dataclasses.replace(segment, words=None) for segment in segments]
        return tuple(segments), said


def encoded_frames(unit: Unit) -> int:
    """How many frames of a piece are encoded; equally many for all that share a batch."""
    if not unit.quick:
        return _FRAMES
    return min(_FRAMES, -(-(frames(unit) + _QUICK_SILENCE) // _QUICK_STEP) * _QUICK_STEP)


def kept_parts(unit: Unit, tokenizers: Tokenizers) -> Split | None:
    """The try to keep, at its timestamps; None where a warmer one is to follow, or nobody speaks."""
    if not unit.settled or (kept := best(unit.tried)).silent:
        return None
    first = tokenizers.of(unit.language, unit.task).timestamp_begin
    tokens = unlooped(kept.tokens, first) if kept.repeats else kept.tokens
    return split(tokens, first, frames(unit), whole=len(kept.tokens) < MAX_TEXT)


def looked_for(unit: Unit, parts: Split, tokenizer: Any) -> bool:
    """Whether it matters when the words are said: they are asked for, or Whisper's own times are not enough."""
    if unit.words or unsure(unit, parts):
        return True
    pauses = _pauses(unit)
    return any(crosses(span.start, span.end, tokenizer.decode(span.tokens), pauses) for span in parts.spans)


def _pauses(unit: Unit) -> list[tuple[float, float]]:
    """Silences within a piece, in seconds; in a text for the moment none are looked for."""
    sounds = unit.sounds if unit.speech and not unit.quick else ()
    return [(last[1], first[0]) for last, first in pairwise(sounds) if first[0] - last[1] >= _PAUSE]
