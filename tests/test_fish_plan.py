"""The `fish` plan: which recordings are heard by Whisper first, what waits for it, and what is refused at the door."""

from __future__ import annotations

from typing import Any

import pytest

from contract.errors import FileNotFound, InvalidInput
from contract.messages import Event, FileRef, Request, Task
from pipeline.batches import batch, single
from pipeline.catalog import load_plans
from pipeline.job import Job, Step, advance, begin
from workers.fish.worker import Fish
from workers.whisper.worker import Whisper

PLANS = load_plans({"fish": Fish, "whisper": Whisper}, max_items=10)


def bind(value: str | bytes) -> FileRef:
    if value == "missing":
        raise FileNotFound("There is no file 'missing' on the server.", field="file")
    return FileRef("upload", "bytes") if isinstance(value, bytes) else FileRef("path", f"/media/{value}", value)


def begun(**message: Any) -> Step:
    params, _ = PLANS["fish"].parse({"type": "fish", **message}, bind)
    return begin(Job("job", Request(1, "c", "o", "fish", params), PLANS["fish"], 0.0, 9.0))


def of(name: str) -> dict[str, Any]:
    return {"$file": {"kind": "path", "value": f"/media/{name}", "name": name}}


def test_a_text_alone_is_spoken_at_once() -> None:
    [task] = begun(text="Hello.").tasks
    assert (task.worker, task.item, task.params["text"], task.params["transcripts"]) == ("fish", (), "Hello.", [])


def test_references_with_their_texts_wait_for_nobody() -> None:
    given = {"reference_audio": "a.wav", "reference_text": "A.", "references": [{"audio": "b.wav", "text": "B."}]}
    [task] = begun(text="Hello.", **given).tasks
    fields = dict(Fish.TaskParams.model_validate(task.params).recordings)
    assert {field: reference.text for field, reference in fields.items()} == {
        "reference_audio": "A.",
        "references": "B.",
    }


def test_recordings_without_a_text_are_looked_at_then_heard_then_used_in_order() -> None:
    told = {"audio": "b.wav", "text": "B."}
    step = begun(text="Hello.", reference_audio="a.wav", references=[told, "c.wav", b"RIFF"])
    looks = step.tasks
    assert [(task.stage, task.item, task.params["check"]) for task in looks] == [
        ("check", (0,), "reference_audio"),
        ("check", (1,), "references"),
        ("check", (2,), "references"),
    ]
    assert [task.params["reference_audio"]["$file"]["value"] for task in looks] == [
        "/media/a.wav",
        "/media/c.wav",
        "bytes",
    ]
    hearing: list[Task] = []
    for task in looks:
        step = advance(step.job, Event.of(task, "done", {"duration": 3.0}))
        hearing += step.tasks
    assert [(task.worker, task.item) for task in hearing] == [("whisper", (0,)), ("whisper", (1,)), ("whisper", (2,))]
    assert hearing[0].params == {"file": of("a.wav")}
    for task, text in zip(reversed(hearing), ("D.", "C.", "A."), strict=True):
        assert not step.job.runs.get(("fish", ()))
        step = advance(step.job, Event.of(task, "done", {"text": text}))
    [task] = step.tasks
    params = Fish.TaskParams.model_validate(task.params)
    assert [reference.text for _, reference in params.recordings] == ["A.", "B.", "C.", "D."]


def test_the_result_is_the_answer() -> None:
    step = begun(text="Hello.")
    [final] = advance(step.job, Event.of(step.tasks[0], "done", {"fish": "/a.wav", "sample_rate": 44100})).outs
    assert (final.body["status"], final.body["fish"], final.body["sample_rate"]) == ("success", "/a.wav", 44100)


@pytest.mark.parametrize("stage", ["check", "whisper"])
def test_a_recording_that_cannot_be_used_ends_the_job_with_its_own_error(stage: str) -> None:
    step = begun(reference_audio="a.wav")
    if stage == "whisper":
        step = advance(step.job, Event.of(step.tasks[0], "done", {"duration": 3.0}))
    step = advance(step.job, Event.of(step.tasks[0], "failed", {"error_code": "NO_AUDIO", "message": "None."}))
    assert not step.tasks
    assert (step.outs[-1].kind, step.outs[-1].body["error_code"]) == ("final", "NO_AUDIO")


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({}, "text"),
        ({"references": ["a.wav"]}, "text"),
        ({"reference_id": "voice_1"}, "text"),
        ({"text": ""}, "text"),
        ({"text": " \n\t"}, "text"),
        ({"text": 5}, "text"),
        ({"text": "a", "temperature": 0}, "temperature"),
        ({"text": "a", "seed": -1}, "seed"),
        ({"text": "a", "audio_format": "flac"}, "audio_format"),
        ({"text": "a", "references": ["a.wav"] * 11}, "references"),
        ({"text": "a", "references": [{"text": "a"}]}, "references.0.audio"),
        ({"text": "a", "references": [5]}, "references.0"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_the_door(message: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        PLANS["fish"].parse({"type": "fish", **message}, bind)
    assert raised.value.details["field"] == field


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"reference_audio": "missing"}, "reference_audio"),
        ({"text": "a", "references": ["missing"]}, "references"),
        ({"text": "a", "references": [{"audio": "missing"}]}, "references"),
    ],
)
def test_a_missing_file_is_named_by_its_parameter(message: dict[str, Any], field: str) -> None:
    with pytest.raises(FileNotFound) as raised:
        PLANS["fish"].parse({"type": "fish", **message}, bind)
    assert raised.value.details["field"] == field


def test_what_the_plan_sets_itself_no_client_can() -> None:
    params, warnings = PLANS["fish"].parse({"type": "fish", "text": "a", "transcripts": ["b"], "check": "c"}, bind)
    assert not params["speech"].keys() & {"transcripts", "check"}
    assert warnings == ("unknown key 'transcripts' was ignored", "unknown key 'check' was ignored")


def test_in_a_batch_a_recording_needs_its_text() -> None:
    plan = batch(Fish, limit=10)
    params, _ = plan.parse({"type": "fish", "data": [{"text": "a", "references": ["a.wav"]}, {"no": 1}]}, bind)
    spoken, refused = params["data"]
    with pytest.raises(InvalidInput, match="needs its text"):
        _ = Fish.TaskParams.model_validate(spoken).recordings
    assert refused["$error"]["error_code"] == "INVALID_INPUT"


@pytest.mark.parametrize(
    ("text", "transcripts", "told"), [("🙂", ["unused"], "holds no word"), (None, [" … "], "understood")]
)
def test_a_recordings_text_has_a_word_in_it(text: str | None, transcripts: list[str], told: str) -> None:
    audio = FileRef("path", "/media/a.wav")
    params = Fish.TaskParams(reference_audio=audio, reference_text=text, transcripts=transcripts)
    with pytest.raises(InvalidInput, match=told):
        _ = params.recordings


def test_without_whisper_the_workers_own_plan_serves() -> None:
    plans = load_plans({"fish": Fish}, max_items=10)
    assert plans["fish"].read is None
    assert plans["fish"].stages == single(Fish).stages
