"""Who is measured takes turns, so that a machine whose speed drifts is fair to all; what the machine did meanwhile.

turns ─▶ round after round, while there is time ─▶ Taken: figures, share of `forward`, the GPU's use, busy cores
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
import time
import traceback
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.gpu.nvml import Gpu

Figures = Mapping[str, float]
MOST_ROUNDS = 5
_SETTLE_SECONDS = 0.2
"""A worker tells what it has counted once it has nothing more to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Turn:
    """act: measures once and answers figures by name. processes: `stat` files of those who do the work, by what they
    are, see `of_process`.

    forward: the seconds that the worker has spent in `forward` so far, None where nobody counts them. warm_up: called
    once, before the first act.
    """

    who: str
    act: Callable[[], Figures]
    processes: Callable[[], Mapping[str, Path]]
    forward: Callable[[], float | None] = lambda: None
    warm_up: Callable[[], object] = lambda: None


@dataclasses.dataclass(frozen=True, slots=True)
class Taken:
    """What a turn gave. forward, gpu: shares of its time, 0 to 1; cores: how many were busy, by process."""

    figures: Figures
    forward: float | None
    gpu: float | None
    cores: Mapping[str, float]


Found = dict[str, list[Taken]]
"""By who; nothing of those whose every turn failed or was not reached."""


def take_turns(turns: Sequence[Turn], until: float, gpu: Gpu, rounds: int = MOST_ROUNDS) -> Found:
    """Rounds while another one ends before `until`, a moment of `time.perf_counter`; at least one, at most `rounds`.

    Who fails has no further turn, and a TimeoutError ends the rounds; what was taken before counts.
    """
    found: Found = {turn.who: [] for turn in turns}
    going, longest = list(turns), 0.0
    for number in range(rounds):
        began = time.perf_counter()
        if number and began + longest > until:
            break
        for turn in list(going):
            try:
                if not number:
                    turn.warm_up()
                found[turn.who].append(take(turn, gpu))
            except TimeoutError as exc:
                _say(f"broken off at {turn.who}: {exc}")
                return found
            except Exception:  # noqa: BLE001 - the others are measured all the same
                _say(f"failed: {turn.who}\n{traceback.format_exc()}")
                going.remove(turn)
            else:
                figures = ", ".join(f"{name} {value:.4g}" for name, value in found[turn.who][-1].figures.items())
                _say(f"round {number + 1}: {turn.who}: {figures}")
        longest = max(longest, time.perf_counter() - began)
    return found


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def take(turn: Turn, gpu: Gpu) -> Taken:
    processes = turn.processes()
    before, forward = {name: cpu_seconds(stat) for name, stat in processes.items()}, turn.forward()
    began = time.perf_counter()
    figures = turn.act()
    ended = time.perf_counter()
    cores = {name: (cpu_seconds(stat) - before[name]) / (ended - began) for name, stat in processes.items()}
    if forward is not None:
        time.sleep(_SETTLE_SECONDS)
    after = turn.forward()
    share = None if forward is None or after is None else (after - forward) / (ended - began)
    return Taken(figures, share, gpu.busy(began, ended), cores)


def of_process(pid: int) -> Path:
    """Where the system counts for all threads of a process."""
    return Path(f"/proc/{pid}/stat")


def of_main_thread(pid: int) -> Path:
    return Path(f"/proc/{pid}/task/{pid}/stat")


def cpu_seconds(stat: Path) -> float:
    """What was used so far."""
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def forward_seconds(url: str, worker: str) -> float | None:
    """What the server counts of a worker, in all; None from a server that does not."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    found = re.search(rf'^optivus_forward_seconds_total{{[^}}]*worker="{worker}"[^}}]*}} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else None
