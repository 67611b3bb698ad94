"""What somebody left who was killed goes; a user's files, and what others are still at work on, stay."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from filelock import FileLock

from contract import clock
from contract.folders import Folders
from pipeline.steps import State
from storage.leftovers import DAY, HOUR, Leftovers
from storage.records import BlobRecord, Change
from storage.retention import Retention
from storage.sqlite import SqliteLedger
from storage.workdirs import half
from tests.test_ledger import file, job

OPEN, ENDED = f"job_{'0' * 24}", f"job_{'1' * 24}"


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    made = Folders((), *(tmp_path / name for name in ("data", "voices", "speech", "downloads")))
    for folder in (made.blobs, made.uploads, made.work, made.models / "converted", made.voices, *made.made):
        folder.mkdir(parents=True)
    return made


@pytest_asyncio.fixture
async def ledger(folders: Folders) -> AsyncIterator[SqliteLedger]:
    """Of an unfinished job with a result and an upload."""
    ledger = SqliteLedger(folders.ledger)
    await ledger.accept(Change(job(OPEN), blobs=(BlobRecord(_blob(folders, 0).name, 2),)))
    await ledger.keep(file(path=str(_upload(folders, 0)))._replace(id=_upload(folders, 0).name))
    yield ledger
    await ledger.close()


def _blob(folders: Folders, digit: int) -> Path:
    return folders.blobs / f"{str(digit) * 32}.json"


def _upload(folders: Folders, digit: int) -> Path:
    return folders.uploads / f"file_{str(digit) * 32}"


def lie(*paths: Path) -> list[Path]:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return list(paths)


def lie_in(*folders: Path) -> list[Path]:
    """Folders with a file each."""
    lie(*(folder / "half.wav" for folder in folders))
    return list(folders)


def kept(folders: Folders) -> list[Path]:
    """The ledger's, and a user's, whatever is beside them."""
    models = (folders.models / "mine.part", folders.models / "converted" / "model.lock")
    films = (folders.downloads / "film.part", folders.speech / ".notes.part", folders.voices / ".making-of")
    work = (folders.work / "novel.txt", folders.work / "job_of.mine.1")
    mine = (folders.blobs / "letter.json", folders.uploads / "file_thesis", *work, *models, *films)
    return [
        *lie(_blob(folders, 0), _upload(folders, 0), *mine),
        *lie_in(folders.work / "drafts", folders.temporary / "a"),
    ]


def abandoned(folders: Folders) -> list[Path]:
    return lie_in(folders.work / f"{ENDED}.drill.0-1.1", folders.work / "warm-up.7")


async def test_a_start_deletes_what_is_nobodys_and_no_file_of_a_user(ledger: SqliteLedger, folders: Folders) -> None:
    attempt = folders.work / f"{OPEN}.drill..2"
    over = [*lie(_blob(folders, 1), _upload(folders, 1)), *lie_in(attempt, folders.temporary / "7")]
    over += abandoned(folders)
    young = [*lie(half(folders.downloads, "key")), *lie_in(folders.voices / f".making-{'a' * 32}")]
    known = kept(folders)
    keeper = Retention(ledger, folders, 72)
    await keeper.start()
    await keeper.close()
    assert not any(path.exists() for path in over)
    assert all(path.exists() for path in (*known, *young))


async def test_what_nobody_has_touched_for_long_goes_while_the_server_runs(
    ledger: SqliteLedger, folders: Folders
) -> None:
    known = [*kept(folders), *lie_in(folders.work / f"{OPEN}.drill..2")]
    voices = [f".making-{'a' * 32}", f".deleting-{'b' * 32}"]
    slow = lie_in(*(folders.voices / name for name in voices))
    slow += lie(_blob(folders, 1), _upload(folders, 1), folders.voices / "ann" / "voice_1" / f".wav-{'c' * 32}")
    quick = [*abandoned(folders), *lie(half(folders.downloads, "a"))]
    (growing,) = lie(half(folders.speech, "b"))
    leftovers = Leftovers(ledger, folders)
    await leftovers.clear(0.0)
    os.utime(growing, (1.0, 1.0))
    await leftovers.clear(HOUR)
    assert not any(path.exists() for path in quick)
    assert all(path.exists() for path in (*known, *slow, growing))
    await leftovers.clear(DAY)
    assert not any(path.exists() for path in (*slow, growing))
    assert all(path.exists() for path in known)


async def test_half_of_a_model_goes_once_nobody_fetches_it(ledger: SqliteLedger, folders: Folders) -> None:
    (part,) = lie_in(folders.models / "converted" / "model.part")
    lie(*(folders.models / name for name in ("mine.part", "converted/model.lock")))
    leftovers = Leftovers(ledger, folders)
    with FileLock(part.with_suffix(".lock")):
        for now in (0.0, 3 * DAY):
            await leftovers.clear(now)
            assert part.exists()
    await leftovers.clear(3 * DAY)
    assert not part.exists()
    assert (folders.models / "mine.part").exists()


async def test_a_disk_that_is_gone_does_not_keep_the_rest(
    ledger: SqliteLedger, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stale,), (old,) = lie(_blob(folders, 1)), lie(_upload(folders, 1))
    look = Path.lstat

    def lstat(path: Path) -> os.stat_result:
        if path == stale:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return look(path)

    monkeypatch.setattr(Path, "lstat", lstat)
    leftovers = Leftovers(ledger, folders)
    for now in (0.0, DAY):
        await leftovers.clear(now)
    assert not old.exists()


async def test_a_file_in_the_result_of_an_unfinished_job_stays(ledger: SqliteLedger, folders: Folders) -> None:
    """Whatever its name has of quotes, and whatever else is damaged."""
    path = '/made/"sings" \\ é.wav'
    old = clock.now() - 4 * DAY
    await ledger.accept(Change(job("needs", created_at=old, params={"list": [{"file": path}]}, state=State.PENDING)))
    await ledger.keep(file(path=path, created_at=old))
    await ledger.keep(file(path="/made/other.wav", created_at=old))
    over = await ledger.expired(clock.now() - 3 * DAY, 10)
    assert "/made/other.wav" in over.files
    assert path not in over.files
