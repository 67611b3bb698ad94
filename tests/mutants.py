"""Files of every container and codec that FFmpeg can write here, spoilt with their structure in mind.

    python -m tests.mutants 5000 [seed]    spoils so many, and prints what became of them

Each is probed, heard and looked through, as `whisp` and `flrnc` do it. A file may be read or refused; it may not be
taken for a fault of the server (INTERNAL), for a want of memory, or for hours of work.
"""

from __future__ import annotations

import dataclasses
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from contract.errors import ServiceError, as_failure
from media import frames, pictures
from media.audio import decode
from media.container import probe
from media.kinds import FORMATS

PATIENCE = 10.0
"""Seconds that any file of a few kilobytes may take."""
SHAPES = ((48_000, "stereo"), (8_000, "mono"), (16_000, "mono"), (44_100, "mono"), (44_100, "stereo"))
"""Rates and layouts; an encoder is given the first that it takes."""
_HEAD = 1_500
_NAMES = re.compile(rb"[A-Za-z][A-Za-z0-9]{3}")
_NUMBERS = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0xFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_SOUNDS = "pcm_s16le pcm_s16be pcm_f32le pcm_u8 aac libmp3lame mp2 ac3 flac alac libopus libvorbis wavpack tta wmav2"
_PICTURES = "libx264 mpeg4 mpeg2video mjpeg libvpx flv ffv1 wmv2 dvvideo theora libtheora"


@dataclasses.dataclass(frozen=True, slots=True)
class Seed:
    """A whole file. name: its container and codecs."""

    name: str
    content: bytes

    @property
    def container(self) -> str:
        return self.name.partition("/")[0]


class TooSlow(BaseException):
    """No reader may catch it."""


def seeds(folder: Path, *, every: bool) -> list[Seed]:
    """Half a second of sound, a film or both in each container. every: with all codecs that it takes."""
    found = []
    for muxer in sorted(av.formats_available):
        try:
            form = av.format.ContainerFormat(muxer, "w")
        except ValueError:  # it is only read
            continue
        if not {muxer, *form.extensions} & set(FORMATS):
            continue
        for sound, picture in _codecs(form, every=every):
            content = _written(folder / "seed", muxer, sound, picture)
            if content:
                found.append(Seed(f"{muxer}/{sound or ''}{'+' if sound and picture else ''}{picture or ''}", content))
    return found


def _codecs(form: Any, *, every: bool) -> Iterator[tuple[str | None, str | None]]:
    sounds, pictures = _SOUNDS.split(), _PICTURES.split()
    if every:
        encoders = [av.codec.Codec(name, "w") for name in sorted(av.codecs_available) if _encodes(name)]
        sounds = [codec.name for codec in encoders if codec.type == "audio"]
        pictures = [codec.name for codec in encoders if codec.type == "video"]
    yield from ((sound, None) for sound in sounds)
    yield from ((None, picture) for picture in pictures)
    yield from ((sound, picture) for sound in sounds[:12:3] for picture in _PICTURES.split()[:4])


def _encodes(name: str) -> bool:
    """Without those that want a device, and one that talks."""
    left_out = ("nvenc", "vaapi", "qsv", "amf", "v4l2m2m", "vulkan", "mediacodec", "videotoolbox", "_mf", "svtav1")
    try:
        return not name.endswith(left_out) and av.codec.Codec(name, "w").is_encoder
    except ValueError:
        return False


def _written(path: Path, muxer: str, sound: str | None, picture: str | None) -> bytes:
    """The file, or nothing where the muxer does not take these."""
    for rate, layout in SHAPES if sound else SHAPES[:1]:
        try:
            with path.open("wb") as file, av.open(file, "w", format=muxer) as container:  # PyAV leaves its own open
                tone = container.add_stream(sound, rate=rate, layout=layout) if sound else None
                film = container.add_stream(picture, rate=25) if picture else None
                _encode(container, tone, film, rate, layout)
            return path.read_bytes()
        except (av.FFmpegError, ValueError, TypeError, AttributeError, OverflowError, MemoryError):
            continue
    return b""


def _encode(container: Any, tone: Any, film: Any, rate: int, layout: str) -> None:
    if film:
        film.width, film.height = (720, 576) if film.codec_context.name == "dvvideo" else (64, 48)
        film.pix_fmt = (film.codec.video_formats or [av.VideoFormat("yuv420p")])[0].name
        for number in range(6):
            shade = np.full((film.height, film.width, 3), 40 * number, np.uint8)
            image = av.VideoFrame.from_ndarray(shade, "rgb24")
            image.pts, image.time_base = number, Fraction(1, 25)
            container.mux(film.encode(image))
        container.mux(film.encode(None))
    if tone:
        wave = 0.3 * np.sin(np.arange(rate // 2) * 0.06, dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(np.stack([wave] * (2 if layout == "stereo" else 1)), "fltp", layout)
        frame.sample_rate, frame.pts = rate, 0
        container.mux(tone.encode(frame))
        container.mux(tone.encode(None))


# Spoiling


def cut(whole: bytes, chance: random.Random) -> bytes:
    return whole[: chance.randrange(1, len(whole) + 1)]


def changed_head(whole: bytes, chance: random.Random) -> bytes:
    return _changed(whole, chance, min(len(whole), _HEAD), chance.randint(1, 6))


def changed_anywhere(whole: bytes, chance: random.Random) -> bytes:
    return _changed(whole, chance, len(whole), max(2, len(whole) // chance.choice((50, 300, 2_000))))


def _changed(whole: bytes, chance: random.Random, reach: int, times: int) -> bytes:
    spoilt = bytearray(whole)
    for _ in range(times):
        spoilt[chance.randrange(reach)] = chance.randrange(256)
    return bytes(spoilt)


def number(whole: bytes, chance: random.Random) -> bytes:
    """A number of the header that cannot be, of one to eight bytes."""
    spoilt = bytearray(whole)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(min(len(whole), _HEAD))
        spoilt[at:] = _over(spoilt, at, _number(chance))
    return bytes(spoilt)


def length(whole: bytes, chance: random.Random) -> bytes:
    """The number before or after the name of a chunk, a box or an atom: its length in most containers."""
    named = [match.start() for match in _NAMES.finditer(whole)]
    if not named:
        return number(whole, chance)
    spoilt = bytearray(whole)
    for _ in range(chance.randint(1, 3)):
        at = max(0, chance.choice(named) + chance.choice((-4, 4, 6, 8, 10, 12, 16, 20)))
        spoilt[at:] = _over(spoilt, at, _number(chance))
    return bytes(spoilt)


def repeated(whole: bytes, chance: random.Random) -> bytes:
    begin, end = sorted(chance.randrange(len(whole) + 1) for _ in range(2))
    times = chance.choice((2, 3, 30)) if end - begin < 5_000 else 2
    return whole[:begin] + whole[begin:end] * times + whole[end:]


def left_out(whole: bytes, chance: random.Random) -> bytes:
    begin = chance.randrange(len(whole))
    return whole[:begin] + whole[begin + chance.choice((1, 4, 27, 300)) :]


def zeroed(whole: bytes, chance: random.Random) -> bytes:
    begin = chance.randrange(len(whole))
    return _put(whole, begin, chance.choice((b"\0", b"\xff")) * chance.choice((4, 16, 200)))


def swapped(whole: bytes, chance: random.Random) -> bytes:
    one, two, three = sorted(chance.randrange(len(whole) + 1) for _ in range(3))
    return whole[:one] + whole[two:three] + whole[one:two] + whole[three:]


def _number(chance: random.Random) -> bytes:
    size = chance.choice((1, 2, 4, 4, 8))
    order: Any = chance.choice(("little", "big"))
    number = chance.choice((*_NUMBERS, chance.randrange(100), chance.randrange(800_000)))
    return (number % (1 << (8 * size))).to_bytes(size, order)


def _over(spoilt: bytearray, at: int, piece: bytes) -> bytes:
    return piece + bytes(spoilt[at + len(piece) :])


def _put(whole: bytes, at: int, piece: bytes) -> bytes:
    return whole[:at] + piece[: len(whole) - at] + whole[at + len(piece) :]


SPOILERS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(cut, changed_head, changed_anywhere, number, number, length, length),
    *(repeated, left_out, zeroed, swapped),
)


def mutant(known: list[Seed], seed: int) -> tuple[str, bytes]:
    """A spoilt file, always the same for a seed: what was done to it, and its content."""
    chance = random.Random(seed)
    container = chance.choice(sorted({seed.container for seed in known}))
    source = chance.choice([seed for seed in known if seed.container == container])
    content = source.content
    done: list[str] = []
    for _ in range(chance.choice((1, 1, 2, 3))):
        spoiler = chance.choice(SPOILERS)
        content, done = spoiler(content or b"\0", chance), [*done, spoiler.__name__]
    if chance.random() < 0.05:  # the beginning of one with the rest of another
        other = chance.choice(known)
        content, done = content[: chance.randrange(1, _HEAD)] + other.content[100:], [*done, other.name]
    return f"{source.name} {' '.join(done)}", content


# Reading


def hear(path: Path) -> None:
    probe(path)
    for _ in decode(path):
        pass


def see(path: Path) -> None:
    if not pictures.moves(path) and pictures.read(path) is not None:
        return
    with frames.film(path) as film:
        for _ in frames.watch(film, 1.0):
            pass


def outcomes(path: Path, patience: float = PATIENCE) -> Iterator[str]:
    """What becomes of a file, for each way to read it: "read", or the error's code."""
    for read in (hear, see):
        began = time.monotonic()
        try:
            with _within(patience):
                read(path)
            outcome = "read"
        except ServiceError as exc:
            outcome = exc.code if str(path.parent) not in exc.message else "PATH_TOLD"
        except TooSlow:
            outcome = "TOO_SLOW"
        except Exception as exc:  # noqa: BLE001 - this is what is looked for
            outcome = f"{as_failure(exc)['error_code']} ({type(exc).__name__}: {exc})"
        yield "TOO_SLOW" if time.monotonic() - began > patience else outcome


def refused_or_read(outcome: str) -> bool:
    return outcome in ("read", "UNSUPPORTED_MEDIA", "NO_AUDIO", "NO_VIDEO", "TOO_LARGE")


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main(count: int, first: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        known = seeds(Path(folder), every=True)
        print(f"{len(known)} files of {len({seed.container for seed in known})} containers")
        table: Counter[str] = Counter()
        path = Path(folder) / "upload"
        for seed in range(first, first + count):
            name, content = mutant(known, seed)
            path.write_bytes(content)
            for outcome in outcomes(path):
                table[outcome] += 1
                if not refused_or_read(outcome):
                    print(f"seed {seed}: {name}: {outcome}", flush=True)
    for outcome, times in table.most_common():
        print(f"{times:8} {outcome}")
    return any(not refused_or_read(outcome) for outcome in table)


if __name__ == "__main__":
    sys.exit(main(*map(int, [*sys.argv[1:], *("5000", "0")[len(sys.argv) - 1 :]])))
