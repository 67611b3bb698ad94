"""The sound of any file as float32 mono at one rate, streamed: a ten-hour file is never whole in memory.

    open file ─▶ demuxer (whitelist) ─▶ packets ─▶ frames ─▶ one channel, one rate ─▶ blocks of at most 10 s
                                          damaged ones skipped ┘   └ silence, or a Gap, where the timestamps leave one

Sample n of all blocks is heard at n / sample_rate s on the clock that players show, which starts with the container:
sound that starts late is preceded by silence, and silence stands for packets that were lost. A file of a few bytes may
claim days of it, so what is long stays a number, a Gap, for those who can pass over it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.stream import Discard

from contract.errors import NoAudio, UnsupportedMedia
from media import tracks
from media.container import duration_of, opened, packets, raise_if_memory_ran_out
from media.downmix import Downmix

Audio = npt.NDArray[np.float32]
"""float32, shape (n_samples,), mono, in [-1, 1], at SAMPLE_RATE where nothing else is said."""


@dataclasses.dataclass(frozen=True, slots=True)
class Gap:
    """So many samples of silence."""

    samples: int


SAMPLE_RATE = 16_000
"""Hz. Speech recognition and speech detection take sound at this rate."""
BLOCK_SECONDS = 10
BLOCK_SAMPLES = BLOCK_SECONDS * SAMPLE_RATE

_RATES = range(4_000, 768_000 + 1)
_MAX_CHANNELS = 64
"""No recorder writes more. A resampler's tables grow with the rate, so a made-up header could ask for gigabytes."""

_GAP_SECONDS = 0.1
"""A timestamp further ahead than this is a gap; below it is the container's rounding."""
LONG_GAP_SECONDS = 5
"""A gap of at least so much is told as one; shorter ones are silence in the sound."""
_LONGEST_GAP_SECONDS = 3600.0
"""The longest gap that is believed where the container does not say how long it is."""


def decode(path: Path, sample_rate: int = SAMPLE_RATE, track: str | None = None) -> Iterator[Audio]:
    """As `sound_of`, with long gaps as blocks of silence. For those who bound how much they take."""
    for part in sound_of(path, sample_rate, track):
        if isinstance(part, Gap):
            block = BLOCK_SECONDS * sample_rate
            sizes = (min(block, part.samples - begin) for begin in range(0, part.samples, block))
            yield from (np.zeros(size, np.float32) for size in sizes)
        else:
            yield part


def sound_of(path: Path, sample_rate: int = SAMPLE_RATE, track: str | None = None) -> Iterator[Audio | Gap]:
    """The file's sound in blocks of BLOCK_SECONDS, the last one and those before gaps shorter; see the module.

    sample_rate: Hz, of the blocks; the file's own may be any.
    track: which stream (`media.tracks`); default: the one that players choose.
    Raises: UnsupportedMedia, NoAudio, InvalidInput (no such track), FileNotFound.
    """
    with opened(path) as container:
        stream = audio_stream(container, track)
        heard = False
        for block in _blocks(aligned(container, stream, sample_rate), BLOCK_SECONDS * sample_rate):
            heard = True
            yield block
        if not heard:
            raise UnsupportedMedia(
                "The sound in this file cannot be decoded: it is damaged or cut short. "
                "Convert it to mp3 or wav and send it again.",
                field="file",
            )


def resampled(audio: Audio, rate: int, to: int) -> Audio:
    """The same sound at another rate. rate, to: Hz."""
    if rate == to or not len(audio):
        return audio
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio[np.newaxis]), "fltp", "mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler("fltp", "mono", to)
    pieces = [piece.to_ndarray().reshape(-1) for part in (frame, None) for piece in resampler.resample(part)]
    return np.concatenate(pieces).clip(-1, 1)


def audio_stream(container: Any, track: str | None = None) -> Any:
    """The audio stream that `track` names, else the one that players choose; the others are not read.

    Raises: NoAudio, UnsupportedMedia, InvalidInput (no such track).
    """
    if not container.streams.audio:
        if container.streams.video:
            raise NoAudio("This file has no sound; send one with an audio track.", field="file")
        raise UnsupportedMedia("There is neither sound nor picture in this file; send audio or video.", field="file")
    try:
        stream = _best(container) if track is None else tracks.chosen(container.streams.audio, track)
    except (av.FFmpegError, IndexError) as exc:
        raise _undecodable("unknown") from exc
    if stream.codec_context is None:
        raise _undecodable("unknown")
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all  # the demuxer need not read pictures from disk
    return stream


def _best(container: Any) -> Any:
    return container.streams.best("audio") or container.streams.audio[0]


def _undecodable(codec: str) -> UnsupportedMedia:
    return UnsupportedMedia(
        f"The sound in this file is in a format ({codec}) that the server cannot decode; "
        "convert it to mp3 or wav and send it again.",
        field="file",
    )


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """Every frame that can be decoded; damaged ones are left out."""
    for packet in packets(container, stream):
        try:
            yield from packet.decode()
        except av.FFmpegError as exc:  # a damaged packet: its place is left to `aligned`
            raise_if_memory_ran_out(exc)


def aligned(container: Any, stream: Any, rate: int) -> Iterator[npt.NDArray[np.int16] | Gap]:
    """Mono samples at `rate` in pieces of any size, and the gaps between them."""
    origin = (container.start_time or 0) / av.time_base
    duration = duration_of(container)
    emitted = 0
    mono: Any = None
    shape: tuple[str, str, int] | None = None
    for frame in _frames(container, stream):
        if frame.sample_rate not in _RATES or not 1 <= len(frame.layout.channels) <= _MAX_CHANNELS:
            raise _undecodable(f"{frame.sample_rate} Hz, {len(frame.layout.channels)} channels")
        had = emitted + (mono.held if mono else 0)
        due = had if frame.time is None else round((frame.time - origin) * rate)
        late = due - had > _GAP_SECONDS * rate and _believable(due / rate, had / rate, duration)
        if late or shape != _shape(frame):
            for piece in mono.rest() if mono else ():
                emitted += len(piece)
                yield piece
            mono, shape = Downmix(frame, rate), _shape(frame)
        if late and emitted < due:
            samples = due - emitted
            yield Gap(samples) if samples >= LONG_GAP_SECONDS * rate else np.zeros(samples, np.int16)
            emitted = due
        for piece in mono.heard(frame):
            emitted += len(piece)
            yield piece
    if mono:
        yield from mono.rest()


def _blocks(pieces: Iterable[npt.NDArray[np.int16] | Gap], size: int) -> Iterator[Audio | Gap]:
    held: list[npt.NDArray[np.int16]] = []
    samples = 0
    for piece in pieces:
        if isinstance(piece, Gap):
            if samples:
                yield as_float(np.concatenate(held))
            held, samples = [], 0
            yield piece
            continue
        held.append(piece)
        samples += len(piece)
        if samples >= size:
            joined = np.concatenate(held)
            whole = samples - samples % size
            for start in range(0, whole, size):
                yield as_float(joined[start : start + size])
            held, samples = [joined[whole:]], samples - whole
    if samples:
        yield as_float(np.concatenate(held))


def as_float(samples: npt.NDArray[np.int16]) -> Audio:
    """16-bit samples as float32 in [-1, 1]."""
    return samples.astype(np.float32) / np.float32(1 << 15)


def _shape(frame: Any) -> tuple[str, str, int]:
    """The format, layout and rate that a resampler is built for; they may change in mid-stream."""
    return frame.format.name, frame.layout.name, frame.sample_rate


def _believable(due: float, emitted: float, duration: float | None) -> bool:
    """Whether a jump of the timestamps is a gap in the sound, and not a damaged or made-up number; all in seconds."""
    if duration is None:
        return due - emitted <= _LONGEST_GAP_SECONDS
    return due <= duration + 1
