"""`flrnc`: what pictures and films show, by Florence-2.

    picture ──────────────────────────────▶ resized ─▶ Unit ─┐
    film ─▶ media.frames ─▶ scene by scene ─▶ resized ─▶ Unit ┴─▶ batch ─▶ Model ─▶ tokens ─▶ text, regions

Tasks read, resize and make text of tokens beside the model, which only looks and writes. A film is looked through while
its scenes are captioned, at most AHEAD batches before it. Every fraction of a second others have a turn.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Hashable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract import results
from contract.errors import InvalidInput, NoVideo, UnsupportedMedia
from contract.folders import Folders
from workers.base import TURN, Answer, Confinement, Context, Run, Worker
from workers.florence import prompts
from workers.florence import weights as florence_weights
from workers.florence.captions import Captions
from workers.florence.params import FlorenceParams, FlorenceSettings
from workers.runtime import hub
from workers.runtime.failing import Advice
from workers.runtime.torch_device import memory_used, torch_device

if TYPE_CHECKING:
    from media.pictures import Picture
    from workers.florence.model import Question
    from workers.florence.pixels import Resized

_TURN_SECONDS = 0.1
"""Seconds for which a film is looked through before others have a turn."""
AHEAD = 2
"""Batches of a film's pictures that may wait for the model."""

_ADVICE = Advice(
    worker="florence",
    model="Florence",
    setting=florence_weights.SETTING,
    lower="FLORENCE_BATCH",
    check=f"FLORENCE_DEVICE and {florence_weights.SETTING}",
    pull="optivus models pull florence",
)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """A picture to look at, as large as the model sees it, and the question to answer."""

    prompt: str
    question: Question
    picture: Resized


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """A scene of a film, whose picture the model has or will have. size: the picture's, as in the film."""

    start: float
    at: float
    size: prompts.Size
    answer: Answer


class Florence(Worker):
    """Captions pictures, and films scene by scene."""

    name = "florence"
    message_type = "flrnc"
    answer = "$florence"
    Params = FlorenceParams
    Result = results.Picture | results.Film
    Settings = FlorenceSettings
    example = {"file": "examples/shapes.png"}

    def __init__(self, settings: FlorenceSettings, folders: Folders) -> None:
        super().__init__(settings, folders)
        self.batch = settings.batch or 1

    @classmethod
    def pull(cls, settings: FlorenceSettings, folders: Folders, say: hub.Say) -> None:
        florence_weights.locate(settings.model, folders, say)

    @classmethod
    def confinement(cls, settings: FlorenceSettings, folders: Folders) -> Confinement:
        return Confinement()

    def load(self) -> dict[str, Any]:
        path = florence_weights.locate(self.settings.model, self.folders)
        import torch

        from workers.florence.model import Model

        torch.set_num_threads(max(1, self.settings.threads))
        search = {
            name: getattr(self.settings, name) for name in ("num_beams", "no_repeat_ngram_size", "max_new_tokens")
        }
        with _ADVICE.loading():
            self._device = torch_device(self.settings.device, self.name)
            self._model = Model(path, self._device, search)
            self.batch = self._model.ready(self.settings.batch)
        return {"device": str(self._device), "model": hub.shown(self.settings.model), "batch": self.batch}

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
            return {"transcribe_video": (yield from self._film(path, params, ctx))}
        return {"transcribe_img": self._said(params, picture.size, (yield self.unit(params, picture)))}

    def unit(self, params: FlorenceParams, picture: Picture) -> Unit:
        """What `forward` is asked of a picture."""
        question = self._model.question(prompts.sentence(params.prompt, params.text))
        return Unit(params.prompt, question, self._model.pixels.resized(picture.image))

    def _said(self, params: FlorenceParams, size: prompts.Size, tokens: list[int]) -> dict[str, Any]:
        return prompts.read(params.prompt, self._model.text(tokens), size, params.text)

    def _film(self, path: Path, params: FlorenceParams, ctx: Context) -> Run:
        from media.frames import film, watch

        captions, asked = Captions(ctx), deque[_Asked]()
        with film(path, max(1, self.settings.threads)) as shown:
            interval = params.interval
            if params.max_frames and shown.duration:
                interval = max(interval, shown.duration / params.max_frames)
            turn = time.monotonic() + _TURN_SECONDS
            for scene in watch(shown, interval, captions.at):
                if scene is not None and _wanted(captions.count + len(asked), params):
                    answer = ctx.ask(self.unit(params, scene.picture))
                    asked.append(_Asked(scene.start, scene.at, scene.picture.size, answer))
                if len(asked) < AHEAD * self.batch and time.monotonic() < turn:
                    continue
                yield from self._tell(asked, params, captions, (AHEAD - 1) * self.batch)
                captions.progress(shown.position, shown.duration)
                turn = time.monotonic() + _TURN_SECONDS
            yield from self._tell(asked, params, captions, 0)
            return captions.result(shown.end)

    def _tell(self, asked: deque[_Asked], params: FlorenceParams, captions: Captions, most: int) -> Run:
        """The captions that are there, in order, and those that must be, so that at most so many still wait."""
        there = len([*takewhile(lambda one: one.answer.done, asked)])
        told = [asked.popleft() for _ in range(max(there, len(asked) - most))]
        if not told:
            yield TURN
            return
        written = yield [one.answer for one in told]
        for one, tokens in zip(told, written, strict=True):
            captions.add(one.start, one.at, self._said(params, one.size, tokens))

    def key(self, unit: Unit) -> Hashable:
        """Units of one prompt share a batch, because their answers are about equally long."""
        return unit.prompt

    def forward(self, units: list[Unit]) -> list[Any]:
        """Tokens, a batch at a time. One that does not fit into the device's memory is halved, and so are those after.

        The tokens are a list of int for each unit.
        """
        return _ADVICE.in_halves(self._look, units, self._take_fewer)

    def _take_fewer(self, units: int) -> None:
        self.batch = min(self.batch, units)

    def _look(self, units: Sequence[Unit]) -> list[list[int]]:
        return self._model.answers([unit.picture for unit in units], [unit.question for unit in units])

    def _check_length(self, params: FlorenceParams) -> None:
        if params.text is None:
            return
        over = len(self._model.question(prompts.sentence(params.prompt, params.text))) - self._model.room()
        if over > 0:
            raise InvalidInput(f"Parameter 'text' is too long for the server's model by {over} tokens.", field="text")


def _check_kind(only: str | None, kind: str) -> None:
    if only == "video" and kind == "image":
        raise NoVideo("This file is a picture, not a video; send it as flrnc to have it described.", field="file")
    if only == "image" and kind == "video":
        raise UnsupportedMedia("This file is a video or moves; a still picture was asked for.", field="file")


def _wanted(captioned: int, params: FlorenceParams) -> bool:
    return params.max_frames is None or captioned < params.max_frames
