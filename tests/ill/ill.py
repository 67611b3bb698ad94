"""Workers that do not do their own example: some of them serve all the same, and some cannot."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from contract.errors import OutOfMemory
from workers.base import Context, Params, Run, Worker


class IllParams(Params):
    word: str
    times: int = 3


class Well(Worker):
    """Says a word several times, and hands a file over. `forwards` counts."""

    name = "well"
    message_type = "well"
    answer: ClassVar[dict[str, Any]] = {"said": "$well"}
    Params = IllParams
    example: ClassVar[dict[str, Any]] = {"word": "go"}

    def load(self) -> dict[str, Any]:
        self.forwards = 0
        return {"device": "cpu"}

    def run(self, params: IllParams, ctx: Context) -> Run:
        (ctx.workdir / "temporary").touch()
        ctx.progress(0.5)
        said = yield [params.word] * params.times
        ctx.partial(0, said)
        ctx.checkpoint(said)
        said.append((yield params.word))
        self.folders.speech.mkdir(parents=True, exist_ok=True)
        made = self.folders.speech / f"{ctx.owner}.txt"
        made.write_text(" ".join(said))
        ctx.made(made, made.name)
        return said

    def forward(self, units: list[str]) -> list[Any]:
        self.forwards += 1
        return units


class Broken(Well):
    """Its library lacks something, which shows only when it computes."""

    name = "broken"
    message_type = "broken"
    answer: ClassVar[dict[str, Any]] = {"said": "$broken"}

    def forward(self, units: list[str]) -> list[Any]:
        raise RuntimeError("Library libcublas.so.12 is not found or cannot be loaded")


class Glutted(Well):
    """Its device has no memory left for a batch."""

    name = "glutted"
    message_type = "glutted"
    answer: ClassVar[dict[str, Any]] = {"said": "$glutted"}

    def forward(self, units: list[str]) -> list[Any]:
        return [OutOfMemory("Free the device.") for _ in units]


class Hung(Well):
    """Its first step never ends."""

    name = "hung"
    message_type = "hung"
    answer: ClassVar[dict[str, Any]] = {"said": "$hung"}

    def forward(self, units: list[str]) -> list[Any]:
        while True:
            time.sleep(1)


class Careless(Well):
    """Its example is not what it reads."""

    name = "careless"
    message_type = "careless"
    answer: ClassVar[dict[str, Any]] = {"said": "$careless"}
    example: ClassVar[dict[str, Any]] = {"word": "three", "times": "3"}


class Sloppy(Well):
    """Its example makes it stumble before its model is asked."""

    name = "sloppy"
    message_type = "sloppy"
    answer: ClassVar[dict[str, Any]] = {"said": "$sloppy"}
    example: ClassVar[dict[str, Any]] = {"word": "stumble"}

    def run(self, params: IllParams, ctx: Context) -> Run:
        if params.word == "stumble":
            raise ValueError("not this word")
        return (yield from super().run(params, ctx))


class Abroad(Well):
    """Its example would do something in the world."""

    name = "abroad"
    message_type = "abroad"
    answer: ClassVar[dict[str, Any]] = {"said": "$abroad"}
    warm_up: ClassVar[bool] = False
