"""What of a piece is still to be heard after a pass over it: pure.

    Whisper's times     ──text──┐ nothing comes after
    its words           ──────────────┐                    where the last one ends
    speech            ███████   ███████      ██████
                                             └── heard again, by a unit of its own

Whisper is asked again for as little as can be: what it hears twice it writes twice, or as a word that nobody said.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from media.audio import SAMPLE_RATE
from workers.whisper.segments import FRAME_SECONDS, Split
from workers.whisper.units import Outcome, Unit

SAMPLES_PER_FRAME = round(SAMPLE_RATE * FRAME_SECONDS)
_LEAST_STEP = 100
"""Frames that every pass brings a piece forward, at least."""
_LEAST_REST = SAMPLE_RATE * 3 // 10
"""Samples after the last segment that are worth hearing again; fewer are padding."""
_LEAST_MISSED = SAMPLE_RATE // 2
"""Samples of speech worth hearing again that begins after what Whisper took for the end."""
_LEAST_CUT_OFF = 2 * SAMPLE_RATE
"""Samples of speech worth hearing again that goes on beyond it."""
_BEFORE_SPEECH = SAMPLE_RATE // 5


def frames(unit: Unit) -> int:
    """How many a unit's sound has."""
    assert unit.audio is not None, "a template is not heard"
    return len(unit.audio) // SAMPLES_PER_FRAME


def unsure(unit: Unit, parts: Split) -> bool:
    """Whether Whisper's own times leave open up to where it has heard a piece, which its words then have to say."""
    return bool(unit.speech) and not unit.quick and (parts.unended or bool(_missed(unit, parts, parts.heard)))


def gone_on(outcome: Outcome, parts: Split, said: float | None) -> Outcome:
    """The outcome, with the rest of the piece as its next unit where somebody speaks there.

    Whisper sometimes ends early, at a pause, and says that nothing comes after; the voice detector knows better. And
    sometimes it only says so too early: what it wrote is not to be heard again. said: the last word's end.
    """
    unit: Any = outcome.then
    heard = parts.seek if unit.speech is None else parts.heard
    if said is not None:
        words = round(said / FRAME_SECONDS)
        heard = words if unit.speech and parts.unended else max(heard, words)
    start = max(heard, _LEAST_STEP) * SAMPLES_PER_FRAME
    if unit.speech is None:
        if len(unit.audio) - start < _LEAST_REST:
            return dataclasses.replace(outcome, then=None)
    else:
        missed = _missed(unit, parts, heard)
        if not missed:
            return dataclasses.replace(outcome, then=None)
        start = max(start, missed[0].start - _BEFORE_SPEECH)
    speech = unit.speech and tuple(
        span._replace(start=max(0, span.start - start), end=span.end - start)
        for span in unit.speech
        if span.end > start
    )
    sure = unit.sure and unit.speech is None
    rest = dataclasses.replace(unit, audio=unit.audio[start:], speech=speech, sure=sure, encoded=None, tried=())
    return dataclasses.replace(outcome, then=rest, shift=start / SAMPLE_RATE)


def _missed(unit: Unit, parts: Split, heard: int) -> list[Any]:
    """The spans of speech of which `_least` samples lie after a frame."""
    start = max(heard, _LEAST_STEP) * SAMPLES_PER_FRAME
    through = parts.closed or parts.unended
    return [span for span in unit.speech or () if span.end - max(span.start, start) >= _least(through, span, start)]


def _least(through: bool, span: Any, start: int) -> int:
    """Samples that are worth hearing again. They are more where Whisper is through, since it may be a little early."""
    if not through:
        return _LEAST_REST
    return _LEAST_MISSED if span.start >= start - _LEAST_REST else _LEAST_CUT_OFF
