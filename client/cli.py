"""The command `optivus`.

    optivus transcribe FILE…     upload, transcribe, print; many files one after another, folders with all they hold
      --format srt,vtt           write files beside the sources instead; a second run does only what is missing
    optivus describe FILE…       say what pictures and videos show
    optivus video URL|FILE…      what is said and what is seen in videos, on one timeline
    optivus download URL…        download on the server and fetch the files to this machine
    optivus say TEXT             speak: play it while it is being spoken, write it to a file, or both
    optivus listen               write down what is said into the microphone, while it is said
    optivus voices               the saved voices: list, add, delete
    optivus jobs, cancel         what this user's commands have under way, and an end to it
    optivus signal JOB NAME      give a job what it waits for: an approval, a review
    optivus health               whether the server is healthy
    optivus models pull [NAME]   on the server's machine: fetch a model's weights before the first request
    optivus doctor, backup       on the server's machine: check and mend what it keeps; copy it while it runs

Exit status: 0 all well · 1 a file or a model failed, the others were done · 2 wrong use · 130 stopped by Ctrl-C, 143 by
SIGTERM, 129 by a closed terminal (SIGHUP); what was under way is cancelled on the server too.
What was asked for alone goes to standard output; bars and sentences go to standard error.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
import warnings
from collections.abc import Sequence

from . import describe, downloads, jobs, microphone, models, speech, transcribe, upkeep
from .command import FAILED, INTERRUPTED
from .console import lenient, say
from .warn import OptivusWarning

FAMILIES = (transcribe, describe, downloads, speech, microphone, jobs, models, upkeep)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit status; wrong use ends in SystemExit(2), as argparse does."""
    sys.stdout, sys.stderr = lenient(sys.stdout), lenient(sys.stderr)
    args = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", OptivusWarning)
            warnings.showwarning = lambda message, *_where, **_more: say(str(message))
            status: int = args.run(args)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left (`optivus … | head`). Nothing can be said to it, nor at the interpreter's exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = FAILED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optivus",
        description="Work with an Optivus media server: the one of --server, or of OPTIVUS_SERVER.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"optivus {_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for family in FAMILIES:
        family.add(commands)
    return parser


def _version() -> str:
    try:
        return importlib.metadata.version("optivus")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
