"""Cutting: pieces of at most 30 s, in silences, all speech in them, and the same again from any earlier cut."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from media.audio import BLOCK_SAMPLES, SAMPLE_RATE, Audio, decode
from media.speech import MAX_PIECE, WINDOW, Cut, Piece, cut
from tests.recordings import EXAMPLE

SPEECH = np.concatenate(list(decode(EXAMPLE)))


def silence(seconds: float) -> Audio:
    return np.zeros(int(seconds * SAMPLE_RATE), np.float32)


def blocks(audio: Audio, size: int = BLOCK_SAMPLES) -> Iterator[Audio]:
    return (audio[start : start + size] for start in range(0, len(audio), size))


def pieces(cuts: list[Cut]) -> list[Piece]:
    return [piece for cut in cuts for piece in cut.pieces]


@pytest.fixture(scope="module")
def lecture() -> Audio:
    """4 min 40 s: speech with pauses of many lengths, and two minutes of silence."""
    gaps = [0.2, 1, 5, 0.5, 120, 3, 0, 2.5, 9]
    return np.concatenate([part for gap in gaps for part in (SPEECH, silence(gap))])


@pytest.mark.parametrize("vad", [True, False])
def test_pieces_are_short_ordered_and_disjoint(lecture: Audio, vad: bool) -> None:
    cuts = list(cut(blocks(lecture), vad=vad))
    found = pieces(cuts)
    assert all(0 < len(piece.audio) <= MAX_PIECE for piece in found)
    assert all(left.end <= right.start for left, right in pairwise(found))
    assert all(bool(piece.speech) == vad for piece in found)
    assert all(0 <= span.start < span.end <= len(piece.audio) for piece in found for span in piece.speech)
    for piece in found:
        places = [round(piece.at(sample)) for sample in range(len(piece.audio))]
        assert np.array_equal(piece.audio, lecture[places])
        assert places[-1] == piece.end - 1
    assert cuts[-1].heard == len(lecture)
    assert [c.start for c in cuts[1:]] == [c.stop for c in cuts[:-1]]


def test_all_speech_is_in_a_piece_and_long_silence_in_none(lecture: Audio) -> None:
    inside = np.zeros(len(lecture), bool)
    for piece in pieces(list(cut(blocks(lecture), vad=True))):
        inside[piece.start : piece.end] = True
    energy = np.square(lecture).sum()
    assert np.square(lecture[inside]).sum() > 0.999 * energy
    assert inside.sum() < len(lecture) - 120 * SAMPLE_RATE


def test_without_vad_nothing_is_left_out(lecture: Audio) -> None:
    found = pieces(list(cut(blocks(lecture), vad=False)))
    assert np.array_equal(np.concatenate([piece.audio for piece in found]), lecture)


@pytest.mark.parametrize("vad", [True, False])
def test_cutting_again_from_any_window_gives_the_same_pieces(lecture: Audio, vad: bool) -> None:
    cuts = list(cut(blocks(lecture), vad=vad))
    assert len(cuts) > 2
    for number, first in enumerate(cuts):
        again = [c for c in cut(blocks(lecture, size=70_001), vad=vad, start=first.start) if c.stop > first.start]
        assert [(p.start, p.end) for p in pieces(again)] == [(p.start, p.end) for p in pieces(cuts[number:])]


def test_speech_without_a_pause_is_cut_where_it_is_quietest() -> None:
    """A hum of 70 s with a dip at 25 s and at 47 s."""
    hum = np.sin(np.arange(70 * SAMPLE_RATE) / 20).astype(np.float32)
    for dip in (25, 47):
        hum[dip * SAMPLE_RATE : int((dip + 0.2) * SAMPLE_RATE)] *= 0.01
    starts = [piece.start / SAMPLE_RATE for piece in pieces(list(cut(blocks(hum), vad=False)))]
    assert starts == pytest.approx([0, 25.1, 47.1], abs=0.05)


def test_silence_has_no_pieces() -> None:
    cuts = list(cut(blocks(silence(200)), vad=True))
    assert not pieces(cuts)
    assert cuts[-1].heard == 200 * SAMPLE_RATE
    assert not pieces(list(cut(blocks(silence(0)), vad=True)))


def test_the_way_to_a_later_start_is_interrupted_now_and_then() -> None:
    """So that other tasks get their turn while an hour is skipped."""
    cuts = list(cut(blocks(silence(3600)), vad=True, start=3590 * SAMPLE_RATE))
    assert len(cuts) >= 3600 * SAMPLE_RATE // WINDOW
    assert cuts[-1].heard == 3600 * SAMPLE_RATE
