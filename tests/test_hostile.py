"""What a stranger may send: every bad input gets its typed error, and the server goes on (promise P13)."""

from __future__ import annotations

import asyncio
import io
import itertools
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from tests.bad_paths import JFK, bad_paths
from tests.peers import Peer, Raw
from tests.servers import Server
from workers.whisper.params import WhisperParams


@pytest.fixture
async def peer(url: str) -> AsyncIterator[Peer]:
    async with Peer(url) as peer:
        yield peer


async def outcome(peer: Peer, message: Any) -> dict[str, Any]:
    """The refusal of a message, or the final answer to it."""
    answer: dict[str, Any] = await peer.ask(message)
    return answer if answer["status"] != "accepted" else await peer.final(answer["job_id"])


def assert_discreet(server: Server, answer: Any, sent: str = "") -> None:
    """No traceback, and no path of the server but what the client sent."""
    text = orjson.dumps(answer).decode().replace(orjson.dumps(sent).decode()[1:-1], "")
    for told in ("Traceback", 'File "', ".py", str(server.folder), str(Path.cwd()), "/data_dir", "sqlite"):
        assert told not in text


# Paths.


@pytest.fixture(scope="module")
def corpus(contract_server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    return bad_paths(contract_server.folder, tmp_path_factory.mktemp("outside"))


async def test_every_bad_path_gets_its_error(corpus: Any, contract_server: Server, peer: Peer) -> None:
    answers = await asyncio.gather(*(outcome(peer, {"type": "whisp", "file": path}) for path, _ in corpus.values()))
    found = {name: answer.get("error_code", answer) for name, answer in zip(corpus, answers, strict=True)}
    assert found == {name: code for name, (_, code) in corpus.items()}
    for (path, _), answer in zip(corpus.values(), answers, strict=True):
        assert answer["message"].endswith(".")
        assert answer["details"]["field"] == "file"
        assert_discreet(contract_server, answer, path)
    forbidden = {answer["message"] for answer in answers if answer["error_code"] == "FILE_FORBIDDEN"}
    assert len(forbidden) == 1
    assert "MEDIA_ROOTS" in forbidden.pop()


async def test_a_batch_gets_the_same_errors(corpus: Any, peer: Peer) -> None:
    answer = await outcome(peer, {"type": "whisp", "data": [{"file": path} for path, _ in corpus.values()]})
    assert answer["status"] == "success"
    assert [item.get("error_code") for item in answer["data"]] == [code for _, code in corpus.values()]


async def test_what_the_server_made_is_no_file_to_others(tmp_path: Path) -> None:
    """FS_PATH and PATH_VIDEO lie under the media root here, as they do by default."""
    names = ("fs_audio", "test_video")
    settings = {name: str(tmp_path / folder) for name, folder in zip(("FS_PATH", "PATH_VIDEO"), names, strict=True)}
    for folder in names:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.wav").write_bytes(JFK)
    with Server(tmp_path, MEDIA_ROOTS=str(tmp_path), **settings) as server:
        async with Peer(server.url) as peer:
            uploads = tmp_path / "data_dir" / "uploads"
            async with (
                aiohttp.ClientSession() as http,
                http.post(f"{server.url}/files", data={"file": io.BytesIO(JFK)}) as response,
            ):
                file_id = (await response.json())["file_id"]
            for folder, name in itertools.product(names, ("a.wav", "absent.wav")):
                answer = await outcome(peer, {"type": "whisp", "file": f"{folder}/{name}"})
                assert answer["error_code"] == "FILE_NOT_FOUND"
                assert answer["message"] == f"There is no file '{folder}/{name}' on the server."
            for path in (uploads / file_id, uploads / "absent", Path("data_dir/secret.key"), Path("voices_dir/a")):
                answer = await outcome(peer, {"type": "whisp", "file": str(path)})
                assert answer["error_code"] == "FILE_FORBIDDEN"


async def test_clients_files_stay_as_they_were(media: Path, peer: Peer) -> None:
    talk = media / "talk.flac"
    talk.write_bytes(JFK)
    before = talk.stat()
    assert (await outcome(peer, {"type": "whisp", "file": str(talk)}))["status"] == "success"
    after = talk.stat()
    assert (after.st_mtime_ns, after.st_ctime_ns, after.st_size) == (
        before.st_mtime_ns,
        before.st_ctime_ns,
        before.st_size,
    )


# Messages.

DEEP_DICT: Any = None
for _ in range(100):
    DEEP_DICT = {"x": DEEP_DICT}

TYPES: list[Any] = ["", "x", "whisp.data", "WHISP", None, 1, [], {}, b"whisp", "x" * 999]
FILES: list[Any] = [None, 1, True, [], ["a"], {}, b""]
DATA: list[Any] = [None, [], {}, "x", 1]
KEYS: list[Any] = [1, "", [], "x" * 257, b"x"]

MESSAGES: list[tuple[Any, str]] = [
    (None, "INVALID_INPUT"),
    ([], "INVALID_INPUT"),
    ([{"type": "whisp"}], "INVALID_INPUT"),
    (7, "INVALID_INPUT"),
    (True, "INVALID_INPUT"),
    ("whisp", "INVALID_INPUT"),
    (b"whisp", "INVALID_INPUT"),
    ({}, "INVALID_INPUT"),
    ({"type": "whisp"}, "INVALID_INPUT"),
    *(({"type": kind}, "UNKNOWN_TYPE") for kind in TYPES),
    *(({"type": "whisp", "file": file}, "INVALID_INPUT") for file in FILES),
    ({"type": "whisp", "file": {"$file": {"kind": "path", "value": "/etc/passwd", "name": ""}}}, "INVALID_INPUT"),
    *(({"type": "whisp", "data": data}, "INVALID_INPUT") for data in DATA),
    ({"type": "whisp", "data": [{}] * 1001}, "TOO_LARGE"),
    *(({"type": "contract_echo", "idempotency_key": key}, "INVALID_INPUT") for key in KEYS),
    ({"type": "contract_echo", "id": b"binary"}, "INVALID_INPUT"),
    ({"type": "contract_echo", "id": {"x": [b"binary"]}}, "INVALID_INPUT"),
    ({"type": "contract_echo", "id": "x" * 5_000}, "INVALID_INPUT"),
    ({"type": "contract_echo", "id": DEEP_DICT}, "INVALID_INPUT"),
    ({"type": DEEP_DICT}, "INVALID_INPUT"),
    ({"type": "contract_echo", "x": DEEP_DICT}, "INVALID_INPUT"),
]


async def test_every_malformed_message_is_answered(contract_server: Server, peer: Peer) -> None:
    for message, code in MESSAGES:
        answer = await outcome(peer, message)
        assert answer.get("error_code") == code, (str(message)[:200], answer)
        assert_discreet(contract_server, answer, "")
    for args, event in (((), "message"), (({"type": "contract_echo"}, {}), "message"), (({},), "other")):
        assert (await peer.ask(*args, event=event))["error_code"] == "INVALID_INPUT"
    assert (await outcome(peer, {"type": "contract_echo"}))["status"] == "success"


async def test_malformed_messages_over_http(contract_server: Server, url: str) -> None:
    bodies = [(orjson.dumps(body), code) for body, code in MESSAGES if is_json(body)]
    bodies += [(body, "INVALID_INPUT") for body in (b"", b"{", b"\xff", b'{"type": NaN}', b'"\\ud800"', b"[" * 2_000)]
    bodies += [(b'{"type": "' + b"x" * 5_000_000 + b'"}', "TOO_LARGE"), (b"[" + b"[]," * 200_000 + b"[]]", "TOO_LARGE")]
    async with aiohttp.ClientSession() as http:
        for body, code in bodies:
            async with http.post(f"{url}/jobs", data=body) as response:
                answer = await response.json()
            assert answer["error_code"] == code, body[:200]
            assert response.status == {"UNKNOWN_TYPE": 400, "INVALID_INPUT": 400, "TOO_LARGE": 413}[code]
            assert_discreet(contract_server, answer)


def is_json(value: Any) -> bool:
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True


def wrong_values(schema: dict[str, Any]) -> list[Any]:
    """Values of every JSON type that a parameter's schema does not allow, and some that break its limits."""
    kinds = {option.get("type") for option in schema.get("anyOf", [schema])}
    samples: dict[str, list[Any]] = {
        "null": [None],
        "boolean": [True],
        "integer": [1, 2**64, -1],
        "number": [0.5],
        "string": ["", "1", "true"],
        "array": [[], [1]],
        "object": [{}, {"x": 1}],
    }
    wrong = [value for kind, values in samples.items() if kind not in kinds for value in values]
    for option in schema.get("anyOf", [schema]):
        if "enum" in option:
            wrong += ["", "no such", option["enum"][0].upper()]
        if "maxLength" in option:
            wrong.append("x" * (option["maxLength"] + 1))
    return wrong


OPTIONS = WhisperParams.model_json_schema()["properties"]


async def test_wrong_types_of_every_option_are_refused(peer: Peer) -> None:
    wrong = [(name, value) for name, schema in OPTIONS.items() if name != "file" for value in wrong_values(schema)]
    assert {name for name, _ in wrong} == OPTIONS.keys() - {"file"}
    assert len(wrong) > 10 * len(OPTIONS) - 20
    for name, value in wrong:
        answer = await outcome(peer, {"type": "whisp", "file": b"x", name: value})
        assert answer.get("error_code") == "INVALID_INPUT", (name, value, answer)
        assert answer["details"]["field"] == name
        assert f"'{name}'" in answer["message"]


async def test_an_id_is_never_taken_for_a_reference(contract_server: Server, peer: Peer) -> None:
    """Inside the server results stand as `{"$blob": name}`; a client's own words must not be read as such."""
    secret = contract_server.folder / "secret.json"
    secret.write_text('"do not tell"')
    ids: list[Any] = [
        {"$blob": "../../secret.json", "bytes": 1},
        {"$blob": str(secret), "bytes": 1},
        {"$blob": "0" * 32 + ".json", "bytes": 1},
        {"$blob": None},
        {"$file": {"kind": "made", "value": str(secret), "name": ""}},
        ["$request", "$item.file", {"$error": {}}],
    ]
    for own in ids:
        answer = await outcome(peer, {"type": "contract_echo", "result_bytes": 100_000, "id": own})
        assert (answer["status"], answer["id"], len(answer["echo"]["text"])) == ("success", own, 100_000)


# Packets.

BROKEN_EVENTS = [
    '["message",{"type":}]',
    '["message",{"type":"contract_echo","id":"\\ud800"}]',
    '["message",{"type":"contract_echo","id":NaN}]',
    '["message"',
    "",
    "{}",
    "[]",
    "[null]",
    "[7,{}]",
    "null",
    "[" * 3_000,
    "[" * 900 + "]" * 900,
    '["message",' + "[" * 500 + "]" * 500 + "]",
    '["message",{"id":' + "[" * 300 + "]" * 300 + "}]",
]


async def test_every_broken_event_is_acknowledged_as_invalid(url: str) -> None:
    async with Raw(url) as raw:
        for number, event in enumerate(BROKEN_EVENTS, 1):
            await raw.say(f"42{number}{event}")
            answer = await raw.acknowledged(number)
            assert answer["error_code"] == "INVALID_INPUT", event[:80]
            await raw.say(f"42{event}")
            assert '"INVALID_INPUT"' in await raw.hear('42["message"')
        assert await raw.is_alive()


BROKEN_PACKETS: list[list[str | bytes]] = [
    ["4"],
    ["49"],
    ["44"],
    ["4{}"],
    ["4null"],
    ["4-1"],
    ["4hello"],
    ["2hello"],
    ["3"],
    ["0"],
    ["5"],
    ["6"],
    ["40"],
    ['40{"token":"other"}'],
    ["40/other,"],
    ['42/other,["message",{}]'],
    ['43["late"]'],
    ["43999[]"],
    ["430"],
    ["42" + "1" * 200 + '["message"]'],
    ['4599999999999-["message"]'],
    [b"binary out of nowhere"],
    ['451-["message",{"_placeholder":true,"num":7}]', b"x"],
    ['451-["message",{"_placeholder":true,"num":"x"}]', b"x"],
    ['451-["message",{"_placeholder":true,"num":{}}]', b"x"],
    ['451-["message",', b"x"],
    ['452-["message",{"_placeholder":true,"num":0}]', b"x", "42[]"],
]


@pytest.mark.parametrize("packets", BROKEN_PACKETS, ids=str)
async def test_connection_outlives_a_broken_packet(url: str, packets: list[str | bytes]) -> None:
    async with Raw(url) as raw:
        await raw.say(*packets)
        assert await raw.is_alive()


@pytest.mark.parametrize("packet", ["", "x", "b!!!", "\N{SNOWMAN}"])
async def test_what_is_no_packet_ends_its_connection_only(url: str, peer: Peer, packet: str) -> None:
    async with Raw(url) as raw:
        await raw.say(packet)
        assert not await raw.is_alive()
    await peer.settle()


async def test_attachments_without_end_close_their_connection(url: str, peer: Peer) -> None:
    async with Raw(url) as raw:
        await raw.say('45999999-["message",{"_placeholder":true,"num":0}]')
        with suppress(ConnectionError):
            for _ in range(40):
                await raw.say(b"x" * 1_000_000)
        assert '"TOO_LARGE"' in await raw.hear('42["message"')
        with pytest.raises(ConnectionError):
            await raw.hear("never")
    assert (await outcome(peer, {"type": "contract_echo"}))["status"] == "success"
