"""`optivus listen`: the microphone of this machine, written down while somebody speaks.

recorder ─▶ samples ─▶ listener ─▶ tentative text, on the terminal's last line
   └─ until Ctrl-C or its end         └─▶ final lines
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tqdm.utils import disp_len

from .aio import AsyncClient
from .command import Commands, done, new_command, status_of
from .console import say, visible
from .events import Partial
from .listener import AsyncListener
from .transcribe import add_speech_options

RATE = 16_000
RECORDERS = (
    "parec --raw --format=s16le --rate={rate} --channels=1 --latency-msec=100",
    "arecord -q -t raw -f S16_LE -r {rate} -c 1 -",
    "rec -q -t raw -e signed -b 16 -L -r {rate} -c 1 -",
    "ffmpeg -nostdin -loglevel error -f {input} -ac 1 -ar {rate} -f s16le -",
)
"""Commands that write the microphone's sound to standard output as pcm_s16le, mono; the preferred one first."""

_INPUTS = {"darwin": "avfoundation -i :default", "linux": "alsa -i default"}
_PIECE_BYTES = 2 * RATE // 10


class RecorderEnded(Exception):
    """No recorder, or it ended before it was asked to. `str()` is a sentence for the person who wanted to speak."""


def add(commands: Commands) -> None:
    """The command's arguments."""
    microphone = new_command(commands, "listen", "the microphone to text, until Ctrl-C")
    add_speech_options(microphone)
    microphone.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    options = {"language": args.language, "task": "translate" if args.translate else "transcribe"}
    return status_of(listen(args.server, options))


async def listen(server: str, options: dict[str, Any]) -> bool:
    """Listen until Ctrl-C; False when that failed, which is said on standard error.

    options: parameters of ``listen``.
    """

    async def listened(client: AsyncClient) -> None:
        command = _recorder()
        async with client.listen(sample_rate=RATE, **options) as mic:
            showing = asyncio.create_task(_show(mic))
            try:
                await _speak(mic, command)
            finally:
                await asyncio.gather(mic.finish(), showing)

    return await done(server, listened, (RecorderEnded,))


async def _speak(mic: AsyncListener, command: list[str]) -> None:
    """Send what is recorded. Raises: RecorderEnded; and as `AsyncListener.send`."""
    async with _recording(command) as process:
        assert process.stdout is not None
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stopped.set)
        say("Listening; Ctrl-C ends it.")
        stopping = asyncio.create_task(stopped.wait())
        try:
            while not stopped.is_set():
                reading = asyncio.create_task(process.stdout.read(_PIECE_BYTES))
                await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
                sound = await reading if reading.done() else b""
                reading.cancel()
                if not sound and not stopped.is_set():
                    break
                await mic.send(sound)
            else:
                return
        finally:
            stopping.cancel()
            asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
        if await process.wait():
            raise RecorderEnded(f"The recorder ended (status {process.returncode}); see that it can record here.")


def _recorder() -> list[str]:
    """The command of the first that is installed. Raises: RecorderEnded."""
    command = next((command for command in RECORDERS if shutil.which(command.split()[0])), None)
    if command is None:
        names = ", ".join(command.split()[0] for command in RECORDERS)
        raise RecorderEnded(f"No program was found to record with; install one of {names}.")
    return command.format(rate=RATE, input=_INPUTS.get(sys.platform, _INPUTS["linux"])).split()


@asynccontextmanager
async def _recording(command: list[str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is ours: what was said is still to be sent
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _show(mic: AsyncListener) -> None:
    """Final texts as lines; on a terminal, the tentative one below them, as much of its end as fits."""
    terminal = sys.stdout.isatty()
    async for event in mic.events():
        if not isinstance(event, Partial):
            continue
        text = visible(event.data["text"]) if terminal else event.data["text"]
        if event.data["final"]:
            print(f"\r\x1b[K{text}" if terminal else text, flush=True)
        elif terminal:
            width = os.get_terminal_size().columns - 1
            while disp_len(text) > width:
                text = text[1:]
            print(f"\r\x1b[K{text}", end="", flush=True)
