"""README's examples, word for word, against a server with the model that they name or its stand-in."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkpoints import SENTENCE
from tests.scripts import Script, scripted_server
from tests.servers import ROOT, Server
from tests.test_client_speech import RATE, frames, sound_of

README = (ROOT / "README.md").read_text()
ADDRESS = "http://localhost:5000"


def example(name: str) -> str:
    found = re.search(rf"<!-- example: {name} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found, f"README has no example {name}"
    assert ADDRESS in found[1]
    return found[1]


def output(name: str) -> str:
    found = re.search(rf"<!-- example: {name} -->\n```.*?```\n<!-- output -->\n```\n(.*?)```", README, re.DOTALL)
    assert found, f"README shows no output of {name}"
    return found[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, whisper_model: Path) -> Iterator[Server]:
    """Whisper base, of which README shows the output, or the small model of the other tests."""
    base = Path(os.environ.get("OPTIVUS_TEST_MODELS", "")) / "whisper-base"
    model = base if base.is_dir() else whisper_model
    with Server(tmp_path_factory.mktemp("readme"), AI_WHISPER_MODEL=str(model), MEDIA_ROOTS=str(ROOT)) as server:
        yield server


def check(printed: str, model_is_base: bool) -> None:
    """Where lines end, and commas, hang on the weights' precision: the published ones have 16 bits, the test's 8."""
    if model_is_base:
        assert words(printed) == words(output("python"))
    else:
        assert SENTENCE in printed
        assert printed.endswith("en\n")


def words(printed: str) -> list[str]:
    """What is said, without times and marks."""
    return re.findall(r"[a-z]+", re.sub(r"^\d+\.\ds ", "", printed, flags=re.MULTILINE).lower())


def run(command: list[str], server: Server, source: str, folder: Path) -> str:
    """What a program prints that reads `source`, with the test server's address in README's place."""
    text = source.replace(ADDRESS, server.url)
    return subprocess.run(
        command, input=text, cwd=folder, capture_output=True, text=True, check=True, timeout=60
    ).stdout


@pytest.fixture
def model_is_base() -> bool:
    return (Path(os.environ.get("OPTIVUS_TEST_MODELS", "")) / "whisper-base").is_dir()


def test_the_python_example_prints_what_readme_says(server: Server, tmp_path: Path, model_is_base: bool) -> None:
    check(run([sys.executable, "-"], server, example("python"), tmp_path), model_is_base)


def test_the_shell_example_prints_what_readme_says(server: Server, model_is_base: bool) -> None:
    printed = json.loads(run(["sh"], server, example("shell"), ROOT))
    shown = json.loads(output("shell").replace("\n", " ").replace(', "', ',"'))
    assert printed.keys() == shown.keys()
    spoken, written = printed["transcribe_audio"], shown["transcribe_audio"]
    assert (spoken.keys(), spoken["language"]) == (written.keys(), "en")
    if model_is_base:
        assert words(spoken["text"]) == words(written["text"])


def test_the_client_example_fetches_what_the_server_made(tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()
    with Script(tmp_path, ["And so"]) as recording, scripted_server(tmp_path) as server:
        recording.path.rename(tmp_path / "examples" / "jfk.flac")
        printed = run([sys.executable, "-"], server, example("client-python"), tmp_path)
    assert frames((tmp_path / printed.strip()).read_bytes()) == (RATE, sound_of("And so"))


def test_the_speech_example_writes_a_file_and_speaks_in_a_saved_voice(tmp_path: Path) -> None:
    """The models are played: what is heard in the recording stands in it."""
    (tmp_path / "examples").mkdir()
    with Script(tmp_path, ["And so"]) as recording, scripted_server(tmp_path) as server:
        recording.path.rename(tmp_path / "examples" / "jfk.flac")
        printed = run([sys.executable, "-"], server, example("speech-python"), tmp_path)
    said, streamed = re.findall('"(Ask .*?)"', example("speech-python"))
    assert frames((tmp_path / "speech.wav").read_bytes()) == (RATE, sound_of(said))
    assert printed.splitlines() == [f"{len(sound_of(word)) / 2 / RATE:.2f} s" for word in streamed.split()]
