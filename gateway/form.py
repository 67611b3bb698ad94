"""An HTML form as a message: its fields are text, a message's keys have types, which the plan's schema tells.

-F type=whisp -F file=@talk.mp4 -F word_timestamps=true -F formats=srt -F formats=vtt
─▶ {"type": "whisp", "file": "file_…", "word_timestamps": true, "formats": ["srt", "vtt"]}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from contract.errors import InvalidInput
from contract.params import file_fields
from pipeline.catalog import choose
from pipeline.plans import Plan

_KINDS: dict[type, set[str]] = {
    bool: {"boolean"},
    int: {"integer", "number"},
    float: {"number"},
    list: {"array"},
    dict: {"object"},
}
"""A JSON value's type → the schema's words for it."""


_TEXTS = frozenset({"type", "id", "idempotency_key"})
"""Keys of every message that stay text in a form."""


def message_of(
    fields: Iterable[tuple[str, str]], plans: Mapping[str, Plan], files: Iterable[str] = ()
) -> dict[str, Any]:
    """The message that a form's fields are, in order; a name given several times is a list.

    A text that is JSON is that where the plan takes such a value, or knows no such key; else it stays text.
    files: names of the fields that were files, whose texts are the uploads' ids.
    Raises: InvalidInput, also for a file where the plan takes none.
    """
    given: dict[str, list[str]] = {}
    for name, text in fields:
        given.setdefault(name, []).append(text)
    typed = {"type": given.get("type", [None])[-1], "v_conv": given.get("v_conv") == ["true"]}
    plan = choose(plans, {**given, **typed})
    single = choose(plans, typed)  # in a batch too: keys beside its `data` are those of each element
    takes = fields_for_files(single) if single is not None else frozenset(files)
    if wrong := sorted(set(files) - takes):
        raise takes_no_file(wrong[0])
    schema = plan.written.model_json_schema() if plan is not None else {}
    return {
        name: value
        for name, texts in given.items()
        for value in _values(name, texts, schema.get("properties", {}).get(name), schema.get("$defs", {}))
    }


def fields_for_files(plan: Plan) -> frozenset[str]:
    """The keys of a plan's message that a form can give a file: those that take one, or a list of them."""
    model = plan.message or plan.params
    names = file_fields(model)
    schema = model.model_json_schema() if names else {}
    shapes, defs = schema.get("properties", {}), schema.get("$defs", {})
    return frozenset(
        name for name in names if "string" in _kinds(shapes[name], defs) | _kinds(_items(shapes[name], defs), defs)
    )


def takes_no_file(name: str) -> InvalidInput:
    return InvalidInput(f"The form's field {name!r} takes no file.", field=name)


def _values(name: str, texts: list[str], shape: Any, definitions: Mapping[str, Any]) -> Iterator[Any]:
    """The key's value; nothing where a browser's form has sent an empty field in place of none."""
    if name in _TEXTS:
        kinds, items = {"string"}, {"string"}
    else:
        kinds, items = _kinds(shape, definitions), _kinds(_items(shape, definitions), definitions)
    if len(texts) == 1:
        value = _value(texts[0], kinds)
        if value == "" and kinds and "string" not in kinds:
            return
        yield [_value(texts[0], items)] if "array" in kinds and isinstance(value, str) else value
    elif kinds and "array" not in kinds:
        raise InvalidInput(f"The form has several fields {name!r}, of which there may be one.", field=name)
    else:
        yield [_value(text, items) for text in texts]


def _value(text: str, kinds: set[str]) -> Any:
    """kinds: the types that may stand here; none when nobody says."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    fits = not kinds or (value is None and "null" in kinds) or bool(_KINDS.get(type(value), set()) & kinds)
    return value if fits and not isinstance(value, str) else text


def _kinds(shape: Any, definitions: Mapping[str, Any]) -> set[str]:
    """The JSON types that a schema allows; empty for any."""
    return {str(option["type"]) for option in _options(shape, definitions) if "type" in option}


def _items(shape: Any, definitions: Mapping[str, Any]) -> Any:
    return {"anyOf": [option["items"] for option in _options(shape, definitions) if "items" in option]}


def _options(shape: Any, definitions: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The alternatives of a schema, its references followed."""
    if not isinstance(shape, Mapping):
        return
    if "$ref" in shape:
        yield from _options(definitions.get(str(shape["$ref"]).rpartition("/")[2]), definitions)
    elif "anyOf" in shape:
        for option in shape["anyOf"]:
            yield from _options(option, definitions)
    else:
        yield shape
