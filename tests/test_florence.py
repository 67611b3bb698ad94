"""`flrnc`'s worker: right captions at their times, boxes where things are, and never the same work twice.

With real weights where OPTIVUS_TEST_MODELS names them, and with a tiny model that always says the same everywhere.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from client import Client, Partial
from contract.errors import (
    InvalidInput,
    ModelUnavailable,
    NoVideo,
    OutOfMemory,
    ServiceError,
    TooLarge,
    UnsupportedMedia,
)
from contract.messages import Event, FileRef, Task
from media.pictures import Picture
from tests.checkpoints_florence import PLACES, SENTENCE, make_native
from tests.drive import Recorder, Stopped, drive, folders
from tests.inline import over_the_pipe
from tests.recordings import EXAMPLE
from tests.servers import Server
from tests.shapes import Drawing, Shape, drawing, fade, noisy, stills, write_film
from workers.base import Answer
from workers.florence.params import FlorenceParams, FlorenceSettings
from workers.florence.prompts import PROMPTS, read
from workers.florence.worker import AHEAD, Florence, Unit
from workers.runtime import lane
from workers.runtime.engine import Engine

if TYPE_CHECKING:
    from workers.florence.model import Model, Question
    from workers.florence.pixels import Resized

MODELS = Path(os.environ.get("OPTIVUS_TEST_MODELS", "nowhere"))
real_weights = pytest.mark.skipif(
    not (MODELS / "florence2-shapes").is_dir(), reason="OPTIVUS_TEST_MODELS has no Florence"
)
RED, BLUE, MIXED = drawing("red circle"), drawing("blue square"), drawing("green star", "yellow ring", ground="black")


def loaded(model: Path, data: Path, **settings: Any) -> Florence:
    worker = Florence(FlorenceSettings(model=str(model), **{"threads": 1, **settings}), folders(data))
    worker.load()
    return worker


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Florence:
    folder = tmp_path_factory.mktemp("models")
    return loaded(make_native(folder / "tiny"), folder)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Florence:
    return loaded(MODELS / "florence2-shapes", tmp_path_factory.mktemp("data"))


def unit_of(worker: Florence, what: Drawing, prompt: str = "<CAPTION>") -> Unit:
    params = FlorenceParams.model_validate({"file": FileRef("path", "a.png"), "prompt": prompt})
    return worker.unit(params, Picture(what.image(), (640, 360)))


def saved(path: Path, what: Drawing = RED) -> Path:
    what.image().save(path)
    return path


def seen(worker: Florence, path: Path, **params: Any) -> Any:
    return drive(worker, {"file": path, **params}, Recorder(path.parent))[0]


def check_cover(segments: list[dict[str, Any]]) -> None:
    """From 0 on without gap or overlap, neighbours different, all plain floats."""
    assert segments[0]["start"] == 0
    assert all(type(segment["end"]) is float and segment["start"] <= segment["end"] for segment in segments)
    assert all(one["end"] == other["start"] and one["text"] != other["text"] for one, other in pairwise(segments))


# Right answers, with real weights


def scenes_to_see(count: int) -> list[Drawing]:
    """Of one, two and three shapes, as the model's card describes them."""
    rng = np.random.default_rng(5)
    kinds, colours = ["circle", "square", "triangle", "star", "cross", "ring"], ["red", "green", "blue", "yellow"]
    found = []
    for number in range(count):
        chosen = rng.permutation(24)[: 1 + number % 3]
        names = (f"{colours[choice % 4]} {kinds[choice // 4]}" for choice in chosen)
        found.append(drawing(*names, ground=("gray", "black", "white")[number % 3 if number % 2 else 0]))
    return found


@real_weights
def test_pictures_are_captioned_at_the_models_rate(shapes: Florence, tmp_path: Path) -> None:
    """The card says 99 to 100 %."""
    right = [
        seen(shapes, saved(tmp_path / f"{number}.png", what))["transcribe_img"] == {"text": what.caption}
        for number, what in enumerate(scenes_to_see(45))
    ]
    assert sum(right) >= 44


def overlap(one: list[float], other: tuple[float, ...]) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0, width) * max(0, height)
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return both / (sum(areas) - both)


@real_weights
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_boxes_are_in_pixels_of_the_picture_as_people_see_it(
    shapes: Florence, tmp_path: Path, orientation: int
) -> None:
    """A camera stores it lying or upside down and says so."""
    what = drawing("red circle", "blue square")
    turn = {1: 0, 3: 180, 6: 90}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    what.image(3200, 1800).rotate(turn, expand=True).save(tmp_path / "a.jpg", exif=exif)
    found = seen(shapes, tmp_path / "a.jpg", prompt="<OD>")["transcribe_img"]
    assert found["text"] == "red circle, blue square"
    for region, shape in zip(found["regions"], what.shapes, strict=True):
        assert region["label"] == shape.name
        assert overlap(region["box"], shape.box(3200, 1800)) > 0.6


@real_weights
@pytest.mark.parametrize("gop", [250, 20])
def test_films_are_captioned_scene_by_scene(shapes: Florence, tmp_path: Path, gop: int) -> None:
    """Cuts within a frame of the truth, also where the encoder looks for none and a keyframe comes every 10 s."""
    shown = [(RED, 3.2), (BLUE, 1.12), (MIXED, 2.04), (RED, 12.0), (Drawing(), 2.0)]
    path = write_film(tmp_path / "a.mp4", stills(shown, size=(640, 360)), scene_cuts=False, gop=gop)
    ctx = Recorder(tmp_path)
    result, units = drive(shapes, {"file": path}, ctx)
    segments = result["transcribe_video"]
    check_cover(segments)
    assert [segment["text"] for segment in segments] == [what.caption for what, _ in shown]
    truth = np.cumsum([seconds for _, seconds in shown])
    assert [segment["end"] for segment in segments] == pytest.approx(truth.tolist(), abs=0.0401)
    assert [ctx.partials[index] for index in sorted(ctx.partials)] == segments
    assert len(units) == len(shown)


@real_weights
def test_an_hour_of_stills_costs_few_captions(shapes: Florence, tmp_path: Path) -> None:
    """Ten stills with noise, two of them cross-faded, a keyframe every 10 s whatever is shown."""
    kinds = ("circle", "square", "triangle", "star", "cross")
    stretch = [(drawing(f"{colour} {kind}"), 360.0) for colour in ("red", "blue") for kind in kinds]
    rate = 4
    frames = [
        *stills(stretch[:5], rate, (192, 108)),
        *fade(stretch[4][0], stretch[5][0], 2, rate, (192, 108)),
        *stills(stretch[5:], rate, (192, 108)),
    ]
    noise = noisy(frames, strength=4)
    path = write_film(tmp_path / "a.mp4", noise, rate=rate, scene_cuts=False, gop=40, preset="ultrafast")
    result, units = drive(shapes, {"file": path}, Recorder(tmp_path))
    segments = result["transcribe_video"]
    check_cover(segments)
    assert [segment["text"] for segment in segments] == [what.caption for what, _ in stretch]
    assert segments[-1]["end"] == pytest.approx(3602, abs=0.3)
    assert len(units) <= 40


@real_weights
def test_a_killed_process_goes_on_where_it_stood(tmp_path: Path) -> None:
    """Killed after its second segment was told: the answer is whole, and no segment is told twice."""
    shown = [(what, 6.0) for what in scenes_to_see(8)]
    write_film(tmp_path / "a.mp4", noisy(stills(shown, size=(640, 360))), scene_cuts=False, preset="ultrafast")
    settings = {"AI_FLORENCE_MODEL": str(MODELS / "florence2-shapes"), "MEDIA_ROOTS": str(tmp_path)}
    with Server(tmp_path, FLORENCE_THREADS="1", FLORENCE_BATCH="1", **settings) as server, Client(server.url) as client:
        job = client.submit("flrnc", file="a.mp4", interval=0.5)
        told: list[int] = []
        for event in job.events():
            if isinstance(event, Partial):
                told.append(event.index)
                if event.index == 1 and len(told) == 2:
                    os.kill(florence_pid(server.url), signal.SIGKILL)
        segments = job.result()["transcribe_video"]
    check_cover(segments)
    assert [segment["text"] for segment in segments] == [what.caption for what, _ in shown]
    assert [segment["end"] for segment in segments] == pytest.approx(np.arange(6, 49, 6).tolist(), abs=0.0401)
    assert sorted(set(told)) == list(range(8))
    assert len(told) <= 9  # what was told but not yet checkpointed may come again


def florence_pid(url: str) -> int:
    with urlopen(f"{url}/health") as answer:
        (process,) = json.load(answer)["workers"]["florence"]["processes"]
    return int(process["pid"])


@real_weights
def test_batches_say_what_single_pictures_say(shapes: Florence) -> None:
    """Also where the prompts are unequally long."""
    for prompt in ("<CAPTION>", "<DETAILED_CAPTION>", "<OD>"):
        units = [unit_of(shapes, what, prompt) for what in scenes_to_see(7)]
        assert shapes.forward(units) == [shapes.forward([unit])[0] for unit in units]


# The rest needs no real weights


@pytest.mark.parametrize("prompt", sorted(PROMPTS))
def test_every_task_answers_in_its_shape(tiny: Florence, tmp_path: Path, prompt: str) -> None:
    path = saved(tmp_path / "a.png")
    text = {"text": "a shape"} if PROMPTS[prompt].takes_text else {}
    found = seen(tiny, path, prompt=prompt, **text)["transcribe_img"]
    if PROMPTS[prompt].kind == "text":
        assert found == {"text": SENTENCE}
        return
    assert found.keys() == {"text", "regions"}
    if PROMPTS[prompt].kind == "boxes":
        sides = (640, 360, 640, 360)
        box = [round((place + 0.5) * side / 1000, 2) for place, side in zip(PLACES, sides, strict=True)]
        assert found == {"text": SENTENCE, "regions": [{"label": SENTENCE, "box": box}]}


def test_film_of_one_caption_is_one_segment(tiny: Florence, tmp_path: Path) -> None:
    """Whatever is looked at: the tiny model always says the same."""
    path = write_film(tmp_path / "a.mp4", stills([(RED, 2), (BLUE, 2), (MIXED, 2)]))
    ctx = Recorder(tmp_path)
    result, units = drive(tiny, {"file": path, "prompt": "<OD>"}, ctx)
    (segment,) = result["transcribe_video"]
    assert (segment["start"], segment["end"], segment["text"]) == (0, 6, SENTENCE)
    assert len(segment["regions"]) == 1
    assert len(units) == 3
    assert ctx.partials == {0: segment}


def test_pictures_that_move_are_films(tiny: Florence, tmp_path: Path) -> None:
    images = [what.image(160, 90) for what in (RED, BLUE)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=[1000, 500], loop=0)
    assert seen(tiny, tmp_path / "a.gif") == {"transcribe_video": [{"start": 0.0, "end": 1.5, "text": SENTENCE}]}


@pytest.mark.parametrize("most", [1, 3, 100])
def test_no_more_pictures_are_captioned_than_asked_for(tiny: Florence, tmp_path: Path, most: int) -> None:
    path = write_film(tmp_path / "a.mp4", stills([(what, 2.0) for what in (RED, BLUE, MIXED) * 3]))
    result, units = drive(tiny, {"file": path, "max_frames": most}, Recorder(tmp_path))
    assert len(units) <= most
    assert result["transcribe_video"][-1]["end"] == pytest.approx(18)


class Eye:
    """A model that says the colour in the middle, so that segments differ without real weights."""

    def __init__(self) -> None:
        self.pixels = self
        self.sizes: list[int] = []

    def resized(self, image: Image.Image) -> Resized:
        return np.asarray(image.resize((3, 3), Image.Resampling.NEAREST))

    def question(self, sentence: str) -> Question:
        return ()

    def answers(self, pictures: Sequence[Resized], questions: Sequence[Question]) -> list[list[int]]:
        self.sizes.append(len(pictures))
        return [picture[1, 1].tolist() for picture in pictures]

    def text(self, tokens: Sequence[int]) -> str:
        return str(tokens)


class Named(Florence):
    """Looks with an `Eye`."""

    def __init__(self, batch: int = 8, eye: Eye | None = None) -> None:
        super().__init__(FlorenceSettings(batch=batch), folders(Path()))
        self.eye = eye or Eye()
        self._model = cast("Model", self.eye)


def test_retry_goes_on_from_every_checkpoint(tmp_path: Path) -> None:
    """Finished segments are not looked at again, and the answer is the same."""
    path = write_film(tmp_path / "a.mp4", stills([(RED, 3), (BLUE, 3), (MIXED, 3), (RED, 3)]), scene_cuts=False)
    worker = Named(batch=1)
    whole, units = drive(worker, {"file": path}, Recorder(tmp_path))
    check_cover(whole["transcribe_video"])
    assert (len(whole["transcribe_video"]), len(units)) == (4, 4)
    for done in range(1, 5):
        ctx = Recorder(tmp_path)
        with pytest.raises(Stopped):
            drive(worker, {"file": path}, ctx, steps=done)
        ctx.partials[len(ctx.partials)] = {"start": 0.0, "end": 1.0, "text": "sent, then died before the checkpoint"}
        again, rest = drive(worker, {"file": path}, ctx.again())
        assert again == whole
        assert len(rest) == 4 - len(ctx.checkpoints)


def test_a_film_is_looked_through_while_its_scenes_are_captioned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batch is answered when scenes after it have been found: in one lane that would be for ever."""
    monkeypatch.setattr(lane, "BRIEF_SECONDS", -1.0)
    found = threading.Semaphore(0)

    class Slow(Eye):
        def resized(self, image: Image.Image) -> Resized:
            found.release()
            return super().resized(image)

        def answers(self, pictures: Sequence[Resized], questions: Sequence[Question]) -> list[list[int]]:
            if not self.sizes:
                assert all(found.acquire(timeout=60) for _ in range(9))
            return super().answers(pictures, questions)

    worker, woken, told = Named(eye=Slow()), threading.Semaphore(0), list[Event]()
    worker.folders = folders(tmp_path / "data", tmp_path)
    film = write_film(tmp_path / "a.mp4", stills([(what, 1.2) for what in (RED, BLUE, MIXED) * 4]))
    engine = Engine(worker, lambda event: told.append(over_the_pipe(event)), threads=2, wake=woken.release)
    engine.add(Task("film", "florence", (), "florence", {"file": FileRef("path", str(film))}, client="a"))
    while not any(event.kind in ("done", "failed") for event in told):
        if engine.busy:
            engine.step()
        else:
            assert woken.acquire(timeout=60)
    (end,) = [event for event in told if event.kind in ("done", "failed")]
    alone, _ = drive(Named(), {"file": film}, Recorder(tmp_path))
    assert (end.kind, end.data) == ("done", alone)
    assert [event.data for event in told if event.kind == "partial"] == alone["transcribe_video"]


def test_pictures_that_wait_for_the_model_are_few(tmp_path: Path) -> None:
    """However many scenes a film has and however late the model answers."""

    class Counted(Recorder):
        most = 0

        def ask(self, unit: Any) -> Answer:
            answer = super().ask(unit)
            self.most = max(self.most, len(self.asked))
            return answer

    path = write_film(tmp_path / "a.mp4", stills([(what, 1.2) for what in (RED, BLUE, MIXED) * 5]))
    ctx = Counted(tmp_path)
    result, units = drive(Named(batch=2), {"file": path}, ctx)
    assert (len(units), len(result["transcribe_video"])) == (15, 15)
    assert ctx.most == AHEAD * 2
    check_cover(result["transcribe_video"])


def test_films_and_pictures_of_several_clients_share_batches(tmp_path: Path) -> None:
    """A picture is answered while long films are being looked through."""
    worker, told = Named(), list[Event]()
    engine = Engine(worker, told.append)
    film = write_film(tmp_path / "a.mp4", stills([(what, 1.2) for what in (RED, BLUE, MIXED) * 10]))
    worker.folders = folders(tmp_path / "data", tmp_path)
    files = [("film", film), ("film2", film), ("picture", saved(tmp_path / "a.png"))]
    for name, path in files:
        engine.add(Task(name, "florence", (), "florence", {"file": FileRef("path", str(path))}, client=name))
    while engine.busy:
        engine.step()
    ends = [event for event in told if event.kind in ("done", "failed")]
    assert [event.kind for event in ends] == ["done"] * 3
    assert ends[0].job == "picture"
    assert max(worker.eye.sizes) > 2


def test_a_device_without_memory_halves_the_batch_and_then_says_so(tiny: Florence) -> None:
    class Cramped(Florence):
        """A device that holds so many pictures."""

        room = 2

        def _look(self, units: Sequence[Unit]) -> list[list[int]]:
            import torch

            if len(units) > self.room:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return [[5]] * len(units)

    worker = Cramped(FlorenceSettings(batch=8), tiny.folders)
    unit = unit_of(tiny, RED)
    assert worker.forward([unit] * 8) == [[5]] * 8
    assert worker.batch == 2
    worker.room = 0
    results = worker.forward([unit] * 2)
    assert all(isinstance(result, OutOfMemory) for result in results)
    assert "FLORENCE_BATCH" in results[0].message


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("prompt", "<SING>"),
        ("prompt", "a cat"),
        ("interval", 0),
        ("interval", 0.01),
        ("interval", 1e9),
        ("interval", float("nan")),
        ("interval", "1"),
        ("max_frames", 0),
        ("max_frames", 1.5),
        ("text", "a cat"),
        ("text", 5),
        ("file", None),
    ],
)
def test_wrong_options_are_refused(field: str, wrong: Any) -> None:
    file = FileRef("path", str(EXAMPLE))
    with pytest.raises(ValidationError) as refused:
        FlorenceParams.model_validate({"file": file, field: wrong})
    assert refused.value.errors()[0]["loc"][0] == field


@pytest.mark.parametrize("text", [None, "", "  ", "<OD>", "<image>", "x" * 1001])
def test_tasks_that_look_for_something_need_to_know_what(text: str | None) -> None:
    file = FileRef("path", str(EXAMPLE))
    with pytest.raises(ValidationError) as refused:
        FlorenceParams.model_validate({"file": file, "prompt": "<OPEN_VOCABULARY_DETECTION>", "text": text})
    assert refused.value.errors()[0]["loc"][0] == "text"


def test_text_that_the_model_cannot_hold_is_refused(tiny: Florence, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png")
    seen(tiny, path, prompt="<CAPTION_TO_PHRASE_GROUNDING>", text="a shape {x}")
    with pytest.raises(InvalidInput, match="too long"):
        seen(tiny, path, prompt="<CAPTION_TO_PHRASE_GROUNDING>", text="shape " * 150)


def test_file_errors_are_typed(tiny: Florence, tmp_path: Path) -> None:
    with pytest.raises(NoVideo):
        seen(tiny, EXAMPLE)
    (tmp_path / "text.png").write_text("no picture\n" * 100)
    with pytest.raises(ServiceError) as refused:
        seen(tiny, tmp_path / "text.png")
    assert refused.value.code == "UNSUPPORTED_MEDIA"
    Image.new("1", (12_000, 9_000)).save(tmp_path / "huge.png")
    with pytest.raises(TooLarge):
        seen(tiny, tmp_path / "huge.png")


def test_only_the_kind_that_was_asked_for_is_answered(tiny: Florence, tmp_path: Path) -> None:
    picture, film = saved(tmp_path / "a.png"), write_film(tmp_path / "a.mp4", stills([(RED, 1)]))
    assert "transcribe_img" in seen(tiny, picture, only="image")
    assert "transcribe_video" in seen(tiny, film, only="video")
    with pytest.raises(NoVideo):
        seen(tiny, picture, only="video")
    with pytest.raises(UnsupportedMedia):
        seen(tiny, film, only="image")


def test_settings_have_their_documented_names_and_reach_the_model(tiny: Florence, tmp_path: Path) -> None:
    settings = FlorenceSettings.model_validate({"AI_FLORENCE_MODEL": "a/b", "batch": "3", "num_beams": "2"})
    assert (settings.model, settings.batch, settings.num_beams) == ("a/b", 3, 2)
    assert FlorenceSettings().model == "microsoft/Florence-2-base"
    given = {"num_beams": 2, "max_new_tokens": 1000, "no_repeat_ngram_size": 3}
    worker = loaded(Path(tiny.settings.model), tmp_path, **given)
    chosen = worker._model.generation
    assert (chosen.num_beams, chosen.max_new_tokens, chosen.no_repeat_ngram_size) == (2, 127, 3)
    assert tiny._model.generation.max_new_tokens == 20
    assert seen(worker, saved(tmp_path / "a.png"))["transcribe_img"] == {"text": SENTENCE}


def test_settings_that_no_device_can_serve_are_answered(tiny: Florence, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="FLORENCE_DEVICE"):
        loaded(Path(tiny.settings.model), tmp_path, device="cuda:77")


# What the model writes, read


def places(*numbers: int) -> str:
    return "".join(f"<loc_{number}>" for number in numbers)


def test_marks_of_the_model_are_no_text() -> None:
    assert read("<CAPTION>", "</s><s>a red circle</s><pad><pad>", (10, 10)) == {"text": "a red circle"}
    assert read("<OCR>", "<s>5 < 6 </s>", (10, 10)) == {"text": "5 < 6"}


def test_labels_may_have_several_boxes() -> None:
    written = f"<s>car{places(0, 0, 499, 999)}{places(500, 0, 999, 999)}Straße{places(1, 2, 3, 4)}</s>"
    found = read("<OD>", written, (1000, 2000))
    assert found["text"] == "car, car, Straße"
    assert [region["box"] for region in found["regions"]] == [
        [0.5, 1, 499.5, 1999],
        [500.5, 1, 999.5, 1999],
        [1.5, 5, 3.5, 9],
    ]
    assert read("<REGION_PROPOSAL>", places(0, 0, 9, 9), (1000, 1000)) == {
        "text": "",
        "regions": [{"label": "", "box": [0.5, 0.5, 9.5, 9.5]}],
    }
    assert read("<OD>", f"cut short{places(1, 2, 3)}", (9, 9)) == {"text": "", "regions": []}


def test_text_with_regions_has_quads_and_boxes() -> None:
    written = f"STOP{places(100, 100, 300, 120, 290, 200, 90, 180)}a < b{places(*[5] * 8)}"
    found = read("<OCR_WITH_REGION>", written, (1000, 1000))
    assert found["text"] == "STOP a < b"
    assert found["regions"][0] == {
        "label": "STOP",
        "box": [90.5, 100.5, 300.5, 200.5],
        "quad": [100.5, 100.5, 300.5, 120.5, 290.5, 200.5, 90.5, 180.5],
    }


def test_polygons_have_boxes_and_the_label_that_was_asked_for() -> None:
    one, other = places(0, 0, 100, 0, 100, 100), places(200, 200, 300, 200, 300, 300, 250, 310)
    found = read("<REFERRING_EXPRESSION_SEGMENTATION>", f"{one}<sep>{other}", (1000, 1000), "a kite")
    assert [region["label"] for region in found["regions"]] == ["a kite", "a kite"]
    assert found["regions"][1]["box"] == [200.5, 200.5, 300.5, 310.5]
    assert len(found["regions"][1]["polygon"]) == 8
    open_ended = read("<OPEN_VOCABULARY_DETECTION>", f"a kite<poly>{one}</poly><poly>{other}</poly>", (10, 10), "x")
    assert [len(region["polygon"]) for region in open_ended["regions"]] == [6, 8]
    boxes = read("<OPEN_VOCABULARY_DETECTION>", f"a kite{places(1, 2, 3, 4)}", (1000, 1000), "x")
    assert boxes == {"text": "a kite", "regions": [{"label": "a kite", "box": [1.5, 2.5, 3.5, 4.5]}]}


def test_shapes_of_the_tests_have_the_boxes_they_are_drawn_in() -> None:
    shape = Shape("red", "square", 0.25, 0.5, 0.5)
    ground = np.asarray(Drawing().image(), np.int16)
    ys, xs = np.nonzero(np.abs(np.asarray(Drawing((shape,)).image(), np.int16) - ground).sum(axis=2) > 90)
    assert overlap([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], shape.box(640, 360)) > 0.97
