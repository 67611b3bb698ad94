"""What `make` does, as far as it can be seen without doing it."""

from __future__ import annotations

import shutil
import subprocess

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
