"""Optivus, the server: `python server.py`.

Settings → fork server → ledger → transport → ResultQueue → doors; then it serves until SIGTERM or Ctrl-C, lets running
work finish for a while, keeps the rest for the next start, and exits with 0.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import resource
import signal
import socket
import sys
import textwrap
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import structlog
import uvloop
from aiohttp import web

sys.path.insert(0, str(Path(__file__).resolve().parent))  # `python -P` and PYTHONSAFEPATH leave it out

from config import (
    ROOT,
    Crew,
    Settings,
    SettingsError,
    Variable,
    library_folders,
    load_workers,
    misspelt,
    secrets,
    share_cores,
    shield_imports,
    variables,
)
from contract.known_secrets import hide
from contract.launch import Launch
from contract.logs import configure, take_strays, without_secrets
from contract.spelling import meant
from gateway.answers import answer_errors, guard, server_log
from gateway.auth import Authenticators, Tokens
from gateway.docs import Docs
from gateway.files import FileDoor, Uploads
from gateway.health import Health
from gateway.http import HttpDoor
from gateway.origins import Origins
from gateway.patience import Patience
from gateway.rates import Rates
from gateway.seats import Connections, Seats
from gateway.socketio import SocketDoor
from gateway.submit import SubmitDoor
from gateway.unfinished import Unfinished
from pipeline.admission import Limits
from pipeline.catalog import load_plans
from pipeline.following import Following
from pipeline.intake import MAX_CONTENT_BYTES, Intake
from pipeline.result_queue import ResultQueue
from pipeline.transport.local import LocalTransport
from storage.ledger import ReadFailed, Unusable
from storage.premises import Busy, check_all, in_container, lock
from storage.retention import Retention
from storage.space import Space
from storage.sqlite import SqliteLedger
from storage.trouble import MEND
from workers.runtime import landlock
from workers.runtime.discovery import discover
from workers.runtime.host import serve as serve_worker

log = structlog.get_logger()

OPEN_FILES = 65_536
OWN_FILES = 128
"""Of these, the server's own: the ledger, its threads' files, its workers' pipes."""
LINGER_SECONDS = 10.0
"""How long the rest of a body is read that was answered before its end, since some clients read no sooner."""
HELP_WIDTH = 118


def version() -> str:
    """The project's; a server is always run from its checkout."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


async def serve(settings: Settings, crew: dict[str, Crew]) -> None:
    """Run until told to stop."""
    folders = settings.folders
    launch = Launch(folders, settings.workers_path, settings.log_level, libraries=library_folders(), secrets=secrets())
    transport = LocalTransport(crew, serve_worker, launch)
    ledger = SqliteLedger(folders.ledger)
    plans = load_plans({name: worker for name, (worker, _) in crew.items()}, settings.max_items)
    off = {name: setting for name, (_, settings) in crew.items() if (setting := settings.switched_off(name))}
    space = Space(folders.data, None if settings.least_free_gb is None else int(settings.least_free_gb * 1e9))
    intake = Intake(plans, folders, ledger, off, space)
    limits = _limits(settings)
    road = ResultQueue(ledger, transport, plans, intake, limits)
    following = Following(road)
    retention = Retention(ledger, folders, settings.retention_hours)

    callers = Authenticators(Tokens.stored(folders.key))
    rates = Rates(settings.requests_per_second)
    seats = (_connections(settings.max_connections), settings.max_connections_per_address)
    origins = Origins(settings.cors_origins, settings.allowed_hosts, settings.trusted_proxies)
    connections = Connections(*seats, origins)
    sockets = SocketDoor(road, callers, folders, rates, Seats(*seats))
    health = Health(road, transport, ledger, space, lambda: sockets.connections, version())
    app = _application(settings.stall_seconds, origins, rates, connections)
    sockets.attach(app)
    HttpDoor(road, following, callers, folders, health).attach(app)
    uploads = Uploads(ledger, folders, limits.file_bytes, space)
    FileDoor(ledger, callers, uploads).attach(app)
    SubmitDoor(road, following, callers, uploads, plans).attach(app)
    results = {name: worker.Result for name, (worker, _) in crew.items()}
    Docs(plans, results, version()).attach(app)

    stopping = _stop_signal()
    await retention.start()
    await transport.start()
    await road.start()
    try:
        runner, site = await _listen(app, settings, connections)
    except SettingsError:  # said when nothing is at work any more that could write a line after it
        await _close(road, retention, ledger)
        raise
    log.info(
        "listening",
        url=f"http://{_host(settings.host)}:{runner.addresses[0][1]}",
        types=sorted(name for name, plan in plans.items() if "." not in name and not plan.needs & off.keys()),
        **({"off": off} if off else {}),
        version=version(),
    )

    await stopping
    log.info("draining", seconds=settings.drain_seconds, open_jobs=road.open_jobs)
    await road.drain(settings.drain_seconds)
    await site.stop()  # else a client whose connection is closed comes back at once, and is waited for
    await sockets.close()
    following.close()
    await runner.cleanup()
    await _close(road, retention, ledger)
    log.info("stopped", kept=road.open_jobs)


async def _close(road: ResultQueue, retention: Retention, ledger: SqliteLedger) -> None:
    await road.close()
    await retention.close()
    await ledger.close()


def _limits(settings: Settings) -> Limits:
    return Limits(
        settings.max_open_jobs,
        settings.max_open_jobs_per_client,
        settings.max_open_jobs_per_address,
        settings.job_deadline_hours * 3600,
        int(settings.max_upload_gb * 1e9),
    )


def _application(stall_seconds: float, origins: Origins, rates: Rates, connections: Connections) -> web.Application:
    """Without routes yet: what stands before all of them."""
    counted = (rates.check, connections.check, Unfinished().count)
    middlewares = [answer_errors, Patience(stall_seconds).watch, origins.check, *counted]
    app = web.Application(client_max_size=MAX_CONTENT_BYTES, middlewares=middlewares)
    app.on_response_prepare.append(origins.tell)
    return app


async def _listen(
    app: web.Application, settings: Settings, connections: Connections
) -> tuple[web.AppRunner, web.TCPSite]:
    """Raises: SettingsError when the port is taken, or the host is not this machine's."""
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=server_log(),
        keepalive_timeout=settings.stall_seconds,
        lingering_time=min(LINGER_SECONDS, settings.stall_seconds),
        shutdown_timeout=2,
    )
    await runner.setup()
    assert runner.server is not None, "it is set up"
    guard(runner.server)
    connections.guard(runner.server)
    site = web.TCPSite(runner, settings.host, settings.port)
    try:
        await site.start()
    except (OSError, UnicodeError) as exc:
        raise _cannot_listen(settings, exc) from exc
    return runner, site


def _host(host: str) -> str:
    """The name by which a browser on this machine reaches the server."""
    if host in ("", "0.0.0.0", "::"):
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _cannot_listen(settings: Settings, exc: OSError | UnicodeError) -> SettingsError:
    host, port = settings.host, settings.port
    if not isinstance(exc, OSError) or isinstance(exc, socket.gaierror) or exc.errno == errno.EADDRNOTAVAIL:
        return SettingsError(
            f"HOST={host} cannot be used: it is no address or name of this machine; 0.0.0.0 listens on all of them."
        )
    return SettingsError(f"HOST={host} PORT={port} cannot be used: {_plainly(exc)}; set another PORT.")


def _plainly(exc: OSError) -> str:
    """asyncio says of itself, too, what it tried."""
    return os.strerror(exc.errno) if exc.errno and exc.errno > 0 else exc.strerror or str(exc)


def _stop_signal() -> asyncio.Future[None]:
    """Done at the first SIGTERM or Ctrl-C; a second one ends the process at once."""
    loop = asyncio.get_running_loop()
    stopping: asyncio.Future[None] = loop.create_future()

    def stop(number: signal.Signals) -> None:
        loop.remove_signal_handler(number)
        if not stopping.done():
            stopping.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    return stopping


def _hold_many_connections() -> None:
    """Silent connections are closed after a while; until then, most systems' 1024 open files would keep others out."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now != resource.RLIM_INFINITY and now < OPEN_FILES:
        wanted = OPEN_FILES if most == resource.RLIM_INFINITY else min(most, OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _connections(wanted: int) -> int:
    """How many there may be, each of which may have a file open beside it."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if files == resource.RLIM_INFINITY else max(1, min(wanted, (files - OWN_FILES) // 2))


def _tell_of_surroundings() -> None:
    if os.geteuid() == 0 and not in_container():
        log.warning("running_as_root", hint="Nothing here needs root: run it as a user who owns its folders.")
    if not landlock.version():
        log.info("no_landlock", hint="Workers can reach what the server's user can: Linux 5.19 and later confine them.")


def read_arguments(arguments: Sequence[str] | None, version: str) -> None:
    """Raises: SystemExit, with status 0 after `--help` and `--version`, and 2 when there is anything else."""
    known = variables(discover())
    parser = _Parser(
        prog="server.py",
        description="The Optivus media server. It is set up by environment variables: PORT=8080 python server.py",
        epilog=_explained(known),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"optivus {version}")
    _, unknown = parser.parse_known_args(arguments)
    if unknown:
        parser.error(_refusal(unknown, [variable.name for variable in known]))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"optivus: {message}\n")


def _refusal(unknown: Sequence[str], known: Sequence[str]) -> str:
    """What to write instead of the first argument that is not understood."""
    first, _, value = unknown[0].partition("=")
    value = value or next((word for word in unknown[1:2] if not word.startswith("-")), "…")
    likely = meant(first.lstrip("-"), known)
    if likely:
        instead = f"it is set by a variable, before the command: {likely[0]}={without_secrets(value)} python server.py"
    else:
        instead = "settings are environment variables, which --help lists"
    return f"server.py has no argument {without_secrets(first)}; {instead}."


def _explained(known: Sequence[Variable]) -> str:
    """Every variable with its default and its meaning, for a terminal."""
    lines = ["variables:"]
    for name, default, meaning in known:
        lines.append(f"  {name}" + (f"={default}" if default else ""))
        lines += textwrap.wrap(meaning.replace("`", ""), HELP_WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 after a drain, 1 when DATA_DIR is another server's, 2 when it or a setting cannot be used.

    Wrong arguments end in SystemExit(2), `--help` and `--version` in SystemExit(0), as argparse does.
    """
    read_arguments(arguments, version())
    try:
        hide(secrets())
        settings = Settings.load()
        configure(settings.log_level, aside=True)
        take_strays()
        share_cores()
        _hold_many_connections()
        shield_imports()
        crew = load_workers(settings)
        for name, likely in misspelt(crew).items():
            log.warning("unknown_setting", name=name, perhaps_meant=" or ".join(likely))
        _tell_of_surroundings()
        held = lock(settings.folders.data)
        with held:
            check_all(settings.folders)
            uvloop.run(serve(settings, crew))
    except ReadFailed as exc:
        print(f"optivus: The ledger in {settings.folders.data} cannot be read ({exc}); {MEND}", file=sys.stderr)
        return 2
    except (SettingsError, Unusable) as exc:
        print(f"optivus: {exc}", file=sys.stderr)
        return 2
    except Busy as exc:
        print(f"optivus: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
