"""Plans that every worker has by being there: one of a single stage, and its batch form; and one for lists.

{"type": "whisp", "file": …}                  single()
{"type": "whisp", "data": [{"file": …}, …]}   batch(): a task for each element, side by side; errors stay in place
{"type": "dlp", "urls": ["…", …]}             listed(): the same for a list of one parameter's values
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, Field, WithJsonSchema, create_model

from contract.declaration import Declaration
from contract.errors import InvalidInput, ServiceError, TooLarge, as_failure
from contract.params import Bind, checked
from pipeline.listen import following
from pipeline.plans import REFUSED, Plan, Retry, Stage

Read = Callable[[dict[str, Any], Bind], dict[str, Any]]


def single(worker: type[Declaration]) -> Plan:
    """The plan of a worker alone."""
    stages = following(worker.name) if worker.live else (Stage(worker.name, worker.name, "$request"),)
    return Plan(worker.message_type, worker.Params, stages, worker.answer)


def batch(worker: type[Declaration], limit: int) -> Plan:
    """The same for a list of requests under `data`; keys beside it hold for each of them. limit: of elements."""
    return Plan(
        name=f"{worker.message_type}.data",
        params=create_model("Data", data=(list[dict[str, Any]], ...)),
        stages=(Stage(worker.name, worker.name, "$item", over="$request.data", on_error="keep"),),
        each=worker.answer,
        message=create_model(f"{worker.__name__}Data", data=(list[worker.Params], Field(max_length=limit))),  # type: ignore[name-defined]
        read=_elements_of(worker.Params, limit),
        also=frozenset(worker.Params.model_fields),
    )


def _elements_of(element: type[BaseModel], limit: int) -> Read:
    def read(given: dict[str, Any], bind: Bind) -> dict[str, Any]:
        items = given.pop("data")
        if not isinstance(items, list) or not items:
            raise InvalidInput("Parameter 'data' must be a list with at least one object in it.", field="data")
        if len(items) > limit:
            raise TooLarge(f"One batch may hold {limit} items; send the rest in another.", field="data")
        return {"data": [one(item, given, bind) for item in items]}

    def one(item: Any, common: Mapping[str, Any], bind: Bind) -> dict[str, Any]:
        try:
            if not isinstance(item, dict):
                raise InvalidInput("Each item of 'data' must be an object such as {\"file\": …}.", field="data")
            return checked(element, {**common, **item}, bind).model_dump()
        except ServiceError as exc:
            return {REFUSED: as_failure(exc)}

    return read


def listed(worker: type[Declaration], many: str, one: str, limit: int, retry: Retry | None = None) -> Plan:
    """A plan whose message has a list `many`, of which each element is the parameter `one` of a task of its own.

    An element that is refused, or fails, stands in its place with its error.
    """
    shape = worker.Params.model_json_schema()["properties"][one]
    schema = {"type": "array", "items": shape, "minItems": 1, "maxItems": limit}
    fields: dict[str, Any] = {
        name: (field.annotation, field) for name, field in worker.Params.model_fields.items() if name != one
    }
    fields[many] = (Annotated[list[Any], Field(min_length=1), WithJsonSchema(schema)], ...)
    params = create_model(f"{worker.__name__}List", __config__=worker.Params.model_config, **fields)

    def read(given: dict[str, Any], bind: Bind) -> dict[str, Any]:
        common = checked(params, given, bind).model_dump()
        elements = common.pop(many)
        if len(elements) > limit:
            raise TooLarge(f"{many!r} may hold {limit}; send the rest in another message.", field=many)
        return {many: [element(value, common, bind) for value in elements]}

    def element(value: Any, common: dict[str, Any], bind: Bind) -> dict[str, Any]:
        try:
            return checked(worker.Params, {**common, one: value}, bind).model_dump()
        except ServiceError as exc:
            return {REFUSED: as_failure(exc), one: _repeatable(value)}

    return Plan(
        name=worker.message_type,
        params=params,
        stages=(Stage(worker.name, worker.name, "$item", over=f"$request.{many}", on_error="keep", retry=retry),),
        each=worker.answer,
        echoes=(one,),
        read=read,
    )


def _repeatable(element: Any) -> Any:
    """What a client wrote, beside its error; None for what holds binary, which neither ledger nor answer can."""
    try:
        orjson.dumps(element)
    except TypeError:
        return None
    return element
