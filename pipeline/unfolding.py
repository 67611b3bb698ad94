"""A plan unfolding over its lists: which items there are, how much of each stage is left below them, and what an ended
run sets free.

    a run ends ─▶ the stages that refer to it, for the items below its own
               ─▶ the fan-outs whose list it gives ─▶ their items
               ─▶ one less is left of its stage below each item that it stands in ─▶ 0: whoever gathers there
"""

from __future__ import annotations

from collections import deque
from typing import Any

from contract.errors import Internal, as_failure
from contract.messages import Item, Request
from pipeline.plans import Plan, Scope, gathered_depth
from pipeline.references import Broken, Key, View
from pipeline.steps import Todo

ELEMENT = ""
"""Stands in the place of a stage's name where an element of the answer is counted."""


class Unfolding(View):
    """Collects what is to be looked at; `pipeline.change` looks at it."""

    _stages: int
    """How many stages have not ended."""

    def __init__(self, plan: Plan, request: Request) -> None:
        super().__init__(plan, request)
        self._links = plan.links
        self._todo: deque[Todo] = deque()
        self._elements: list[int] = []
        self._fatal: dict[str, Any] | None = None

    def _set_free(self, name: str, item: Item) -> None:
        """A run has ended."""
        for user in self._links.aligned[name]:
            self._todo.extend(Todo("run", (user, below)) for below in self.items(self.plan.scopes[user], item))
        self._free_fans(name, item, star=False)
        self._ended_below(name, item)

    def _ended_below(self, name: str, item: Item) -> None:
        """All items of a stage at or below this one have ended."""
        for user, depth in self._links.gathering[name]:
            if depth == len(item):
                self._todo.extend(Todo("run", (user, below)) for below in self.items(self.plan.scopes[user], item))
        self._free_fans(name, item, star=True)
        if len(item) == 1 and self.plan.each is not None and self._one_less((ELEMENT, item)):
            self._elements.append(item[0])
        if not item:
            self._stages -= 1
        elif self._one_less((name, item[:-1])):
            self._ended_below(name, item[:-1])

    def _one_less(self, key: Key) -> bool:
        """Whether nothing is left any more."""
        left = self.left[key] - 1
        self.left = self.left.insert(key, left)
        return left == 0

    def _free_fans(self, name: str, item: Item, *, star: bool) -> None:
        for scope, starred in self._links.fanning[name]:
            around = scope[:-1]
            if starred is star and (not star or gathered_depth(around, self.plan.scopes[name]) == len(item)):
                self._todo.extend(Todo("fan", ("", below), scope) for below in self.items(around, item))

    def _born(self, scope: Scope, item: Item) -> None:
        """An item is known: look at the stages and the fan-outs that stand right in it."""
        self._todo.extend(Todo("run", (name, item)) for name in self._links.born[scope])
        self._todo.extend(Todo("fan", ("", item), deeper) for deeper in self._links.below[scope])

    def _count(self, scope: Scope, item: Item) -> None:
        """Raises: Waiting, Unread."""
        if (scope, item) in self.sizes:
            return
        try:
            size = self.size((scope, item))
        except Broken:
            size = 0
        except ValueError as exc:
            self._fatal = as_failure(Internal(f"This pipeline cannot go on: {exc}."))
            return
        self.sizes = self.sizes.insert((scope, item), size)
        inside = self._links.inside[scope]
        elements = [(*item, index) for index in range(size)]
        if len(scope) == 1 and self.plan.each is not None:
            for one in elements:
                self.left = self.left.insert((ELEMENT, one), len(inside))
        for name in inside:
            self.left = self.left.insert((name, item), size)
            if not size:
                self._ended_below(name, item)
        for one in elements:
            self._born(scope, one)
