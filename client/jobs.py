"""`optivus jobs`, `cancel`, `signal` and `health`: what this user's commands have under way, and how the server is."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

from .aio import AsyncClient
from .command import Commands, done, json_line, new_command, status_of
from .console import say, shown
from .errors import OptivusError, ServerUnreachable
from .events import JobInfo
from .sources import say_failed

ENDED = ("completed", "failed", "cancelled")


def add(commands: Commands) -> None:
    """The commands' arguments."""
    jobs = new_command(commands, "jobs", "the jobs of this user's commands, newest first")
    jobs.add_argument("--json", action="store_true", help="one JSON line per job")
    jobs.set_defaults(run=lambda args: status_of(done(args.server, lambda client: _list(client, args.json))))

    cancel = new_command(commands, "cancel", "stop jobs")
    cancel.add_argument("jobs", nargs="*", metavar="JOB", help="as `optivus jobs` names it")
    cancel.add_argument("--all", action="store_true", help="all that have not ended")
    cancel.set_defaults(run=_run_cancel)

    signal = new_command(commands, "signal", "give a job what it waits for")
    signal.add_argument("job", metavar="JOB", help="as `optivus jobs` names it")
    signal.add_argument("name", metavar="NAME", help="of what it waits for, as `optivus jobs` says")
    signal.add_argument("data", nargs="?", type=_object, default={}, metavar="JSON", help="an object, by default {}")
    signal.set_defaults(run=_run_signal)

    health = new_command(commands, "health", "whether the server is healthy: exit status 0 or 1")
    health.add_argument("--json", action="store_true", help="all that it says, as JSON")
    health.set_defaults(run=lambda args: status_of(_health(args.server, args.json)))


async def _list(client: AsyncClient, as_json: bool) -> None:
    jobs = await client.jobs()
    if as_json:
        for job in jobs:
            print(json_line(dataclasses.asdict(job)))
    elif jobs:
        for line in table([("JOB", "TYPE", "STATE", "PROGRESS", "SINCE"), *map(in_columns, jobs)]):
            print(shown(line))
    else:
        say(f"Commands of this user have no jobs at {client.url}.")


def in_columns(job: JobInfo) -> tuple[str, ...]:
    """A job as a row of the table."""
    progress = "" if job.fraction is None or job.state in ENDED else f"{job.fraction:.0%}"
    if job.queue_position is not None and job.state == "pending":
        progress = f"no. {job.queue_position} in the queue"
    if job.waiting_for is not None:
        progress = f"waits for {job.waiting_for.name}"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.created_at))
    return job.job_id, job.type, job.state, progress, since


def table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Rows as lines, their columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _run_cancel(args: argparse.Namespace) -> int:
    if bool(args.jobs) == args.all:
        args.refuse("which: the jobs' names, or --all")
    return status_of(done(args.server, lambda client: _cancel(client, args.jobs)))


async def _cancel(client: AsyncClient, names: list[str]) -> bool:
    """names: none means all."""
    asked = names or [job.job_id for job in await client.jobs() if job.state not in ENDED]
    if not asked:
        say(f"Commands of this user have no job under way at {client.url}.")
    whole = True
    for name in asked:
        try:
            cancelled = await client.cancel(name)
        except ServerUnreachable:
            raise
        except OptivusError as exc:
            say_failed(name, exc)
            whole = False
            continue
        say(f"{name}: cancelled." if cancelled else f"{name}: had ended already.")
    return whole


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text} is no JSON") from exc
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f'{text} is no object such as {{"approved": true}}')
    return value


def _run_signal(args: argparse.Namespace) -> int:
    return status_of(done(args.server, lambda client: _signal(client, args.job, args.name, args.data)))


async def _signal(client: AsyncClient, job: str, name: str, data: dict[str, Any]) -> bool:
    signalled = await client.signal(job, name, data)
    say(f"{job}: has {name} now." if signalled else f"{job}: does not wait for {name}.")
    return signalled


async def _health(server: str, as_json: bool) -> bool:
    try:
        client = AsyncClient(server)
        try:
            health = await client.health()
        finally:
            await client.close()
    except OptivusError as exc:
        say(str(exc))
        return False
    if "status" not in health:
        say(f"Something answers at {client.url}, but it is no Optivus server.")
    elif as_json:
        print(json_line(health))
    else:
        for line in summary(client.url, health):
            print(shown(line))
    return health.get("status") == "healthy"


def summary(url: str, health: dict[str, Any]) -> Iterator[str]:
    """The answer of ``GET /health`` as printed lines."""
    yield (
        f"{url} is {health['status']}: Optivus {health.get('version', '?')} on "
        f"{health.get('device', '?')}, {health.get('open_jobs', 0)} open jobs"
    )
    rows = [
        (f"  {name}", str(worker.get("state", "")), _load(worker), str(worker.get("error", "")))
        for name, worker in health.get("workers", {}).items()
    ]
    if rows:
        yield from table(rows)


def _load(worker: dict[str, Any]) -> str:
    counts = ((name, worker.get(name, 0)) for name in ("running", "queued", "restarts"))
    return ", ".join(f"{count} {name}" for name, count in counts if count)
