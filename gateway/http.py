"""The HTTP door, on the same port: jobs, events, voices, health, metrics and the page.

Who asks is the `Authorization: Bearer` token. A job that was submitted without one is a new client's; its token came
back in the answer, and is what the client needs to see its job again.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from contract.errors import InvalidInput, JobNotFound, Unauthorized
from contract.folders import Folders
from contract.identity import Identity
from gateway.answers import MESSAGE, Writer, parsed, reply, reply_in_parts
from gateway.auth import Authenticators, Tickets
from gateway.health import Health
from gateway.origins import ADDRESS
from gateway.page import INDEX, shown
from gateway.unfinished import whole_body
from pipeline.following import Following, News
from pipeline.intake import check_message
from pipeline.listing import PAGE_JOBS, page_size
from pipeline.result_queue import ResultQueue
from storage import blobs
from storage.records import JobRecord
from storage.voices import Voices

MAX_SEQ_DIGITS = 19
STREAM_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would collect the events
}


class HttpDoor:
    """The routes but for those of files."""

    def __init__(
        self, road: ResultQueue, following: Following, callers: Authenticators, folders: Folders, health: Health
    ) -> None:
        self._road = road
        self._following = following
        self._callers = callers
        self._folders = folders
        self._health = health
        self._saved_voices = Voices(folders.voices)
        self._tickets = Tickets()

    def attach(self, app: web.Application) -> None:
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/health", self._get_health),
                web.get("/metrics", self._metrics),
                web.get("/voices", self._voices),
                web.delete("/voices/{reference_id}", self._delete_voice),
                web.get("/jobs", self._jobs),
                web.get("/jobs/{job_id}", self._job),
                web.get("/jobs/{job_id}/events", self._events, allow_head=False),
                web.post("/jobs/{job_id}/ticket", self._ticket),
                web.post("/jobs/{job_id}/audio", self._append),
                web.post("/jobs/{job_id}/signals/{name}", self._signal),
                web.delete("/jobs/{job_id}", self._cancel),
            ]
        )

    # The server itself.

    async def _page(self, request: web.Request) -> web.StreamResponse:
        """The page for people."""
        return shown(INDEX)

    async def _get_health(self, request: web.Request) -> web.Response:
        """How the server and its workers are; 503 while it can accept no job."""
        report = self._health.report()
        return reply(report, 503 if report["status"] == "unhealthy" else 200)

    async def _metrics(self, request: web.Request) -> web.Response:
        """Figures for Prometheus."""
        return web.Response(body=generate_latest(self._health.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    # Voices.

    async def _voices(self, request: web.Request) -> web.Response:
        """The saved voices of who asks."""
        found = await asyncio.to_thread(self._saved_voices.of, self._callers.who(request).owner)
        return reply({"voices": [voice.shown() for voice in found]})

    async def _delete_voice(self, request: web.Request) -> web.Response:
        """Delete a saved voice."""
        await asyncio.to_thread(
            self._saved_voices.delete, request.match_info["reference_id"], self._callers.who(request).owner
        )
        return reply({"deleted": True})

    # Jobs.

    async def _jobs(self, request: web.Request) -> web.Response:
        """The jobs of who asks, newest first; `next` is there when there are more, to be sent as `before`."""
        who = self._callers.known(request)
        if who is None:
            raise Unauthorized("Send the token of the jobs' client as 'Authorization: Bearer …'.")
        limit = request.query.get("limit", str(PAGE_JOBS))
        size = page_size(int(limit) if limit.isascii() and limit.isdecimal() and len(limit) < 10 else limit)
        return reply(await self._road.jobs(who, size, request.query.get("before")))

    def _who(self, request: web.Request) -> Identity:
        """Who asks for a job. Raises: JobNotFound without credentials: then it is no job of theirs."""
        who = self._callers.known(request)
        if who is None:
            raise JobNotFound("Send the token of the job's client as 'Authorization: Bearer …'.", field="job_id")
        return who

    async def _own_job(self, request: web.Request) -> JobRecord:
        return await self._road.job(request.match_info["job_id"], self._who(request))

    async def _job(self, request: web.Request) -> web.StreamResponse:
        """A job's state, progress and, once it has ended, its whole answer."""
        row = await self._own_job(request)
        final = await self._road.final(row.id)
        answer = await self._parts(final) if final else [b"null"]
        head = orjson.dumps(self._road.describe(row)).removesuffix(b"}") + b',"answer":'
        return await reply_in_parts(request, [head, *answer, b"}"])

    async def _cancel(self, request: web.Request) -> web.Response:
        """Cancel a job."""
        row = await self._own_job(request)
        return reply({"cancelled": await self._road.cancel(row.id, row)})

    async def _signal(self, request: web.Request) -> web.Response:
        """Give a job what it waits for, as `waiting_for` names it: the body, which is JSON."""
        job_id, name = request.match_info["job_id"], request.match_info["name"]
        who, body = self._who(request), await whole_body(request)
        data = parsed(body, "what the job waits for") if body else {}
        message = request[MESSAGE] = {"job_id": job_id, "name": name, "data": data}
        check_message(message)
        return reply({"signalled": await self._road.signal(job_id, name, data, who)})

    async def _ticket(self, request: web.Request) -> web.Response:
        """A URL that opens the job's events without a token, for a browser's `EventSource`, within a minute."""
        row = await self._own_job(request)
        ticket = self._tickets.issue(row.id, row)
        url = f"{request[ADDRESS].prefix}/jobs/{row.id}/events?ticket={ticket}"
        return reply({"ticket": ticket, "expires_in": self._tickets.seconds, "url": url})

    async def _ticketed_job(self, request: web.Request, ticket: str) -> JobRecord:
        job_id = request.match_info["job_id"]
        return await self._road.job(job_id, self._tickets.who(job_id, ticket))

    async def _append(self, request: web.Request) -> web.Response:
        """Add the body to a recording that a job follows; `?offset=`: the bytes before it; `&end=1`: it is whole."""
        row = await self._own_job(request)
        offset = request.query.get("offset")
        if offset is not None and (not offset.isdecimal() or len(offset) > MAX_SEQ_DIGITS):
            raise InvalidInput("'offset' must be the number of bytes before this piece.", field="offset")
        place, end = None if offset is None else int(offset), request.query.get("end") == "1"
        sound = await whole_body(request)
        received = await self._road.recordings.append(row.id, row, place, sound, end=end)
        return reply({"received": received})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: everything after `Last-Event-ID`, then live, until the final answer.

        `?ticket=` opens them without a token. 204: there is no more, which ends an `EventSource`.
        """
        ticket = request.query.get("ticket")
        row = await (self._own_job(request) if ticket is None else self._ticketed_job(request, ticket))
        last = request.headers.get("Last-Event-ID", "0")
        if not last.isdecimal() or len(last) > MAX_SEQ_DIGITS:
            raise InvalidInput("'Last-Event-ID' must be the seq of the last event that you have.")
        if row.finished_at is not None and int(last) == row.seq:
            return web.Response(status=204)
        response = web.StreamResponse(headers=STREAM_HEADERS)
        await response.prepare(request)
        writer = Writer(request, response)
        async with aclosing(self._following.follow(row, int(last))) as news:
            async for told in news:
                await writer.write(*(await self._server_sent(told)))
                if ticket is not None:
                    self._tickets.issue(row.id, row)  # it is in use
        return response

    async def _server_sent(self, told: News | None) -> list[bytes | Path]:
        if told is None:
            return [b": ping\n\n"]
        name = "message" if told.kind == "final" else told.kind
        place = f"id: {told.seq}\n" if told.seq is not None else ""
        return [f"event: {name}\n{place}data: ".encode(), *await self._parts(told.body), b"\n\n"]

    async def _parts(self, body: bytes) -> list[bytes | Path]:
        if blobs.MARK not in body:
            return [body]
        return await asyncio.to_thread(blobs.parts, orjson.loads(body), self._folders)
