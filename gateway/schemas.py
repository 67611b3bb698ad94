"""What is answered, as JSON Schema: the final answer of each plan, and the body of each HTTP route.

A plan's answer is its template with, in the place of each reference, the shape of what that leads to: the `Result` of
the stage's worker, or a field of it. Where a stage keeps its errors, the error object may stand there too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NotRequired

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from pipeline.plans import First, Plan, reference

Schema = dict[str, Any]
PREFIX = "#/components/schemas/"
ERROR: Schema = {"$ref": f"{PREFIX}Error"}

FINAL_KEYS: Schema = {
    "job_id": {"type": "string"},
    "id": {"description": "The client's own."},
    "seq": {"type": "integer", "minimum": 1},
    "type": {"type": "string"},
}
"""Keys of every final answer."""


class WaitingFor(TypedDict):
    name: str
    since: float


class Job(TypedDict):
    job_id: str
    id: Any
    type: str
    state: Literal["pending", "processing", "waiting", "completed", "failed", "cancelled"]
    created_at: float
    finished_at: float | None
    fraction: float | None
    queue_position: int | None
    waiting_for: NotRequired[WaitingFor]


class Jobs(TypedDict):
    jobs: list[Job]
    next: NotRequired[str]


class WholeJob(Job):
    answer: Any


class Accepted(TypedDict, total=False):
    job_id: str
    id: Any
    token: str


class Ticket(TypedDict):
    ticket: str
    expires_in: int
    url: str


class Received(TypedDict):
    received: int


class Signalled(TypedDict):
    signalled: bool


class Cancelled(TypedDict):
    cancelled: bool


class UploadedFile(TypedDict):
    file_id: str
    size: int
    name: str


class Uploaded(UploadedFile):
    """The first file of the form; `files` has all of them, in order, where there were several."""

    files: NotRequired[list[UploadedFile]]


class Deleted(TypedDict):
    deleted: Literal[True]


class Voice(TypedDict):
    reference_id: str
    name: str | None
    description: str | None
    duration: float
    created_at: float


class Voices(TypedDict):
    voices: list[Voice]


class Health(TypedDict):
    status: Literal["healthy", "draining", "unhealthy"]
    error_code: NotRequired[str]
    message: NotRequired[str]
    version: str
    gpu_available: bool
    device: str
    model_loaded: bool
    vram_used_gb: float
    disk_free_gb: NotRequired[float]
    open_jobs: int
    connections: int
    workers: dict[str, Any]


ROUTES: dict[tuple[str, str], dict[str, Any]] = {
    ("GET", "/"): {"200": "text/html"},
    ("GET", "/health"): {"200": Health, "503": Health},
    ("GET", "/metrics"): {"200": "text/plain"},
    ("GET", "/voices"): {"200": Voices},
    ("DELETE", "/voices/{reference_id}"): {"200": Deleted},
    ("POST", "/jobs"): {"200": "answer", "202": Accepted},
    ("GET", "/jobs"): {"200": Jobs},
    ("GET", "/jobs/{job_id}"): {"200": WholeJob},
    ("GET", "/jobs/{job_id}/events"): {"200": "text/event-stream", "204": None},
    ("POST", "/jobs/{job_id}/ticket"): {"200": Ticket},
    ("POST", "/jobs/{job_id}/audio"): {"200": Received},
    ("POST", "/jobs/{job_id}/signals/{name}"): {"200": Signalled},
    ("DELETE", "/jobs/{job_id}"): {"200": Cancelled},
    ("POST", "/files"): {"201": Uploaded},
    ("GET", "/files"): {"200": "application/octet-stream"},
    ("GET", "/files/{file_id}"): {"200": "application/octet-stream"},
    ("DELETE", "/files/{file_id}"): {"200": Deleted},
}
"""What each route answers when all went well: a type of JSON, a media type, `answer` for a job's final one, or None."""


class Shapes:
    """Schemas whose parts are kept in one place. results: each worker's `Result`, by the worker's name."""

    def __init__(self, results: Mapping[str, Any]) -> None:
        self.definitions: dict[str, Schema] = {}
        self._results = {name: self.of(result) for name, result in results.items()}

    def of(self, shape: Any) -> Schema:
        """The schema of a type; what it refers to is among the definitions."""
        schema = TypeAdapter(shape).json_schema(ref_template=f"{PREFIX}{{model}}", mode="serialization")
        self.definitions |= schema.pop("$defs", {})
        return schema

    def answer(self, plan: Plan) -> Schema:
        """A plan's final answer when it is a success."""
        if plan.each is not None:
            failed = {"allOf": [ERROR], "properties": {key: {} for key in plan.echoes}}
            element = {"anyOf": [*self._filled(plan.each, plan), failed]}
            options = [_object({"data": {"type": "array", "items": element}}, ["data"])]
        else:
            options = list(self._filled(plan.answer, plan))
        common = {
            **FINAL_KEYS,
            "status": {"const": "success"},
            "warnings": {"type": "array", "items": {"type": "string"}},
        }
        required = ["job_id", "id", "seq", "type", "status"]
        whole = [
            {
                **option,
                "properties": {**option.get("properties", {}), **common},
                "required": sorted({*option.get("required", ()), *required}),
            }
            for option in options
        ]
        return whole[0] if len(whole) == 1 else {"anyOf": whole}

    def responses(self, method: str, path: str, answers: list[str]) -> dict[str, Any]:
        """What a route answers when all went well. answers: names of the schemas of final answers."""
        found = {}
        for status, body in ROUTES.get((method, path), {"2XX": None}).items():
            found[status] = {"description": "Done", **self._content(body, answers)}
        return found

    def _content(self, body: Any, answers: list[str]) -> dict[str, Any]:
        if body is None:
            return {}
        if body == "answer":
            schema: Schema = {"anyOf": [{"$ref": PREFIX + name} for name in answers]}
        elif isinstance(body, str):
            return {"content": {body: {"schema": {"type": "string"}}}}
        else:
            schema = self.of(body)
        if body is WholeJob:
            options = [{"$ref": PREFIX + name} for name in (*answers, "Error")]
            schema["properties"]["answer"] = {"anyOf": [*options, {"type": "null"}]}
        return {"content": {"application/json": {"schema": schema}}}

    # Templates.

    def _filled(self, template: dict[str, Any] | str, plan: Plan) -> Iterator[Schema]:
        """The alternatives of an object that a template becomes."""
        if isinstance(template, str):
            yield from self._objects(self._led_to(template, plan))
            return
        properties = {key: self._value(value, plan) for key, value in template.items()}
        yield _object(properties, [key for key, value in template.items() if not _may_be_skipped(value, plan)])

    def _value(self, value: Any, plan: Plan) -> Schema:
        if isinstance(value, First):
            return {"anyOf": [self._value(ref, plan) for ref in value]}
        if not isinstance(value, str) or not value.startswith("$"):
            return {}
        schema = self._led_to(value, plan)
        kept = _is_stage(value, plan) and plan.by_name[reference(value).head].on_error == "keep"
        return {"anyOf": [schema, ERROR]} if schema and kept else schema

    def _led_to(self, ref: str, plan: Plan) -> Schema:
        if not _is_stage(ref, plan):
            return {}
        schema = self._results.get(str(plan.by_name[reference(ref).head].worker), {})
        for name in ref.split(".")[1:]:
            found = [one["properties"][name] for one in self._objects(schema) if name in one.get("properties", {})]
            schema = found[0] if len(found) == 1 else {"anyOf": found} if found else {}
        return {"type": "array", "items": schema} if reference(ref).star else schema

    def _objects(self, schema: Schema) -> Iterator[Schema]:
        if "$ref" in schema:
            yield from self._objects(self.definitions[schema["$ref"].removeprefix(PREFIX)])
        elif "anyOf" in schema:
            for option in schema["anyOf"]:
                yield from self._objects(option)
        else:
            yield schema


def _is_stage(ref: str, plan: Plan) -> bool:
    return reference(ref).head in plan.by_name


def _may_be_skipped(value: Any, plan: Plan) -> bool:
    return isinstance(value, str) and _is_stage(value, plan) and plan.by_name[reference(value).head].when is not None


def _object(properties: dict[str, Any], required: list[str]) -> Schema:
    return {"type": "object", "properties": properties, "required": required}
