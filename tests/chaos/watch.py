"""Workers that die, stop, hang or do not listen: how soon it is noticed. P4 and P7."""

from __future__ import annotations

from collections.abc import Callable

from bench.recovery import ROWS, STEP_SECONDS, Drill, settings
from client import Client
from tests.chaos.report import Ground
from tests.drills import DrillServer, gates

START_SECONDS = 1.0
"""For a new process, beside the seconds in which it is noticed that one is wanted."""
NOTICED: dict[Callable[[Drill], float], tuple[str, float]] = {
    Drill.killed: ("P4", 2 + START_SECONDS),
    Drill.stopped: ("P4", 2 + START_SECONDS),
    Drill.loops: ("P4", 3 * STEP_SECONDS + 2 + START_SECONDS),
    Drill.holds_the_interpreter: ("P4", 3 * STEP_SECONDS + 2 + START_SECONDS),
    Drill.listens: ("P7", 10.0),
    Drill.ends_at_sigterm: ("P7", 10.0),
    Drill.hears_nothing: ("P7", 10.0),
}
"""Seconds in which each has to be over. Declared steps are of STEP_SECONDS."""
QUICK = (Drill.killed, Drill.stopped, Drill.listens)


def watch(ground: Ground) -> None:
    rounds = ground.pick(1, 4)
    with DrillServer(ground.folder, **settings(STEP_SECONDS)) as server, Client(server.url) as client:
        for row, (what, drill) in enumerate(ROWS.items()):
            if not ground.long and drill not in QUICK:
                continue
            slowest = 0.0
            for turn in range(rounds):
                with gates(ground.folder, f"before{turn}.{row}", f"after{turn}.{row}") as (before, after):
                    slowest = max(slowest, drill(Drill(client, before, after)))
            promise, most = NOTICED[drill]
            ground.time(promise, what, f"longest of {rounds}, s", slowest, most)
