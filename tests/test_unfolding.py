"""What an event sets free: lists too large for an event, gathered failures, functions, zipped lists, waits, pauses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from pydantic import BaseModel

from contract.errors import FileNotFound
from contract.messages import Event, Request, Task
from pipeline.change import Change
from pipeline.clock import clocked
from pipeline.job import Job, State, Step, advance, begin, finish, loaded, opened, restart, signal
from pipeline.plans import Plan, Retry, Stage
from pipeline.references import Key, View
from tests.test_job import Params, Player, final, histories, new, says

BIG: dict[str, Any] = {"$blob": "a" * 32 + ".json", "bytes": 200_000}
SEGMENTS = [{"start": 0, "text": "one"}, {"start": 1, "text": "two"}]

DUB = Plan(
    "dub",
    Params,
    (
        Stage("hear", "whisper", {"urls": "$request.urls"}),
        Stage("say", "fish", {"text": "$item.text"}, over="$hear.segments", on_error="keep"),
        Stage("join", "mix", {"pieces": "$say*.file", "title": "$hear.title"}),
    ),
    {"file": "$join"},
)


class Review(BaseModel):
    approved: bool
    text: str = ""


REVIEWED = Plan(
    "reviewed",
    Params,
    (
        Stage("write", "w", "$request"),
        Stage("review", wait=Review, params="$write"),
        Stage("print", "p", {"text": "$review.text"}, when="$review.approved"),
    ),
    {"text": "$write", "printed": "$print"},
)


def done(step: Step, data: Any, task: int = 0) -> Step:
    return advance(step.job, says(step.tasks[task], "done", data))


# Large results.


@pytest.mark.parametrize("result", [{"segments": BIG, "title": "T"}, BIG], ids=["a field", "the whole"])
def test_a_list_too_large_for_an_event_is_read_when_it_is_fanned_out_over(result: Any) -> None:
    step = done(new(DUB), result)
    assert (step.tasks, step.reads) == ((), (BIG["$blob"],))
    content = {"segments": SEGMENTS, "title": "T"} if result is BIG else SEGMENTS
    step = opened(step.job, BIG["$blob"], content)
    assert [(task.item, task.params) for task in step.tasks] == [((0,), {"text": "one"}), ((1,), {"text": "two"})]
    first, second = step.tasks
    step = advance(step.job, says(second, "done", {"file": "2.wav"}))
    assert not step.tasks
    step = advance(step.job, says(first, "done", {"file": "1.wav"}))
    assert step.tasks[0].params == {"pieces": ["1.wav", "2.wav"], "title": "T"}


def test_after_a_restart_a_large_list_is_read_again_and_only_what_was_under_way_runs() -> None:
    step = opened(done(new(DUB), {"segments": BIG, "title": "T"}).job, BIG["$blob"], SEGMENTS)
    step = advance(step.job, says(step.tasks[0], "done", {"file": "1.wav"}))
    again = restart(dataclasses.replace(step.job, runs=step.job.runs))
    assert (again.tasks, again.reads) == ((), (BIG["$blob"],))
    again = opened(again.job, BIG["$blob"], SEGMENTS)
    assert [(task.item, task.attempt) for task in again.tasks] == [((1,), 2)]
    again = done(again, {"file": "2.wav"})
    assert again.tasks[0].params["pieces"] == ["1.wav", "2.wav"]
    assert final(done(again, "film.mp4"))["file"] == "film.mp4"


def test_a_blob_that_cannot_be_read_fails_what_refers_into_it() -> None:
    """The list has no elements then, and who needs a field of it fails with the reason."""
    step = done(new(DUB), BIG)
    step = opened(step.job, BIG["$blob"], FileNotFound("It is gone."))
    assert step.job.state is State.FAILED
    assert final(step)["error_code"] == "FILE_NOT_FOUND"


def test_a_large_result_that_nobody_looks_into_is_passed_on_by_reference() -> None:
    plan = Plan(
        "pass", Params, (Stage("a", "w", "$request"), Stage("b", "v", {"all": "$a"}, when="$a")), {"b": "$b", "a": "$a"}
    )
    step = done(new(plan), BIG)
    assert (step.tasks[0].params, step.reads) == ({"all": BIG}, ())
    assert final(done(step, 1))["a"] == BIG


# Failures that are kept.


def test_who_gathers_finds_kept_failures_as_elements() -> None:
    step = done(new(DUB), {"segments": SEGMENTS, "title": "T"})
    failure = {"error_code": "TEXT_TOO_LONG", "message": "Too long."}
    job = advance(step.job, says(step.tasks[0], "failed", failure)).job
    step = advance(job, says(step.tasks[1], "done", {"file": "2.wav"}))
    assert step.tasks[0].params["pieces"] == [{"status": "error", **failure}, "2.wav"]


def test_who_gathers_nothing_begins_all_the_same() -> None:
    step = done(new(DUB), {"segments": [], "title": "T"})
    assert step.tasks[0].params["pieces"] == []


# Functions and zipped lists.


def length(start: float, end: float) -> float:
    return end - start


TIMED = Plan(
    "timed",
    Params,
    (
        Stage("hear", "whisper", "$request"),
        Stage("long", length, {"start": "$item.start", "end": "$item.end"}, over="$hear.segments"),
        Stage("say", "fish", {"text": "$item.text", "seconds": "$long"}, over="$hear.segments"),
        Stage(
            "fit",
            "mix",
            {"piece": "$item.piece", "of": "$item.segment.text"},
            over={"piece": "$say*", "segment": "$hear.segments"},
        ),
    ),
    {"fitted": "$fit*"},
)


def test_small_glue_is_a_function_and_zipped_lists_go_together() -> None:
    segments = [{"start": 0.0, "end": 2.5, "text": "one"}, {"start": 3.0, "end": 4.0, "text": "two"}]
    step = done(new(TIMED), {"segments": segments})
    assert [task.params for task in step.tasks] == [{"text": "one", "seconds": 2.5}, {"text": "two", "seconds": 1.0}]
    assert all(key[0] != "long" for key in step.changed), "what a function gives is worked out again, not kept"
    says_two = step.tasks[1]
    step = done(step, "1.wav")
    assert not step.tasks
    step = advance(step.job, says(says_two, "done", "2.wav"))
    assert [task.params for task in step.tasks] == [{"piece": "1.wav", "of": "one"}, {"piece": "2.wav", "of": "two"}]


def test_a_functions_result_is_there_again_after_a_restart() -> None:
    step = done(new(TIMED), {"segments": [{"start": 0.0, "end": 2.5, "text": "one"}]})
    kept = {key: run for key, run in step.job.runs.items() if key in step.changed or key[0] == "hear"}
    again = restart(dataclasses.replace(step.job, runs=kept))  # type: ignore[arg-type]
    assert [task.params for task in again.tasks] == [{"text": "one", "seconds": 2.5}]


def test_zipped_lists_of_different_lengths_end_the_job_with_a_sentence() -> None:
    plan = Plan("z", Params, (Stage("s", "w", "$item", over={"a": "$request.urls", "b": "$request.flag"}),))
    step = new(plan, urls=["u"], flag=["a", "b"])
    assert final(step)["error_code"] == "INTERNAL"
    assert "a has 1, b has 2" in final(step)["message"]


def test_a_function_that_raises_fails_its_stage() -> None:
    plan = Plan("f", Params, (Stage("s", _refuses, {"urls": "$request.urls"}),), {"s": "$s"})
    assert final(new(plan))["error_code"] == "FILE_NOT_FOUND"


def _refuses(urls: list[str]) -> None:
    raise FileNotFound(f"{urls[0]} is not there.")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda: Plan(
                "p",
                Params,
                (
                    Stage("a", "w", "$item", over="$request.urls"),
                    Stage("b", "w", "$item", over="$request.flag"),
                    Stage("c", "w", {"a": "$a", "b": "$b"}),
                ),
            ),
            "side by side.*zip the lists",
        ),
        (lambda: Plan("p", Params, (Stage("a", "w", wait=Review),)), "either a worker or a wait"),
        (lambda: Plan("p", Params, (Stage("a"),)), "either a worker or a wait"),
        (lambda: Plan("p", Params, (Stage("a", "w"), Stage("b", "w", live="a"))), "which does not wait"),
    ],
)
def test_a_plan_that_would_not_do_what_it_says_fails_when_it_is_made(make: Callable[[], Plan], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make()


# Waits.


def test_a_job_waits_for_a_signal_and_goes_on_with_its_data() -> None:
    step = done(new(REVIEWED), "draft")
    assert (step.job.state, step.tasks) == (State.WAITING, ())
    step = signal(step.job, "review", {"approved": True, "text": "better"})
    assert step.job.state is not State.WAITING
    assert [task.params for task in step.tasks] == [{"text": "better"}]
    assert signal(step.job, "review", {"approved": False}).job is step.job, "it waits no more"
    assert final(done(step, "page"))["printed"] == "page"


@pytest.mark.parametrize("name", ["write", "print", "nobody", "review.0", "review.x", "", "."])
def test_a_signal_that_nobody_waits_for_changes_nothing(name: str) -> None:
    waiting = done(new(REVIEWED), "draft").job
    assert signal(waiting, name, {}).job is waiting


def test_a_wait_survives_restarts() -> None:
    job = done(new(REVIEWED), "draft").job
    for _ in range(2):
        again = restart(dataclasses.replace(job, book=type(job.book)()))
        assert (again.job.state, again.tasks, again.outs) == (State.WAITING, (), ())
        job = again.job
    assert signal(job, "review", {"approved": True, "text": "t"}).tasks


def test_each_element_of_a_list_waits_for_a_signal_of_its_own() -> None:
    plan = Plan("all", Params, (Stage("ok", wait=Review, over="$request.urls"),), each={"ok": "$ok.text"})
    job = new(plan).job
    step = signal(job, "ok.1", {"approved": True, "text": "second"})
    job = clocked(step, job, now=5.0).job
    assert job.waiting_for == "ok.0"
    ended = signal(job, "ok.0", {"approved": True, "text": "first"})
    assert [element["ok"] for element in final(ended)["data"]] == ["first", "second"]


def test_a_job_that_works_beside_its_wait_does_not_count_as_waiting() -> None:
    plan = Plan("two", Params, (Stage("ok", wait=Review), Stage("work", "w", "$request")), {"ok": "$ok"})
    step = new(plan)
    assert step.job.state is State.PENDING
    assert advance(step.job, says(step.tasks[0], "done", 1)).job.state is State.WAITING


def test_waiting_moves_the_deadline() -> None:
    step = new(REVIEWED)
    before, step = step.job, clocked(done(step, "draft"), step.job, now=5.0)
    assert (step.job.waiting_for, step.job.waiting_since, step.job.deadline) == ("review", 5.0, before.deadline)
    step = clocked(signal(step.job, "review", {"approved": True, "text": "t"}), step.job, now=105.0)
    waited = step.job
    assert (waited.waiting_for, waited.waiting_since, waited.deadline) == (None, None, before.deadline + 100.0)


def test_a_recording_whose_follower_has_ended_is_waited_for_no_more() -> None:
    plan = Plan(
        "listen",
        Params,
        (Stage("recording", wait=Review), Stage("hear", "w", "$request", live="recording")),
        {"text": "$hear"},
    )
    step = new(plan)
    [task] = step.tasks
    assert (task.live, task.ended, step.job.state) == (True, False, State.PENDING)
    ended = signal(step.job, "recording", {"approved": True})
    assert ended.whole
    [again] = advance(ended.job, says(task, "lost", {"counted": True, "reason": "died"})).tasks
    assert (again.ended, again.alone) == (True, False)
    assert final(advance(ended.job, says(task, "done", "heard")))["text"] == "heard"
    assert final(advance(step.job, says(task, "done", "cut off")))["text"] == "cut off"


# Failures that may pass.


def test_a_failure_that_may_pass_is_tried_again_after_a_while_beside_others() -> None:
    busy = {"error_code": "DOWNLOAD_FAILED", "message": "Busy.", "details": {"retry": True}}
    retry = Retry(frozenset({"DOWNLOAD_FAILED"}), tries=3, seconds=5.0)
    step = new(Plan("get", Params, (Stage("get", "dlp", "$request", retry=retry),), {"got": "$get"}))
    step = advance(step.job, says(step.tasks[0], "failed", busy))
    [again] = step.tasks
    assert (again.attempt, again.after, again.alone) == (2, 5.0, False)
    step = advance(step.job, says(again, "failed", {**busy, "details": {"retry_after": 60}}))
    [again] = step.tasks
    assert (again.attempt, again.after, again.alone) == (3, 60.0, False)
    assert final(advance(step.job, says(again, "failed", busy)))["error_code"] == "DOWNLOAD_FAILED"


@pytest.mark.parametrize(
    "failure",
    [
        {"error_code": "DOWNLOAD_FAILED", "message": "Gone."},
        {"error_code": "NO_AUDIO", "message": "Silent.", "details": {"retry": True}},
        {"error_code": "DOWNLOAD_FAILED", "message": "Go.", "details": {"retry_after": 3600}},
    ],
)
def test_a_failure_that_will_not_pass_is_final(failure: dict[str, Any]) -> None:
    retry = Retry(frozenset({"DOWNLOAD_FAILED"}))
    step = new(Plan("get", Params, (Stage("get", "dlp", "$request", retry=retry),), {"got": "$get"}))
    assert advance(step.job, says(step.tasks[0], "failed", failure)).job.state is State.FAILED


# Versions.


def test_a_plan_finds_the_versions_that_jobs_may_still_have() -> None:
    first = dataclasses.replace(REVIEWED, version=1)
    plan = dataclasses.replace(REVIEWED, version=3, before=(first,))
    assert [found and found.version for found in map(plan.of_version, (1, 2, 3))] == [1, None, 3]


# What it costs.


@pytest.mark.parametrize("plan", [DUB, dataclasses.replace(DUB, each={"said": "$say"})], ids=["gathered", "told"])
def test_an_event_looks_at_what_depends_on_it_whatever_the_size_of_the_job(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    look_at = Change._look_at

    def counted(self: Change, todo: Any) -> None:
        nonlocal looks
        looks += 1
        look_at(self, todo)

    monkeypatch.setattr(Change, "_look_at", counted)
    costs = []
    for size in (10, 1000):
        step = done(new(plan), {"segments": [{"text": "t"}] * size, "title": "T"})
        looks = 0
        advance(step.job, says(step.tasks[size // 2], "done", {"file": "f"}))
        costs.append(looks)
    assert costs[0] == costs[1] <= 1


def test_an_element_of_a_zipped_list_is_found_without_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    gathered = View._gathered

    def counted(self: View, key: Key, path: tuple[str, ...]) -> Any:
        nonlocal looks
        looks += 1
        return gathered(self, key, path)

    monkeypatch.setattr(View, "_gathered", counted)
    size = 50
    step = done(new(TIMED), {"segments": [{"start": 0.0, "end": 1.0, "text": "t"}] * size})
    tasks = step.tasks
    for task in tasks:
        step = advance(step.job, says(task, "done", f"{task.item[0]}.wav"))
    assert [task.params["piece"] for task in step.tasks] == [f"{number}.wav" for number in range(size)]
    assert looks <= 3 * size


@given(histories())
def test_what_was_counted_on_the_way_is_what_can_be_counted_from_the_runs(played: tuple[Any, Job, Any]) -> None:
    _, job, _ = played
    if job.state.ended:
        return
    step = loaded(job)
    again = step.job
    assert (step.tasks, step.outs, step.changed, step.made, step.reads) == ((), (), (), (), ())
    assert (again.runs, again.version, again.seq, again.state) == (job.runs, job.version + 1, job.seq, job.state)
    assert again.book == job.book


def test_a_job_that_waits_can_be_cancelled() -> None:
    waiting = done(new(REVIEWED), "draft").job
    assert final(finish(waiting, State.CANCELLED))["status"] == "cancelled"


def test_whole_dub() -> None:
    def reply(task: Task) -> list[Event]:
        results: dict[str, Any] = {"hear": {"segments": SEGMENTS, "title": "T"}, "join": "film.mp4"}
        return [says(task, "done", results.get(task.stage, {"file": f"{task.params.get('text')}.wav"}))]

    player = Player(new(DUB), reply)
    assert player.ran[-1].params == {"pieces": ["one.wav", "two.wav"], "title": "T"}
    assert player.answer["file"] == "film.mp4"


def test_a_request_is_begun_with_what_it_holds() -> None:
    request = Request(1, "c", "local", "dub", {"urls": [], "flag": True})
    assert begin(Job("job", request, DUB, 0.0, 9.0)).tasks[0].params == {"urls": []}


def test_after_a_restart_who_gathers_begins_again_when_the_list_has_been_read() -> None:
    step = opened(done(new(DUB), {"segments": BIG, "title": "T"}).job, BIG["$blob"], SEGMENTS)
    tasks = step.tasks
    for task in tasks:
        step = advance(step.job, says(task, "done", {"file": f"{task.item[0]}.wav"}))
    again = restart(step.job)
    assert (again.tasks, again.reads) == ((), (BIG["$blob"],))
    again = opened(again.job, BIG["$blob"], SEGMENTS)
    assert [(task.stage, task.attempt, task.params["pieces"]) for task in again.tasks] == [
        ("join", 2, ["0.wav", "1.wav"])
    ]


EACH_REVIEWED = Plan(
    "each",
    Params,
    (
        Stage("hear", "whisper", {"urls": "$request.urls"}),
        Stage("ok", wait=Review, params="$item", over="$hear.segments"),
        Stage("say", "fish", {"text": "$ok.text"}, over="$hear.segments"),
    ),
    each={"said": "$say"},
)


def test_a_signal_counts_also_where_the_list_that_it_waits_in_is_still_to_be_read() -> None:
    step = opened(done(new(EACH_REVIEWED), {"segments": BIG}).job, BIG["$blob"], SEGMENTS)
    assert step.job.state is State.WAITING
    again = restart(step.job).job
    step = signal(again, "ok.1", {"approved": True, "text": "second"})
    assert step.changed == (("ok", (1,)),)
    assert signal(step.job, "ok.1", {"approved": True, "text": "third"}).job is step.job
    step = opened(step.job, BIG["$blob"], SEGMENTS)
    assert [(task.item, task.params) for task in step.tasks] == [((1,), {"text": "second"})]


def test_what_was_not_begun_when_a_job_was_loaded_is_handed_out() -> None:
    step = done(new(DUB), {"segments": BIG, "title": "T"})
    step = opened(loaded(step.job).job, BIG["$blob"], SEGMENTS)
    assert [task.item for task in step.tasks] == [(0,), (1,)]
    assert opened(loaded(step.job).job, BIG["$blob"], SEGMENTS).tasks == (), "these are under way"


def test_an_element_that_was_told_is_not_told_again_when_its_list_has_been_read_again() -> None:
    step = opened(done(new(EACH_REVIEWED), {"segments": BIG}).job, BIG["$blob"], SEGMENTS)
    step = signal(step.job, "ok.0", {"approved": True, "text": "first"})
    step = done(step, "1.wav")
    assert [out.index for out in step.outs] == [0]
    step = opened(restart(step.job).job, BIG["$blob"], SEGMENTS)
    assert step.outs == ()
    step = done(signal(step.job, "ok.1", {"approved": True, "text": "second"}), "2.wav")
    assert [out.index for out in step.outs] == [1, None]


TITLED = Plan(
    "titled",
    Params,
    (
        Stage("hear", "whisper", {"urls": "$request.urls"}),
        Stage("name", "w", {"title": "$hear.title"}, retry=Retry(frozenset({"RATE_LIMITED"}), seconds=7.0)),
    ),
    {"named": "$name"},
)


def test_what_is_tried_again_later_waits_also_where_its_parameters_are_to_be_read_again() -> None:
    step = opened(done(new(TITLED), BIG).job, BIG["$blob"], {"title": "T"})
    [task] = step.tasks
    busy = {"error_code": "RATE_LIMITED", "message": "Later.", "details": {"retry": True}}
    step = advance(loaded(step.job).job, says(task, "failed", busy))
    assert (step.tasks, step.reads) == ((), (BIG["$blob"],))
    [again] = opened(step.job, BIG["$blob"], {"title": "T"}).tasks
    assert (again.attempt, again.after, again.params) == (2, 7.0, {"title": "T"})
    assert final(opened(step.job, BIG["$blob"], FileNotFound("It is gone.")))["error_code"] == "FILE_NOT_FOUND"
