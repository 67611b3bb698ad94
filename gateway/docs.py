"""The documents that machines read, made from the plans, the errors and the routes: OpenAPI and AsyncAPI.

Nothing is written twice: a worker's parameters come from its `Params`, an error from its class, a route's sentence from
its handler's docstring.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import yaml
from aiohttp import web

from contract.errors import ERRORS
from gateway.files import MAX_FILES
from gateway.origins import ADDRESS
from gateway.page import DOCS, shown
from gateway.schemas import ERROR, FINAL_KEYS, PREFIX, Shapes
from gateway.submit import MAX_WAIT_SECONDS
from pipeline.listing import MAX_PAGE_JOBS, PAGE_JOBS
from pipeline.plans import Plan

SIGNAL_DATA: dict[str, Any] = {"description": "What the job is given, as its type says; {} when left out."}
_PAGE: dict[str, Any] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_JOBS, "default": PAGE_JOBS},
    "before": {"type": "string", "description": "`next` of the page before."},
}
CONTROLS: dict[str, dict[str, Any]] = {
    "cancel": {"job_id": {"type": "string"}},
    "signal": {
        "job_id": {"type": "string"},
        "name": {"type": "string", "description": "What the job waits for, as its `waiting_for` says."},
        "data": SIGNAL_DATA,
    },
    "resume": {"jobs": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}}},
    "jobs": _PAGE,
    "voices": {},
    "delete_voice": {"reference_id": {"type": "string"}},
}
"""Messages that are answered at once instead of becoming a job, with their keys."""
_RECORDING: dict[str, Any] = {
    "job_id": {"type": "string"},
    "audio": {"type": "string", "format": "binary", "description": "The next piece, at most 4 MiB."},
    "offset": {"type": "integer", "minimum": 0, "description": "Bytes before it; so a piece may be sent twice."},
    "end": {"type": "boolean", "description": "The recording is whole."},
}
"""The event `audio` as a client sends it; acknowledged with the bytes `received` so far."""
_COMMON: dict[str, Any] = {
    "id": {"description": "Anything; returned on every answer and event of the job."},
    "idempotency_key": {"type": "string", "minLength": 1, "maxLength": 256},
}
_STATUSES = ("success", "error", "cancelled")
_SEQ = {"type": "integer", "minimum": 1, "description": "1, 2, 3 … over partial, audio and the final answer."}
_ITEM = {"description": "Which element of a batch: null, a number, or a list of numbers when nested."}
_FILE = {"type": "string", "format": "binary"}
_FILES = {
    "type": "array",
    "items": _FILE,
    "minItems": 1,
    "maxItems": MAX_FILES,
    "description": "One or several; several are also answered as `files`, in order.",
}
_QUERIES: dict[tuple[str, str], dict[str, Any]] = {
    ("GET", "/files"): {"path": {"type": "string"}},
    ("GET", "/jobs"): _PAGE,
    ("POST", "/jobs"): {"wait": {"type": "number", "minimum": 0, "maximum": MAX_WAIT_SECONDS}},
    ("GET", "/jobs/{job_id}/events"): {"ticket": {"type": "string"}},
    ("POST", "/jobs/{job_id}/audio"): {
        "offset": {"type": "integer", "minimum": 0},
        "end": {"enum": ["0", "1"]},
    },
}
"""What routes take behind the question mark."""
_EVENTS: dict[str, dict[str, Any]] = {
    "session": {"client": {"type": "string"}, "token": {"type": "string"}},
    "progress": {
        "stage": {"type": "string"},
        "item": _ITEM,
        "fraction": {"type": ["number", "null"]},
        "eta": {"type": ["number", "null"]},
    },
    "partial": {"seq": _SEQ, "stage": {"type": "string"}, "item": _ITEM, "index": {"type": "integer"}, "data": {}},
    "audio": {
        "seq": _SEQ,
        "stage": {"type": "string"},
        "item": _ITEM,
        "index": {"type": "integer"},
        "start": {"type": "integer", "description": "How many samples came before this piece."},
        "end": {"type": "integer"},
        "sample_rate": {"type": "integer"},
        "audio": {
            "type": "string",
            "format": "binary",
            "description": "pcm_s16le mono; base64 over HTTP.",
        },
    },
}


class Docs:
    """Serves /docs, /openapi.json and /asyncapi.yaml of an application and its plans.

    results: what each worker's tasks give, by the worker's name.
    """

    def __init__(self, plans: Mapping[str, Plan], results: Mapping[str, Any], version: str) -> None:
        self._plans = plans
        self._version = version
        self._shapes = Shapes(results)
        self._answers = {f"{name}.answer": self._shapes.answer(plan) for name, plan in plans.items()}
        self._answers["cancelled.answer"] = _object(
            {**FINAL_KEYS, "status": {"const": "cancelled"}}, ["job_id", "status"]
        )

    def attach(self, app: web.Application) -> None:
        """Describe the routes that `app` has by now."""
        openapi = self.openapi(app)
        asyncapi = yaml.safe_dump(self.asyncapi(), sort_keys=False, allow_unicode=True)

        async def get_openapi(request: web.Request) -> web.Response:
            address = request[ADDRESS]
            # Without a proxy's word the document's own address says where the routes lie.
            return web.json_response({**openapi, "servers": [{"url": (address.origin or "") + address.prefix or "."}]})

        async def get_asyncapi(request: web.Request) -> web.Response:
            return web.Response(text=asyncapi, content_type="application/yaml")

        async def page(request: web.Request) -> web.StreamResponse:
            return shown(DOCS)

        app.add_routes(
            [web.get("/docs", page), web.get("/openapi.json", get_openapi), web.get("/asyncapi.yaml", get_asyncapi)]
        )

    def openapi(self, app: web.Application) -> dict[str, Any]:
        """OpenAPI 3.1 of the routes."""
        paths: dict[str, dict[str, Any]] = {}
        for route in app.router.routes():
            path = route.resource.canonical if route.resource else ""
            if route.method in ("GET", "POST", "DELETE") and not path.startswith("/socket.io"):
                paths.setdefault(path, {})[route.method.lower()] = self._operation(route, path)
        schemas, definitions = self._messages(PREFIX)
        return {
            "openapi": "3.1.0",
            "info": {"title": "Optivus", "version": self._version},
            "paths": paths,
            "components": {
                "schemas": {
                    **schemas,
                    **self._answers,
                    **definitions,
                    **self._shapes.definitions,
                    "Error": _error(),
                },
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
            "security": [{}, {"token": []}],
        }

    def _operation(self, route: web.AbstractRoute, path: str) -> dict[str, Any]:
        operation: dict[str, Any] = {
            "summary": (inspect.getdoc(route.handler) or "").split("\n\n")[0].replace("\n", " "),
            "responses": {
                "default": {
                    "description": "An error",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
                },
                **self._shapes.responses(route.method, path, list(self._answers)),
            },
        }
        names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
        for name, schema in _QUERIES.get((route.method, path), {}).items():
            needed = (route.method, path) == ("GET", "/files")
            parameters.append({"name": name, "in": "query", "required": needed, "schema": schema})
        if parameters:
            operation["parameters"] = parameters
        if (body := self._body(route.method, path)) is not None:
            operation["requestBody"] = body
        return operation

    def _body(self, method: str, path: str) -> dict[str, Any] | None:
        """What a route reads; None for nothing."""
        match method, path:
            case "POST", "/jobs":
                refs = [{"$ref": f"#/components/schemas/{name}"} for name in self._plans]
                form = _object({"type": {"type": "string"}, "file": _FILE}, ["type"])
                return _content({"application/json": {"anyOf": refs}, "multipart/form-data": form})
            case "POST", "/files":
                form = _object({"file": _FILES}, ["file"])
                return {**_content({"multipart/form-data": form}), "required": True}
            case "POST", "/jobs/{job_id}/signals/{name}":
                return _content({"application/json": SIGNAL_DATA})
        return None

    def asyncapi(self) -> dict[str, Any]:
        """AsyncAPI 3.0 of the Socket.IO events."""
        schemas, definitions = self._messages(PREFIX)
        controls = {name: _object({"type": {"const": name}, **_COMMON, **keys}) for name, keys in CONTROLS.items()}
        incoming = {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in (*schemas, *controls)]}
        address = {"job_id": {"type": "string"}, "id": {}}
        events = {name: _object({**({} if name == "session" else address), **keys}) for name, keys in _EVENTS.items()}
        truncated = {
            "truncated": {"const": True, "description": "Above 3 MiB: its largest field was left out."},
            "result_url": {"type": "string", "description": "The HTTP path of the whole answer then."},
        }
        answer = {**address, "type": {"type": "string"}, "seq": _SEQ, "status": {"enum": list(_STATUSES)}}
        messages = {name: {"name": name, "payload": payload} for name, payload in events.items()}
        messages["request"] = {"name": "message", "payload": incoming}
        messages["recording"] = {"name": "audio", "payload": _object(_RECORDING, ["job_id"])}
        finals = [{"$ref": PREFIX + name} for name in self._answers]
        finals += [ERROR, _object(truncated, ["truncated"])]
        messages["answer"] = {
            "name": "message",
            "payload": {**_object(answer), "anyOf": finals},
        }
        received = {name: {"$ref": f"#/channels/socket/messages/{name}"} for name in messages}
        return {
            "asyncapi": "3.0.0",
            "info": {"title": "Optivus", "version": self._version},
            "channels": {"socket": {"address": "/socket.io", "messages": messages}},
            "operations": {
                "ask": {
                    "action": "receive",
                    "channel": {"$ref": "#/channels/socket"},
                    "messages": [received.pop("request"), received.pop("recording")],
                },
                "tell": {
                    "action": "send",
                    "channel": {"$ref": "#/channels/socket"},
                    "messages": list(received.values()),
                },
            },
            "components": {
                "schemas": {
                    **schemas,
                    **controls,
                    **self._answers,
                    **definitions,
                    **self._shapes.definitions,
                    "Error": _error(),
                }
            },
        }

    def _messages(self, prefix: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """For each plan the schema of its message, and the definitions that these refer to."""
        schemas: dict[str, Any] = {}
        definitions: dict[str, Any] = {}
        for name, plan in self._plans.items():
            schema = plan.written.model_json_schema(ref_template=prefix + "{model}")
            definitions |= schema.pop("$defs", {})
            kind = {"type": {"const": name.split(".")[0]}}
            keys = {**kind, **schema["properties"], **_COMMON}
            schemas[name] = _object(keys, ["type", *schema.get("required", ())])
        return schemas, definitions


def _content(schemas: dict[str, Any]) -> dict[str, Any]:
    return {"content": {kind: {"schema": schema} for kind, schema in schemas.items()}}


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def _error() -> dict[str, Any]:
    codes = sorted(ERRORS)
    listed = ", ".join(f"{code} {ERRORS[code].status}" for code in codes)
    properties = {
        "status": {"const": "error"},
        "error_code": {"enum": codes, "description": f"With its HTTP status: {listed}."},
        "message": {"type": "string", "description": "One sentence that says what to do."},
        "details": {"type": "object"},
    }
    return _object(properties, ["status", "error_code", "message"])
