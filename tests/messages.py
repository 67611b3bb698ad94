"""A real server, its models played, and strangers who say what tests/strange.py makes: is each of them answered?

An event is answered by its acknowledgement, one that asked for none by a `message`, a request by a response, and an
accepted job by its end; where the protocol closes a connection instead, it says why. Whatever packets a connection
brings, it answers afterwards or is closed. Meanwhile another client asks on, and waits for nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from tests.processes import memory_mib
from tests.servers import Server
from tests.strange import CLIP, LIVE_JOB, OTHERS_JOB, OWN_FILE, OWN_JOB, Event, Http, Packets, Poll, Step, drawn

BLOCK = 500
"""Messages that are made, said and settled at once."""
LANES = 16
"""Strangers at once."""
PATIENCE = 10.0
"""Seconds after which an answer counts as missing."""
HANG = 2.0
"""Seconds that nobody may wait for an answer, but where a body does not come: then it is STALL."""
STALL = 2.0
MISSING = '42["message",{"type":"jobs","limit":1}]'
"""What is said where an attachment was announced, so that it does not come."""
FAULTS = frozenset({"INTERNAL", "WORKER_DIED", "OUT_OF_MEMORY", "DEADLINE_EXCEEDED"})
_DOWNLOAD = '"dlp","data_type":"info","urls":["https://example.com/"]'


@dataclasses.dataclass
class Figures:
    """What came of the messages. answers: how many of each kind; faults: what should not have come, and of what."""

    messages: int = 0
    answers: Counter[str] = dataclasses.field(default_factory=Counter)
    faults: list[tuple[str, Any]] = dataclasses.field(default_factory=list)
    slowest: float = 0.0
    """Seconds that the client beside them waited at most."""
    peak_mib: float = 0.0
    """Of the server."""

    def count(self, answer: str, step: Any) -> None:
        self.answers[answer] += 1
        if answer in FAULTS or answer.startswith(("unanswered", "reasonless", "hang")):
            self.faults.append((answer, step))


def played_server(folder: Path, **settings: str) -> Server:
    """Its models are played, so that whatever is accepted costs nothing."""
    (folder / "media").mkdir(exist_ok=True)
    (folder / "media" / CLIP).write_bytes(b"a clip")
    many = {f"MAX_OPEN_JOBS{each}": "100000" for each in ("", "_PER_CLIENT", "_PER_ADDRESS")}
    return Server(
        folder,
        **{
            "MEDIA_ROOTS": str(folder / "media"),
            "WORKERS_PATH": str(Path(__file__).parent / "played_workers"),
            "STALL_SECONDS": str(STALL),
            **many,
            **settings,
        },
    )


class Wire:
    """A Socket.IO connection by hand that is opened anew when it is closed, and keeps what it hears.

    finals: how jobs ended, by their id; said: every message, in order.
    """

    def __init__(self, http: aiohttp.ClientSession, url: str, token: str | None = None) -> None:
        self._http = http
        self._url = f"{url}/socket.io/?EIO=4&transport=websocket"
        self.token = token
        self.finals: dict[str, dict[str, Any]] = {}
        self.said: list[dict[str, Any]] = []
        self._session: dict[str, str] = {}
        self._acks: dict[int, dict[str, Any]] = {}
        self._number = 1_000_000  # strangers' packets have small ones
        self._news = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self.socket = await self._http.ws_connect(self._url, max_msg_size=0)
        await self.socket.receive()
        await self.socket.send_str("40" + (orjson.dumps({"token": self.token}).decode() if self.token else ""))
        self.said.clear()
        self._session.clear()
        self._reader = asyncio.create_task(self._read())
        assert await self._heard(lambda: self._session), "no session"
        self.token = self._session["token"]

    @property
    def closed(self) -> bool:
        return self._reader is None or self._reader.done()

    async def say(self, *packets: str | bytes) -> None:
        with contextlib.suppress(ConnectionError):  # what was closed meanwhile has said why
            for packet in packets:
                await (self.socket.send_str(packet) if isinstance(packet, str) else self.socket.send_bytes(packet))

    async def ask(self, head: str, text: str, *others: str | bytes) -> dict[str, Any] | None:
        """The acknowledgement of an event, which others follow; None when the connection was closed.

        Raises: TimeoutError.
        """
        self._number += 1
        number = self._number
        await self.say(f"{head}{number}{text}", *others)
        if not await self._heard(lambda: number in self._acks or self.closed):
            raise TimeoutError
        return self._acks.pop(number, None)

    async def next_said(self, count: int) -> dict[str, Any] | None:
        """The message after so many; None when the connection was closed before. Raises: TimeoutError."""
        if not await self._heard(lambda: len(self.said) > count or self.closed):
            raise TimeoutError
        return self.said[count] if len(self.said) > count else None

    async def final(self, job_id: str) -> dict[str, Any] | None:
        return self.finals.get(job_id) if await self._heard(lambda: job_id in self.finals) else None

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
            await self.socket.close()

    async def _heard(self, true: Any) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while not true():
                    self._news.clear()
                    await self._news.wait()
                return True
        return False

    async def _read(self) -> None:
        try:
            async for message in self.socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    await self._take(message.data)
                    self._news.set()
        finally:
            self._news.set()

    async def _take(self, text: str) -> None:
        if text == "2":
            await self.say("3")
        elif match := re.match(r"43(\d+)\[", text):
            self._acks[int(match[1])] = orjson.loads(text[match.end() - 1 :])[0]
        elif text.startswith('42["message",'):
            body = orjson.loads(text[2:])[1]
            if "seq" in body:
                self.finals[body["job_id"]] = {key: body[key] for key in ("status", "error_code") if key in body}
            self.said.append(body)
        elif text.startswith('42["session",'):
            self._session.update(orjson.loads(text[2:])[1])


class Attack:
    """One run of strangers against a server."""

    def __init__(self, server: Server, figures: Figures) -> None:
        self._server = server
        self._figures = figures
        self._names: dict[str, str] = {}
        self._accepted: set[str] = set()
        self._foreign: list[tuple[str, str]] = []
        """(job, token) of clients that came without a token."""

    @asynccontextmanager
    async def begun(self) -> AsyncIterator[Attack]:
        async with AsyncExitStack() as stack:
            self._http = await stack.enter_async_context(aiohttp.ClientSession())
            self._observer = await self._wire(stack)
            self._other, self._beside = await self._wire(stack), await self._wire(stack)
            token = self._observer.token
            self._lanes = [(await self._wire(stack, token), await self._wire(stack)) for _ in range(LANES)]
            await self._warm()
            watch = asyncio.create_task(self._watch())
            yield self
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch

    async def _warm(self) -> None:
        """Every worker's process has begun."""
        for message in (f'"whisp","file":"{CLIP}"', f'"flrnc","file":"{CLIP}"', '"fish","text":"one"', _DOWNLOAD):
            answer = await self._observer.ask("42", f'["message",{{"type":{message}}}]')
            assert answer is not None
            assert await self._observer.final(answer["job_id"]) == {"status": "success"}, message

    async def _wire(self, stack: AsyncExitStack, token: str | None = None) -> Wire:
        wire = Wire(self._http, self._server.url, token)
        await wire.open()
        stack.push_async_callback(wire.close)
        return wire

    async def _watch(self) -> None:
        """Another client, who only asks how its jobs are."""
        while True:
            began = time.monotonic()
            answer = await self._beside.ask("42", '["message",{"type":"jobs"}]')
            waited = time.monotonic() - began
            self._figures.slowest = max(self._figures.slowest, waited)
            if answer is None or answer["status"] != "success" or waited > HANG:
                self._figures.faults.append((f"beside: {answer} after {waited:.1f} s", None))
            await asyncio.sleep(0.02)

    async def play(self, steps: list[Step]) -> None:
        """Say all of these, and wait until what was accepted has ended."""
        await self._prepare()
        waiting = iter(steps)
        await asyncio.gather(*(self._lane(waiting, *wires) for wires in self._lanes))
        await self._settle()
        self._figures.messages += len(steps)

    async def _prepare(self) -> None:
        speech = '["message",{"type":"fish","text":"one"}]'
        own, others = await self._observer.ask("42", speech), await self._other.ask("42", speech)
        live = await self._observer.ask("42", '["message",{"type":"listen"}]')
        form = aiohttp.FormData()
        form.add_field("file", b"an upload", filename="upload.wav")
        headers = {"Authorization": f"Bearer {self._observer.token}"}
        async with self._http.post(f"{self._server.url}/files", data=form, headers=headers) as response:
            file = await response.json()
        assert own is not None and others is not None and live is not None
        jobs = {OWN_JOB: own, OTHERS_JOB: others, LIVE_JOB: live}
        self._names = {name: answer["job_id"] for name, answer in jobs.items()} | {OWN_FILE: file["file_id"]}
        self._accepted |= {own["job_id"], live["job_id"]}

    async def _settle(self) -> None:
        """Every accepted job ends, those that wait for their recording when they are cancelled."""
        for job_id in self._accepted - self._observer.finals.keys():
            await self._observer.ask("42", f'["message",{{"type":"cancel","job_id":"{job_id}"}}]')
        for job_id in self._accepted:
            final = await self._observer.final(job_id)
            self._figures.count(_ending(final), job_id)
        for job_id, token in self._foreign:
            await self._end_foreign(job_id, {"Authorization": f"Bearer {token}"})
        self._accepted.clear()
        self._foreign.clear()
        self._observer.said.clear()

    async def _end_foreign(self, job_id: str, headers: dict[str, str]) -> None:
        url = f"{self._server.url}/jobs/{job_id}"
        async with self._http.delete(url, headers=headers), self._http.get(url + "/events", headers=headers) as events:
            heard = await asyncio.wait_for(events.read(), PATIENCE)
        final = re.search(rb"event: message\nid: \d+\ndata: (.*)\n", heard)
        self._figures.count(_ending(orjson.loads(final[1]) if final else None), job_id)

    async def _lane(self, steps: Any, wire: Wire, quiet: Wire) -> None:
        before: Step | None = None
        for step in steps:
            for each in (wire, quiet):
                if each.closed:
                    await each.open()
            began = time.monotonic()
            try:
                answer = await self._answer(step, wire, quiet)
            except TimeoutError:
                await wire.close()
                await quiet.close()
                answer = "unanswered"
            waited = time.monotonic() - began
            if answer != "unanswered" and waited > HANG + (STALL * 1.2 if isinstance(step, Http | Poll) else 0):
                self._figures.count(f"hang of {waited:.1f} s", step)
            self._figures.count(answer, (step, before))
            before = step

    async def _answer(self, step: Step, wire: Wire, quiet: Wire) -> str:
        match step:
            case Event(acked=True):
                missing = (MISSING,) if step.announced > len(step.attachments) else ()
                answer = await wire.ask(_head(step), self._named(step.text), *step.attachments, *missing)
                return self._of_answer(answer, wire)
            case Event():
                count = len(quiet.said)
                await quiet.say(_head(step) + self._named(step.text), *step.attachments)
                if step.announced > len(step.attachments):
                    await quiet.say(MISSING)
                return self._of_answer(await quiet.next_said(count), quiet, note=False)
            case Packets():
                return await self._of_packets(step, wire)
            case Poll():
                return await self._of_poll(step)
            case Http():
                return await self._of_request(self._named_bytes(step.raw))

    def _named(self, text: str) -> str:
        for name, real in self._names.items():
            text = text.replace(name, real)
        return text

    def _named_bytes(self, raw: bytes) -> bytes:
        for name, real in {**self._names, "TOKEN": self._observer.token or ""}.items():
            raw = raw.replace(name.encode(), real.encode())
        return raw

    def _of_answer(self, answer: dict[str, Any] | None, wire: Wire, note: bool = True) -> str:
        """The kind of an acknowledgement, or of why there is none."""
        if answer is None:
            closing = _closing(wire)
            return closing if closing.startswith("closed with") else f"reasonless, {closing}"
        if answer["status"] == "accepted" and note:
            self._accepted.add(answer["job_id"])
        return str(answer.get("error_code", answer["status"]))

    async def _of_packets(self, step: Packets, wire: Wire) -> str:
        await wire.say(*(self._named(packet) if isinstance(packet, str) else packet for packet in step.packets))
        if any(isinstance(packet, str) and packet.startswith(("1", "41")) for packet in step.packets):
            await wire.close()
            return "left"
        answer = await wire.ask("42", '["message",{"type":"jobs","limit":1}]')
        return "went on" if answer is not None else _closing(wire)

    async def _of_poll(self, step: Poll) -> str:
        """A session by long polling, and what it says to this body."""
        url = f"{self._server.url}/socket.io/?EIO=4&transport=polling"
        async with self._http.get(url) as response:
            url += "&sid=" + orjson.loads((await response.text())[1:])["sid"]
        for body in (b"40", self._named_bytes(step.body)):
            async with asyncio.timeout(PATIENCE), self._http.post(url, data=body) as response:
                await response.read()
        return f"polled {response.status}"

    async def _of_request(self, raw: bytes) -> str:
        async with asyncio.timeout(PATIENCE):
            status, body = await asked(self._server.port, raw)
        if status == 202:
            accepted = orjson.loads(body)
            if "token" in accepted:
                self._foreign.append((accepted["job_id"], accepted["token"]))
            else:
                self._accepted.add(accepted["job_id"])
        if status == 0 and b"\r\n\r\n" not in raw:
            return "closed in the middle of a head"
        if status == 0:
            return f"reasonless end of a request, {body[:100]!r}"
        if body[-7:] == b"\r\n0\r\n\r\n":
            return "streamed"
        code = re.search(rb'"error_code":"(\w+)"', body) if status >= 400 else None
        plain = raw.startswith(b"HEAD ") or b"/socket.io/" in raw.partition(b"\r\n")[0] or status == 416
        typed = status < 400 or (plain and status < 500)
        return code[1].decode() if code else f"HTTP {status}" if typed else f"reasonless HTTP {status}"


def _head(step: Event) -> str:
    return f"45{step.announced}-" if step.attachments or step.announced else "42"


def _closing(wire: Wire) -> str:
    """How a connection was closed: it told an error before, or its close code is one."""
    told = wire.said[-1] if wire.said else {}
    if told.get("status") == "error":
        return f"closed with {told['error_code']}"
    return f"closed {wire.socket.close_code}"


def _ending(final: dict[str, Any] | None) -> str:
    if final is None:
        return "unanswered job"
    return f"ended: {final['status']}" if final.get("error_code") not in FAULTS else str(final["error_code"])


async def asked(port: int, raw: bytes) -> tuple[int, bytes]:
    """(status, body) of the last response to a request; 0 for none, with what came instead."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    try:
        writer.write(raw)
        heard = b""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            heard = await _until_whole(reader)
        answers = re.findall(rb"HTTP/\d\.\d (\d{3}).*?\r\n\r\n(.*)", heard, re.DOTALL)
        return (int(answers[-1][0]), answers[-1][1]) if answers else (0, heard)
    finally:
        writer.transport.abort()


async def _until_whole(reader: asyncio.StreamReader) -> bytes:
    """A response to its end; of a websocket the head."""
    head = b""
    while not head or head.startswith(b"HTTP/1.1 100"):
        head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\nContent-Length: (\d+)", head)
    if b"text/event-stream" in head:
        return head + await reader.read()
    try:
        return head + (await reader.readexactly(int(length[1])) if length else b"")
    except asyncio.IncompleteReadError as exc:  # of a HEAD, or of a connection that was cut
        return head + exc.partial


async def attacked(server: Server, count: int, number: int) -> Figures:
    """What comes of so many messages; number: of them, the same each time."""
    figures = Figures()
    async with Attack(server, figures).begun() as attack:
        for block, start in enumerate(range(0, count, BLOCK)):
            make = partial(drawn, min(BLOCK, count - start), number * 1000 + block)
            await attack.play(list(await asyncio.to_thread(make)))
    figures.peak_mib = memory_mib(server.pid, "VmHWM")
    return figures


def logged_faults(server: Server) -> list[str]:
    """Lines of its log that tell of a fault of its own."""
    return [
        line
        for line in server.log
        if '"exception"' in line
        or "Traceback" in line
        or ('"level":"error"' in line and '"logger":"engineio.server"' not in line)  # which calls a client's fault one
    ]
