"""The DualAR model, its prompts, its loop and its files, against the published code and by themselves."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import shutil
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from contract.errors import InvalidInput, ModelUnavailable, QueueFull, TextTooLong
from tests import drive
from tests.checkpoints_fish import CODECS, make_fish
from tests.make_fish_fixtures import CASES, FIXTURES, FRAMES, REFERENCE, reference_codes, say_only
from workers.fish.cache import Place
from workers.fish.checkpoint import Checkpoint, family_of, load
from workers.fish.dual_ar import DualAR, DualARConfig
from workers.fish.family import FISH_SPEECH_15, OPENAUDIO_S1
from workers.fish.generate import Frame, Handle, Loop, Utterance
from workers.fish.graphs import Shapes, Step, or_as_it_is
from workers.fish.prompt import Spoken
from workers.fish.published import INSTALL, locate
from workers.fish.sampling import DRAWN_CODES, Sampling, draw, probabilities
from workers.runtime.cuda_graphs import sizes_up_to

pytest.importorskip("fish_speech.tokenizer", reason="the fish-speech package is not installed (requirements-fish.txt)")

CPU = torch.device("cpu")
BOTH = ("1.5", "s1")
FAMILIES = {"1.5": FISH_SPEECH_15, "s1": OPENAUDIO_S1}
SIZES = json.loads((Path(__file__).parent / "fixtures" / "fish_sizes.json").read_text())


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: make_fish(tmp_path_factory.mktemp("fish") / family, family) for family in BOTH}


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> dict[str, Checkpoint]:
    return {family: load(found(folders[family]), CPU) for family in BOTH}


@pytest.fixture(params=BOTH)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def checkpoint(loaded: dict[str, Checkpoint], family: str) -> Checkpoint:
    return loaded[family]


def found(folder: Path) -> Any:
    return locate(str(folder), drive.folders(folder))


def package(folder: Path) -> Any:
    """The package's model of the same files, with its cache for one sequence."""
    from fish_speech.models.text2semantic.llama import DualARTransformer
    from fish_speech.tokenizer import FishTokenizer

    model = DualARTransformer(package_config(folder), FishTokenizer.from_pretrained(str(folder)))
    model.load_state_dict(torch.load(folder / "model.pth", weights_only=True), strict=True)
    model.setup_caches(1, model.config.max_seq_len, dtype=torch.float32)
    return model.eval()


def package_config(folder: Path) -> Any:
    from fish_speech.models.text2semantic.llama import BaseModelArgs

    return BaseModelArgs.from_pretrained(str(folder))


def voice(checkpoint: Checkpoint, frames: int = 9) -> Spoken:
    codes = torch.arange(checkpoint.model.config.num_codebooks * frames) * 131 % 1024
    return Spoken(REFERENCE, codes.reshape(-1, frames))


def utterance(checkpoint: Checkpoint, text: str = "Hello.", seed: int = 1, limit: int = 8, **rules: float) -> Utterance:
    sampling = dataclasses.replace(checkpoint.family.defaults, seed=seed, **rules)
    return Utterance(checkpoint.prompt(text), sampling, limit)


def said(loop: Loop, asked: Utterance) -> list[list[int] | None]:
    """Its frames' codes, the loop's only sequence."""
    handle = loop.open(asked)
    codes = [told(frame) for frame in rest(loop, handle)]
    loop.close(handle)
    return codes


def in_shapes(checkpoint: Checkpoint, rows: int, **options: Any) -> Loop:
    """A loop that does what graphs hold, which are not captured on a CPU."""
    return Loop(checkpoint, rows, acceleration="graphs", **options)


class PublishedNoise:
    """One sequence's, by torch's generator, in the order in which the published code draws it."""

    def __init__(self, checkpoint: Checkpoint, seed: int) -> None:
        config = checkpoint.model.config
        self.choices, self.codes = checkpoint.choices, [DRAWN_CODES] * (config.num_codebooks - 1)
        self.words, self.generator = config.vocab_size, torch.Generator().manual_seed(seed)

    def __call__(self, keys: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
        word, *codes = (
            torch.empty(size).exponential_(1, generator=self.generator) for size in [self.words, *self.codes]
        )
        return torch.cat([word[self.choices], torch.ones(1), *codes])[None]


def with_noise(loop: Loop, noise: PublishedNoise) -> Loop:
    loop._step.noise = noise  # type: ignore[method-assign]
    return loop


def rest(loop: Loop, handle: Handle) -> Iterator[Frame]:
    while not handle.stop:
        yield loop.step([handle])[0]


def told(frame: Frame) -> list[int] | None:
    return None if frame.codes is None else frame.codes.tolist()


def kept(frames: list[list[int] | None]) -> torch.Tensor:
    """(C, frames)."""
    return torch.tensor([codes for codes in frames if codes is not None]).T


# The forward pass


def test_logits_equal_the_packages(checkpoint: Checkpoint, folders: dict[str, Path], family: str) -> None:
    """A prompt with a voice, then frames, in the last of three rows; slow and fast, within 1e-4."""
    theirs, ours = package(folders[family]), checkpoint.model
    prompt = checkpoint.prompt("All is well.", [voice(checkpoint)])
    codes, length = torch.randint(0, 1024, (6, ours.config.num_codebooks)), prompt.size(1)
    with torch.inference_mode():
        cache, fast_cache = ours.caches(3, ours.config.max_seq_len)
        expected = theirs.forward_generate(prompt[None].int(), torch.arange(length))
        place = Place.prompt(2, 0, length, checkpoint.head)
        logits, hidden = ours.said(ours.read(prompt[None], cache, place)[:, -1], checkpoint.head)
        for index, frame in enumerate(codes):
            torch.testing.assert_close(logits, expected.logits[:, 0, checkpoint.choices], atol=1e-4, rtol=0)
            torch.testing.assert_close(hidden, expected.hidden_states[:, 0], atol=1e-4, rtol=0)
            their_input, our_input = expected.hidden_states, hidden[:, None]
            for book, code in enumerate(frame):
                expected_fast = theirs.forward_generate_fast(their_input, torch.tensor([book]))
                fast = ours.fast_forward(our_input, fast_cache, Place.together(1, book, 1))
                torch.testing.assert_close(fast, expected_fast[:, 0], atol=1e-4, rtol=0)
                their_input, our_input = theirs.fast_embeddings(code[None]), ours.fast_embeddings(code[None, None])
            tokens = torch.cat([frame[:1] + ours.semantic[0], frame])[None, :, None]
            position = torch.tensor([length + index])
            expected = theirs.forward_generate(tokens, position)
            place = Place.one_more(slice(2, 3), torch.tensor([2]), position, length + index + 1, checkpoint.head)
            logits, hidden = ours.said(ours.read(tokens, cache, place)[:, -1], checkpoint.head)


@pytest.mark.parametrize("name", BOTH)
def test_published_sizes_have_the_packages_keys_and_shapes(name: str, tmp_path: Path, loaded: Any) -> None:
    """On the meta device; the fixture holds the published configuration and one shape for each kind of weight."""
    from fish_speech.models.text2semantic.llama import DualARTransformer

    size = SIZES[name]
    (tmp_path / "config.json").write_text(json.dumps(size["config"]))
    with torch.device("meta"):
        ours = DualAR(DualARConfig.of(size["config"]), (0, 1)).state_dict()
    tokenizer = loaded[name].tokenizer
    config = package_config(tmp_path)
    config.max_seq_len = 8  # its mask alone would take 64 MiB, and no weight depends on it
    theirs = DualARTransformer.__new__(DualARTransformer)
    with torch.device("meta"):
        theirs.__init__(config, tokenizer)
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }
    assert sum(value.numel() for value in ours.values()) == size["parameters"]
    kinds = {".".join("*" if part.isdigit() else part for part in key.split(".")): v for key, v in ours.items()}
    assert {kind: list(value.shape) for kind, value in kinds.items()} == size["shapes"]


# Prompts


def test_s1_prompts_equal_the_packages(loaded: dict[str, Checkpoint]) -> None:
    from fish_speech.content_sequence import ContentSequence, TextPart, VQPart

    checkpoint, said_before = loaded["s1"], voice(loaded["s1"])
    for references in ([], [said_before], [said_before, said_before]):
        sequence = ContentSequence(modality="interleave")
        for reference in references:
            parts = [TextPart(text=reference.text), VQPart(codes=reference.codes)]
            sequence.append(parts, add_end=True, speaker=0)
        sequence.append([TextPart(text="Hello there.")], add_end=False, speaker=0)
        expected, _, _ = sequence.encode_for_inference(checkpoint.tokenizer, checkpoint.model.config.num_codebooks)
        assert checkpoint.prompt("Hello there.", references).tolist() == expected.tolist()


@pytest.mark.parametrize("case", CASES)
def test_15_says_what_the_published_code_says(loaded: dict[str, Checkpoint], case: str) -> None:
    """Prompt tokens and codes from the same noise, over more frames than the penalty's window; words have no chance."""
    checkpoint, expected, asked = loaded["1.5"], json.loads(FIXTURES.read_text())[case], CASES[case]
    references = [Spoken(REFERENCE, reference_codes())] if case == "cloned" else []
    prompt = checkpoint.prompt(asked["text"], references)
    assert prompt.tolist() == expected["prompt"]
    sampling = Sampling(asked["temperature"], asked["top_p"], asked["repetition_penalty"])
    loop = with_noise(Loop(checkpoint), PublishedNoise(checkpoint, asked["seed"]))
    codes = kept(said(loop, Utterance(prompt, sampling, FRAMES)))
    assert codes.tolist() == expected["codes"]


def test_s1_says_what_the_package_says(loaded: dict[str, Checkpoint], folders: dict[str, Path]) -> None:
    from fish_speech.models.text2semantic import inference

    checkpoint, model = loaded["s1"], package(folders["s1"])
    say_only(model, json.loads((folders["s1"] / "special_tokens.json").read_text()))
    prompt = checkpoint.prompt("Well said.", [voice(checkpoint)])
    sampling = Sampling(temperature=0.7, top_p=0.9, repetition_penalty=1.3)
    torch.manual_seed(5)
    rules = {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.3}
    y = inference.generate(
        model=model, prompt=prompt.int(), max_new_tokens=FRAMES, audio_masks=None, audio_parts=None, **rules
    )
    loop = with_noise(Loop(checkpoint), PublishedNoise(checkpoint, 5))
    codes = kept(said(loop, Utterance(prompt, sampling, FRAMES)))
    assert codes.tolist() == y[1:, prompt.size(1) : -1].tolist()


def test_the_penalty_of_words_changes_nothing(checkpoint: Checkpoint) -> None:
    """Probabilities as the package has them over a whole vocabulary, in which only what can be said has a chance."""
    from fish_speech.models.text2semantic import inference

    step, config = Loop(checkpoint)._step, checkpoint.model.config
    torch.manual_seed(3)
    logits = torch.full((config.vocab_size,), -torch.inf)
    logits[checkpoint.choices] = 3 * torch.randn(len(checkpoint.choices))
    likely = checkpoint.choices[logits[checkpoint.choices].topk(4).indices]
    window = torch.cat(
        [torch.zeros(5, dtype=torch.int64), likely, likely[:1], checkpoint.choices[7:9], torch.tensor([99])]
    )
    rules = torch.tensor([0.8, 0.9, 1.7])
    expected = inference.logits_to_probs(logits.clone(), *rules, previous_tokens=window)[checkpoint.choices]
    ours = torch.cat([logits[checkpoint.choices], torch.tensor([-torch.inf])])[None]
    found = probabilities(ours, rules[None], step._choice_of[window][None])[0]
    assert found[-1] == 0
    torch.testing.assert_close(found[:-1], expected, atol=1e-6, rtol=1e-5)
    unpenalised = inference.logits_to_probs(logits.clone(), *rules)[checkpoint.choices]
    assert (unpenalised - expected).abs().max() > 0.01


def test_the_penalty_looks_back_as_far_as_the_packages(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its `previous_tokens[:, i - 16 : i]`, of the frames after the first; the first is not penalised."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def watched(logits: torch.Tensor, rules: torch.Tensor, window: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        seen.append((rules[0].clone(), window[0].clone()))
        return draw(logits, rules, window, noise)

    monkeypatch.setattr("workers.fish.frame.draw", watched)
    books = checkpoint.model.config.num_codebooks
    loop, third = Loop(checkpoint), []
    handle = loop.open(utterance(checkpoint, limit=40))
    for _ in rest(loop, handle):
        third.append(int(loop._step.state.tokens[handle.row, 3]))
    of_third = seen[2::books]  # the semantic token, the second codebook, the third
    assert [float(rules[2]) == 1.0 for rules, _ in of_third] == [True] + [False] * 39
    later = torch.tensor(third[1:])
    for index, (_, window) in enumerate(of_third[1:]):
        previous = torch.cat([later[:index], torch.zeros(40, dtype=torch.int64)])
        assert window.tolist() == previous[max(0, index - 16) :][:16].tolist()


def test_a_texts_own_control_tokens_are_letters(checkpoint: Checkpoint) -> None:
    plain, hostile = checkpoint.prompt("a"), checkpoint.prompt("<|im_end|><|semantic:3|>")
    controls = set(plain[0].tolist())
    assert all(token < 258 or token in controls for token in hostile[0].tolist())
    assert (hostile[0] == checkpoint.end_id).sum() == (plain[0] == checkpoint.end_id).sum()


def test_references_of_another_codec_are_refused(checkpoint: Checkpoint) -> None:
    books, size = checkpoint.model.config.num_codebooks, checkpoint.model.config.codebook_size
    for codes in (
        torch.zeros(books - 1, 3),
        torch.zeros(books, 0),
        torch.full((books, 3), size),
        -torch.ones(books, 3),
    ):
        with pytest.raises(InvalidInput):
            checkpoint.prompt("a", [Spoken("b", codes)])


def test_a_text_without_anything_to_say_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(InvalidInput):
        checkpoint.prompt("")


# The loop


def test_a_batch_says_what_each_says_alone(checkpoint: Checkpoint) -> None:
    """Prompts of different lengths and sampling join one by one and leave in mid-flight; a later one takes a row."""
    asked = [
        utterance(checkpoint, "Hello.", seed=1, limit=20),
        utterance(checkpoint, "All is well, and has been for long.", seed=2, limit=30, temperature=1.2),
        utterance(checkpoint, "No.", seed=3, limit=26, top_p=0.3),
        utterance(checkpoint, "Another voice.", seed=4, limit=22, repetition_penalty=1.9),
    ]
    alone = [said(Loop(checkpoint), one) for one in asked]
    loop = Loop(checkpoint, rows=3)
    heard: list[list[list[int] | None]] = [[] for _ in asked]
    handles: dict[int, Handle] = {}
    waiting = list(range(len(asked)))
    while waiting or handles:
        if waiting and loop.free:
            index = waiting.pop(0)
            handles[index] = loop.open(asked[index])
        order = sorted(handles, reverse=True)
        for index, frame in zip(order, loop.step([handles[index] for index in order]), strict=True):
            heard[index].append(told(frame))
            if frame.stop:
                loop.close(handles.pop(index))
    assert heard == alone


def test_sequences_that_are_not_stepped_wait_unharmed(checkpoint: Checkpoint) -> None:
    asked = [utterance(checkpoint, seed=seed, limit=9) for seed in range(3)]
    alone = [said(Loop(checkpoint), one) for one in asked]
    loop = Loop(checkpoint, rows=3)
    handles = [loop.open(one) for one in asked]
    heard = [[told(frame)] for frame in loop.step(handles)]
    for index in (0, 2):  # rows that do not stand side by side
        heard[index] += [told(frame) for frame in loop.step([handles[index]])]
    while not handles[0].stop:
        for index, frame in zip((0, 2), loop.step([handles[0], handles[2]]), strict=True):
            heard[index].append(told(frame))
    heard[1] += [told(frame) for frame in rest(loop, handles[1])]
    assert heard == alone


def test_a_seed_repeats_itself_and_no_seed_does_not(checkpoint: Checkpoint) -> None:
    loop = Loop(checkpoint, rows=2)
    asked = utterance(checkpoint)
    unseeded = Utterance(asked.prompt, dataclasses.replace(asked.sampling, seed=None, temperature=1.9, top_p=1.0), 8)
    assert said(loop, asked) == said(loop, asked)
    assert said(loop, asked) != said(loop, utterance(checkpoint, seed=2))
    assert said(loop, unseeded) != said(loop, unseeded)


def test_each_family_keeps_the_frames_that_its_published_code_keeps(loaded: dict[str, Checkpoint]) -> None:
    frames = {name: said(Loop(one), utterance(one, limit=5)) for name, one in loaded.items()}
    assert [codes is None for codes in frames["1.5"]] == [True, False, False, False, False]
    assert [codes is None for codes in frames["s1"]] == [False, False, False, False, True]


def test_the_end_token_ends_a_sequence_but_not_at_its_first_frame(checkpoint: Checkpoint) -> None:
    asked, tokens = utterance(checkpoint, limit=12), []
    loop = Loop(checkpoint)
    handle = loop.open(asked)
    while not handle.stop:
        loop.step([handle])
        tokens.append(int(loop._step.state.tokens[handle.row, 0]))
    assert handle.stop == "length"
    fourth = Loop(dataclasses.replace(checkpoint, end_id=tokens[3]))
    ending = fourth.open(asked)
    assert len(list(rest(fourth, ending))) == 1 + tokens.index(tokens[3], 1)
    assert ending.stop == "end"
    if tokens[0] not in tokens[1:]:
        assert len(said(Loop(dataclasses.replace(checkpoint, end_id=tokens[0])), asked)) == 12


def test_without_a_limit_the_cache_is_the_limit(checkpoint: Checkpoint) -> None:
    asked = utterance(checkpoint, limit=0)
    loop = Loop(checkpoint, length=asked.prompt.size(1) + 5)
    assert len(said(loop, asked)) == 5


def test_a_closed_row_serves_the_next_as_if_new(checkpoint: Checkpoint) -> None:
    asked = utterance(checkpoint, seed=5)
    expected = said(Loop(checkpoint), asked)
    loop = Loop(checkpoint)
    cancelled = loop.open(utterance(checkpoint, "A longer text than the next one.", limit=20))
    for _ in range(18):
        loop.step([cancelled])
    with pytest.raises(QueueFull):
        loop.open(asked)
    loop.close(cancelled)
    loop.close(cancelled)
    assert loop.free == 1
    assert loop.step([cancelled]) == [Frame(None, None)]  # closed by another thread since it was asked for
    assert said(loop, asked) == expected


def test_requests_of_which_a_third_is_cancelled_leave_nothing_behind(loaded: dict[str, Checkpoint]) -> None:
    checkpoint = loaded["1.5"]
    loop, held = Loop(checkpoint, rows=2), []
    for number in range(60):
        handle = loop.open(utterance(checkpoint, seed=number, limit=3))
        for _ in range(1 if number % 3 == 0 else 3):
            loop.step([handle])
        loop.close(handle)
        del handle
        if number in {19, 59}:
            gc.collect()
            held.append(sum(1 for one in gc.get_objects() if type(one) is torch.Tensor))
    assert loop.free == 2
    assert held[0] == held[1]


def test_prompts_that_do_not_fit_are_refused(checkpoint: Checkpoint) -> None:
    loop = Loop(checkpoint)
    with pytest.raises(TextTooLong) as refused:
        loop.open(utterance(checkpoint, "too long " * 40))
    assert refused.value.details["limit"] == 256
    with pytest.raises(InvalidInput):
        loop.open(Utterance(torch.zeros(2, 5, dtype=torch.int64), Sampling(seed=1)))
    with pytest.raises(InvalidInput):
        loop.open(utterance(checkpoint, limit=-1))
    assert loop.free == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 0.0},
        {"temperature": 2.0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"repetition_penalty": 0},
        {"seed": -1},
    ],
)
def test_sampling_outside_the_published_ranges_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        Sampling(**wrong)


def test_what_graphs_hold_says_the_same(checkpoint: Checkpoint) -> None:
    """Five sequences that join one by one, are passed over and leave: rows that do not advance stay as they were."""
    asked = [utterance(checkpoint, "Hello" * number, seed=number, limit=5 + number) for number in range(1, 6)]
    alone = [said(Loop(checkpoint), one) for one in asked]
    loop, heard = in_shapes(checkpoint, 5), [[] for _ in asked]  # type: ignore[var-annotated]
    handles = [loop.open(one) for one in asked]
    for step in range(40):
        some = [index for index in range(5) if step >= index and (step + index) % 3 and not handles[index].stop]
        for index, frame in zip(some, loop.step([handles[index] for index in some]), strict=True):
            heard[index].append(told(frame))
    assert heard == alone
    assert loop.shapes is not None
    assert set(loop.shapes._steps) <= {(rows, 256) for rows in (1, 2, 4, 5)}


def test_graphs_read_as_much_of_the_cache_as_they_need(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.fish.generate.SHORTEST_READ", 16)
    short, long = utterance(checkpoint, "No.", limit=4), utterance(checkpoint, "All is well. " * 4, seed=2, limit=60)
    alone = [said(Loop(checkpoint), one) for one in (long, short)]
    loop = in_shapes(checkpoint, 2)
    handles = [loop.open(one) for one in (long, short)]
    first = [told(frame) for frame in loop.step([handles[1]])]  # its step leaves the longer one's row unread
    heard = [[told(frame)] for frame in loop.step([handles[0]])]
    heard[0] += [told(frame) for frame in rest(loop, handles[0])]
    assert [heard[0], [*first, *map(told, rest(loop, handles[1]))]] == alone
    assert loop.shapes is not None
    assert {length for _, length in loop.shapes._steps} >= {64, 128}


def test_shapes_that_were_prepared_are_all_that_is_needed(checkpoint: Checkpoint) -> None:
    loop = in_shapes(checkpoint, 3)
    loop.prepare()
    assert loop.shapes is not None
    before = len(loop.shapes)
    asked = [utterance(checkpoint, "Hello" * number, seed=number, limit=9) for number in range(1, 4)]
    handles = [loop.open(one) for one in asked]
    steps = [loop.step(handles) for _ in range(9)]
    assert [[told(frame) for frame in heard] for heard in zip(*steps, strict=True)] == [
        said(Loop(checkpoint), one) for one in asked
    ]
    assert len(loop.shapes) == before


def test_a_frame_asks_the_host_for_nothing(family: str) -> None:
    """In the published size, on tensors without numbers: a step that needed one, or one of the CPU's, would fail."""
    config = DualARConfig.of({**SIZES[family]["config"], "max_seq_len": 512})
    first, meta = config.vocab_size - config.codebook_size, torch.device("meta")
    with meta:
        model = DualAR(config, (first, config.vocab_size - 1)).to(torch.bfloat16)
    model.merge()
    choices = torch.arange(first - 1, config.vocab_size)
    tokenizer: Any = None
    checkpoint = Checkpoint(model, tokenizer, FAMILIES[family], first - 1, choices, model.head[choices.to(meta)])
    loop = Loop(checkpoint, rows=4)
    with torch.inference_mode():
        frames = loop._step.advance(slice(0, 4), loop._active, 256)
    assert (frames.shape, frames.dtype) == ((4, 1 + config.num_codebooks), torch.int64)


def test_a_step_that_cannot_be_captured_is_done_without(capsys: pytest.CaptureFixture[str]) -> None:
    def refuses(step: Step) -> Step:
        raise RuntimeError("operation not permitted when stream is capturing")

    shapes: Shapes[int] = Shapes(lambda shape: lambda: torch.tensor(shape), or_as_it_is(refuses))
    assert int(shapes.of(5)()) == 5
    assert "speech_not_captured" in capsys.readouterr().out


@pytest.mark.parametrize("most", [1, 2, 3, 4, 9, 255, 256, 257, 4096])
def test_sizes_are_few_and_none_much_larger_than_needed(most: int) -> None:
    sizes = sizes_up_to(most)
    assert sizes[-1] == most
    assert len(sizes) <= most.bit_length() + 1
    for count in range(1, most + 1):
        assert next(size for size in sizes if size >= count) < 2 * count
    assert sizes_up_to(1000, 256) == [256, 512, 1000]
    assert sizes_up_to(100, 256) == [100]


@pytest.mark.parametrize("way", [Loop, in_shapes])
def test_a_voice_that_was_read_before_says_the_same(checkpoint: Checkpoint, way: Any) -> None:
    """After another voice in the same row, in another row, and where there is no room to remember it."""
    grids = [checkpoint.grid(text, [voice(checkpoint, 30)]) for text in ("All is well.", "No.")]
    asked = [Utterance(grid.joined(), Sampling(seed=seed), 9, grid.preamble) for seed, grid in enumerate(grids)]
    other = checkpoint.grid("Another.", [voice(checkpoint, 33)]).joined()
    at_once = [said(Loop(checkpoint), dataclasses.replace(one, preamble=0)) for one in asked]
    for megabytes, kept_of in ((1.0, 1), (0.0, 0)):
        loop = way(checkpoint, 2, prefixes_mb=megabytes)
        for _ in range(2):
            assert [said(loop, one) for one in asked] == at_once
            said(loop, Utterance(other, Sampling(seed=3), 2))
        handle = loop.open(Utterance(other, Sampling(seed=3), 2))
        assert [said(loop, one) for one in asked] == at_once
        loop.close(handle)
        assert len(loop._prefixes._kept) == kept_of


def test_the_least_recently_used_voices_are_forgotten(checkpoint: Checkpoint) -> None:
    grids = [checkpoint.grid("Hello.", [voice(checkpoint, frames)]) for frames in (20, 21, 22)]
    config = checkpoint.model.config
    columns = 2 * config.n_layer * config.slow.n_local_heads * config.slow.head_dim * 4
    loop = Loop(checkpoint, prefixes_mb=2.5 * grids[0].preamble * columns / 1e6)
    for grid in grids:
        said(loop, Utterance(grid.joined(), Sampling(seed=1), 2, grid.preamble))
    assert len(loop._prefixes._kept) == 2
    assert loop._prefixes._kept.currsize <= loop._prefixes._kept.maxsize


def test_nothing_but_semantic_tokens_and_the_end_is_said(checkpoint: Checkpoint) -> None:
    """Of an output layer of its own nothing else is kept."""
    first, last = checkpoint.model.semantic
    assert set(checkpoint.choices.tolist()) == {checkpoint.end_id, *range(first, last + 1)}
    assert not hasattr(checkpoint.model, "output")
    loop, tokens = Loop(checkpoint), set()
    for seed in range(4):
        handle = loop.open(utterance(checkpoint, seed=seed, limit=20, temperature=1.9, top_p=1.0))
        for _ in rest(loop, handle):
            tokens.add(int(loop._step.state.tokens[handle.row, 0]))
        loop.close(handle)
    assert tokens <= set(checkpoint.choices.tolist())


def test_sequences_open_and_close_beside_a_step(checkpoint: Checkpoint) -> None:
    loop, opened = Loop(checkpoint, rows=4), []
    asked = utterance(checkpoint, limit=3)

    def come_and_go() -> None:
        for _ in range(50):
            with contextlib.suppress(QueueFull):
                opened.append(loop.open(asked))
                assert len({handle.row for handle in opened if not handle.closed}) <= 4
                loop.close(opened[-1])

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    handle = loop.open(utterance(checkpoint, seed=9, limit=30))
    for thread in threads:
        thread.start()
    heard = [told(frame) for frame in rest(loop, handle)]
    for thread in threads:
        thread.join()
    assert heard == said(Loop(checkpoint), utterance(checkpoint, seed=9, limit=30))
    assert loop.free == 3


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("acceleration", ["graphs", "compile"])
def test_graphs_and_compilation_on_a_gpu_say_what_the_plain_loop_says(
    folders: dict[str, Path], family: str, dtype: torch.dtype, acceleration: Any
) -> None:
    checkpoint = load(found(folders[family]), torch.device("cuda"), dtype)
    asked = [utterance(checkpoint, "Hello" * number, seed=number, limit=12) for number in (1, 2, 3)]
    heard = []
    for way in ("none", acceleration):
        loop = Loop(checkpoint, rows=3, acceleration=way)
        handles = [loop.open(one) for one in asked]
        heard.append([[told(frame) for frame in loop.step(handles)] for _ in range(12)])
    if dtype is torch.float32:
        assert heard[0] == heard[1]
    else:  # another order of adding, in eight bits, may turn a draw; shapes and ranges may not change
        assert [[codes is None for codes in step] for step in heard[0]] == [
            [codes is None for codes in step] for step in heard[1]
        ]


@pytest.mark.gpu
@needs_gpu
def test_the_first_request_on_a_gpu_captures_nothing(
    folders: dict[str, Path], family: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """All graphs are there when the model is, every one of them captured; and a step waits once for the device."""
    checkpoint = load(found(folders[family]), torch.device("cuda"), torch.bfloat16)
    loop = Loop(checkpoint, rows=3, acceleration="graphs", prefixes_mb=1)
    loop.prepare()
    assert loop.shapes is not None
    before = len(loop.shapes)
    grid = checkpoint.grid("All is well.", [voice(checkpoint, 30)])
    handles = [loop.open(Utterance(grid.joined(), Sampling(seed=seed), 9, grid.preamble)) for seed in range(3)]
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            loop.step(handles)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([wait for wait in waits if "synchroniz" in str(wait.message)]) == 1  # the tokens, on their way here
    while not handles[0].stop:
        loop.step(handles)
    assert len(loop.shapes) == before
    assert "not_captured" not in "".join(capfd.readouterr())


# The files


def test_a_folders_files_tell_its_family(folders: dict[str, Path], family: str) -> None:
    assert family_of(found(folders[family])) is FAMILIES[family]


def test_other_published_forms_of_the_weights_are_read(folders: dict[str, Path], tmp_path: Path) -> None:
    """A trainer's checkpoint, with wq, wk and wv apart, and weights that this model has no use for."""
    folder = copied(folders["1.5"], tmp_path)
    weights = torch.load(folder / "model.pth", weights_only=True)
    whole = weights.pop("layers.0.attention.wqkv.weight")
    for part, rows in zip(("wq", "wk", "wv"), whole.split([32, 16, 16]), strict=True):
        weights[f"layers.0.attention.{part}.weight"] = rows
    weights["audio_projector.weight"] = torch.zeros(1)
    torch.save({"state_dict": {f"model.{name}": value for name, value in weights.items()}}, folder / "model.pth")
    assert torch.equal(load(found(folder), CPU).model.layers[0].attention.wqkv.weight, whole)


@pytest.mark.parametrize(
    "missing", ["config.json", "model.pth", "tokenizer.tiktoken", "special_tokens.json", CODECS["1.5"]]
)
def test_a_folder_without_one_of_the_files_is_refused(folders: dict[str, Path], tmp_path: Path, missing: str) -> None:
    """Without special_tokens.json, too: the package would then shift the semantic tokens silently."""
    folder = copied(folders["1.5"], tmp_path)
    (folder / missing).unlink()
    with pytest.raises(ModelUnavailable, match="AI_FISH_MODEL"):
        found(folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{"),
        ("config.json", '{"model_type": "naive"}'),
        ("config.json", '{"model_type": "dual_ar"}'),
        ("model.pth", "no weights"),
        ("model.pth", ""),
        ("tokenizer.tiktoken", "no ranks here"),
        ("special_tokens.json", "[]"),
        ("special_tokens.json", "{}"),
    ],
)
def test_damaged_files_are_refused(folders: dict[str, Path], tmp_path: Path, file: str, content: str) -> None:
    folder = copied(folders["1.5"], tmp_path)
    (folder / file).write_text(content)
    with pytest.raises(ModelUnavailable, match="AI_FISH_MODEL"):
        load(found(folder), CPU)


def test_weights_of_another_size_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = make_fish(tmp_path / "wider", "1.5", dim=64)
    shutil.copyfile(folders["1.5"] / "model.pth", folder / "model.pth")
    with pytest.raises(ModelUnavailable, match=r"config\.json"):
        load(found(folder), CPU)


def test_without_the_package_the_command_is_told(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fish_speech.tokenizer", None)  # what an import finds where there is none
    with pytest.raises(ModelUnavailable, match=INSTALL):
        load(found(folders["1.5"]), CPU)


def copied(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target / folder.name))
