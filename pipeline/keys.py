"""Which keys of a message nobody reads: one walk for all plans, so that no misspelt option is ignored silently."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel


def unknown_keys(given: Mapping[str, Any], model: type[BaseModel], also: Collection[str]) -> list[str]:
    """Keys of a message, and of the objects in it, that `model` does not have; each once, in order.

    also: keys that are read although the model does not have them.
    """
    return list(dict.fromkeys(_unknown(given, model, also)))


def _unknown(given: Mapping[str, Any], model: type[BaseModel], also: Collection[str]) -> Iterator[str]:
    for key, value in given.items():
        field = model.model_fields.get(key)
        if field is None:
            if key not in also:
                yield key
            continue
        inner = list(_models(field.annotation))
        if len(inner) == 1:
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, dict):
                    yield from _unknown(part, inner[0], also)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type holds, itself or in lists and unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for inner in get_args(annotation):
        yield from _models(inner)
