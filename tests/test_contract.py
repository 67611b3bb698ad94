"""The contract over Socket.IO, spoken by the real python-socketio client to a real server."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import aiohttp
import orjson
import pytest
from aiohttp import web

from gateway.wire import SocketServer
from tests.conftest import contract_like_server
from tests.peers import Gate, Peer, Raw

MIB = 1 << 20
WEBSOCKET = "EIO=4&transport=websocket"
NEVER = "job_" + "0" * 24
"""A job id that nobody has."""


@pytest.fixture
async def peer(url: str) -> AsyncIterator[Peer]:
    async with Peer(url) as peer:
        yield peer


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path) as gate:
        yield gate


def seqs(bodies: list[dict[str, Any]]) -> list[int]:
    return [body["seq"] for body in bodies]


async def resident_bytes(url: str) -> float:
    """The server's memory, without its workers."""
    async with aiohttp.ClientSession() as http, http.get(f"{url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("process_resident_memory_bytes "))


# One message, one answer.


async def test_message_is_accepted_then_answered_once_with_its_address(peer: Peer) -> None:
    ids: list[Any] = [{"mine": [1, None, "ü"]}, "text", 7, 0.5, None, False, []]
    for given in ids:
        accepted = await peer.ask({"type": "contract_echo", "partials": 2, "id": given})
        job_id = accepted["job_id"]
        assert accepted == {"status": "accepted", "job_id": job_id, "id": given}
        final = await peer.final(job_id)
        echo = {"bytes": None, "text": "rr"}
        address = {"job_id": job_id, "id": given, "seq": 3, "type": "contract_echo", "status": "success"}
        assert final == {**address, "echo": echo}
        await peer.settle()
        assert seqs(peer.of(job_id)) == [1, 2, 3]
        assert [body["index"] for body in peer.of(job_id, "partial")] == [0, 1]
        assert peer.of(job_id, "message") == [final]


async def test_transcript_has_the_documented_shape(peer: Peer) -> None:
    answer = await peer.answer({"type": "whisp", "file": Path("examples/jfk.flac").read_bytes(), "id": 1})
    spoken = answer["transcribe_audio"]
    assert spoken.keys() == {"text", "chunks", "language", "duration"}
    assert spoken["duration"] == pytest.approx(11, abs=0.1)
    assert [body["data"] for body in peer.of(answer["job_id"], "partial")] == spoken["chunks"]
    times = [time for chunk in spoken["chunks"] for time in (chunk["start"], chunk["end"])]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] <= spoken["duration"]


async def test_message_without_acknowledgement_is_answered_too(peer: Peer) -> None:
    await peer.tell({"type": "contract_echo", "id": "quiet"})
    assert (await peer.wait(lambda event, body: body.get("id") == "quiet"))["status"] == "success"


async def test_refusal_is_told_in_the_acknowledgement_only(peer: Peer) -> None:
    refused = await peer.ask({"type": "contract_echo", "file": "absent.mp3", "id": 5})
    message = refused.pop("message")
    assert refused == {
        "type": "contract_echo",
        "id": 5,
        "job_id": None,
        "status": "error",
        "error_code": "FILE_NOT_FOUND",
        "details": {"field": "file"},
    }
    assert "absent.mp3" in message
    await peer.settle()
    assert not [body for event, body in peer.heard if body.get("status") == "error"]


async def test_refusal_without_acknowledgement_is_a_message(peer: Peer) -> None:
    await peer.tell({"type": "nothing", "id": 6})
    refused = await peer.wait(lambda event, body: event == "message" and body["id"] == 6)
    assert (refused["error_code"], refused["job_id"]) == ("UNKNOWN_TYPE", None)
    await peer.settle()
    assert [body["id"] for event, body in peer.heard if body.get("status") == "error"] == [6]


async def test_unknown_keys_are_named_in_warnings(peer: Peer) -> None:
    answer = await peer.answer({"type": "contract_echo", "colour": "red", "partials": 0})
    assert len(answer["warnings"]) == 1
    assert "'colour'" in answer["warnings"][0]


async def test_batch_keeps_order_and_errors_in_their_places(peer: Peer, media: Path) -> None:
    (media / "four.bin").write_bytes(b"four")
    items = [{"file": "four.bin"}, {"file": "absent.bin"}, {"result_bytes": 1}, "no object", {"partials": "2"}]
    answer = await peer.answer({"type": "contract_echo", "data": items, "result_bytes": 3, "shade": 1})
    found = [item.get("error_code") or (item["echo"]["bytes"], item["echo"]["text"]) for item in answer["data"]]
    assert found == [(4, "rrr"), "FILE_NOT_FOUND", (None, "r"), "INVALID_INPUT", "INVALID_INPUT"]
    assert answer["status"] == "success"
    assert [warning for warning in answer["warnings"] if "shade" in warning]
    items_told = {
        body["item"]: body["data"] for body in peer.of(answer["job_id"], "partial") if body["stage"] == "data"
    }
    assert [items_told[index] for index in range(5)] == answer["data"]
    assert seqs(peer.of(answer["job_id"])) == list(range(1, answer["seq"] + 1))


@pytest.mark.parametrize(
    ("message", "items"),
    [
        ({"type": "whisp", "data": [{"file": f"absent{number}.mp3"} for number in range(258)]}, 258),
        ({"type": "whisp", "data": [{"file": f"absent{number}.mp3"} for number in range(1000)]}, 1000),
        ({"type": "dlp", "data_type": "info", "urls": [f"ftp://example.com/{number}" for number in range(300)]}, 300),
    ],
    ids=["258 files", "1000 files", "300 urls"],
)
async def test_many_errors_at_once_are_all_told_on_the_live_connection(
    url: str, peer: Peer, message: dict[str, Any], items: int
) -> None:
    answer = await peer.answer(message)
    assert (answer["status"], len(answer["data"])) == ("success", items)
    assert all("error_code" in item for item in answer["data"])
    assert seqs(peer.of(answer["job_id"])) == list(range(1, answer["seq"] + 1))
    headers = {"Authorization": f"Bearer {peer.token}"}
    path = f"{url}/jobs/{answer['job_id']}/events"
    async with aiohttp.ClientSession() as http, http.get(path, headers=headers) as response:
        assert (await response.text()).count("event: ") == answer["seq"]


async def test_answer_too_large_for_a_message_is_whole_over_http(peer: Peer, url: str) -> None:
    answer = await peer.answer({"type": "contract_echo", "result_bytes": 4 * MIB, "id": "large"})
    assert answer["truncated"] is True
    assert (answer["id"], answer["status"], "echo" in answer) == ("large", "success", False)
    headers = {"Authorization": f"Bearer {peer.token}"}
    async with aiohttp.ClientSession() as http, http.get(url + answer["result_url"], headers=headers) as response:
        whole = (await response.json())["answer"]
    assert len(whole["echo"]["text"]) == 4 * MIB
    assert whole["seq"] == answer["seq"]


# Clients.


async def test_every_connection_of_a_token_hears_everything(url: str, peer: Peer) -> None:
    async with Peer(url, peer.token) as second:
        assert (second.client, second.token) == (peer.client, peer.token)
        job_id = (await second.answer({"type": "contract_echo", "partials": 3}))["job_id"]
        assert await peer.final(job_id) == await second.final(job_id)
        assert peer.of(job_id) == second.of(job_id)


async def test_strangers_neither_hear_nor_stop_nor_read_a_job(url: str, peer: Peer, gate: Gate) -> None:
    job_id = (await peer.ask({**gate.message, "idempotency_key": "shared"}))["job_id"]
    async with Peer(url) as stranger, aiohttp.ClientSession() as http:
        theirs, never = [await stranger.ask({"type": "cancel", "job_id": each}) for each in (job_id, NEVER)]
        assert theirs == never
        assert theirs["error_code"] == "JOB_NOT_FOUND"
        assert (await stranger.ask({"type": "resume", "jobs": {job_id: 0}}))["unknown"] == [job_id]
        assert (await stranger.ask({"type": "jobs"}))["jobs"] == []
        for headers, method, path in itertools.product(
            ({"Authorization": f"Bearer {stranger.token}"}, {}), ("GET", "DELETE"), ("", "/events")
        ):
            if (method, path) != ("DELETE", "/events"):
                replies = []
                for each in (job_id, NEVER):
                    async with http.request(method, f"{url}/jobs/{each}{path}", headers=headers) as response:
                        replies.append((response.status, await response.json()))
                assert replies[0] == replies[1]
                assert replies[0][1]["error_code"] == "JOB_NOT_FOUND"
        own = (await stranger.ask({"type": "contract_echo", "idempotency_key": "shared"}))["job_id"]
        assert own != job_id
        await stranger.final(own)
        gate.open()
        assert (await peer.final(job_id))["status"] == "success"
        await stranger.settle()
        assert stranger.of(job_id) == []
        assert peer.of(own) == []


@pytest.mark.parametrize("token", ["forged", "", "a.b.c", 7, ["x"], {"x": 1}, "\N{SNOWMAN}"])
async def test_token_that_is_not_ours_is_refused(url: str, peer: Peer, token: Any) -> None:
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{url}/socket.io/?{WEBSOCKET}") as socket:
        await socket.receive()
        await socket.send_str("40" + orjson.dumps({"token": token}).decode())
        refusal = await socket.receive_str()
    assert refusal.startswith("44")
    assert "UNAUTHORIZED" in refusal
    await peer.settle()


async def test_same_key_is_one_job(peer: Peer) -> None:
    message = {"type": "contract_echo", "partials": 1, "idempotency_key": "key"}
    answers = await asyncio.gather(*(peer.ask({**message, "id": number}) for number in range(50)))
    assert [answer["id"] for answer in answers] == list(range(50))
    assert {answer["status"] for answer in answers} == {"accepted"}
    (job_id,) = {answer["job_id"] for answer in answers}
    await peer.final(job_id)
    assert (await peer.ask(message))["job_id"] == job_id
    jobs = (await peer.ask({"type": "jobs"}))["jobs"]
    assert [job["job_id"] for job in jobs] == [job_id]
    assert seqs(peer.of(job_id)) == [1, 2]


async def test_token_key_and_answers_survive_a_restart(tmp_path: Path) -> None:
    message = {"type": "contract_echo", "partials": 2, "idempotency_key": "key"}
    server = contract_like_server(tmp_path)
    with server:
        async with Peer(server.url) as before:
            answer = await before.answer(message)
        server.kill()
        server.start()
        async with Peer(server.url, before.token) as after:
            assert after.client == before.client
            assert (await after.ask(message))["job_id"] == answer["job_id"]
            await after.ask({"type": "resume", "jobs": {answer["job_id"]: 0}})
            assert await after.final(answer["job_id"]) == answer
            assert seqs(after.of(answer["job_id"])) == [1, 2, 3]


# Controls.


async def test_resume_replays_what_was_missed(url: str, peer: Peer) -> None:
    job_id = (await peer.answer({"type": "contract_echo", "partials": 5}))["job_id"]
    whole = peer.of(job_id)
    for last, reset in ((0, False), (3, False), (5, False), (6, False), (7, True), (2**63, True)):
        async with Peer(url, peer.token) as later:
            reply = await later.ask({"type": "resume", "id": "r", "jobs": {job_id: last, NEVER: 0}})
            assert reply == {
                "type": "resume",
                "id": "r",
                "status": "success",
                "resumed": [job_id],
                "unknown": [NEVER],
                **({"reset": True} if reset else {}),
            }
            if last != 6:
                await later.final(job_id)
            await later.settle()
            assert later.of(job_id) == (whole if reset else whole[last:])
            assert [body for event, body in later.heard if body.get("type") == "resume"] == [reply]


async def test_resume_of_a_running_job_goes_on_live(url: str, peer: Peer, gate: Gate) -> None:
    job_id = (await peer.ask(gate.message))["job_id"]
    await peer.wait(lambda event, body: event == "partial")
    async with Peer(url, peer.token) as later:
        await later.ask({"type": "resume", "jobs": {job_id: 0}})
        await later.wait(lambda event, body: event == "partial")
        gate.open()
        await later.final(job_id)
        assert seqs(later.of(job_id)) == [1, 2]


async def test_resume_of_a_thousand_jobs_is_one_look_into_the_ledger(peer: Peer) -> None:
    """The ledger serves one read at a time in each of two threads, so a hundred of these waited for 100 000 of them."""
    mine = [(await peer.answer({"type": "contract_echo"}))["job_id"] for _ in range(3)]
    strange = {f"job_{number:024x}": 1 for number in range(997)}
    replies = await asyncio.gather(
        *(peer.ask({"type": "resume", "jobs": {**strange, **dict.fromkeys(mine, 2)}}) for _ in range(100))
    )
    for reply in replies:
        assert (reply["resumed"], reply["unknown"]) == (mine, list(strange))
    assert (await peer.ask({"type": "resume", "jobs": {"x" * 101: 1}}))["error_code"] == "INVALID_INPUT"


@pytest.mark.parametrize("jobs", [None, [], "x", {"job": "1"}, {"job": -1}, {"job": True}, {"job": 1.5}, {"job": None}])
async def test_malformed_resume_is_refused(peer: Peer, jobs: Any) -> None:
    assert (await peer.ask({"type": "resume", "jobs": jobs}))["error_code"] == "INVALID_INPUT"


async def test_jobs_are_listed_newest_first_with_their_states(peer: Peer, gate: Gate) -> None:
    done = (await peer.answer({"type": "contract_echo", "id": "first"}))["job_id"]
    failed = (await peer.answer({"type": "whisp", "file": b"no sound"}))["job_id"]
    running = (await peer.ask(gate.message))["job_id"]
    await peer.wait(lambda event, body: event == "partial" and body["job_id"] == running)
    waiting = (await peer.ask(gate.message))["job_id"]
    jobs = (await peer.ask({"type": "jobs"}))["jobs"]
    states = [(job["job_id"], job["state"]) for job in jobs]
    assert states == [(waiting, "pending"), (running, "processing"), (failed, "failed"), (done, "completed")]
    keys = {"job_id", "id", "type", "state", "created_at", "finished_at", "fraction", "queue_position"}
    assert all(job.keys() == keys for job in jobs)
    assert (jobs[3]["id"], jobs[3]["type"], jobs[3]["fraction"]) == ("first", "contract_echo", 1.0)
    assert jobs[3]["created_at"] <= jobs[3]["finished_at"]
    assert (jobs[0]["finished_at"], jobs[0]["queue_position"]) == (None, 1)
    assert jobs[1]["queue_position"] is None


async def test_cancelled_jobs_end_as_cancelled(peer: Peer, gate: Gate) -> None:
    running, waiting = [(await peer.ask(gate.message))["job_id"] for _ in range(2)]
    await peer.wait(lambda event, body: event == "partial")
    for job_id in (running, waiting):
        reply = await peer.ask({"type": "cancel", "job_id": job_id, "id": "c"})
        assert reply == {"type": "cancel", "id": "c", "status": "success", "cancelled": True}
        final = await peer.final(job_id)
        assert (final["status"], final["type"]) == ("cancelled", "contract_hold")
        assert (await peer.ask({"type": "cancel", "job_id": job_id}))["cancelled"] is False
    gate.open()
    assert (await peer.answer({"type": "contract_echo"}))["status"] == "success"
    assert [len(peer.of(job_id, "message")) for job_id in (running, waiting)] == [1, 1]


@pytest.mark.parametrize("job_id", [None, 5, [], {}, "", "job_'; DROP TABLE jobs", "\0", "x" * 100_000])
async def test_cancel_of_nothing_is_not_found(peer: Peer, job_id: Any) -> None:
    assert (await peer.ask({"type": "cancel", "job_id": job_id}))["error_code"] == "JOB_NOT_FOUND"


# Sizes and floods.


async def test_message_of_5_mb_is_refused_and_the_connection_lives(peer: Peer) -> None:
    for message in (
        {"type": "whisp", "file": b"x" * 5_000_000, "id": 1},
        {"type": "whisp", "initial_prompt": "x" * 5_000_000, "id": 1},
        {"type": "whisp", "data": [{"n": number} for number in range(300_000)], "id": 1},
    ):
        refused = await peer.ask(message)
        assert (refused["error_code"], refused["id"]) == ("TOO_LARGE", 1)
    assert (await peer.answer({"type": "contract_echo"}))["status"] == "success"


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_message_beyond_the_transport_is_answered_and_closes_its_connection_only(
    url: str, peer: Peer, transport: str
) -> None:
    async with Peer(url, transport=transport) as large:
        gone = asyncio.Event()
        large._sio.on("disconnect", lambda *_: gone.set())
        await large.tell({"type": "contract_echo", "text": "x" * (17 * MIB)})
        if transport == "websocket":  # over polling python-socketio gives up at the 413
            refused = await large.wait(lambda event, body: event == "message" and body["status"] == "error")
            assert (refused["type"], refused["id"], refused["error_code"]) == (None, None, "TOO_LARGE")
        async with asyncio.timeout(30):
            await gone.wait()
    assert (await peer.answer({"type": "contract_echo"}))["status"] == "success"


@pytest.mark.parametrize("megabytes", [17, 40, 200])
async def test_frames_beyond_the_transport_are_answered_while_they_are_still_sent(url: str, megabytes: int) -> None:
    """A browser may send a message in many frames, of which the first are within every limit."""
    async with Raw(url) as raw:
        writer = raw.socket._writer
        for number in range(megabytes):
            opcode = aiohttp.WSMsgType.CONTINUATION if number else aiohttp.WSMsgType.TEXT
            frame = b"42" + b"x" * MIB if not number else b"x" * MIB
            mask, head = b"\0\0\0\0", (opcode << 56 | 0xFF << 48).to_bytes(8, "big")[:2]
            with contextlib.suppress(ConnectionError):
                writer.transport.write(head + len(frame).to_bytes(8, "big") + mask + frame)
                await writer.protocol._drain_helper()
        answer = orjson.loads((await raw.hear('42["message"'))[2:])[1]
        assert answer["error_code"] == "TOO_LARGE"
        close = await raw.socket.receive()
        assert (close.type, close.data) == (aiohttp.WSMsgType.CLOSE, aiohttp.WSCloseCode.MESSAGE_TOO_BIG)


async def test_polling_body_beyond_the_transport_is_answered_and_its_session_lives(url: str) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b"x" * MIB

    async with aiohttp.ClientSession() as http:
        polling = await Polling.open(http, url)
        for body in (b"x" * (17 * MIB), chunks()):
            async with http.post(url + polling.path, data=body) as response:
                assert (response.status, (await response.json())["error_code"]) == (413, "TOO_LARGE")
            packets = await polling.get()
            while not (refused := [packet for packet in packets if packet.startswith('42["message"')]):
                packets = await polling.get()
            assert orjson.loads(refused[0][2:])[1]["error_code"] == "TOO_LARGE"
        await polling.post('421["message",{"type":"jobs"}]')
        packets = await polling.get()
        while not [packet for packet in packets if packet.startswith("431")]:
            packets += await polling.get()


NESTED = "[" + "[]," * 5_000_000 + "[]]"


@pytest.mark.parametrize(
    ("packet", "given"),
    [
        (f'["message",{NESTED}]', None),
        (f'["message",{{"id":"a-1","type":"whisp","data":{NESTED}}}]', "a-1"),
        (f'["message",{{"data":{NESTED},"id":-7}}]', -7),
        (f'["message",{{"data":[{{"id":4}},{NESTED}]}}]', None),
        ('["message",{"data":{' + ",".join(f'"{number}":0' for number in range(1_000_000)) + "}}]", None),
        ('["message",["' + '","' * 3_000_000 + '"]]', None),
    ],
    ids=["lists", "id first", "id last", "an item's id", "keys", "texts"],
)
async def test_message_of_too_many_values_is_refused_unread(url: str, packet: str, given: Any) -> None:
    async with Raw(url) as raw:
        before = await resident_bytes(url)
        await raw.say(f"421{packet}")
        answer = await raw.acknowledged(1)
        assert (answer["error_code"], answer["id"]) == ("TOO_LARGE", given)
        assert await resident_bytes(url) - before < 100 * MIB
        await raw.say(f"42{packet}")
        assert '"TOO_LARGE"' in await raw.hear('42["message"')
        await raw.say(f"4{NESTED}")  # which engineio itself would read as JSON
        assert await raw.is_alive()


async def test_long_texts_of_commas_and_large_batches_are_read(peer: Peer) -> None:
    text = ",[{" * 80_000 + '"\\'
    assert (await peer.ask({"type": "contract_echo", "text": text}))["status"] == "accepted"
    options = {"partials": 0, "partial_bytes": 1, "result_bytes": 1, "note": ["a", "b", {"c": 1, "d": [1, 2, 3]}]}
    accepted = await peer.ask({"type": "contract_echo", "data": [options] * 1000, "more": [0] * 80_000})
    assert accepted["status"] == "accepted"
    await peer.final(accepted["job_id"])


async def test_flood_is_answered_message_by_message_and_others_are_served(url: str, peer: Peer, gate: Gate) -> None:
    """5 000 messages are in flight until somebody else was served: each that is answered is followed by another."""
    said: Counter[str] = Counter()
    message = orjson.dumps(["message", gate.message]).decode()
    async with Raw(url) as one:  # whose token gives it an allowance of its own
        token = one.session["token"]
    async with Raw(url, token) as flooder:
        await flooder.say(*(f"42{number}{message}" for number in range(5_000)))
        serving = asyncio.create_task(peer.answer({"type": "contract_echo"}))
        sent = 5_000
        while said.total() < sent:
            packet = await flooder.hear("4")
            if packet.startswith("43"):
                answer = orjson.loads(packet[packet.index("[") :])[0]
                said[answer.get("error_code", answer["status"])] += 1
                assert answer["status"] == "accepted" or answer["details"]["retry_after"] > 0
                if not serving.done():
                    await flooder.say(f"42{sent}{message}")
                    sent += 1
        gate.open()
    assert (await serving)["status"] == "success"
    assert said == {"accepted": 100, "QUEUE_FULL": sent - 100}


@pytest.mark.parametrize("jobs", [1, 40])
async def test_reader_that_stops_costs_bounded_memory_and_misses_nothing(url: str, peer: Peer, jobs: int) -> None:
    """Ten connections that never read, and 36 MB in one job or 150 MB in forty for each of them."""
    readers = [Raw(url, peer.token) for _ in range(10)]
    small: dict[str, Any] = {
        "type": "contract_echo",
        "partials": 20,
        "partial_bytes": 60_000,
        "result_bytes": 2_500_000,
    }
    large: dict[str, Any] = {"type": "contract_echo", "partials": 600, "partial_bytes": 60_000}
    asked = [large] if jobs == 1 else [small] * jobs
    async with contextlib.AsyncExitStack() as stack:
        for reader in readers:
            await stack.enter_async_context(reader)
        before = await resident_bytes(url)
        answers = await asyncio.gather(*(peer.answer(message) for message in asked))
        await peer.settle()
        grown = await resident_bytes(url) - before
        assert grown < 100 * MIB
    for answer, message in zip(answers, asked, strict=True):
        assert seqs(peer.of(answer["job_id"])) == list(range(1, message["partials"] + 2))
    last = answers[-1]["job_id"]
    async with Peer(url, peer.token) as later:
        await later.ask({"type": "resume", "jobs": {last: 0}})
        assert await later.final(last) == answers[-1]
        assert later.of(last) == peer.of(last)


# The transports.


async def test_long_polling_serves_the_same(url: str) -> None:
    async with Peer(url, transport="polling") as polling:
        answer = await polling.answer(
            {"type": "contract_echo", "file": b"12345", "partials": 40, "partial_bytes": 9_999}
        )
        assert answer["echo"]["bytes"] == 5
        assert seqs(polling.of(answer["job_id"])) == list(range(1, 42))
        answers = await asyncio.gather(*(polling.ask({"type": "contract_echo", "id": n}) for n in range(60)))
        assert [answer["id"] for answer in answers] == list(range(60))


async def test_polling_payload_of_many_packets_is_read_whole(url: str) -> None:
    """Browsers send all that waits in one request; python-engineio drops one of more than 16 packets."""
    async with aiohttp.ClientSession() as http:
        polling = await Polling.open(http, url)
        packets = [f'42{number}["message",{{"type":"contract_echo"}}]' for number in range(100)]
        await polling.post("\x1e".join(packets))
        answered: set[str] = set()
        while len(answered) < 100:
            answered |= {packet.partition("[")[0] for packet in await polling.get() if packet.startswith("43")}
        assert answered == {f"43{number}" for number in range(100)}


async def test_polling_body_in_two_segments_arrives(url: str) -> None:
    async with aiohttp.ClientSession() as http:
        polling = await Polling.open(http, url)
        body = f'421["message",{{"type":"contract_echo","more":"{"x" * 200_000}"}}]'.encode()
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = (
            f"POST {polling.path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + body[:100_000])
        await writer.drain()
        async with http.get(f"{url}/health"):  # by now the server has read the first half
            pass
        writer.write(body[100_000:])
        assert b" 200 " in await reader.readline()
        writer.close()
        packets = await polling.get()
        while not [packet for packet in packets if packet.startswith("431")]:
            packets += await polling.get()
        assert (
            orjson.loads(next(packet for packet in packets if packet.startswith("431"))[3:])[0]["status"] == "accepted"
        )


async def test_websocket_is_not_compressed(url: str) -> None:
    async with Raw(url) as raw:
        assert raw.socket.compress == 0
        assert await raw.is_alive()


async def test_connection_that_never_says_connect_is_closed() -> None:
    async def nothing(*_: Any) -> None:
        return None

    server = SocketServer(nothing, nothing, connect_seconds=0.01)
    async with served(server) as url, aiohttp.ClientSession() as http:
        async with http.ws_connect(f"{url}/socket.io/?{WEBSOCKET}") as silent:
            await silent.receive()
            assert (await silent.receive(timeout=30)).data == "1"
            assert (await silent.receive(timeout=30)).type is aiohttp.WSMsgType.CLOSE
        async with http.ws_connect(f"{url}/socket.io/?{WEBSOCKET}") as leaving:
            await leaving.receive()
            await leaving.send_str("40")
            assert (await leaving.receive_str()).startswith("40")
            await leaving.send_str("41")
            assert (await leaving.receive(timeout=30)).data == "1"


async def test_connection_that_does_not_read_is_cut_off() -> None:
    """One that answers no ping either: its own task in the server must end, whatever still waits to be sent."""
    over = asyncio.Event()
    connected: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def on_event(sid: str, event: str | None, args: list[Any], acked: bool) -> Any:
        return None

    async def on_connected(sid: str) -> None:
        connected.set_result(sid)

    @web.middleware
    async def watch(request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            return cast(web.StreamResponse, await handler(request))
        finally:
            over.set()

    server = SocketServer(on_event, on_connected, close_seconds=0.05)
    server.on("connect", lambda sid, environ: None)
    server.eio.ping_interval = server.eio.ping_timeout = 0.05
    async with served(server, watch) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13"
        upgrade = f"Host: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}"
        writer.write(f"GET /socket.io/?{WEBSOCKET} HTTP/1.1\r\n{upgrade}\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x81\x82\0\0\0\x0040")  # one frame of text: CONNECT
        sid = await connected
        for _ in range(40):
            await server.emit("partial", "x" * MIB, to=sid)
        async with asyncio.timeout(30):
            await over.wait()
        assert server.outbound(sid) is None
        writer.close()


class Polling:
    """A long-polling session by hand."""

    def __init__(self, http: aiohttp.ClientSession, url: str, sid: str) -> None:
        self.path = f"/socket.io/?EIO=4&transport=polling&sid={sid}"
        self._http = http
        self._url = url + self.path

    @classmethod
    async def open(cls, http: aiohttp.ClientSession, url: str) -> Polling:
        async with http.get(f"{url}/socket.io/?EIO=4&transport=polling") as response:
            polling = cls(http, url, orjson.loads((await response.text())[1:])["sid"])
        await polling.post("40")
        return polling

    async def post(self, body: str) -> None:
        async with self._http.post(self._url, data=body) as response:
            assert response.status == 200

    async def get(self) -> list[str]:
        async with self._http.get(self._url) as response:
            assert response.status == 200
            return (await response.text()).split("\x1e")


@contextlib.asynccontextmanager
async def served(server: SocketServer, *middlewares: Any) -> AsyncIterator[str]:
    app = web.Application(middlewares=middlewares)
    server.attach(app)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await server.shutdown()
    await runner.cleanup()
