"""SQLite's ledger on files that earlier versions of the server wrote."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import orjson

from contract.identity import Whose
from contract.messages import LOCAL_OWNER
from storage.sqlite import MIGRATIONS
from tests.roads import ME, Road
from tests.toys.toy import Toy

NEVER = 4e9
"""A deadline, in seconds since 1970."""
OF_VERSION_1 = f"""
    INSERT INTO jobs VALUES ('under_way', 'me', '{LOCAL_OWNER}', '"mine"', 'toy', 'toy', '{{"words": ["a", "b"]}}',
        '[]', 'k', 0, 1.0, {NEVER}, NULL, 'processing', 3, 1);
    INSERT INTO tasks VALUES ('under_way', 'toy', '[]', 'queued', 1, 0, 'toy:77', 5.0, '1', NULL);
    INSERT INTO events VALUES ('under_way', 1, 'partial', 'toy', '[]', 0, '{{"seq": 1, "data": "A"}}');
    INSERT INTO jobs VALUES ('over', 'me', '{LOCAL_OWNER}', 'null', 'toy', 'toy', '{{"words": []}}', '["odd"]',
        NULL, 0, 2.0, {NEVER}, 3.0, 'completed', 4, 1);
    INSERT INTO tasks VALUES ('over', 'toy', '[]', 'done', 2, 1, NULL, NULL, NULL, '{{"words": []}}');
    INSERT INTO events VALUES ('over', 1, 'final', '', '[]', NULL, '{{"seq": 1, "status": "success"}}')
"""


async def test_jobs_of_the_first_version_go_on(tmp_path: Path) -> None:
    path = tmp_path / "data" / "ledger.sqlite3"
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as first:
        first.executescript(f"{MIGRATIONS[0]}; {OF_VERSION_1}; PRAGMA user_version=1")
    road = await Road(tmp_path, [Toy], open_jobs_per_client=1).start()
    final = await road.final("under_way")
    assert (final["toy"]["words"], final["id"]) == (["A", "B"], "mine")
    stored = await road.ledger.load("under_way")
    assert stored is not None
    assert (stored.job.limited_as, stored.job.plan_version, stored.job.key) == ("me", 1, "k")
    assert [(run.state, run.attempt, run.retries) for run in stored.runs] == [("done", 2, 0)]
    assert [job.id for job in await road.ledger.jobs(Whose(LOCAL_OWNER, "me"), 9)] == ["over", "under_way"]
    assert orjson.loads(await road.ledger.answer("over") or b"") == {"seq": 1, "status": "success"}
    await road.final(await road.queue.submit({"type": "toy", "words": ["c"]}, ME))
    await road.close()
