"""Whisper's tokens as segments: cut at its timestamps, without what it repeats; pure.

    <|0.00|> Hello there. <|1.20|> <|1.40|> How are <|2.00|> <|2.00|> you          (timestamps come in pairs)
    └──── a segment ────────────┘ └── a segment ──────────┘ └ up to the piece's end, since a piece ends in silence;
                                                              heard again from 2.00 on if Whisper ran out of tokens
A timestamp alone at the end says that nobody speaks after it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

FRAME_SECONDS = 0.01
TIMESTAMP_SECONDS = 0.02
FRAMES_PER_TIMESTAMP = round(TIMESTAMP_SECONDS / FRAME_SECONDS)

_MAX_COMPRESSION = 2.4
"""A text that zlib compresses by more repeats itself, as published with Whisper (Radford et al. 2022, section 4.5)."""
_LOOP = 3
"""In a text that repeats itself, words that follow themselves at least so often are written once."""


class Span(NamedTuple):
    """Tokens of one segment, its timestamps among them; seconds from the piece's beginning."""

    start: float
    end: float
    tokens: tuple[int, ...]


class Split(NamedTuple):
    """seek: the frame up to which the piece was heard. closed: Whisper itself says that nothing comes after.

    unended: it does not say where the last segment ends.
    """

    spans: tuple[Span, ...]
    seek: int
    closed: bool
    unended: bool

    @property
    def heard(self) -> int:
        """The frame of the last time that Whisper wrote."""
        return round(self.spans[-1].end / FRAME_SECONDS) if self.closed else self.seek


def split(tokens: Sequence[int], first_timestamp: int, frames: int, *, whole: bool = True) -> Split:
    """first_timestamp: the token of 0 s; all after it are timestamps. frames: of the piece, 10 ms each.

    whole: Whisper wrote all that it had to say, rather than as much as it may.
    """
    stamped = [token >= first_timestamp for token in tokens]
    closed = len(tokens) >= 2 and stamped[-1] and not stamped[-2]
    ends = [i for i in range(1, len(tokens)) if stamped[i] and stamped[i - 1]]
    if not ends:  # one segment, however long, leaves no place to go on from
        return Split((_whole(tokens, first_timestamp, frames),), frames, closed, not closed)
    if closed:
        ends.append(len(tokens))
    spans = []
    for start, end in zip([0, *ends], ends, strict=False):
        part = tuple(tokens[start:end])
        times = [(token - first_timestamp) * TIMESTAMP_SECONDS for token in (part[0], part[-1])]
        spans.append(Span(times[0], times[1], part))
    last = tokens[ends[-1] - 1] - first_timestamp
    rest = tuple(tokens[ends[-1] :])
    if whole and not closed and len(rest) > 1 and last * FRAMES_PER_TIMESTAMP < frames:
        spans.append(Span(last * TIMESTAMP_SECONDS, frames * FRAME_SECONDS, rest))
        return Split(tuple(spans), frames, closed, True)
    return Split(tuple(spans), frames if closed else last * FRAMES_PER_TIMESTAMP, closed, False)


def _whole(tokens: Sequence[int], first_timestamp: int, frames: int) -> Span:
    """One segment, between its timestamps if it has any."""
    stamps = [(token - first_timestamp) * TIMESTAMP_SECONDS for token in tokens if token >= first_timestamp]
    start = stamps[0] if stamps else 0.0
    end = stamps[-1] if stamps and stamps[-1] > start else frames * FRAME_SECONDS
    return Span(start, end, tuple(tokens))


def loops(text: str, tokens: Sequence[int], first_timestamp: int) -> bool:
    """Whether a text repeats itself as Whisper does that has lost its way: one phrase over and over.

    A text that only compresses well may be right: people repeat themselves too, in a chorus for one.
    """
    raw = text.encode()
    compressible = len(raw) > _MAX_COMPRESSION * len(zlib.compress(raw))
    return compressible and unlooped(tokens, first_timestamp) != tuple(tokens)


def unlooped(tokens: Sequence[int], first_timestamp: int) -> tuple[int, ...]:
    """The tokens with every run of one repeated phrase written once, and its later timestamps gone with it.

    For a text that repeats itself at every temperature: the loop is the model's, hardly ever the speaker's.
    """
    kept = list(tokens)
    for length in range(1, len(kept) // _LOOP + 1):
        start = 0
        while start + _LOOP * length <= len(kept):
            phrase = _text(kept[start : start + length], first_timestamp)
            end = start + length
            while phrase and _text(kept[end : end + length], first_timestamp) == phrase:
                end += length
            if end - start >= _LOOP * length:
                del kept[start + length : end]
            start += 1
    return tuple(kept)


def _text(tokens: Sequence[int], first_timestamp: int) -> list[int]:
    """Timestamps differ from one round of a loop to the next."""
    return [min(token, first_timestamp) for token in tokens]
