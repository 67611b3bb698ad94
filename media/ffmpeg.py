"""Finding and running the ffmpeg program: the only place that does, and never without whitelists and limits.

A playlist that calls itself `film.mp4` makes ffmpeg open what the playlist names, other files and the network too. So
every input may use the protocols `file` and `pipe` only, and only demuxers that never open a second file.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ffmpeg

from contract.errors import UnsupportedMedia
from media import limits
from media.kinds import FORMATS

PROTOCOLS = "file,pipe"
CONFINED = {"protocol_whitelist": PROTOCOLS, "format_whitelist": ",".join(FORMATS)}
"""Options that stand before every input."""

TIMEOUT_SECONDS = 3600
_JOIN_SECONDS = 900
"""Of a processor's time; copying 100 GB takes 200."""
_JOINED_MOST, _JOINED_MORE = 2, 16 << 20
"""What a container adds: a few bytes for each packet, however small those are, and an index."""
_PATIENCE = 4
"""Times as long by the clock as the processor may work, for a machine that has other things to do."""


@functools.cache
def binary() -> str:
    """The system's ffmpeg, else the one that the package imageio-ffmpeg brings. Raises: RuntimeError without either."""
    found = shutil.which("ffmpeg")
    if found:
        return found
    import imageio_ffmpeg

    return str(imageio_ffmpeg.get_ffmpeg_exe())


def is_confined(args: Sequence[str]) -> bool:
    """Whether a command line is ffmpeg's, with the whitelists before each of its inputs."""
    starts = [index for index, word in enumerate(args) if word == "-i"]
    if not starts or args[0] != binary():
        return False
    between = [args[start:end] for start, end in zip([0, *starts], starts, strict=False)]
    return all(_has(options, option, value) for options in between for option, value in CONFINED.items())


def _has(words: Sequence[str], option: str, value: str) -> bool:
    return any(pair == (f"-{option}", value) for pair in itertools.pairwise(words))


def opens(path: Path, seconds: float) -> bool:
    """Whether a file is open within so many seconds of a processor's time, if only to be found unreadable.

    The program gets it as its standard input, because a path may be the name of a descriptor of this process.
    """
    nothing = ffmpeg.output(ffmpeg.input("file:/dev/stdin", **CONFINED), "-", f="null", t=0)
    words = ffmpeg.compile(nothing, cmd=[binary(), "-nostdin", "-loglevel", "quiet"])
    with (
        path.open("rb") as file,
        subprocess.Popen(words, stdin=file, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as program,
    ):
        limits.bound(program.pid, seconds)
        try:
            return program.wait(timeout=_PATIENCE * seconds) >= 0
        except subprocess.TimeoutExpired:
            program.kill()
            return False


def join(sources: Sequence[Path], target: Path, stoppable: Callable[[Callable[[], Any]], None]) -> None:
    """Copy the picture of the first source and the sound of the last, without coding anew, into one file.

    target: its suffix chooses the container. stoppable: is told what kills the program.
    Raises: UnsupportedMedia when they do not go together; OSError when the disk is full.
    """
    inputs = [ffmpeg.input(f"file:{source}", **CONFINED) for source in sources]
    streams = [inputs[0]["v?"], inputs[-1]["a?"]]
    options = {"movflags": "+faststart"} if target.suffix == ".mp4" else {}
    size = _JOINED_MOST * sum(source.stat().st_size for source in sources) + _JOINED_MORE
    _run(ffmpeg.output(*streams, f"file:{target}", c="copy", map_metadata=-1, **options), size, stoppable)


def _run(output: Any, size: int, stoppable: Callable[[Callable[[], Any]], None]) -> None:
    words = ffmpeg.compile(output, cmd=[binary(), "-nostdin", "-hide_banner", "-loglevel", "error", "-y"])
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        limits.bound(process.pid, _JOIN_SECONDS, size)
        stoppable(process.kill)
        try:
            _, said = process.communicate(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    if process.returncode:
        if os.strerror(errno.ENOSPC).encode() in said:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise UnsupportedMedia("The picture and the sound of this source do not go together in one file.") from (
            RuntimeError(said.decode(errors="replace")[-2000:])
        )
