"""Workers are found by standing in a folder, and two of them are never taken for one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

import workers
from config import Settings, SettingsError, load_workers
from tests.servers import ROOT
from tests.shipped import SHIPPED
from workers.base import Worker
from workers.runtime.discovery import Unfit, add_folders, discover

WORKER = """
from workers.base import Worker


class {cls}(Worker):
    name = "{name}"
    message_type = "{name}"
"""


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Folders and modules of a test are nobody else's."""
    folders, loaded = list(workers.__path__), set(sys.modules)
    workers.__path__[1:] = []
    yield
    workers.__path__[:] = folders
    for name in set(sys.modules) - loaded:
        if name.startswith("workers."):
            del sys.modules[name]
            vars(workers).pop(name.split(".")[1], None)


def folder(path: Path, **files: str) -> Path:
    """Workers' files by module, those of packages as `package__file`."""
    for name, text in files.items():
        file = path / f"{name.replace('__', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    add_folders([path])
    return path


def written(name: str) -> str:
    return WORKER.format(cls=name.title(), name=name)


def found() -> dict[str, str]:
    """Module by worker, without those that ship."""
    return {name: cls.__module__ for name, cls in discover().items() if cls not in SHIPPED.values()}


def test_a_file_and_a_folder_with_a_worker_file_are_workers(tmp_path: Path) -> None:
    folder(tmp_path, alone=written("alone"), several__worker=written("several"), several__part="PART = 1\n")
    assert found() == {"alone": "workers.alone", "several": "workers.several.worker"}


def test_one_file_may_hold_two_workers(tmp_path: Path) -> None:
    folder(tmp_path, both=written("one") + written("two"))
    assert found() == {"one": "workers.both", "two": "workers.both"}


def test_a_folder_without_a_worker_file_holds_none(tmp_path: Path) -> None:
    folder(tmp_path, library____init__="", library__tools="TOOL = 1\n")
    (tmp_path / "notes.txt").write_text("not Python")
    assert found() == {}


def test_a_worker_that_another_ones_file_imports_is_found_once(tmp_path: Path) -> None:
    borrowing = "from workers.lent import Lent\n" + written("own").replace("(Worker)", "(Lent)")
    folder(tmp_path, lent=written("lent"), borrowing=borrowing + "\nAgain = Own\n")
    assert found() == {"lent": "workers.lent", "own": "workers.borrowing"}


def test_a_class_that_stands_in_no_folder_of_workers_is_none() -> None:
    class Elsewhere(Worker):
        name = "elsewhere"
        message_type = "elsewhere"

    assert Elsewhere.name not in discover()


def test_a_base_of_workers_that_has_no_name_is_none(tmp_path: Path) -> None:
    base = "from workers.base import Worker\n\n\nclass Base(Worker):\n    batch = 2\n"
    folder(tmp_path, bases=base + written("real").replace("(Worker)", "(Base)"))
    assert found() == {"real": "workers.bases"}


def test_a_worker_of_yours_replaces_one_that_ships_and_the_log_says_so(tmp_path: Path) -> None:
    folder(tmp_path, mine=written("whisper"))
    with structlog.testing.capture_logs() as lines:
        assert found() == {"whisper": "workers.mine"}
    [line] = [line for line in lines if line["event"] == "worker_replaced"]
    assert (line["worker"], line["file"]) == ("whisper", str(tmp_path / "mine.py"))
    assert line["instead_of"] == str(ROOT / "workers" / "whisper" / "worker.py")


@pytest.mark.parametrize(
    "files",
    [
        {"one": written("twin"), "other": written("twin")},
        {"both": written("twin") + written("twin").replace("Twin", "Other")},
        {"several__worker": written("twin"), "other": written("twin")},
    ],
    ids=["two files", "one file", "a folder"],
)
def test_two_workers_of_one_name_side_by_side_are_refused(tmp_path: Path, files: dict[str, str]) -> None:
    """Which of them would serve is nothing that a file's place in the alphabet should decide."""
    folder(tmp_path, **files)
    with pytest.raises(Unfit, match=r"Two workers are called 'twin', in .*\.py and in .*\.py"):
        discover()


@pytest.mark.parametrize(
    "files",
    [{"whisper": written("mine")}, {"base": written("mine")}, {"runtime": written("mine")}],
    ids=lambda files: next(iter(files)),
)
def test_a_file_that_another_one_hides_from_import_is_refused(tmp_path: Path, files: dict[str, str]) -> None:
    folder(tmp_path, **files)
    with pytest.raises(Unfit, match=rf"{next(iter(files))}.* would be one module: rename"):
        discover()


def test_two_workers_of_one_message_type_are_refused(tmp_path: Path) -> None:
    folder(tmp_path, one=written("one"), two=written("two").replace('message_type = "two"', 'message_type = "one"'))
    with pytest.raises(Unfit, match=r"one\.py and .*two\.py both take messages of type 'one'"):
        discover()


@pytest.mark.parametrize(
    ("text", "reason"),
    [("import nothing_like_it", "ModuleNotFoundError"), ("class", "SyntaxError"), ("1/0", "ZeroDiv")],
)
def test_a_worker_that_cannot_be_imported_is_named(tmp_path: Path, text: str, reason: str) -> None:
    folder(tmp_path, broken=text)
    with pytest.raises(Unfit, match=rf"workers\.broken cannot be imported \({reason}"):
        discover()


def test_the_server_refuses_them_with_a_sentence(tmp_path: Path) -> None:
    """So does whatever else needs all workers with their settings, such as `optivus models pull`."""
    mine = folder(tmp_path, one=written("twin"), other=written("twin"))
    with pytest.raises(SettingsError, match="Two workers are called 'twin'"):
        load_workers(Settings(workers_path=(mine,)))
    env = {**os.environ, "WORKERS_PATH": str(mine), "PORT": "1", "DATA_DIR": str(tmp_path / "data")}
    command = [sys.executable, str(ROOT / "server.py")]
    refused = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode == 2
    assert refused.stderr.startswith("optivus: The workers cannot be used: Two workers are called 'twin'")


def test_a_folder_of_workers_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="absent' is not a folder"):
        Settings(workers_path=(tmp_path / "absent",))
