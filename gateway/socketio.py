"""The Socket.IO door: `message` in, acknowledgement, and everything that happens to a client's jobs out."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import orjson
import structlog
from aiohttp import web
from socketio import exceptions

from contract.errors import InvalidInput, ServiceError, as_failure
from contract.folders import Folders
from contract.logs import about
from gateway.auth import Authenticators, Credentials
from gateway.connection import Connection, event_packet
from gateway.docs import CONTROLS
from gateway.packets import Unreadable
from gateway.rates import Rates
from gateway.seats import Seats
from gateway.wire import SocketServer
from pipeline.intake import check_message, client_id
from pipeline.listing import PAGE_JOBS, page_size
from pipeline.result_queue import ResultQueue
from storage.voices import Voices

log = structlog.get_logger()

MAX_RESUMED = 1000
MAX_TYPE = 80
MAX_JOB_ID = 100


class SocketDoor:
    """Serves Socket.IO on an aiohttp application."""

    def __init__(
        self,
        road: ResultQueue,
        callers: Authenticators,
        folders: Folders,
        rates: Rates,
        sessions: Seats | None = None,
    ) -> None:
        self._road = road
        self._rates = rates
        self._callers = callers
        self._folders = folders
        self._saved_voices = Voices(folders.voices)
        self._server = SocketServer(self._on_event, self._on_connected, sessions=sessions)
        self._server.on("connect", self._on_connect)
        self._server.on("disconnect", self._on_disconnect)
        self._connections: dict[str, Connection] = {}
        self._controls = {name: getattr(self, f"_{name}") for name in CONTROLS}

    def attach(self, app: web.Application) -> None:
        self._server.attach(app)

    @property
    def connections(self) -> int:
        return len(self._connections)

    async def close(self) -> None:
        """Let every connection have what was already said, then close them."""
        await asyncio.gather(*(connection.flush() for connection in self._connections.values()))
        for sid in tuple(self._connections):
            await self._server.disconnect(sid)
        await self._server.shutdown()

    # Connections.

    async def _on_connect(self, sid: str, environ: dict[str, Any], auth: Any = None) -> None:
        token = auth.get("token") if isinstance(auth, dict) else None
        try:
            if isinstance(auth, Unreadable):
                raise InvalidInput("'auth' must be JSON such as {\"token\": …}.", field="auth")
            who = self._callers.identity(Credentials.sent(token, environ["aiohttp.request"]))
        except ServiceError as exc:
            raise exceptions.ConnectionRefusedError(exc.message, exc.answer()) from exc
        send = partial(self._server.deliver, sid)
        token = self._callers.token(who) if token is None else token
        outbound = partial(self._server.outbound, sid)
        self._connections[sid] = Connection(who, token, send, outbound, self._road, self._folders)

    async def _on_connected(self, sid: str) -> None:
        connection = self._connections.get(sid)
        if connection is not None:
            session = {"client": connection.who.client, "token": connection.token}
            await self._server.emit("session", session, to=sid)

    async def _on_disconnect(self, sid: str, reason: str) -> None:
        connection = self._connections.pop(sid, None)
        if connection is not None:
            connection.close()

    # Messages.

    async def _on_event(self, sid: str, event: str | None, args: list[Any], acked: bool) -> bytes | None:
        """The acknowledgement. A refusal without one goes out as `message`; never both."""
        connection = self._connections.get(sid)
        if connection is None:
            return None
        message: Any = args[0] if len(args) == 1 else None
        try:
            if event is None:
                message = {"id": args[0].id}
                raise args[0].error
            if event != "audio":  # which comes as fast as somebody speaks
                self._rates.take(connection.who.address)
            if event not in ("message", "audio"):
                raise InvalidInput(f"This server knows the events 'message' and 'audio', not {event[:80]!r}.")
            check_message(message)
            if event == "audio":
                return orjson.dumps(await self._append(message, connection))
            kind = message.get("type") if isinstance(message, dict) else None
            if isinstance(kind, str) and kind in self._controls:
                return await self._control(kind, message, sid, connection)
            job_id = await self._road.submit(message, connection.who)
            return orjson.dumps({"status": "accepted", "job_id": job_id, "id": message.get("id")})
        except Exception as exc:
            if not isinstance(exc, ServiceError):
                with about(None, message):
                    log.exception("message_failed", client=connection.who.client)
            await connection.pause()
            refusal = orjson.dumps({**_address(message), "job_id": None, "status": "error", **as_failure(exc)})
        if not acked:
            await self._server.deliver(sid, [event_packet("message", refusal)])
        return refusal

    async def _control(self, kind: str, message: dict[str, Any], sid: str, connection: Connection) -> bytes:
        """The reply, which also goes out as `message`. One at a time: replies may be long."""
        async with connection.one_at_a_time:
            await connection.room()
            said = await self._controls[kind](message, connection)
            reply = orjson.dumps({**_address(message), "status": "success", **said})
            await self._server.deliver(sid, [event_packet("message", reply)])
            return reply

    async def _append(self, message: Any, connection: Connection) -> dict[str, Any]:
        """A piece of a recording, its end, or both."""
        if not isinstance(message, dict):
            raise InvalidInput("An 'audio' event carries one object with 'job_id' and 'audio'.")
        job_id, sound, offset = message.get("job_id"), message.get("audio", b""), message.get("offset")
        if not isinstance(sound, bytes):
            raise InvalidInput("'audio' must be binary.", field="audio")
        if offset is not None and not _is_seq(offset):
            raise InvalidInput("'offset' must be the number of bytes before this piece.", field="offset")
        end = message.get("end") is True
        received = await self._road.recordings.append(job_id, connection.who, offset, sound, end=end)
        return {"status": "success", "job_id": job_id, "received": received}

    async def _cancel(self, message: dict[str, Any], connection: Connection) -> dict[str, Any]:
        return {"cancelled": await self._road.cancel(message.get("job_id"), connection.who)}

    async def _signal(self, message: dict[str, Any], connection: Connection) -> dict[str, Any]:
        job_id, name, data = message.get("job_id"), message.get("name"), message.get("data", {})
        if not isinstance(name, str):
            raise InvalidInput("'name' must say what the job waits for, as its `waiting_for` does.", field="name")
        return {"signalled": await self._road.signal(job_id, name, data, connection.who)}

    async def _jobs(self, message: dict[str, Any], connection: Connection) -> dict[str, Any]:
        limit, before = message.get("limit", PAGE_JOBS), message.get("before")
        return await self._road.jobs(connection.who, page_size(limit), before)

    async def _voices(self, message: dict[str, Any], connection: Connection) -> dict[str, Any]:
        found = await asyncio.to_thread(self._saved_voices.of, connection.who.owner)
        return {"voices": [voice.shown() for voice in found]}

    async def _delete_voice(self, message: dict[str, Any], connection: Connection) -> dict[str, Any]:
        await asyncio.to_thread(self._saved_voices.delete, message.get("reference_id"), connection.who.owner)
        return {"deleted": True}

    async def _resume(self, message: dict[str, Any], connection: Connection) -> dict[str, Any]:
        wanted = message.get("jobs")
        if not isinstance(wanted, dict) or not all(_is_seq(seq) for seq in wanted.values()):
            raise InvalidInput("'jobs' must map job ids to the last seq that you have.", field="jobs")
        if len(wanted) > MAX_RESUMED:
            raise InvalidInput(f"One resume may name {MAX_RESUMED} jobs; send the rest in another.", field="jobs")
        if any(len(job_id) > MAX_JOB_ID for job_id in wanted):
            raise InvalidInput(f"The id of a job has no more than {MAX_JOB_ID} characters.", field="jobs")
        return await connection.resume(wanted)


def _address(message: Any) -> dict[str, Any]:
    """The `type` and `id` that an answer repeats; of a refused message only what is one."""
    kind = message.get("type") if isinstance(message, dict) else None
    return {"type": kind if isinstance(kind, str) and len(kind) <= MAX_TYPE else None, "id": client_id(message)}


def _is_seq(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
