"""Pipelines as data: a `Plan` names its stages, and references between them are the dependencies.

    "$request.urls"   a parameter of the request          "$item.file"   the element of the fan-out
    "$fetch"          the whole result of stage `fetch`   "$fetch.file"  one field of it
    "$fetch*.file"    the list of it over all elements that `fetch` ran for
    First("$fetch.file", "$item.file")   the first that is not null
    {"**": "$request.whisper"}           the keys of what it leads to, beside the others

A stage starts when everything it refers to is there, so stages that do not refer to each other run side by side.
`over` runs a stage once for each element of a list, and stages that refer to it run once for each element too; with the
star a stage stands outside that fan-out and waits for all of it. A reference that leads nowhere fails at import.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel

from contract.params import Bind, checked

REFUSED = "$error"
"""Key of a batch element that was refused at the door: ``{"$error": failure}``; it fails in its place."""

SPREAD = "**"

RESERVED = frozenset({"type", "id", "idempotency_key", "v_conv"})
"""Keys of a message that belong to the road, not to a worker."""


class First(tuple[str, ...]):
    """References, of which the first that leads to something is taken."""

    def __new__(cls, *refs: str) -> Self:
        return super().__new__(cls, refs)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One call of a worker, or one for each element of `over`.

    params: a template: references are replaced, everything else is passed as it stands.
    when: a reference; the stage is skipped, with result None, where it is empty.
    on_error: ``fail`` ends the job, ``keep`` leaves the error in the place of the result.
    live: its task follows the recording that the client is still sending.
    """

    name: str
    worker: str
    params: Any
    over: str | None = None
    when: str | None = None
    on_error: Literal["fail", "keep"] = "fail"
    live: bool = False

    @property
    def references(self) -> Iterator[str]:
        yield from references(self.params)
        yield from (ref for ref in (self.over, self.when) if ref)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A pipeline. `answer` is the template of the documented answer, or a reference to a result that is the answer.

    each: template of one element of the fan-out; the answer then has them all, in order, under `data`.
    echoes: keys of the request's element that stand beside the error of one that failed.
    message: what a client writes, for the documents, where `parse` makes something else of it for the stages.
    """

    name: str
    params: type[BaseModel]
    stages: tuple[Stage, ...]
    answer: dict[str, Any] | str = dataclasses.field(default_factory=dict)
    each: dict[str, Any] | str | None = None
    echoes: tuple[str, ...] = ()
    message: type[BaseModel] | None = None

    @property
    def needs(self) -> frozenset[str]:
        """The workers that the answer needs. Without one of them it is nothing but an error."""
        certain = {stage.worker for stage in self.stages if stage.on_error == "fail" and not (stage.when or stage.over)}
        every = {stage.worker for stage in self.stages}
        return frozenset(certain or (every if len(every) == 1 else ()))

    @property
    def live(self) -> bool:
        """Whether the client sends its recording while the job runs; it is the parameter `file`."""
        return any(stage.live for stage in self.stages)

    def __post_init__(self) -> None:
        for position, stage in enumerate(self.stages):
            known = {"request", "item", *(earlier.name for earlier in self.stages[:position])}
            for ref in stage.references:
                self._check(ref, known, stage.name)
            if "item" in map(root, references(stage.params)) and not self.scope(stage.name):
                raise ValueError(f"plan {self.name}: stage {stage.name} uses $item outside a fan-out")
        for ref in (*references(self.answer), *references(self.each)):
            self._check(ref, {"request", "item", *(stage.name for stage in self.stages)}, "answer")

    def _check(self, ref: str, known: set[str], where: str) -> None:
        path = ref.split(".")[1:]
        head = root(ref)
        if head not in known:
            raise ValueError(f"plan {self.name}: {where} refers to {ref}, which no earlier stage gives")
        if head == "request" and path and path[0] not in self.params.model_fields:
            raise ValueError(f"plan {self.name}: {where} refers to {ref}, which is no parameter of it")

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)

    def scope(self, name: str) -> tuple[str, ...]:
        """The lists that a stage fans out over, outermost first; its items have one index for each."""
        stage = self.stage(name)
        names = {earlier.name for earlier in self.stages}
        inherited: tuple[str, ...] = ()
        used = [stage.over] if stage.over else list(stage.references)
        for ref in used:
            if root(ref) in names:
                theirs = self.scope(root(ref))
                inherited = max(inherited, theirs[:-1] if gathers(ref) else theirs, key=len)
        return (*inherited, stage.over) if stage.over else inherited

    def parse(self, raw: Mapping[str, Any], bind: Bind) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The parameters of a client's message, and warnings about keys that nobody reads.

        bind: turns a client's path, file_id or bytes into a `FileRef`, or raises why not.
        Raises: InvalidInput, or what `bind` raises.
        """
        known = {name: value for name, value in raw.items() if name not in RESERVED}
        params = checked(self.params, known, bind).model_dump()
        unknown = [key for key in known if key not in self.params.model_fields]
        return params, tuple(f"unknown key {key[:80]!r} was ignored" for key in unknown[:20])


def references(template: Any) -> Iterator[str]:
    """Every reference in a template, depth first."""
    if isinstance(template, str) and template.startswith("$"):
        yield template
    elif isinstance(template, Mapping):
        for value in template.values():
            yield from references(value)
    elif isinstance(template, (list, tuple)):
        for value in template:
            yield from references(value)


def root(ref: str) -> str:
    """What a reference begins at: `request`, `item` or a stage's name."""
    return ref[1:].split(".", 1)[0].rstrip("*")


def gathers(ref: str) -> bool:
    """Whether a reference stands outside the fan-out of the stage that it leads to."""
    return ref.split(".", 1)[0].endswith("*")
