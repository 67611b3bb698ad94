"""The models at work on a GPU, through the server, against their libraries called directly: one table.

    OPTIVUS_TEST_MODELS=… .venv/bin/python -m bench.gpu [--parts whisper-tiny fish …] [--speech DIR] [--minutes 8]
    OPTIVUS_TEST_MODELS=… .venv/bin/python -m bench.gpu --device cpu --size micro

Models of published sizes are made on the spot, and nothing is fetched; of OPTIVUS_TEST_MODELS only Whisper's tokenizer
is read. Each part has a share of the minutes, and takes as many rounds as fit into it; its rows are printed when it
ends, and its rounds as they come on standard error. `--size micro` is the check that the measurement itself works, on
any machine: what it prints are no figures.

- in `forward`: the share of the time in which the worker computed a batch, as the server counts it; a dash where it
  does not. The rest of the time the model waited for work, or for what the worker does between two batches.
- GPU: the share in which a kernel ran, by NVML. Where it is far below `forward`, Python keeps the GPU waiting there.
- busy cores: of the worker's process and its main thread, the server's, and the clients, which are this process.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.gpu import detector, fish, florence, florence_model, whisper, whisper_model
from bench.gpu.nvml import Gpu
from bench.gpu.parts import Setup
from bench.gpu.table import HEAD

Measure = Callable[[Setup], None]

SHARES = {"whisper-tiny": 0.13, "whisper-large": 0.42, "detector": 0.02, "fish": 0.24, "florence": 0.19}
"""Of the time of all parts."""
_MEASURING = 0.8
"""Of the minutes. The rest is for parts that take longer."""
_PATIENCE = 15.0
"""Seconds after its time at which a part is broken off."""


def published() -> dict[str, Measure]:
    tiny = whisper.Plan(whisper_model.TINY, 16, 120, times=2)
    large = whisper.Plan(whisper_model.LARGE_V2, 16, 120, times=2.5, goal=300, long=15)
    base = florence.Plan("base", florence_model.BASE, {1: 12, 16: 100, 64: 150}, seconds=4, batch=16)
    return {
        "whisper-tiny": functools.partial(whisper.measure, plan=tiny),
        "whisper-large": functools.partial(whisper.measure, plan=large),
        "detector": functools.partial(detector.measure, seconds=120),
        "fish": functools.partial(fish.measure, plan=fish.Plan("1.5", 16, 20)),
        "florence": functools.partial(florence.measure, plan=base),
    }


def micro() -> dict[str, Measure]:
    """The same parts with next to nothing to compute."""
    short = whisper.Plan(whisper_model.MICRO, 2, 25, times=2)
    long = whisper.Plan(whisper_model.MICRO, 2, 25, times=2.5, goal=300, long=1)
    tiny = florence.Plan("micro", florence_model.MICRO, {1: 12, 4: 100}, seconds=0.5, batch=4)
    return {
        "whisper-tiny": functools.partial(whisper.measure, plan=short),
        "whisper-large": functools.partial(whisper.measure, plan=long),
        "detector": functools.partial(detector.measure, seconds=20),
        "fish": functools.partial(fish.measure, plan=fish.Plan("micro", 3, 1)),
        "florence": functools.partial(florence.measure, plan=tiny),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--size", choices=["published", "micro"], default="published")
    parser.add_argument("--parts", nargs="+", choices=SHARES, default=list(SHARES))
    parser.add_argument("--speech", type=Path, default=Path("nowhere"), help="a folder of clips with transcripts.json")
    parser.add_argument("--minutes", type=float, help="for all parts together; default: 8, of micro 1")
    args = parser.parse_args()
    minutes = args.minutes or (1 if args.size == "micro" else 8)
    parts = published() if args.size == "published" else micro()
    failed = []
    if any(name.startswith("whisper") for name in args.parts):
        whisper_model.tokenizer_file()
    print(f"{machine()}; {args.device}, {args.size} sizes\n\n{HEAD}", flush=True)
    seconds = 60 * minutes * _MEASURING / sum(SHARES[name] for name in args.parts)
    with Gpu() as gpu:
        for name in args.parts:
            until = time.perf_counter() + SHARES[name] * seconds
            if not done(parts[name], Setup(Path(), args.speech, args.device, gpu, until)):
                failed.append(name)
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}")


def done(measure: Measure, setup: Setup) -> bool:
    """Whether a part was measured, in a folder of its own, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-gpu-", ignore_cleanup_errors=True) as folder:
        own = Path(folder)
        try:
            with broken_off(setup.until + _PATIENCE):
                measure(dataclasses.replace(setup, folder=own))
        except Exception:  # noqa: BLE001 - one part's failure is no reason to lose the others
            traceback.print_exc()
            log = own / "server.log"
            print(log.read_text()[-4000:] if log.is_file() else "", file=sys.stderr, flush=True)
            return False
        return True


@contextmanager
def broken_off(at: float) -> Iterator[None]:
    """Raises: TimeoutError at a moment of `time.perf_counter`, whatever is waited for."""

    def late(*_: object) -> None:
        raise TimeoutError("this part took too long")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, max(1.0, at - time.perf_counter()))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def machine() -> str:
    """Of this machine: its GPU, its cores, the versions that count, the commit."""
    import ctranslate2
    import torch
    import transformers

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    cores = len(os.sched_getaffinity(0))
    libraries = (torch, transformers, ctranslate2)
    versions = ", ".join(f"{library.__name__} {library.__version__}" for library in libraries)
    return f"{gpu}, {cores} cores, Python {platform.python_version()}, {versions}{commit()}"


def commit() -> str:
    if shutil.which("git") is None:
        return ""
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return f", commit {asked.stdout.strip()}" if asked.returncode == 0 else ""


if __name__ == "__main__":
    main()
