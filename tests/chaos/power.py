"""What is on the disk when a job is acknowledged, by the server's own system calls: P1."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import urllib.request
from pathlib import Path

import orjson

from tests.chaos.report import Ground
from tests.drills import DrillServer

CALLS = "fsync,fdatasync,read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg"
BEGUN = re.compile(r"^(\d+) +(?:fsync|fdatasync)\(\d+")
"""By which thread; strace's first column."""
SYNCED = re.compile(r"^(\d+) .*(?:fsync|fdatasync)(?:\(\d+\)| resumed>\)) += 0$")
ASKED = "POST /jobs"
ACKNOWLEDGED = "HTTP/1.1 202"
WHAT = "a power cut at any time"


def power(ground: Ground) -> None:
    """Jobs one after the other, under strace: between request and acknowledgement the disk has to say that it has it.

    Where there is no strace, or it may not look at others' processes, nothing is tried.
    """
    count = ground.pick(10, 300)
    calls = ground.folder / "calls"
    acknowledged = early = 0
    with DrillServer(ground.folder, MAX_OPEN_JOBS_PER_CLIENT="10000", DRILL_PRELOAD="1") as server:
        tracer = _attached(server.pid, calls)
        if tracer is not None:
            body = orjson.dumps({"type": "drill", "script": ["go"]})
            for _ in range(count):
                request = urllib.request.Request(f"{server.url}/jobs", body, {"Content-Type": "application/json"})
                urllib.request.urlopen(request, timeout=60).close()
            tracer.send_signal(signal.SIGINT)
            tracer.wait(30)
            acknowledged, early = _read(calls.read_text(errors="replace").splitlines())
    ground.tried("P1", WHAT, "acknowledgements looked at", acknowledged)
    ground.count("P1", WHAT, "acknowledged before the disk had it", early)
    ground.count("P1", WHAT, "acknowledgements not seen", (count if tracer is not None else 0) - acknowledged)


def _attached(pid: int, calls: Path) -> subprocess.Popen[str] | None:
    """A strace that watches every thread of a process; None where it cannot."""
    strace = shutil.which("strace")
    if strace is None:
        return None
    command = [strace, "-f", "-e", f"trace={CALLS}", "-s", "60", "-o", str(calls), "-p", str(pid)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    return tracer if "attached" in tracer.stderr.readline() else None


def _read(lines: list[str]) -> tuple[int, int]:
    """Acknowledgements, and those between whose request and which no sync began and ended."""
    acknowledged = early = 0
    begun: set[str] = set()
    synced = False
    for line in lines:
        if ASKED in line:
            begun.clear()
            synced = False
        if found := BEGUN.match(line):
            begun.add(found[1])
        if (found := SYNCED.match(line)) and found[1] in begun:
            synced = True
        if ACKNOWLEDGED in line:
            acknowledged += 1
            early += not synced
    return acknowledged, early
