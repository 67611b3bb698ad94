"""Damaged and made-up recordings, through all that `whisp` and `flrnc` decode: typed errors, and nothing else."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from contract.errors import ServiceError, UnsupportedMedia
from media.audio import SAMPLE_RATE, decode
from tests.mutants import hear, see
from tests.recordings import beep, write
from tests.shapes import drawing

RECORDINGS = (
    *(("a.wav", "pcm_s16le", 0.0), ("a.flac", "flac", 0.0), ("a.mp3", "libmp3lame", 0.0), ("a.ogg", "libopus", 0.0)),
    *(("a.m4a", "aac", 0.0), ("a.mp4", "aac", 2.0), ("a.mkv", "aac", 2.0), ("a.webm", "libopus", 0.0)),
    *(("a.avi", "libmp3lame", 2.0), ("a.ts", "aac", 2.0), ("a.mov", "pcm_s16be", 2.0), ("a.caf", "pcm_s16le", 0.0)),
)
HUGE = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0")
"""Numbers that break whoever believes them."""
PICTURES = ("heif", "jpeg", "webp", "avif")


def damaged(whole: bytes, chance: random.Random) -> Iterator[bytes]:
    """Cut short; with bytes changed at its beginning, and anywhere; with a number that cannot be."""
    yield whole[: chance.randrange(1, len(whole))]
    for reach, times in ((2_000, 4), (len(whole), 50)):
        changed = bytearray(whole)
        for _ in range(times):
            changed[chance.randrange(min(len(whole), reach))] = chance.randrange(256)
        yield bytes(changed)
    at = chance.randrange(min(len(whole), 3_000))
    yield whole[:at] + chance.choice(HUGE) + whole[at + 4 :]


@pytest.mark.parametrize(("name", "codec", "video"), RECORDINGS, ids=str)
def test_damaged_recordings_are_read_or_refused(tmp_path: Path, name: str, codec: str, video: float) -> None:
    whole = write(tmp_path / name, beep(2, at=1), codec, video=video).read_bytes()
    survives(tmp_path / "upload", (case for seed in range(12) for case in damaged(whole, random.Random(seed))))


@pytest.mark.parametrize("kind", PICTURES)
def test_damaged_pictures_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    drawing("red circle").image(160, 90).save(tmp_path / "a", kind)
    whole = (tmp_path / "a").read_bytes()
    survives(tmp_path / "upload", (case for seed in range(25) for case in damaged(whole, random.Random(seed))))


def survives(path: Path, cases: Iterator[bytes]) -> None:
    for case in cases:
        path.write_bytes(case)
        for read in (hear, see):
            try:
                read(path)
            except ServiceError as exc:
                assert exc.status < 500
                assert str(path.parent) not in exc.message


def ivf(*sizes: int) -> bytes:
    """A film of noise for VP9, whose frames claim these sizes."""
    header = b"DKIF" + struct.pack("<HH4sHHIIII", 0, 32, b"VP90", 64, 64, 10, 1, len(sizes), 0)
    return header + b"".join(struct.pack("<IQ", size, number) + bytes(100) for number, size in enumerate(sizes))


def tracks(path: Path, count: int) -> Path:
    """An ogg with so many tracks."""
    with av.open(str(path), "w", format="ogg") as container:
        streams = [container.add_stream("libopus", rate=48_000, layout="mono") for _ in range(count)]
        for stream in streams:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 9_600), np.float32), "flt", "mono")
            frame.sample_rate = 48_000
            container.mux([*stream.encode(frame), *stream.encode(None)])
    return path


def frame_of_gigabytes(path: Path, _: int) -> Path:
    """A film of which the second frame claims to be so large."""
    with av.open(str(path), "w", format="ivf") as container:
        stream = container.add_stream("libvpx", rate=10)
        stream.width = stream.height = 64
        for shade in (50, 200):
            picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), shade, np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    whole = path.read_bytes()
    [first] = struct.unpack_from("<I", whole, 32)
    second = 32 + 12 + first
    path.write_bytes(whole[:second] + struct.pack("<I", 0xC0000000) + whole[second + 4 :])
    return path


@pytest.mark.parametrize(("made", "read"), [(tracks, hear), (tracks, see), (frame_of_gigabytes, see)])
def test_a_file_that_asks_for_gigabytes_is_refused_as_such(
    tmp_path: Path, made: Callable[[Path, int], Path], read: Callable[[Path], None]
) -> None:
    """FFmpeg tells it as a want of memory; the model's process is not to blame, and need not be started again."""
    with pytest.raises(UnsupportedMedia, match="claims to hold more"):
        read(made(tmp_path / "upload", 70))


def test_many_tracks_are_heard(tmp_path: Path) -> None:
    hear(tracks(tmp_path / "upload", 60))


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on memory that holds")
@pytest.mark.parametrize("content", ["recording", "picture"])
def test_a_machine_without_memory_is_told_from_a_bad_file(tmp_path: Path, content: str) -> None:
    """In a process that may have hardly more than it has."""
    path = tmp_path / "upload"
    if content == "recording":
        tracks(path, 70)
    else:
        Image.new("RGB", (8_000, 8_000)).save(path, "png", compress_level=1)
    program = f"""
import resource
from pathlib import Path
from media import pictures
from media.audio import decode
pictures.is_picture(Path("examples/shapes.png"))
with open("/proc/self/statm") as statm:
    used = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (48 << 20), resource.getrlimit(resource.RLIMIT_AS)[1]))
try:
    {"list(decode" if content == "recording" else "(pictures.read"}(Path({str(path)!r})))
except MemoryError:
    print("out of memory")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "out of memory\n"


def many_channels(count: int) -> bytes:
    """A second of a wav whose channels only have numbers; a tone on one of three."""
    tone = (8_000 * np.sin(2 * np.pi * 440 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)).astype("<i2")
    data = np.zeros((SAMPLE_RATE, count), "<i2")
    data[:, ::3] = tone[:, None]
    form = struct.pack("<IHHIIHH", 16, 1, count, SAMPLE_RATE, SAMPLE_RATE * count * 2, count * 2, 16)
    size = struct.pack("<I", 36 + data.nbytes)
    return b"RIFF" + size + b"WAVEfmt " + form + b"data" + struct.pack("<I", data.nbytes) + data.tobytes()


@pytest.mark.parametrize("count", [3, 8, 9, 25, 31, 40, 64])
def test_any_number_of_channels_is_heard(tmp_path: Path, count: int) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(many_channels(count))
    audio = np.concatenate(list(decode(path)))
    assert len(audio) == SAMPLE_RATE
    assert np.abs(audio).max() > 0.02


def test_channels_that_lie_apart_are_heard(tmp_path: Path) -> None:
    """Of a decoder that gives each channel by itself, more of them than a frame has places for."""
    path, layout = tmp_path / "a.wv", "12 channels"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("wavpack", rate=SAMPLE_RATE, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.frombuffer(many_channels(12)[44:], "<i2")[np.newaxis], "s16", layout)
        frame.sample_rate = SAMPLE_RATE
        container.mux([*stream.encode(frame), *stream.encode(None)])
    audio = np.concatenate(list(decode(path)))
    assert len(audio) == SAMPLE_RATE
    assert np.abs(audio).max() > 0.02
