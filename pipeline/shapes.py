"""Whether a plan fits what its workers declare.

Every reference leads to a field of a `Result`, and every parameter of a stage is one that its worker knows. This is
checked when the plans are made, so that a misspelt name never reaches a job.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NotRequired, Required, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from typing_extensions import is_typeddict

from contract.declaration import Declaration
from pipeline.plans import SPREAD, Plan, Stage, reference, references


def check_shapes(plan: Plan, found: Mapping[str, type[Declaration]]) -> None:
    """Raises: ValueError."""
    results = {stage.name: _result(stage, found) for stage in plan.stages}
    for stage in plan.stages:
        every = (*stage.needs, *(ref for _, ref in stage.sources or ()))
        _check(plan, stage.name, every, results)
        _check_params(plan, stage, found)
    _check(plan, "answer", (*references(plan.answer), *references(plan.each)), results)


def _check(plan: Plan, where: str, refs: tuple[str, ...], results: Mapping[str, Any]) -> None:
    for ref in refs:
        head, path, _ = reference(ref)
        if head in results and not leads(results[head], path):
            raise ValueError(f"plan {plan.name}: {where} refers to {ref}, which the result of {head} does not have")


def _check_params(plan: Plan, stage: Stage, found: Mapping[str, type[Declaration]]) -> None:
    if not isinstance(stage.worker, str) or stage.worker not in found or not isinstance(stage.params, Mapping):
        return
    worker = found[stage.worker]
    known = (worker.TaskParams or worker.Params).model_fields
    for name in stage.params:
        if name != SPREAD and name not in known:
            raise ValueError(f"plan {plan.name}: stage {stage.name} sets {name!r}, which {worker.name} does not know")


def _result(stage: Stage, found: Mapping[str, type[Declaration]]) -> Any:
    """The type of what a stage gives."""
    if stage.wait is not None:
        return stage.wait
    if callable(stage.worker):
        return get_type_hints(stage.worker).get("return", Any)
    return found[stage.worker].Result if stage.worker in found else Any


def leads(shape: Any, path: tuple[str, ...]) -> bool:
    """Whether a type has a field at the end of a path, in one of its alternatives at least."""
    if not path:
        return True
    return any(
        fields is None or (path[0] in fields and leads(fields[path[0]], path[1:]))
        for fields in map(_fields, _alternatives(shape))
    )


def _alternatives(shape: Any) -> Iterator[Any]:
    origin = get_origin(shape)
    if origin in (Annotated, NotRequired, Required):
        yield from _alternatives(get_args(shape)[0])
    elif origin in (Union, types.UnionType):
        for option in get_args(shape):
            yield from _alternatives(option)
    else:
        yield shape


def _fields(shape: Any) -> Mapping[str, Any] | None:
    """The fields of an object; none of a list or a text; None where anything may be there."""
    if is_typeddict(shape):
        return get_type_hints(shape)
    if isinstance(shape, type) and issubclass(shape, BaseModel):
        return {name: field.annotation for name, field in shape.model_fields.items()}
    return None if shape is Any or get_origin(shape) is dict or shape is dict else {}
