"""What `make` does, as far as it can be seen without doing it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


def steps(target: str, *settings: str) -> list[str]:
    """The commands that would be run on a fresh checkout."""
    command = ["make", "--dry-run", "--always-make", target, *settings]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize(("setting", "wanted"), [("WITH_CUDA=1", True), ("WITH_CUDA=", False)])
def test_the_libraries_of_a_gpu_are_installed_where_there_is_one(setting: str, wanted: bool) -> None:
    installs = [line for line in steps("setup", setting) if "-r requirements.txt" in line]
    assert ["requirements-cuda.txt" in line for line in installs] == [wanted]


def test_the_long_step_of_setup_shows_how_far_it_is_and_run_pulls_one_model() -> None:
    lines = steps("run")
    (long,) = [line for line in lines if "-r requirements.txt" in line]
    assert "--quiet" not in long
    assert [line.split("||")[0].strip() for line in lines if "models pull" in line] == [".venv/bin/optivus models pull"]


def test_the_client_is_found_beside_a_folder_of_its_name(tmp_path: Path) -> None:
    """As in the folder above a checkout: `import optivus` found the checkout, which has no Client."""
    (tmp_path / "optivus").mkdir()
    environment = tmp_path / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    links = [line for line in steps("setup", f"VENV={environment}") if f"{environment}/path" in line]
    subprocess.run(["sh", "-ec", "\n".join(links)], cwd=ROOT, check=True)
    find = "import importlib.util; print(importlib.util.find_spec('optivus').origin)"
    found = subprocess.run(
        [environment / "bin" / "python", "-c", find], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()).resolve() == ROOT / "client" / "__init__.py"
