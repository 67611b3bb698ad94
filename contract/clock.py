"""The server's time: seconds since 1970 when the process began, and from there by a clock that nobody sets.

A machine's clock that jumps while the server runs moves no deadline and no retention. What a jump between two runs is
worth, `storage.retention` says.
"""

from __future__ import annotations

import time

_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux has one that goes on while the machine sleeps."""
_BEGAN = time.time() - time.clock_gettime(_STEADY)


def now() -> float:
    """Seconds since 1970."""
    return _BEGAN + time.clock_gettime(_STEADY)
