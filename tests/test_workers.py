"""Adding a worker is adding a file; every worker that ships runs its own example."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client import Client
from tests.documented import check_answer, openapi
from tests.servers import Server
from tests.shipped import SHIPPED
from tests.sites import Site

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, whisper_model: Path, florence_model: Path, fish_model: Path
) -> Iterator[Server]:
    """The shipped workers, one more whose only trace is a file in a folder, and an internet of our own."""
    folder = tmp_path_factory.mktemp("server")
    mine = folder / "mine"
    mine.mkdir()
    (mine / "toy.py").write_text((ROOT / "tests/toys/toy.py").read_text())
    roots = os.pathsep.join([str(ROOT), str(folder)])
    models = {"WHISPER": whisper_model, "FLORENCE": florence_model, "FISH": fish_model}
    settings = {f"AI_{name}_MODEL": str(model) for name, model in models.items()}
    settings |= {"WORKERS_PATH": str(mine), "MEDIA_ROOTS": roots}
    with Site(folder / "site") as internet, Server(folder, DLP_PROXY=internet.url(""), **settings) as server:
        yield server


def test_a_new_worker_is_one_file_and_is_served_like_any_other(server: Server) -> None:
    with Client(server.url) as client:
        assert client.submit("toy", words=["hello"]).result()["toy"]["words"] == ["HELLO"]
        batch = client.submit("toy", data=[{"words": ["a"]}, {"words": 5}, {"words": ["c"]}]).result()["data"]
    assert [item.get("error_code") for item in batch] == [None, "INVALID_INPUT", None]


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_shipped_worker_answers_its_own_example(server: Server, name: str) -> None:
    worker = SHIPPED[name]
    if name == "fish":
        pytest.importorskip("fish_speech.tokenizer", reason="fish-speech is not installed (requirements-fish.txt)")
    with Client(server.url) as client:
        answer = client.submit(worker.message_type, **worker.example).result()
    assert answer["status"] == "success"
    assert not [item for item in answer.get("data", ()) if "error_code" in item]
    if isinstance(worker.answer, dict):
        assert worker.answer.keys() <= answer.keys()
    check_answer(openapi(server.url), answer)


JFK, SHAPES = "examples/jfk.flac", "examples/shapes.png"
ASKED: list[dict[str, Any]] = [
    {"type": "whisp", "file": JFK, "word_timestamps": True, "multilingual": True, "formats": ["srt", "txt"]},
    {"type": "whisp", "file": JFK, "unknown": 1, "data": [{"language": "en"}, {"file": "absent.wav"}]},
    {"type": "flrnc", "file": SHAPES, "prompt": "<OD>"},
    {"type": "flrnc", "data": [{"file": SHAPES}, {"file": JFK}]},
    {"type": "dlp", "urls": ["no URL", "http://127.0.0.1/refused"], "data_type": "info"},
    {"type": "video", "files": [SHAPES, JFK, "absent.mp4"], "urls": ["no URL"]},
]


def test_an_answer_of_fish_is_what_the_documents_say(server: Server) -> None:
    pytest.importorskip("fish_speech.tokenizer", reason="fish-speech is not installed (requirements-fish.txt)")
    said = "And so my fellow Americans, ask not what your country can do for you."
    with Client(server.url) as client:
        for options in ({"reference_audio": JFK, "reference_text": said}, {"text": "Ask.", "audio_format": "none"}):
            check_answer(openapi(server.url), client.submit("fish", **options).result())


@pytest.mark.parametrize("message", ASKED, ids=lambda message: f"{message['type']} {list(message)[1:]}")
def test_an_answer_is_what_the_documents_say(server: Server, message: dict[str, Any]) -> None:
    with Client(server.url) as client:
        answer = client.submit(**message).result()
    assert answer["status"] == "success"
    check_answer(openapi(server.url), answer)
