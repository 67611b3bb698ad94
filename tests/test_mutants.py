"""Spoilt files of every container and codec are read or refused. `python -m tests.mutants` spoils thousands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants import Seed, mutant, outcomes, refused_or_read, seeds


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> list[Seed]:
    return seeds(tmp_path_factory.mktemp("whole"), every=False)


def test_there_are_files_of_most_containers(known: list[Seed]) -> None:
    assert {"mov", "matroska", "ogg", "wav", "w64", "caf", "nut", "ivf", "mpegts", "flac"} <= {
        seed.container for seed in known
    }


@pytest.mark.parametrize("first", range(0, 400, 50))
def test_spoilt_files_are_read_or_refused(known: list[Seed], tmp_path: Path, first: int) -> None:
    for seed in range(first, first + 50):
        name, content = mutant(known, seed)
        (tmp_path / "upload").write_bytes(content)
        for outcome in outcomes(tmp_path / "upload"):
            assert refused_or_read(outcome), f"seed {seed}: {name}"
