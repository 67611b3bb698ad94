"""What may be asked: the base of all parameters, and how what came in is checked against them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from contract.errors import InvalidInput
from contract.messages import FileRef

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
    """Names of the fields that hold a `FileRef`, themselves or somewhere within."""
    return frozenset(name for name, field in model.model_fields.items() if _holds_file(field.annotation))


def _holds_file(annotation: Any) -> bool:
    if annotation is FileRef:
        return True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return bool(file_fields(annotation))
    return any(map(_holds_file, get_args(annotation)))
