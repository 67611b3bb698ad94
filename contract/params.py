"""What may be asked: the base of all parameters, and how what came in is checked against them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import is_typeddict

from contract.errors import InvalidInput
from contract.messages import BLOB, BlobRef, FileRef, filled, is_blob

M = TypeVar("M", bound=BaseModel)
Bind = Callable[[str | bytes], FileRef]
"""Turns a client's path, file_id or bytes into a reference, or raises why not."""


class Params(BaseModel):
    """What a client may ask of one worker. Strict: `"5"` is not a number. Unknown keys become warnings."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


def checked(model: type[M], raw: Mapping[str, Any], bind: Bind | None = None) -> M:
    """Parameters that `model` accepts. Raises: InvalidInput, naming the field, or what `bind` raises."""
    try:
        return model.model_validate(dict(raw), context={"bind": bind} if bind else None)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in error["loc"]) or "message"
        reason = error["msg"][:1].lower() + error["msg"][1:]
        raise InvalidInput(f"Parameter {field!r}: {reason}.", field=field, error=error["type"]) from exc


def file_fields(model: type[BaseModel]) -> frozenset[str]:
    """Names of the fields that hold a `FileRef`, themselves or anywhere within."""
    return frozenset(name for name, field in model.model_fields.items() if _holds_file(field.annotation, frozenset()))


def _holds_file(shape: Any, outer: frozenset[Any]) -> bool:
    """outer: the types that this one was found in, since one may hold itself."""
    if shape is FileRef:
        return True
    return shape not in outer and any(_holds_file(part, outer | {shape}) for part in _parts(shape))


def _parts(shape: Any) -> Iterable[Any]:
    """The types that a type is made of: of fields, of elements, of alternatives."""
    if isinstance(shape, type) and issubclass(shape, BaseModel):
        return [field.annotation for field in shape.model_fields.values()]
    if is_typeddict(shape) or (isinstance(shape, type) and dataclasses.is_dataclass(shape)):
        return get_type_hints(shape).values()
    return [shape.__value__] if hasattr(shape, "__value__") else get_args(shape)


def as_asked(model: type[M], kept: Mapping[str, Any], content: Callable[[str], Any]) -> M:
    """The parameters of a task, as its worker takes them. A field that holds a `BlobRef` is left to `Context.open`.

    content: gives that of a blob, by its name; called where another field has one.
    Raises: InvalidInput, naming the field, or what `content` raises.
    """
    whole = content(kept[BLOB]) if is_blob(kept) else kept
    fields = {name: field.annotation for name, field in model.model_fields.items()}
    return checked(model, {name: _asked(fields.get(name), value, content) for name, value in whole.items()})


def _asked(annotation: Any, value: Any, content: Callable[[str], Any]) -> Any:
    if annotation is BlobRef or BlobRef in get_args(annotation):
        whole = is_blob(value) and get_origin(annotation) is list  # a list of them, all of it in one
        return content(value[BLOB]) if whole else value
    return filled(value, content)
