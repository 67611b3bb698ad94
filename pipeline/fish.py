"""The `fish` plan: recordings of a voice that came without their text are looked at and heard before they are used.

message ─▶ recordings without a text ─▶ check (fish: a voice of 1 to 60 s?) ─▶ whisper ─┐
   └────────────────────────────────────────────────────────────────────────────────────┴▶ fish ─▶ the answer

Where each recording has its text, or there is none, `fish` begins at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from contract.declaration import Declaration
from contract.errors import ServiceError
from contract.messages import FileRef
from contract.params import Bind, checked
from pipeline.plans import Plan, Stage


class _Request(BaseModel):
    """What a message has become: the stages refer to this.

    untold: ``{"file", "field"}`` of recordings without a text; field: the parameter that they were sent as.
    """

    speech: dict[str, Any]
    untold: list[dict[str, Any]]


def fish(found: Mapping[str, type[Declaration]], limit: int) -> Plan:
    """The plan over the workers that this server has. limit: of batches, which have a plan of their own."""
    speech = found["fish"].Params

    def read(given: dict[str, Any], bind: Bind) -> dict[str, Any]:
        asked = checked(speech, given, _naming_fields(bind, given)).model_dump()
        return {"speech": asked, "untold": _untold(asked)}

    return Plan(
        name="fish",
        params=_Request,
        stages=(
            Stage("check", "fish", {"reference_audio": "$item.file", "check": "$item.field"}, over="$request.untold"),
            Stage("whisper", "whisper", {"file": "$item.file"}, over="$request.untold", when="$check.duration"),
            Stage("fish", "fish", {"**": "$request.speech", "transcripts": "$whisper*.text"}),
        ),
        answer="$fish",
        message=speech,
        read=read,
    )


def _untold(speech: Mapping[str, Any]) -> list[dict[str, Any]]:
    """In the order in which the worker goes through them."""
    given = [("references", one["audio"], one["text"]) for one in speech["references"]]
    if speech["reference_audio"] is not None:
        given.insert(0, ("reference_audio", speech["reference_audio"], speech["reference_text"]))
    return [{"file": audio, "field": field} for field, audio, text in given if not text]


def _naming_fields(bind: Bind, raw: Mapping[str, Any]) -> Bind:
    """As `bind`, which calls each file `file`, but its errors name the parameter that the file stands in."""

    def named(value: str | bytes) -> FileRef:
        try:
            return bind(value)
        except ServiceError as exc:
            field = "reference_audio" if value == raw.get("reference_audio") else "references"
            raise type(exc)(exc.message, **{**exc.details, "field": field}) from exc

    return named
