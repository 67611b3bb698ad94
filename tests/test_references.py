"""A reference is one person's speech, even and trimmed, whatever file it came in; anything else is a typed error."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from contract.errors import InvalidInput, ServiceError
from media.audio import SAMPLE_RATE, Audio, decode, resampled
from media.encode import as_int16
from media.voice_recording import reference_sound
from tests.recordings import EXAMPLE, beep, write
from tests.test_audio import wav_header

RATE = 44_100
PHRASES = ((0.3, 2.3), (3.3, 4.4), (5.4, 7.7), (8.2, 10.5))
"""Where jfk.flac is spoken, in seconds."""


@pytest.fixture(scope="module")
def speech() -> Audio:
    return np.concatenate(list(decode(EXAMPLE, RATE)))


def silence(seconds: float) -> Audio:
    return np.zeros(round(seconds * RATE), np.float32)


def decibels(ratio: float) -> float:
    return 20 * float(np.log10(ratio))


def rms(audio: Audio) -> float:
    return float(np.sqrt(np.square(audio, dtype=np.float64).mean()))


def likeness(audio: Audio, other: Audio) -> float:
    """1 where one is the other at another level and another time."""
    size = len(audio) + len(other)
    together = np.fft.irfft(np.fft.rfft(audio, size) * np.conj(np.fft.rfft(other, size)), size)
    return float(together.max() / np.linalg.norm(audio) / np.linalg.norm(other))


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.wav", "pcm_s16le"),
        ("a.mp3", "libmp3lame"),
        ("a.flac", "flac"),
        ("a.ogg", "libopus"),
        ("a.m4a", "aac"),
        ("a.webm", "libopus"),
    ],
)
def test_formats_people_have_are_read(tmp_path: Path, speech: Audio, name: str, codec: str) -> None:
    path = write(tmp_path / name, np.stack([resampled(speech, RATE, 48_000) * 0.1] * 2), codec)
    sound = reference_sound(path.rename(tmp_path / "upload"), RATE)
    assert sound.dtype == np.float32
    assert len(sound) / RATE == pytest.approx(11, abs=0.1)
    assert likeness(sound, speech) > 0.98
    assert decibels(rms(sound)) == pytest.approx(-21, abs=1.5)  # pauses included


@pytest.mark.parametrize("gain", [-50, -30, 0, 20])
def test_level_is_even_whatever_was_recorded(tmp_path: Path, speech: Audio, gain: float) -> None:
    """From nearly silent to clipped; scaled, not bent."""
    recorded = (speech * np.float32(10 ** (gain / 20))).clip(-1, 32767 / 32768)
    sound = reference_sound(write(tmp_path / "a.wav", recorded, rate=RATE), RATE)
    spoken = [sound[round(start * RATE) : round(end * RATE)] for start, end in PHRASES]
    assert decibels(rms(np.concatenate(spoken))) == pytest.approx(-20, abs=0.3)
    assert np.abs(sound).max() <= 10 ** (-1 / 20) + 1e-6
    assert likeness(sound, recorded) > 0.999


def test_level_stops_where_a_peak_would_be_cut_off(tmp_path: Path, speech: Audio) -> None:
    quiet = speech * np.float32(0.05)
    quiet[5 * RATE] = 0.9
    sound = reference_sound(write(tmp_path / "a.wav", quiet, rate=RATE), RATE)
    assert decibels(float(np.abs(sound).max())) == pytest.approx(-1, abs=0.01)
    assert likeness(sound, quiet) > 0.999


@pytest.mark.parametrize("hiss", [0.0, 0.0005])
def test_silence_around_the_speech_is_trimmed_and_no_word_with_it(tmp_path: Path, speech: Audio, hiss: float) -> None:
    recorded = np.concatenate([silence(5), speech, silence(7)])
    recorded += np.random.default_rng(0).normal(0, hiss, len(recorded)).astype(np.float32)
    sound = reference_sound(write(tmp_path / "a.wav", recorded, rate=RATE), RATE)
    assert 11 <= len(sound) / RATE <= 11.7
    assert likeness(sound, speech) > 0.99


def test_a_short_word_keeps_a_second_of_sound(tmp_path: Path, speech: Audio) -> None:
    word = speech[round(9.1 * RATE) : round(9.7 * RATE)]
    for recorded in (np.concatenate([word, silence(2)]), np.concatenate([silence(2), word])):
        assert len(reference_sound(write(tmp_path / "a.wav", recorded, rate=RATE), RATE)) == pytest.approx(RATE, abs=9)


def test_the_longest_reference_is_a_minute(tmp_path: Path, speech: Audio) -> None:
    minute = np.tile(speech, 6)[: 60 * RATE]
    path = write(tmp_path / "a.wav", minute, rate=RATE)
    assert len(reference_sound(path, RATE)) == 60 * RATE
    assert len(reference_sound(path, SAMPLE_RATE)) == 60 * SAMPLE_RATE
    with pytest.raises(InvalidInput, match="more than 60 s long; send 1 to 60 s"):
        reference_sound(write(tmp_path / "b.wav", np.tile(speech, 6)[: 61 * RATE], rate=RATE), RATE)


@pytest.mark.parametrize(("seconds", "told"), [(599, "more than 60 s"), (36_000, "600 minutes")])
def test_hours_are_refused_after_a_minute_was_read(tmp_path: Path, seconds: int, told: str) -> None:
    path = tmp_path / "long.wav"
    size = seconds * SAMPLE_RATE * 2
    header = wav_header(1, SAMPLE_RATE)[:40] + size.to_bytes(4, "little")
    path.write_bytes(header[:4] + (size + 36).to_bytes(4, "little") + header[8:])
    os.truncate(path, size + 44)  # all silence, which takes no room on the disk
    before = bytes_read()
    with pytest.raises(InvalidInput, match=told):
        reference_sound(path, RATE)
    assert bytes_read() - before < 4_000_000


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def test_bad_references_are_told_what_to_send(tmp_path: Path, speech: Audio) -> None:
    time = np.arange(8 * RATE) / RATE
    noise = np.random.default_rng(0).normal(0, 0.1, len(time)).astype(np.float32)
    notes = sum(np.sin(2 * np.pi * pitch * time) * np.exp(-4 * (time % 0.5)) for pitch in (220, 277, 330, 440))
    for told, recorded in {
        "only 0.2 s": speech[RATE : RATE + RATE // 5],
        "silent": silence(5),
        "is silent": noise * np.float32(0.001),
        "No speech": noise,
        "No speech is": np.asarray(notes, np.float32) * np.float32(0.1),
        "No speech is heard": beep(3, at=1, rate=RATE),
        r"Only 0\.\d s of speech": np.concatenate([speech[RATE // 2 : RATE * 3 // 4], silence(3)]),
    }.items():
        path = write(tmp_path / "a.wav", recorded, rate=RATE)
        with pytest.raises(InvalidInput, match=rf"{told}.*; send 1 to 60 s of one person speaking") as refused:
            reference_sound(path, RATE)
        assert refused.value.details == {"field": "reference_audio"}


def test_files_without_sound_keep_their_error_and_name_the_field(tmp_path: Path) -> None:
    (tmp_path / "letter.mp3").write_text("This is a letter, not a voice.\n" * 1000)
    (tmp_path / "empty.wav").write_bytes(b"")
    write(tmp_path / "film.mp4", None, video=1)
    for name, code in {
        "letter.mp3": "UNSUPPORTED_MEDIA",
        "empty.wav": "UNSUPPORTED_MEDIA",
        "film.mp4": "NO_AUDIO",
        "gone.wav": "FILE_NOT_FOUND",
    }.items():
        with pytest.raises(ServiceError) as refused:
            reference_sound(tmp_path / name, RATE, "references")
        assert (refused.value.code, refused.value.details["field"]) == (code, "references")
        assert str(tmp_path) not in str(refused.value.answer())


def test_resampling_keeps_length_and_level(speech: Audio) -> None:
    assert np.array_equal(as_int16(resampled(speech, RATE, RATE)), as_int16(speech))
    low = resampled(speech, RATE, SAMPLE_RATE)
    assert len(low) == 11 * SAMPLE_RATE
    assert rms(low) == pytest.approx(rms(speech), rel=0.05)
