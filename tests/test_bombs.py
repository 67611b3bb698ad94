"""Small files that would cost minutes are refused, or cost what they hold."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.errors import UnsupportedMedia
from media import container
from media.container import probe
from tests import bombs
from tests.mutants import hear

Made = Callable[[Path, int], Path]


@pytest.mark.parametrize(
    "made", [bombs.flac_tags, bombs.matroska_tags, bombs.matroska_chapters, bombs.mp3_tags, bombs.ogg_tags]
)
def test_a_head_of_thousands_of_tags_costs_the_process_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Made
) -> None:
    """FFmpeg takes seconds for it, in one call; it is tried elsewhere first, and stopped there."""
    monkeypatch.setattr(container, "MOST_SECONDS", 0.2)
    path = made(tmp_path / "upload", 40_000)
    began = time.thread_time()
    with pytest.raises(UnsupportedMedia, match="more tags"):
        probe(path)
    assert time.thread_time() - began < 0.5


@pytest.mark.parametrize("made", [bombs.flac_tags, bombs.matroska_tags, bombs.mp3_tags, bombs.ogg_tags])
def test_some_hundred_tags_are_no_reason_to_refuse(tmp_path: Path, made: Made) -> None:
    hear(made(tmp_path / "upload", 500))


def test_a_picture_in_the_head_is_not_taken_for_tags(tmp_path: Path) -> None:
    hear(bombs.flac(tmp_path / "a.flac", 6, bombs.equals_signs(100_000)))


def test_thousands_of_streams_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedMedia, match="claims to hold more"):
        probe(bombs.ogg_streams(tmp_path / "upload", 5_000))
