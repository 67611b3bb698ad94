"""Where the words of a text lie in the sound: Whisper's alignment in, words with their times out; pure.

    attention        │ I │ have │ here │      a      │ pendulum │   .   │   next          each token up to the next
    sound        ─────████████████████──────────────████████████████──────
    words             │ I │ have│ here│a│            │  pendulum.     │

The alignment leaves no gaps, so silence is some word's or a full stop's; what can be heard there says what is a word's.
Every word has a length, lies in sound, and follows the one before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from itertools import groupby, islice
from typing import NamedTuple

from workers.whisper.units import Word

Interval = tuple[float, float]
"""From second to second."""

_SHORTEST = 0.06
"""Seconds that a word takes at least; the alignment puts several at one place where it cannot tell them apart."""
_WIDENED = 0.25
"""Sound that is too short for its words may have gone on unheard for so many seconds on either side."""
_REACHES = 0.02
"""Seconds of one step of the alignment."""
_AWAITS = 0.15
"""A word that reaches at most so many seconds into the sound before a pause follows it, as measured on joined clips."""
_EDGE = 0.2
"""A sound's first word begins with the sound if it is aligned at most so many seconds later."""
_TAIL = 0.3
"""So many seconds of sound after a word's alignment belong to it when nothing else is said in that sound."""
_LEADING = "\"'“¿¡([{-«「『（"  # noqa: RUF001 - Chinese and Japanese
"""Punctuation that belongs to the word after it, when a space or nothing stands before it."""


class Aligned(NamedTuple):
    """A word or a punctuation mark. text: as Whisper writes it, with the space before it. start, end: seconds."""

    text: str
    start: float
    end: float
    probability: float


class _Spoken(NamedTuple):
    """A word with its punctuation. until: seconds at which the next one, or the end of the text, is aligned."""

    word: Word
    until: float


def spoken(lines: Sequence[Sequence[Aligned]], sounds: Sequence[Interval], until: float) -> list[tuple[Word, ...]]:
    """The words of each line, in order and without overlap; none of a line that says nothing.

    lines: of one text, in order. sounds: where something can be heard, in order; empty if that is not known.
    until: seconds at which the alignment has the text's end.
    """
    ends = [line[0].start for line in lines[1:] if line] + [until]
    words: list[_Spoken] = []
    counts = []
    for number, line in enumerate(lines):
        merged = _with_punctuation(line, max(ends[min(number, len(ends) - 1)], line[-1].end) if line else until)
        counts.append(len(merged))
        words += merged
    placed = iter(_placed(words, sounds))
    return [tuple(islice(placed, count)) for count in counts]


def _placed(words: Sequence[_Spoken], sounds: Sequence[Interval]) -> list[Word]:
    placed: list[Word] = []
    for place, group in groupby(words, key=lambda one: _place(one, sounds)):
        run = list(group)
        low, high = _room(place, sounds, run)
        low = max(low, placed[-1].end if placed else 0.0)
        placed += _within(run, low, max(high, low + _SHORTEST))
    return placed


def says_something(text: str) -> bool:
    """Whether anybody would say it: a letter or a digit is in it."""
    return any(character.isalnum() for character in text)


def _with_punctuation(aligned: Sequence[Aligned], until: float) -> list[_Spoken]:
    """Words with their punctuation, which belongs to the word before it or to the one after it."""
    words: list[_Spoken] = []
    before = ""
    for one in aligned:
        if says_something(one.text):
            word = Word(one.start, one.end, before + one.text, one.probability)
            words.append(_Spoken(word, one.end))
            before = ""
        elif before or not words or (one.text[:1].isspace() and one.text.strip() in _LEADING):
            before += one.text
        else:
            last = words[-1].word
            words[-1] = _Spoken(dataclasses.replace(last, word=last.word + one.text), one.end)
    if words and before:
        words[-1] = _Spoken(dataclasses.replace(words[-1].word, word=words[-1].word.word + before), words[-1].until)
    if words:
        words[-1] = words[-1]._replace(until=max(until, words[-1].until))
    return words


def _place(one: _Spoken, sounds: Sequence[Interval]) -> int:
    """The last sound that a word reaches into, else the one that its punctuation does, else the nearest.

    The alignment is early: a word after a pause often begins in the end of the sound before it. So does one with next
    to nothing of that sound and then silence, in which no sentence ends.
    """
    if not sounds:
        return 0
    for stop in (one.word.end, one.until):
        shared = [min(stop, end) - max(one.word.start, start) for start, end in sounds]
        reached = [place for place, seconds in enumerate(shared) if seconds >= _REACHES]
        if reached:
            last = reached[-1]
            silent = one.until == one.word.end and stop - sounds[last][1] >= _SHORTEST
            return min(last + (silent and shared[last] <= _AWAITS), len(sounds) - 1)
    return max(range(len(sounds)), key=shared.__getitem__)


def _room(place: int, sounds: Sequence[Interval], run: Sequence[_Spoken]) -> Interval:
    """The seconds between which the words of one sound lie."""
    if not sounds:
        return run[0].word.start, run[-1].word.end
    low, high = sounds[place]
    if high - low < len(run) * _SHORTEST:
        high = min(high + _WIDENED, sounds[place + 1][0] if place + 1 < len(sounds) else high + _WIDENED)
        low = max(low - _WIDENED, sounds[place - 1][1] if place else low - _WIDENED)
    return low, high


def _within(run: Sequence[_Spoken], low: float, high: float) -> Iterable[Word]:
    """The words of one sound, each at least as long as there is room for."""
    least = min(_SHORTEST, (high - low) / len(run))
    starts: list[float] = []
    for one in run:
        if starts or one.word.start - low > _EDGE:
            starts.append(max(one.word.start, starts[-1] + least if starts else low))
        else:
            starts.append(low)
    latest = high
    for index in reversed(range(len(run))):
        latest = starts[index] = min(starts[index], latest - least)
    for index, (one, start) in enumerate(zip(run, starts, strict=True)):
        following = starts[index + 1] if index + 1 < len(run) else high
        end = max(one.word.end, start + least)
        if index + 1 == len(run) and high - one.until <= _TAIL:
            end = max(end, min(high, one.word.end + _TAIL))
        yield dataclasses.replace(one.word, start=start, end=min(end, following))
