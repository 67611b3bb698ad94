"""What a plan's references lead to, given the results so far.

A reference to a run that has not ended is `Waiting`, one to a run that failed is `Broken`, and one into a result that
is too large for an event and was not read yet is `Unread`. A stage that gathers finds kept failures as elements.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from rpds import HashTrieMap

from contract.errors import Internal, as_failure
from contract.messages import BLOB, Item, Request, filled, is_blob
from pipeline.plans import REFUSED, SPREAD, First, Plan, Scope, Stage, gathered_depth, reference

Key = tuple[str, Item]
"""A stage's name and the item it runs for."""

Fan = tuple[Scope, Item]
"""A fan-out, and the item that it stands in."""


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One stage for one item.

    attempt: the fence; deaths: attempts that it may have killed; retries: those that failed elsewhere and passed.
    """

    state: Literal["queued", "waiting", "done", "failed", "skipped"]
    attempt: int = 1
    deaths: int = 0
    retries: int = 0
    checkpoint: Any = None
    result: Any = None

    @property
    def settled(self) -> bool:
        return self.state not in ("queued", "waiting")


class Waiting(Exception):
    """A reference leads to a run that has not ended."""


class Broken(Exception):
    """A reference leads to a run that failed. failure: as `errors.as_failure` gives it."""

    def __init__(self, failure: dict[str, Any]) -> None:
        self.failure = failure


class Unread(Exception):
    """A reference leads into a blob that has to be read first."""

    def __init__(self, blob: str) -> None:
        self.blob = blob


class View:
    """A plan's runs, as its references see them.

    sizes: how many elements each known fan-out has. left: how many items of a stage right below an item have not ended.
    opened: the values of the blobs that were read, or the exception that says why one could not be.
    """

    runs: HashTrieMap[Key, Run]
    sizes: HashTrieMap[Fan, int]
    left: HashTrieMap[Key, int]
    opened: HashTrieMap[str, Any]

    def __init__(self, plan: Plan, request: Request) -> None:
        self.plan = plan
        self.request = request

    def items(self, scope: Scope, prefix: Item) -> Iterator[Item]:
        """The items of a scope at or below `prefix`, as far as they are known."""
        if len(prefix) == len(scope):
            yield prefix
            return
        for index in range(self.sizes.get((scope[: len(prefix) + 1], prefix), 0)):
            yield from self.items(scope, (*prefix, index))

    def resolve(self, template: Any, item: Item, stage: Stage) -> Any:
        """A template of a stage with its references replaced. Raises: Waiting, Broken, Unread."""
        return self.fill(template, item, self.plan.scopes[stage.name])

    def fill(self, template: Any, item: Item, scope: Scope) -> Any:
        return _fill(template, lambda ref: self._lookup(ref, item, scope))

    def size(self, fan: Fan) -> int:
        """How many elements a fan-out has. Raises: Waiting, Broken, Unread; ValueError where zipped lists differ."""
        scope, item = fan
        lists = [self._list(ref, item, scope[:-1]) for _, ref in scope[-1]]
        if len(set(map(len, lists))) > 1:
            told = ", ".join(f"{name} has {len(one)}" for (name, _), one in zip(scope[-1], lists, strict=True))
            raise ValueError(f"lists that belong together have different lengths: {told}")
        return len(lists[0])

    def element(self, item: Item, scope: Scope) -> Any:
        """The element of the innermost fan-out that an item stands for."""
        if len(scope[-1]) == 1 and not scope[-1][0][0]:
            return self._nth(scope[-1][0][1], item, scope[:-1])
        return {name: self._nth(ref, item, scope[:-1]) for name, ref in scope[-1]}

    def _nth(self, ref: str, item: Item, around: Scope) -> Any:
        """The element of one list that an item stands for. Of what a star gathers it is looked up alone."""
        *outer, index = item
        head, path, star = reference(ref)
        theirs = self.plan.scopes.get(head, ())
        if star and len(theirs) == gathered_depth(around, theirs) + 1:
            return self._gathered((head, (*outer[: len(theirs) - 1], index)), path)
        return self._list(ref, tuple(outer), around)[index]

    def opened_whole(self, value: Any) -> Any:
        """A value in whose places of blobs their content stands. Raises: Unread, Broken."""
        return filled(value, self._open)

    def _list(self, ref: str, item: Item, scope: Scope) -> Any:
        found = self._lookup(ref, item, scope)
        if is_blob(found):
            found = self._open(found[BLOB])
        if found is not None and not isinstance(found, list):
            raise Broken(as_failure(Internal("A stage of this pipeline gave something else than a list.", field=ref)))
        return found or ()

    def _lookup(self, ref: str, item: Item, scope: Scope) -> Any:
        head, path, star = reference(ref)
        if head == "request":
            return self._walk(self.request.params, path)
        if head == "item":
            element = self.element(item, scope)
            if isinstance(element, Mapping) and REFUSED in element:
                raise Broken(element[REFUSED])
            return self._walk(element, path)
        theirs = self.plan.scopes[head]
        if not star:
            return self._walk(self._result((head, item[: len(theirs)])), path)
        prefix = item[: gathered_depth(scope, theirs)]
        if theirs and self.left.get((head, prefix), 1):
            raise Waiting
        return [self._gathered((head, each), path) for each in self.items(theirs, prefix)]

    def _gathered(self, key: Key, path: tuple[str, ...]) -> Any:
        """An element of a list over all items; a failure that its stage keeps is one, too."""
        try:
            return self._walk(self._result(key), path)
        except Broken as broken:
            if self.plan.by_name[key[0]].on_error == "fail":
                raise
            return {"status": "error", **broken.failure}

    def _result(self, key: Key) -> Any:
        run = self.runs.get(key)
        if run is None or not run.settled:
            raise Waiting
        if run.state == "failed":
            raise Broken(run.result)
        return run.result

    def _walk(self, value: Any, path: tuple[str, ...]) -> Any:
        for name in path:
            if is_blob(value):
                value = self._open(value[BLOB])
            if value is None:  # a skipped stage's result
                return None
            if not isinstance(value, Mapping):
                shape = Internal("A stage of this pipeline gave a result of another shape.", field=name)
                raise Broken(as_failure(shape))
            value = value.get(name)
        return value

    def _open(self, name: str) -> Any:
        if name not in self.opened:
            raise Unread(name)
        value = self.opened[name]
        if isinstance(value, Exception):
            raise Broken(as_failure(value))
        return value


def _fill(template: Any, lookup: Callable[[str], Any]) -> Any:
    if isinstance(template, str) and template.startswith("$"):
        return lookup(template)
    if isinstance(template, First):
        return next((value for ref in template if (value := lookup(ref)) is not None), None)
    if isinstance(template, Mapping):
        fields = {key: _fill(value, lookup) for key, value in template.items()}
        return {**(fields.pop(SPREAD, None) or {}), **fields}
    if isinstance(template, (list, tuple)):
        return [_fill(value, lookup) for value in template]
    return template
