"""The promises in their short form; `make chaos` is the long one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.drills import DRILLS, run
from tests.chaos.report import Ground, table

SEED = 13


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
    assert ground.figures
    assert not ground.broken(), table(ground.figures)
