"""Sound on its way to a client: the `audio` events joined are the sound of the answer, whatever happened on the way."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import numpy as np
import orjson
import pytest

from tests.peers import Peer, Raw
from tests.servers import Server

TONE: dict[str, Any] = {"type": "contract_tone", "pieces": 7}
WHOLE = np.arange(7 * 2048, dtype="<i2").tobytes()


def joined(events: list[dict[str, Any]]) -> bytes:
    assert [event["index"] for event in events] == list(range(len(events)))
    ends = [0, *(event["end"] for event in events)]
    assert [event["start"] for event in events] == ends[:-1]
    return b"".join(event["audio"] for event in events)


async def test_joined_audio_events_are_the_sound_of_the_answer(url: str) -> None:
    async with Peer(url) as peer:
        answer = await peer.answer({**TONE, "id": "t"})
        told = peer.of(answer["job_id"])
        assert [body["seq"] for body in told] == list(range(1, 9))
        assert joined(told[:-1]) == answer["audio_data"] == WHOLE
        assert all((body["id"], body["sample_rate"]) == ("t", 44100) for body in told[:-1])


@pytest.mark.parametrize("last", [0, 3, 6])
async def test_a_stream_resumed_after_a_cut_has_no_hole(url: str, last: int) -> None:
    async with Peer(url) as peer:
        answer = await peer.answer(TONE)
        token, before = peer.token, peer.of(answer["job_id"], "audio")[:last]
    async with Peer(url, token) as later:
        await later.ask({"type": "resume", "jobs": {answer["job_id"]: last}})
        final = await later.final(answer["job_id"])
        assert joined(before + later.of(answer["job_id"], "audio")) == final["audio_data"] == WHOLE


async def test_a_stream_goes_on_where_its_dead_worker_stopped(url: str) -> None:
    async with Peer(url) as peer:
        answer = await peer.answer({**TONE, "dies_after": 4})
        assert answer["resumed"] == 4
        assert joined(peer.of(answer["job_id"], "audio")) == WHOLE


async def test_sound_is_base64_over_http(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{url}/jobs", json=TONE) as response:
            accepted = await response.json()
        headers = {"Authorization": f"Bearer {accepted['token']}"}
        async with session.get(f"{url}/jobs/{accepted['job_id']}/events", headers=headers) as response:
            events = [line[6:] for line in (await response.text()).splitlines() if line.startswith("data: ")]
        *pieces, final = map(orjson.loads, events)
        assert b"".join(b64decode(piece["audio"]) for piece in pieces) == b64decode(final["audio_data"]) == WHOLE
        async with session.get(f"{url}/jobs/{accepted['job_id']}", headers=headers) as response:
            assert b64decode((await response.json())["answer"]["audio_data"]) == WHOLE


async def test_sound_too_large_for_a_message_is_whole_over_http(url: str) -> None:
    async with Peer(url) as peer, aiohttp.ClientSession() as session:
        answer = await peer.answer({"type": "contract_tone", "pieces": 100, "piece_samples": 22050})
        assert (answer["truncated"], "audio_data" in answer) == (True, False)
        headers = {"Authorization": f"Bearer {peer.token}"}
        async with session.get(f"{url}{answer['result_url']}", headers=headers) as response:
            whole = b64decode((await response.json())["answer"]["audio_data"])
        assert len(whole) == 100 * 22050 * 2
        assert joined(peer.of(answer["job_id"], "audio")) == whole


async def test_more_sound_than_a_connection_may_have_unsent_arrives_whole(url: str) -> None:
    """The rest waits in the ledger, and other clients do not."""
    async with Peer(url) as slow, Peer(url) as quick:
        loud = {"type": "contract_tone", "pieces": 250, "piece_samples": 22050}
        answers = await asyncio.gather(slow.answer(loud), quick.answer(TONE))
        assert len(joined(slow.of(answers[0]["job_id"], "audio"))) == 250 * 22050 * 2


async def test_a_reader_who_stops_delays_nobody_and_misses_nothing(url: str) -> None:
    """It has far more unsent than sockets hold; its model plays on, and the ledger keeps what it did not read."""
    loud = {"type": "contract_tone", "pieces": 250, "piece_samples": 22050, "idempotency_key": "loud"}
    async with Raw(url, read=False) as stopped:
        await stopped.say(f'42["message",{orjson.dumps(loud).decode()}]')
        async with Peer(url) as quick:
            for answer in await asyncio.gather(*(quick.answer(TONE) for _ in range(10))):
                assert joined(quick.of(answer["job_id"], "audio")) == WHOLE
        async with Peer(url, stopped.session["token"]) as later:
            job_id = (await later.ask(loud))["job_id"]
            await later.ask({"type": "resume", "jobs": {job_id: 0}})
            await later.final(job_id)  # perhaps live, before the replay has come so far
            await later.wait(lambda event, body: len({one["seq"] for one in later.of(job_id, "audio")}) == 250)
            heard = {body["seq"]: body for body in later.of(job_id, "audio")}  # some live, before the replay
            assert len(joined([heard[seq] for seq in sorted(heard)])) == 250 * 22050 * 2


async def test_a_task_knows_its_owner(contract_server: Server) -> None:
    secret = (Path(contract_server.folder) / "data_dir" / "secret.key").read_bytes()
    token = jwt.encode({"client": "client_of_ann", "owner": "ann"}, secret, algorithm="HS256")
    async with Peer(contract_server.url, token) as ann, Peer(contract_server.url) as other:
        assert (await ann.answer(TONE))["owner"] == "ann"
        assert (await other.answer(TONE))["owner"] == "local"
