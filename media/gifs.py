"""How many frames a GIF has, without decoding one.

A GIF is a chain of blocks: an image with its sub-blocks, or an extension with its own (GIF89a, sections 15 to 26).
Pillow has to go through a frame's pixels to find the next one, which for thousands of frames takes a minute.
"""

from __future__ import annotations

from typing import IO

_HEADER = 13
_PALETTE, _PALETTE_SIZE = 0x80, 0x07
_IMAGE_BYTES = 9
_MOST_BLOCKS = 4_000_000
"""Sub-blocks of a file, a gigabyte where each is full. Walked through in seconds; a file of more would take minutes."""


def count_frames(file: IO[bytes], most: int) -> int:
    """The frames that have begun, up to `most`, read from where the file stands, a block at a time.

    A file of too many sub-blocks has `most` of them.
    """
    header = file.read(_HEADER)
    if len(header) < _HEADER:
        return 0
    file.seek(_palette(header[10]), 1)
    frames, blocks = 0, _MOST_BLOCKS
    while frames < most:
        match file.read(1):
            case b"\x2c":
                frames += 1
                image = file.read(_IMAGE_BYTES)
                if len(image) < _IMAGE_BYTES:
                    break
                file.seek(_palette(image[8]) + 1, 1)  # and the least code's size
            case b"\x21":
                file.seek(1, 1)  # its label
            case _:  # the trailer, or no GIF from here on
                break
        blocks -= _pass_over(file, blocks)
        if not blocks:
            return most
    return frames


def _palette(flags: int) -> int:
    """Bytes."""
    return 3 << (1 + (flags & _PALETTE_SIZE)) if flags & _PALETTE else 0


def _pass_over(file: IO[bytes], most: int) -> int:
    """A chain of sub-blocks, each behind its length; the last is empty. How many were passed over, up to `most`."""
    for passed in range(1, most + 1):
        length = file.read(1)
        if not length or not length[0]:
            return passed
        file.seek(length[0], 1)
    return most
