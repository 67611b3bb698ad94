"""Whose a job is: who sees it, whose turn it takes, and who is limited by it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from contract.errors import JobNotFound, QueueFull, RateLimited
from contract.identity import Identity, may_read, may_signal
from contract.messages import Request
from gateway.rates import KEPT, Rates
from pipeline.job import Job, begin
from pipeline.plans import Plan, Stage
from tests.conftest import contract_like_server
from tests.peers import Gate, Peer
from tests.roads import ME, YOU, Road
from tests.servers import Server
from tests.toys.toy import Toy, ToyParams

ANN, BOB, EVE = Identity.known("ann", "acme"), Identity.known("bob", "acme"), Identity.known("eve", "other")
ONE = Plan("one", ToyParams, (Stage("toy", "toy", "$request"),), "$toy")


def newcomer(number: int, address: str = "198.51.100.7") -> Identity:
    return Identity.newcomer(f"client_{number}", address)


def test_a_job_is_its_clients_and_where_there_are_accounts_its_owners() -> None:
    assert may_read(ANN, BOB)
    assert may_signal(ANN, BOB)
    for other in (EVE, ME, Identity.known("ann")):
        assert not may_read(ANN, other)
        assert not may_signal(ANN, other)
    assert may_read(ME, Identity.newcomer("me", "198.51.100.7"))
    assert not may_read(ME, YOU)
    assert may_signal(ME, YOU)


@pytest.mark.parametrize(("who", "turn"), [(ANN, "acme"), (BOB, "acme"), (ME, "me"), (newcomer(1), "client_1")])
def test_clients_of_one_account_share_its_turns(who: Identity, turn: str) -> None:
    request = Request(1, who.client, who.owner, "one", {"words": []}, limited_as=who.limited_as)
    [task] = begin(Job("job", request, ONE, 0.0, 1.0)).tasks
    assert (task.queued_as, task.client, task.owner) == (turn, who.client, who.owner)


# The road.


@pytest_asyncio.fixture
async def road(tmp_path: Path) -> AsyncIterator[Road]:
    road = await started(tmp_path)
    yield road
    await road.close()


async def started(folder: Path) -> Road:
    """On which no job ends by itself."""
    road = Road(folder, [Toy], open_jobs_per_client=2, open_jobs_per_address=3)
    road.transport.hold(["toy"])
    return await road.start()


async def submit(road: Road, who: Identity) -> str:
    return await road.queue.submit({"type": "toy", "words": ["w"]}, who)


async def cancel_all(road: Road, *jobs: tuple[str, Identity]) -> None:
    for job, who in jobs:
        assert await road.queue.cancel(job, who)
        await road.final(job)


async def test_an_accounts_clients_list_read_resume_and_cancel_each_others_jobs(road: Road) -> None:
    job = await submit(road, ANN)
    assert [each["job_id"] for each in (await road.queue.jobs(BOB, 9))["jobs"]] == [job]
    assert (await road.queue.job(job, BOB)).client == "ann"
    assert await road.queue.last_seqs([job], BOB) == {job: 0}
    for stranger in (EVE, ME, Identity.known("ann")):
        assert (await road.queue.jobs(stranger, 9))["jobs"] == []
        assert await road.queue.last_seqs([job], stranger) == {}
        with pytest.raises(JobNotFound):
            await road.queue.cancel(job, stranger)
    await cancel_all(road, (job, BOB))


async def test_an_accounts_clients_share_its_places(road: Road) -> None:
    jobs = [(await submit(road, ANN), ANN), (await submit(road, BOB), BOB)]
    with pytest.raises(QueueFull):
        await submit(road, Identity.known("carl", "acme"))
    await cancel_all(road, *jobs, (await submit(road, EVE), EVE))


async def test_who_shows_no_token_is_limited_with_others_at_the_address_also_after_a_restart(
    road: Road, tmp_path: Path
) -> None:
    for number in (1, 2):
        await submit(road, newcomer(number))
    again = await started(tmp_path)
    with pytest.raises(QueueFull, match="address"):
        await submit(again, newcomer(3))
    await submit(again, newcomer(4, "198.51.100.8"))
    await submit(again, Identity.known("client_1"))
    await again.close()


async def test_no_address_fills_the_server_with_clients_of_its_own(road: Road) -> None:
    """A token costs a request, so each of these has an allowance of its own."""
    flood = [Identity.known(f"client_{number}")._replace(address="198.51.100.7") for number in range(5)]
    for who in flood[:3]:
        await submit(road, who)
    with pytest.raises(QueueFull, match="MAX_OPEN_JOBS_PER_ADDRESS"):
        await submit(road, flood[3])
    job = await submit(road, ME._replace(address="198.51.100.8"))
    await cancel_all(road, (job, ME))


# A real server's doors.


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("limited")
    with contract_like_server(folder, MAX_OPEN_JOBS_PER_CLIENT="2", TRUSTED_PROXIES="127.0.0.1") as server:
        yield server


async def test_connections_without_a_token_share_their_addresss_places(limited: Server, tmp_path: Path) -> None:
    with Gate(tmp_path) as gate:
        async with Peer(limited.url) as one, Peer(limited.url) as two, Peer(limited.url) as three:
            replies = [await peer.ask(gate.message) for peer in (one, two, three)]
            assert [reply["status"] for reply in replies] == ["accepted", "accepted", "error"]
            assert replies[2]["error_code"] == "QUEUE_FULL"
            async with Peer(limited.url, three.token) as known:
                own = [await known.ask(gate.message) for _ in range(3)]
                assert [reply["status"] for reply in own] == ["accepted", "accepted", "error"]
                gate.open()
                for peer, reply in ((one, replies[0]), (two, replies[1]), (known, own[0]), (known, own[1])):
                    await peer.final(reply["job_id"])


async def test_requests_without_a_token_share_their_addresss_places(limited: Server, tmp_path: Path) -> None:
    async with aiohttp.ClientSession(limited.url) as http:

        async def post(**headers: str) -> dict[str, Any]:
            async with http.post("/jobs", json=gate.message, headers=headers) as response:
                return {"status": response.status, **await response.json()}

        with Gate(tmp_path) as gate:
            first = [await post() for _ in range(3)]
            assert [reply["status"] for reply in first] == [202, 202, "error"]
            assert first[2]["error_code"] == "QUEUE_FULL"
            elsewhere = [await post(**{"X-Forwarded-For": f"198.51.100.{number}, 203.0.113.9"}) for number in range(3)]
            assert [reply["status"] for reply in elsewhere] == [202, 202, "error"]
            accepted = [*first[:2], *elsewhere[:2]]
            own = await post(Authorization=f"Bearer {first[0]['token']}")
            assert own["status"] == 202
            gate.open()
            for reply in accepted:
                headers = {"Authorization": f"Bearer {reply['token']}"}
                async with http.get(f"/jobs/{reply['job_id']}/events", headers=headers) as events:
                    assert "event: message" in await events.text()


async def test_who_asks_too_often_is_told_when_to_come_back_and_others_are_served(tmp_path: Path) -> None:
    with contract_like_server(tmp_path, REQUESTS_PER_SECOND="0.5", TRUSTED_PROXIES="127.0.0.1") as server:
        async with Peer(server.url) as peer, aiohttp.ClientSession(server.url) as http:
            answers = [await peer.ask({"type": "jobs"}) for _ in range(6)]
            refused = [answer for answer in answers if answer["status"] == "error"]
            assert len(refused) > 1
            assert {answer["error_code"] for answer in refused} == {"RATE_LIMITED"}
            assert refused[-1]["details"]["retry_after"] >= 1
            async with http.get("/health") as response:
                assert (response.status, (await response.json())["error_code"]) == (429, "RATE_LIMITED")
            async with http.get("/health", headers={"X-Forwarded-For": "198.51.100.7"}) as response:
                assert response.status == 200


def test_a_rate_allows_bursts_and_forgets_who_asks_no_more() -> None:
    now = 0.0
    rates = Rates(2, clock=lambda: now)
    for _ in range(20):
        rates.take("a")
    with pytest.raises(RateLimited) as refused:
        rates.take("a")
    rates.take("b")
    now += refused.value.details["retry_after"]
    rates.take("a")
    for number in range(3 * KEPT):
        now += 0.5
        rates.take(str(number))
    assert len(rates._full_at) <= KEPT + 3
    for _ in range(1000):
        Rates(0).take("a")
