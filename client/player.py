"""Sound played while it comes, by whichever program of this machine takes bare samples on its standard input."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass

from .job import AsyncJob

PLAYERS = (
    # Mono is what its demuxer takes samples for by itself; the option's name differs between versions.
    "ffplay -nodisp -autoexit -loglevel error -probesize 32 -f s16le -sample_rate {rate} -i -",
    "pacat --playback --raw --format=s16le --rate={rate} --channels=1 --latency-msec=100",
    "aplay -q -t raw -f S16_LE -r {rate} -c 1 -",
    "play -q -t raw -e signed -b 16 -L -r {rate} -c 1 -",
    "sox -q -t raw -e signed -b 16 -L -r {rate} -c 1 - -d",
)
"""In the order of preference: commands that play pcm_s16le, mono, from standard input and end when it ends."""


class PlayerEnded(Exception):
    """There is none, or it ended before the sound did. `str()` is a sentence for the person who wanted to hear it."""


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
        process = None
        try:
            async for piece in job.audio():
                process = process or await self._started(job.sample_rate or 0)
                assert process.stdin is not None
                process.stdin.write(piece)
                await process.stdin.drain()
            if process is None:
                return
            assert process.stdin is not None
            process.stdin.close()
            if await process.wait():
                raise self._ended(process)
        except (BrokenPipeError, ConnectionResetError) as exc:
            assert process is not None
            await process.wait()
            raise self._ended(process) from exc
        finally:
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()

    async def _started(self, rate: int) -> asyncio.subprocess.Process:
        # In a session of its own, or Ctrl-C would reach it too, and it would complain that its input broke off.
        return await asyncio.create_subprocess_exec(
            *self.command.format(rate=rate).split(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )

    def _ended(self, process: asyncio.subprocess.Process) -> PlayerEnded:
        return PlayerEnded(
            f"{self.command.split()[0]} ended before the speech did (status {process.returncode}); "
            "see that it can play here, or write a file with -o."
        )
