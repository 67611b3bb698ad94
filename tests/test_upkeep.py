"""`optivus doctor` and `optivus backup`: what a server keeps is checked, mended and copied."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from client import Client
from contract.folders import Folders
from storage.backup import backup
from storage.doctor import examine
from storage.ledger import Unusable
from storage.records import BlobRecord, Change
from storage.sqlite import SqliteLedger
from tests.drills import DrillServer
from tests.servers import ROOT
from tests.test_broken_ledger import change, cut_it_short, drop_an_index, drop_events, make_it_a_folder
from tests.test_ledger import event, file, job, run

BLOB = "0" * 32 + ".json"


@pytest_asyncio.fixture
async def folders(tmp_path: Path) -> AsyncIterator[Folders]:
    """What a server has left: 200 jobs, one with a result beside the ledger, and an upload."""
    folders = Folders((), tmp_path / "data", tmp_path / "voices", tmp_path / "speech", tmp_path / "downloads")
    for folder in (folders.blobs, folders.uploads, folders.voices / "a"):
        folder.mkdir(parents=True)
    ledger = SqliteLedger(folders.data / "ledger.sqlite3")
    for number in range(200):
        name = f"job_{number:03}"
        blobs = (BlobRecord(BLOB, 2),) if not number else ()
        await ledger.accept(Change(job(name), (run(),), (event(1, text="x" * 500),), (), blobs))
    upload = file(path="")
    upload = upload._replace(path=str(folders.uploads / upload.id))
    await ledger.keep(upload)
    await ledger.close()
    (folders.blobs / BLOB).write_text("{}")
    Path(upload.path).write_text("sound")
    (folders.voices / "a" / "voice.json").write_text("{}")
    (folders.data / "secret.key").write_bytes(b"k" * 32)
    yield folders


def said(folders: Folders, repair: bool = False) -> list[str]:
    return [finding.sentence for finding in examine(folders, repair)]


def count(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as ledger:
        return int(ledger.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


async def test_what_is_well_is_left_as_it_is(folders: Folders) -> None:
    before = {path: path.stat().st_mtime_ns for path in folders.data.rglob("*") if path.is_file()}
    assert said(folders, repair=True) == []
    after = {path: path.stat().st_mtime_ns for path in folders.data.rglob("*") if path.is_file()}
    assert {path.name for path in before} == {path.name for path in after}


async def test_files_of_nobody_go_and_what_is_not_known_stays(folders: Folders) -> None:
    orphan, upload, stranger = (
        folders.blobs / f"{'1' * 32}.bin",
        folders.uploads / f"file_{'1' * 32}",
        folders.blobs / "x",
    )
    for path in (orphan, upload, stranger):
        path.write_text("?")
    assert len(said(folders)) == 3
    assert all(path.exists() for path in (orphan, upload, stranger))
    assert len(said(folders, repair=True)) == 3
    assert [path.exists() for path in (orphan, upload, stranger)] == [False, False, True]
    assert len(said(folders)) == 1


async def test_what_is_lost_and_what_cannot_be_read_is_named(folders: Folders) -> None:
    (folders.blobs / BLOB).unlink()
    for path in folders.uploads.iterdir():
        path.unlink()
    change(folders.data / "ledger.sqlite3", "UPDATE jobs SET params='{' WHERE id='job_007'")
    (folders.data / "secret.key").write_bytes(b"")
    told = " ".join(said(folders))
    for word in (BLOB, "file_", "job_007", "secret.key"):
        assert word in told


def break_a_page(path: Path) -> None:
    """One in the middle."""
    change(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    content = path.read_bytes()
    middle = len(content) // 2 // 4096 * 4096
    path.write_bytes(content[:middle] + b"\xff" * 4096 + content[middle + 4096 :])


@pytest.mark.parametrize("damage", [drop_an_index, drop_events, break_a_page, cut_it_short])
async def test_a_damaged_ledger_can_be_used_again_with_all_that_can_be_read(
    folders: Folders, damage: Callable[[Path], None]
) -> None:
    path = folders.data / "ledger.sqlite3"
    damage(path)
    assert said(folders)
    assert said(folders, repair=True)
    ledger = SqliteLedger(path)
    await ledger.accept(Change(job("new")))
    await ledger.close()
    if damage is not cut_it_short:
        assert count(path, "jobs") >= 100
    kept = list(folders.data.glob("ledger.sqlite3.damaged-*"))
    assert bool(kept) == (damage is not drop_an_index)
    assert not [sentence for sentence in said(folders) if "ledger is damaged" in sentence]


async def test_a_folder_for_a_ledger_is_left_alone(folders: Folders) -> None:
    make_it_a_folder(folders.data / "ledger.sqlite3")
    assert "is no file" in said(folders, repair=True)[0]
    assert (folders.data / "ledger.sqlite3").is_dir()


async def test_a_copy_has_what_its_ledger_names(folders: Folders, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    kept = backup(folders, target)
    assert (kept.blobs, kept.uploads, kept.gone) == (1, 1, ())
    assert count(target / "data" / "ledger.sqlite3", "jobs") == 200
    assert (target / "data" / "blobs" / BLOB).read_text() == "{}"
    assert (target / "data" / "secret.key").read_bytes() == b"k" * 32
    assert (target / "voices" / "a" / "voice.json").exists()
    with pytest.raises(Unusable, match="there already"):
        backup(folders, target)


async def test_a_voice_that_is_deleted_meanwhile_is_named_and_no_part_of_it_copied(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for voice in ("b/voice_1", "b/voice_2"):
        (folders.voices / voice).mkdir(parents=True)
        (folders.voices / voice / "voice.json").write_text("{}")
    copy = shutil.copystat

    def copy_and_delete(source: str, *args: Any, **options: Any) -> None:
        copy(source, *args, **options)
        if Path(source).parent.name == "voice_1":
            shutil.rmtree(Path(source).parent)

    monkeypatch.setattr(shutil, "copystat", copy_and_delete)
    target = tmp_path / "copy"
    assert backup(folders, target).gone == ("b/voice_1",)
    assert sorted(path.name for path in (target / "voices" / "b").iterdir()) == ["voice_2"]


def optivus(server: DrillServer, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "client", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=server.env, capture_output=True, text=True, check=False, timeout=60)


def test_a_running_server_is_copied_and_the_copy_is_a_server(tmp_path: Path) -> None:
    with DrillServer(tmp_path) as server, Client(server.url) as client:
        job = client.submit("drill", script=["go"])
        job.result()
        token = client.token
        made = optivus(server, "backup", tmp_path / "copy")
        assert made.returncode == 0, made.stderr
        busy = optivus(server, "doctor")
        assert (busy.returncode, "is running on" in busy.stderr) == (2, True)
    shutil.rmtree(server.data)
    shutil.copytree(tmp_path / "copy" / "data", server.data)
    assert optivus(server, "doctor").returncode == 0
    with server, Client(server.url, token) as client:
        assert [info.job_id for info in client.jobs()] == [job.id]
        assert client.job(job.id).result()["status"] == "success"


def test_a_folder_in_which_no_server_has_run_is_not_well(tmp_path: Path) -> None:
    server = DrillServer(tmp_path)
    found = optivus(server, "doctor")
    assert (found.returncode, "There is no ledger" in found.stderr) == (2, True)
    assert not server.data.exists()


def test_what_is_wrong_is_status_1_until_it_is_mended(tmp_path: Path) -> None:
    server = DrillServer(tmp_path)
    (server.data / "blobs").mkdir(parents=True)
    orphan = server.data / "blobs" / BLOB
    orphan.touch()
    with server:
        """Its start makes a ledger, and clears what a crash left."""
    orphan.touch()
    found = optivus(server, "doctor")
    assert (found.returncode, str(orphan) in found.stdout) == (1, True)
    mended = optivus(server, "doctor", "--repair")
    assert (mended.returncode, orphan.exists()) == (0, False)
    assert "Mended." in mended.stdout
