"""`flrnc`: what pictures and films show, by Florence-2.

    picture ──────────────────────────────▶ Unit ─┐
    film ─▶ media.frames ─▶ scene by scene ─▶ Unit ┴─▶ batch ─▶ generate ─▶ prompts.read ─▶ text, regions

While a film is looked through, every fraction of a second others have a turn; the scenes found until then share a batch
with theirs.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from contract import results
from contract.errors import InvalidInput, NoVideo, UnsupportedMedia
from contract.folders import Folders
from contract.messages import FileRef
from workers.base import Context, ModelSettings, Params, Run, Worker
from workers.florence import prompts
from workers.florence import weights as florence_weights
from workers.florence.captions import Captions
from workers.runtime import hub
from workers.runtime.failing import Advice
from workers.runtime.torch_device import memory_used, torch_device

if TYPE_CHECKING:
    from media.pictures import Picture
    from media.scenes import Scene


Prompt = Literal[
    "<CAPTION>",
    "<DETAILED_CAPTION>",
    "<MORE_DETAILED_CAPTION>",
    "<OD>",
    "<DENSE_REGION_CAPTION>",
    "<REGION_PROPOSAL>",
    "<OCR>",
    "<OCR_WITH_REGION>",
    "<CAPTION_TO_PHRASE_GROUNDING>",
    "<REFERRING_EXPRESSION_SEGMENTATION>",
    "<OPEN_VOCABULARY_DETECTION>",
]

_TURN_SECONDS = 0.1
"""Seconds for which a film is looked through before others have a turn."""
_MAX_NEW_TOKENS = 1024
"""Longest answer in tokens, where the checkpoint does not say."""


class FlorenceSettings(ModelSettings):
    model: str = Field(
        florence_weights.DEFAULT,
        min_length=1,
        alias=florence_weights.SETTING,
        description="Florence-2 model: a hub id (Microsoft's or a transformers one) or a local folder; `none`: off",
    )
    batch: int = Field(8, ge=1, le=256, description="pictures that Florence looks at at once")
    num_beams: int | None = Field(None, ge=1, le=20, description="beams of its search; default: as the model says")
    max_new_tokens: int | None = Field(None, ge=1, le=4096, description="longest answer; default: as the model says")
    no_repeat_ngram_size: int | None = Field(
        None, ge=0, le=20, description="so many words are not said twice, 0 allows it; default: as the model says"
    )


_ADVICE = Advice(
    worker="florence",
    model="Florence",
    setting=florence_weights.SETTING,
    lower="FLORENCE_BATCH",
    check=f"FLORENCE_DEVICE and {florence_weights.SETTING}",
    pull="optivus models pull florence",
)


class FlorenceParams(Params):
    file: FileRef = Field(description="image or video")
    prompt: Prompt = Field("<CAPTION>", description="what to do, a task of Florence-2")
    text: str | None = Field(
        None, max_length=1000, validate_default=True, description="for tasks that look for something: what"
    )
    interval: float = Field(1.0, ge=0.1, le=3600, description="videos: seconds between looks")
    max_frames: int | None = Field(None, ge=1, le=1_000_000, description="videos: most pictures to caption")
    only: Literal["image", "video"] | None = Field(None, description="refuse a file of the other kind")

    @field_validator("text")
    @classmethod
    def _fits_the_prompt(cls, text: str | None, info: ValidationInfo) -> str | None:
        prompt = prompts.PROMPTS.get(info.data.get("prompt", ""))
        if prompt is None:  # it is wrong, which is said of itself
            return text
        if prompt.takes_text and not (text and text.strip()):
            raise PydanticCustomError("text_missing", "this prompt needs a text that says what to look for")
        if text is not None and not prompt.takes_text:
            raise PydanticCustomError("text_unused", "this prompt takes no text")
        if text is not None and any(mark in text for mark in "<>"):
            raise PydanticCustomError("text_marks", "should not contain < or >")
        return text and text.strip()


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """A picture to look at. picture: None where the task only gives others their turn."""

    prompt: str
    text: str | None
    picture: Picture | None


class Florence(Worker):
    """Captions pictures and films, finds objects and reads text in them."""

    name = "florence"
    message_type = "flrnc"
    answer = "$florence"
    Params = FlorenceParams
    Result = results.Picture | results.Film
    Settings = FlorenceSettings
    example = {"file": "examples/shapes.png"}

    def __init__(self, settings: FlorenceSettings, folders: Folders) -> None:
        super().__init__(settings, folders)
        self.batch = settings.batch

    @classmethod
    def pull(cls, settings: FlorenceSettings, folders: Folders, say: Callable[[str], None]) -> None:
        florence_weights.locate(settings.model, folders, say)

    def load(self) -> dict[str, Any]:
        path = florence_weights.locate(self.settings.model, self.folders)
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor
        from transformers.utils import logging

        logging.disable_progress_bar()
        torch.set_num_threads(max(1, self.settings.threads))
        with _ADVICE.loading():
            self._device = torch_device(self.settings.device, self.name)
            self._dtype = torch.float16 if self._device.type == "cuda" else torch.float32
            self._processor = AutoProcessor.from_pretrained(path, local_files_only=True)
            model = AutoModelForImageTextToText.from_pretrained(path, dtype=self._dtype, local_files_only=True)
            self._model = model.to(self._device).eval()
            self._generation = self._generation_config()
        return {"device": str(self._device), "model": hub.shown(self.settings.model)}

    def info(self) -> dict[str, Any]:
        return memory_used(self._device)

    def run(self, params: FlorenceParams, ctx: Context) -> Run:
        """Result: ``{"transcribe_img": {"text"}}`` or ``{"transcribe_video": [{"start", "end", "text"}]}``.

        With ``regions`` beside each text for tasks that name places.
        """
        from media import pictures

        path = ctx.local(params.file)
        self._check_length(params)
        picture = None if pictures.moves(path) else pictures.read(path)
        _check_kind(params.only, "video" if picture is None else "image")
        if picture is None:
            return {"transcribe_video": (yield from self._film(path, params, Captions(ctx)))}
        return {"transcribe_img": (yield Unit(params.prompt, params.text, picture))}

    def _film(self, path: Path, params: FlorenceParams, captions: Captions) -> Run:
        from media.frames import film, watch

        with film(path, max(1, self.settings.threads)) as shown:
            interval = params.interval
            if params.max_frames and shown.duration:
                interval = max(interval, shown.duration / params.max_frames)
            found: list[Scene] = []
            turn = time.monotonic() + _TURN_SECONDS
            for scene in watch(shown, interval, captions.at):
                if scene is not None and _wanted(captions.count + len(found), params):
                    found.append(scene)
                if len(found) < self.batch and time.monotonic() < turn:
                    continue
                yield from self._caption(found, params, captions)
                captions.progress(shown.position, shown.duration)
                found, turn = [], time.monotonic() + _TURN_SECONDS
            yield from self._caption(found, params, captions)
            return captions.result(shown.end)

    def _caption(self, found: list[Scene], params: FlorenceParams, captions: Captions) -> Run:
        if not found:
            yield Unit("", None, None)
            return
        made = yield [Unit(params.prompt, params.text, scene.picture) for scene in found]
        for scene, caption in zip(found, made, strict=True):
            captions.add(scene, caption)

    def key(self, unit: Unit) -> Hashable:
        """Units of one prompt share a batch, because their answers are about equally long."""
        return unit.prompt

    def forward(self, units: list[Unit]) -> list[Any]:
        """Compute a batch. One that does not fit into the device's memory is halved, and so are those that follow."""
        if units[0].picture is None:
            return [None] * len(units)
        return _ADVICE.in_halves(lambda some: [*self._look(some)], units, self._take_fewer)

    def _take_fewer(self, units: int) -> None:
        self.batch = min(self.batch, units)

    def _look(self, units: Sequence[Unit]) -> Iterator[dict[str, Any]]:
        import torch

        pictures = [unit.picture for unit in units if unit.picture is not None]
        inputs = self._processor(
            images=[picture.image for picture in pictures],
            text=[prompts.sentence(unit.prompt, unit.text) for unit in units],
            padding=True,
            return_tensors="pt",
        ).to(self._device, self._dtype)
        with torch.inference_mode():
            written = self._model.generate(**inputs, generation_config=self._generation)
        texts = self._processor.batch_decode(written, skip_special_tokens=False)
        for unit, picture, text in zip(units, pictures, texts, strict=True):
            yield prompts.read(unit.prompt, text, picture.size, unit.text)

    def _generation_config(self) -> Any:
        """The checkpoint's configuration with the operator's settings. No answer is longer than the model can count."""
        chosen = self._model.generation_config
        for name in ("num_beams", "no_repeat_ngram_size", "max_new_tokens"):
            if getattr(self.settings, name) is not None:
                setattr(chosen, name, getattr(self.settings, name))
        most = self._model.config.text_config.max_position_embeddings - 1
        chosen.max_new_tokens = min(chosen.max_new_tokens or _MAX_NEW_TOKENS, most)
        return chosen

    def _check_length(self, params: FlorenceParams) -> None:
        if params.text is None:
            return
        sentence = prompts.sentence(params.prompt, params.text)
        words = len(self._processor.tokenizer(sentence)["input_ids"])
        room = self._model.config.text_config.max_position_embeddings - self._processor.num_image_tokens - 2
        if words > room:
            raise InvalidInput(
                f"Parameter 'text' is too long for the server's model by {words - room} tokens.", field="text"
            )


def _check_kind(only: str | None, kind: str) -> None:
    if only == "video" and kind == "image":
        raise NoVideo("This file is a picture, not a video; send it as flrnc to have it described.", field="file")
    if only == "image" and kind == "video":
        raise UnsupportedMedia("This file is a video or moves; a still picture was asked for.", field="file")


def _wanted(captioned: int, params: FlorenceParams) -> bool:
    return params.max_frames is None or captioned < params.max_frames
