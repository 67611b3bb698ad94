"""A model that its operator switched off: who asks for it is told at once, by which setting, and all else goes on."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client import Client, OptivusError
from tests.scripts import Script
from tests.servers import Server

PLAYED = Path(__file__).parent / "client_workers"
OFF = {"fish": "AI_FISH_MODEL=none", "flrnc": "AI_FLORENCE_MODEL=none", "dlp": "DLP_REPLICAS=0"}
WORKERS = {"fish": "fish", "flrnc": "florence", "dlp": "dlp"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    settings = dict(setting.split("=") for setting in OFF.values())
    settings |= {"FISH_PRELOAD": "true", "WORKERS_PATH": str(PLAYED), "MEDIA_ROOTS": str(folder)}
    with Server(folder, **settings) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.mark.parametrize(
    "message",
    [
        {"type": "fish", "text": "hello"},
        {"type": "fish", "data": [{"text": "hello"}]},
        {"type": "flrnc", "file": "picture.png"},
        {"type": "dlp", "urls": ["https://example.org/"]},
    ],
    ids=["fish", "batch", "flrnc", "dlp"],
)
def test_what_is_off_is_refused_by_the_name_of_its_setting(client: Client, message: dict[str, Any]) -> None:
    with pytest.raises(OptivusError) as refused:
        client.submit(**message)
    assert refused.value.code == "MODEL_UNAVAILABLE"
    assert OFF[message["type"]] in str(refused.value)


def test_what_is_on_goes_on_beside_it(client: Client, folder: Path) -> None:
    """A film is still heard where nobody looks at it, and a download has its error in its place."""
    with Script(folder, ["hello"]) as script:
        answer = client.submit("video", files=[str(script.path)], urls=["https://example.org/"]).result()
    heard, download = answer["data"]
    assert heard["transcribe_audio"]["text"] == " hello"
    assert heard["transcribe_video"]["error_code"] == "MODEL_UNAVAILABLE"
    assert OFF["flrnc"] in heard["transcribe_video"]["message"]
    assert download["error_code"] == "MODEL_UNAVAILABLE"
    assert OFF["dlp"] in download["message"]


def test_health_says_so_in_a_word(server: Server) -> None:
    with urllib.request.urlopen(f"{server.url}/health", timeout=20) as body:
        health = json.load(body)
    assert health["status"] == "healthy"
    for kind, setting in OFF.items():
        worker = health["workers"][WORKERS[kind]]
        assert (worker["state"], worker["setting"], worker["processes"]) == ("off", setting, [])
    assert health["workers"]["whisper"]["state"] != "off"


def test_the_log_says_what_is_off_and_what_is_served(server: Server) -> None:
    (started,) = [json.loads(line) for line in server.log if '"listening"' in line]
    assert started["off"] == {WORKERS[kind]: setting for kind, setting in OFF.items()}
    assert started["types"] == ["listen", "video", "whisp"]
