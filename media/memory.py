"""Whether memory has run out, or a file has asked for more than any needs: both come as the same exception.

A damaged or made-up header makes a decoder ask for gigabytes, and limits that FFmpeg keeps are told as a want of memory
too. That is the file's fault; a machine that cannot give what an honest file needs is not.
"""

from __future__ import annotations

import mmap

HONEST_BYTES = 1 << 30
"""What decoding the largest picture or frame that is read takes at once, and then some."""


def ran_out() -> bool:
    """Whether this process cannot have HONEST_BYTES more; none of them is touched."""
    try:
        mmap.mmap(-1, HONEST_BYTES).close()
    except (OSError, MemoryError):
        return True
    return False
