"""Runs in a process of its own, since a sandbox cannot be taken off: `python -m tests.sandboxed`, JSON in and out.

{"attempts": true}                                     what becomes of every way to connect and to start a program
{"fetch": url, "allow": […], "proxy": …, "names": {}}  what becomes of a download; `names` are a resolver's answers
"""

from __future__ import annotations

import _socket
import asyncio
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contract import logs
from contract.errors import ServiceError
from media import ffmpeg
from workers.dlp.failures import as_service_error
from workers.dlp.fetch import Access, Fetcher, Limits
from workers.dlp.sandbox import Errand, Rules, Sandbox

LOCAL = ("127.0.0.1", 9)


def ask(**order: Any) -> Any:
    """What a new process answers."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.sandboxed"], input=json.dumps(order), text=True, capture_output=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def attempts() -> dict[str, str]:
    """Each way, and the name of the exception that it ended with."""

    def udp(send: Callable[[socket.socket], Any]) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            send(sock)

    ways: dict[str, Callable[[], Any]] = {
        "connect": lambda: socket.create_connection(LOCAL, timeout=1),
        "connect_ex": lambda: socket.socket().connect_ex(LOCAL),
        "below Python's own class": lambda: _socket.socket(socket.AF_INET, socket.SOCK_STREAM).connect(LOCAL),
        "a name as address": lambda: socket.socket().connect(("localhost", 9)),
        "IPv6": lambda: socket.socket(socket.AF_INET6).connect(("::1", 9)),
        "IPv4 in IPv6": lambda: socket.socket(socket.AF_INET6).connect(("::ffff:127.0.0.1", 9)),
        "link-local": lambda: socket.socket().connect(("169.254.169.254", 80)),
        "a Unix socket": lambda: socket.socket(socket.AF_UNIX).connect("/run/docker.sock"),
        "UDP connect": lambda: udp(lambda sock: sock.connect(LOCAL)),
        "sendto": lambda: udp(lambda sock: sock.sendto(b"x", LOCAL)),
        "sendmsg": lambda: udp(lambda sock: sock.sendmsg([b"x"], [], 0, LOCAL)),
        "asyncio": lambda: asyncio.run(asyncio.open_connection(*LOCAL)),
        "own address": lambda: socket.create_connection((own_address(), 9), timeout=1),
        "a program": lambda: subprocess.run(["true"], check=True),
        "a shell": lambda: os.system("true"),
        "another thread": lambda: in_thread(lambda: socket.create_connection(LOCAL, timeout=1)),
        "unconfined ffmpeg": lambda: subprocess.run([ffmpeg.binary(), "-i", "http://127.0.0.1/"], check=True),
        "ffmpeg with one of two inputs confined": lambda: subprocess.run(
            [ffmpeg.binary(), *confined_input(), "-i", "a", "-i", "b"], check=True
        ),
    }
    return {way: _outcome(attempt) for way, attempt in ways.items()}


def confined_input() -> list[str]:
    return [word for option, value in ffmpeg.CONFINED.items() for word in (f"-{option}", value)]


def own_address() -> str:
    """This machine's address towards the internet, where it has one. Nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("1.1.1.1", 9))
        except OSError:
            return LOCAL[0]
        return str(sock.getsockname()[0])


def in_thread(attempt: Callable[[], Any]) -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            attempt()
        except OSError as exc:
            raised.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def _outcome(attempt: Callable[[], Any]) -> str:
    try:
        attempt()
    except OSError as exc:
        return type(exc).__name__
    return "went through"


def fetch(url: str, sandbox: Sandbox, proxy: str | None) -> dict[str, Any]:
    errand = Errand()
    with tempfile.TemporaryDirectory() as folder:
        limits = Limits(bytes=10**8, seconds=3600, entries=5, height=720)
        try:
            _, path, about = Fetcher(
                url, Path(folder), limits, Access(2.0, proxy), sandbox, errand, lambda *args, **details: None
            ).fetch()
        except Exception as exc:  # noqa: BLE001 - as the worker does
            error = exc if isinstance(exc, ServiceError) else as_service_error(exc, errand)
            return {"error_code": error.code, "message": error.message, **error.details}
        return {"suffix": path.suffix, "duration": about.duration, "has_video": about.has_video}


def resolve_as(names: dict[str, list[str]]) -> None:
    """Put a resolver in place that answers for these names with each of their addresses in turn, then the last."""
    system = socket.getaddrinfo
    answers = {name: itertools.chain(given, itertools.repeat(given[-1])) for name, given in names.items()}

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        numeric = options.get("flags", 0) & socket.AI_NUMERICHOST
        return system(next(answers[host]) if host in answers and not numeric else host, *args, **options)

    socket.getaddrinfo = getaddrinfo


def main() -> None:
    order = json.load(sys.stdin)
    logs.configure("warning")
    ffmpeg.binary()
    proxy = order.get("proxy")
    rules = Rules(
        proxy=(proxy[0], proxy[1]) if proxy else None,
        allow=frozenset((host, port) for host, port in order.get("allow", ())),
        may_start=ffmpeg.is_confined,
    )
    resolve_as(order.get("names", {}))
    sandbox = Sandbox(rules)
    sandbox.install()
    if "fetch" in order:
        result: Any = fetch(order["fetch"], sandbox, f"http://{proxy[0]}:{proxy[1]}" if proxy else None)
    else:
        result = attempts()
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
