"""A GPU is used when its libraries are there, wherever they lie; else the CPU is, and it is said what is missing.

No GPU is needed: CTranslate2 is told that there is one, and the libraries are others under their names.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ctranslate2
import faster_whisper
import orjson
import pytest
import torch

from contract.errors import ModelUnavailable, OutOfMemory
from tests.checkpoints import SENTENCE, make_ctranslate2
from tests.drive import Recorder, drive, folders
from tests.recordings import EXAMPLE
from workers.runtime.torch_device import torch_device
from workers.whisper.cuda import LIBRARIES, load_libraries
from workers.whisper.worker import Whisper, WhisperSettings

ROOT = Path(__file__).parent.parent
BUNDLED = next(Path(ctranslate2.__file__).parent.parent.glob("ctranslate2.libs/libgomp*"), None)
"""A library that no system has: its name was made for the wheel that it lies in."""
no_gpu = pytest.mark.skipif(ctranslate2.get_cuda_device_count() > 0, reason="this machine has a GPU")
MISSING = f"Library {LIBRARIES[0]} is not found or cannot be loaded"

PROBE = """
import ctypes, sys
from workers.whisper.cuda import load_library
name = sys.argv[1]
print(load_library(name))
ctypes.CDLL(name)  # as CTranslate2 asks for it
print(*{line.split()[-1] for line in open("/proc/self/maps") if name in line})
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ctranslate2(tmp_path_factory.mktemp("whisper") / "tiny")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 1)
    monkeypatch.setattr(ctranslate2, "get_supported_compute_types", lambda device, index: {"float32"})


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that has them, by name."""
    for name in LIBRARIES:
        (tmp_path / "nvidia" / "cublas" / "lib").mkdir(parents=True, exist_ok=True)
        shutil.copy(str(orjson.orjson.__file__), tmp_path / "nvidia" / "cublas" / "lib" / name)  # type: ignore[attr-defined]
    monkeypatch.syspath_prepend(tmp_path)


def whisper(model: Path, data: Path, device: str) -> Whisper:
    return Whisper(WhisperSettings(model=str(model), device=device, threads=1), folders(data))


def probed(folder: Path, name: str, **env: str) -> list[str]:
    """Whether a process has the library, and where from."""
    command = [sys.executable, "-c", PROBE, name]
    env = {"PYTHONPATH": f"{ROOT}:{folder}", **env}
    ran = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    return ran.stdout.split()


@pytest.mark.skipif(BUNDLED is None or sys.platform != "linux", reason="CTranslate2 brings no library of its own")
def test_a_library_of_a_package_is_found_by_its_name_and_the_systems_before_it(tmp_path: Path) -> None:
    assert BUNDLED is not None
    assert probed(tmp_path, BUNDLED.name) == ["False"]
    packaged = tmp_path / "nvidia" / "cublas" / "lib" / BUNDLED.name
    system = tmp_path / "system" / BUNDLED.name
    for place in (packaged, system):
        place.parent.mkdir(parents=True)
        shutil.copy(BUNDLED, place)
    assert probed(tmp_path, BUNDLED.name) == ["True", str(packaged)]
    assert probed(tmp_path, BUNDLED.name, LD_LIBRARY_PATH=str(system.parent)) == ["True", str(system)]


@no_gpu
def test_whisper_writes_on_the_cpu_where_a_library_is_missing_and_says_which(
    tiny: Path, tmp_path: Path, gpu: None
) -> None:
    if load_libraries() is None:
        pytest.skip("this machine has CUDA 12")
    worker = whisper(tiny, tmp_path, "auto")
    facts = worker.load()
    assert facts["device"] == "cpu"
    assert LIBRARIES[0] in facts["warning"]
    assert "pip install -r requirements-cuda.txt" in facts["warning"]
    result, _ = drive(worker, {"file": EXAMPLE, "language": "en"}, Recorder(tmp_path))
    assert result["text"].strip() == SENTENCE
    with pytest.raises(ModelUnavailable, match=rf"{LIBRARIES[0]}.*pip install -r requirements-cuda.txt"):
        whisper(tiny, tmp_path, "cuda").load()


@no_gpu
def test_whisper_without_a_gpu_says_so_when_it_is_asked_to_use_one(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="WHISPER_DEVICE asks for a GPU"):
        whisper(tiny, tmp_path, "cuda:1").load()
    assert "warning" not in whisper(tiny, tmp_path, "auto").load()


@no_gpu
def test_a_gpu_that_fails_when_it_computes_is_not_used(
    tiny: Path, tmp_path: Path, gpu: None, libraries: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CTranslate2 opens its libraries at the first pass, so they are needed before the first job."""
    monkeypatch.setattr(faster_whisper, "WhisperModel", _failing("CUDA failed with error invalid device function"))
    facts = whisper(tiny, tmp_path, "auto").load()
    assert facts["device"] == "cpu"
    assert "log has the reason" in facts["warning"]
    monkeypatch.setattr(faster_whisper, "WhisperModel", _failing(MISSING))
    assert LIBRARIES[0] in whisper(tiny, tmp_path, "auto").load()["warning"]
    with pytest.raises(ModelUnavailable, match=LIBRARIES[0]):
        whisper(tiny, tmp_path, "cuda").load()


@no_gpu
def test_a_gpu_that_is_full_is_waited_for_and_not_replaced_by_the_cpu(
    tiny: Path, tmp_path: Path, gpu: None, libraries: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faster_whisper, "WhisperModel", _failing("CUDA failed with error out of memory"))
    with pytest.raises(OutOfMemory):
        whisper(tiny, tmp_path, "auto").load()


def _failing(reason: str) -> Any:
    """faster-whisper with a GPU that fails in its first pass."""
    real = faster_whisper.WhisperModel

    class Failing:
        n_mels = 80

        def encode(self, features: Any, to_cpu: bool) -> Any:
            raise RuntimeError(reason)

    def opened(path: str, *, device: str, **options: Any) -> Any:
        model = real(path, **options, device="cpu")
        if device == "cuda":
            model.model = Failing()
        return model

    return opened


@pytest.mark.parametrize(
    ("reason", "device"),
    [("CUDA error: no kernel image is available for execution on the device", "cpu"), ("CUDA out of memory", None)],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_torch_takes_the_cpu_where_the_gpu_does_not_compute(
    monkeypatch: pytest.MonkeyPatch, reason: str, device: str | None
) -> None:
    def ones(*shape: int, device: str) -> torch.Tensor:
        raise RuntimeError(reason)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", ones)
    if device is None:
        with pytest.raises(torch.OutOfMemoryError):
            torch_device("auto", "florence")
    else:
        assert torch_device("auto", "florence") == torch.device(device)
    assert torch_device("cuda:1", "florence") == torch.device("cuda:1")
