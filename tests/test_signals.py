"""What jobs wait for from outside, at every door: whose jobs they are, what is refused, and what is no use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from client import AsyncClient, Client, OptivusError
from tests.asking import Call
from tests.peers import Gate, Peer

NEVER = "job_" + "0" * 24


async def test_a_job_that_waits_for_nothing_is_not_signalled(url: str, call: Call, tmp_path: Path) -> None:
    with Gate(tmp_path) as gate:
        async with Peer(url) as peer:
            job = (await peer.ask(gate.message))["job_id"]
            signal = {"type": "signal", "job_id": job, "name": "review", "id": "s"}
            for data in ({}, {"data": {"approved": True}}, {"data": None}):
                reply = await peer.ask({**signal, **data})
                assert reply == {"type": "signal", "id": "s", "status": "success", "signalled": False}
            for body in (b"", b"{}", b'{"approved":true}', b"null"):
                answer = await call("POST", f"/jobs/{job}/signals/review", peer.token, data=body)
                assert (answer.status, answer.body) == (200, {"signalled": False})
            [listed] = (await peer.ask({"type": "jobs"}))["jobs"]
            assert listed["state"] in ("pending", "processing")
            gate.open()


async def test_a_job_that_never_was_is_not_found(url: str, call: Call) -> None:
    async with Peer(url) as peer:
        for job in (NEVER, None, 5):
            signal = {"type": "signal", "job_id": job, "name": "review"}
            assert (await peer.ask(signal))["error_code"] == "JOB_NOT_FOUND"
        for token in (peer.token, None):
            answer = await call("POST", f"/jobs/{NEVER}/signals/review", token)
            assert (answer.status, answer.body["error_code"]) == (404, "JOB_NOT_FOUND")


@pytest.mark.parametrize("name", [None, 5, ["review"]])
async def test_a_signal_needs_a_name(url: str, name: Any) -> None:
    async with Peer(url) as peer:
        job = (await peer.ask({"type": "contract_echo"}))["job_id"]
        refused = await peer.ask({"type": "signal", "job_id": job, "name": name})
        assert (refused["error_code"], refused["details"]) == ("INVALID_INPUT", {"field": "name"})


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "INVALID_INPUT"),
        (b"NaN", 400, "INVALID_INPUT"),
        (b"[" * 100 + b"]" * 100, 400, "INVALID_INPUT"),
        (b"[" + b"1," * 100_001 + b"1]", 413, "TOO_LARGE"),
        (b'"' + b"x" * 5_000_000 + b'"', 413, "TOO_LARGE"),
    ],
    ids=["cut short", "no JSON", "too deep", "too many values", "too large"],
)
async def test_a_body_that_cannot_be_kept_is_refused(call: Call, body: bytes, status: int, code: str) -> None:
    sent = (await call("POST", "/jobs", json={"type": "contract_echo"})).body
    answer = await call("POST", f"/jobs/{sent['job_id']}/signals/review", sent["token"], data=body)
    assert (answer.status, answer.body["error_code"]) == (status, code)


async def test_the_client_signals_by_the_job_and_by_its_id(url: str) -> None:
    async with AsyncClient(url) as client:
        job = await client.submit("contract_echo")
        assert not await job.signal("review", {"approved": True, "file": b"sound"})
        assert not await client.signal(job.id, "review")
        with pytest.raises(OptivusError, match="You have no job") as refused:
            await client.signal(NEVER, "review")
        assert refused.value.code == "JOB_NOT_FOUND"


def test_so_does_the_one_that_waits(url: str) -> None:
    with Client(url) as client:
        job = client.submit("contract_echo")
        assert not job.signal("review", {"approved": True})
        assert not client.signal(job.id, "review")
