"""A model of somebody else, in one file: its picture is called as its author liked."""

from __future__ import annotations

from typing import Any, ClassVar

from workers.base import Context, FileRef, Params, Run, Worker


class LookerParams(Params):
    image: FileRef
    others: list[FileRef] = []


class Looker(Worker):
    name = "looker"
    message_type = "looker"
    answer: ClassVar[dict[str, Any]] = {"sizes": "$looker"}
    Params = LookerParams
    Result = list[int]
    example: ClassVar[dict[str, Any]] = {"image": "looker.py"}

    def run(self, params: LookerParams, ctx: Context) -> Run:
        yield None
        return [ctx.local(ref).stat().st_size for ref in (params.image, *params.others)]

    def forward(self, units: list[Any]) -> list[Any]:
        return units
