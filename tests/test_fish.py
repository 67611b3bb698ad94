"""`fish` against a server with a tiny random model: what is spoken, saved and streamed, and what is refused."""

from __future__ import annotations

import os
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import numpy as np
import numpy.typing as npt
import pytest

from tests.peers import Peer
from tests.recordings import EXAMPLE
from tests.servers import Server

pytest.importorskip("fish_speech.tokenizer", reason="fish-speech is not installed (requirements-fish.txt)")

RATE = 44100
SAID = "And so my fellow Americans, ask not what your country can do for you, ask what you can do for your country."
SHORT: dict[str, Any] = {
    "type": "fish",
    "text": "Hello there.",
    "max_new_tokens": 12,
    "seed": 1,
    "audio_format": "none",
}
LONG: dict[str, Any] = {**SHORT, "text": "One, two. " * 12, "chunk_length": 40, "stream": True}
"""Six pieces."""
ENDLESS: dict[str, Any] = {**SHORT, "max_new_tokens": 3000, "stream": True}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, whisper_model: Path, fish_model: Path) -> Iterator[Server]:
    """Two places. Its media root is its folder's `media`, with a recording of a person, `jfk.flac`."""
    folder = tmp_path_factory.mktemp("fish_server")
    media = folder / "media"
    media.mkdir()
    (media / "jfk.flac").write_bytes(EXAMPLE.read_bytes())
    models = {"AI_WHISPER_MODEL": str(whisper_model), "AI_FISH_MODEL": str(fish_model)}
    with Server(folder, MEDIA_ROOTS=str(media), FISH_BATCH="2", **models) as server:
        yield server
    assert not [line for line in server.log if '"exception"' in line or "Traceback" in line]


@pytest.fixture
def url(server: Server) -> str:
    return server.url


@pytest.fixture
def media(server: Server) -> Path:
    return server.folder / "media"


def token_of(server: Server, owner: str) -> str:
    secret = (server.folder / "data_dir" / "secret.key").read_bytes()
    return jwt.encode({"client": f"client_of_{owner}_{os.urandom(4).hex()}", "owner": owner}, secret, algorithm="HS256")


def written(path: str) -> npt.NDArray[np.int16]:
    """The samples of a wav file."""
    with wave.open(path) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def joined(events: list[dict[str, Any]]) -> npt.NDArray[np.int16]:
    """The samples of `audio` events, which follow each other without a hole."""
    assert [event["index"] for event in events] == list(range(len(events)))
    assert [event["start"] for event in events] == [0, *(event["end"] for event in events[:-1])]
    return np.frombuffer(b"".join(event["audio"] for event in events), "<i2")


# Speaking.


async def test_a_text_is_spoken_into_a_file_of_the_documented_name(url: str, server: Server) -> None:
    async with Peer(url) as peer:
        answer = await peer.answer({**SHORT, "audio_format": "list", "id": 7})
    path = Path(answer["fish"])
    assert path.parent == server.folder / "fs_path"
    assert path.name.startswith("tts_")
    assert path.suffix == ".wav"
    samples = written(answer["fish"])
    assert len(samples) > 0
    assert (answer["id"], answer["sample_rate"], answer["duration"]) == (7, RATE, round(len(samples) / RATE, 3))
    np.testing.assert_array_equal(np.float32(answer["audio_data"]) * 2**15, samples)


async def test_joined_audio_events_are_the_file_sample_by_sample(url: str) -> None:
    async with Peer(url) as peer:
        answer = await peer.answer({**LONG, "audio_format": "pcm"})
        events = peer.of(answer["job_id"], "audio")
    samples = written(answer["fish"])
    np.testing.assert_array_equal(joined(events), samples)
    assert answer["audio_data"] == samples.astype("<i2").tobytes()
    lengths = [event["end"] - event["start"] for event in events]
    assert lengths[0] <= 0.06 * RATE
    assert all(0.04 * RATE <= length <= 0.1 * RATE for length in lengths[1:-1])
