"""Sound played while it comes, by whichever program of this machine takes bare samples on its standard input."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass

from .job import AsyncJob

PLAYERS = (
    # Its demuxer takes samples for mono by itself; the name of the option for that differs between versions.
    "ffplay -nodisp -autoexit -loglevel error -probesize 32 -f s16le -sample_rate {rate} -i -",
    "pacat --playback --raw --format=s16le --rate={rate} --channels=1 --latency-msec=100",
    "aplay -q -t raw -f S16_LE -r {rate} -c 1 -",
    "play -q -t raw -e signed -b 16 -L -r {rate} -c 1 -",
    "sox -q -t raw -e signed -b 16 -L -r {rate} -c 1 - -d",
)
"""Commands that play pcm_s16le, mono, from standard input and end when it ends; the preferred one first."""


class PlayerEnded(Exception):
    """No player, or it ended before the sound did. `str()` is a sentence for the person who wanted to hear it."""


@dataclass(frozen=True, slots=True)
class Player:
    """One of `PLAYERS`. command: with the sample rate left open."""

    command: str

    @classmethod
    def found(cls) -> Player:
        """The first that is installed. Raises: PlayerEnded."""
        for command in PLAYERS:
            if shutil.which(command.split()[0]):
                return cls(command)
        names = [command.split()[0] for command in PLAYERS]
        raise PlayerEnded(
            f"No player was found to hear it with; install one of {', '.join(names)}, or write a file with -o."
        )

    async def play(self, job: AsyncJob) -> None:
        """Play a job's sound as it comes, to its end; what ends the waiting ends the sound.

        Raises: PlayerEnded; and as `AsyncJob.audio`.
        """
        pieces = job.audio()
        first = await anext(pieces, None)
        if first is None:
            return
        process = await self._started(job.sample_rate or 0)
        feeding = asyncio.create_task(_fed(process, first, pieces))
        ended = asyncio.create_task(process.wait())
        try:
            await asyncio.wait((feeding, ended), return_when=asyncio.FIRST_COMPLETED)
            heard = feeding.done() and await feeding
            if await ended or not heard:
                raise PlayerEnded(
                    f"{self.command.split()[0]} ended before the speech did (status {process.returncode}); "
                    "see that it can play here, or write a file with -o."
                )
        finally:
            feeding.cancel()
            if process.returncode is None:
                process.kill()
            await asyncio.gather(feeding, ended, return_exceptions=True)

    async def _started(self, rate: int) -> asyncio.subprocess.Process:
        # In a session of its own, or Ctrl-C would reach it too, and it would complain that its input broke off.
        return await asyncio.create_subprocess_exec(
            *self.command.format(rate=rate).split(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )


async def _fed(process: asyncio.subprocess.Process, first: bytes, pieces: AsyncIterator[bytes]) -> bool:
    """Whether the process took all of the sound."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(first)
        async for piece in pieces:
            process.stdin.write(piece)
            await process.stdin.drain()
        process.stdin.close()
        return True
    return False
