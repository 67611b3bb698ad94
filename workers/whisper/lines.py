"""Lines that Whisper wrote across a pause between two sentences, parted there; pure.

    for your country. Mr. Quilter is the apostle         one line
    ─────speech──────┐   pause   ┌─speech───────         by the voice detector
    for your country.│           │Mr. Quilter is the …   two lines

A pause within a sentence parts nothing. It takes the times of words to know which ones stand before the pause.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from workers.whisper.units import Segment, Word

Pause = tuple[float, float]
"""From second to second, on a segment's clock."""

_INSIDE = 0.3
"""Seconds from a line's ends within which a pause is the one before or after it; also how far words are misplaced."""
_SENTENCE_END = re.compile(r"""[.!?。！？؟۔।॥።][\"'”’»)\]]*$""")  # noqa: RUF001 - of many scripts
_SENTENCES = re.compile(r"""[.!?]["'”’»)\]]*\s+\S|[。！？؟۔।॥።].""")  # noqa: RUF001


def crosses(start: float, end: float, text: str, pauses: Sequence[Pause]) -> bool:
    """Whether a line may hold the end of one sentence, a pause, and the beginning of another."""
    within = any(start + _INSIDE < before and after < end - _INSIDE for before, after in pauses)
    return within and _SENTENCES.search(text.strip()) is not None


def parted(line: Segment, pauses: Sequence[Pause]) -> list[Segment]:
    """A line with the times of its words, as the lines between the pauses after its sentences."""
    words = line.words or ()
    cuts = [
        number
        for number, (last, first) in enumerate(pairwise(words), 1)
        if _SENTENCE_END.search(last.word.strip()) and _paused(last, first, pauses)
    ]
    if not cuts:
        return [line]
    return [_line(words[start:stop]) for start, stop in zip([0, *cuts], [*cuts, len(words)], strict=True)]


def _paused(last: Word, first: Word, pauses: Sequence[Pause]) -> bool:
    """Whether a pause lies between the middles of two words, give or take what their times are worth."""
    earliest, latest = (last.start + last.end) / 2 - _INSIDE, (first.start + first.end) / 2 + _INSIDE
    return any(earliest <= before and after <= latest for before, after in pauses)


def _line(words: Sequence[Word]) -> Segment:
    return Segment(words[0].start, words[-1].end, "".join(word.word for word in words), tuple(words))
