"""The rules of the house (CONTRIBUTING.md), read from the imports themselves."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import workers
from config import Settings, load_workers, settings_table
from pipeline import catalog
from tests.imports import ROOT, circle, graph, imported, modules
from tests.roads import ME, Road
from tests.shipped import SHIPPED
from workers.base import Worker
from workers.runtime.discovery import add_folders, discover

MAY_IMPORT: dict[str, set[str]] = {
    "contract": set(),
    "storage": {"contract"},
    "media": {"contract"},
    "pipeline": {"contract", "storage", "pipeline.transport"},
    "pipeline.transport": {"contract", "storage"},
    "workers": {"contract", "storage", "media"},
    "gateway": {"contract", "storage", "pipeline", "pipeline.transport"},
    "config": {"contract", "workers"},
    "server": {"config", "contract", "storage", "pipeline", "pipeline.transport", "workers", "gateway"},
    "client": {"config", "contract", "storage", "workers"},
}
"""Room → rooms that its modules may import. `bench` and `tests` may import all, and nothing imports them."""

NOT_FOR_WORKERS = {"storage.ledger", "storage.sqlite", "storage.database", "storage.retention"}
"""Of `storage`, what only the server's own process uses."""

OURS = modules(*(room for room in MAY_IMPORT if "." not in room))
ARROWS = graph(OURS)
MODELS = {"torch", "transformers", "faster_whisper", "ctranslate2", "onnxruntime", "av", "tokenizers"}
WEB = {"aiohttp", "socketio", "engineio"}


def room(module: str) -> str:
    return max((room for room in MAY_IMPORT if f"{module}.".startswith(f"{room}.")), key=len)


def of(*rooms: str) -> list[str]:
    return [module for module in OURS if module.split(".")[0] in rooms]


def named(module: str) -> str:
    return str(OURS[module].relative_to(ROOT))


def roots(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("module", OURS, ids=named)
def test_a_room_imports_only_what_the_table_lets_it(module: str) -> None:
    own = room(module)
    wrong = {other for other in ARROWS[module] if room(other) not in {own, *MAY_IMPORT[own]}}
    assert not wrong, f"{own} may import {sorted(MAY_IMPORT[own]) or 'nothing of ours'}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert circle({"a": {"b"}, "b": {"a"}}) in ("a → b → a", "b → a → b")
    assert circle(ARROWS) == ""


@pytest.mark.parametrize("module", OURS, ids=named)
def test_nothing_imports_the_tests_or_the_bench(module: str) -> None:
    assert not roots(imported(OURS[module])) & {"tests", "bench"}


@pytest.mark.parametrize("module", of("workers"), ids=named)
def test_the_hands_know_no_ledger_and_a_model_no_other(module: str) -> None:
    assert not ARROWS[module] & NOT_FOR_WORKERS
    folders = {other.split(".")[1] for other in (module, *ARROWS[module]) if other.startswith("workers.")}
    assert len(folders & SHIPPED.keys()) <= 1


@pytest.mark.parametrize("module", OURS, ids=named)
def test_the_database_is_the_ledgers_alone(module: str) -> None:
    if room(module) != "storage":
        assert not {"sqlite3", "storage.database"} & imported(OURS[module])


@pytest.mark.parametrize("module", of("client"), ids=named)
def test_the_client_needs_nothing_of_the_server_to_be_imported(module: str) -> None:
    assert not roots(imported(OURS[module], top_level_only=True)) & roots(set(MAY_IMPORT)) - {"client"}


@pytest.mark.parametrize("module", of("pipeline", "gateway"), ids=named)
def test_brain_and_doors_import_no_model_library(module: str) -> None:
    assert not roots(imported(OURS[module])) & MODELS


@pytest.mark.parametrize("module", of("pipeline", "contract", "storage", "media", "workers"), ids=named)
def test_only_the_doors_import_a_web_framework(module: str) -> None:
    assert not roots(imported(OURS[module])) & WEB


def test_finding_the_workers_loads_no_model_library() -> None:
    find = "import sys; from workers.runtime.discovery import discover; discover(); print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", find], cwd=ROOT, text=True).split()
    assert "workers.whisper.worker" in loaded
    assert not {*MODELS, "yt_dlp"} & set(loaded)


ENVIRONMENT = {"config", "contract.environment", "client.environment"}
"""The server's reader of it, what tells libraries of it, and the client's reader."""


@pytest.mark.parametrize("module", sorted(OURS.keys() - ENVIRONMENT), ids=named)
def test_the_environment_is_read_in_one_place(module: str) -> None:
    nodes = [node for node in ast.walk(ast.parse(OURS[module].read_text())) if isinstance(node, ast.Attribute)]
    of_os = {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "os"}
    assert not {"environ", "getenv", "putenv"} & of_os


@pytest.mark.parametrize("module", OURS, ids=named)
def test_modules_and_functions_stay_small(module: str) -> None:
    text = OURS[module].read_text()
    assert text.count("\n") <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


@pytest.mark.parametrize("module", OURS, ids=named)
def test_every_module_says_what_it_is(module: str) -> None:
    assert ast.get_docstring(ast.parse(OURS[module].read_text()))


def test_the_readmes_settings_table_is_the_settings() -> None:
    readme = (ROOT / "README.md").read_text()
    written = re.search(r"<!-- settings -->\n(.*?)\n<!-- /settings -->", readme, re.DOTALL)
    assert written, "README.md has no settings table between its two markers"
    table = settings_table({name: crew for name, crew in load_workers(Settings()).items() if name in SHIPPED})
    assert written[1] == table, f"README's settings table should be:\n{table}"


def test_the_packaging_is_the_tree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    checked = set(project["mypy"]["files"])
    folders = {path.parent.name for path in ROOT.glob("*/*.py")}
    assert folders <= checked <= folders | {path.name for path in ROOT.glob("*.py")}  # README's first.py lies there too
    assert {Path(name).stem for name in checked} == {"bench", "tests", *roots(set(MAY_IMPORT))}
    packages = {f"optivus{name.removeprefix('client')}" for name in of("client") if OURS[name].stem == "__init__"}
    assert set(project["setuptools"]["packages"]) == packages
    for name, patterns in project["setuptools"]["package-data"].items():
        folder = ROOT / project["setuptools"]["package-dir"][name]
        assert all(list(folder.glob(pattern)) for pattern in patterns)
    for pattern in project["ruff"]["lint"]["per-file-ignores"]:
        assert list(ROOT.glob(pattern))


def test_what_is_said_of_modules_is_said_of_modules_that_there_are() -> None:
    everything = OURS | modules("tests", "bench")
    elsewhere = {name for path in everything.values() for name in imported(path)}
    overrides = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["overrides"]
    named = {name for override in overrides for name in override["module"]}
    known = {*everything, *elsewhere}
    assert not {name for name in named if not any(f"{one}.".startswith(f"{name.removesuffix('.*')}.") for one in known)}


def test_contributings_map_is_the_tree() -> None:
    there = {named(module) for module, path in OURS.items() if path.stem != "__init__"}
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


def examples(heading: str) -> list[str]:
    """The Python blocks of one section of CONTRIBUTING.md."""
    section = (ROOT / "CONTRIBUTING.md").read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def shout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Worker]:
    """The worker of CONTRIBUTING.md, found in a folder."""
    (tmp_path / "mine").mkdir()
    [text] = examples("A worker in one file")
    (tmp_path / "mine" / "shout.py").write_text(text)
    monkeypatch.setattr(workers, "__path__", list(workers.__path__))
    monkeypatch.delitem(sys.modules, "workers.shout", raising=False)
    add_folders([tmp_path / "mine"])
    return discover()["shout"]


async def answered(road: Road, **message: Any) -> dict[str, Any]:
    await road.start()
    try:
        return await road.final(await road.queue.submit(message, ME))
    finally:
        await road.close()


async def test_contributings_worker_serves_by_being_a_file(shout: type[Worker], tmp_path: Path) -> None:
    road = Road(tmp_path, [shout])
    assert (await answered(road, type="shout", **shout.example))["shouted"] == ["HELLO"]
    assert [out.body["data"] for _, _, out in road.told if out.kind == "partial"] == ["HELLO"]


@pytest.fixture
def pipelines(shout: type[Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    """CONTRIBUTING's two pipelines, as rows of the catalog."""
    names: dict[str, Any] = {"__name__": "twice"}
    for example in examples("A pipeline in one row"):
        exec(example, names)
    monkeypatch.setattr(catalog, "PIPELINES", (*catalog.PIPELINES, names["TWICE"], names["REVIEWED"]))


async def test_contributings_pipeline_serves_by_being_a_row(
    shout: type[Worker], pipelines: None, tmp_path: Path
) -> None:
    assert (await answered(Road(tmp_path, [shout]), type="twice", words=["hello"]))["twice"] == ["HELLO"]


async def test_contributings_pipeline_waits_for_its_review(
    shout: type[Worker], pipelines: None, tmp_path: Path
) -> None:
    road = await Road(tmp_path, [shout]).start()
    job = await road.queue.submit({"type": "reviewed", "words": ["hello"]}, ME)
    while not await road.queue.signal(job, "review", {"approved": True, "words": ["better", "words"]}, ME):
        await road.some_news()
    final = await road.final(job)
    assert (final["draft"], final["sentence"]) == (["HELLO"], "BETTER WORDS")
    await road.close()
