"""The promises in their short form; `make chaos` is the long one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.drills import DRILLS, run
from tests.chaos.report import Ground, table
from tests.servers import ROOT

SEED = 13
DOCUMENT = ROOT / "docs" / "promises.md"


def promised() -> dict[str, set[str]]:
    """The drills of each promise, as the document names them."""
    rows = re.findall(r"^\| (P\d+) \|.*\| ([^|]+) \|$", DOCUMENT.read_text(), re.MULTILINE)
    return {promise: set(re.findall(r"`(\w+)`", drills)) for promise, drills in rows}


def test_every_promise_has_a_drill_and_every_drill_a_promise() -> None:
    assert list(promised()) == [f"P{number}" for number in range(1, 17)]
    assert all(promised().values())
    assert set.union(*promised().values()) == DRILLS.keys()


@pytest.fixture
def models(whisper_model: Path, florence_model: Path, fish_model: Path) -> dict[str, Path]:
    return {"whisper": whisper_model, "florence": florence_model, "fish": fish_model}


@pytest.mark.parametrize("name", DRILLS)
def test_promises_are_kept(
    name: str, tmp_path: Path, models: dict[str, Path], record_property: Callable[[str, object], None]
) -> None:
    ground = Ground(tmp_path, SEED)
    run(name, ground, models)
    record_property("figures", [list(figure) for figure in ground.figures])
    assert {figure.promise for figure in ground.figures} == {
        each for each, drills in promised().items() if name in drills
    }
    assert not ground.broken(), table(ground.figures)
