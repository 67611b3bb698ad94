"""Small files that would cost minutes are refused, or cost what they hold."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contract.errors import TooLarge, UnsupportedMedia
from contract.messages import FileRef
from media import container, detector, frames, gifs, pictures
from media.audio import SAMPLE_RATE, Gap, sound_of
from media.container import probe
from media.gifs import count_frames
from media.growing import follow
from media.speech import Cut, cut
from storage.files import TaskFiles
from tests import bombs
from tests.drive import folders
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
    files = TaskFiles(folders(tmp_path / "data", tmp_path))
    path = files.path(FileRef("path", str(made(tmp_path / "upload", 40_000))))
    began = time.thread_time()
    with pytest.raises(UnsupportedMedia, match="more tags"):
        probe(path)  # by the name that a task has for it, which is no other process's
    assert time.thread_time() - began < 0.5
    files.close()


def test_a_recording_on_its_way_with_thousands_of_tags_is_refused(tmp_path: Path) -> None:
    """It cannot be tried elsewhere first, and no browser writes so many."""
    reader = follow(bombs.matroska_tags(tmp_path / "recording", 40_000), "webm", 48_000, lambda: True)
    began = time.process_time()
    with pytest.raises(UnsupportedMedia, match="more tags"):
        while True:
            reader.read()
    assert time.process_time() - began < 1
    reader.close()


@pytest.mark.parametrize("made", [bombs.flac_tags, bombs.matroska_tags, bombs.mp3_tags, bombs.ogg_tags])
def test_some_hundred_tags_are_no_reason_to_refuse(tmp_path: Path, made: Made) -> None:
    hear(made(tmp_path / "upload", 500))


def test_a_picture_in_the_head_is_not_taken_for_tags(tmp_path: Path) -> None:
    hear(bombs.flac(tmp_path / "a.flac", 6, bombs.equals_signs(100_000)))


@pytest.mark.skipif(sys.platform != "linux", reason="finds PyAV's libraries where its wheels for Linux have them")
def test_samples_that_are_only_claimed_take_no_memory(tmp_path: Path) -> None:
    """FFmpeg would hold entries of gigabytes."""
    path = bombs.mp4_samples(tmp_path / "upload", 60_000_000)
    program = f"""
import re
from pathlib import Path
from media.audio import decode
from contract.errors import UnsupportedMedia
try:
    list(decode(Path({str(path)!r})))
except UnsupportedMedia:
    peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())
    print(int(peak[1]) < 300_000)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_thousands_of_streams_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedMedia, match="claims to hold more"):
        probe(bombs.ogg_streams(tmp_path / "upload", 5_000))


@pytest.mark.parametrize(("name", "codec"), [("a.mka", "libopus"), ("a.nut", "pcm_s16le"), ("a.ogg", "libopus")])
def test_a_gap_of_days_costs_nothing_and_keeps_the_clock(tmp_path: Path, name: str, codec: str) -> None:
    path = bombs.long_ago(tmp_path / name, codec, bombs.DAYS)
    began = time.thread_time()
    parts = list(sound_of(path))
    cuts = list(cut(iter(parts), vad=True))
    assert time.thread_time() - began < 5
    assert sum(isinstance(part, Gap) for part in parts) == 1
    assert cuts[-1].heard / SAMPLE_RATE == pytest.approx(bombs.DAYS + 11, abs=0.5)
    assert [one.start for one in cuts[1:]] == [one.stop for one in cuts[:-1]]
    pieces = [piece for one in cuts for piece in one.pieces]
    first = [piece for piece in pieces if piece.end < bombs.DAYS * SAMPLE_RATE]
    assert len(first) * 2 == len(pieces)
    for before, after in zip(first, pieces[len(first) :], strict=True):
        assert (after.start - before.start) / SAMPLE_RATE == pytest.approx(bombs.DAYS, abs=0.5)
        assert len(after.audio) == pytest.approx(len(before.audio), abs=SAMPLE_RATE)
    for one in cuts:
        assert starts(cut(iter(parts), vad=True, start=one.stop)) == [
            piece.start for piece in pieces if piece.start >= one.stop
        ]


def starts(cuts: Iterable[Cut]) -> list[int]:
    return [piece.start for one in cuts for piece in one.pieces]


@pytest.mark.parametrize("vad", [True, False])
def test_many_gaps_cost_what_is_between_them(tmp_path: Path, vad: bool) -> None:
    """Days of silence in 10 kB, a hundred times 20 ms between them."""
    path = bombs.ogg_at(tmp_path / "a.ogg", [3_000.0 * number for number in range(100)])
    began = time.thread_time()
    cuts = list(cut(sound_of(path), vad=vad))
    assert time.thread_time() - began < 5
    assert cuts[-1].heard / SAMPLE_RATE == pytest.approx(99 * 3_000, rel=0.02)
    heard = sum(len(piece.audio) for one in cuts for piece in one.pieces)
    assert heard < (1 if vad else 100 * 3 * SAMPLE_RATE)


def test_silence_is_not_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, "Listener", None)
    assert not detector.probabilities(np.zeros(100 * SAMPLE_RATE, np.float32)).any()


def test_a_gap_in_a_recording_that_grows_is_one_read(tmp_path: Path) -> None:
    path = bombs.long_ago(tmp_path / "a.webm", "libopus", 3_000)
    reader = follow(path, "webm", 48_000, lambda: True)
    read = [reader.read() for _ in range(4)]
    reader.close()
    assert [isinstance(part, Gap) for part in read] == [False, True, False, False]
    assert reader.position / SAMPLE_RATE == pytest.approx(3_011, abs=0.5)


@pytest.mark.parametrize("blocks", [b"\x21\xfe" + b"\x01?" * 200, b"\x21\xfe\x00" * 200])
def test_a_gif_of_endless_comments_is_left_at_some_point(monkeypatch: pytest.MonkeyPatch, blocks: bytes) -> None:
    file = io.BytesIO(b"GIF89a" + bytes(7) + blocks + b"\x00\x3b")
    assert count_frames(file, 9) == 0
    monkeypatch.setattr(gifs, "_MOST_BLOCKS", 100)
    file.seek(0)
    assert count_frames(file, 9) == 9
    assert file.tell() <= 13 + 3 * 100


@pytest.mark.parametrize(("size", "count"), [((1_000, 1_000), 60), ((1, 1), 5_500)])
def test_a_moving_picture_of_too_many_pixels_or_frames_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], count: int
) -> None:
    path = bombs.gif(tmp_path / "upload", size, count)
    monkeypatch.setattr(pictures, "MAX_MOVED_PIXELS", 50_000_000)
    with frames.film(path) as film, pytest.raises(TooLarge, match="too many frames"):
        list(film.looks(1.0))


def test_a_million_frames_are_not_counted(tmp_path: Path) -> None:
    path = bombs.gif(tmp_path / "upload", (1, 1), 1_000_000)
    began = time.thread_time()
    assert pictures.moves(path)
    assert time.thread_time() - began < 0.5


def test_a_gif_of_too_many_frames_is_refused_before_any_is_decoded(tmp_path: Path) -> None:
    path = bombs.gif(tmp_path / "upload", (3_000, 3_000), 100)
    with frames.film(path) as film, pytest.raises(TooLarge, match="too many frames"):
        next(film.looks(1.0))


@pytest.mark.parametrize("size", [(1, 1), (9, 300), (700, 700)])
def test_the_frames_of_a_gif_are_those_that_pillow_finds(tmp_path: Path, size: tuple[int, int]) -> None:
    image = Image.effect_noise(size, 90)
    image.save(
        tmp_path / "a.gif", save_all=True, append_images=[Image.effect_noise(size, 50), image], comment="x" * 600
    )
    whole = (tmp_path / "a.gif").read_bytes()
    for length in (len(whole), len(whole) // 2, 300, 12):
        (tmp_path / "cut.gif").write_bytes(whole[:length])
        with (tmp_path / "cut.gif").open("rb") as file:
            counted = count_frames(file, 9)
        assert counted <= 3
        assert counted == 3 or length < len(whole)


def test_others_have_a_turn_after_every_frame_that_is_passed_over(tmp_path: Path) -> None:
    path = bombs.gif(tmp_path / "upload", (9, 9), 50)
    with frames.film(path) as film:
        assert sum(step is None for step in film.looks(1.0, start=4.0)) == 50
