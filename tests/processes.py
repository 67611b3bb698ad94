"""What the system says of processes; Linux alone says it."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterable
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """Every process below one."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = parent(int(stat.parent.name))
        except OSError:  # it has ended
            continue
    found = [pid]
    for above in found:
        found += [child for child, its in parents.items() if its == above]
    return found[1:]


def parent(pid: int) -> int:
    """Raises: OSError, when it has ended."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def left(pids: Iterable[int], seconds: float) -> list[int]:
    """Those that have not ended after so long."""
    until = time.monotonic() + seconds
    there = []
    for pid in pids:
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        waiting = select.poll()  # `select` knows 1024 descriptors, and tests may have more
        waiting.register(process, select.POLLIN)
        ended = waiting.poll(max(0.0, until - time.monotonic()) * 1000)
        os.close(process)
        there += [] if ended else [pid]
    return there


def memory_mib(pid: int, what: str = "VmRSS") -> float:
    """What a process holds of the machine's memory now; VmHWM: held at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{what}:"))
