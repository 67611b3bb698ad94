"""Loading ends with the worker's own example: what cannot compute is unavailable, and fails no job as INTERNAL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from client import Client, OptivusError
from contract.errors import ModelUnavailable, OutOfMemory
from contract.folders import Folders
from tests.checkpoints import make_ctranslate2
from tests.drive import folders
from tests.servers import Server
from workers.base import Worker
from workers.runtime.discovery import add_folders, discover
from workers.runtime.warm_up import warm_up
from workers.whisper.worker import Whisper, WhisperSettings

ILL = Path(__file__).parent / "ill"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {"WORKERS_PATH": str(ILL), "HUNG_STEP_SECONDS": "0.01"}
    with Server(tmp_path_factory.mktemp("server"), **settings) as server:
        yield server


def made(name: str, data: Path) -> Any:
    """One of the ill workers, loaded, in this process."""
    add_folders([ILL])
    cls: type[Worker] = discover()[name]
    worker = cls(cls.Settings(), folders(data))
    worker.load()
    return worker


@pytest.mark.parametrize("name", ["broken", "hung"])
def test_a_model_that_cannot_compute_is_unavailable_before_its_first_job(server: Server, name: str) -> None:
    with Client(server.url) as client, pytest.raises(OptivusError) as failed:
        client.submit(name, word="hello").result()
    assert failed.value.code == "MODEL_UNAVAILABLE"
    assert name in str(failed.value)


@pytest.mark.parametrize("name", ["well", "careless", "sloppy", "abroad"])
def test_a_worker_whose_example_is_wrong_serves_all_the_same(server: Server, name: str) -> None:
    with Client(server.url) as client:
        assert client.submit(name, word="hello", times=1).result()["said"] == ["hello", "hello"]


def test_what_the_example_makes_is_not_kept(tmp_path: Path) -> None:
    well = made("well", tmp_path)
    warm_up(well)
    assert well.forwards == 4
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert list(well.folders.work.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "event"), [("careless", "example_refused"), ("sloppy", "example_failed"), ("well", None), ("abroad", None)]
)
def test_an_example_that_is_wrong_is_logged(tmp_path: Path, name: str, event: str | None) -> None:
    ill = made(name, tmp_path)
    with structlog.testing.capture_logs() as logs:
        warm_up(ill)
    assert [entry["event"] for entry in logs] == ([event] if event else [])
    assert ill.forwards == (4 if name == "well" else 0)


@pytest.mark.parametrize("gpu", [False, True])
def test_whispers_example_is_written_to_its_end(tmp_path: Path, gpu: bool) -> None:
    """It asks ahead and looks whether it was answered; on a GPU its first pass only decides the language."""
    whisper = Whisper(WhisperSettings(model=str(make_ctranslate2(tmp_path / "tiny")), threads=1), folders(tmp_path))
    whisper.load()
    if gpu:
        whisper._pace = None
    passes: list[bool] = []
    hear = whisper._decoder.hear

    def counted(units: list[Any]) -> list[Any]:
        passes.extend(unit.encode_only for unit in units)
        return hear(units)

    whisper._decoder.hear = counted  # type: ignore[method-assign]
    warm_up(whisper)
    assert passes == ([True, False] if gpu else [False])


def test_a_device_that_is_full_says_so(tmp_path: Path) -> None:
    """Then another model may be asked to leave it."""
    with pytest.raises(OutOfMemory):
        warm_up(made("glutted", tmp_path))


def test_a_large_model_does_not_do_its_whole_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.runtime.warm_up.ENOUGH_SECONDS", 0.0)
    well = made("well", tmp_path)
    warm_up(well)
    assert well.forwards == 3  # what it asked for at first


def test_whispers_example_is_found_from_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_ctranslate2(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    places: Folders = folders(tmp_path / "data")
    whisper = Whisper(WhisperSettings(model=str(model), threads=1), places)
    whisper.load()
    with structlog.testing.capture_logs() as logs:
        warm_up(whisper)
    assert logs == []


def test_a_library_that_is_gone_when_whisper_writes_is_no_internal_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whisper = Whisper(WhisperSettings(model=str(make_ctranslate2(tmp_path / "tiny")), threads=1), folders(tmp_path))
    whisper.load()

    def hear(units: list[Any]) -> list[Any]:
        raise RuntimeError("cuBLAS failed with status CUBLAS_STATUS_NOT_SUPPORTED")

    monkeypatch.setattr(whisper._decoder, "hear", hear)
    with pytest.raises(ModelUnavailable, match="whisper was loaded but cannot compute"):
        warm_up(whisper)
