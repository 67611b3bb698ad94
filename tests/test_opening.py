"""Opening a path that holds no links, in each of the two ways; what is opened keeps its name."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from storage import opening
from storage.opening import Opened, at_once, step_by_step, without_links
from tests.flips import on_linux

WAYS = (pytest.param(at_once, marks=on_linux), step_by_step)
Way = Callable[[Path], int]


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    for folder in (".", "sub", "sub/deep"):
        (tmp_path / folder / "a").write_text(folder)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "absolute").symlink_to(tmp_path / "a")
    (tmp_path / "folder").symlink_to("sub")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def is_at(descriptor: int, path: Path) -> bool:
    """Whether a descriptor is of what lies there; it is closed."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    finally:
        os.close(descriptor)


def open_descriptors() -> set[Path]:
    return set(Path("/dev/fd").iterdir())


@on_linux
def test_this_kernel_opens_at_once() -> None:
    assert without_links is at_once


@pytest.mark.parametrize("way", WAYS)
def test_what_lies_there_is_opened(way: Way, top: Path) -> None:
    for name in ("a", "sub/a", "sub/deep/a", "sub", "pipe"):
        assert is_at(way(top / name), top / name)
    assert is_at(way(Path("/")), Path("/"))


@pytest.mark.parametrize("way", WAYS)
def test_no_link_is_followed(way: Way, top: Path) -> None:
    """Neither inwards nor by the kernel's own; of the last one the two ways give nothing, or the link itself."""
    magic = Path("/proc/self/cwd").absolute() / "README.md"
    for path in (top / "folder/a", top / "folder/deep/a", magic):
        with pytest.raises(OSError) as refused:
            way(path)
        assert refused.value.errno in (errno.ELOOP, errno.ENOTDIR)
    for name in ("link", "absolute", "folder", "loop"):
        try:
            descriptor = way(top / name)
        except OSError as exc:
            assert exc.errno == errno.ELOOP
        else:
            assert is_at(descriptor, top / name)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_no_resolved_path_is_refused(way: Way, top: Path) -> None:
    for path in (Path("a"), top / "sub/../a", top / "..", Path()):
        with pytest.raises(OSError, match="resolved"):
            way(path)
    for path, error in ((top / "absent", FileNotFoundError), (top / "a/b", NotADirectoryError)):
        with pytest.raises(error):
            way(path)


@pytest.mark.parametrize("way", WAYS)
def test_nothing_stays_open_but_what_is_given(way: Way, top: Path) -> None:
    before = open_descriptors()
    os.close(way(top / "sub/deep/a"))
    for name in ("sub/deep/absent", "sub/folder/a", "folder/deep/a", "a/b/c"):
        with pytest.raises(OSError):
            way(top / name)
    assert open_descriptors() <= before


@on_linux
@pytest.mark.parametrize("way", WAYS)
def test_a_name_stays_with_its_file(way: Way, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened several times, from its beginning each; also when the file is gone and another lies in its place."""
    monkeypatch.setattr(opening, "without_links", way)
    file = Opened(top / "sub/a")
    (top / "sub/a").unlink()
    assert file.path.read_text() == "sub"
    (top / "sub/a").symlink_to(top / "a")
    assert file.path.read_text() == file.path.read_text() == "sub"
    assert file.path.stat().st_size == 3
    file.close()
    file.close()
    assert not file.path.exists()


@on_linux
def test_another_program_reads_what_it_is_passed_and_nothing_else(top: Path) -> None:
    file = Opened(top / "a")
    descriptor = int(file.path.name)
    reading = ["cat", str(file.path)]
    assert subprocess.run(reading, pass_fds=[descriptor], capture_output=True, check=True).stdout == b"."
    assert subprocess.run(reading, capture_output=True, check=False).returncode != 0


@on_linux
def test_what_nobody_holds_is_closed(top: Path) -> None:
    named = Opened(top / "a").path
    gc.collect()
    assert not named.exists()


def test_a_system_without_names_of_descriptors_names_the_path(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_NAMES", top / "no proc")
    assert Opened(top / "a").path == top / "a"
