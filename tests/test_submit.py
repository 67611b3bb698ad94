"""`POST /jobs` as JSON or as a form, with `?wait` answered at once; the list of jobs; tickets for their events."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import Field

from contract.errors import InvalidInput, JobNotFound
from contract.identity import Identity
from contract.messages import FileRef
from gateway import answers, submit
from gateway.answers import answer_errors
from gateway.auth import Authenticators, Tickets, Tokens
from gateway.files import Uploads
from gateway.form import message_of
from pipeline import following
from pipeline.catalog import load_plans
from tests.asking import Call
from tests.checkpoints import SENTENCE
from tests.conftest import MAX_UPLOAD_BYTES, contract_like_server
from tests.peers import PATIENCE, Gate
from tests.roads import Road
from tests.servers import ROOT, Server
from tests.shipped import SHIPPED
from tests.toys.contract_toy import Echo
from tests.toys.toy import Toy
from workers.base import Context, Params, Run, Worker


class Caption(Params):
    """An object, for which a form's file cannot stand."""

    picture: FileRef
    text: str


JFK = (ROOT / "examples" / "jfk.flac").read_bytes()


def form(*fields: tuple[str, str | bytes]) -> aiohttp.FormData:
    """Bytes are files."""
    data = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields:
        if isinstance(value, bytes):
            data.add_field(name, io.BytesIO(value), filename="talk.flac")
        else:
            data.add_field(name, value)
    return data


def uploads(server: Server) -> set[str]:
    folder = server.folder / "data_dir" / "uploads"
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


# Waiting.


async def test_a_form_with_a_file_is_answered_with_its_transcript(call: Call) -> None:
    sent = form(("file", JFK), ("type", "whisp"), ("language", "en"), ("word_timestamps", "true"), ("formats", "srt"))
    reply = await call("POST", "/jobs?wait=60", data=sent)
    assert (reply.status, reply.body["status"], reply.body["type"]) == (200, "success", "whisp")
    spoken = reply.body["transcribe_audio"]
    assert "country" in spoken["text"] or SENTENCE in spoken["text"]
    assert spoken["chunks"][0]["words"]
    assert spoken["exports"]["srt"].startswith("1\n")
    same = (await call("GET", f"/jobs/{reply.body['job_id']}", reply.body.pop("token"))).body
    assert same["answer"] == reply.body


async def test_json_is_answered_the_same_way(call: Call) -> None:
    reply = await call("POST", "/jobs?wait=60", json={"type": "contract_echo", "partials": 2, "id": 7})
    assert (reply.status, reply.body["status"], reply.body["seq"], reply.body["id"]) == (200, "success", 3, 7)
    again = await call("POST", "/jobs?wait=60", reply.body["token"], json={"type": "contract_echo"})
    assert (again.status, "token" in again.body) == (200, False)


async def test_a_failed_job_has_the_status_of_its_error(call: Call) -> None:
    reply = await call("POST", "/jobs?wait=60", data=form(("type", "whisp"), ("file", b"no sound")))
    assert (reply.status, reply.body["error_code"]) == (415, "UNSUPPORTED_MEDIA")
    assert reply.body["job_id"]


async def test_who_waits_too_shortly_gets_the_jobs_id(call: Call, tmp_path: Path) -> None:
    with Gate(tmp_path) as gate:
        for wait in ("", "?wait=0", "?wait=0.01"):
            reply = await call("POST", f"/jobs{wait}", json={**gate.message, "id": "later"})
            assert (reply.status, reply.body.keys()) == (202, {"job_id", "id", "token"})
        token = reply.body["token"]
        assert (await call("DELETE", f"/jobs/{reply.body['job_id']}", token)).body == {"cancelled": True}


async def test_who_leaves_waits_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "MAX_WAITING", 1)
    monkeypatch.setattr(answers, "LOOK_SECONDS", 0.01)
    road = await Road(tmp_path, [Toy, Echo]).start()
    road.transport.hold(["toy"])
    app = web.Application(middlewares=[answer_errors])
    callers = Authenticators(Tokens(b"k" * 32))
    uploads = Uploads(road.ledger, road.folders, 1000)
    door = submit.SubmitDoor(road.queue, road.following, callers, uploads, road.plans)
    door.attach(app)
    async with TestServer(app) as server, aiohttp.ClientSession() as http:
        url = server.make_url("/jobs?wait=600")
        leaving = asyncio.create_task(http.post(url, json={"type": "toy", "words": ["w"]}))

        async def status() -> int:
            async with http.post(url, json={"type": "contract_echo"}) as response:
                return response.status

        async with asyncio.timeout(PATIENCE):
            while not road.queue.open_jobs:
                await asyncio.sleep(0)
            assert await status() == 202  # the first one waits
            leaving.cancel()
            while await status() == 202:
                pass
    await road.close()


async def test_a_job_that_is_cancelled_meanwhile_says_so(call: Call, tmp_path: Path) -> None:
    with Gate(tmp_path) as gate:
        token = (await call("POST", "/jobs", json={"type": "contract_echo"})).body["token"]
        waiting = asyncio.create_task(call("POST", "/jobs?wait=60", token, json=gate.message))
        while len(jobs := (await call("GET", "/jobs", token)).body["jobs"]) < 2:
            pass
        await call("DELETE", f"/jobs/{jobs[0]['job_id']}", token)
        reply = await waiting
        assert (reply.status, reply.body["status"]) == (200, "cancelled")


async def test_a_job_goes_on_when_who_waited_has_left(url: str, call: Call, tmp_path: Path) -> None:
    token = (await call("POST", "/jobs", json={"type": "contract_echo"})).body["token"]
    with Gate(tmp_path) as gate:
        headers = {"Authorization": f"Bearer {token}"}
        async with aiohttp.ClientSession(headers=headers) as leaving:
            waiting = asyncio.create_task(leaving.post(f"{url}/jobs?wait=60", json=gate.message))
            while len(jobs := (await call("GET", "/jobs", token)).body["jobs"]) < 2:
                pass
            waiting.cancel()
        gate.open()
    job = jobs[0]["job_id"]
    await call("GET", f"/jobs/{job}/events", token)
    assert (await call("GET", f"/jobs/{job}", token)).body["state"] == "completed"


async def test_the_same_key_waits_for_the_same_job(call: Call) -> None:
    token = (await call("POST", "/jobs", json={"type": "contract_echo"})).body["token"]
    message = {"type": "contract_echo", "partials": 3, "idempotency_key": "key"}
    replies = await asyncio.gather(*(call("POST", "/jobs?wait=60", token, json=message) for _ in range(5)))
    assert {reply.status for reply in replies} == {200}
    assert len({reply.body["job_id"] for reply in replies}) == 1


async def test_who_waits_is_told_the_jobs_id_when_the_server_stops(tmp_path: Path) -> None:
    with Gate(tmp_path) as gate, contract_like_server(tmp_path, DRAIN_SECONDS="0") as server:
        async with aiohttp.ClientSession() as http:

            async def ask(path: str, **options: Any) -> tuple[int, Any]:
                async with http.post(server.url + path, **options) as response:
                    return response.status, await response.json()

            waiting = asyncio.create_task(ask("/jobs?wait=60", json=gate.message))
            opened = False
            while not opened:
                async with http.get(f"{server.url}/health") as response:
                    opened = (await response.json())["workers"]["contract_hold"]["running"] > 0
            await asyncio.to_thread(server.stop)
            status, body = await waiting
            assert (status, body.keys()) == (202, {"job_id", "id", "token"})


@pytest.mark.parametrize("wait", ["x", "-1", "601", "nan", "inf", "1e999", "\N{SUPERSCRIPT TWO}", "9" * 500])
async def test_how_long_to_wait_must_be_a_number(call: Call, wait: str) -> None:
    reply = await call("POST", f"/jobs?wait={wait}", json={"type": "contract_echo"})
    assert (reply.status, reply.body["error_code"], reply.body["details"]["field"]) == (400, "INVALID_INPUT", "wait")


# Forms.


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ([("file", JFK)], "INVALID_INPUT"),
        ([("file", JFK), ("type", "nothing")], "UNKNOWN_TYPE"),
        ([("type", "whisp"), ("file", JFK), ("language", "xx-nothing")], "INVALID_INPUT"),
        ([("type", "whisp"), ("file", JFK), ("file", JFK)], "INVALID_INPUT"),
        ([("type", "whisp"), ("file", JFK), ("language", JFK)], "INVALID_INPUT"),
        ([("reference_audio", JFK), ("type", "whisp"), ("file", JFK)], "INVALID_INPUT"),
        ([("type", "whisp"), ("data", JFK)], "INVALID_INPUT"),
        ([("type", "whisp"), ("file", JFK), ("file", b"")], "INVALID_INPUT"),
        ([("type", "whisp"), ("file", JFK), ("initial_prompt", "x" * 5_000_000)], "TOO_LARGE"),
        ([("type", "whisp"), ("file", b"x" * (MAX_UPLOAD_BYTES + 1))], "TOO_LARGE"),
        ([*(("x", "1") for _ in range(2_001)), ("type", "contract_echo")], "TOO_LARGE"),
        ([("type", "whisp")], "INVALID_INPUT"),
    ],
    ids=[
        *(
            "no type",
            "unknown type",
            "bad option",
            "two files",
            "file as option",
            "file of another type",
            "file as batch",
            "one file empty",
            "text too long",
        ),
        *("file too large", "too many fields", "no file"),
    ],
)
async def test_a_refused_form_leaves_no_file(call: Call, contract_server: Server, fields: Any, code: str) -> None:
    before = uploads(contract_server)
    reply = await call("POST", "/jobs?wait=60", data=form(*fields))
    assert reply.body["error_code"] == code
    assert uploads(contract_server) == before


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no boundary",
        b"--b\r\n\r\nno name\r\n--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="type"\r\n\r\ncut shor',
        b'--b\r\nContent-Disposition: form-data; name="type"\r\n\r\n\xff\xfe\r\n--b--\r\n',
        b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c--\r\n--b--\r\n",
    ],
)
async def test_a_malformed_form_is_refused(call: Call, body: bytes) -> None:
    reply = await call("POST", "/jobs", data=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert (reply.status, reply.body["error_code"]) == (400, "INVALID_INPUT")


class Album(Worker):
    """Says what its files hold, which its parameters call as they like."""

    class Params(Params):
        image: FileRef
        masks: list[FileRef] = Field(default_factory=list)
        captions: list[Caption] = Field(default_factory=list)

    name = "album"
    message_type = "album"
    answer: ClassVar[dict[str, Any]] = {"held": "$album"}
    example: ClassVar[dict[str, Any]] = {}

    def run(self, params: Any, ctx: Context) -> Run:
        yield None
        return [ctx.local(file).read_text() for file in (params.image, *params.masks)]

    def forward(self, units: list[Any]) -> list[Any]:
        return units


@pytest.fixture
async def album(tmp_path: Path) -> AsyncIterator[tuple[Road, Callable[..., Awaitable[Any]]]]:
    """A road, and how to send it a form and wait for the answer."""
    road = await Road(tmp_path, [Album]).start()
    app = web.Application(middlewares=[answer_errors])
    callers, kept = Authenticators(Tokens(b"k" * 32)), Uploads(road.ledger, road.folders, 1000)
    submit.SubmitDoor(road.queue, road.following, callers, kept, road.plans).attach(app)
    async with TestServer(app) as server, aiohttp.ClientSession() as http:

        async def send(*fields: tuple[str, str | bytes]) -> Any:
            async with http.post(server.make_url("/jobs?wait=60"), data=form(*fields)) as response:
                return await response.json()

        yield road, send
    await road.close()


@pytest.mark.parametrize(
    ("fields", "held"),
    [
        ([("type", "album"), ("image", b"a")], ["a"]),
        ([("image", b"a"), ("masks", b"b"), ("masks", b"c"), ("type", "album")], ["a", "b", "c"]),
        ([("masks", b"b"), ("image", b"a"), ("type", "album")], ["a", "b"]),
    ],
    ids=["one", "the type after them", "one of a list"],
)
async def test_a_form_gives_files_to_whatever_the_plan_calls_them(album: Any, fields: Any, held: list[str]) -> None:
    _, send = album
    assert (await send(*fields))["held"] == held


async def test_a_file_beside_a_batch_is_each_elements(album: Any) -> None:
    _, send = album
    answer = await send(("data", "[{}, {}]"), ("image", b"a"), ("type", "album"))
    assert [element["held"] for element in answer["data"]] == [["a"], ["a"]]


@pytest.mark.parametrize("field", ["file", "captions", "type"])
async def test_a_file_that_nothing_takes_is_refused_by_its_field(album: Any, field: str) -> None:
    road, send = album
    answer = await send(("image", b"a"), (field, b"x"), ("type", "album"))
    assert (answer["error_code"], answer["details"]) == ("INVALID_INPUT", {"field": field})
    assert list(road.folders.uploads.iterdir()) == []


PLANS = load_plans(SHIPPED, 1000)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("type=whisp file=a.wav vad=false", {"type": "whisp", "file": "a.wav", "vad": False}),
        (
            "type=whisp file=7 initial_prompt=2024 id=5",
            {"type": "whisp", "file": "7", "initial_prompt": "2024", "id": "5"},
        ),
        ("type=whisp file=a formats=srt formats=vtt", {"type": "whisp", "file": "a", "formats": ["srt", "vtt"]}),
        ("type=whisp file=a formats=srt", {"type": "whisp", "file": "a", "formats": ["srt"]}),
        ('type=whisp file=a formats=["srt"]', {"type": "whisp", "file": "a", "formats": ["srt"]}),
        ("type=whisp file=a vad= word_timestamps=", {"type": "whisp", "file": "a"}),
        ("type=whisp file=a vad=yes", {"type": "whisp", "file": "a", "vad": "yes"}),
        ("type=fish text=true seed=3 temperature=1", {"type": "fish", "text": "true", "seed": 3, "temperature": 1}),
        ("type=dlp urls=https://a urls=https://b", {"type": "dlp", "urls": ["https://a", "https://b"]}),
        ("type=dlp urls=https://a", {"type": "dlp", "urls": ["https://a"]}),
        (
            'type=video file=a whisper={"language":"en"}',
            {"type": "video", "file": "a", "whisper": {"language": "en"}},
        ),
        (
            "type=whisp v_conv=true file=a word_timestamps=true",
            {"type": "whisp", "v_conv": True, "file": "a", "word_timestamps": True},
        ),
        ('type=whisp data=[{"file":"a"}] vad=true', {"type": "whisp", "data": [{"file": "a"}], "vad": True}),
        ("type=nothing x=1 y=z", {"type": "nothing", "x": 1, "y": "z"}),
    ],
)
def test_a_forms_texts_become_what_the_plan_takes(fields: str, message: dict[str, Any]) -> None:
    pairs = [(name, value) for name, _, value in (field.partition("=") for field in fields.split())]
    assert message_of(pairs, PLANS) == message


def test_a_key_given_twice_is_a_list_only_where_one_may_stand() -> None:
    with pytest.raises(InvalidInput, match="'task'"):
        message_of([("type", "whisp"), ("task", "translate"), ("task", "transcribe")], PLANS)


# The list, and tickets.


async def test_jobs_are_listed_for_their_client_only(call: Call) -> None:
    token = (await call("POST", "/jobs?wait=60", json={"type": "contract_echo", "id": "a"})).body["token"]
    await call("POST", "/jobs?wait=60", token, json={"type": "contract_echo", "id": "b"})
    listed = (await call("GET", "/jobs", token)).body["jobs"]
    assert [job["id"] for job in listed] == ["b", "a"]
    keys = {"job_id", "id", "type", "state", "created_at", "finished_at", "fraction", "queue_position"}
    assert all(job.keys() == keys for job in listed)
    assert (await call("GET", "/jobs")).body["error_code"] == "UNAUTHORIZED"
    assert (await call("GET", "/jobs", "forged")).body["error_code"] == "UNAUTHORIZED"


async def test_a_ticket_opens_the_events_of_its_job_without_a_token(call: Call, contract_server: Server) -> None:
    sent = (await call("POST", "/jobs?wait=60", json={"type": "contract_echo", "partials": 2})).body
    job, token = sent["job_id"], sent["token"]
    given = (await call("POST", f"/jobs/{job}/ticket", token)).body
    assert given == {
        "ticket": given["ticket"],
        "expires_in": 60,
        "url": f"/jobs/{job}/events?ticket={given['ticket']}",
    }
    for _ in range(2):  # an EventSource comes back with it
        stream = await call("GET", given["url"])
        assert stream.body.count(b"event: ") == 3
    assert (await call("GET", given["url"], headers={"Last-Event-ID": "2"})).body.count(b"event: ") == 1
    assert (await call("GET", given["url"], headers={"Last-Event-ID": "3"})).status == 204
    other = (await call("POST", "/jobs?wait=60", token, json={"type": "contract_echo"})).body["job_id"]
    for path in (
        f"/jobs/{other}/events?ticket={given['ticket']}",
        f"/jobs/{job}/events?ticket=x",
        f"/jobs/{job}/events?ticket=",
        f"/jobs/{job}/events?ticket=%ff",
        f"/jobs/{job}?ticket={given['ticket']}",
    ):
        assert (await call("GET", path)).body["error_code"] == "JOB_NOT_FOUND"
    assert (await call("POST", f"/jobs/{job}/ticket")).body["error_code"] == "JOB_NOT_FOUND"
    assert not [line for line in contract_server.log if given["ticket"] in line]


async def test_a_stranger_gets_no_ticket(call: Call) -> None:
    job = (await call("POST", "/jobs", json={"type": "contract_echo"})).body["job_id"]
    stranger = (await call("POST", "/jobs", json={"type": "contract_echo"})).body["token"]
    assert (await call("POST", f"/jobs/{job}/ticket", stranger)).body["error_code"] == "JOB_NOT_FOUND"


ANN = Identity.known("ann")


def test_a_ticket_expires_unless_it_is_in_use() -> None:
    now = 0.0
    tickets = Tickets(60, clock=lambda: now)
    secret = tickets.issue("job", ANN)
    now = 59.0
    assert tickets.who("job", secret) == ANN
    assert tickets.issue("job", ANN) == secret
    now = 118.0
    assert tickets.who("job", secret) == ANN
    now = 120.0
    with pytest.raises(JobNotFound):
        tickets.who("job", secret)
    assert tickets.issue("job", ANN) != secret
