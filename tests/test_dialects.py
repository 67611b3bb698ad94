"""An API beside the native one is a sub-application with its own error shape, behind the same authentication."""

from __future__ import annotations

import io
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from contract.errors import UnknownType
from gateway.answers import DIALECT, Dialect, answer_errors, reply
from gateway.auth import Authenticators, Credentials, Tokens
from gateway.files import FileDoor, Uploads
from gateway.origins import Origins
from gateway.patience import Patience
from pipeline.intake import MAX_CONTENT_BYTES
from tests.asking import Call
from tests.roads import Road
from tests.servers import ROOT

CALLERS = Authenticators(Tokens(b"k" * 32))


def toy_api() -> web.Application:
    """Its errors are ``{"error": {"type", "message"}}``."""

    async def who(request: web.Request) -> web.Response:
        return reply({"client": CALLERS.who(request).client})

    async def refuse(request: web.Request) -> web.Response:
        raise UnknownType("This API has no such model.")

    async def fail(request: web.Request) -> web.Response:
        raise RuntimeError("a secret of the server")

    async def read(request: web.Request) -> web.Response:
        return reply({"bytes": len(await request.read())})

    api = web.Application()
    api[DIALECT] = Dialect(
        lambda failure, status: reply({"error": {"type": failure["error_code"], "message": failure["message"]}}, status)
    )
    api.add_routes([web.get("/who", who), web.get("/refuse", refuse), web.get("/fail", fail), web.post("/read", read)])
    return api


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    road = await Road(tmp_path, []).start()
    middlewares = [answer_errors, Patience(60).watch, Origins().check]
    app = web.Application(client_max_size=MAX_CONTENT_BYTES, middlewares=middlewares)
    FileDoor(road.ledger, CALLERS, Uploads(road.ledger, road.folders, 1000)).attach(app)
    app.add_subapp("/toy", toy_api())
    async with TestClient(TestServer(app)) as client:
        yield client
    await road.close()


@pytest.mark.parametrize(
    ("asked", "headers", "status", "code"),
    [
        ("GET /toy/refuse", {}, 400, "UNKNOWN_TYPE"),
        ("GET /toy/fail", {}, 500, "INTERNAL"),
        ("GET /toy/nothing", {}, 404, "NOT_FOUND"),
        ("GET /toy/", {}, 404, "NOT_FOUND"),
        ("DELETE /toy/who", {}, 405, "METHOD_NOT_ALLOWED"),
        ("GET /toy/who", {"Authorization": "Bearer forged"}, 401, "UNAUTHORIZED"),
        ("GET /toy/who", {"Authorization": "Basic eA=="}, 401, "UNAUTHORIZED"),
        ("GET /toy/who", {"Host": "evil.example"}, 403, "HOST_FORBIDDEN"),
        ("GET /toy/who", {"Origin": "https://evil.example"}, 403, "ORIGIN_FORBIDDEN"),
        ("POST /toy/read", {}, 413, "TOO_LARGE"),
        ("GET /files/none", {}, 404, "FILE_NOT_FOUND"),
        ("GET /files/none", {"Authorization": "Bearer forged"}, 401, "UNAUTHORIZED"),
        ("GET /nothing", {}, 404, "NOT_FOUND"),
        ("GET /toys", {}, 404, "NOT_FOUND"),
        ("DELETE /files", {}, 405, "METHOD_NOT_ALLOWED"),
    ],
)
async def test_each_api_answers_errors_in_its_own_shape(
    client: TestClient[web.Request, web.Application], asked: str, headers: dict[str, str], status: int, code: str
) -> None:
    method, path = asked.split()
    body = io.BytesIO(b"x" * (MAX_CONTENT_BYTES + 1)) if method == "POST" else None
    with structlog.testing.capture_logs() as logs:
        async with client.request(method, path, headers=headers, data=body) as response:
            text = await response.text()
            answer = json.loads(text)
    assert (response.status, response.content_type) == (status, "application/json")
    if path.startswith("/toy/"):
        assert answer == {"error": {"type": code, "message": answer["error"]["message"]}}
    else:
        assert answer == {**answer, "status": "error", "error_code": code}
        assert answer["message"].endswith(".")
    assert ("Allow" in response.headers) == (status == 405)
    assert "Traceback" not in text
    assert "secret" not in text
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["request_failed"] * (status == 500)


async def test_a_client_is_the_same_to_each_api(client: TestClient[web.Request, web.Application]) -> None:
    headers = {"Authorization": f"Bearer {CALLERS.token(CALLERS.identity(Credentials(None, None)))}"}
    seen: list[Any] = []
    for shown in (headers, headers, {}):
        async with client.get("/toy/who", headers=shown) as response:
            seen.append(await response.json())
    assert seen[0] == seen[1] != seen[2]


def examples(heading: str) -> list[str]:
    """The Python blocks of one section of CONTRIBUTING.md."""
    section = (ROOT / "CONTRIBUTING.md").read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


async def test_contributings_door_serves_by_being_mounted(tmp_path: Path) -> None:
    names: dict[str, Any] = {"__name__": "shouting"}
    door, mounted = examples("Another door")
    for text in (*examples("A worker in one file"), door):
        exec(text, names)
    road = await Road(tmp_path, [names["Shout"]]).start()
    app = web.Application(middlewares=[answer_errors])
    exec(mounted, {**names, "app": app, "road": road.queue, "following": road.following, "callers": CALLERS})
    async with TestClient(TestServer(app)) as client:
        for body, status, said in (
            ('["hello"]', 200, ["HELLO"]),
            ("5", 400, {"error": {"reason": "Parameter 'words': input should be a valid list."}}),
            ("{", 400, {"error": {"reason": "The body must be JSON, a list of words."}}),
        ):
            async with client.post("/shouting/words", data=body) as response:
                assert (response.status, await response.json()) == (status, said)
    await road.close()


async def test_what_the_server_does_not_have_is_said_in_its_words(call: Call) -> None:
    missing = await call("GET", "/nowhere/" + "x" * 1000)
    assert (missing.status, missing.body["error_code"]) == (404, "NOT_FOUND")
    assert len(missing.body["message"]) < 300
    wrong = await call("PUT", "/jobs")
    assert (wrong.status, wrong.body["error_code"]) == (405, "METHOD_NOT_ALLOWED")
    assert wrong.body["message"] == "'/jobs' takes GET, HEAD, POST, not PUT."
    assert wrong.headers["Allow"] == "GET,HEAD,POST"
