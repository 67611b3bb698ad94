"""The contract over HTTP, spoken by aiohttp's client to a real server."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import orjson
import pytest

from storage.voices import Voices
from tests.asking import Call
from tests.conftest import LISTED_ORIGIN, MAX_UPLOAD_BYTES, contract_like_server
from tests.peers import Gate, Peer
from tests.servers import Server

MIB = 1 << 20
NEVER = "job_" + "0" * 24


@pytest.fixture
async def token(call: Call) -> str:
    """A client of its own."""
    return str((await call("POST", "/jobs", json={"type": "contract_echo"})).body["token"])


def uploads(server: Server) -> set[str]:
    return {path.name for path in (server.folder / "data_dir" / "uploads").iterdir()}


def form(content: bytes, name: str = "talk.wav") -> dict[str, Any]:
    data = aiohttp.FormData(quote_fields=False)
    data.add_field("file", io.BytesIO(content), filename=name)
    return {"data": data}


def raw_form(body: bytes) -> dict[str, Any]:
    return {"data": body, "headers": {"Content-Type": "multipart/form-data; boundary=b"}}


# The server itself.


async def test_health_names_the_documented_facts(call: Call) -> None:
    reply = await call("GET", "/health")
    assert reply.status == 200
    assert {"version", "gpu_available", "device", "model_loaded", "vram_used_gb", "workers"} <= reply.body.keys()
    assert reply.body["status"] == "healthy"
    assert {"whisper", "contract_echo"} <= reply.body["workers"].keys()


async def test_metrics_count_jobs_and_refusals(call: Call, token: str) -> None:
    async def figure(name: str) -> float:
        lines = (await call("GET", "/metrics")).body.decode().splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(f"{name} ")), 0.0)

    accepted = 'optivus_jobs_accepted_total{type="contract_echo"}'
    before, refused = await figure(accepted), await figure("optivus_submissions_refused_total")
    await call("POST", "/jobs", token, json={"type": "contract_echo"})
    await call("POST", "/jobs", token, json={"type": "no such"})
    assert await figure(accepted) == before + 1
    assert await figure("optivus_submissions_refused_total") == refused + 1
    assert await figure("optivus_ledger_commits_total") > 0


async def test_what_a_model_takes_and_how_long_it_computed_is_told(call: Call) -> None:
    await call("POST", "/jobs?wait=60", json={"type": "contract_echo"})
    workers = (await call("GET", "/health")).body["workers"]
    [process] = workers["contract_echo"]["processes"]
    lines = (await call("GET", "/metrics")).body.decode().splitlines()
    told = dict(line.rsplit(" ", 1) for line in lines)
    ram = float(told['optivus_worker_loaded_bytes{of="ram",worker="contract_echo"}'])
    assert ram / 1e9 == pytest.approx(process["loaded_gb"]["ram"])
    assert ram > 1e7
    assert float(told['optivus_forward_seconds_total{worker="contract_echo"}']) >= 0
    assert 'optivus_worker_loaded_bytes{of="vram",worker="contract_echo"}' not in told


# Files.


async def test_upload_comes_back_as_it_was_and_can_be_deleted(call: Call, contract_server: Server) -> None:
    content = os.urandom(100_000)
    kept = (await call("POST", "/files", **form(content))).body
    assert kept == {"file_id": kept["file_id"], "size": 100_000, "name": "talk.wav"}
    path = f"/files/{kept['file_id']}"
    got = await call("GET", path)
    assert (got.status, got.body) == (200, content)
    assert got.headers["Content-Disposition"] == "attachment"
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert (await call("DELETE", path)).body == {"deleted": True}
    gone, never = [await call(method, f"/files/{each}") for method in ("GET",) for each in (kept["file_id"], "file_x")]
    for reply in (gone, never, await call("DELETE", path)):
        assert (reply.status, reply.body["error_code"]) == (404, "FILE_NOT_FOUND")
    assert kept["file_id"] not in uploads(contract_server)


async def test_upload_that_lies_no_longer_there_is_not_found(call: Call, contract_server: Server) -> None:
    file_id = (await call("POST", "/files", **form(b"x"))).body["file_id"]
    path = contract_server.folder / "data_dir" / "uploads" / file_id
    path.unlink()
    for replace in (lambda: None, lambda: path.symlink_to("/etc/hostname"), path.mkdir):
        replace()
        reply = await call("GET", f"/files/{file_id}")
        assert (reply.status, reply.body["error_code"]) == (404, "FILE_NOT_FOUND")
        path.unlink() if path.is_symlink() else None
    path.rmdir()


@pytest.mark.parametrize("query", ["", "?path="])
async def test_file_that_is_not_named_is_asked_for(call: Call, query: str) -> None:
    reply = await call("GET", f"/files{query}")
    assert (reply.status, reply.body["error_code"], reply.body["details"]["field"]) == (400, "INVALID_INPUT", "path")


async def test_uploads_and_files_of_others_are_not_fetched_by_path(call: Call, contract_server: Server) -> None:
    kept = (await call("POST", "/files", **form(b"an upload"))).body["file_id"]
    for path in (contract_server.folder / "data_dir" / "uploads" / kept, "/etc/hostname"):
        reply = await call("GET", "/files", params={"path": str(path)})
        assert (reply.status, reply.body["error_code"]) == (404, "FILE_NOT_FOUND")


async def test_upload_deleted_twice_at_once_is_deleted_once(call: Call) -> None:
    file_id = (await call("POST", "/files", **form(b"x"))).body["file_id"]
    replies = await asyncio.gather(*(call("DELETE", f"/files/{file_id}") for _ in range(5)))
    assert sorted(reply.status for reply in replies) == [200, 404, 404, 404, 404]


async def test_upload_is_streamed(call: Call, token: str, contract_server: Server) -> None:
    """The server's memory is looked at while 50 MB go through it."""
    size = 50_000_000
    memory: list[float] = []

    async def resident() -> float:
        lines = (await call("GET", "/metrics")).body.decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("process_resident_memory_bytes "))

    async def content() -> AsyncIterator[bytes]:
        for sent in range(0, size, 100_000):
            yield b"x" * 100_000
            if sent % 10_000_000 == 0:
                memory.append(await resident())

    before = await resident()
    data = aiohttp.FormData()
    data.add_field("file", content(), filename="large")
    file_id = (await call("POST", "/files", data=data)).body["file_id"]
    assert max(memory) - before < 25 * MIB
    job = (await call("POST", "/jobs", token, json={"type": "contract_echo", "file": file_id})).body["job_id"]
    assert (await final(call, job, token))["echo"]["bytes"] == size
    await call("DELETE", f"/files/{file_id}")


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (form(b"x" * (MAX_UPLOAD_BYTES + 1)), 413, "TOO_LARGE"),
        (form(b""), 400, "INVALID_INPUT"),
        ({"data": {"other": io.BytesIO(b"x")}}, 400, "INVALID_INPUT"),
        ({"data": b"file"}, 400, "INVALID_INPUT"),
        ({"json": {"file": "x"}}, 400, "INVALID_INPUT"),
        ({}, 400, "INVALID_INPUT"),
        ({"data": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "INVALID_INPUT"),
        (raw_form(b""), 400, "INVALID_INPUT"),
        (raw_form(b"no boundary"), 400, "INVALID_INPUT"),
        (raw_form(b"--b\r\n\r\nno name\r\n--b--\r\n"), 400, "INVALID_INPUT"),
        (raw_form(b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\ncut shor'), 400, "INVALID_INPUT"),
        (raw_form(b'--b\r\nContent-Disposition: form-data; name="file"\r\n'), 400, "INVALID_INPUT"),
        (raw_form(b"--b\r\nbroken header\r\n\r\nx\r\n--b--\r\n"), 400, "INVALID_INPUT"),
        (raw_form(b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c--\r\n--b--\r\n"), 400, "INVALID_INPUT"),
    ],
    ids=[
        *("too large", "empty", "other field", "no form", "JSON", "nothing", "no boundary named", "empty form"),
        *("no boundary", "no name", "cut in its content", "cut in its head", "broken head", "nested"),
    ],
)
async def test_bad_upload_is_refused_and_leaves_nothing(
    call: Call, contract_server: Server, sent: dict[str, Any], status: int, code: str
) -> None:
    await call("POST", "/files", **form(b"so that the folder is there"))
    before = uploads(contract_server)
    reply = await call("POST", "/files", **sent)
    assert (reply.status, reply.body.get("error_code")) == (status, code)
    assert str(contract_server.folder) not in str(reply.body)
    assert uploads(contract_server) == before


def several(*fields: tuple[str, bytes, str | None]) -> dict[str, Any]:
    """(field, content, file name)."""
    data = aiohttp.FormData()
    for field, content, name in fields:
        data.add_field(field, io.BytesIO(content) if name else content.decode(), filename=name)
    return {"data": data}


@pytest.mark.parametrize("field", ["file", "files", "file[]"])
async def test_every_file_of_one_upload_is_kept_and_told(call: Call, contract_server: Server, field: str) -> None:
    """The first as that of an upload of one."""
    reply = await call("POST", "/files", **several((field, b"one", "1.wav"), (field, b"three", "3.wav")))
    assert reply.status == 201
    first, second = reply.body.pop("files")
    assert reply.body == first
    assert (first["name"], first["size"], second["name"], second["size"]) == ("1.wav", 3, "3.wav", 5)
    for told, content in ((first, b"one"), (second, b"three")):
        assert (await call("GET", f"/files/{told['file_id']}")).body == content


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ([("file", b"one", "1.wav"), ("file", b"", "2.wav")], 400, "INVALID_INPUT"),
        ([("file", b"one", "1.wav"), ("other", b"two", "2.wav")], 400, "INVALID_INPUT"),
        ([("file", b"x", "x.wav")] * 101, 413, "TOO_LARGE"),
        ([("file", b"one", "1.wav"), ("file", bytes(MAX_UPLOAD_BYTES + 1), "2.wav")], 413, "TOO_LARGE"),
    ],
    ids=["one is empty", "one in another field", "101", "one is too large"],
)
async def test_of_several_files_all_are_kept_or_none(
    call: Call, contract_server: Server, fields: list[tuple[str, bytes, str]], status: int, code: str
) -> None:
    await call("POST", "/files", **form(b"so that the folder is there"))
    before = uploads(contract_server)
    reply = await call("POST", "/files", **several(*fields))
    assert (reply.status, reply.body.get("error_code")) == (status, code)
    assert uploads(contract_server) == before


async def test_other_fields_of_an_upload_do_no_harm(call: Call) -> None:
    reply = await call("POST", "/files", **several(("note", b"hello", None), ("file", b"one", "1.wav")))
    assert (reply.status, "files" in reply.body) == (201, False)


async def test_upload_that_breaks_off_leaves_nothing(call: Call, contract_server: Server) -> None:
    await call("POST", "/files", **form(b"so that the folder is there"))
    before = uploads(contract_server)
    _, writer = await asyncio.open_connection("127.0.0.1", contract_server.port)
    head = "POST /files HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\nContent-Type: multipart/form-data; boundary=b"
    part = '--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
    writer.write(f"{head}\r\n\r\n{part}{'x' * 2_000_000}".encode())
    async with asyncio.timeout(30):
        while uploads(contract_server) == before:  # until the server has begun to write
            await call("GET", "/health")
        writer.transport.abort()
        while uploads(contract_server) != before:
            await call("GET", "/health")


@pytest.mark.parametrize("name", ["../../etc/passwd", "%2e%2e.wav", "x" * 1000, "\N{SNOWMAN}.wav", ""])
async def test_names_of_uploads_are_only_names(call: Call, contract_server: Server, name: str) -> None:
    kept = (await call("POST", "/files", **form(b"x", name))).body
    assert kept["name"] == (name[:255] or "upload")
    assert kept["file_id"] in uploads(contract_server)


async def test_name_that_is_no_text_is_taken_all_the_same(call: Call) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="\xff\xfe.wav"\r\n\r\n'
    reply = await call("POST", "/files", **raw_form(head + b"x\r\n--b--\r\n"))
    assert reply.status == 201
    assert reply.body["name"].endswith(".wav")
    assert (await call("GET", "/health")).status == 200
    assert (await call("POST", "/files", **form(b"x"))).status == 201


# Jobs.


async def final(call: Call, job: str, token: str) -> Any:
    """The final answer, by the event stream."""
    stream = (await call("GET", f"/jobs/{job}/events", token)).body.decode()
    return events(stream)[-1][2]


def events(stream: str) -> list[tuple[str, str | None, Any]]:
    """(event, id, data) of every server-sent event but progress hints."""
    found = []
    for block in stream.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and line[0] != ":")
        if fields and fields["event"] != "progress":
            found.append((fields["event"], fields.get("id"), orjson.loads(fields["data"])))
    return found


async def test_job_is_submitted_followed_and_read(call: Call) -> None:
    sent = await call("POST", "/jobs", json={"type": "contract_echo", "partials": 3, "id": {"a": 1}, "x": 1})
    assert sent.status == 202
    assert sent.body.keys() == {"job_id", "id", "token"}
    assert sent.body["id"] == {"a": 1}
    job, token = sent.body["job_id"], sent.body["token"]
    stream = await call("GET", f"/jobs/{job}/events", token)
    assert stream.headers["Content-Type"] == "text/event-stream"
    told = events(stream.body.decode())
    assert [(event, seq) for event, seq, _ in told] == [
        ("partial", "1"),
        ("partial", "2"),
        ("partial", "3"),
        ("message", "4"),
    ]
    read = (await call("GET", f"/jobs/{job}", token)).body
    assert (read["job_id"], read["id"], read["state"], read["fraction"]) == (job, {"a": 1}, "completed", 1.0)
    assert read["answer"] == told[-1][2]
    assert read["answer"]["warnings"]
    again = await call("POST", "/jobs", token, json={"type": "contract_echo"})
    assert "token" not in again.body


async def test_events_go_on_after_the_last_one_that_was_seen(call: Call, token: str) -> None:
    job = (await call("POST", "/jobs", token, json={"type": "contract_echo", "partials": 300})).body["job_id"]
    await final(call, job, token)
    for last, first in (("0", 1), ("299", 300), ("300", 301), ("301", 302), ("302", 1), ("9" * 19, 1)):
        stream = await call("GET", f"/jobs/{job}/events", token, headers={"Last-Event-ID": last})
        assert [int(seq or 0) for _, seq, _ in events(stream.body.decode())] == list(range(first, 302))
    for last in ("x", "-1", "1.5", "", "\N{SUPERSCRIPT TWO}", "9" * 5_000):
        refused = await call("GET", f"/jobs/{job}/events", token, headers={"Last-Event-ID": last})
        assert (refused.status, refused.body["error_code"]) == (400, "INVALID_INPUT")


async def test_running_job_is_followed_live_and_cancelled(call: Call, url: str, tmp_path: Path) -> None:
    with Gate(tmp_path) as gate:
        sent = (await call("POST", "/jobs", json=gate.message)).body
        job, token = sent["job_id"], sent["token"]
        following = asyncio.create_task(call("GET", f"/jobs/{job}/events", token))
        async with Peer(url, token) as peer:  # the same client, on the other door
            await peer.ask({"type": "resume", "jobs": {job: 0}})
            await peer.wait(lambda event, body: event == "partial")
            assert (await call("GET", f"/jobs/{job}", token)).body["answer"] is None
            assert (await call("DELETE", f"/jobs/{job}", token)).body == {"cancelled": True}
            assert (await peer.final(job))["status"] == "cancelled"
        assert [event for event, _, _ in events((await following).body.decode())] == ["partial", "message"]
        assert (await call("DELETE", f"/jobs/{job}", token)).body == {"cancelled": False}
        assert (await call("GET", f"/jobs/{job}", token)).body["state"] == "cancelled"


async def test_jobs_of_nobody_are_not_found(call: Call, token: str) -> None:
    for job in (NEVER, "x", "..%2f..%2fetc", "%00", "%ff", "x" * 2_000, "%ED%A0%80"):
        for method, path in (("GET", ""), ("GET", "/events"), ("DELETE", "")):
            reply = await call(method, f"/jobs/{job}{path}", token)
            assert (reply.status, reply.body["error_code"]) == (404, "JOB_NOT_FOUND")


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer x", "Basic dTpw", "Bearer a.b.c", "Bearer \udcff", "x" * 5_000]
)
async def test_token_that_is_not_ours_is_refused(call: Call, header: str) -> None:
    for method, path in (("POST", "/jobs"), ("GET", f"/jobs/{NEVER}"), ("POST", "/files"), ("GET", "/files/x")):
        reply = await call(method, path, headers={"Authorization": header})
        assert (reply.status, reply.body["error_code"]) == (401, "UNAUTHORIZED")


async def test_full_queue_is_said_with_503(tmp_path: Path) -> None:
    with Gate(tmp_path) as gate, contract_like_server(tmp_path, MAX_OPEN_JOBS="2") as server:
        async with aiohttp.ClientSession() as http:
            replies = []
            for _ in range(3):
                async with http.post(f"{server.url}/jobs", json=gate.message) as response:
                    replies.append((response.status, await response.json()))
        assert [status for status, _ in replies] == [202, 202, 503]
        assert replies[2][1]["error_code"] == "QUEUE_FULL"
        assert replies[2][1]["details"]["retry_after"] > 0
        gate.open()


# Pages from elsewhere.


async def test_page_from_elsewhere_is_refused_at_every_door(call: Call, contract_server: Server) -> None:
    host = f"127.0.0.1:{contract_server.port}"
    for origin in ("http://evil.example", "null", f"http://{host}.evil.example", f"http://evil.example/{host}", "x"):
        for method, path in (
            ("GET", "/health"),
            ("POST", "/jobs"),
            ("POST", "/files"),
            ("OPTIONS", "/jobs"),
            ("GET", "/socket.io/?EIO=4&transport=polling"),
        ):
            assert (await call(method, path, headers={"Origin": origin})).status == 403
        with pytest.raises(aiohttp.WSServerHandshakeError):
            async with aiohttp.ClientSession() as http:
                await http.ws_connect(
                    f"{contract_server.url}/socket.io/?EIO=4&transport=websocket", headers={"Origin": origin}
                )


async def test_own_page_is_served_by_whatever_name_the_server_has(call: Call, contract_server: Server) -> None:
    for host in (f"127.0.0.1:{contract_server.port}", f"localhost:{contract_server.port}", "media.lan", "[::1]:5000"):
        headers = {"Host": host, "Origin": f"http://{host}"}
        assert (await call("GET", "/health", headers=headers)).status == 200
        assert (await call("GET", "/socket.io/?EIO=4&transport=polling", headers=headers)).status == 200


async def test_listed_origin_may_use_everything(call: Call, token: str) -> None:
    origin = {"Origin": LISTED_ORIGIN}
    preflight = await call("OPTIONS", "/jobs", headers=origin)
    assert preflight.status == 204
    assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
    job = (await call("POST", "/jobs", token, json={"type": "contract_echo"})).body["job_id"]
    for path in (
        "/health",
        f"/jobs/{job}/events",
        f"/jobs/{job}",
        "/no/such/path",
        "/socket.io/?EIO=4&transport=polling",
    ):
        reply = await call("GET", path, token, headers=origin)
        assert reply.headers.getall("Access-Control-Allow-Origin") == [LISTED_ORIGIN], path
        assert "Access-Control-Allow-Credentials" not in reply.headers


async def test_voices_are_listed_and_deleted_by_their_owner(call: Call, contract_server: Server) -> None:
    store = Voices(contract_server.folder / "voices_dir")
    sound = np.arange(16000, dtype=np.int16)
    mine, others = (store.save(owner, sound, 16000, "hm", owner) for owner in ("local", "ann"))
    listed = (await call("GET", "/voices")).body["voices"]
    assert mine.shown() in listed
    assert others.shown() not in listed
    assert (await call("DELETE", f"/voices/{others.reference_id}")).body["error_code"] == "VOICE_NOT_FOUND"
    assert (await call("DELETE", f"/voices/{mine.reference_id}")).body == {"deleted": True}
    assert (await call("DELETE", f"/voices/{mine.reference_id}")).status == 404
    assert store.find(others.reference_id, "ann") == others
