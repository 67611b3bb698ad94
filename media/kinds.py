"""What a file is when it is no recording: a picture or a text, told by its content and never by its name."""

from __future__ import annotations

import re
from pathlib import Path

_BRANDS = rb"avif|avis|heic|heix|heim|heis|hevc|hevx|hevm|hevs|mif1|mif2|msf1"
_STILL = re.compile(rb".{4}ftyp(?:" + _BRANDS + rb")", re.DOTALL)
"""The major brands of ISO/IEC 23008-12 and AVIF; FFmpeg opens such files, as films of one frame or of none."""
HEAD_BYTES = 12
_TEXT_BYTES = 4096
_NO_TEXT = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")


def is_heif(head: bytes) -> bool:
    """Whether a file that begins so is a HEIC or AVIF picture. head: HEAD_BYTES of it."""
    return _STILL.match(head) is not None


def is_picture(path: Path) -> bool:
    """Whether Pillow knows the file; only its header is read."""
    from media import pictures
    from pipeline.errors import ServiceError

    try:
        return pictures.known(path)
    except ServiceError:  # of a picture, too large or damaged
        return True


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
