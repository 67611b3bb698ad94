"""Optivus, the server: `python server.py`.

Settings → fork server → ledger → transport → ResultQueue → doors; then it serves until SIGTERM or Ctrl-C, lets running
work finish for a while, keeps the rest for the next start, and exits with 0.
"""

from __future__ import annotations

import asyncio
import fcntl
import signal
import sys
from importlib import metadata
from pathlib import Path
from typing import TextIO

import structlog
import uvloop
from aiohttp import web

from config import Crew, Settings, SettingsError, configure_logging, load_workers, share_cores
from gateway.answers import answer_errors, same_origin, tell_origin
from gateway.auth import Tokens
from gateway.docs import Docs
from gateway.files import FileDoor
from gateway.health import Health
from gateway.http import HttpDoor
from gateway.socketio import SocketDoor
from pipeline.admission import Limits
from pipeline.catalog import load_plans
from pipeline.database import Unusable
from pipeline.intake import MAX_CONTENT_BYTES, Intake
from pipeline.ledger import Ledger
from pipeline.local import LocalTransport
from pipeline.result_queue import ResultQueue
from pipeline.retention import Retention

log = structlog.get_logger()


class Busy(Exception):
    """Another server works on this DATA_DIR."""


def version() -> str:
    try:
        return metadata.version("optivus")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "0.1.0"


def lock(folder: Path) -> TextIO:
    """Own a DATA_DIR for as long as the returned file is open. Raises: Busy."""
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / "lock").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        raise Busy(f"Another Optivus server is running on {folder}; stop it, or set another DATA_DIR.") from exc
    return file


async def serve(settings: Settings, crew: dict[str, Crew]) -> None:
    """Run until told to stop."""
    folders = settings.folders
    transport = LocalTransport(crew, folders, settings.workers_path, settings.log_level)
    ledger = Ledger(folders.data / "ledger.sqlite3")
    plans = load_plans({name: worker for name, (worker, _) in crew.items()}, settings.max_items)
    off = {name: setting for name, (_, settings) in crew.items() if (setting := settings.switched_off(name))}
    intake = Intake(plans, folders, ledger, off)
    limits = Limits(
        settings.max_open_jobs,
        settings.max_open_jobs_per_client,
        settings.job_deadline_hours * 3600,
        int(settings.max_upload_gb * 1e9),
    )
    road = ResultQueue(ledger, transport, plans, intake, limits)
    retention = Retention(ledger, folders, settings.retention_hours)

    tokens = Tokens.stored(folders.data / "secret.key")
    sockets = SocketDoor(road, tokens, folders)
    health = Health(road, transport, ledger, lambda: sockets.connections, version())
    app = web.Application(
        client_max_size=MAX_CONTENT_BYTES, middlewares=[same_origin(settings.cors_origins), answer_errors]
    )
    app.on_response_prepare.append(tell_origin)
    sockets.attach(app)
    HttpDoor(road, ledger, tokens, folders, health).attach(app)
    FileDoor(ledger, tokens, folders, limits.file_bytes).attach(app)
    Docs(plans, version()).attach(app)

    stopping = _stop_signal()
    await retention.start()
    await transport.start()
    await road.start()
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2)
    await runner.setup()
    site = web.TCPSite(runner, settings.host, settings.port)
    try:
        await site.start()
    except OSError as exc:
        raise SettingsError(f"PORT={settings.port} cannot be used: {exc.strerror}.") from exc
    log.info(
        "listening",
        url=f"http://{settings.host}:{runner.addresses[0][1]}",
        types=sorted(name for name, plan in plans.items() if "." not in name and not plan.needs & off.keys()),
        **({"off": off} if off else {}),
        version=version(),
    )

    await stopping
    log.info("draining", seconds=settings.drain_seconds, open_jobs=road.open_jobs)
    await road.drain(settings.drain_seconds)
    await site.stop()  # else a client whose connection is closed comes back at once, and is waited for
    await sockets.close()
    await runner.cleanup()
    await road.close()
    await retention.close()
    await ledger.close()
    log.info("stopped", kept=road.open_jobs)


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


def main() -> int:
    """Exit status: 0 after a drain, 1 when DATA_DIR is another server's, 2 when it or a setting cannot be used."""
    try:
        settings = Settings.load()
        configure_logging(settings.log_level)
        share_cores()
        crew = load_workers(settings)
        held = lock(settings.folders.data)
        with held:
            uvloop.run(serve(settings, crew))
    except (SettingsError, Unusable) as exc:
        print(f"optivus: {exc}", file=sys.stderr)
        return 2
    except Busy as exc:
        print(f"optivus: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
