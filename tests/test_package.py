"""The client as others install it: its wheel, in an environment with nothing else, and a server of this checkout."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import ROOT, Server

pytestmark = [pytest.mark.index, pytest.mark.timeout(300)]

RECORDING = ROOT / "examples" / "jfk.flac"

PROGRAM = """\
import sys
from optivus import Client
with Client(sys.argv[1]) as client:
    answer = client.transcribe(sys.argv[2])
    print(answer["transcribe_audio"]["text"])
"""

LIST_MODULES = """\
import importlib, json, pkgutil, sys
import optivus
names = [module.name for module in pkgutil.walk_packages(optivus.__path__, "optivus.")]
for name in names:
    if name != "optivus.__main__":
        importlib.import_module(name)
print(json.dumps([names, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("package")
    left_out = shutil.ignore_patterns(".*", "__pycache__", "node_modules", "data", "build", "*.egg-info")
    shutil.copytree(ROOT, folder / "checkout", ignore=left_out)  # building leaves files behind
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    done(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, folder / "checkout")
    venv.create(folder / "venv", symlinks=True)
    (wheel,) = folder.glob("*.whl")
    done(*pip, "--python", folder / "venv" / "bin" / "python", "install", "--quiet", wheel)
    shutil.rmtree(folder / "checkout")
    return folder / "venv"


def done(*command: str | Path) -> str:
    """What a program prints. It must end well."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", timeout=240)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture
def server(tmp_path: Path, whisper_model: Path) -> Iterator[Server]:
    with Server(tmp_path, AI_WHISPER_MODEL=str(whisper_model)) as server:
        yield server


def test_it_installs_optivus_and_nothing_else_of_ours(environment: Path) -> None:
    (site,) = environment.glob("lib/python*/site-packages")
    (record,) = site.glob("optivus-*.dist-info/RECORD")
    files = [line.partition(",")[0] for line in record.read_text().splitlines()]
    assert {file.partition("/")[0] for file in files} == {"optivus", record.parent.name, ".."}
    assert "optivus/py.typed" in files
    ours = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert not ours & {path.stem for path in site.iterdir()}


def test_every_module_of_it_can_be_imported(environment: Path) -> None:
    names, imported = json.loads(done(environment / "bin" / "python", "-c", LIST_MODULES))
    assert set(names) == {f"optivus.{path.stem}" for path in (ROOT / "client").glob("*.py")} - {"optivus.__init__"}
    assert not {"torch", "transformers", "av", "numpy", "pydantic", "structlog", "config", "workers"} & set(imported)


def test_a_strict_type_checker_sees_its_types(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "right.py").write_text(PROGRAM)
    (tmp_path / "wrong.py").write_text(PROGRAM.replace("sys.argv[1]", "1").replace("print(", "print(1 + "))
    check: list[str | Path] = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        "--cache-dir",
        tmp_path / "cache",
    ]
    check += ["--python-executable", environment / "bin" / "python"]
    done(*check, tmp_path / "right.py")
    wrong = subprocess.run([*check, tmp_path / "wrong.py"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert 'Argument 1 to "Client" has incompatible type "int"' in wrong.stdout


def test_it_talks_to_a_server(environment: Path, server: Server, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    text = done(environment / "bin" / "python", tmp_path / "program.py", server.url, RECORDING)
    assert text.strip()
    assert done(environment / "bin" / "optivus", "transcribe", RECORDING, "--server", server.url).strip()


def test_what_needs_the_servers_modules_says_where_it_runs(environment: Path) -> None:
    command: list[str | Path] = [environment / "bin" / "optivus", "models", "pull"]
    pull = subprocess.run(command, capture_output=True, text=True, check=False)
    assert pull.returncode == 2
    assert "in the folder of its checkout, as .venv/bin/optivus models pull" in pull.stderr
