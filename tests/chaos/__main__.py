"""Every promise in its long form: `python -m tests.chaos [--seed N] [--only DRILL …] [--into REPORT.md]`.

It takes half an hour. Exit status 1 when a promise was broken. Real models are taken from OPTIVUS_TEST_MODELS.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.chaos.drills import DRILLS, run
from tests.chaos.report import Figure, Ground, say, table
from tests.checkpoints import make_ctranslate2
from tests.checkpoints_fish import make_speaker
from tests.checkpoints_florence import make_native
from tests.conftest import real_model


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--only", nargs="+", choices=DRILLS, default=list(DRILLS))
    parser.add_argument("--into", type=Path)
    args = parser.parse_args()
    figures: list[Figure] = []
    broken = 0
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        models = {
            "whisper": real_model("whisper-tiny") or make_ctranslate2(Path(folder) / "whisper"),
            "florence": real_model("florence2-shapes") or make_native(Path(folder) / "florence"),
            "fish": make_speaker(Path(folder) / "fish"),
        }
        for name in args.only:
            ground = Ground(Path(tempfile.mkdtemp(dir=folder)), args.seed, long=True, figures=[])
            began = time.monotonic()
            say(f"{name}, seed {args.seed}")
            try:
                run(name, ground, models)
            except Exception:  # noqa: BLE001 - the others are run all the same
                traceback.print_exc()
                broken += 1
            wrong, seconds = len(ground.broken()), time.monotonic() - began
            say(f"{name}: {wrong} of {len(ground.figures)} figures broken, {seconds:.0f} s")
            figures += ground.figures
            broken += wrong
    report = f"Seed {args.seed}.\n\n{table(figures)}\n"
    print(report)
    if args.into:
        args.into.write_text(report)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
