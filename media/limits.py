"""What a program that a worker starts may take, be it because of a file or of a script that a stranger wrote."""

from __future__ import annotations

import math
import resource
from contextlib import suppress

_MOST_MEMORY = 4 << 30
"""Bytes that it may have to write in. Addresses alone, which some programs reserve by the terabyte, cost nothing."""


def bound(pid: int, seconds: float, written: int = 0) -> None:
    """Bound a program that was just started; what it has taken by then is little.

    seconds: of the processors' time, after which it is killed. written: bytes of the largest file that it may write.
    Linux alone can do so from outside.
    """
    if not hasattr(resource, "prlimit"):
        return
    limits = (
        (resource.RLIMIT_CPU, math.ceil(seconds)),
        (resource.RLIMIT_DATA, _MOST_MEMORY),
        (resource.RLIMIT_FSIZE, written),
        (resource.RLIMIT_CORE, 0),
    )
    with suppress(ProcessLookupError):  # it has ended already
        for kind, most in limits:
            _, hard = resource.prlimit(pid, kind)
            least = most if hard == resource.RLIM_INFINITY else min(most, hard)  # it may be lowered only
            resource.prlimit(pid, kind, (least, least))
