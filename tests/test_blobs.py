"""Large results as parameters: a worker sees what the reference stands for, and clients cannot write one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import orjson
import pytest

from contract.folders import Folders
from contract.messages import BLOB, BlobRef, Event, Task, escaped, filled
from storage import blobs
from tests import drive
from tests.inline import over_the_pipe
from tests.roads import ME, Road
from workers.base import Context, Params, Run, Worker
from workers.runtime.engine import Engine

NAME = f"{'ab' * 16}.json"
SOUND = f"{'cd' * 16}.bin"


class EchoParams(Params):
    plain: Any = None
    words: list[str] | None = None
    large: BlobRef | None = None
    several: list[BlobRef] | None = None


class Echo(Worker):
    """Says what it was asked."""

    name = "echo"
    message_type = "echo"
    answer: ClassVar[dict[str, Any]] = {"said": "$echo"}
    Params = EchoParams
    example: ClassVar[dict[str, Any]] = {}

    def run(self, params: EchoParams, ctx: Context) -> Run:
        yield None
        large = params.large and ctx.open(params.large)
        return {
            "plain": params.plain,
            "words": params.words,
            "large": large.decode() if isinstance(large, bytes) else large,
            "several": [ctx.open(one) for one in params.several or ()],
        }

    def forward(self, units: list[Any]) -> list[Any]:
        return units


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    made = drive.folders(tmp_path / "data", tmp_path)
    made.blobs.mkdir(parents=True)
    (made.blobs / NAME).write_bytes(orjson.dumps(["a", "b"]))
    (made.blobs / SOUND).write_bytes(b"sound")
    return made


def reference(name: str) -> dict[str, Any]:
    return {BLOB: name, "bytes": 9}


def said(folders: Folders, params: dict[str, Any]) -> Event:
    """The end of a task that is sent with these."""
    events: list[Event] = []
    engine = Engine(Echo(Echo.Settings(), folders), events.append)
    engine.add(Task("j", "echo", (), "echo", params, client="c"))
    while engine.busy:
        engine.step()
    return over_the_pipe(events[-1])


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        ({"words": reference(NAME)}, {"words": ["a", "b"]}),
        ({"plain": {"of": [reference(NAME), 1]}}, {"plain": {"of": [["a", "b"], 1]}}),
        ({"large": reference(NAME)}, {"large": ["a", "b"]}),
        ({"large": reference(SOUND)}, {"large": "sound"}),
        ({"large": {"text": "small", "chunks": reference(NAME)}}, {"large": {"text": "small", "chunks": ["a", "b"]}}),
        ({"large": 0}, {"large": 0}),
        ({"several": [reference(NAME), "inline"]}, {"several": [["a", "b"], "inline"]}),
        ({"several": reference(NAME)}, {"several": ["a", "b"]}),
    ],
)
def test_a_worker_need_not_know_whether_a_value_is_a_blob(
    folders: Folders, asked: dict[str, Any], seen: dict[str, Any]
) -> None:
    end = said(folders, asked)
    nothing: dict[str, Any] = {"plain": None, "words": None, "large": None, "several": []}
    assert (end.kind, end.data) == ("done", {**nothing, **seen})


def test_a_blob_reaches_run_as_a_reference(folders: Folders) -> None:
    asked = EchoParams.model_validate({"large": reference(NAME)})
    assert asked.large == BlobRef(NAME, 9)
    assert asked.model_dump()["large"] == reference(NAME)


@pytest.mark.parametrize("field", ["words", "plain", "large"])
def test_a_blob_that_is_gone_is_said(folders: Folders, field: str) -> None:
    (folders.blobs / NAME).unlink()
    end = said(folders, {field: reference(NAME)})
    assert (end.kind, end.data["error_code"]) == ("failed", "INTERNAL")
    assert "disk" in end.data["message"]


@pytest.mark.parametrize("name", ["../ledger.sqlite3", "/etc/passwd", "a.json", NAME.upper(), NAME + "\n", ""])
def test_what_is_no_name_of_a_blob_never_becomes_a_path(folders: Folders, name: str) -> None:
    with pytest.raises(ValueError, match="no name"):
        blobs.read(name, folders)
    assert said(folders, {"words": reference(name)}).data["error_code"] == "INVALID_INPUT"
    for field in ("plain", "large"):
        assert said(folders, {field: reference(name)}).data[field] == reference(name)


@pytest.mark.parametrize("field", ["plain", "large"])
async def test_a_client_cannot_write_a_reference(tmp_path: Path, folders: Folders, field: str) -> None:
    """What looks like one stays what it is, also when it looks like what we make of one."""
    road = await Road(tmp_path, [Echo]).start()
    written = [reference(NAME), {"$$blob": NAME, "bytes": 9, "deeper": [{"$blob": 1}]}]
    for sent in (written, written[0]):
        job_id = await road.queue.submit({"type": "echo", field: sent}, ME)
        final = await road.final(job_id)
        assert final["said"][field] == sent
    await road.close()


def test_escaping_is_undone_as_it_was_done() -> None:
    written = {"$blob": {"$$$blob": [1, {"blob": 2, "$file": 3}]}}
    kept = escaped(written)
    assert kept == {"$$blob": {"$$$$blob": [1, {"blob": 2, "$file": 3}]}}
    assert filled(kept, pytest.fail) == written
