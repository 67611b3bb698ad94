"""Which path a client's `file` becomes, and which it never becomes."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from contract.errors import FileForbidden, FileNotFound, InvalidInput, ServiceError
from contract.folders import Folders
from contract.messages import FileRef
from storage.files import TaskFiles, bind_path, opened


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Two roots, of which the first holds everything that the server keeps."""
    top = tmp_path_factory.mktemp("files").resolve()
    for folder in ("one/sub", "one/data/uploads", "one/voices", "one/made", "two", "outside", "one-more"):
        (top / folder).mkdir(parents=True)
        (top / folder / "a.wav").write_text(folder)
    (top / "one" / "first.wav").touch()
    (top / "two" / "second.wav").touch()
    (top / "one" / "both.wav").write_text("one")
    (top / "two" / "both.wav").write_text("two")
    (top / "one" / "inward.wav").symlink_to(top / "two" / "a.wav")
    (top / "one" / "outward.wav").symlink_to(top / "outside" / "a.wav")
    (top / "one" / "hidden.wav").symlink_to(top / "one" / "data" / "a.wav")
    (top / "two" / "made.wav").symlink_to(top / "one" / "made" / "a.wav")
    return Folders(
        roots=(top / "one", top / "two"),
        data=top / "one" / "data",
        voices=top / "one" / "voices",
        speech=top / "one" / "made",
        downloads=top / "one" / "downloads",
    )


@pytest.fixture(scope="module")
def top(folders: Folders) -> Path:
    return folders.data.parent.parent


def content(ref: FileRef, folders: Folders) -> str:
    """Of the file that a reference means."""
    file = opened(ref, folders)
    return file.path.read_text()


def bound(text: str, folders: Folders, owns: bool = False) -> Path:
    ref = bind_path(text, folders, lambda path: owns)
    assert ref.kind == ("made" if owns else "path")
    return Path(ref.value)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("first.wav", "one/first.wav"),
        ("second.wav", "two/second.wav"),
        ("both.wav", "one/both.wav"),
        ("sub/a.wav", "one/sub/a.wav"),
        ("./sub/../sub//a.wav", "one/sub/a.wav"),
        ("../two/second.wav", "two/second.wav"),
        ("inward.wav", "two/a.wav"),
        ("{top}/two/both.wav", "two/both.wav"),
    ],
)
def test_path_is_looked_for_under_every_root(folders: Folders, top: Path, text: str, path: str) -> None:
    assert bound(text.format(top=top), folders) == top / path


def test_reference_remembers_the_clients_name_only(folders: Folders, top: Path) -> None:
    assert bind_path("sub/a.wav", folders, lambda path: False).name == "a.wav"
    assert bind_path("inward.wav", folders, lambda path: False).name == "inward.wav"


@pytest.mark.parametrize(
    "text",
    [
        "../outside/a.wav",
        "../outside/absent.wav",
        "{top}/outside/a.wav",
        "{top}/one-more/a.wav",
        "{top}",
        "/",
        "..",
        "{top}/one/outward.wav",
        "{top}/one/hidden.wav",
        "{top}/one/data",
        "{top}/one/data/a.wav",
        "{top}/one/data/absent.wav",
        "{top}/one/sub/../voices/a.wav",
        "../one/voices",
    ],
)
def test_what_lies_elsewhere_or_is_the_servers_is_forbidden(folders: Folders, top: Path, text: str) -> None:
    with pytest.raises(FileForbidden, match="MEDIA_ROOTS"):
        bound(text.format(top=top), folders, owns=True)


def test_what_the_server_made_outside_the_roots_is_its_owners_too(folders: Folders, top: Path) -> None:
    elsewhere = dataclasses.replace(folders, downloads=top / "outside")
    file = next(path for path in (top / "outside").iterdir() if path.is_file())
    assert content(bind_path(str(file), elsewhere, lambda path: True), elsewhere) == "outside"
    with pytest.raises(FileNotFound):
        bind_path(str(file), elsewhere, lambda path: False)


@pytest.mark.parametrize("text", ["made/a.wav", "{top}/one/made/a.wav", "made.wav", "sub/../made/a.wav"])
def test_what_the_server_made_is_there_for_its_owner_only(folders: Folders, top: Path, text: str) -> None:
    text = text.format(top=top)
    assert bound(text, folders, owns=True) == top / "one" / "made" / "a.wav"
    with pytest.raises(FileNotFound) as others:
        bound(text, folders, owns=False)
    with pytest.raises(FileNotFound) as absent:
        bound(text.replace("a.wav", "b.wav").replace("made.wav", "bade.wav"), folders, owns=False)
    assert others.value.message.replace(text, "") == absent.value.message.replace(
        text.replace("a.wav", "b.wav").replace("made.wav", "bade.wav"), ""
    )


@pytest.fixture
def odd(top: Path) -> Iterator[Path]:
    """A folder under a root with one of each thing that is no file."""
    folder = top / "two" / "odd"
    folder.mkdir(exist_ok=True)
    os.mkfifo(folder / "pipe")
    listening = socket.socket(socket.AF_UNIX)
    descriptor = os.open(folder, os.O_RDONLY)
    listening.bind(f"/proc/self/fd/{descriptor}/socket")
    os.close(descriptor)
    yield folder
    listening.close()
    (folder / "socket").unlink()
    (folder / "pipe").unlink()


def test_only_regular_files_are_taken(folders: Folders, odd: Path) -> None:
    for name in (".", "pipe", "socket"):
        with pytest.raises(InvalidInput):
            bound(str(odd / name), folders)


def test_file_is_looked_at_again_when_it_is_opened(folders: Folders, top: Path) -> None:
    """Between the door and the worker a client may have put a link, a folder or nothing in its place."""
    path = top / "one" / "changing.wav"
    path.write_text("changing")
    ref = bind_path(str(path), folders, lambda path: False)
    assert content(ref, folders) == "changing"
    path.unlink()
    with pytest.raises(FileNotFound):
        opened(ref, folders)
    for elsewhere in ("outside/a.wav", "one/data/a.wav", "one/voices/a.wav", "one/made/a.wav"):
        path.symlink_to(top / elsewhere)
        with pytest.raises(FileForbidden):
            opened(ref, folders)
        path.unlink()
    path.symlink_to(top / "two" / "a.wav")
    assert content(ref, folders) == "two"
    path.unlink()
    for make in (Path.mkdir, os.mkfifo):
        make(path)
        with pytest.raises(InvalidInput):
            opened(ref, folders)
        path.rmdir() if path.is_dir() else path.unlink()


def test_what_the_server_made_is_no_link_to_what_it_made_for_another(folders: Folders, top: Path) -> None:
    link = top / "one" / "made" / "link.wav"
    link.symlink_to("a.wav")
    with pytest.raises(FileNotFound):
        opened(FileRef("made", str(link), "link.wav"), folders)
    for value in ("a.wav", f"{top}/one/made/../../outside/a.wav", f"{top}/one/made/../made/a.wav"):
        with pytest.raises((FileNotFound, FileForbidden)):
            opened(FileRef("made", value), folders)


def test_uploads_are_found_by_their_id_only(folders: Folders) -> None:
    file_id = "file_" + "0" * 32
    with pytest.raises(FileNotFound):
        opened(FileRef("upload", file_id), folders)
    (folders.uploads / file_id).write_text("upload")
    assert content(FileRef("upload", file_id), folders) == "upload"
    (folders.uploads / f"file_{'1' * 32}").symlink_to(folders.uploads / file_id)
    for value in ("a.wav", "../a.wav", f"../uploads/{file_id}", f"{file_id}/", "", f"file_{'1' * 32}"):
        with pytest.raises(FileNotFound):
            opened(FileRef("upload", value), folders)


def test_a_tasks_file_stays_the_one_that_it_opened_first(folders: Folders, top: Path) -> None:
    path = top / "one" / "kept.wav"
    path.write_text("first")
    ref, files = FileRef("path", str(path)), TaskFiles(folders)
    named = files.path(ref)
    path.unlink()
    path.write_text("second")
    assert files.path(ref) == named
    assert named.read_text() == "first"
    files.close()
    assert not named.exists()
    assert files.path(ref).read_text() == "second"
    files.close()


parts = st.sampled_from(
    (
        "..",
        ".",
        "",
        "a.wav",
        "sub",
        "data",
        "voices",
        "made",
        "outside",
        "one",
        "two",
        "outward.wav",
        "~",
        "\0",
        "\udc80",
    )
)
paths = st.builds(
    lambda start, middle: start + "/".join(middle), st.sampled_from(("", "/", "{top}/")), st.lists(parts, max_size=8)
)


@settings(deadline=None, database=None, max_examples=500, suppress_health_check=list(HealthCheck))
@given(paths | st.text(st.characters(), max_size=60))
@example("\ud800")
@example("a" * 5000)
@example("\N{SNOWMAN}" * 2000)
def test_no_path_leads_out(folders: Folders, top: Path, text: str) -> None:
    """Whatever is sent is refused with an error of its own, or is a regular file under a root, and not the server's."""
    text = text.replace("{top}", str(top))
    try:
        path = bound(text, folders)
    except ServiceError as exc:
        assert exc.code in ("INVALID_INPUT", "FILE_FORBIDDEN", "FILE_NOT_FOUND")
        assert exc.details == {"field": "file"}
        return
    real = path.resolve(strict=True)
    assert real == path
    assert path.is_file()
    assert any(path.is_relative_to(root) for root in folders.roots)
    assert not any(path.is_relative_to(folder) for folder in (*folders.hidden, *folders.made))
