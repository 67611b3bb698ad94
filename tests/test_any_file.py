"""A file may stand in any parameter that a worker declares as one, whatever the worker calls it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import aiohttp

from client import AsyncClient
from tests.asking import Call
from tests.roads import ME, Road
from tests.toys.looker import Looker

PICTURE = b"as good as a picture"


async def test_a_model_of_ones_own_takes_its_file_by_path_upload_and_content(url: str, media: Path, call: Call) -> None:
    (media / "mine.png").write_bytes(PICTURE)
    form = aiohttp.FormData()
    form.add_field("file", PICTURE, filename="sent.png")
    async with AsyncClient(url) as client:
        uploaded = (await call("POST", "/files", client.token, data=form)).body["file_id"]
        for file in ("mine.png", str(media / "mine.png"), uploaded, PICTURE):
            answer = await (await client.submit(type="looker", image=file, others=[file])).result()
            assert answer["sizes"] == [len(PICTURE)] * 2
        batch = await (await client.submit(type="looker", data=[{"image": "mine.png"}, {"image": "gone.png"}])).result()
    assert [item.get("sizes", item.get("error_code")) for item in batch["data"]] == [[len(PICTURE)], "FILE_NOT_FOUND"]


async def test_it_takes_its_file_from_a_form(call: Call) -> None:
    form = aiohttp.FormData()
    form.add_field("image", PICTURE, filename="sent.png")
    form.add_field("type", "looker")
    reply = await call("POST", "/jobs?wait=60", data=form)
    assert (reply.status, reply.body["sizes"]) == (200, [len(PICTURE)])


async def test_content_in_any_parameter_is_kept_as_an_upload_of_its_owner(tmp_path: Path) -> None:
    """Else the next start of the server would take the file for a stranger's and delete it."""
    road = await Road(tmp_path, [Looker]).start()
    job = await road.queue.submit({"type": "looker", "image": PICTURE}, ME)
    assert (await road.final(job))["sizes"] == [len(PICTURE)]
    await road.close()
    with sqlite3.connect(road.folders.data / "ledger.sqlite3") as ledger:
        kept = ledger.execute("SELECT path, bytes FROM files").fetchall()
    [upload] = road.folders.uploads.iterdir()
    assert kept == [(str(upload), len(PICTURE))]
