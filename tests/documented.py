"""Whether an answer is what the OpenAPI document says: valid, and with no key that the document does not know."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from jsonschema import Draft202012Validator


def openapi(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/openapi.json", timeout=30) as response:
        return dict(json.load(response))


def check(document: dict[str, Any], schema: dict[str, Any], answer: Any) -> None:
    """Raises: jsonschema.ValidationError, which names what is missing, wrong or not documented."""
    components = {name: _closed(one) for name, one in document["components"]["schemas"].items() if name != "Error"}
    components["Error"] = document["components"]["schemas"]["Error"]
    Draft202012Validator({**_closed(schema), "components": {"schemas": components}}).validate(answer)


def check_answer(document: dict[str, Any], answer: dict[str, Any]) -> None:
    """A job's final answer, by its type."""
    name = answer["type"] if "data" not in answer else _batch(document, answer["type"])
    check(document, {"$ref": f"#/components/schemas/{name}.answer"}, answer)


def _batch(document: dict[str, Any], kind: str) -> str:
    form = document["components"]["schemas"][f"{kind}.answer"]
    return kind if "data" in form.get("properties", {}) else f"{kind}.data"


def _closed(schema: Any) -> Any:
    """The same schema, with nothing allowed beside what it names."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "allOf" not in schema:
        closed.setdefault("additionalProperties", False)
    return closed
