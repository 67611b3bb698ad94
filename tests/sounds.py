"""Sounds in which nobody speaks, made by arithmetic: float, mono, 16 kHz; and speech with them before or under it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from media.audio import SAMPLE_RATE, Audio

Sound = npt.NDArray[np.floating]
Maker = Callable[[np.random.Generator, int], Sound]
"""Of so many samples, at any level."""

_NOTES = np.array([110, 130.8, 146.8, 164.8, 196, 220, 261.6, 293.7, 329.6, 392, 440])


def white(chance: np.random.Generator, count: int) -> Sound:
    return chance.standard_normal(count)


def pink(chance: np.random.Generator, count: int) -> Sound:
    spectrum = np.fft.rfft(chance.standard_normal(count))
    sound: Sound = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), count)
    return sound


def hum(chance: np.random.Generator, count: int) -> Sound:
    """Of the mains, with its harmonics."""
    waves = [_sine(50 * k, count, chance.uniform(0, 6)) / k for k in (1, 2, 3, 4, 5, 7)]
    sound: Sound = np.sum(waves, axis=0) + 0.02 * white(chance, count)
    return sound


def plucked(chance: np.random.Generator, count: int) -> Sound:
    """Strings (Karplus and Strong 1983), a note every eighth to half a second."""
    sound = np.zeros(count + 2 * SAMPLE_RATE)
    at = 0
    while at < count:
        string = chance.uniform(-1, 1, int(SAMPLE_RATE / chance.choice(_NOTES)))
        for _ in range(int(1.2 * SAMPLE_RATE / len(string))):
            sound[at : at + len(string)] += string
            string = 0.498 * (string + np.roll(string, 1))
            at += len(string)
        at += int(SAMPLE_RATE * (chance.choice([0.125, 0.25, 0.25, 0.5]) - 1.2))
    return sound[:count]


def band(chance: np.random.Generator, count: int) -> Sound:
    """Four chords over a drum, for ever."""
    beat = np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
    drum = 0.4 * np.sin(2 * np.pi * 60 * beat) * np.exp(-12 * beat)
    drum += 0.1 * chance.standard_normal(len(beat)) * np.exp(-20 * beat)
    chords = [(262, 330, 392), (220, 262, 330), (175, 220, 262), (196, 247, 294)]
    played = [sum(0.1 * np.sin(2 * np.pi * tone * beat) * np.exp(-2 * beat) for tone in chord) for chord in chords]
    return np.resize(np.concatenate([played[number // 4 % 4] + drum for number in range(16)]), count)


def bowed(chance: np.random.Generator, count: int) -> Sound:
    """A violin's notes, with vibrato."""
    notes: list[Sound] = []
    while sum(map(len, notes)) < count:
        length = int(SAMPLE_RATE * chance.uniform(0.3, 1.2))
        time = np.arange(length) / SAMPLE_RATE
        tone = 2 * chance.choice(_NOTES)
        phase = 2 * np.pi * tone * time + tone / 66 * np.sin(2 * np.pi * 5.5 * time)
        swell = np.minimum(1, np.minimum(time, time[::-1]) / 0.08)
        notes.append(swell * sum(np.sin(k * phase) / k for k in range(1, 8)))
    return np.concatenate(notes)[:count]


def tones(chance: np.random.Generator, count: int) -> Sound:
    """As telephones make them."""
    parts: list[Sound] = []
    while sum(map(len, parts)) < count:
        pitch = chance.choice([350, 440, 480, 620, 697, 770, 852, 941, 1000, 1209, 1336, 1477])
        parts.append(_sine(pitch, int(SAMPLE_RATE * chance.uniform(0.1, 0.8))))
        parts.append(np.zeros(int(SAMPLE_RATE * chance.choice([0.05, 0.2, 0.5]))))
    return np.concatenate(parts)[:count]


def sweep(chance: np.random.Generator, count: int) -> Sound:
    """Up four octaves in four seconds, again and again."""
    pitch = 200 * 2 ** (np.arange(count) / SAMPLE_RATE % 4)
    return np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE + chance.uniform(0, 6))


def clicks(chance: np.random.Generator, count: int) -> Sound:
    return _struck(chance, count, 0.03, lambda time: chance.standard_normal(len(time)) * np.exp(-time * 200))


def knocks(chance: np.random.Generator, count: int) -> Sound:
    def knock(time: Sound) -> Sound:
        struck: Sound = np.sin(2 * np.pi * chance.uniform(80, 300) * time) * np.exp(-time * 30)
        return struck

    return _struck(chance, count, 0.15, knock)


UNSPOKEN: dict[str, Maker] = {
    maker.__name__: maker for maker in (white, pink, hum, plucked, band, bowed, tones, sweep, clicks, knocks)
}
MUSIC = (plucked, band, bowed)


def unspoken(kind: str, seconds: float, decibels: float, seed: int = 0) -> Audio:
    """decibels: its RMS below full scale; clipped where its peaks do not fit."""
    sound = UNSPOKEN[kind](np.random.default_rng(seed), int(seconds * SAMPLE_RATE))
    return leveled(sound, 10 ** (decibels / 20))


def leveled(sound: Sound, level: float) -> Audio:
    """The same with this RMS, clipped at full scale."""
    return (sound * (level / rms(sound))).clip(-1, 1).astype(np.float32)


def rms(sound: Sound) -> float:
    return float(np.sqrt(np.square(sound, dtype=np.float64).mean())) or 1e-9


def _sine(pitch: float, count: int, phase: float = 0.0) -> Sound:
    return np.sin(2 * np.pi * pitch * np.arange(count) / SAMPLE_RATE + phase)


def _struck(chance: np.random.Generator, count: int, seconds: float, stroke: Callable[[Sound], Sound]) -> Sound:
    """Strokes up to 1.5 s apart."""
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    sound = np.zeros(count + len(time))
    at = 0
    while at < count:
        sound[at : at + len(time)] += stroke(time)
        at += int(SAMPLE_RATE * chance.uniform(0.05, 1.5))
    return sound[:count]
