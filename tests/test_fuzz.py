"""Anything at all, made by hypothesis, at every door: a typed answer, never `INTERNAL`, never 500, never deafness."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from contract.errors import ServiceError
from contract.messages import FileRef, Request
from gateway.packets import malformed
from pipeline.catalog import choose, load_plans
from pipeline.intake import check_message
from pipeline.job import Job, begin
from pipeline.stored import changed
from tests.peers import PATIENCE, Raw
from tests.servers import Server
from tests.shipped import SHIPPED
from tests.test_contract import WEBSOCKET, Polling

FUZZ = settings(
    derandomize=True, max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
"""The same examples on every machine."""

PLANS = load_plans(SHIPPED, 1000)
KEYS = sorted(
    {field for cls in SHIPPED.values() for field in cls.Params.model_fields}
    | {"id", "data", "files", "urls", "jobs", "job_id", "reference_id", "whisper", "florence", "idempotency_key"}
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    | st.binary(max_size=12)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("file", "audio", "text", "x", "")), inner, max_size=3)
    ),
    max_leaves=8,
)


def messages(types: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    kinds = st.fixed_dictionaries({"type": st.sampled_from(types)}, optional={"v_conv": st.booleans()})
    return st.builds(lambda kind, rest: {**rest, **kind}, kinds, st.dictionaries(st.sampled_from(KEYS), values))


# The intake, without a server: every plan that ships.


def bound(value: str | bytes) -> FileRef:
    return FileRef("upload", "file_" + "0" * 32, "content")


@settings(FUZZ, max_examples=400)
@given(messages(sorted(name for name in PLANS if "." not in name)))
@example({"type": "dlp", "urls": [b"binary"]})
@example({"type": "dlp", "urls": [{"x": b"binary"}]})
@example({"type": "video", "urls": [b"binary"]})
@example({"type": "whisp", "data": [{"file": "x", "language": b"de"}, b"x"]})
def test_any_message_is_refused_or_can_be_written_down(message: dict[str, Any]) -> None:
    plan = choose(PLANS, message)
    assert plan is not None
    try:
        check_message(message)
        params, warnings = plan.parse(message, bound)
    except ServiceError as exc:
        assert exc.code != "INTERNAL"
        orjson.dumps(exc.answer())
        return
    request = Request(message.get("id"), "client", "owner", message["type"], params, None, warnings)
    step = begin(Job("job", request, plan, 0.0, 1.0))
    change = changed(step, time.time())
    orjson.dumps([[*change.job], [[*run] for run in change.runs]])
    orjson.dumps([out.body for out in step.outs])


# Socket.IO, with attachments.

TYPES = ["whisp", "contract_echo", "jobs", "voices", "cancel", "signal", "resume", "delete_voice", "x"]
placeholders = st.builds(
    lambda number: {"_placeholder": True, "num": number},
    st.integers(-2, 4) | st.text(max_size=1) | st.none() | st.floats() | st.just({}),
)
sent_values = st.recursive(
    placeholders | st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("file", "audio", "x")), inner),
    max_leaves=5,
)
sent_messages = st.builds(
    lambda kind, rest: {**rest, "type": kind},
    st.sampled_from(TYPES) | placeholders,
    st.dictionaries(st.sampled_from([*KEYS, "audio", "offset", "end"]), sent_values, max_size=4),
)
events = st.tuples(
    st.lists(st.sampled_from(("message", "audio", "other")) | placeholders, min_size=1, max_size=1),
    st.lists(sent_messages | placeholders | sent_values, max_size=2) | st.tuples(sent_messages).map(list),
    st.lists(st.binary(max_size=8) | st.just(b'2["message",{}]'), max_size=3),
    st.integers(-1, 2),
)


def packets_of(number: int, event: tuple[list[Any], list[Any], list[bytes], int]) -> list[str | bytes]:
    """An event with an acknowledgement: it may announce fewer or more attachments than follow it."""
    name, arguments, attachments, more = event
    announced = max(0, len(attachments) + more)
    kind = f"5{announced}-" if announced or attachments else "2"
    return [f"4{kind}{number}{json.dumps([*name, *arguments])}", *attachments]


def made(strategy: st.SearchStrategy[Any], max_examples: int) -> list[Any]:
    """Examples for a test that awaits, which hypothesis does not run itself."""
    examples: list[Any] = []

    @settings(FUZZ, max_examples=max_examples)
    @given(strategy)
    def collect(one: Any) -> None:
        examples.append(one)

    collect()
    return examples


def faults(server: Server) -> list[str]:
    return [line for line in server.log if '"exception"' in line or "Traceback" in line]


async def test_any_event_with_any_attachments_is_acknowledged_once(contract_server: Server) -> None:
    acknowledged: Counter[int] = Counter()
    accepted: set[str] = set()
    ended: set[str] = set()
    async with Raw(contract_server.url) as raw:

        async def hear() -> None:
            async with asyncio.timeout(PATIENCE):
                packet = (await raw.socket.receive()).data
            assert isinstance(packet, (str, bytes)), ("the connection was closed", sent)
            head, _, body = packet.partition("[") if isinstance(packet, str) else ("", "", "")
            assert '"INTERNAL"' not in body, (body, sent)
            if head.startswith("43"):
                [answer] = orjson.loads("[" + body)
                assert answer["status"] in ("success", "accepted", "error")
                acknowledged[int(head[2:])] += 1
                accepted.update([answer["job_id"]] if answer["status"] == "accepted" else [])
            elif body.startswith('"message"'):
                ended.add(orjson.loads("[" + body)[1].get("job_id"))

        for number, event in enumerate(made(events, 400), 1):
            sent = packets_of(number, event)
            await raw.say(*sent, '42["message",{"type":"voices"}]')  # instead of attachments that do not come
            while not acknowledged[number]:
                await hear()
        while accepted - ended:
            await hear()
    assert set(acknowledged.values()) == {1}
    assert not faults(contract_server)


BEYOND = [
    (['450-1["message",{"type":"jobs"}]'], "success"),
    (['451-1["message",{"type":"jobs","x":{"_placeholder":true,"num":0}}]', b"x", b"y"], "success"),
    (['452-1["message",{"type":"jobs"}]', b"x"], "error"),
    (['451-1["message",{"type":"jobs","id":NaN}]', b"x"], "error"),
    (['451-1["message",{"type":"dlp","urls":[{"_placeholder":true,"num":0}]}]', b"x"], "accepted"),
    (['451-1[{"_placeholder":true,"num":0},{}]', b"message"], "error"),
    (['451-1["message",{"_placeholder":true,"num":0}]', b"{}"], "error"),
    (['421["message",{"type":"jobs","id":Infinity}]'], "error"),
]


@pytest.mark.parametrize(("packets", "status"), BEYOND, ids=lambda value: str(value)[:60])
async def test_attachments_are_matched_with_what_announced_them(
    url: str, packets: list[str | bytes], status: str
) -> None:
    async with Raw(url) as raw:
        await raw.say(*packets)
        if status == "error" and packets[0][1] == "5" and len(packets) < 3:
            await raw.say('42["message",{"type":"jobs"}]')  # in place of the attachment
        first = await raw.acknowledged(1)
        assert first["status"] == status
        assert first.get("error_code") == ("INVALID_INPUT" if status == "error" else None)
        assert await raw.is_alive()


@pytest.mark.parametrize("packet", [b"out of nowhere", b'2["message",{}]', "4[1]", "4true", "4{}", "47", "42\u00b2[]"])
async def test_what_is_no_packet_is_answered(url: str, packet: str | bytes) -> None:
    async with Raw(url) as raw:
        await raw.say(packet)
        assert '"INVALID_INPUT"' in await raw.hear('42["message"')
        assert await raw.is_alive()


def test_no_packet_keeps_what_another_went_through() -> None:
    """An exception that is raised twice holds the frames of both times, and what stood in them."""
    assert malformed().error is not malformed().error


async def test_auth_that_is_no_json_is_refused(url: str) -> None:
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{url}/socket.io/?{WEBSOCKET}") as socket:
        await socket.receive()
        await socket.send_str('40{"token":NaN}')
        refusal = await socket.receive_str()
    assert refusal.startswith("44")
    assert "INVALID_INPUT" in refusal


# HTTP, byte by byte.

texts = st.binary(max_size=20).map(lambda value: value.translate(None, b"\r\n\0"))
headers = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("Authorization", "Content-Type", "Content-Encoding", "Last-Event-ID", "Range", "Origin", "Accept"),
                *("If-Modified-Since", "If-None-Match", "Cookie", "X-Forwarded-Host", "Expect", "Host", "X-Other"),
            ]
        ),
        texts
        | st.sampled_from(
            [
                *(b"Bearer \xff", b"Bearer a.b.\xff", b"gzip", b"deflate", b"br", b"bytes=5-1", b"\xff\xfe", b"100-x"),
                *(b"multipart/form-data; boundary=b", b"multipart/form-data", b"application/json; charset=\xff"),
            ]
        ),
    ),
    max_size=3,
)
bodies = (
    sent_messages.map(lambda message: json.dumps(message).encode())
    | st.binary(max_size=60)
    | st.lists(
        st.sampled_from(
            [
                *(b"--b\r\n", b"--b--\r\n", b"\r\n", b"\r\n\r\n", b'Content-Disposition: form-data; name="file"', b"x"),
                *(
                    b'Content-Disposition: form-data; name="type"',
                    b"Content-Transfer-Encoding: base64",
                    b"\xff",
                    b"NaN",
                ),
            ]
        ),
        max_size=12,
    ).map(b"".join)
)
targets = st.sampled_from(
    [
        *(
            b"GET /jobs",
            b"POST /jobs",
            b"POST /jobs?wait=NaN",
            b"POST /jobs?wait=1e999",
            b"POST /files",
            b"GET /files/x",
        ),
        *(
            b"GET /files/%ff%00",
            b"DELETE /files/%ED%A0%80",
            b"GET /jobs/%ff",
            b"GET /jobs/x/events",
            b"DELETE /jobs/%00",
            b"POST /jobs/%ff/signals/%ff",
            b"GET /nowhere/%ff%00",
        ),
        *(b"GET /jobs/x/events?ticket=%ff", b"POST /jobs/x/ticket", b"POST /jobs/x/audio?offset=%ff", b"GET /voices"),
        *(
            b"DELETE /voices/%ff%2f..",
            b"GET /health?%ff",
            b"GET /",
            b"POST /socket.io/?EIO=4&transport=polling&sid=%ff",
        ),
        *(b"GET /socket.io/?EIO=x", b"GET /socket.io/?EIO=4&transport=polling&j=%ff", b"OPTIONS /jobs", b"PUT /jobs"),
    ]
)


async def test_any_request_is_answered(contract_server: Server) -> None:
    for target, named, body in made(st.tuples(targets, headers, bodies), 400):
        lines = [target + b" HTTP/1.1", *(name.encode() + b": " + value for name, value in named)]
        if not any(name == "Host" for name, _ in named):
            lines.append(b"Host: localhost")
        lines += [b"Content-Length: %d" % len(body), b"Connection: close", b"", b""]
        reader, writer = await asyncio.open_connection("127.0.0.1", contract_server.port)
        writer.write(b"\r\n".join(lines) + body)
        async with asyncio.timeout(PATIENCE):
            first = await reader.readline()
        writer.close()
        assert 200 <= int(first.split()[1]) < 500, (first, lines, body)
    assert not faults(contract_server)


async def test_polling_bodies_that_cannot_be_read_are_refused(contract_server: Server, url: str) -> None:
    async with aiohttp.ClientSession() as http:
        for body in (b"\xff", b"x", b"4\x1e", b"bA", b"d=", b"9", b"\x1e".join([b"4"] * 100_001)):
            polling = await Polling.open(http, url)
            async with http.post(url + polling.path, data=body) as response:
                assert response.status == 400, body[:20]
    assert not faults(contract_server)
