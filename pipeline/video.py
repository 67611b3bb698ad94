"""The `video` pipeline: what is said and what is seen in files and behind URLs, each element on its own.

urls ─▶ fetch ─┐ (the next download overlaps)
               ├─▶ whisper ─┐
files ─────────┘            ├─▶ {"transcribe_audio", "transcribe_video", "info"}
               └─▶ florence ┘   speech and pictures of an element side by side
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field, create_model

from contract.declaration import Declaration
from contract.errors import InvalidInput, ServiceError, TooLarge, as_failure
from contract.messages import FileRef
from contract.params import Bind, Params, checked
from pipeline.plans import REFUSED, First, Plan, Retry, Stage

BUSY = Retry(codes=frozenset({"DOWNLOAD_FAILED"}))
"""A source that says when it wants to be asked again is asked then."""

MAX_URL_LENGTH = 8192

_OURS = frozenset({"file", "missing_audio", "only"})
"""Parameters of the two models that this pipeline sets itself."""


class VideoParams(Params):
    """What a client may write, one of these; beside them options under `whisper` and `florence`."""

    file: FileRef | None = Field(None, description="a path under the media roots, a file_id, or binary content")
    files: list[FileRef] | None = Field(None, description="several of them")
    urls: list[Annotated[str, Field(max_length=MAX_URL_LENGTH)]] | None = Field(
        None, description="pages or files to download"
    )


class _File(Params):
    file: FileRef


class _Sources(BaseModel):
    """What a request has become: the stages refer to this."""

    sources: list[dict[str, Any]]
    whisper: dict[str, Any]
    florence: dict[str, Any]


def video(found: Mapping[str, type[Declaration]], limit: int) -> Plan:
    """The plan over the workers that this server has. Options stand under a model's name, or at the top level for
    messages that ask by `v_conv`.
    """
    file = First("$fetch.file", "$item.file")
    options = {name: _options_of(found[name]) for name in ("whisper", "florence")}
    fields: dict[str, Any] = {name: (model, model()) for name, model in options.items()}

    def read(given: dict[str, Any], bind: Bind) -> dict[str, Any]:
        sources = [_source(entry, bind) for entry in _entries(given)]
        if not sources:
            raise InvalidInput("A `video` needs a 'file', 'files' or 'urls'.", field="file")
        if len(sources) > limit:
            raise TooLarge(f"One request may hold {limit} videos; send the rest in another.", field="files")
        chosen = {name: checked(model, _options(given, name, model)) for name, model in options.items()}
        return {"sources": sources, **{name: model.model_dump(exclude_unset=True) for name, model in chosen.items()}}

    return Plan(
        name="video",
        params=_Sources,
        stages=(
            Stage(
                "fetch",
                "dlp",
                {"url": "$item.url", "data_type": "file"},
                over="$request.sources",
                when="$item.url",
                on_error="keep",
                retry=BUSY,
            ),
            Stage(
                "whisper",
                "whisper",
                {"**": "$request.whisper", "file": file, "missing_audio": "empty"},
                on_error="keep",
            ),
            Stage("florence", "florence", {"**": "$request.florence", "file": file, "only": "video"}, on_error="keep"),
        ),
        each={"transcribe_audio": "$whisper", "transcribe_video": "$florence.transcribe_video", "info": "$fetch"},
        echoes=("url",),
        message=create_model("Video", __base__=VideoParams, **fields),
        read=read,
        also=frozenset({"data"}).union(*(model.model_fields for model in options.values())),
    )


def _options_of(worker: type[Declaration]) -> type[Params]:
    fields = {
        name: (field.annotation, field) for name, field in worker.Params.model_fields.items() if name not in _OURS
    }
    return create_model(f"{worker.name.title()}Options", __base__=Params, **fields)  # type: ignore[call-overload, no-any-return]


def _options(raw: Mapping[str, Any], name: str, model: type[Params]) -> dict[str, Any]:
    given = raw.get(name, {})
    if not isinstance(given, dict):
        raise InvalidInput(f"Parameter {name!r} must be an object with options.", field=name)
    return {**{key: raw[key] for key in model.model_fields if key in raw}, **given}


def _entries(raw: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """(`file` or `url`, value) of everything that a message names."""
    found: list[tuple[str, Any]] = [("file", raw["file"])] if raw.get("file") is not None else []
    for key, kind in (("files", "file"), ("data", "file"), ("urls", "url")):
        values = raw.get(key)
        if values is None:
            continue
        if not isinstance(values, list):
            raise InvalidInput(f"Parameter {key!r} must be a list.", field=key)
        found += [(kind, value.get("file") if key == "data" and isinstance(value, dict) else value) for value in values]
    return found


def _source(entry: tuple[str, Any], bind: Bind) -> dict[str, Any]:
    """One element; what is wrong with it stays in its place."""
    kind, value = entry
    try:
        if kind == "file":
            return checked(_File, {"file": value}, bind).model_dump()
        if not isinstance(value, str) or len(value) > MAX_URL_LENGTH:
            raise InvalidInput(f"Each of 'urls' must be text of at most {MAX_URL_LENGTH} characters.", field="urls")
        return {"url": value}
    except ServiceError as exc:
        return {REFUSED: as_failure(exc), kind: value[:MAX_URL_LENGTH] if isinstance(value, str) else None}
