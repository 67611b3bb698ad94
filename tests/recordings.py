"""Media files for tests, written with PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

EXAMPLE = Path(__file__).parent.parent / "examples" / "jfk.flac"
Samples = npt.NDArray[np.float32]


def beep(seconds: float, at: float, rate: int = 48_000) -> Samples:
    """Silence with half a second of a tone at `at`."""
    time = np.arange(int(seconds * rate)) / rate
    return np.where((time >= at) & (time < at + 0.5), 0.5 * np.sin(2 * np.pi * 440 * time), 0).astype(np.float32)


def heard_at(audio: Samples, rate: int = 16_000) -> float:
    """Where the first sound begins, in seconds."""
    return float(np.argmax(np.abs(audio) > 0.1)) / rate


def write(
    path: Path,
    samples: Samples | None,
    codec: str = "pcm_s16le",
    rate: int = 48_000,
    *,
    start: float = 0.0,
    video: float = 0.0,
) -> Path:
    """A file with this sound from `start` on and, where asked for, so many seconds of a picture from 0 on.

    samples: mono, or shape (channels, n). The container follows from the path's suffix.
    """
    with av.open(str(path), "w") as container:
        picture: Any = container.add_stream("mpeg4", rate=10) if video else None
        if picture:
            picture.width = picture.height = 64
        sound: Any = None
        if samples is not None:
            samples = np.atleast_2d(samples)
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(samples)]
            sound = container.add_stream(codec, rate=rate, layout=layout)
        for number in range(int(video * 10)):
            image = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number % 256, np.uint8), format="rgb24")
            image.pts, image.time_base = number, Fraction(1, 10)
            container.mux(picture.encode(image))
        if picture:
            container.mux(picture.encode(None))
        if samples is not None:
            for at in range(0, samples.shape[1], rate):
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[:, at : at + rate]), "fltp", layout)
                frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
                frame.pts = at + int(start * rate)
                container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return path


def with_sound(picture: Path, samples: Samples, path: Path, rate: int = 16_000) -> Path:
    """The film `picture` with this sound, mono. Its pictures are copied as they are."""
    with av.open(str(picture)) as source, av.open(str(path), "w") as film:
        pictures: Any = film.add_stream_from_template(source.streams.video[0])
        sound: Any = film.add_stream("aac", rate=rate, layout="mono")
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = pictures
                film.mux(packet)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[np.newaxis]), "fltp", "mono")
        frame.sample_rate, frame.pts = rate, 0
        film.mux(sound.encode(frame))
        film.mux(sound.encode(None))
    return path
