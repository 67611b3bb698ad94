"""The rules of the house (CONTRIBUTING.md), read from the imports themselves."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from config import Settings, load_workers, settings_table
from workers.runtime.discovery import discover

ROOT = Path(__file__).parent.parent
ROOMS = ("contract", "storage", "pipeline", "gateway", "workers", "media", "client")
MODELS = {"torch", "transformers", "faster_whisper", "ctranslate2", "onnxruntime", "av", "tokenizers"}
WEB = {"aiohttp", "socketio", "engineio"}


def modules(*rooms: str) -> Iterator[Path]:
    for room in rooms:
        yield from sorted((ROOT / room).rglob("*.py"))
    if not rooms:
        yield from (ROOT / "server.py", ROOT / "config.py")
        yield from modules(*ROOMS)


def imported(path: Path, top_level_only: bool = False) -> set[str]:
    """Full names of what a file imports; only at import time when asked for."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def roots(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", list(modules("pipeline", "gateway")), ids=named)
def test_brain_and_doors_import_no_model_library(path: Path) -> None:
    assert not roots(imported(path)) & MODELS


@pytest.mark.parametrize("path", list(modules("pipeline")), ids=named)
def test_the_brain_imports_no_web_framework(path: Path) -> None:
    assert not roots(imported(path)) & WEB
    assert "gateway" not in roots(imported(path))


@pytest.mark.parametrize("path", list(modules("workers", "media")), ids=named)
def test_the_hands_know_neither_the_queue_nor_the_doors(path: Path) -> None:
    names = imported(path)
    assert "gateway" not in roots(names)
    assert not {"pipeline.result_queue", "storage.ledger", "pipeline.transport.local"} & names


@pytest.mark.parametrize("path", list(modules()), ids=named)
def test_the_database_is_the_ledgers_alone(path: Path) -> None:
    if path.parent != ROOT / "storage":
        assert not {"sqlite3", "storage.database"} & imported(path)


@pytest.mark.parametrize("path", list(modules("client")), ids=named)
def test_the_client_needs_nothing_of_the_server_to_be_imported(path: Path) -> None:
    allowed = roots(imported(path, top_level_only=True))
    assert not allowed & {"pipeline", "gateway", "workers", "media", "config", "server"}


def test_finding_the_workers_loads_no_model_library() -> None:
    find = "import sys; from workers.runtime.discovery import discover; discover(); print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", find], cwd=ROOT, text=True).split()
    assert "workers.whisper.worker" in loaded
    assert not {*MODELS, "yt_dlp"} & set(loaded)


@pytest.mark.parametrize("path", [path for path in modules() if path.name != "config.py"], ids=named)
def test_the_environment_is_read_in_one_place(path: Path) -> None:
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
    of_os = {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "os"}
    assert not {"environ", "getenv", "putenv"} & of_os


@pytest.mark.parametrize("path", list(modules()), ids=named)
def test_modules_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


@pytest.mark.parametrize("path", list(modules()), ids=named)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_the_readmes_settings_table_is_the_settings() -> None:
    readme = (ROOT / "README.md").read_text()
    written = re.search(r"<!-- settings -->\n(.*?)\n<!-- /settings -->", readme, re.DOTALL)
    assert written, "README.md has no settings table between its two markers"
    shipped = [name for name in discover() if (ROOT / "workers" / name).is_dir()]
    table = settings_table({name: crew for name, crew in load_workers(Settings()).items() if name in shipped})
    assert written[1] == table, f"README's settings table should be:\n{table}"


def test_contributings_map_is_the_tree() -> None:
    there = {named(path) for path in modules() if path.stem != "__init__"}
    assert sorted(mapped()) == sorted(there)


def mapped() -> Iterator[str]:
    """The paths that CONTRIBUTING's map names: files before their descriptions, folders by indentation."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    folders: list[str] = []
    for line in text.split("## The map")[1].split("```")[1].strip().splitlines():
        del folders[(len(line) - len(line.lstrip())) // 2 :]
        for name in line.split():
            if not name.endswith((".py", "/")):
                break
            if name.endswith("/"):
                folders.append(name)
            else:
                yield "".join(folders) + name
