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
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, Field, ValidationError, WithJsonSchema, create_model

from pipeline.errors import InvalidInput, ServiceError, TooLarge, as_failure
from pipeline.messages import FileRef
from workers.base import Worker

M = TypeVar("M", bound=BaseModel)
Bind = Callable[[str | bytes], FileRef]

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
    """

    name: str
    worker: str
    params: Any
    over: str | None = None
    when: str | None = None
    on_error: Literal["fail", "keep"] = "fail"

    @property
    def references(self) -> Iterator[str]:
        yield from references(self.params)
        yield from (ref for ref in (self.over, self.when) if ref)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A pipeline. `answer` is the template of the documented answer, or a reference to a result that is the answer.

    each: template of one element of the fan-out; the answer then has them all, in order, under `data`.
    echoes: keys of the request's element that stand beside the error of one that failed.
    """

    name: str
    params: type[BaseModel]
    stages: tuple[Stage, ...]
    answer: dict[str, Any] | str = dataclasses.field(default_factory=dict)
    each: dict[str, Any] | str | None = None
    echoes: tuple[str, ...] = ()

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


def checked(model: type[M], raw: Mapping[str, Any], bind: Bind | None = None) -> M:
    """Parameters that `model` accepts. Raises: InvalidInput, naming the field, or what `bind` raises."""
    try:
        return model.model_validate(dict(raw), context={"bind": bind} if bind else None)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in error["loc"]) or "message"
        reason = error["msg"][:1].lower() + error["msg"][1:]
        raise InvalidInput(f"Parameter {field!r}: {reason}.", field=field, error=error["type"]) from exc


def single(worker: type[Worker], limit: int) -> Plan:
    """The one-stage plan of a worker: every new worker has one by being there."""
    if worker.many is not None:
        return _many(worker, *worker.many, limit)
    return Plan(worker.message_type, worker.Params, (Stage(worker.name, worker.name, "$request"),), worker.answer)


@dataclasses.dataclass(frozen=True)
class ManyPlan(Plan):
    """One message, a task for each element of its list `many`, side by side. Errors stay in place, with the element.

    element: the parameters of one task, in which the element is called `one`.
    """

    element: type[BaseModel] = BaseModel
    many: str = ""
    one: str = ""
    limit: int = 1000

    def parse(self, raw: Mapping[str, Any], bind: Bind) -> tuple[dict[str, Any], tuple[str, ...]]:
        params, warnings = super().parse(raw, bind)
        elements = params.pop(self.many)
        if len(elements) > self.limit:
            raise TooLarge(f"{self.many!r} may hold {self.limit}; send the rest in another message.", field=self.many)
        return {self.many: [self._parse_element(element, params, bind) for element in elements]}, warnings

    def _parse_element(self, element: Any, common: dict[str, Any], bind: Bind) -> dict[str, Any]:
        try:
            return checked(self.element, {**common, self.one: element}, bind).model_dump()
        except ServiceError as exc:
            return {REFUSED: as_failure(exc), self.one: element}


def _many(worker: type[Worker], many: str, one: str, limit: int) -> ManyPlan:
    shape = worker.Params.model_json_schema()["properties"][one]
    listed = {"type": "array", "items": shape, "minItems": 1, "maxItems": limit}
    fields: dict[str, Any] = {
        name: (field.annotation, field) for name, field in worker.Params.model_fields.items() if name != one
    }
    fields[many] = (Annotated[list[Any], Field(min_length=1), WithJsonSchema(listed)], ...)
    return ManyPlan(
        name=worker.message_type,
        params=create_model(f"{worker.__name__}Many", __config__=worker.Params.model_config, **fields),
        stages=(Stage(worker.name, worker.name, "$item", over=f"$request.{many}", on_error="keep"),),
        each=worker.answer,
        echoes=(one,),
        element=worker.Params,
        many=many,
        one=one,
        limit=limit,
    )


@dataclasses.dataclass(frozen=True)
class BatchPlan(Plan):
    """The same for a list of requests under `data`; keys beside it hold for each of them. Errors stay in place."""

    element: type[BaseModel] = BaseModel
    limit: int = 1000

    def parse(self, raw: Mapping[str, Any], bind: Bind) -> tuple[dict[str, Any], tuple[str, ...]]:
        items = raw["data"]
        if not isinstance(items, list) or not items:
            raise InvalidInput("Parameter 'data' must be a list with at least one object in it.", field="data")
        if len(items) > self.limit:
            raise TooLarge(f"One batch may hold {self.limit} items; send the rest in another.", field="data")
        common = {key: value for key, value in raw.items() if key not in RESERVED and key != "data"}
        unknown = {key for item in (common, *items) if isinstance(item, dict) for key in item}
        unknown -= self.element.model_fields.keys() | RESERVED
        warnings = tuple(f"unknown key {key[:80]!r} was ignored" for key in sorted(unknown)[:20])
        return {"data": [self._parse_item(item, common, bind) for item in items]}, warnings

    def _parse_item(self, item: Any, common: dict[str, Any], bind: Bind) -> dict[str, Any]:
        try:
            if not isinstance(item, dict):
                raise InvalidInput("Each item of 'data' must be an object such as {\"file\": …}.", field="data")
            return checked(self.element, {**common, **item}, bind).model_dump()
        except ServiceError as exc:
            return {REFUSED: as_failure(exc)}


def batch(worker: type[Worker], limit: int) -> BatchPlan:
    """The batch form of a worker's plan."""
    return BatchPlan(
        name=f"{worker.message_type}.data",
        params=create_model("Data", data=(list[dict[str, Any]], ...)),
        stages=(Stage(worker.name, worker.name, "$item", over="$request.data", on_error="keep"),),
        each=worker.answer,
        element=worker.Params,
        limit=limit,
    )


PIPELINES: tuple[Plan, ...] = ()
"""Plans of several stages, one row each."""


def load_plans(found: Mapping[str, type[Worker]], max_items: int) -> dict[str, Plan]:
    """Every plan by name: a single and a batch form for each worker, and the pipelines."""
    plans: list[Plan] = []
    for worker in found.values():
        plans += [single(worker, max_items), batch(worker, max_items)]
    return {plan.name: plan for plan in (*plans, *PIPELINES)}


def choose(plans: Mapping[str, Plan], raw: Mapping[str, Any]) -> Plan | None:
    """The plan that a message asks for by its `type`; a `data` list asks for the batch form where there is one."""
    name = raw.get("type")
    if not isinstance(name, str) or "." in name:  # the batch forms' names are the server's own
        return None
    return (plans.get(f"{name}.data") if "data" in raw else None) or plans.get(name)
