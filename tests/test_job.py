"""The pure core: whatever order events come in, doubled, late or lost, a job tells its client the same story once."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, create_model

from contract.errors import WorkerDied, as_failure
from contract.messages import Event, Kind, Request, Task
from pipeline.job import Job, Out, State, Step, advance, begin, finish, restart
from pipeline.plans import REFUSED, First, Plan, Stage
from pipeline.references import Key

Params = create_model("Params", urls=(list[str], ...), flag=(bool, True))

ONE = Plan("one", Params, (Stage("only", "w", "$request"),), {"answer": "$only"})
CHAIN = Plan(
    "chain",
    Params,
    (Stage("first", "a", {"url": "$request.urls"}), Stage("second", "b", {"text": "$first.text"})),
    {"text": "$second", "first": "$first.text"},
)
FAN = Plan(
    "fan",
    Params,
    (
        Stage("fetch", "dlp", {"url": "$item"}, over="$request.urls", on_error="keep"),
        Stage("hear", "whisper", {"file": "$fetch.file"}, on_error="keep"),
        Stage("see", "florence", {"file": "$fetch.file"}, when="$request.flag", on_error="keep"),
        Stage("sum", "join", {"all": "$hear*.text"}),
    ),
    {"summary": "$sum"},
    each={"heard": "$hear", "seen": "$see", "url": "$item"},
)
NESTED = Plan(
    "nested",
    Params,
    (
        Stage("list", "dlp", {"url": "$item"}, over="$request.urls"),
        Stage("one", "whisper", {"entry": "$item", "of": "$list.title"}, over="$list.entries"),
        Stage("group", "join", {"texts": "$one*", "of": "$list.title"}),
    ),
    each={"title": "$list.title", "texts": "$one*", "group": "$group"},
)
DIED = WorkerDied("died").answer()


def new(plan: Plan, **params: Any) -> Step:
    request = Request(
        id="mine", client="c", owner="local", type=plan.name, params={"urls": ["u0", "u1"], "flag": True, **params}
    )
    return begin(Job("job", request, plan, created_at=0.0, deadline=9.0))


def says(task: Task, kind: Kind, data: Any = None, index: int | None = None) -> Event:
    return Event.of(task, kind, data, index)


def final(step: Step) -> dict[str, Any]:
    [out] = [out for out in step.outs if out.kind == "final"]
    return out.body


class Player:
    """Plays a job to its end: each task is answered by `reply`, in the order that `choose` picks."""

    def __init__(self, step: Step, reply: Any, choose: Any = lambda waiting: 0) -> None:
        self.job = step.job
        self.outs: list[Out] = list(step.outs)
        self.tasks: list[Task] = list(step.tasks)
        self.ran: list[Task] = []
        waiting = list(step.tasks)
        while waiting:
            task = waiting.pop(choose(waiting))
            self.ran.append(task)
            for event in reply(task):
                step = self.take(event)
                waiting += step.tasks

    def take(self, event: Event) -> Step:
        step = advance(self.job, event)
        self.job = step.job
        self.outs += step.outs
        self.tasks += step.tasks
        return step

    @property
    def answer(self) -> dict[str, Any]:
        [body] = [out.body for out in self.outs if out.kind == "final"]
        return body


def test_one_stage_answers_in_the_documented_shape() -> None:
    step = new(ONE)
    [task] = step.tasks
    assert task.params == step.job.request.params
    ended = advance(step.job, says(task, "done", {"text": "hi"}))
    assert ended.job.state is State.COMPLETED
    assert final(ended) == {
        "job_id": "job", "id": "mine", "seq": 1, "type": "one", "status": "success", "answer": {"text": "hi"}
    }  # fmt: skip


def test_a_reference_is_the_dependency() -> None:
    step = new(CHAIN)
    assert [task.stage for task in step.tasks] == ["first"]
    step = advance(step.job, says(step.tasks[0], "done", {"text": "seen"}))
    assert [(task.stage, task.params) for task in step.tasks] == [("second", {"text": "seen"})]
    step = advance(step.job, says(step.tasks[0], "done", "end"))
    assert final(step)["text"] == "end"
    assert final(step)["first"] == "seen"


def test_stages_of_an_element_run_side_by_side_and_join_again() -> None:
    def reply(task: Task) -> list[Event]:
        if task.stage == "fetch":
            return [says(task, "done", {"file": f"{task.params['url']}.mp4"})]
        if task.stage == "sum":
            return [says(task, "done", "+".join(task.params["all"]))]
        return [says(task, "done", {"text": task.stage + task.params["file"]})]

    step = new(FAN)
    first = advance(step.job, says(step.tasks[1], "done", {"file": "f"}))
    assert {(task.stage, task.item) for task in first.tasks} == {("hear", (1,)), ("see", (1,))}
    player = Player(step, reply)
    assert player.answer["summary"] == "hearu0.mp4+hearu1.mp4"
    assert [element["url"] for element in player.answer["data"]] == ["u0", "u1"]
    assert player.answer["data"][1]["seen"] == {"text": "seeu1.mp4"}


def test_a_kept_error_stays_in_its_place_and_reaches_what_depends_on_it() -> None:
    broken = {"error_code": "DOWNLOAD_FAILED", "message": "gone"}

    def reply(task: Task) -> list[Event]:
        if task.stage == "fetch" and task.item == (0,):
            return [says(task, "failed", broken)]
        return [says(task, "done", {"file": "f", "text": "t"})]

    plan = dataclasses.replace(FAN, stages=FAN.stages[:3], answer={})
    player = Player(new(plan), reply)
    assert player.answer["status"] == "success"
    assert player.answer["data"][0] == {"status": "error", **broken}
    assert player.answer["data"][1]["heard"] == {"file": "f", "text": "t"}
    assert ("hear", (0,)) not in {(task.stage, task.item) for task in player.ran}


def test_a_kept_error_beside_a_result_takes_its_own_place_only() -> None:
    silent = {"error_code": "NO_AUDIO", "message": "silent film"}

    def reply(task: Task) -> list[Event]:
        return [says(task, "failed", silent) if task.stage == "hear" else says(task, "done", {"file": "f"})]

    plan = dataclasses.replace(FAN, stages=FAN.stages[:3], answer={})
    player = Player(new(plan), reply)
    assert player.answer["data"][0] == {"heard": {"status": "error", **silent}, "seen": {"file": "f"}, "url": "u0"}


def test_a_job_of_which_only_a_kept_error_is_left_fails_with_it() -> None:
    silent = {"error_code": "NO_AUDIO", "message": "silent film"}
    plan = Plan("one", Params, (Stage("only", "w", "$request", on_error="keep"),), {"answer": "$only"})
    step = new(plan)
    step = advance(step.job, says(step.tasks[0], "failed", silent))
    assert step.job.state is State.FAILED
    assert final(step)["error_code"] == "NO_AUDIO"


def test_a_stage_is_skipped_where_its_condition_is_empty() -> None:
    plan = dataclasses.replace(FAN, stages=FAN.stages[:3], answer={})
    player = Player(new(plan, flag=False), lambda task: [says(task, "done", {"file": "f"})])
    assert {task.stage for task in player.ran} == {"fetch", "hear"}
    assert "seen" not in player.answer["data"][0]


def test_an_error_that_is_not_kept_ends_the_job() -> None:
    step = new(CHAIN)
    step = advance(step.job, says(step.tasks[0], "failed", {"error_code": "NO_AUDIO", "message": "silent film"}))
    assert step.job.state is State.FAILED
    assert final(step)["error_code"] == "NO_AUDIO"
    assert final(step)["status"] == "error"


def test_fan_outs_nest() -> None:
    def reply(task: Task) -> list[Event]:
        if task.stage == "list":
            title = task.params["url"]
            return [says(task, "done", {"title": title, "entries": [title + "a", title + "b"]})]
        if task.stage == "one":
            return [says(task, "done", task.params["of"] + ":" + task.params["entry"])]
        return [says(task, "done", ",".join(task.params["texts"]))]

    player = Player(new(NESTED), reply)
    assert {task.item for task in player.ran if task.stage == "one"} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert [element["group"] for element in player.answer["data"]] == ["u0:u0a,u0:u0b", "u1:u1a,u1:u1b"]
    assert player.answer["data"][0]["texts"] == ["u0:u0a", "u0:u0b"]


def test_each_finished_element_is_a_partial() -> None:
    plan = dataclasses.replace(FAN, stages=FAN.stages[:2], answer={}, each={"heard": "$hear"})
    player = Player(
        new(plan), lambda task: [says(task, "done", {"file": "f"})], choose=lambda waiting: len(waiting) - 1
    )
    elements = [out.body for out in player.outs if out.body.get("stage") == "data"]
    assert [(body["index"], body["item"]) for body in elements] == [(1, 1), (0, 0)]
    assert elements[0]["data"] == player.answer["data"][1]


def test_an_element_refused_at_the_door_fails_in_its_place() -> None:
    refusal = {"error_code": "FILE_NOT_FOUND", "message": "no such file"}
    plan = Plan("b", Params, (Stage("s", "w", "$item", over="$request.urls", on_error="keep"),), each={"r": "$s"})
    step = new(plan, urls=[{REFUSED: refusal}, {"file": 1}])
    assert [task.item for task in step.tasks] == [(1,)]
    ended = advance(step.job, says(step.tasks[0], "done", 5))
    assert final(ended)["data"] == [{"status": "error", **refusal}, {"r": 5}]
    assert new(plan, urls=[{REFUSED: refusal}]).job.state is State.COMPLETED


def test_a_lost_attempt_runs_again_alone_from_its_checkpoint() -> None:
    step = new(ONE)
    [task] = step.tasks
    step = advance(step.job, says(task, "checkpoint", {"at": 30}))
    step = advance(step.job, says(task, "lost", {"counted": True, "reason": "died"}))
    [again] = step.tasks
    assert (again.attempt, again.alone, again.checkpoint) == (2, True, {"at": 30})


def test_three_deaths_set_a_task_aside() -> None:
    step = new(ONE)
    for _ in range(2):
        step = advance(step.job, says(step.tasks[0], "lost", {"counted": True, "reason": "died"}))
    step = advance(step.job, says(step.tasks[0], "lost", {"counted": True, "reason": "died"}))
    assert final(step)["error_code"] == "WORKER_DIED"


def test_what_ran_out_of_memory_is_tried_once_more_alone() -> None:
    failure = as_failure(MemoryError())
    step = new(ONE)
    step = advance(step.job, says(step.tasks[0], "failed", failure))
    [again] = step.tasks
    assert (again.attempt, again.alone) == (2, True)
    step = advance(step.job, says(again, "failed", failure))
    assert final(step)["error_code"] == "OUT_OF_MEMORY"


def test_an_attempt_that_was_not_to_blame_costs_nothing() -> None:
    step = new(ONE)
    for _ in range(20):
        step = advance(step.job, says(step.tasks[0], "lost", {"counted": False, "reason": "cancelled"}))
    [task] = step.tasks
    assert task.attempt == 21
    assert not task.alone


def test_a_restart_queues_what_was_under_way_as_a_new_attempt() -> None:
    step = new(CHAIN)
    [task] = step.tasks
    again = restart(advance(step.job, says(task, "started", "p1")).job)
    assert [(task.stage, task.attempt) for task in again.tasks] == [("first", 2)]
    assert advance(again.job, says(task, "done", {"text": "late"})).job is again.job


def test_a_job_ends_once_from_outside() -> None:
    step = new(ONE)
    ended = finish(step.job, State.CANCELLED)
    assert final(ended)["status"] == "cancelled"
    assert finish(ended.job, State.FAILED, as_failure(ValueError())).job is ended.job
    assert advance(ended.job, says(step.tasks[0], "done", 1)).job is ended.job


# Any history.


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Out], Job, Counter[Key]]:
    """Plays a plan with events shuffled, doubled, late and lost; returns what the client was told."""
    plan = draw(st.sampled_from([ONE, CHAIN, FAN, NESTED]))
    step = new(plan)
    job, outs = step.job, list(step.outs)
    waiting, old = list(step.tasks), list[Event]()
    submitted = Counter((task.stage, task.item) for task in step.tasks)
    for _ in range(400):
        if not waiting and not old:
            break
        late = old and (not waiting or draw(st.integers(0, 3)) == 0)
        if late:
            event = old[draw(st.integers(0, len(old) - 1))]
            if not waiting and draw(st.booleans()):
                break
        else:
            task = waiting[draw(st.integers(0, len(waiting) - 1))]
            event = draw(_event(task))
            old.append(event)
            if event.kind in ("done", "failed", "lost"):
                waiting.remove(task)
        step = advance(job, event)
        assert step.job.version == job.version + (step.job is not job)
        job = step.job
        outs += step.outs
        waiting += step.tasks
        submitted.update((task.stage, task.item) for task in step.tasks)
    return outs, job, submitted


def _event(task: Task) -> st.SearchStrategy[Event]:
    results: dict[str, Any] = {
        "list": {"title": "t", "entries": ["a", "b"]},
        "fetch": {"file": "f"},
        "hear": {"text": "h"},
        "first": {"text": "x"},
    }
    return st.sampled_from(
        [
            says(task, "started", "p"),
            says(task, "progress", {"fraction": 0.5, "eta": 1.0}),
            says(task, "partial", {"n": 1}, 0),
            says(task, "checkpoint", {"at": 1}),
            says(task, "done", results.get(task.stage, {"ok": True})),
            says(task, "failed", {"error_code": "INTERNAL", "message": "m"}),
            says(task, "lost", {"counted": True, "reason": "r"}),
            says(task, "lost", {"counted": False, "reason": "r"}),
        ]
    )


@given(histories())
def test_any_history_tells_one_gapless_story_with_at_most_one_end(played: tuple[list[Out], Job, Counter[Key]]) -> None:
    outs, job, _ = played
    kept = [out.seq for out in outs if out.seq is not None]
    assert kept == list(range(1, len(kept) + 1))
    assert job.seq == len(kept)
    ends = [out for out in outs if out.kind == "final"]
    assert len(ends) == job.state.ended
    assert not ends or outs[-1] is ends[0]


@given(histories())
def test_no_run_is_left_behind_unless_the_job_ended(played: tuple[list[Out], Job, Counter[Key]]) -> None:
    """Every queued run of an open job has been handed out once for each of its attempts."""
    _, job, submitted = played
    if not job.state.ended:
        assert all(submitted[key] == run.attempt for key, run in job.runs.items() if not run.settled)


@given(histories())
def test_replaying_a_story_from_the_ledgers_view_changes_nothing_that_ended(
    played: tuple[list[Out], Job, Counter[Key]],
) -> None:
    _, job, _ = played
    if job.state.ended:
        return
    again = restart(job)
    settled = {key: run for key, run in job.runs.items() if run.settled}
    assert {key: again.job.runs[key] for key in settled} == settled
    assert all(again.job.runs[task.stage, task.item].attempt == task.attempt for task in again.tasks)


def test_a_template_takes_what_is_there_and_spreads_options() -> None:
    class Both(BaseModel):
        sources: list[dict[str, str]]
        options: dict[str, Any]

    plan = Plan(
        "both",
        Both,
        (
            Stage("get", "dlp", {"url": "$item.url"}, over="$request.sources", when="$item.url"),
            Stage("hear", "whisper", {"file": First("$get.file", "$item.file"), "**": "$request.options"}),
        ),
        each={"heard": "$hear", "info": "$get"},
    )
    sources = [{"url": "u"}, {"file": "mine.wav"}]
    player = Player(
        new(plan, sources=sources, options={"language": "en"}), lambda task: [says(task, "done", {"file": "got.mp4"})]
    )
    heard = {task.item: task.params for task in player.ran if task.stage == "hear"}
    assert heard == {(0,): {"file": "got.mp4", "language": "en"}, (1,): {"file": "mine.wav", "language": "en"}}
    assert "info" in player.answer["data"][0]
    assert "info" not in player.answer["data"][1]


@pytest.mark.parametrize(
    ("stages", "answer", "reason"),
    [
        ((Stage("a", "w", "$nowhere"),), {}, "refers to"),
        ((Stage("a", "w", "$b"), Stage("b", "w", {})), {}, "refers to"),
        ((Stage("a", "w", "$request.missing"),), {}, "no parameter"),
        ((Stage("a", "w", "$item"),), {}, "outside a fan-out"),
        ((Stage("a", "w", {}, over="$item.list"),), {}, "outside a fan-out"),
        ((Stage("a", "w", {}),), {"x": "$c"}, "refers to"),
        ((Stage("a", "w", "$item", over="$request.urls"),), {"x": "$a"}, "gather it with a star"),
        ((Stage("a", "w", "$item", over="$request.urls"),), {"x": "$item"}, "outside a fan-out"),
    ],
)
def test_a_wrong_reference_fails_when_the_plan_is_made(
    stages: tuple[Stage, ...], answer: dict[str, str], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        Plan("p", Params, stages, answer)
