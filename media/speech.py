"""Cuts a stream of sound into pieces that a speech model takes at once: at most 30 s, cut in silences.

    blocks ─▶ window of 120 s ─▶ spans of speech (VAD) ─▶ spans longer than 30 s cut where it is quietest
                   ▲                                        ─▶ neighbours packed into pieces ─▶ Cut
                   └───────── what may go on beyond the window is cut again with the next one ◀──┘

A piece is one stretch of the recording without the longer of its silences, which `Piece.at` adds to a time within it.
Long silences lie in no piece. A long gap ends a window and is passed over, however long it is; the next window begins
shortly before the sound goes on. A window depends on nothing but where it starts: cutting from a `Cut.start` again
gives the same pieces, which is how an interrupted transcription goes on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterable
from functools import partial

import numpy as np

from media.audio import SAMPLE_RATE, Audio, Gap
from media.detector import Span, Speech, speech

MAX_PIECE = 30 * SAMPLE_RATE
"""Samples that Whisper's encoder hears at once."""
WINDOW = 4 * MAX_PIECE
"""Samples in a window. It bounds the memory, and holds more than a piece and a pause, so that every window gets on."""

JOIN_GAP = 2 * SAMPLE_RATE
"""Speech after a longer silence begins a new piece: Whisper invents words in long silences."""
CHANGE_GAP = SAMPLE_RATE * 4 // 5
"""The same limit for recordings of several languages; the language hardly ever changes in a shorter pause."""
_MARGIN = SAMPLE_RATE
"""Samples that the next window hears again, in case a word begins right at the border."""
_EARLIEST_CUT = MAX_PIECE * 2 // 3
_ENERGY_HOP = SAMPLE_RATE // 40

_PADDING = SAMPLE_RATE * 2 // 5
"""Samples of silence left on either side of speech. Whisper errs more with less, as measured on the tests' clips."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """start: samples from the recording's beginning. audio: at most MAX_PIECE samples from there on.

    speech: where in the audio somebody speaks, as far as the voice detector was asked; empty if it was not.
    sure: whether the detector is; if not, it may be a sound like speech, and whoever hears it has to judge.
    left_out: places in the audio, and how many samples of silence are not there.
    """

    start: int
    audio: Audio
    speech: tuple[Span, ...] = ()
    left_out: tuple[tuple[int, int], ...] = ()
    sure: bool = True

    @property
    def end(self) -> int:
        return self.start + len(self.audio) + sum(left for _, left in self.left_out)

    def at(self, sample: float, *, ends: bool = False) -> float:
        """Where in the recording a place in the audio is. ends: of what ends there, rather than begins."""
        passed = (left for place, left in self.left_out if place < sample or (place == sample and not ends))
        return self.start + sample + sum(passed)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """The pieces of one window, maybe none. start, stop: where it and the next one begin; heard: samples decoded."""

    start: int
    stop: int
    pieces: tuple[Piece, ...]
    heard: int


def cut(
    blocks: Iterable[Audio | Gap], *, vad: bool, start: int = 0, gap: int = JOIN_GAP, threads: int = 1
) -> Generator[Cut, None, None]:
    """Cut a recording; the last Cut's `heard` is its length.

    blocks: the recording from its beginning. start: an earlier Cut's `start` or `stop`; what lies before is skipped,
    with an empty Cut now and then so that the caller can do something else. vad: leave out what is not speech.
    gap: samples of silence within a piece, at most JOIN_GAP. threads: of the voice detector.
    """
    find = partial(speech, threads=threads) if vad else None
    begin, heard, skipped = start, 0, 0
    held = np.empty(0, np.float32)
    for block in blocks:
        if isinstance(block, Gap):
            heard += block.samples
            pieces = _cut_window(_then_silence(held), begin, find, gap, last=True)[0] if len(held) else ()
            stop = max(start, heard - _MARGIN)
            yield Cut(begin, stop, pieces, heard)
            begin, held = stop, np.zeros(max(0, heard - stop), np.float32)
            continue
        fresh = block[max(0, start - heard) :]
        heard += len(block)
        skipped += len(block) - len(fresh)
        if skipped >= WINDOW:
            skipped = 0
            yield Cut(start, start, (), heard)
        held = np.concatenate([held, fresh])
        if len(held) >= WINDOW:
            pieces, used = _cut_window(held[:WINDOW], begin, find, gap, last=False)
            yield Cut(begin, begin + used, pieces, heard)
            begin, held = begin + used, held[used:]
    pieces, used = _cut_window(held, begin, find, gap, last=True)
    yield Cut(begin, begin + used, pieces, heard)


def _then_silence(window: Audio) -> Audio:
    return np.concatenate([window, np.zeros(_MARGIN, np.float32)])


def _cut_window(
    window: Audio, begin: int, find: Callable[[Audio], Speech] | None, gap: int, *, last: bool
) -> tuple[tuple[Piece, ...], int]:
    """Pieces and how many samples are done with. find: finds speech; None to take all for it."""
    found = find(window) if find else Speech((), ())
    padded = _padded(found.spans, len(window)) if find else [Span(0, len(window))]
    packed = pack([part for span in padded for part in split(window, span)], gap)
    used = len(window)
    if not last:
        used -= _MARGIN
        if packed and len(window) - packed[-1][-1].end < JOIN_GAP:  # may go on beyond the window
            used = packed.pop()[0].start
    return tuple(_piece(window, begin, spans, found) for spans in packed), used


def _piece(window: Audio, begin: int, spans: list[Span], found: Speech) -> Piece:
    audio = np.concatenate([window[start:end] for start, end in spans])
    spoken: list[Span] = []
    left_out = []
    length = 0
    for number, span in enumerate(spans):
        spoken += (Span(start + length, end + length) for start, end in _within(found.spans, span))
        length += span.end - span.start
        if number + 1 < len(spans) and spans[number + 1].start > span.end:
            left_out.append((length, spans[number + 1].start - span.end))
    start, end = spans[0].start, spans[-1].end
    sure = [sure for span, sure in zip(*found, strict=True) if span.start < end and start < span.end]
    return Piece(begin + start, audio, tuple(spoken), tuple(left_out), any(sure) or not sure)


def _padded(speech: tuple[Span, ...], length: int) -> list[Span]:
    """The spans with some of the silence around them; of the silence between two, each takes at most half."""
    edges = [-2 * _PADDING, *(edge for span in speech for edge in span), length + 2 * _PADDING]
    before = [min(_PADDING, (start - end) // 2) for end, start in zip(edges[::2], edges[1::2], strict=True)]
    return [Span(max(0, start - before[i]), min(length, end + before[i + 1])) for i, (start, end) in enumerate(speech)]


def _within(speech: tuple[Span, ...], piece: Span) -> tuple[Span, ...]:
    """The part of the speech that lies in a piece, counted from its start."""
    cut = (Span(max(start, piece.start), min(end, piece.end)) for start, end in speech)
    return tuple(Span(start - piece.start, end - piece.start) for start, end in cut if start < end)


def split(audio: Audio, span: Span) -> list[Span]:
    """A span in parts of at most MAX_PIECE, cut where the sound is quietest in the last third of each."""
    start, end = span
    parts = []
    while end - start > MAX_PIECE:
        at = start + _EARLIEST_CUT + _quietest(audio[start + _EARLIEST_CUT : start + MAX_PIECE])
        parts.append(Span(start, at))
        start = at
    return [*parts, Span(start, end)] if end > start else parts


def _quietest(audio: Audio) -> int:
    """The middle of the quietest 0.2 s."""
    hops = audio[: len(audio) // _ENERGY_HOP * _ENERGY_HOP].reshape(-1, _ENERGY_HOP)
    energy = np.convolve(np.square(hops).mean(axis=1), np.ones(8), mode="valid")
    return (int(energy.argmin()) + 4) * _ENERGY_HOP


def pack(spans: list[Span], gap: int) -> list[list[Span]]:
    """Neighbouring spans grouped, while a group fits into MAX_PIECE and no long silence lies in it."""
    packed: list[list[Span]] = []
    length = 0
    for span in spans:
        if packed and length + span.end - span.start <= MAX_PIECE and span.start - packed[-1][-1].end <= gap:
            packed[-1].append(span)
        else:
            packed.append([span])
            length = 0
        length += span.end - span.start
    return packed
