"""Pieces' sound joined: no clicks, no clipping, even loudness, short silences; the same in blocks of any size."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.fish.joints import HOP, TARGET, Audio, Joiner

RATE = 44_100
CEILING = 10 ** (-1 / 20)


@functools.cache
def voice(seconds: float, level: float = TARGET, seed: int = 0, rate: int = RATE) -> Audio:
    """Something like speech at `level` dBFS: a buzz of 120 Hz and some breath, in syllables of a quarter second."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    k = np.arange(1, 12)[:, None]
    buzz = (np.sin(2 * np.pi * 120 * k * t + k) / k).sum(axis=0) + 0.1 * rng.standard_normal(len(t))
    sound: Audio = buzz * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t))
    sound *= 10 ** (level / 20) / np.sqrt(np.mean(sound**2))
    return sound.astype(np.float32)


def silence(seconds: float, level: float = -80.0, rate: int = RATE) -> Audio:
    """What a codec makes of silence: faint noise."""
    noise = np.random.default_rng(1).standard_normal(round(seconds * rate))
    return (noise * 10 ** (level / 20)).astype(np.float32)


def decibels(sound: Audio) -> float:
    return float(10 * np.log10(np.mean(np.square(sound, dtype=np.float64))))


def joined(pieces: Sequence[Audio], pause: float = 0.1, block: int = 2048, joiner: Joiner | None = None) -> Audio:
    joiner = joiner or Joiner(RATE)
    out = []
    for piece in pieces:
        out += [joiner.push(piece[start : start + block]) for start in range(0, len(piece), block)]
        out.append(joiner.end_piece(pause))
    return np.concatenate(out)


def steps(sound: Audio) -> float:
    """The largest difference between two samples that follow one another."""
    return float(np.abs(np.diff(sound)).max())


@given(
    cuts=st.lists(st.integers(0, 30_000), max_size=12),
    lengths=st.lists(st.integers(0, 12_000), min_size=1, max_size=3),
    quiet=st.integers(0, 9_000),
    rate=st.sampled_from([RATE, 16_000, 22_050]),
)
@settings(max_examples=25, deadline=None)
def test_blocks_of_any_size_give_the_same_sound(cuts: list[int], lengths: list[int], quiet: int, rate: int) -> None:
    whole, pieced = Joiner(rate), Joiner(rate)
    for index, length in enumerate(lengths):
        sound = np.concatenate([silence(0.1), voice(1, -10.0 * index, index)[:length], silence(1)[:quiet]])
        expected = np.concatenate([whole.push(sound), whole.end_piece(0.01)])
        blocks = np.split(sound, sorted(cut for cut in cuts if cut < len(sound)))
        got = np.concatenate([*(pieced.push(block) for block in blocks), pieced.end_piece(0.01)])
        assert got.dtype == np.float32 and len(got) == len(expected)
        np.testing.assert_allclose(got, expected, atol=1e-6, rtol=0)
        assert pieced.loudness.gain == pytest.approx(whole.loudness.gain, abs=1e-6)


def test_the_first_push_is_heard_at_once() -> None:
    """At most 25 ms of a voice are held back, whatever has come of it."""
    sound = voice(1.0)
    for length in range(RATE // 40, RATE // 4, 997):
        assert len(Joiner(RATE).push(sound[:length])) >= length - 0.025 * RATE


def test_a_joint_does_not_click() -> None:
    """Pieces that begin and end at full swing: a step is no larger at their ends than within."""
    tone = (0.2 * np.cos(2 * np.pi * 110 * np.arange(RATE // 2) / RATE)).astype(np.float32)
    sound = joined([tone, tone, tone], pause=0.05)
    assert steps(np.concatenate([[0.0], sound, [0.0]])) <= 1.5 * steps(tone)
    assert steps(np.concatenate([np.zeros(1), tone])) > 10 * steps(tone)


@pytest.mark.parametrize("length", [3, 100, 440, 442, 700])
def test_the_shortest_pieces_are_faded_too(length: int) -> None:
    sound = joined([voice(1.0)[5_000 : 5_000 + length]], pause=0.0)
    assert len(sound) == length
    assert abs(sound[0]) < 0.01 and abs(sound[-1]) < 0.01


def test_a_quiet_piece_after_a_loud_one_is_soon_as_loud() -> None:
    joiner = Joiner(RATE)
    loud = joined([voice(4.0, -16)], joiner=joiner)
    assert abs(decibels(loud[-2 * RATE : -RATE]) - TARGET) < 1
    quiet = joined([voice(3.0, -24)], joiner=joiner)
    assert abs(decibels(quiet[RATE : 2 * RATE]) - TARGET) < 3
    assert abs(decibels(quiet[2 * RATE : 2 * RATE + RATE // 2]) - TARGET) < 1.5


def test_gain_is_bounded_and_moves_slowly() -> None:
    joiner, gains = Joiner(RATE), [0.0]
    sound = np.concatenate([voice(4.0, -45), voice(4.0, -3)])
    for start in range(0, len(sound), 441):
        joiner.push(sound[start : start + 441])
        gains.append(joiner.loudness.gain)
    assert max(gains) == pytest.approx(9) and min(gains) == pytest.approx(-9)
    assert np.abs(np.diff(gains)).max() <= 6 * HOP + 1e-9


def test_a_voice_as_loud_as_it_should_be_is_left_alone() -> None:
    sound = voice(3.0)
    middle = slice(RATE // 10, -RATE // 10)
    assert np.abs(20 * np.log10(np.std(joined([sound], pause=0)[middle]) / np.std(sound[middle]))) < 0.5


def test_a_soft_beginning_does_not_raise_the_gain() -> None:
    """A breath and a slow start of 0.3 s, then the voice as before: what follows is not louder for it."""
    joiner = Joiner(RATE)
    joined([voice(2.0)], joiner=joiner)
    before = joiner.loudness.gain
    joiner.push(np.concatenate([voice(0.3, TARGET - 30), silence(0.05)]))
    assert joiner.loudness.gain == pytest.approx(before, abs=0.1)


@pytest.mark.parametrize("level", [-6.0, 0.0, 20.0])
def test_a_hot_piece_does_not_clip(level: float) -> None:
    sound = joined([voice(1.0, level)])
    assert np.abs(sound).max() <= np.float32(CEILING)
    # Bent, not cut: no run of samples sits at the ceiling while the input is within the range of a codec.
    if level <= -6:
        assert np.count_nonzero(np.abs(sound) > 0.999 * CEILING) < 0.001 * len(sound)


def test_numbers_that_are_none_do_not_spoil_what_follows() -> None:
    spoiled = voice(1.0).copy()
    spoiled[4_000:4_010] = np.nan, np.inf, -np.inf, *[np.nan] * 7
    joiner = Joiner(RATE)
    sound = joined([spoiled, voice(1.0)], joiner=joiner)
    assert np.isfinite(sound).all()
    assert joiner.loudness.level == pytest.approx(TARGET, abs=1)


def test_a_crack_does_not_silence_what_follows() -> None:
    cracked = voice(1.0).copy()
    cracked[4_000] = 1e9
    joiner = Joiner(RATE)
    joined([cracked, voice(4.0, -26)], joiner=joiner)
    assert joiner.loudness.gain > 3


def test_long_silences_are_cut_and_speech_never() -> None:
    """0.05 s stay before and after the voice, half a second within it; every sample of voice comes through."""
    first, second = voice(1.0), voice(1.0, seed=3)
    piece = np.concatenate([silence(0.8), first, silence(0.3), second, silence(2.0), first, silence(0.9)])
    sound = joined([piece], pause=0.25)
    expected = 0.05 + 1.0 + 0.3 + 1.0 + 0.5 + 1.0 + 0.05 + 0.25
    assert len(sound) / RATE == pytest.approx(expected, abs=2.5 * HOP)
    assert np.count_nonzero(sound[-RATE // 4 :]) == 0
    assert np.abs(sound[: round(0.04 * RATE)]).max() < 0.001
    spoken = np.count_nonzero(np.abs(piece) > 0.01)
    assert np.count_nonzero(np.abs(sound) > 0.01) == pytest.approx(spoken, rel=0.003)


def test_a_short_silence_is_kept_as_it_is() -> None:
    piece = np.concatenate([silence(0.03), voice(0.5), silence(0.4), voice(0.5), silence(0.03)])
    assert len(joined([piece], pause=0.0)) == len(piece)


def test_silence_is_held_back_half_a_second_at_most() -> None:
    joiner = Joiner(RATE)
    out = [joiner.push(voice(1.0)), joiner.push(silence(5.0))]
    assert sum(map(len, out)) >= RATE - 0.025 * RATE
    out.append(joiner.push(voice(0.1)))
    assert len(out[-1]) <= 0.65 * RATE


def test_a_mute_piece_is_its_pause() -> None:
    assert len(joined([silence(2.0)], pause=0.25)) == RATE // 4
    assert len(joined([np.empty(0, dtype=np.float32)], pause=0.0)) == 0


def test_an_offset_stays_and_is_not_taken_for_sound() -> None:
    offset = np.float32(0.05)
    joiner = Joiner(RATE)
    assert len(joined([silence(1.0) + offset], pause=0.0, joiner=joiner)) == 0
    sound = joined([voice(2.0) + offset], pause=0.0, joiner=joiner)
    assert np.mean(sound[RATE // 2 : -RATE // 2]) == pytest.approx(offset, rel=0.1)
    assert joiner.loudness.gain == pytest.approx(0.0, abs=0.5)


def test_finish_ends_the_piece() -> None:
    ended, finished = Joiner(RATE), Joiner(RATE)
    sound = voice(0.5)
    assert np.array_equal(ended.push(sound), finished.push(sound))
    assert np.array_equal(ended.end_piece(0.0), finished.finish())
    assert len(finished.finish()) == 0


def test_it_costs_little_beside_the_model() -> None:
    """About 0.2 % of real time; a loop over samples would take more than all of it."""
    sound = voice(10.0)
    started = time.process_time()
    joined([sound])
    assert time.process_time() - started < 1.0
