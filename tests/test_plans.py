"""A plan that takes a list: one message, a task for each element, one item of the answer each, in order."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, NotRequired

import pytest
from pydantic import AfterValidator
from typing_extensions import TypedDict

from contract.errors import InvalidInput, TooLarge, UrlForbidden
from contract.messages import Event, FileRef, Request
from pipeline.batches import batch, listed
from pipeline.job import Job, advance, begin
from pipeline.plans import Plan, Stage
from pipeline.shapes import check_shapes
from workers.base import Params, Worker


def _allowed(url: str) -> str:
    if url.startswith("file:"):
        raise UrlForbidden("Not this.")
    return url


class _Params(Params):
    url: Annotated[str, AfterValidator(_allowed)]
    depth: int = 1


class Lister(Worker):
    """Known to these tests alone: it has no name of its own, so no server finds it."""

    message_type = "lister"
    answer: ClassVar[Any] = "$lister"
    Params = _Params


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setattr(Lister, "name", "lister", raising=False)
    return listed(Lister, "urls", "url", 3)


def no_files(value: str | bytes) -> FileRef:
    raise AssertionError(value)


def test_each_element_is_a_task_with_what_stands_beside_the_list(plan: Plan) -> None:
    params, warnings = plan.parse({"type": "lister", "urls": ["a", "b"], "depth": 2, "else": 1}, no_files)
    assert warnings == ("unknown key 'else' was ignored",)
    step = begin(Job("job", Request(1, "c", "o", "lister", params), plan, 0.0, 9.0))
    assert [(task.item, task.params) for task in step.tasks] == [
        ((0,), {"url": "a", "depth": 2}),
        ((1,), {"url": "b", "depth": 2}),
    ]


def test_results_and_errors_stand_in_order_and_an_error_names_its_element(plan: Plan) -> None:
    params, _ = plan.parse({"type": "lister", "urls": ["file:///a", "good", 5]}, no_files)
    step = begin(Job("job", Request(1, "c", "o", "lister", params), plan, 0.0, 9.0))
    [task] = step.tasks
    step = advance(step.job, Event.of(task, "done", {"title": "Good"}))
    *partials, final = step.outs
    assert [(out.kind, out.index, out.body["data"]) for out in partials] == [("partial", 1, {"title": "Good"})]
    first, second, third = final.body["data"]
    assert (first["url"], first["error_code"]) == ("file:///a", "URL_FORBIDDEN")
    assert second == {"title": "Good"}
    assert (third["url"], third["error_code"]) == (5, "INVALID_INPUT")


def test_a_task_that_fails_names_its_element(plan: Plan) -> None:
    params, _ = plan.parse({"type": "lister", "urls": ["a"]}, no_files)
    step = begin(Job("job", Request(1, "c", "o", "lister", params), plan, 0.0, 9.0))
    step = advance(step.job, Event.of(step.tasks[0], "failed", {"error_code": "DOWNLOAD_FAILED", "message": "gone"}))
    assert step.outs[-1].body["data"] == [
        {"status": "error", "url": "a", "error_code": "DOWNLOAD_FAILED", "message": "gone"}
    ]


@pytest.mark.parametrize("message", [{}, {"urls": []}, {"urls": "a"}, {"urls": ["a"], "depth": "1"}])
def test_a_message_without_a_proper_list_or_options_is_refused_whole(plan: Plan, message: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        plan.parse({"type": "lister", **message}, no_files)


def test_the_list_is_bounded(plan: Plan) -> None:
    with pytest.raises(TooLarge):
        plan.parse({"type": "lister", "urls": ["a"] * 4}, no_files)


def test_a_misspelt_key_of_a_batch_or_of_an_element_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lister, "name", "lister", raising=False)
    message = {"type": "lister", "data": [{"url": "a", "deep": 2}, {"url": "b", "id": 7}], "depht": 1, "depth": 3}
    params, warnings = batch(Lister, 9).parse(message, no_files)
    assert [element["depth"] for element in params["data"]] == [3, 3]
    assert warnings == ("unknown key 'deep' was ignored", "unknown key 'depht' was ignored")


class Heard(TypedDict):
    text: str
    words: NotRequired[list[str]]


class Silent(TypedDict):
    reason: str


@pytest.mark.parametrize(
    ("ref", "fits"),
    [
        ("$a", True),
        ("$a.text", True),
        ("$a.words", True),
        ("$a.reason", True),
        ("$a.txet", False),
        ("$a.text.length", False),
        ("$anything.at.all", True),
        ("$f.total", True),
        ("$f.sum", False),
        ("$w.url", True),
        ("$w.urls", False),
    ],
)
def test_a_reference_leads_to_what_the_worker_declares(monkeypatch: pytest.MonkeyPatch, ref: str, fits: bool) -> None:
    monkeypatch.setattr(Lister, "name", "lister", raising=False)
    monkeypatch.setattr(Lister, "Result", Annotated[Heard | Silent, "either"])
    stages = (
        Stage("a", "lister", {"url": "$request.url"}),
        Stage("anything", "unknown", {}),
        Stage("f", _totals, {"text": "$a.text"}),
        Stage("w", wait=_Params),
    )
    plan = Plan("p", _Params, stages, {"x": ref})
    if fits:
        check_shapes(plan, {"lister": Lister})
    else:
        with pytest.raises(ValueError, match=r"which the result of \w+ does not have"):
            check_shapes(plan, {"lister": Lister})


class Totals(TypedDict):
    total: int


def _totals(text: str) -> Totals:
    return {"total": len(text)}


def test_a_stage_sets_parameters_that_its_worker_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lister, "name", "lister", raising=False)
    plan = Plan("p", _Params, (Stage("a", "lister", {"uri": "$request.url"}),))
    with pytest.raises(ValueError, match="sets 'uri', which lister does not know"):
        check_shapes(plan, {"lister": Lister})


def test_the_schema_shows_what_the_list_holds(plan: Plan) -> None:
    urls = plan.params.model_json_schema()["properties"]["urls"]
    assert (urls["type"], urls["items"]["type"], urls["maxItems"]) == ("array", "string", 3)
