"""One suite over any ledger: what each verb promises, conflicts, order, and what a later start finds.

A new ledger is one more row of `LEDGERS`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio

from contract.identity import Whose
from contract.messages import LOCAL_OWNER
from storage.ledger import Conflict, Ledger
from storage.records import (
    BlobRecord,
    Change,
    EventRecord,
    Expired,
    FileRecord,
    JobRecord,
    Known,
    Place,
    RunRecord,
    StoredJob,
    new_file_id,
)
from storage.sqlite import SqliteLedger

LEDGERS: dict[str, Callable[[Path], Ledger]] = {
    "sqlite": lambda folder: SqliteLedger(folder / "ledger.sqlite3"),
}
ANN = Whose(LOCAL_OWNER, "ann")
ACME = Whose("acme", None)

Open = Callable[[], Ledger]


@pytest.fixture(params=list(LEDGERS.values()), ids=list(LEDGERS))
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same ledger each time."""
    return partial(request.param, tmp_path)


@pytest_asyncio.fixture
async def ledger(opened: Open) -> AsyncIterator[Ledger]:
    ledger = opened()
    yield ledger
    await ledger.close()


def job(job_id: str = "job", **changed: Any) -> JobRecord:
    record = JobRecord(
        id=job_id,
        client="ann",
        owner=LOCAL_OWNER,
        limited_as="198.51.100.7",
        client_id={"mine": [1, None, "é"]},
        type="toy",
        plan="toy.data",
        plan_version=3,
        params={"words": ["a", {"b": 2.5}]},
        warnings=("unknown key 'x' was ignored",),
        key=None,
        priority=1,
        created_at=100.5,
        deadline=200.25,
        waiting_for=None,
        waiting_since=None,
        finished_at=None,
        state="pending",
        version=1,
        seq=0,
    )
    return record._replace(**changed)


def run(stage: str = "toy", item: tuple[int, ...] = (0,), **changed: Any) -> RunRecord:
    record = RunRecord(stage, item, state="queued", attempt=1, deaths=0, retries=0, checkpoint=None, result=None)
    return record._replace(**changed)


def event(seq: int, kind: str = "partial", index: int | None = None, **body: Any) -> EventRecord:
    return EventRecord(seq, kind, "toy", (0,), index, orjson.dumps({"seq": seq, **body}))


def file(owner: str = "acme", path: str = "/data/uploads/a", **changed: Any) -> FileRecord:
    return FileRecord(new_file_id(), owner, path, "a.wav", 5, 100.0)._replace(**changed)


def headless(record: JobRecord) -> JobRecord:
    """As listings have it."""
    return record._replace(params={}, warnings=())


class Answers:
    """What became of several writes, in the order in which it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, type[Exception] | None]] = []

    def of(self, name: str) -> Callable[[Exception | None], None]:
        return lambda error: self.told.append((name, type(error) if error else None))


# A job's life.


async def test_what_is_accepted_is_read_as_it_was_written(ledger: Ledger) -> None:
    runs = (run("other", (1, 2), state="done", attempt=2, deaths=1, retries=4, result={"x": [1]}), run())
    await ledger.accept(Change(job(), runs))
    assert await ledger.unfinished() == [StoredJob(job(), runs)]
    assert await ledger.load("job") == StoredJob(job(), runs)
    assert await ledger.job("job") == headless(job())


async def test_what_never_was_is_nowhere(ledger: Ledger) -> None:
    assert await ledger.load("job") is None
    assert await ledger.job("job") is None
    assert await ledger.job_by_key("ann", "k") is None
    assert await ledger.answer("job") is None
    assert await ledger.told("job", 0) == []
    assert await ledger.file("file") is None
    assert await ledger.file_at("/data") is None
    assert await ledger.unfinished() == []
    assert await ledger.expired(1e9, 10) == Expired((), (), ())


async def test_a_step_changes_the_job_its_runs_and_what_was_told(ledger: Ledger) -> None:
    await ledger.accept(Change(job(), (run(),)))
    later = job(state="waiting", version=2, seq=2, deadline=300.5, waiting_for="review.1", waiting_since=150.0)
    done = run(state="done", attempt=2, deaths=1, retries=1, checkpoint=[1], result={"text": "é"})
    await ledger.advanced(Change(later, (done,), (event(1), event(2))), version=1)
    assert await ledger.load("job") == StoredJob(later, (done,))
    assert await ledger.told("job", 0) == [event(1), event(2)]


async def test_a_job_that_has_ended_is_unfinished_no_more_and_has_an_answer(ledger: Ledger) -> None:
    await ledger.accept(Change(job()))
    assert await ledger.answer("job") is None
    final = event(1, "final", status="success")
    ended = job(state="completed", version=2, seq=1, finished_at=160.0)
    await ledger.advanced(Change(ended, events=(final,)), version=1)
    assert await ledger.answer("job") == final.body
    assert await ledger.unfinished() == []
    assert await ledger.job("job") == headless(ended)


async def test_a_job_has_one_final_answer(ledger: Ledger) -> None:
    await ledger.accept(Change(job()))
    await ledger.advanced(Change(job(version=2, seq=1), events=(event(1, "final"),)), version=1)
    with pytest.raises(Conflict):
        await ledger.advanced(Change(job(version=3, seq=2), events=(event(2, "final"),)), version=2)
    assert await ledger.told("job", 0) == [event(1, "final")]


async def test_unfinished_jobs_come_oldest_first(ledger: Ledger) -> None:
    for name, created_at in (("b", 2.0), ("c", 3.0), ("a", 1.0)):
        await ledger.accept(Change(job(name, created_at=created_at)))
    assert [stored.job.id for stored in await ledger.unfinished()] == ["a", "b", "c"]


# Conflicts, order, shared commits.


async def test_a_stale_version_changes_nothing(ledger: Ledger) -> None:
    await ledger.accept(Change(job()))
    await ledger.advanced(Change(job(version=5)), version=1)
    stale = Change(job(version=2, seq=1), (run(),), (event(1),), (file(),), (BlobRecord("blob", 5),))
    for version in (1, 2, 6):
        with pytest.raises(Conflict):
            await ledger.advanced(stale, version=version)
    with pytest.raises(Conflict):
        await ledger.advanced(Change(job("other")), version=1)
    assert await ledger.load("job") == StoredJob(job(version=5), ())
    assert await ledger.told("job", 0) == []
    assert await ledger.known() == Known(frozenset(), frozenset(), frozenset({"job"}))


async def test_a_key_is_one_job_of_its_client(ledger: Ledger) -> None:
    await ledger.accept(Change(job("first", key="k")))
    with pytest.raises(Conflict):
        await ledger.accept(Change(job("second", key="k")))
    await ledger.accept(Change(job("third", key="k", client="bob")))
    assert await ledger.job_by_key("ann", "k") == "first"
    assert await ledger.job_by_key("bob", "k") == "third"
    assert await ledger.job("second") is None


async def test_writes_keep_their_order_and_a_wrong_one_is_told_so_alone(ledger: Ledger) -> None:
    answers = Answers()
    for name in ("a", "b"):
        await ledger.accept(Change(job(name)))
    for number in range(1, 100):
        ledger.advance(Change(job("a", version=number + 1)), number, answers.of(f"a{number}"))
    ledger.advance(Change(job("b", version=9)), 7, answers.of("stale"))
    ledger.advance(Change(job("b", version=2)), 1, answers.of("b1"))
    await ledger.settled()
    right: list[tuple[str, type[Exception] | None]] = [(f"a{number}", None) for number in range(1, 100)]
    assert answers.told == [*right, ("stale", Conflict), ("b1", None)]
    assert (await ledger.load("a"), await ledger.load("b")) == (
        StoredJob(job("a", version=100), ()),
        StoredJob(job("b", version=2), ()),
    )


async def test_writes_that_nobody_waits_for_share_the_next_commit(ledger: Ledger) -> None:
    await ledger.accept(Change(job()))
    before, answers = ledger.commits, Answers()
    for number in range(1, 50):
        ledger.advance(Change(job(version=number + 1)), number, answers.of(str(number)), soon=False)
    await ledger.advanced(Change(job(version=51)), 50)
    assert answers.told == [(str(number), None) for number in range(1, 50)]
    assert ledger.commits == before + 1


async def test_a_write_that_nobody_waits_for_is_written_all_the_same(ledger: Ledger) -> None:
    await ledger.accept(Change(job()))
    answers = Answers()
    ledger.advance(Change(job(version=2)), 1, answers.of("late"), soon=False)
    await ledger.settled()
    assert answers.told == [("late", None)]


# Listings.


async def test_listings_are_a_clients_or_where_there_are_accounts_an_owners(ledger: Ledger) -> None:
    jobs = [
        job("a1", client="ann", created_at=1.0, seq=4),
        job("a2", client="ann", created_at=3.0),
        job("b1", client="bob", created_at=2.0),
        job("o1", client="carl", owner="acme", created_at=2.0, seq=7),
        job("o2", client="dora", owner="acme", created_at=4.0),
        job("o3", client="ann", owner="other", created_at=4.0),
    ]
    for each in jobs:
        await ledger.accept(Change(each))
    assert await ledger.jobs(ANN, 9) == [headless(jobs[1]), headless(jobs[0])]
    assert [each.id for each in await ledger.jobs(ACME, 9)] == ["o2", "o1"]
    assert [each.id for each in await ledger.jobs(ACME, limit=1)] == ["o2"]
    assert [each.id for each in await ledger.jobs(ACME, 9, after=Place(jobs[4].created_at, jobs[4].id))] == ["o1"]
    assert await ledger.jobs(Whose(LOCAL_OWNER, "nobody"), 9) == []
    everything = [each.id for each in jobs] + ["never"]
    assert await ledger.seqs(ANN, everything) == {"a1": 4, "a2": 0}
    assert await ledger.seqs(ACME, everything) == {"o1": 7, "o2": 0}
    assert await ledger.seqs(ANN, []) == {}


# What clients were told.


async def test_what_was_told_comes_in_pages(ledger: Ledger) -> None:
    events = tuple(event(number, text="x" * 1000) for number in range(1, 31))
    await ledger.accept(Change(job(seq=30), events=events))
    page = await ledger.told("job", 0, enough=5000)
    assert 2 <= len(page) < 10
    assert page == list(events[: len(page)])
    assert await ledger.told("job", 20) == list(events[20:])
    assert len(await ledger.told("job", 3, enough=0)) == 1
    assert await ledger.told("job", 30) == []


async def test_a_later_attempt_gets_the_newest_of_each_index(ledger: Ledger) -> None:
    sound = {"sample_rate": 8000, "audio": "AAAA"}
    events = (
        event(1, index=0, data={"text": "a"}),
        event(2, index=1, data="b"),
        event(3, index=0, data=None),
        event(4, "audio", 2, start=5, end=9, **sound),
        EventRecord(5, "partial", "toy", (1,), 0, orjson.dumps({"data": "another item's"})),
        EventRecord(6, "partial", "other", (0,), 0, orjson.dumps({"data": "another stage's"})),
        event(7, "final"),
    )
    await ledger.accept(Change(job(), events=events))
    assert await ledger.finished("job", "toy", (0,)) == [None, "b", {"start": 5, "end": 9}]
    assert await ledger.finished("job", "toy", (2,)) == []


# Files.


async def test_a_file_is_found_by_its_id_and_by_its_path_until_it_is_dropped(ledger: Ledger) -> None:
    kept = file()
    await ledger.keep(kept)
    assert await ledger.file(kept.id) == await ledger.file_at(kept.path) == kept
    await ledger.drop(kept.id)
    assert await ledger.file(kept.id) is None
    with pytest.raises(Conflict):
        await ledger.drop(kept.id)


async def test_a_path_stays_its_owners(ledger: Ledger) -> None:
    """A worker may make the same file again; nobody becomes the owner of another's by making it."""
    first, again, theirs = file(bytes=1), file(bytes=2, created_at=150.0), file(owner="thief", bytes=3)
    await ledger.accept(Change(job(), files=(first,)))
    await ledger.advanced(Change(job(version=2), files=(again, theirs)), version=1)
    assert await ledger.file_at(first.path) == first._replace(bytes=2, created_at=150.0)
    assert await ledger.file(theirs.id) is None


# Retention, and the next start.


async def test_what_is_over_is_forgotten_with_all_that_belongs_to_it(ledger: Ledger) -> None:
    old, new, kept = file(path="/old", created_at=10.0), file(path="/new", created_at=99.0), BlobRecord("kept", 1)
    await ledger.accept(
        Change(job("old", finished_at=10.0, key="k"), (run(),), (event(1, "final"),), (old, new), (BlobRecord("b", 2),))
    )
    await ledger.accept(Change(job("open"), (run(),), (), (), (kept,)))
    await ledger.accept(Change(job("late", finished_at=99.0)))
    assert await ledger.known() == Known(frozenset({"b", "kept"}), frozenset({old.id, new.id}), frozenset({"open"}))
    over = await ledger.expired(50.0, 10)
    assert over == Expired(("old",), ("b",), ("/old",))
    await ledger.forget(over)
    assert await ledger.expired(50.0, 10) == Expired((), (), ())
    assert await ledger.load("old") is None
    assert await ledger.told("old", 0) == []
    assert await ledger.known() == Known(frozenset({"kept"}), frozenset({new.id}), frozenset({"open"}))
    await ledger.accept(Change(job("old", key="k")))
    assert {stored.job.id for stored in await ledger.unfinished()} == {"old", "open"}
    assert [len(stored.runs) for stored in await ledger.unfinished() if stored.job.id == "old"] == [0]


async def test_what_is_over_comes_in_portions(ledger: Ledger) -> None:
    for number in range(5):
        await ledger.accept(Change(job(str(number), finished_at=1.0), files=(file(path=str(number)),)))
    over = await ledger.expired(1e9, 2)
    assert (len(over.jobs), len(over.files)) == (2, 2)


async def test_a_later_start_finds_everything(opened: Open) -> None:
    ledger = opened()
    kept, answers = file(), Answers()
    await ledger.accept(Change(job(key="k"), (run(),), (event(1),), (kept,), (BlobRecord("b", 2),)))
    for number in range(1, 20):
        ledger.advance(Change(job(version=number + 1)), number, answers.of(str(number)), soon=number < 10)
    await ledger.close()
    assert len(answers.told) == 19
    ledger = opened()
    assert await ledger.unfinished() == [StoredJob(job(version=20, key="k"), (run(),))]
    assert await ledger.told("job", 0) == [event(1)]
    assert await ledger.file(kept.id) == kept
    assert await ledger.known() == Known(frozenset({"b"}), frozenset({kept.id}), frozenset({"job"}))
    await ledger.close()
