"""What a plan's references lead to, given the results so far: the items of each stage, its parameters, the answer.

A reference to a run that has not ended is `Waiting`, one to a run that failed is `Broken`. In an answer a failure that
its stage keeps stands in the place of the result; where nothing else is left, the answer is the failure. What a skipped
stage would have filled is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from contract.errors import Internal, as_failure
from contract.messages import BLOB, Item, Request
from pipeline.plans import REFUSED, SPREAD, First, Plan, Stage, references, root

Key = tuple[str, Item]
"""A stage's name and the item it runs for."""


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One stage for one item. attempt: the fence; deaths: attempts that it may have killed."""

    state: Literal["queued", "done", "failed", "skipped"]
    attempt: int = 1
    deaths: int = 0
    checkpoint: Any = None
    result: Any = None

    @property
    def settled(self) -> bool:
        return self.state != "queued"


class Waiting(Exception):
    """A reference leads to a run that has not ended."""


class Broken(Exception):
    """A reference leads to a run that failed. failure: as `errors.as_failure` gives it."""

    def __init__(self, failure: dict[str, Any]) -> None:
        self.failure = failure


class Results:
    """A plan's runs, as its references see them. runs: shared with whoever changes them."""

    def __init__(self, plan: Plan, request: Request, runs: Mapping[Key, Run]) -> None:
        self._plan = plan
        self._request = request
        self._runs = runs

    def items(self, stage: Stage, prefix: Item = ()) -> tuple[list[Item], bool]:
        """The items of a stage below `prefix`, as far as they are known, and whether these are all."""
        scope = self._plan.scope(stage.name)
        found: list[Item] = [()]
        complete = True
        for depth, source in enumerate(scope):
            below: list[Item] = []
            for item in found:
                if len(prefix) > depth and item == prefix[:depth]:
                    below.append(prefix[: depth + 1])
                    continue
                try:
                    elements = self._lookup(source, item, scope[:depth])
                    below += [(*item, index) for index in range(len(elements or ()))]
                except Waiting:
                    complete = False
                except Broken:
                    continue
            found = below
        return found, complete

    def settled(self, stage: Stage, prefix: Item = ()) -> bool:
        """Whether every run of a stage below `prefix` has ended."""
        items, complete = self.items(stage, prefix)
        return complete and all((run := self._runs.get((stage.name, item))) and run.settled for item in items)

    def resolve(self, template: Any, item: Item, stage: Stage) -> Any:
        """A template of a stage with its references replaced. Raises: Waiting, Broken."""
        return self._fill(template, item, self._plan.scope(stage.name))

    # The answer.

    def answer(self) -> dict[str, Any]:
        """The documented answer, once every stage has settled. Raises: Broken."""
        body = self._kept(self._plan.answer, ())
        if self._plan.each is None:
            return body
        return {**body, "data": [self.element(index) for index in range(self._element_count())]}

    def element(self, index: int) -> dict[str, Any]:
        """One element of the answer's `data`, which may be an error in its place."""
        try:
            return self._kept(self._plan.each, (index,))
        except Broken as broken:
            asked = self._lookup(self._outer_scope()[0], (), ())[index] if self._plan.echoes else {}
            echoed = {key: asked[key] for key in self._plan.echoes if key in asked}
            return {"status": "error", **echoed, **broken.failure}

    def element_settled(self, index: int) -> bool:
        fanned = (stage for stage in self._plan.stages if self._plan.scope(stage.name))
        return all(self.settled(stage, (index,)) for stage in fanned)

    def _kept(self, template: Any, item: Item) -> dict[str, Any]:
        """A template in which kept failures stand in the place of results. Raises: Broken where there is no result."""
        scope = self._outer_scope()[: len(item)]
        if not isinstance(template, Mapping):
            filled: dict[str, Any] = self._fill(template, item, scope)
            return filled
        body: dict[str, Any] = {}
        failures: list[dict[str, Any]] = []
        for key, value in template.items():
            if self._skipped(value, item):
                continue
            try:
                body[key] = self._fill(value, item, scope)
            except Broken as broken:
                failures.append(broken.failure)
                body[key] = {"status": "error", **broken.failure}
        if failures and len(failures) == len(body.keys() & self._from_stages(template)):
            raise Broken(failures[0])
        return body

    def _skipped(self, value: Any, item: Item) -> bool:
        if not isinstance(value, str) or not value.startswith("$"):
            return False
        run = self._runs.get((root(value), item))
        return run is not None and run.state == "skipped"

    def _from_stages(self, template: Mapping[str, Any]) -> set[str]:
        """The keys of a template that any stage fills."""
        names = {stage.name for stage in self._plan.stages}
        return {key for key, value in template.items() if names & set(map(root, references(value)))}

    def _outer_scope(self) -> tuple[str, ...]:
        return max((self._plan.scope(stage.name) for stage in self._plan.stages), key=len, default=())

    def _element_count(self) -> int:
        try:
            return len(self._lookup(self._outer_scope()[0], (), ()))
        except Waiting:
            return 0

    # References.

    def _fill(self, template: Any, item: Item, scope: tuple[str, ...]) -> Any:
        return _filled(template, lambda ref: self._lookup(ref, item, scope))

    def _lookup(self, ref: str, item: Item, scope: tuple[str, ...]) -> Any:
        head, path = root(ref), ref.split(".")[1:]
        if head == "request":
            return _walk(self._request.params, path)
        if head == "item":
            element = self._lookup(scope[-1], item[:-1], scope[:-1])[item[-1]]
            if isinstance(element, Mapping) and REFUSED in element:
                raise Broken(element[REFUSED])
            return _walk(element, path)
        theirs = self._plan.scope(head)
        if scope[: len(theirs)] == theirs:
            return _walk(self._result((head, item[: len(theirs)])), path)
        items, complete = self.items(self._plan.stage(head), item)
        if not complete:
            raise Waiting
        return [_walk(self._result((head, each)), path) for each in items]

    def _result(self, key: Key) -> Any:
        run = self._runs.get(key)
        if run is None or not run.settled:
            raise Waiting
        if run.state == "failed":
            raise Broken(run.result)
        return run.result


def _filled(template: Any, lookup: Callable[[str], Any]) -> Any:
    if isinstance(template, str) and template.startswith("$"):
        return lookup(template)
    if isinstance(template, First):
        return next((value for ref in template if (value := lookup(ref)) is not None), None)
    if isinstance(template, Mapping):
        filled = {key: _filled(value, lookup) for key, value in template.items()}
        return {**(filled.pop(SPREAD, None) or {}), **filled}
    if isinstance(template, (list, tuple)):
        return [_filled(value, lookup) for value in template]
    return template


def _walk(value: Any, path: list[str]) -> Any:
    for name in path:
        if value is None:  # a skipped stage's result
            return None
        if not isinstance(value, Mapping) or BLOB in value:
            raise Broken(as_failure(Internal("A stage of this pipeline gave a result of another shape.", field=name)))
        value = value.get(name)
    return value
