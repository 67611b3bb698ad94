"""Which formats of recordings are read; what a file is when it is none: told by its content and never by its name."""

from __future__ import annotations

import re
from pathlib import Path

_CONTAINERS = (
    "mov mp4 m4a 3gp 3g2 mj2 matroska webm avi mpegts mpegtsraw mpeg asf asf_o flv live_flv kux ogg mxf rm dv nut wtv "
    "dhav nsv ivf"
)
_SOUND_ALONE = (
    "wav w64 mp3 flac aac loas ac3 eac3 ac4 dts dtshd truehd mlp amr amrnb amrwb aiff caf au ape wv tta tak mpc mpc8 "
    "gsm voc xwma sox dsf oma qcp nistsphere ircam shn"
)
FORMATS = tuple(f"{_CONTAINERS} {_SOUND_ALONE}".split())
"""FFmpeg's names of the demuxers that may run: none opens a second file, none reads a picture or a playlist."""

_HEIF = re.compile(
    rb".{4}ftyp(?:avif|avis|heic|heix|heim|heis|mif1|mif2|(?P<sequence>hevc|hevx|hevm|hevs|msf1))", re.DOTALL
)
"""The major brands of ISO/IEC 23008-12 and AVIF. FFmpeg opens such files, stills as films of one frame or of none,
sequences as what they are."""
HEAD_BYTES = 12
_TEXT_BYTES = 4096
_NO_TEXT = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")


def is_heif(head: bytes) -> bool:
    """Whether a file that begins so holds HEIC or AVIF pictures. head: HEAD_BYTES of it."""
    return _HEIF.match(head) is not None


def is_still_heif(head: bytes) -> bool:
    """Whether it is one of them that is no film."""
    found = _HEIF.match(head)
    return found is not None and not found["sequence"]


def is_text(path: Path) -> bool:
    """Whether the file begins as a letter, a page or a playlist does."""
    with path.open("rb") as file:
        head = file.read(_TEXT_BYTES)
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        if exc.start < len(head) - 4:  # else a letter is cut in two
            return False
        text = head[: exc.start].decode("utf-8-sig")
    return bool(text.strip()) and not _NO_TEXT.search(text)
