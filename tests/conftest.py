"""What many tests share: one server with every door open, and a Whisper for it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from client.cli import main
from tests.asking import Call, Optivus, Reply
from tests.checkpoints import make_ctranslate2
from tests.checkpoints_fish import make_speaker
from tests.checkpoints_florence import make_native
from tests.servers import Server

TOYS = Path(__file__).parent / "toys"
LISTED_ORIGIN = "https://listed.example"
MAX_UPLOAD_BYTES = 51_000_000


@pytest.fixture(autouse=True)
def _no_ones_tokens(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command keeps its tokens with the test, and not in the home of who runs it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))


@pytest.fixture(scope="session")
def whisper_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small Whisper: a real one from OPTIVUS_TEST_MODELS, else one that says one sentence."""
    return real_model("whisper-tiny") or make_ctranslate2(tmp_path_factory.mktemp("whisper") / "tiny")


@pytest.fixture(scope="session")
def florence_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small Florence: a real one from OPTIVUS_TEST_MODELS, else one that always says the same."""
    return real_model("florence2-shapes") or make_native(tmp_path_factory.mktemp("florence") / "tiny")


def real_model(name: str) -> Path | None:
    """A folder of OPTIVUS_TEST_MODELS."""
    given = os.environ.get("OPTIVUS_TEST_MODELS")
    folder = Path(given or "") / name
    return folder if given and folder.is_dir() else None


@pytest.fixture(scope="session")
def fish_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny fish-speech that says noise."""
    return make_speaker(tmp_path_factory.mktemp("fish") / "tiny")


@pytest.fixture(scope="session")
def contract_server(tmp_path_factory: pytest.TempPathFactory, whisper_model: Path) -> Iterator[Server]:
    """A server for tests that only talk to it; none of them may make it log an exception.

    Media root: its folder's `media`.
    """
    folder = tmp_path_factory.mktemp("contract")
    (folder / "media").mkdir()
    with contract_like_server(folder, AI_WHISPER_MODEL=str(whisper_model)) as server:
        yield server
    assert not [line for line in server.log if '"exception"' in line or "Traceback" in line]


def contract_like_server(folder: Path, **settings: str) -> Server:
    """Another of its kind, for a test that stops or restarts it."""
    (folder / "media").mkdir(exist_ok=True)
    return Server(
        folder,
        **{
            "MEDIA_ROOTS": str(folder / "media"),
            "WORKERS_PATH": str(TOYS),
            "CORS_ORIGINS": LISTED_ORIGIN,
            "MAX_UPLOAD_GB": str(MAX_UPLOAD_BYTES / 1e9),
            **settings,
        },
    )


@pytest.fixture
def url(contract_server: Server) -> str:
    return contract_server.url


@pytest.fixture
def media(contract_server: Server) -> Path:
    """The folder that the server's clients may read by path."""
    return contract_server.folder / "media"


@pytest.fixture
async def call(url: str) -> AsyncIterator[Call]:
    """One HTTP request to the contract's server."""
    async with aiohttp.ClientSession() as http:

        async def request(method: str, path: str, token: str | None = None, **options: Any) -> Reply:
            headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **options.pop("headers", {})}
            async with http.request(method, url + path, headers=headers, **options) as response:
                raw = await response.read()
                is_json = response.content_type == "application/json"
                return Reply(response.status, orjson.loads(raw) if is_json else raw, response.headers)

        yield request


@pytest.fixture
def optivus(server: Server, capsys: pytest.CaptureFixture[str]) -> Optivus:
    """The command in this process, asking the server of the test's module."""

    def run(*args: object) -> tuple[int, str, str]:
        return main([*map(str, args), "--server", server.url]), *capsys.readouterr()

    return run
