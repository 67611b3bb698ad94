"""Many channels as one: nothing that is said in one of them is lost, whatever the others hold."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from media.audio import SAMPLE_RATE, Audio, as_float, decode
from media.downmix import Downmix
from media.voice_recording import reference_sound
from tests.recordings import EXAMPLE, write

SPEECH = np.concatenate(list(decode(EXAMPLE)))
SILENCE = np.zeros_like(SPEECH)
HISS = np.random.default_rng(0).normal(0, 1e-3, SPEECH.shape).astype(np.float32)


def heard(folder: Path, *channels: Audio, name: str = "a.wav", codec: str = "pcm_s16le") -> Audio:
    return np.concatenate(list(decode(write(folder / name, np.stack(channels), codec, SAMPLE_RATE))))


def likeness(one: Audio, other: Audio) -> float:
    """1 where one is the other at another level, whatever its sign."""
    return abs(float(np.dot(one, other))) / float(np.linalg.norm(one) * np.linalg.norm(other))


def loudness(audio: Audio) -> Audio:
    """RMS of every half second."""
    halves = audio[: len(audio) // 8_000 * 8_000].reshape(-1, 8_000)
    levels: Audio = np.sqrt(np.square(halves).mean(axis=1))
    return levels


def test_one_channel_inverted_is_heard_as_loud_as_either(tmp_path: Path) -> None:
    mixed = heard(tmp_path, SPEECH, -SPEECH + HISS)
    assert likeness(mixed, SPEECH) > 0.99
    assert loudness(mixed) == pytest.approx(loudness(SPEECH), rel=0.05, abs=1e-3)


def test_two_speakers_with_a_channel_each_are_averaged(tmp_path: Path) -> None:
    interviewer, guest = SPEECH * (np.arange(len(SPEECH)) < 80_000), SPEECH[::-1] * (np.arange(len(SPEECH)) > 60_000)
    mixed = heard(tmp_path, interviewer, guest.astype(np.float32))
    assert np.abs(mixed - (interviewer + guest) / 2).max() < 1e-3
    assert np.abs(heard(tmp_path, SILENCE, SPEECH) - SPEECH / 2).max() < 1e-3


@pytest.mark.parametrize("order", [1, -1])
def test_a_sign_that_changes_in_the_middle_costs_nothing_and_does_not_click(tmp_path: Path, order: int) -> None:
    tone = 0.5 * np.sin(np.arange(5 * SAMPLE_RATE) * 2 * np.pi * 200 / SAMPLE_RATE).astype(np.float32)
    signs = np.where(np.arange(len(tone)) < len(tone) / 2, order, -order).astype(np.float32)
    mixed = heard(tmp_path, tone, tone * signs)
    quietest = loudness(mixed)[[0, 1, 2, 3, 5, 6, 7, 8, 9]].min()  # the other one holds the change
    assert quietest > 0.95 * loudness(tone).min()
    steepest = float(np.abs(np.diff(tone)).max())
    assert np.abs(np.diff(mixed)).max() < 1.5 * steepest


def test_five_channels_and_a_bass_are_mixed_for_the_voice(tmp_path: Path) -> None:
    for channels in (
        [SPEECH, -SPEECH, SILENCE, SILENCE, SILENCE, SILENCE],
        [SILENCE, SILENCE, SPEECH, SILENCE, SILENCE, SILENCE],
        [-SPEECH, SILENCE, SPEECH, SPEECH[::-1], SILENCE, SILENCE],
    ):
        mixed = heard(tmp_path, *channels, name="a.flac", codec="flac")
        assert likeness(mixed, SPEECH) > 0.98
        assert loudness(mixed).max() > 0.1 * loudness(SPEECH).max()


@pytest.mark.parametrize("count", [9, 25, 64])
def test_channels_without_a_place_are_averaged(count: int) -> None:
    """FFmpeg itself refuses to mix them."""
    samples = np.ascontiguousarray(np.tile((SPEECH * 32767).astype(np.int16)[:, np.newaxis], count))
    mixed = mixed_by(samples, f"{count} channels", 4_096)
    assert np.abs(mixed - SPEECH).max() < 1e-3


def test_what_comes_out_does_not_depend_on_how_the_frames_were_cut() -> None:
    signs = np.where(np.arange(len(SPEECH)) < 70_000, 1, -1)
    samples = (np.stack([SPEECH, SPEECH * signs], axis=1) * 32767).astype(np.int16)
    first, *others = (mixed_by(samples, "stereo", size) for size in (1_024, 999, 48_000))
    assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [SAMPLE_RATE, 48_000])
def test_samples_that_are_no_numbers_are_silent(tmp_path: Path, channels: int, rate: int) -> None:
    """As a broken filter leaves them in a file of floats; of the sound around them nothing is lost."""
    broken = np.full((channels, 2 * rate), 0.25, np.float32)
    broken[:, rate : rate + rate // 2] = np.nan
    sound = np.concatenate(list(decode(write(tmp_path / "a.wav", broken, "pcm_f32le", rate))))
    assert np.abs(sound[16_200:23_800]).max() == 0
    assert np.abs(sound[1_000:15_800] - 0.25).max() < 1e-3


def mixed_by(samples: np.ndarray, layout: str, size: int) -> Audio:
    """samples: int16, (n, channels). size: samples in a frame."""
    parts: list[np.ndarray] = []
    downmix: Downmix | None = None
    for start in range(0, len(samples), size):
        packed = np.ascontiguousarray(samples[start : start + size]).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, "s16", layout)
        frame.sample_rate = SAMPLE_RATE
        downmix = downmix or Downmix(frame, SAMPLE_RATE)
        parts += downmix.heard(frame)
    assert downmix
    return as_float(np.concatenate([*parts, *downmix.rest()]))


def test_a_voice_with_one_channel_inverted_is_a_voice(tmp_path: Path) -> None:
    sound = reference_sound(write(tmp_path / "a.wav", np.stack([SPEECH, -SPEECH]), rate=SAMPLE_RATE), SAMPLE_RATE)
    plain = reference_sound(write(tmp_path / "b.wav", SPEECH, rate=SAMPLE_RATE), SAMPLE_RATE)
    assert likeness(sound, plain) > 0.99
