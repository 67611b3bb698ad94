"""Anything at all for the intake, made by hypothesis, and what went wrong at the doors: a typed answer each time.

The doors themselves are told anything by tests/messages.py.
"""

from __future__ import annotations

import time
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
from tests.peers import Raw
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


async def test_polling_bodies_that_cannot_be_read_are_refused(url: str) -> None:
    async with aiohttp.ClientSession() as http:
        for body in (b"\xff", b"x", b"4\x1e", b"bA", b"d=", b"9", b"\x1e".join([b"4"] * 100_001)):
            polling = await Polling.open(http, url)
            async with http.post(url + polling.path, data=body) as response:
                assert response.status == 400, body[:20]
