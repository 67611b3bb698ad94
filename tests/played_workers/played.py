"""The four models that ship, played: they take what the real ones take, and answer at once with what fits."""

from __future__ import annotations

from typing import Any, ClassVar

from workers.base import MORE, Context, Run, Worker
from workers.dlp import worker as dlp
from workers.fish import worker as fish
from workers.florence import worker as florence
from workers.whisper import worker as whisper


class _Played(Worker):
    """Stands before a model's class and needs none."""

    imports: ClassVar[tuple[str, ...]] = ()
    warm_up = False
    batch = 8

    def __init__(self, settings: Any, folders: Any) -> None:
        self.settings, self.folders = settings, folders

    def load(self) -> dict[str, Any]:
        return {"device": "cpu"}

    def info(self) -> dict[str, Any]:
        return {}

    def key(self, unit: Any) -> None:
        return None

    def fits(self, batch: list[Any], unit: Any) -> bool:
        return True

    def forward(self, units: list[Any]) -> list[Any]:
        return units


class PlayedWhisper(_Played, whisper.Whisper):
    name = "whisper"

    def run(self, params: Any, ctx: Context) -> Run:
        """Says how long the recording is, in bytes; one that is being sent is waited for."""
        while not ctx.ended and params.format is not None:
            yield MORE
        size = ctx.local(params.file).stat().st_size
        chunk = {"start": 0.0, "end": 1.0, "text": (yield f" {size} bytes")}
        ctx.partial(0, chunk)
        said = {"text": chunk["text"], "chunks": [chunk], "language": params.language or "en", "duration": 1.0}
        return whisper.exported(said, params)


class PlayedFlorence(_Played, florence.Florence):
    name = "florence"

    def run(self, params: Any, ctx: Context) -> Run:
        size = ctx.local(params.file).stat().st_size
        return {"transcribe_img": {"text": (yield f"{size} bytes")}}


class PlayedFish(_Played, fish.Fish):
    name = "fish"

    def run(self, params: Any, ctx: Context) -> Run:
        yield None
        if params.check:
            return {"duration": 1.0}
        sizes = [ctx.local(reference.audio).stat().st_size for _, reference in params.recordings]
        if params.text is None:
            return {"reference_id": f"ref_{sizes[0]}", "message": "Reference processed successfully"}
        return {"fish": "", "sample_rate": 44_100, "duration": 0.0}


class PlayedDlp(dlp.Dlp):
    name = "dlp"

    def load(self) -> dict[str, Any]:
        return {"device": "cpu"}

    async def run_async(self, params: Any, ctx: Context) -> Any:
        return {"url": params.url, "fulltitle": "played", "duration": 1.0, "file": None}
