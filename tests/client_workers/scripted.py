"""A Whisper that says what its file tells it to, when the test lets it: the model is played, all the rest is real.

The file: ``{"texts": ["one", …], "draft": "won", "gate": "/path/of/a/fifo"}``. A draft is what the first chunk is given
as at first, as if an attempt had been lost. With a gate every chunk costs one byte written into it.
"""

from __future__ import annotations

import json
from typing import Any

from tests.scripts import pass_gates
from workers.whisper import worker as whisper


class Scripted(whisper.Whisper):
    name = "whisper"
    imports = ()
    warm_up = False

    def __init__(self, settings: Any, folders: Any) -> None:
        super().__init__(settings, folders)
        self.batch = 1

    def load(self) -> dict[str, Any]:
        return {"device": "cpu"}

    def info(self) -> dict[str, Any]:
        return {}

    def run(self, params: Any, ctx: Any) -> Any:
        script = json.loads(ctx.local(params.file).read_text())
        texts = script["texts"]
        chunks = [{"start": float(at), "end": at + 1.0, "text": f" {text}"} for at, text in enumerate(texts)]
        if script["draft"]:
            ctx.partial(0, {**chunks[0], "text": script["draft"]})
        for index in range(ctx.checkpoint_data or 0, len(chunks)):
            yield script["gate"]
            ctx.progress((index + 1) / len(chunks), eta=float(len(chunks) - index - 1))
            ctx.partial(index, chunks[index])
            ctx.checkpoint(index + 1)
        text = "".join(f" {text}" for text in texts)
        return whisper.exported({"text": text, "chunks": chunks, "language": params.language or "en"}, params)

    def key(self, unit: Any) -> Any:
        return None

    def forward(self, units: list[Any]) -> list[Any]:
        return pass_gates(units)
