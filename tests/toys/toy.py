"""A worker in one file: it upper-cases words, several at once, and shows everything that a worker can do."""

from __future__ import annotations

import os
from typing import Any

from contract.errors import UnsupportedMedia
from workers.base import Context, Params, Run, Worker


class ToyParams(Params):
    words: list[str]
    die_at: int | None = None
    padding: int = 0
    keep: str | None = None
    at_once: int | None = None


class Toy(Worker):
    name = "toy"
    message_type = "toy"
    answer = {"toy": "$toy"}
    Params = ToyParams
    example = {"words": ["one", "two"]}
    batch = 2

    def load(self) -> dict[str, Any]:
        self.batches: list[int] = []
        return {"device": "cpu"}

    def run(self, params: ToyParams, ctx: Context) -> Run:
        """`die_at` kills the process at that word, once: the next attempt finds a checkpoint behind it."""
        said = list(ctx.finished)
        if params.at_once is not None:
            while len(said) < len(params.words):
                said += yield params.words[len(said) : len(said) + params.at_once]
            return {"words": said, "largest_batch": max(self.batches)}
        resumed = ctx.checkpoint_data or 0
        for index, word in enumerate(params.words[resumed:], resumed):
            if index == params.die_at and not resumed:
                os._exit(1)
            loud = yield word
            said.append(loud)
            ctx.partial(index, loud)
            ctx.checkpoint(index + 1)
            ctx.progress((index + 1) / len(params.words))
        if params.keep:
            path = self.folders.made[0] / params.keep
            path.write_text(" ".join(said))
            ctx.made(path, params.keep)
        return {"words": said, "resumed": resumed, "largest_batch": max(self.batches), "padding": "x" * params.padding}

    def forward(self, units: list[str]) -> list[Any]:
        self.batches.append(len(units))
        if "crash" in units:
            raise RuntimeError("a batch that fails as a whole")
        return [UnsupportedMedia("It is no word.") if unit == "bad" else unit.upper() for unit in units]
