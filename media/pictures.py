"""Pictures as people see them: upright, 8-bit RGB, what is transparent on white.

    file ─▶ Pillow (known formats, bounded pixels) ─▶ orientation from EXIF ─▶ RGB ─▶ Picture
                                                    └ GIF, WebP, PNG, AVIF that moves ─▶ its frames with their times

A format that Pillow does not know is no error here but None: the file may be a film.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pillow_heif
from PIL import ExifTags, Image, UnidentifiedImageError

from contract.errors import FileNotFound, TooLarge, UnsupportedMedia
from media import kinds, memory
from media.gifs import count_frames

pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM")
"""Pillow's plug-ins that may run; none of them starts another program."""
_MOVING = frozenset({"GIF", "WEBP", "PNG", "AVIF"})
"""Formats whose frames have durations. The pages of a TIFF are no film."""

MAX_PIXELS = 80_000_000
"""Most pixels of a still picture; decoding takes up to eight bytes for each."""
MAX_MOVING_PIXELS = 10_000_000
"""Most pixels of each frame of a moving picture, which has many frames."""
MAX_MOVED_PIXELS = 800_000_000
"""Most pixels of all its frames, which take about ten seconds; a GIF of a few kilobytes for each may have thousands,
which are counted before any is decoded."""
_FRAME_PIXELS = 10_000
"""A frame costs at least as much as so many pixels, however small it is."""
MAX_WHOLE_BYTES = 256 << 20
"""Largest file of a format whose plug-in reads it whole into memory, as WebP, AVIF and HEIF do."""
MAX_SIDE = 2048
"""Pixels; a longer side is scaled down to this. The models look at less."""

_SHORTEST_FRAME = 0.02
"""Players show frames that claim less than this for a tenth of a second."""
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, RuntimeError),
    *(ArithmeticError, struct.error, zlib.error),
)
"""What Pillow raises on files that are cut short or made up."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset(_TURNS[orientation] for orientation in (5, 6, 7, 8))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """image: RGB, at most MAX_SIDE on a side. size: (width, height) of the original as people see it."""

    image: Image.Image
    size: tuple[int, int]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A frame of a moving picture. start: seconds from its beginning; length: how long it is shown."""

    start: float
    length: float
    picture: Picture


def read(path: Path) -> Picture | None:
    """A still picture; the first frame of one that moves. None where the file is no picture.

    Raises: UnsupportedMedia (damaged, or a format that is not read), TooLarge, FileNotFound.
    """
    with _opened(path) as image:
        return None if image is None else _loaded(image)


def moves(path: Path) -> bool:
    """Whether a file is a picture with several frames that are shown one after the other. Raises: as `read`."""
    with _opened(path) as image:
        return image is not None and image.format in _MOVING and _is_animated(image)


def frames(path: Path) -> Iterator[Shown]:
    """The frames of a picture that moves, in order; those that are cut off are left out. Raises: as `read`."""
    with _opened(path) as image:
        if image is None:
            return
        start = 0.0
        most = MAX_MOVED_PIXELS // max(_FRAME_PIXELS, image.width * image.height)
        counted = image.format == "GIF" and _gif_frames(path, most + 1) > most
        for number in itertools.count():
            if counted or number == most:
                raise TooLarge("This moving picture has too many frames; send it as a video.", field="file")
            try:
                image.seek(number)
                picture = _loaded(image, MAX_MOVING_PIXELS)
            except UnsupportedMedia:
                if not number:
                    raise
                return
            except _DAMAGE:  # or there is no further frame
                return
            length = image.info.get("duration", 0) / 1000
            length = length if length >= _SHORTEST_FRAME else 0.1
            yield Shown(start, length, picture)
            start += length


def _gif_frames(path: Path, most: int) -> int:
    with path.open("rb") as file:
        return count_frames(file, most)


def is_picture(path: Path) -> bool:
    """Whether Pillow knows the file, which may be damaged; only its header is read. Raises: FileNotFound."""
    try:
        with _opened(path) as image:
            return image is not None
    except (UnsupportedMedia, TooLarge):
        return True


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image | None]:
    try:
        file = path.open("rb")
    except OSError as exc:
        raise FileNotFound("The file can no longer be opened on the server; send it again.", field="file") from exc
    with file:
        image = _identified(file)
        if image is None:
            yield None
            return
        if image.width * image.height > MAX_PIXELS:
            raise TooLarge(
                f"This picture has {image.width} x {image.height} pixels, more than the {MAX_PIXELS // 1_000_000} "
                "million that the server reads; send a smaller one.",
                field="file",
            )
        with image:
            yield image


def _identified(file: IO[bytes]) -> Image.Image | None:
    """Only the header is read."""
    head = file.read(kinds.HEAD_BYTES)
    whole = file.seek(0, os.SEEK_END)
    file.seek(0)
    if whole > MAX_WHOLE_BYTES and (kinds.is_heif(head) or head[8:12] == b"WEBP"):
        raise TooLarge(
            f"A picture of this kind may have {MAX_WHOLE_BYTES >> 20} MiB; send a smaller one.", field="file"
        )
    Image.init()  # else a format whose plug-in was not needed yet is an error
    try:
        with warnings.catch_warnings(action="ignore"):  # the limit here is the one that counts
            return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as exc:
        if kinds.is_still_heif(head):  # cut short; FFmpeg would take it for a film
            raise _damaged(exc) from exc
        return None
    except Image.DecompressionBombError as exc:
        raise TooLarge(
            f"This picture has more than the {MAX_PIXELS // 1_000_000} million pixels that the server reads; "
            "send a smaller one.",
            field="file",
        ) from exc
    except (*_DAMAGE, MemoryError) as exc:
        raise _damaged(exc) from exc


def _is_animated(image: Image.Image) -> bool:
    """Without counting the frames, which takes seconds for a million."""
    try:
        return getattr(image, "is_animated", False)
    except _DAMAGE:  # behind the first frame
        return False


def _loaded(image: Image.Image, limit: int = MAX_PIXELS) -> Picture:
    """The frame that the image stands at. Raises: UnsupportedMedia, TooLarge."""
    if image.width * image.height > limit:
        raise TooLarge(
            f"A moving picture may have {limit // 1_000_000} million pixels; send it as a video.", field="file"
        )
    width, height = image.size
    try:
        with warnings.catch_warnings(action="ignore"):  # Pillow's, about metadata
            image.draft("RGB", (MAX_SIDE, MAX_SIDE))  # JPEG: decodes no more than is kept
            image.load()
            turn = _turn(image)
            upright = _rgb(_shrunk(image))
    except (*_DAMAGE, MemoryError) as exc:
        raise _damaged(exc) from exc
    if turn is None:
        return Picture(upright, (width, height))
    turned = turn in _SIDEWAYS
    return Picture(upright.transpose(turn), (height, width) if turned else (width, height))


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What EXIF says a camera's picture needs to stand upright."""
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _DAMAGE:  # of the metadata, which is no reason to refuse the picture
        return None


def _shrunk(image: Image.Image) -> Image.Image:
    """At most MAX_SIDE on a side, in a mode that keeps colours and transparency."""
    factor = -(-max(image.size) // MAX_SIDE)
    if image.mode in ("1", "P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if factor == 1:
        return image
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.asarray(image)[::factor, ::factor])
    return image.reduce(factor)


def _rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB; what is transparent becomes white, as on paper."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):  # measurements rather than shades: from their least to their greatest
        values = np.nan_to_num(np.asarray(image).astype(np.float64))
        spread = max(float(np.ptp(values)), 1e-9)
        return Image.fromarray(((values - values.min()) * (255 / spread)).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        solid = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", solid.size, "white"), solid).convert("RGB")
    return image.convert("RGB")


def _damaged(exc: Exception) -> UnsupportedMedia:
    """Raises: MemoryError, where it was that and not the file's fault."""
    if isinstance(exc, MemoryError) and memory.ran_out():
        raise exc
    return UnsupportedMedia("This picture is damaged or cut short; send a whole one.", field="file")
