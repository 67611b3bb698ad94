"""Which keys of a message nobody reads: one walk for all plans, so that no misspelt option is ignored silently."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel


def unknown_keys(given: Mapping[str, Any], model: type[BaseModel], also: Collection[str]) -> list[str]:
    """Keys of a message, and of the objects in it, that `model` does not have; each once, in order.

    also: keys that are read although the model does not have them.
    """
    return list(dict.fromkeys(_unknown(given, model, also)))


def _unknown(given: Mapping[str, Any], model: type[BaseModel], also: Collection[str]) -> Iterator[str]:
    inner = _inner(model)
    for key, value in given.items():
        if key not in inner:
            if key not in also:
                yield key
            continue
        within = inner[key]
        if within is not None:
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, dict):
                    yield from _unknown(part, within, also)


@cache
def _inner(model: type[BaseModel]) -> Mapping[str, type[BaseModel] | None]:
    """The fields of a model, each with the one model that it holds, itself or in lists and unions."""
    found = {name: list(_models(field.annotation)) for name, field in model.model_fields.items()}
    return {name: models[0] if len(models) == 1 else None for name, models in found.items()}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type holds, itself or in lists and unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for inner in get_args(annotation):
        yield from _models(inner)
