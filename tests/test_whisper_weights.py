"""Finding Whisper's weights: local first, whole or not at all, and a sentence that says what to do otherwise."""

from __future__ import annotations

import hashlib
import multiprocessing
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from contract.errors import ModelUnavailable
from tests.checkpoints import SENTENCE, make_transformers
from tests.drive import Recorder, drive, folders
from tests.recordings import EXAMPLE
from workers.runtime import wheels
from workers.runtime.hub import build
from workers.whisper.weights import CONVERTED, locate
from workers.whisper.worker import Whisper, WhisperSettings


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_transformers(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's own switch."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def in_hub_cache(cache: Path, repository: str, files: Path) -> Path:
    """A snapshot as the hub's client keeps one."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    shutil.copytree(files, folder / "snapshots" / "abc")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    return folder / "snapshots" / "abc"


def make_wheel(folder: Path, package: str, files: dict[str, bytes]) -> Path:
    path = folder / f"{package}-1.0.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{package}/__init__.py", "raise SystemExit('never run')")
        for name, content in files.items():
            archive.writestr(f"{package}/data/{name}", content)
    return path


def make_bundle(folder: Path, digest: str | None = None) -> tuple[list[Path], wheels.Bundle]:
    parts = {"one": {"config.json": b"{}", "model.bin.part1": b"first "}, "two": {"model.bin.part2": b"second"}}
    files = [make_wheel(folder, package, content) for package, content in parts.items()]
    bundle = wheels.Bundle(
        packages=(),
        files=("config.json",),
        parts=("model.bin.part1", "model.bin.part2"),
        whole="model.bin",
        sha256=digest or hashlib.sha256(b"first second").hexdigest(),
    )
    return files, bundle


def test_transformers_checkpoint_is_converted_once(checkpoint: Path, tmp_path: Path) -> None:
    """Kept by content: a copy of the checkpoint needs no second conversion, a changed one does."""
    kept = locate(str(checkpoint), folders(tmp_path))
    assert kept.is_relative_to(tmp_path / "models")
    written = (kept / "model.bin").stat().st_mtime_ns
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    assert locate(str(copy), folders(tmp_path)) == kept
    assert (kept / "model.bin").stat().st_mtime_ns == written
    worker = Whisper(WhisperSettings(model=str(copy), threads=1), folders(tmp_path))
    assert worker.load() == {"device": worker.load()["device"], "model": "copy"}
    result, _ = drive(worker, {"file": EXAMPLE}, Recorder(tmp_path))
    assert result["text"] == SENTENCE


def test_damaged_checkpoint_is_unavailable_and_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(checkpoint, tmp_path / "damaged"))
    (damaged / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ModelUnavailable, match="AI_WHISPER_MODEL"):
        locate(str(damaged), folders(tmp_path))
    assert not [path for path in (tmp_path / "models" / "converted").iterdir() if path.is_dir()]


def test_folder_without_a_model_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"model\.bin, config\.json, tokenizer\.json") as refused:
        locate(str(tmp_path), folders(tmp_path))
    assert str(tmp_path) not in str(refused.value)


@pytest.mark.usefixtures("offline")
def test_pulled_model_needs_no_network(checkpoint: Path, tmp_path: Path) -> None:
    converted = locate(str(checkpoint), folders(tmp_path))
    kept = in_hub_cache(tmp_path / "models" / "hub", "Systran/faster-whisper-small", converted)
    assert locate("openai/whisper-small", folders(tmp_path)) == kept
    own = in_hub_cache(tmp_path / "models" / "hub", "someone/fine-tuned", checkpoint)
    assert locate("someone/fine-tuned", folders(tmp_path)) == converted
    (own / "model.safetensors").unlink()
    with pytest.raises(ModelUnavailable):
        locate("someone/fine-tuned", folders(tmp_path))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["nobody/has-this", "openai/whisper-huge", "bad name!", "/no/such/folder", "../gone"])
def test_wrong_name_says_which_setting_to_change(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelUnavailable, match="AI_WHISPER_MODEL") as refused:
        locate(name, folders(tmp_path))
    assert "optivus models pull" in refused.value.message
    assert (name in refused.value.message) == ("folder" not in name and ".." not in name)


def test_openais_large_is_the_first_large() -> None:
    assert CONVERTED["openai/whisper-large"].endswith("large-v1")
    assert CONVERTED["openai/whisper-base"] == "Systran/faster-whisper-base"
    assert len(set(CONVERTED.values())) == len(CONVERTED) == 12


def test_parts_in_wheels_are_joined_and_checked(tmp_path: Path) -> None:
    files, bundle = make_bundle(tmp_path)
    target = tmp_path / "model"
    target.mkdir()
    wheels.unpack(files, bundle, target)
    assert {file.name: file.read_bytes() for file in target.iterdir()} == {
        "config.json": b"{}",
        "model.bin": b"first second",
    }


def test_spoilt_copy_is_refused_whole(tmp_path: Path) -> None:
    files, bundle = make_bundle(tmp_path, digest="0" * 64)
    with pytest.raises(ModelUnavailable, match="digest"):
        build(tmp_path / "model", lambda folder: wheels.unpack(files, bundle, folder))
    with pytest.raises(ModelUnavailable, match=r"without model\.bin\.part2"):
        build(tmp_path / "model", lambda folder: wheels.unpack(files[:1], bundle, folder))
    assert not (tmp_path / "model").exists()
    assert not (tmp_path / "model.part").exists()


def test_environment_without_pip_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelUnavailable, match="ensurepip"):
        wheels.fetch(make_bundle(tmp_path)[1], tmp_path)


def _build_slowly(target: Path, count: Path, gate: Any) -> None:
    def fill(folder: Path) -> None:
        with count.open("a") as log:
            log.write("filled\n")
        gate.wait()
        (folder / "model.bin").write_bytes(b"weights")

    build(target, fill)


def test_two_processes_build_one_folder_once(tmp_path: Path) -> None:
    """And what a killed one left half made is swept away."""
    target = tmp_path / "models" / "model"
    (tmp_path / "models" / "model.part").mkdir(parents=True)
    (tmp_path / "models" / "model.part" / "half").touch()
    context = multiprocessing.get_context("spawn")
    gate = context.Event()
    builders = [context.Process(target=_build_slowly, args=(target, tmp_path / "log", gate)) for _ in range(2)]
    for builder in builders:
        builder.start()
    gate.set()
    for builder in builders:
        builder.join(30)
    assert [builder.exitcode for builder in builders] == [0, 0]
    assert (tmp_path / "log").read_text() == "filled\n"
    assert [file.name for file in target.iterdir()] == ["model.bin"]
