"""What the commands share: their server, the client that they are there, and how they end.

Every command of a user is the same client of a server (`tokens`), or the one that OPTIVUS_TOKEN names.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from . import environment
from .aio import AsyncClient
from .console import connection, say
from .errors import OptivusError
from .tokens import Tokens
from .web import base_url

FAILED, MISUSED, INTERRUPTED = 1, 2, 130

Commands = Any
"""The object of `argparse` to which commands are added; its class has no public name."""


def new_command(commands: Commands, name: str, summary: str) -> argparse.ArgumentParser:
    """A command that asks a server."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, allow_abbrev=False)
    parser.add_argument(
        "--server", default=environment.server(), metavar="URL", help="the server's address, by default %(default)s"
    )
    parser.set_defaults(refuse=parser.error)
    return parser


def status_of(work: Coroutine[Any, Any, bool]) -> int:
    """The exit status of a command's work, which SIGTERM and SIGHUP cancel as Ctrl-C does."""
    stopped: list[int] = []

    async def until_stopped() -> bool:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def stop(number: int) -> None:
            stopped.append(number)
            task.cancel()

        if sys.platform != "win32":
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it
                    loop.add_signal_handler(number, stop, number)
        return await work

    try:
        done = asyncio.run(until_stopped())
    except (asyncio.CancelledError, OSError):  # the terminal is gone
        if not stopped:
            raise
        return 128 + stopped[0]
    return 0 if done else FAILED


async def done(
    server: str, work: Callable[[AsyncClient], Awaitable[bool | None]], also: tuple[type[Exception], ...] = ()
) -> bool:
    """Connect and do a command's work; False when it failed, or says so itself.

    also: what else may go wrong in it; as with a file or the server, its sentence is said on standard error.
    """
    failures: tuple[type[Exception], ...] = (OptivusError, *also)
    try:
        async with connected(server) as client:
            return await work(client) is not False
    except failures as exc:
        say(str(exc))
    except OSError as exc:
        if isinstance(exc, BrokenPipeError):
            raise
        say(f"{os.fspath(exc.filename)}: {exc.strerror}" if exc.filename and exc.strerror else str(exc))
    return False


@contextlib.asynccontextmanager
async def connected(server: str) -> AsyncIterator[AsyncClient]:
    """A client of the server: the one that this user's commands are.

    Raises: OptivusError, ServerUnreachable.
    """
    url, given = base_url(server), environment.token()
    token = given or _kept(url)
    while True:
        async with AsyncClient(server, token, notify=connection) as client:
            agreed = await _agreed(url, client, token, given)
            if agreed == client.token:
                yield client
                await _agreed(url, client, agreed, given)  # the server may have lost its data meanwhile
                return
        token = agreed


def _kept(url: str) -> str | None:
    try:
        return Tokens(environment.state_folder()).of(url)
    except OSError:  # reported when the new token cannot be kept either
        return None


async def _agreed(url: str, client: AsyncClient, before: str | None, given: str | None) -> str | None:
    """The token to go on with: the client's, or that of a command that was faster."""
    if given is not None or client.token is None or client.token == before:
        return client.token
    try:
        return await asyncio.to_thread(Tokens(environment.state_folder()).keep, url, client.token, before)
    except OSError as exc:
        say(f"Other commands will not see these jobs, since this client's token cannot be kept: {exc}")
        return client.token


def json_line(value: Any) -> str:
    """One line of JSON for standard output, whatever its encoding."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    return json.dumps(value, ensure_ascii=encoding != "utf8")


def writable(name: str) -> Path:
    """An argument that names a file to be written: checked before the work, which may take hours, and not after it."""
    path = Path(name)
    try:
        writable = name.endswith(path.name) and not path.is_dir() and path.parent.is_dir()  # "x/" names a folder
        writable = writable and os.access(path if path.exists() else path.parent, os.W_OK)
    except OSError:  # a name longer than any may be
        writable = False
    if not writable:
        raise argparse.ArgumentTypeError(f"{name} cannot be written; name a file in a folder that exists")
    return path
