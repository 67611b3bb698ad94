"""The asynchronous client.

    async with AsyncClient("http://127.0.0.1:5000") as client:
        job = await client.submit("whisp", file=await client.upload("talk.mp3"))
        async for event in job.events():
            print(event)
        answer = await job.result()

The server keeps a job's events in its ledger until long after the job; this client remembers only the `seq` up to which
it has them. Whatever may have been missed (after a reconnect, on a gap, when an acknowledgement came late) is asked for
with one `resume`, and what comes twice is dropped by its `seq`.
"""

from __future__ import annotations

import asyncio
import functools
import os
import uuid
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from .connection import ConnectionLost
from .errors import OptivusError, ServerUnreachable, no_server_at
from .events import JobInfo, event_of, job_info
from .job import AsyncJob, held
from .link import Link, backoff
from .listener import AsyncListener
from .tasks import Sendable, Tasks
from .web import HEALTH_TIMEOUT, Content, Report, Web, base_url, with_bytes
from .writing import free_name, growing, settle

DEFAULT_URL = "http://127.0.0.1:5000"
PATIENCE = 300.0
MAX_RESUMED = 1000
"""Most jobs that the server takes in one `resume`."""
TRIES = 5
"""A download that breaks off so often in a row at one byte is given up."""


class AsyncClient(Tasks):
    """A client of one server; an async context manager.

    url: the server's address, ``http://host:port``, or with the path that a proxy gives it, ``https://host/media``.
    token: of an earlier client, to be the same one again and find its jobs.
    patience: seconds to go on trying when the connection is lost, None for ever; then waiting calls raise
        ServerUnreachable. So long does a call also wait, as the server says, when too many were made (RATE_LIMITED).
    notify: called with False when the connection is lost and True when it is back.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        token: str | None = None,
        *,
        patience: float | None = PATIENCE,
        notify: Callable[[bool], None] = lambda connected: None,
    ) -> None:
        self.url = base_url(url)
        self._patience = patience
        self._link = Link(
            self.url,
            token,
            receive=self._receive,
            connected=self._resume_all,
            failed=self._fail_all,
            notify=notify,
            patience=patience,
        )
        self._web = Web(self.url, lambda: self.token, patience)
        self._jobs: dict[str, AsyncJob] = {}  # the open jobs
        self._behind: set[str] = set()  # open jobs for which a replay is under way
        self._submitting = 0
        self._strays: set[str] = set()  # jobs whose events came while an acknowledgement was awaited
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def token(self) -> str | None:
        """This client's name to the server: keep it to be the same client later, and keep it secret."""
        return self._link.token

    async def connect(self) -> None:
        """Raises: ServerUnreachable; OptivusError when the server refuses (UNAUTHORIZED)."""
        await self._link.open()

    async def close(self) -> None:
        """Leave. Jobs go on; their answers wait for this client's token."""
        for task in self._tasks:
            task.cancel()
        await self._link.close()
        await self._web.close()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def submit(self, type: str, *, id: Any = None, idempotency_key: str | None = None, **params: Any) -> AsyncJob:
        """Ask for a job and wait until the server has accepted it for good.

        type and params: as the protocol names them, e.g. ``submit("whisp", file="talk.mp3", language="en")``; `file` is
        a path on the server, a file_id of `upload`, bytes, or a binary file object.
        id: anything JSON, returned in every answer. idempotency_key: the same key is the same job, also from a later
        process with this client's token; by default a random one, so that a lost acknowledgement never makes two jobs.
        A call that is cancelled before it returns leaves no job behind, unless it named a key.
        Raises: OptivusError, ServerUnreachable.
        """
        if idempotency_key is not None:
            return await self._submit(type, id, idempotency_key, params)
        async with held(self._submit(type, id, None, params)) as job:
            return job

    async def _submit(self, type: str, id: Any, key: str | None, params: dict[str, Any]) -> AsyncJob:
        message = await Sendable(self.upload).dict(params)
        message |= {"type": type, "idempotency_key": key or uuid.uuid4().hex}
        if id is not None:
            message["id"] = id
        connections = self._link.connections
        self._submitting += 1
        try:
            job_id = str((await self._link.ask(message))["job_id"])
            missed = job_id in self._strays
        finally:
            self._submitting -= 1
            if not self._submitting:
                self._strays.clear()
        # The job may be older than this acknowledgement: one of an earlier call, or of a sending whose answer was lost.
        if missed or key is not None or connections != self._link.connections:
            return await self.job(job_id)
        return self._follow(job_id, 0)

    def listen(self, **params: Any) -> AsyncListener:
        """Have speech written down while it is being recorded; use it in an ``async with`` statement.

        params: as the protocol names them for ``listen``: `format` (``pcm_s16le``, ``webm`` …), `sample_rate`,
        `language` and more.
        """
        return AsyncListener(lambda: self.submit("listen", **params), functools.partial(self._link.ask, event="audio"))

    async def job(self, job_id: str, last_seq: int = 0) -> AsyncJob:
        """Take up a job of this client again, e.g. of an earlier process: its events after `last_seq`, and `Final`.

        Raises: OptivusError (JOB_NOT_FOUND), ServerUnreachable.
        """
        if job_id in self._jobs:
            return self._jobs[job_id]
        job = self._follow(job_id, last_seq)
        asked = {job_id: job.last_seq}
        self._resumed(asked, await self._link.ask(_resume(asked)))
        if job.failure is not None:
            raise job.failure
        return job

    async def jobs(self) -> list[JobInfo]:
        """This client's jobs, as far as the server still keeps them."""
        rows: list[dict[str, Any]] = []
        page: dict[str, Any] = {"next": None}
        while "next" in page:
            page = await self._ask({"type": "jobs", "before": page["next"]})
            rows += page["jobs"]
        return [job_info(row) for row in rows]

    async def cancel(self, job_id: str) -> bool:
        """Stop a job of this client, also one of an earlier process; False when it had already ended.

        Raises: OptivusError (JOB_NOT_FOUND); ServerUnreachable.
        """
        return bool((await self._link.ask({"type": "cancel", "job_id": job_id})).get("cancelled"))

    async def signal(self, job_id: str, name: str, data: Mapping[str, Any] | None = None) -> bool:
        """Give a job what it waits for from outside, such as a review; False when it does not wait for that.

        A signal whose acknowledgement was lost is sent again, and is then no longer waited for.
        name: of what it waits for, as `waiting_for` in `jobs` has it. data: as the job's type says; files in it as in
        `submit`.
        Raises: OptivusError (JOB_NOT_FOUND, INVALID_INPUT); ServerUnreachable.
        """
        sent = await Sendable(self.upload).dict(data or {})
        reply = await self._link.ask({"type": "signal", "job_id": job_id, "name": name, "data": sent})
        return bool(reply.get("signalled"))

    async def upload(self, file: Content, progress: Report | None = None) -> str:
        """Send a file to the server, streamed. Returns its file_id.

        file: a local path, bytes, or a binary file object, which is read on from where it stands.
        progress: called with the bytes sent so far and the bytes in all, 0 when a file object cannot tell.
        Raises: OSError when it cannot be read; OptivusError (TOO_LARGE, DISK_FULL …); ServerUnreachable.
        """
        await self._link.ready()
        return await self._web.upload(file, progress)

    async def download(self, file: str, to: str | os.PathLike[str] = ".", progress: Report | None = None) -> Path:
        """Fetch a file that the server keeps for this client. Returns where it is; it appears there whole.

        file: the path of what the server made, as an answer names it (`file` of ``dlp``, `fish`), or a file_id.
        to: the path to write, or a folder, in which the file gets its own name, or one with a number where there is
            such a file. progress: called with the bytes so far and the bytes in all.
        Raises: OSError when it cannot be written; OptivusError (FILE_NOT_FOUND); ServerUnreachable.
        """
        target = Path(to)
        in_folder = await asyncio.to_thread(target.is_dir)
        with growing(target if in_folder else target.parent) as path:
            with path.open("wb") as part:
                name = await self._downloaded(file, part, progress)
            if in_folder:
                target = await asyncio.to_thread(free_name, target, name)
            await asyncio.to_thread(settle, path, target)
        return target

    async def _downloaded(self, file: str, part: BinaryIO, progress: Report | None) -> str:
        """Fetch into `part`, going on where a connection broke off. Returns the file's name."""
        stuck = 0
        for delay in backoff():
            await self._link.ready()
            there = part.tell()
            try:
                return await self._web.download(file, part, progress)
            except ServerUnreachable:
                stuck = 0 if part.tell() > there else stuck + 1
                if stuck == TRIES:
                    raise
            await asyncio.sleep(delay)
        raise AssertionError("backoff() never ends")

    async def health(self) -> dict[str, Any]:
        """How the server and its workers are, as ``GET /health`` has it; needs no connection.

        Raises: OptivusError, ServerUnreachable.
        """
        try:
            return await self._web.get("/health", timeout=HEALTH_TIMEOUT)
        except ServerUnreachable as exc:
            raise no_server_at(self.url) from exc

    async def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        return await self._link.ask(message)

    # What arrives.

    def _receive(self, name: str, data: dict[str, Any]) -> None:
        job = self._jobs.get(data.get("job_id", ""))
        if job is None:
            if self._submitting and "job_id" in data:
                self._strays.add(data["job_id"])
        elif name == "progress":
            job.add(event_of(name, data))
        elif "seq" in data:
            place = job.place(data["seq"])
            if place == "next":
                self._take(job, name, data)
            elif place == "later" and job.id not in self._behind:
                self._start(self._resume({job.id: job.last_seq}))

    def _take(self, job: AsyncJob, name: str, data: dict[str, Any]) -> None:
        if data.get("truncated"):
            job.last_seq = data["seq"]
            self._start(self._complete(job, data))
            return
        job.add(event_of(name, data))
        if job.final is not None:
            self._jobs.pop(job.id, None)

    async def _complete(self, job: AsyncJob, answer: dict[str, Any]) -> None:
        """Fetch the whole of an answer that was too large for a message."""
        try:
            async with asyncio.timeout(self._patience):
                whole = await self._fetched(answer["result_url"])
        except TimeoutError:
            job.fail(ServerUnreachable(f"The answer could not be fetched from {self.url}{answer['result_url']}."))
        except OptivusError as exc:
            job.fail(exc)
        else:
            job.add(event_of("message", with_bytes(whole)))
        self._jobs.pop(job.id, None)

    async def _fetched(self, url: str) -> dict[str, Any]:
        for delay in backoff():
            try:
                return await self._web.whole(url)
            except ServerUnreachable:
                await asyncio.sleep(delay)
        raise AssertionError("backoff() never ends")

    # What was missed.

    def _follow(self, job_id: str, last_seq: int) -> AsyncJob:
        return self._jobs.setdefault(job_id, AsyncJob(job_id, last_seq, self.cancel, self.signal))

    def _resume_all(self) -> None:
        behind = {job.id: job.last_seq for job in self._jobs.values()}
        names = list(behind)
        for first in range(0, len(names), MAX_RESUMED):
            self._start(self._resume({name: behind[name] for name in names[first : first + MAX_RESUMED]}))

    async def _resume(self, jobs: dict[str, int]) -> None:
        self._behind |= jobs.keys()
        try:
            self._resumed(jobs, await self._link.ask_once(_resume(jobs)))
        except ConnectionLost:
            return  # the next connection resumes every open job
        except OptivusError as exc:
            for job_id in jobs.keys() & self._jobs.keys():
                self._jobs.pop(job_id).fail(exc)
        finally:
            self._behind -= jobs.keys()

    def _resumed(self, asked: dict[str, int], answer: dict[str, Any]) -> None:
        for job_id in self._jobs.keys() & set(answer.get("unknown", ())):
            gone = OptivusError(f"The server does not know the job {job_id}.", "JOB_NOT_FOUND")
            self._jobs.pop(job_id).fail(gone)
        if answer.get("reset"):
            self._reset([self._jobs[job_id] for job_id in asked if job_id in self._jobs])

    def _reset(self, jobs: list[AsyncJob]) -> None:
        """The ledger of the server (restored from a copy, perhaps) ends before what one of these jobs has told."""
        if len(jobs) == 1:  # it is this one; what of its replay came before this answer was dropped, so ask again
            jobs[0].replay()
        for job in jobs:
            self._start(self._resume({job.id: job.last_seq}))

    def _fail_all(self, failure: OptivusError) -> None:
        for job in self._jobs.values():
            job.fail(failure)
        self._jobs.clear()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _resume(jobs: dict[str, int]) -> dict[str, Any]:
    return {"type": "resume", "jobs": jobs}
