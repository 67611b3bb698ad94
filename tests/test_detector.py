"""The voice detector spares silence and noise, and loses no words for it: not after music, nor softly begun."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from media.audio import SAMPLE_RATE, Audio, decode
from media.detector import FRAME, probabilities, runs, speech
from media.speech import Piece, cut
from media.utterances import Utterances
from tests.recordings import EXAMPLE
from tests.sounds import MUSIC, UNSPOKEN, leveled, rms, unspoken
from tests.spoken import Clip, clips, cut_at_random

CLIPS = clips(Path(os.environ.get("OPTIVUS_TEST_MODELS", "nowhere")).parent / "media" / "speech")
Pieces = Callable[[Audio], list[Piece]]
SOFT = CLIPS[0].audio[3 * SAMPLE_RATE :]
"""Begins 0.3 s before the softest phrase of the example."""


def pieces_of_a_file(audio: Audio) -> list[Piece]:
    return [piece for window in cut([audio], vad=True) for piece in window.pieces]


def pieces_of_a_microphone(audio: Audio) -> list[Piece]:
    utterances = Utterances()
    blocks = [audio[start : start + 4_000] for start in range(0, len(audio), 4_000)]
    return [piece for block in blocks for piece in utterances.feed(block)] + utterances.feed(audio[:0], last=True)


def spans(pieces: Iterable[Piece]) -> list[tuple[float, float]]:
    """Where somebody speaks, in seconds of the recording."""
    return [
        (piece.at(start) / SAMPLE_RATE, piece.at(end, ends=True) / SAMPLE_RATE)
        for piece in pieces
        for start, end in piece.speech
    ]


def cuts(count: int) -> list[Clip]:
    chance = np.random.default_rng(0)
    return [cut_at_random(CLIPS[number % len(CLIPS)], chance) for number in range(count)]


@pytest.mark.parametrize("pieces", [pieces_of_a_file, pieces_of_a_microphone])
def test_no_word_of_200_random_cuts_is_lost(pieces: Pieces) -> None:
    found = cuts(200)
    lost = sum(clip.outside(spans(pieces(clip.audio))) for clip in found)
    assert lost <= 0.002 * sum(len(clip.words) for clip in found)


@pytest.mark.parametrize("pieces", [pieces_of_a_file, pieces_of_a_microphone])
def test_no_word_is_lost_after_music(pieces: Pieces) -> None:
    """As loud as the speech, 30 s; the detector by itself loses a third of them."""
    music = [maker(np.random.default_rng(number), 30 * SAMPLE_RATE) for number, maker in enumerate(MUSIC)]
    found = [clip.after(leveled(music[number % 3], rms(clip.audio))) for number, clip in enumerate(cuts(30))]
    lost = sum(clip.outside(spans(pieces(clip.audio))) for clip in found)
    assert lost <= 0.002 * sum(len(clip.words) for clip in found)


@pytest.mark.parametrize("pieces", [pieces_of_a_file, pieces_of_a_microphone])
def test_a_soft_beginning_is_heard(pieces: Pieces) -> None:
    (first, *_) = spans(pieces(SOFT))
    assert first[0] < 0.5


@pytest.mark.parametrize("pieces", [pieces_of_a_file, pieces_of_a_microphone])
@pytest.mark.parametrize("kind", UNSPOKEN)
def test_sounds_without_speech_are_left_out_or_doubted(kind: str, pieces: Pieces) -> None:
    for decibels in (-50, -20):
        sound = unspoken(kind, 20, decibels)
        found = pieces(sound)
        assert not any(piece.sure for piece in found)
        assert sum(len(piece.audio) for piece in found) < 0.6 * len(sound)


def test_both_directions_speak_of_the_same_frames() -> None:
    """A word in the middle of silence, at the places that its energy has."""
    silence = np.zeros(10 * SAMPLE_RATE, np.float32)
    audio = np.concatenate([silence, CLIPS[0].audio[int(5.4 * SAMPLE_RATE) : int(7.4 * SAMPLE_RATE)], silence])
    for backwards in (False, True):
        likely = np.flatnonzero(probabilities(audio, backwards=backwards) > 0.5) * FRAME / SAMPLE_RATE
        assert 9.9 < likely.min() < 10.4
        assert 11.6 < likely.max() < 12.1


def test_short_silences_end_no_run() -> None:
    assert runs(np.array([0, 0.4, 0.25, 0.1, 0.25, 0.1, 0.4], np.float32), 0.13) == [(1, 7)]
    assert runs(np.array([0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.4, 0.25], np.float32), 0.13) == [(0, 1), (6, 8)]


def test_nothing_is_no_speech() -> None:
    assert speech(np.empty(0, np.float32)) == ((), ())
    assert speech(np.zeros(100, np.float32)) == ((), ())


def test_several_threads_hear_what_one_does() -> None:
    sound = np.concatenate([*decode(EXAMPLE)] * 6)
    for backwards in (False, True):
        together = probabilities(sound, backwards=backwards, threads=3)
        assert np.array_equal(together, probabilities(sound, backwards=backwards))
