"""A client's recording of a voice, checked and made fit to be a model's example of it.

    file ─▶ decode, at most 60 s ─▶ length ─▶ silent? ─▶ speech in it? ─▶ edges trimmed ─▶ level ─▶ samples
                  │ longer: refused, the rest unread        (Silero, 16 kHz)

Only ends that are neither speech nor audible are trimmed, so that no word of the recording's text is lost. Its level is
set by scaling alone: a reference that was clipped stays as clipped as it was.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from contract.errors import FileNotFound, InvalidInput, NoAudio, UnsupportedMedia
from media.audio import SAMPLE_RATE, Audio, decode, resampled
from media.container import probe

SHORTEST_SECONDS = 1.0
LONGEST_SECONDS = 60.0

_PLAINLY_TOO_LONG_SECONDS = 10 * LONGEST_SECONDS
"""Seconds that a file may claim of itself; some formats only estimate their length."""
_LEAST_SPEECH_SECONDS = 0.5
_EDGE_SECONDS = 0.3
"""Seconds of silence left before the first and after the last sound."""
_SILENT = 10 ** (-60 / 20)
"""A recording that never rises above -60 dBFS has nothing but its own noise in it."""
_AUDIBLE = 10 ** (-35 / 20)
"""Relative to the speech; an edge that is quieter is the sound of the room."""
_LEVEL = 10 ** (-20 / 20)
"""RMS of the speech in -20 dBFS, unless that lifts a peak above _PEAK."""
_PEAK = 10 ** (-1 / 20)
_HOP_SECONDS = 0.02

_ADVICE = "send 1 to 60 s of one person speaking, best 10 to 30 s."

Spans = list[tuple[int, int]]
"""From sample to sample, the end excluded."""


def reference_sound(path: Path, sample_rate: int, field: str = "reference_audio") -> Audio:
    """The recording as float32, mono, 1 to 60 s at `sample_rate`, its edges trimmed and its level even.

    field: the parameter that the client sent it in, which errors name.
    Raises: InvalidInput (too short, too long, silent, no speech in it), UnsupportedMedia, NoAudio, FileNotFound.
    """
    try:
        audio = _read(path, sample_rate, field)
    except UnsupportedMedia as exc:
        raise UnsupportedMedia(f"No sound can be read from the reference; {_ADVICE}", field=field) from exc
    except (NoAudio, FileNotFound) as exc:
        raise type(exc)(exc.message, **{**exc.details, "field": field}) from exc
    seconds = len(audio) / sample_rate
    if seconds < SHORTEST_SECONDS:
        raise InvalidInput(f"The reference is only {seconds:.2g} s long; {_ADVICE}", field=field)
    peak = float(np.abs(audio).max())
    if peak < _SILENT:
        raise InvalidInput(f"The reference is silent; {_ADVICE}", field=field)
    spans = _speech(audio / peak, sample_rate)
    if not spans:
        raise InvalidInput(f"No speech is heard in the reference, only other sounds; {_ADVICE}", field=field)
    spoken = sum(end - start for start, end in spans) / sample_rate
    if spoken < _LEAST_SPEECH_SECONDS:
        raise InvalidInput(f"Only {spoken:.1g} s of speech are heard in the reference; {_ADVICE}", field=field)
    loudness = _rms(np.concatenate([audio[start:end] for start, end in spans]))
    audio = _trimmed(audio, spans, loudness, sample_rate)
    return audio * np.float32(min(_LEVEL / loudness, _PEAK / float(np.abs(audio).max())))


def _read(path: Path, sample_rate: int, field: str) -> Audio:
    """The whole recording. Raises: InvalidInput when it is too long."""
    claimed = probe(path).duration
    if claimed is not None and claimed > _PLAINLY_TOO_LONG_SECONDS:
        raise _too_long(f"about {claimed / 60:.0f} minutes", field)
    blocks, samples = [], 0
    for block in decode(path, sample_rate):
        blocks.append(block)
        samples += len(block)
        if samples > LONGEST_SECONDS * sample_rate:
            raise _too_long("more than 60 s", field)
    return np.concatenate(blocks)


def _too_long(length: str, field: str) -> InvalidInput:
    return InvalidInput(f"The reference is {length} long; {_ADVICE}", field=field)


def _speech(audio: Audio, sample_rate: int) -> Spans:
    """Where Silero's detector hears speech."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    options = VadOptions(min_speech_duration_ms=100, min_silence_duration_ms=300, speech_pad_ms=0)
    found = get_speech_timestamps(resampled(audio, sample_rate, SAMPLE_RATE), options)
    scale = sample_rate / SAMPLE_RATE
    return [(round(span["start"] * scale), min(round(span["end"] * scale), len(audio))) for span in found]


def _trimmed(audio: Audio, spans: Spans, loudness: float, sample_rate: int) -> Audio:
    """The recording without its ends that are neither speech nor audible; a short edge and SHORTEST_SECONDS stay."""
    hop = round(_HOP_SECONDS * sample_rate)
    hops = np.pad(audio, (0, -len(audio) % hop)).reshape(-1, hop)
    audible = np.flatnonzero(np.square(hops).mean(axis=1) > (_AUDIBLE * loudness) ** 2)
    edge, shortest = round(_EDGE_SECONDS * sample_rate), round(SHORTEST_SECONDS * sample_rate)
    start = max(0, min(int(audible[0]) * hop, spans[0][0]) - edge)
    end = min(len(audio), max((int(audible[-1]) + 1) * hop, spans[-1][1]) + edge)
    return audio[min(start, len(audio) - shortest) : max(end, start + shortest)]


def _rms(audio: Audio) -> float:
    return float(np.sqrt(np.square(audio, dtype=np.float64).mean()))
