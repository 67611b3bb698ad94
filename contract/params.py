"""What may be asked: the base of all parameters, and how what came in is checked against them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

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
