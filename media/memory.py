"""Whether memory has run out, or a file has asked for more than any needs: both come as the same exception.

A damaged or made-up header makes a decoder ask for gigabytes, and limits that FFmpeg keeps are told as a want of memory
too. That is the file's fault; a machine that cannot give what an honest file needs is not.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

import av

HONEST_BYTES = 1 << 30
"""What decoding the largest picture or frame that is read takes at once, and then some."""


_MOST_AT_ONCE = 512 << 20
"""Bytes that FFmpeg may ask for at once: the largest frame has 320 MB, the index of a film of a day 200."""


def bound_ffmpeg() -> None:
    """Have FFmpeg refuse what claims to need more than _MOST_AT_ONCE; a kilobyte of mp4 may claim gigabytes of index.

    Only PyAV's own copy can be found; another keeps FFmpeg's limit of two gigabytes.
    """
    for library in (Path(av.__file__).parent.parent / "av.libs").glob("libavutil*"):
        ctypes.CDLL(str(library)).av_max_alloc(ctypes.c_size_t(_MOST_AT_ONCE))


def ran_out() -> bool:
    """Whether this process cannot have HONEST_BYTES more; none of them is touched."""
    try:
        mmap.mmap(-1, HONEST_BYTES).close()
    except (OSError, MemoryError):
        return True
    return False
