"""Which plan a message gets: for each worker a plan of one stage and its batch form, and the pipelines.

A new worker is here by being found; a new pipeline is one row of `PIPELINES`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import orjson
from pydantic import BaseModel, Field, WithJsonSchema, create_model

from contract.declaration import Declaration
from contract.errors import InvalidInput, ServiceError, TooLarge, as_failure
from contract.params import Bind, checked
from pipeline.fish import fish
from pipeline.listen import listen
from pipeline.plans import REFUSED, RESERVED, Plan, Stage
from pipeline.video import video


def single(worker: type[Declaration], limit: int) -> Plan:
    """The one-stage plan of a worker: every new worker has one by being there."""
    if worker.many is not None:
        return _many(worker, *worker.many, limit)
    stage = Stage(worker.name, worker.name, "$request", live=worker.live)
    return Plan(worker.message_type, worker.Params, (stage,), worker.answer)


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
            return {REFUSED: as_failure(exc), self.one: _repeatable(element)}


def _repeatable(element: Any) -> Any:
    """What a client wrote, beside its error; None for what holds binary, which neither ledger nor answer can."""
    try:
        orjson.dumps(element)
    except TypeError:
        return None
    return element


def _many(worker: type[Declaration], many: str, one: str, limit: int) -> ManyPlan:
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


def batch(worker: type[Declaration], limit: int) -> BatchPlan:
    """The batch form of a worker's plan."""
    return BatchPlan(
        name=f"{worker.message_type}.data",
        params=create_model("Data", data=(list[dict[str, Any]], ...)),
        stages=(Stage(worker.name, worker.name, "$item", over="$request.data", on_error="keep"),),
        each=worker.answer,
        element=worker.Params,
        limit=limit,
    )


class Pipeline(NamedTuple):
    """A plan over several workers; without one of `needs` it is not there. plan: given the workers and `max_items`."""

    plan: Callable[[Mapping[str, type[Declaration]], int], Plan]
    needs: tuple[str, ...]


PIPELINES: tuple[Pipeline, ...] = (
    Pipeline(video, ("dlp", "whisper", "florence")),
    Pipeline(fish, ("fish", "whisper")),
    Pipeline(listen, ("whisper",)),
)
"""Plans of several stages, one row each."""


def load_plans(found: Mapping[str, type[Declaration]], max_items: int) -> dict[str, Plan]:
    """Every plan by name: for each worker one and its batch form, and the pipelines whose workers are there."""
    plans: list[Plan] = []
    for worker in found.values():
        plans += [single(worker, max_items), *([] if worker.live else [batch(worker, max_items)])]
    plans += [pipeline.plan(found, max_items) for pipeline in PIPELINES if found.keys() >= set(pipeline.needs)]
    return {plan.name: plan for plan in plans}


def choose(plans: Mapping[str, Plan], raw: Mapping[str, Any]) -> Plan | None:
    """The plan that a message asks for by its `type`; a `data` list asks for the batch form where there is one.

    `v_conv` makes every type the `video` pipeline.
    """
    name = raw.get("type")
    if not isinstance(name, str) or "." in name:  # the batch forms' names are the server's own
        return None
    if raw.get("v_conv") is True and name in plans:
        name = "video"
    return (plans.get(f"{name}.data") if "data" in raw else None) or plans.get(name)
