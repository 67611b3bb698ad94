"""A job's answer: the plan's templates, filled with the results.

A failure that its stage keeps stands in the place of the result; where nothing else is left, the answer is the failure.
What a skipped stage would have filled is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from contract.messages import Item
from pipeline.plans import Plan, reference
from pipeline.references import Broken, View


def answer(view: View) -> dict[str, Any]:
    """The documented answer, once every stage has settled. Raises: Broken, Unread."""
    body = _kept(view, view.plan.answer, ())
    if view.plan.each is None:
        return body
    scope = _outermost(view.plan)
    return {**body, "data": [element(view, index) for index in range(view.sizes.get((scope, ()), 0))]}


def element(view: View, index: int) -> dict[str, Any]:
    """One element of the answer's `data`, which may be an error in its place. Raises: Unread."""
    try:
        return _kept(view, view.plan.each, (index,))
    except Broken as broken:
        echoes = view.plan.echoes
        asked = view.element((index,), _outermost(view.plan)) if echoes else {}
        echoed = {key: asked[key] for key in echoes if key in asked}
        return {"status": "error", **echoed, **broken.failure}


def _outermost(plan: Plan) -> Any:
    return next(scope[:1] for scope in plan.scopes.values() if scope)


def _kept(view: View, template: Any, item: Item) -> dict[str, Any]:
    """A template in which kept failures stand in the place of results. Raises: Broken where there is no result."""
    scope = _outermost(view.plan) if item else ()
    if not isinstance(template, Mapping):
        whole: dict[str, Any] = view.fill(template, item, scope)
        return whole
    from_stages = view.plan.from_stages[bool(item)]
    body: dict[str, Any] = {}
    failures: list[dict[str, Any]] = []
    filled = 0
    for key, value in template.items():
        if _skipped(view, value, item):
            continue
        filled += key in from_stages
        try:
            body[key] = view.fill(value, item, scope)
        except Broken as broken:
            failures.append(broken.failure)
            body[key] = {"status": "error", **broken.failure}
    if failures and len(failures) == filled:
        raise Broken(failures[0])
    return body


def _skipped(view: View, value: Any, item: Item) -> bool:
    if not isinstance(value, str) or not value.startswith("$"):
        return False
    run = view.runs.get((reference(value).head, item))
    return run is not None and run.state == "skipped"
