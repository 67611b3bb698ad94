"""A microphone through the client library, against a real server: what a lost connection takes is sent again."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from client import AsyncClient, Cancelled, Client, OptivusError, Partial
from client.listener import LIMIT
from media.audio import SAMPLE_RATE, decode
from tests.proxy import Proxy
from tests.recordings import EXAMPLE
from tests.servers import Server
from tests.test_readme import ADDRESS, example

SPEECH = np.concatenate(list(decode(EXAMPLE)))[: 3 * SAMPLE_RATE]
SOUND = (SPEECH * 32767).astype("<i2").tobytes()
PIECE = SAMPLE_RATE
"""Half a second."""


async def test_what_is_said_is_heard_whatever_happens_to_the_connection(contract_server: Server) -> None:
    async with Proxy(contract_server) as proxy, AsyncClient(proxy.url) as client:
        async with client.listen(language="en") as mic:
            for number, start in enumerate(range(0, len(SOUND), PIECE)):
                await mic.send(SOUND[start : start + PIECE])
                if number % 2:
                    proxy.cut()
            answer = await mic.finish()
        assert answer["transcribe_audio"]["duration"] == 3.0
        said = [event.data async for event in mic.events() if isinstance(event, Partial)]
        assert said[-1]["final"]
        assert said[-1]["text"] == answer["transcribe_audio"]["chunks"][-1]["text"]


async def test_a_reader_hears_text_before_the_recording_has_ended(url: str) -> None:
    async with AsyncClient(url) as client, client.listen(language="en") as mic:
        await mic.send(SOUND)
        async for event in mic.events():
            assert isinstance(event, Partial)
            assert not event.data["final"]
            break
        assert (await mic.finish())["transcribe_audio"]["language"] == "en"


async def test_leaving_without_a_finish_cancels(url: str) -> None:
    async with AsyncClient(url) as client:
        async with client.listen() as mic:
            await mic.send(SOUND[:PIECE])
        with pytest.raises(Cancelled):
            await mic.job.result()


async def test_sending_says_why_the_job_has_ended(url: str) -> None:
    async with AsyncClient(url) as client:
        with pytest.raises(OptivusError) as refused:
            async with client.listen(format="webm") as mic:
                while True:
                    await mic.send(b"this is no recording" * 100)
        assert refused.value.code == "UNSUPPORTED_MEDIA"


async def test_a_sender_waits_while_the_connection_is_lost(contract_server: Server) -> None:
    async with Proxy(contract_server) as proxy, AsyncClient(proxy.url, patience=1.0) as client:
        async with client.listen() as mic:
            proxy.close()
            with pytest.raises(OptivusError) as lost:
                while True:
                    await mic.send(bytes(LIMIT // 4))
        assert lost.value.code == "SERVER_UNREACHABLE"
        assert len(mic._kept) <= 2 * LIMIT


async def test_readmes_programs_write_down_what_they_hear(contract_server: Server, tmp_path: Path) -> None:
    async with Proxy(contract_server) as proxy:
        program = tmp_path / "listen.py"
        program.write_text(example("listen-python").replace(ADDRESS, proxy.url))
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(program), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        printed, _ = await process.communicate(SOUND)
        assert printed.decode().endswith("\n3.0 s\n")
        assert len(printed.splitlines()) >= 2


def test_a_program_without_a_loop_can_listen(url: str) -> None:
    with Client(url) as client, client.listen(language="en") as mic:
        heard: list[str] = []
        reader = threading.Thread(
            target=lambda: heard.extend(event.data["text"] for event in mic.events() if isinstance(event, Partial))
        )
        reader.start()
        mic.send(SOUND)
        answer = mic.finish()
        reader.join()
        assert heard[-1] == answer["transcribe_audio"]["chunks"][-1]["text"]
