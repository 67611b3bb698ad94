"""A client that never gives up: it comes back after every cut, sends again what was not answered, and keeps count."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import socketio
from socketio.exceptions import SocketIOError

RESUMED_AT_ONCE = 500
ANSWER_SECONDS = 20.0
"""After which a connection is taken to be dead, as a client's library would."""

Body = dict[str, Any]


class Caller:
    """url: asked again at every connection, since a server that starts again may have another port.
    news: notified whenever a job has ended.

    accepted: the job of each key that was acknowledged. heard: the last `seq` of each job. gaps: how often a `seq` came
    before its predecessor. finals: each job's final answers; one that comes again as it was counts once.
    """

    def __init__(self, url: Callable[[], str], news: asyncio.Condition) -> None:
        self.accepted: dict[str, str] = {}
        self.changed = 0
        self.refused: dict[str, int] = defaultdict(int)
        self.heard: dict[str, int] = defaultdict(int)
        self.gaps = 0
        self.again = 0
        self.finals: dict[str, list[Body]] = defaultdict(list)
        self._url = url
        self._news = news
        self._token: str | None = None
        self._connection: socketio.AsyncClient | None = None
        self._connected = asyncio.Event()
        self._asked: set[asyncio.Future[Body]] = set()
        self._ends = False

    @property
    def open(self) -> set[str]:
        return set(self.accepted.values()) - self.finals.keys()

    async def run(self) -> None:
        """Stay connected until `leave`."""
        while not self._ends:
            connection = socketio.AsyncClient(reconnection=False, handle_sigint=False)
            session: asyncio.Future[Body] = asyncio.get_running_loop().create_future()
            cut = asyncio.Event()
            connection.on("session", lambda body, into=session: None if into.done() else into.set_result(body))
            connection.on("disconnect", lambda *_, into=cut: self._gone(into))
            for event in ("message", "partial", "audio"):
                connection.on(event, self._take)
            with contextlib.suppress(Exception):  # it is being killed and started, which is what this is about
                await connection.connect(
                    self._url(), auth={"token": self._token} if self._token else None, transports=["websocket"]
                )
                async with asyncio.timeout(ANSWER_SECONDS):
                    self._token = (await session)["token"]
                self._connection = connection
                await self._catch_up()
                self._connected.set()
                await cut.wait()
            self._connected.clear()
            self._connection = None
            with contextlib.suppress(Exception):
                await connection.disconnect()
            await asyncio.sleep(0.02)  # as reconnecting clients do

    async def leave(self) -> None:
        self._ends = True
        await self.cut()

    async def cut(self) -> None:
        """Lose the connection, without a word."""
        if self._connection is not None and (wire := self._connection.eio.ws) is not None:
            wire._writer.transport.abort()

    def _gone(self, cut: asyncio.Event) -> None:
        cut.set()
        for answer in self._asked:
            if not answer.done():
                answer.set_exception(ConnectionError("it was cut"))

    async def submit(self, key: str, message: Body) -> str | None:
        """Send until it is accepted, in however many connections; its job, or None when it was refused.

        A job that was accepted unheard may have ended meanwhile, so it is asked for what it has told.
        """
        again = False
        while True:
            await self._connected.wait()
            try:
                answer = await self._ask({**message, "idempotency_key": key})
                if again and answer["status"] == "accepted":
                    await self._resume({answer["job_id"]: self.heard[answer["job_id"]]})
            except (ConnectionError, TimeoutError, SocketIOError):  # the connection went, or the server
                again = True
                await asyncio.sleep(0.02)
                continue
            if answer["status"] == "accepted":
                job = str(answer["job_id"])
                self.changed += self.accepted.setdefault(key, job) != job
                return job
            self.refused[answer["error_code"]] += 1
            if answer["error_code"] not in ("DRAINING", "QUEUE_FULL", "DISK_FULL", "RATE_LIMITED"):
                return None
            await asyncio.sleep(0.05)

    async def ended(self, job: str) -> None:
        async with self._news:
            await self._news.wait_for(lambda: job in self.finals)

    async def unknown(self) -> int:
        """How many of its accepted jobs the server does not know. Every event is told again from the first."""
        while True:
            await self._connected.wait()
            with contextlib.suppress(ConnectionError, TimeoutError):
                return len((await self._resume(dict.fromkeys(self.accepted.values(), 0)))["unknown"])

    async def _catch_up(self) -> None:
        await self._resume({job: self.heard[job] for job in self.open})

    async def _resume(self, jobs: dict[str, int]) -> Body:
        unknown: list[str] = []
        listed = sorted(jobs.items())
        for start in range(0, len(listed), RESUMED_AT_ONCE):
            part = dict(listed[start : start + RESUMED_AT_ONCE])
            unknown += (await self._ask({"type": "resume", "jobs": part}))["unknown"]
        return {"unknown": unknown}

    async def _ask(self, message: Body) -> Body:
        if self._connection is None:
            raise ConnectionError
        answered: asyncio.Future[Body] = asyncio.get_running_loop().create_future()

        def answer(body: Body) -> None:
            if not answered.done():
                answered.set_result(body)

        self._asked.add(answered)
        try:
            await self._connection.emit("message", message, callback=answer)
            async with asyncio.timeout(ANSWER_SECONDS):
                return await answered
        finally:
            self._asked.discard(answered)

    async def _take(self, body: Body) -> None:
        if "seq" not in body:
            return
        job, seq = body["job_id"], body["seq"]
        if seq == self.heard[job] + 1:
            self.heard[job] = seq
        elif seq <= self.heard[job]:
            self.again += 1
        else:
            self.gaps += 1
        if "status" in body:
            if body not in self.finals[job]:
                self.finals[job].append(body)
            async with self._news:
                self._news.notify_all()
