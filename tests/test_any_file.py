"""A file may stand in any parameter that a worker declares as one, whatever the worker calls it."""

from __future__ import annotations

from pathlib import Path

import aiohttp

from client import AsyncClient
from tests.asking import Call

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
