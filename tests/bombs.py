"""Small files that would cost much: their heads made of thousands of entries, their clocks of days."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from media.audio import SAMPLE_RATE, decode
from tests.recordings import EXAMPLE, beep, write


def comments(count: int) -> bytes:
    """A Vorbis comment of so many tags."""
    tags = b"".join(struct.pack("<I", len(tag)) + tag for tag in (b"K%d=v" % number for number in range(count)))
    return struct.pack("<I", 1) + b"v" + struct.pack("<I", count) + tags


def flac(path: Path, kind: int, content: bytes) -> Path:
    """Half a second, with one more block of metadata: 4, a Vorbis comment; 6, a picture."""
    whole = write(path, beep(0.5, at=0), "flac").read_bytes()
    after = 8 + int.from_bytes(whole[5:8], "big")
    block = bytes([kind]) + len(content).to_bytes(3, "big") + content
    path.write_bytes(whole[:4] + bytes([whole[4] & 0x7F]) + whole[5:after] + block + whole[after:])
    return path


def flac_tags(path: Path, count: int) -> Path:
    return flac(path.with_suffix(".flac"), 4, comments(count))


def element(name: bytes, content: bytes) -> bytes:
    """Of EBML."""
    return name + (1 << 56 | len(content)).to_bytes(8, "big") + content


def matroska(path: Path, inserted: bytes) -> Path:
    """Half a second, with an element before the first cluster."""
    whole = write(path.with_suffix(".mka"), beep(0.5, at=0), "libopus").read_bytes()
    segment, cluster = whole.index(b"\x18\x53\x80\x67") + 4, whole.index(b"\x1f\x43\xb6\x75")
    unknown = b"\x01" + b"\xff" * 7
    path.write_bytes(whole[:segment] + unknown + whole[segment + 8 : cluster] + inserted + whole[cluster:])
    return path


def matroska_tags(path: Path, count: int) -> Path:
    tags = (element(b"\x45\xa3", b"K%d" % number) + element(b"\x44\x87", b"v") for number in range(count))
    simple = b"".join(element(b"\x67\xc8", tag) for tag in tags)
    return matroska(path, element(b"\x12\x54\xc3\x67", element(b"\x73\x73", element(b"\x63\xc0", b"") + simple)))


def matroska_chapters(path: Path, count: int) -> Path:
    """The last one first, so that FFmpeg looks through all for each."""
    numbers = ((number.to_bytes(4, "big"), (count - number).to_bytes(4, "big")) for number in range(count))
    atoms = b"".join(element(b"\xb6", element(b"\x73\xc4", uid) + element(b"\x91", at)) for at, uid in numbers)
    return matroska(path, element(b"\x10\x43\xa7\x70", element(b"\x45\xb9", atoms)))


def mp3_tags(path: Path, count: int) -> Path:
    texts = (b"\0K%d\0v" % number for number in range(count))
    frames = b"".join(b"TXXX" + len(text).to_bytes(4, "big") + b"\0\0" + text for text in texts)
    size = bytes(len(frames) >> shift & 0x7F for shift in (21, 14, 7, 0))
    whole = write(path.with_suffix(".mp3"), beep(0.5, at=0), "libmp3lame").read_bytes()
    path.write_bytes(b"ID3\x03\0\0" + size + frames + whole)
    return path


def mp4_samples(path: Path, count: int) -> Path:
    """So many samples of a byte each in one chunk, most of which are not there."""
    whole = bytearray(write(path.with_suffix(".m4a"), beep(0.5, at=0), "aac").read_bytes())
    struct.pack_into(">II", whole, whole.index(b"stsz") + 8, 1, count)
    struct.pack_into(">I", whole, whole.index(b"stsc") + 16, count)
    path.write_bytes(whole)
    return path


# Ogg


def checksum(whole: bytes) -> int:
    """Ogg's: CRC-32 with the polynomial 0x04C11DB7, nothing reflected."""
    rest = 0
    for byte in whole:
        rest = (rest << 8 & 0xFFFFFFFF) ^ _TABLE[(rest >> 24) ^ byte]
    return rest


def _shifted(value: int) -> int:
    for _ in range(8):
        value = (value << 1 ^ (0x104C11DB7 if value & 0x80000000 else 0)) & 0x1FFFFFFFF
    return value & 0xFFFFFFFF


_TABLE = [_shifted(byte << 24) for byte in range(256)]


def page(serial: int, number: int, content: bytes, *, flags: int = 0, granule: int = 0, lacing: bytes = b"") -> bytes:
    """lacing: how the content is cut; default: it is one short packet. flags: 1, it goes on; 2, first; 4, last."""
    lacing = lacing or bytes([len(content)])
    head = b"OggS\0" + struct.pack("<BqIII", flags, granule, serial, number, 0) + bytes([len(lacing)]) + lacing
    whole = head + content
    return whole[:22] + struct.pack("<I", checksum(whole)) + whole[26:]


def packet(serial: int, number: int, content: bytes) -> list[bytes]:
    """The pages of one packet."""
    lacing = bytes([*[255] * (len(content) // 255), len(content) % 255])
    pages: list[bytes] = []
    for at in range(0, len(lacing), 255):
        part, cut = content[at * 255 : (at + 255) * 255], lacing[at : at + 255]
        granule = 0 if at + 255 >= len(lacing) else -1
        pages.append(page(serial, number + len(pages), part, flags=at > 0, granule=granule, lacing=cut))
    return pages


OPUS_HEAD = b"OpusHead" + struct.pack("<BBHIHB", 1, 1, 0, 48_000, 0, 0)
OPUS_TAGS = b"OpusTags" + bytes(8)
SILENCE = b"\xf8\xff\xfe"
"""20 ms of Opus."""


def ogg_tags(path: Path, count: int) -> Path:
    tags = packet(1, 1, b"OpusTags" + comments(count))
    sound = page(1, len(tags) + 1, SILENCE, flags=4, granule=960)
    path.write_bytes(page(1, 0, OPUS_HEAD, flags=2) + b"".join(tags) + sound)
    return path


def ogg_streams(path: Path, count: int) -> Path:
    """So many streams that begin together."""
    path.write_bytes(b"".join(page(number, 0, OPUS_HEAD, flags=2) for number in range(count)))
    return path


def ogg_at(path: Path, times: Iterable[float]) -> Path:
    """20 ms of silence at each of these times, in seconds, the first of them 0."""
    head = page(1, 0, OPUS_HEAD, flags=2) + page(1, 1, OPUS_TAGS)
    ends = (round(48_000 * time) + 960 for time in times)
    sound = (page(1, number, SILENCE, granule=end) for number, end in enumerate(ends, 2))
    path.write_bytes(head + b"".join(sound))
    return path


DAYS = 6 * 24 * 3600.0


def long_ago(path: Path, codec: str, seconds: float) -> Path:
    """jfk, then so much nothing, then jfk again."""
    speech = np.concatenate(list(decode(EXAMPLE)))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48_000, layout="mono")
        for start in (0.0, seconds):
            for part, at in ((speech[at : at + SAMPLE_RATE], at) for at in range(0, len(speech), SAMPLE_RATE)):
                frame = av.AudioFrame.from_ndarray(np.repeat(part, 3)[np.newaxis], "flt", "mono")
                frame.sample_rate, frame.time_base = 48_000, Fraction(1, 48_000)
                frame.pts = round((start + at / SAMPLE_RATE) * 48_000)
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def gif(path: Path, size: tuple[int, int], count: int) -> Path:
    """So many frames, all alike, a tenth of a second each."""
    with io.BytesIO() as file:
        Image.new("P", size).save(file, "gif")
        whole = file.getvalue()
    image = whole.index(b"\x2c" + bytes(4))
    frame = b"\x21\xf9\x04\0\x0a\0\0\0" + whole[image:-1]
    path.write_bytes(whole[:image] + frame * count + b";")
    return path


def equals_signs(count: int) -> bytes:
    """So much of what tags have in them."""
    return b"=" * count
