"""What the voice detector loses and what it makes up, against Silero's own rule, forwards only.

    .venv/bin/python -m bench.detector [SPEECH] [--cuts 200] [--seconds 20] [--models DIR …]

SPEECH is a folder of short clips with `transcripts.json`: [{"file", "text", "words": [{"word", "start", "end"}]}, …];
the repository's example is always among them. Three tables:

- `lost`: of random cuts of the clips, alone and with music, tones and noise before, around and under them, quieter, and
  as a telephone has them: the share of words that lie in no span of speech, and in no piece that Whisper hears.
- `made up`: of sounds in which nobody speaks: how many of them have spans, and how many seconds of them Whisper hears.
  With `--models` (folders of Whisper weights): how many of them have a text.
- `time`: CPU seconds for a second of speech and of music.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from media.audio import SAMPLE_RATE, Audio
from media.speech import Piece, cut
from media.utterances import Utterances
from tests.drive import Recorder, drive, folders
from tests.recordings import write
from tests.sounds import MUSIC, UNSPOKEN, leveled, rms, unspoken
from tests.spoken import Clip, clips, cut_at_random

Spans = list[tuple[float, float]]
"""Seconds."""
_HEARD = 0.4
"""Seconds around a span that Whisper hears."""
_DECIBELS = (-50, -35, -20, -12)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("speech", type=Path, nargs="?", default=Path("nowhere"))
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--models", type=Path, nargs="*", default=[])
    args = parser.parse_args()
    found = clips(args.speech)
    lost(found, args.cuts)
    made_up(args.seconds, args.models)
    cost(found)


def silero(audio: Audio) -> Spans:
    """The spans by the library's own rule, with a threshold of 0.5, in windows of two minutes."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    options = VadOptions(min_speech_duration_ms=200, min_silence_duration_ms=500, speech_pad_ms=0)
    found = get_speech_timestamps(audio, options)
    return [(span["start"] / SAMPLE_RATE, span["end"] / SAMPLE_RATE) for span in found]


def file(audio: Audio) -> Spans:
    """The spans of speech that our detector finds in a file."""
    return _spans(piece for window in cut([audio], vad=True) for piece in window.pieces)


def microphone(audio: Audio) -> Spans:
    """The spans that it finds while the sound is spoken, a quarter of a second at a time."""
    utterances = Utterances()
    blocks = (audio[start : start + 4_000] for start in range(0, len(audio), 4_000))
    ended = [piece for block in blocks for piece in utterances.feed(block)]
    return _spans(iter([*ended, *utterances.feed(audio[:0], last=True)]))


WAYS: tuple[Callable[[Audio], Spans], ...] = (silero, file, microphone)


def _spans(pieces: Iterator[Piece]) -> Spans:
    return [
        (piece.at(start) / SAMPLE_RATE, piece.at(end, ends=True) / SAMPLE_RATE)
        for piece in pieces
        for start, end in piece.speech
    ]


def lost(found: list[Clip], count: int) -> None:
    print("| cuts | words |" + "".join(f" {way.__name__}, outside spans | unheard |" for way in WAYS))
    print("|---|---|" + "---|---|" * len(WAYS))
    for name, made in CONDITIONS.items():
        chance = np.random.default_rng(0)
        made_of = [made(cut_at_random(found[number % len(found)], chance), chance) for number in range(count)]
        words = sum(len(clip.words) for clip in made_of)
        row = f"| {name} | {words} |"
        for way in WAYS:
            spans = [way(clip.audio) for clip in made_of]
            outside = sum(clip.outside(heard) for clip, heard in zip(made_of, spans, strict=True))
            wider = [[(start - _HEARD, end + _HEARD) for start, end in heard] for heard in spans]
            unheard = sum(clip.outside(heard) for clip, heard in zip(made_of, wider, strict=True))
            row += f" {100 * outside / words:.2f} % | {100 * unheard / words:.2f} % |"
        print(row, flush=True)


def _sound(kind: str, clip: Clip, seconds: float, chance: np.random.Generator, decibels: float = 0.0) -> Audio:
    """A sound to stand beside a clip. decibels: how much louder the clip is."""
    maker = MUSIC[chance.integers(len(MUSIC))] if kind == "music" else UNSPOKEN[kind]
    return leveled(maker(chance, int(seconds * SAMPLE_RATE)), rms(clip.audio) * 10 ** (-decibels / 20))


def _after(kind: str, seconds: float) -> Callable[[Clip, np.random.Generator], Clip]:
    return lambda clip, chance: clip.after(_sound(kind, clip, seconds, chance))


def _under(kind: str, decibels: float) -> Callable[[Clip, np.random.Generator], Clip]:
    def mixed(clip: Clip, chance: np.random.Generator) -> Clip:
        sound = _sound(kind, clip, len(clip.audio) / SAMPLE_RATE + 1, chance, decibels)[: len(clip.audio)]
        return clip._replace(audio=(clip.audio + sound).clip(-1, 1))

    return mixed


def _between(clip: Clip, chance: np.random.Generator) -> Clip:
    around = clip.after(_sound("music", clip, 10, chance))
    return around._replace(audio=np.concatenate([around.audio, _sound("music", clip, 10, chance)]))


def _quiet(clip: Clip, chance: np.random.Generator) -> Clip:
    """The speech 35 dB quieter, rounded to 16 bits."""
    return clip._replace(audio=(np.round(clip.audio * 10 ** (-35 / 20) * 32768) / 32768).astype(np.float32))


def _telephone(clip: Clip, chance: np.random.Generator) -> Clip:
    """The speech as a telephone has it: 300 to 3400 Hz, 20 dB quieter."""
    spectrum = np.fft.rfft(clip.audio)
    pitch = np.fft.rfftfreq(len(clip.audio), 1 / SAMPLE_RATE)
    spectrum[(pitch < 300) | (pitch > 3400)] = 0
    return clip._replace(audio=(0.1 * np.fft.irfft(spectrum, len(clip.audio))).astype(np.float32))


CONDITIONS: dict[str, Callable[[Clip, np.random.Generator], Clip]] = {
    "alone": lambda clip, chance: clip,
    "after 30 s of music": _after("music", 30),
    "between music": _between,
    "after tones": _after("tones", 10),
    "after noise": _after("pink", 10),
    "after hum": _after("hum", 10),
    "over music, 5 dB": _under("music", 5),
    "over noise, 5 dB": _under("pink", 5),
    "quiet": _quiet,
    "quiet telephone": _telephone,
}


def made_up(seconds: float, models: list[Path]) -> None:
    sounds = {f"{kind} {level} dB": unspoken(kind, seconds, level) for kind in UNSPOKEN for level in _DECIBELS}
    sounds["silence"] = np.zeros(int(seconds * SAMPLE_RATE), np.float32)
    print("\n| detector | sounds | with spans | seconds heard, of all |\n|---|---|---|---|")
    for way in WAYS:
        spans = [way(sound) for sound in sounds.values()]
        heard = sum(end - start + 2 * _HEARD for found in spans for start, end in found)
        print(
            f"| {way.__name__} | {len(sounds)} | {sum(map(bool, spans))} | {heard:.0f} of {seconds * len(sounds):.0f} |"
        )
    for model in models:
        texts = {name: text for name, text in _texts(model, sounds) if text}
        print(f"\n{model.name}: {len(texts)} of {len(sounds)} with a text {texts or ''}")


def _texts(model: Path, sounds: dict[str, Audio]) -> Iterator[tuple[str, str]]:
    from workers.whisper.worker import Whisper, WhisperSettings

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        worker = Whisper(WhisperSettings(model=str(model), threads=1), folders(folder))
        worker.load()
        for kind, sound in sounds.items():
            path = write(folder / "sound.wav", sound, rate=SAMPLE_RATE)
            result, _ = drive(worker, {"file": path}, Recorder(folder))
            yield kind, result["text"]


def cost(found: list[Clip]) -> None:
    speech = np.resize(np.concatenate([clip.audio for clip in found]), 120 * SAMPLE_RATE)
    print("\n| CPU ms for a second of | " + " | ".join(way.__name__ for way in WAYS) + " |\n|---|" + "---|" * len(WAYS))
    for name, sound in {"speech": speech, "music": unspoken("plucked", 120, -20)}.items():
        row = f"| {name} |"
        for way in WAYS:
            began = time.process_time()
            way(sound)
            row += f" {1000 * (time.process_time() - began) / 120:.1f} |"
        print(row)


if __name__ == "__main__":
    main()
