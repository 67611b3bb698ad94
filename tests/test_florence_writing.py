"""What Florence's own search writes is what transformers' writes, whatever it is asked to keep to.

With a tiny model of random weights, which ends its answers at unequal places, and with real weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.checkpoints_florence import make_native
from tests.drive import Recorder, drive
from tests.shapes import Drawing
from tests.test_florence import MODELS, loaded, real_weights, scenes_to_see, unit_of
from workers.florence import prompts, writing
from workers.florence.beams import Rules
from workers.florence.worker import Unit

torch = pytest.importorskip("torch")
from workers.florence.model import Model  # noqa: E402 - it imports torch

CPU = torch.device("cpu")
ENDS = list(range(2, 300))
"""Tokens that end an answer of the random model: some of a fifth of all."""
SENTENCES = [
    prompts.sentence("<CAPTION>", None),
    prompts.sentence("<CAPTION_TO_PHRASE_GROUNDING>", "a red circle and a blue square"),
    prompts.sentence("<OD>", None),
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """On a busy machine threads that wait for each other take hundred times as long."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_native(tmp_path_factory.mktemp("models") / "tiny")


def random_model(folder: Path, **search: Any) -> Model:
    model = Model(folder, CPU, {})
    torch.manual_seed(1)
    with torch.inference_mode():
        for name, parameter in model._model.model.language_model.named_parameters():
            if "norm" not in name:
                parameter.normal_(0, 0.3)
    return searching(model, **{"eos_token_id": ENDS, **search})


def searching(model: Model, **search: Any) -> Model:
    for name, value in search.items():
        setattr(model.generation, name, value)
    model._writer = model._own_writer()
    return model


def asked(model: Model, sentences: list[str]) -> tuple[list[Any], list[Any]]:
    """Pictures and questions, seven of them."""
    looks = [model.pixels.resized(what.image()) for what in scenes_to_see(7)]
    return looks, [model.question(sentences[number % len(sentences)]) for number in range(7)]


def by_transformers(model: Model, looks: list[Any], questions: list[Any]) -> list[list[int]]:
    with torch.inference_mode():
        ids, there = model._asked(questions)
        written = model._generated(model.pixels.seen(looks), ids, there)
    ends = model.generation.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    return [[*until(answer, ends)] for answer in written]


def until(answer: list[int], ends: set[int]) -> Iterator[int]:
    for token in answer:
        if token in ends:
            return
        yield token


SEARCHES: list[dict[str, Any]] = [
    {},
    {"num_beams": 3},
    {"num_beams": 3, "early_stopping": True, "no_repeat_ngram_size": 3},
    {"num_beams": 3, "early_stopping": "never", "length_penalty": 2.0},
    {"num_beams": 4, "length_penalty": -0.5, "no_repeat_ngram_size": 1},
    {"num_beams": 2, "forced_bos_token_id": 0, "forced_eos_token_id": 2, "no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 2, "forced_bos_token_id": 0, "forced_eos_token_id": [2, 5]},
    {"num_beams": 3, "min_new_tokens": 20, "early_stopping": True},
    {"num_beams": 3, "min_length": 6, "no_repeat_ngram_size": 3},
    {"num_beams": 2, "max_new_tokens": 1},
]


@pytest.mark.parametrize("search", SEARCHES, ids=str)
def test_answers_are_those_of_transformers(folder: Path, search: dict[str, Any]) -> None:
    """Prompts are unequally long, and answers end at different places."""
    model = random_model(folder, **search)
    looks, questions = asked(model, SENTENCES)
    wanted = by_transformers(model, looks, questions)
    assert model.answers(looks, questions) == wanted
    if "min_new_tokens" not in search and "max_new_tokens" not in search:
        assert len({len(answer) for answer in wanted}) > 1


@pytest.mark.parametrize("search", [{}, {"num_beams": 3, "no_repeat_ngram_size": 3}], ids=str)
def test_long_answers_move_to_longer_desks(
    folder: Path, search: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "SHORT", 4)
    model = random_model(folder, eos_token_id=2, max_new_tokens=90, **search)
    looks, questions = asked(model, SENTENCES)
    answers = model.answers(looks, questions)
    assert answers == by_transformers(model, looks, questions)
    assert max(map(len, answers)) > 4**3


class Called:
    """Does as graphs do, by calling the functions."""

    def __init__(self) -> None:
        self.replayed: list[Callable[[], None]] = []

    def recorded(self, function: Callable[[], None]) -> Callable[[], None]:
        for _ in range(2):
            function()

        def replay() -> None:
            self.replayed.append(replay)
            function()

        return replay


@pytest.mark.parametrize("search", SEARCHES, ids=str)
def test_recorded_steps_write_the_same(folder: Path, search: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches that are filled up, after others and past their end; what was written before leaves no trace."""
    monkeypatch.setattr(writing, "SHORT", 8)
    model = random_model(folder, **search)
    looks, questions = asked(model, SENTENCES)
    wanted = by_transformers(model, looks, questions)
    graphs = Called()
    with torch.inference_mode():
        assert model._writer is not None
        model._writer.record(graphs.recorded, 6, model._image_tokens, 128)
        for desk in model._writer._whole.values():  # as an answer leaves it whose numbers were too large
            desk.memory.keys.fill_(torch.nan)
            desk.memory.values.fill_(torch.nan)
    recorded = dict(model._writer._recorded)
    for begin, end in ((0, 5), (5, 7), (2, 3), (0, 6)):
        assert model.answers(looks[begin:end], questions[begin:end]) == wanted[begin:end]
    assert model._writer._recorded == recorded
    assert {shape[0] for shape, step in recorded.items() if step in graphs.replayed} == {1, 2, 6}


def test_what_cannot_be_recorded_is_computed_without(folder: Path) -> None:
    def refuses(function: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")

    model = random_model(folder, num_beams=3)
    looks, questions = asked(model, SENTENCES)
    wanted = model.answers(looks, questions)
    with torch.inference_mode():
        assert model._writer is not None
        model._writer.record(refuses, 4, model._image_tokens, 128)
    assert model.answers(looks, questions) == wanted


def test_searches_that_are_not_ours_are_transformers_own(folder: Path) -> None:
    model = random_model(folder, num_beams=2)
    assert Rules.of(model.generation) is not None
    searching(model, repetition_penalty=1.5)
    assert Rules.of(model.generation) is None
    looks, questions = asked(model, SENTENCES)
    assert [len(answer) > 0 for answer in model.answers(looks, questions)] == [True] * 7
    searching(model, repetition_penalty=None, do_sample=True)
    assert Rules.of(model.generation) is None


def test_pictures_are_what_the_checkpoints_processor_makes_of_them(folder: Path) -> None:
    from transformers import AutoProcessor

    model, processor = Model(folder, CPU, {}), AutoProcessor.from_pretrained(folder)
    images = [what.image(*size) for what, size in zip(scenes_to_see(3), [(640, 360), (50, 99), (64, 64)], strict=True)]
    images.append(Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)))
    made = processor(images=images, text=SENTENCES + SENTENCES[:1], padding=True, return_tensors="pt")
    seen = model.pixels.seen([model.pixels.resized(image) for image in images])
    assert torch.allclose(seen, made["pixel_values"], atol=1e-6, rtol=0)
    ids, there = model._asked([model.question(sentence) for sentence in SENTENCES + SENTENCES[:1]])
    assert ids.equal(made["input_ids"][:, model._image_tokens :])
    assert there.equal(made["attention_mask"][:, model._image_tokens :].bool())


@pytest.mark.parametrize(("free", "batch"), [(0, 1), (2 << 20, 2), (10 << 20, 8), (80 << 30, 32)])
def test_the_batch_on_a_gpu_follows_its_free_memory(
    folder: Path, free: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model needs about 0.4 MB for each picture."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 << 30))
    assert Model(folder, CPU, {"num_beams": 3, "max_new_tokens": 1000})._fitting() == batch


@real_weights
@pytest.mark.parametrize("search", [{}, {"num_beams": 3}, {"num_beams": 3, "no_repeat_ngram_size": 3}], ids=str)
def test_real_weights_say_what_they_say_with_transformers(search: dict[str, Any]) -> None:
    model = searching(Model(MODELS / "florence2-shapes", CPU, {}), **search)
    looks, questions = asked(model, SENTENCES)
    assert model.answers(looks, questions) == by_transformers(model, looks, questions)


def units(worker: Any, count: int) -> list[Unit]:
    return [unit_of(worker, what) for what in scenes_to_see(count)]


@real_weights
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("search", [{}, {"num_beams": 3, "no_repeat_ngram_size": 3}], ids=str)
def test_a_gpu_says_what_the_cpu_says_and_records_nothing_at_a_request(
    search: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers.runtime.cuda_graphs import CudaGraphs

    cpu = loaded(MODELS / "florence2-shapes", tmp_path, device="cpu", **search)
    gpu = loaded(MODELS / "florence2-shapes", tmp_path, device="cuda", **search)
    assert gpu.batch == 32
    assert gpu._model._writer is not None
    assert gpu._model._writer._recorded
    monkeypatch.setattr(CudaGraphs, "recorded", None)
    for count in (1, 5, 32):
        pairs = zip(gpu.forward(units(gpu, count)), cpu.forward(units(cpu, count)), strict=True)
        assert sum(one != other for one, other in pairs) <= count // 32  # half precision may turn a close choice
    long = {"prompt": "<CAPTION_TO_PHRASE_GROUNDING>", "text": "a red circle " * 12}
    Drawing().image().save(tmp_path / "a.png")
    said = [drive(worker, {"file": tmp_path / "a.png", **long}, Recorder(tmp_path))[0] for worker in (cpu, gpu)]
    assert said[0] == said[1]
