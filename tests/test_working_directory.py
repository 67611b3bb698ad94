"""A folder of files that are called like modules, as people have them: the server is started there and runs none."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from client import Client
from tests.conftest import TOYS
from tests.drills import gone
from tests.recordings import beep, write
from tests.servers import ROOT, Server
from tests.sites import Site

OURS = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
NAMES = {*OURS, "optivus", "sitecustomize", "usercustomize", *sys.stdlib_module_names}
NAMES |= {name.split("/")[0] for name in metadata.packages_distributions()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Modules and packages of every name that a server or one of its libraries imports, each leaving a line."""
    folder = tmp_path_factory.mktemp("users")
    trap = f"with open({str(folder / 'imported')!r}, 'a') as file:\n    file.write(__name__ + '\\n')\n"
    for name in filter(str.isidentifier, NAMES):
        (folder / f"{name}.py").write_text(trap)
    for package in OURS:
        (folder / package).mkdir(exist_ok=True)
        for module in ("__init__", "audio", "host", "base", "context"):
            (folder / package / f"{module}.py").write_text(trap)
    shutil.copy(ROOT / "examples" / "jfk.flac", folder)
    shutil.copy(ROOT / "examples" / "shapes.png", folder)
    return folder


@pytest.fixture(scope="module")
def models(whisper_model: Path, florence_model: Path, fish_model: Path) -> dict[str, str]:
    return {
        "AI_WHISPER_MODEL": str(whisper_model),
        "AI_FLORENCE_MODEL": str(florence_model),
        "AI_FISH_MODEL": str(fish_model),
    }


@pytest.fixture
def server(tmp_path: Path, folder: Path, models: dict[str, str]) -> Iterator[Server]:
    settings = {"WORKERS_PATH": str(TOYS), "DLP_ALLOW_PRIVATE": "1", "MEDIA_ROOTS": ".", **models}
    with started_in(folder, Server(tmp_path, **settings)) as server:
        yield server


def started_in(folder: Path, server: Server, *flags: str) -> Server:
    server.cwd, server.flags = folder, flags
    return server


def imported(folder: Path) -> str:
    path = folder / "imported"
    return path.read_text() if path.exists() else ""


def test_the_traps_are_sprung_where_python_looks_into_the_working_directory(folder: Path) -> None:
    """Otherwise what follows would prove nothing."""
    subprocess.run([sys.executable, "-c", "import random, workers"], cwd=folder, check=True)
    assert imported(folder).splitlines() == ["random", "workers"]
    (folder / "imported").unlink()


def test_no_worker_imports_a_file_of_the_working_directory(server: Server, folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "clip.mp4", beep(1.0, at=0.5), "aac", video=1.0)
    with Site(tmp_path / "site") as site, Client(server.url) as client:
        jobs = [
            client.submit("toy", words=["one"]),
            client.submit("whisp", file="jfk.flac"),
            client.submit("flrnc", file="shapes.png"),
            client.submit("fish", text="One word.", max_new_tokens=4),
            client.submit("dlp", urls=[site.url("/clip.mp4")]),
        ]
        answers = [job.result() for job in jobs]
    assert "error_code" not in str(answers)
    assert imported(folder) == ""


def test_nor_does_one_that_starts_after_the_fork_server_was_killed(server: Server, folder: Path) -> None:
    with Client(server.url) as client:
        client.submit("toy", words=["one"]).result()
        worker = server.worker("toy")
        stat = Path(f"/proc/{worker}/stat").read_text()
        fork_server = int(stat.rpartition(")")[2].split()[1])
        assert fork_server != server.pid
        os.kill(fork_server, signal.SIGKILL)
        gone(worker)
        assert client.submit("toy", words=["two"]).result()["toy"]["words"] == ["TWO"]
    assert imported(folder) == ""


def test_nor_does_the_command(server: Server, folder: Path, models: dict[str, str], tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("optivus")
    env = {**os.environ, **models, "DATA_DIR": str(tmp_path / "pulled")}
    for words in (["transcribe", "jfk.flac", "--server", server.url], ["models", "pull"]):
        done = subprocess.run([command, *words], cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert imported(folder) == ""


@pytest.mark.parametrize("flags", [["-P"], ["-P", "-E"], ["-I"]], ids=" ".join)
def test_the_server_finds_its_own_modules_under_pythons_safe_flags(flags: list[str], tmp_path: Path) -> None:
    server = started_in(tmp_path, Server(tmp_path, WORKERS_PATH=str(TOYS)), *flags)
    with server, Client(server.url) as client:
        assert client.submit("toy", words=["one"]).result()["toy"]["words"] == ["ONE"]


def test_a_flag_that_would_let_users_files_in_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=re.escape("-P -E")):
        started_in(tmp_path, Server(tmp_path), "-E").start()


def test_modules_on_the_operators_own_path_are_still_found(tmp_path: Path) -> None:
    """PYTHONPATH is theirs to set; a worker of theirs may need it."""
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "shouting.py").write_text("def shout(word):\n    return word.upper()\n")
    (tmp_path / "workers").mkdir()
    toy = (TOYS / "toy.py").read_text().replace("unit.upper()", 'importlib.import_module("shouting").shout(unit)')
    (tmp_path / "workers" / "toy.py").write_text(toy.replace("import os\n", "import importlib\nimport os\n"))
    settings = {"WORKERS_PATH": str(tmp_path / "workers"), "PYTHONPATH": f":{tmp_path / 'library'}"}
    server = started_in(tmp_path, Server(tmp_path, **settings))
    with server, Client(server.url) as client:
        assert client.submit("toy", words=["one"]).result()["toy"]["words"] == ["ONE"]
