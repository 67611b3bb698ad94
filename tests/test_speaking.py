"""The speech worker in this process: batches that texts share, one voice for a text, attempts, memory that runs out."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
import wave
from base64 import b64decode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from contract.errors import ModelUnavailable, OutOfMemory
from contract.folders import Folders
from contract.messages import Event, Task
from media.encode import as_int16
from storage.voices import Voices
from tests import drive
from tests.checkpoints_codec import noise
from tests.checkpoints_fish import make_speaker
from tests.inline import over_the_pipe
from workers.base import Answer
from workers.fish.generate import Frame, Handle, Loop
from workers.fish.params import FishSettings, FishTask
from workers.fish.prompt import Spoken
from workers.fish.published import INSTALL
from workers.fish.sampling import Sampling
from workers.fish.speaking import Voice
from workers.fish.synthesis import Advance, Saying
from workers.fish.worker import Fish
from workers.runtime.engine import Engine
from workers.runtime.warm_up import _Unheard

pytest.importorskip("fish_speech.tokenizer", reason="fish-speech is not installed (requirements-fish.txt)")

TEXT = "One, two. " * 12
SPEAK: dict[str, Any] = {"text": TEXT, "chunk_length": 40, "max_new_tokens": 9, "seed": 1, "stream": True}
"""Three pieces."""


class CountingFish(Fish):
    """A Fish that keeps how many go on in each batch, and what it says. Its name is its parent's, so none finds it."""

    sizes: list[int]
    said: dict[Saying, None]

    def forward(self, units: list[Any]) -> list[Any]:
        assert len(set(units)) == len(units)
        self.sizes += filter(None, [sum(not (isinstance(unit, Saying) and unit.stop) for unit in units)])
        self.said |= {unit: None for unit in units if isinstance(unit, Saying)}
        return super().forward(units)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return drive.folders(tmp_path_factory.mktemp("speaking"))


@pytest.fixture(scope="module")
def loaded(folders: Folders, fish_model: Path) -> CountingFish:
    return fish(fish_model, folders)


@pytest.fixture
def worker(loaded: CountingFish) -> CountingFish:
    loaded.sizes, loaded.said = [], {}
    return loaded


def fish(model: Path, folders: Folders, **settings: Any) -> CountingFish:
    made = CountingFish(FishSettings(model=str(model), threads=1, **settings), folders)
    made.sizes, made.said = [], {}
    made.load()
    return made


def task(job: str, **params: Any) -> Task:
    return Task(job, "fish", (), "fish", {**SPEAK, **params}, "client")


def run(worker: Fish, *tasks: Task, steps: int | None = None) -> list[Event]:
    """What the tasks say, as the server hears it; all of it, or what they say in so many steps."""
    events: list[Event] = []
    engine = Engine(worker, lambda event: events.append(over_the_pipe(event)))
    for each in tasks:
        engine.add(each)
    while engine.busy and (steps is None or steps > 0):
        engine.step()
        steps = None if steps is None else steps - 1
    if engine.busy:
        for each in tasks:
            engine.cancel(each.job)
    return events


def of(events: list[Event], job: str, kind: str) -> list[Any]:
    return [event.data for event in events if (event.job, event.kind) == (job, kind)]


def sound(events: list[Event], job: str) -> bytes:
    return b"".join(b64decode(data["audio"]) for data in of(events, job, "audio"))


def file_of(events: list[Event], job: str) -> bytes:
    [done] = of(events, job, "done")
    with wave.open(str(done["fish"])) as file:
        return bytes(file.readframes(file.getnframes()))


def test_texts_at_once_share_batches_and_sound_as_they_do_alone(worker: CountingFish) -> None:
    alone = [file_of(run(worker, task(name, seed=seed)), name) for name, seed in (("a", 1), ("b", 2))]
    worker.sizes.clear()
    together = run(worker, task("a", seed=1), task("b", seed=2))
    assert set(worker.sizes) == {2}
    for name, expected in zip(("a", "b"), alone, strict=True):
        assert file_of(together, name) == expected


def test_with_graphs_the_same_is_said_and_all_shapes_are_there_from_the_start(
    worker: CountingFish, fish_model: Path, folders: Folders
) -> None:
    """On a CPU they are not captured, but made and used all the same."""
    small = fish(fish_model, folders, batch=2, length=512, acceleration="graphs")
    shapes = small._synthesis._loop.shapes
    assert shapes is not None
    assert set(shapes._steps) == {(rows, length) for rows in (1, 2) for length in (256, 512)}
    assert file_of(run(small, task("a")), "a") == file_of(run(worker, task("a")), "a")
    assert len(shapes) == 4


def test_markup_is_not_heard_unless_it_is_asked_for(worker: CountingFish) -> None:
    texts = {"plain": "Now say this.", "marked": "**Now** say <i>this</i>. \U0001f389"}
    said = run(worker, *(task(name, text=text) for name, text in texts.items()))
    assert file_of(said, "marked") == file_of(said, "plain")
    as_it_stands = run(worker, task("marked", text=texts["marked"], markup="none"))
    assert file_of(as_it_stands, "marked") != file_of(said, "plain")


def test_as_many_texts_are_open_as_the_loop_has_rows(fish_model: Path, folders: Folders) -> None:
    assert Fish.places(FishSettings(batch=7)) == 7
    small = fish(fish_model, folders, batch=1)
    [failed] = of(run(small, task("a"), task("b")), "b", "failed")
    assert failed["error_code"] == "QUEUE_FULL"


def test_the_next_frame_is_asked_for_while_one_is_told(worker: CountingFish) -> None:
    """Two at a time of the same saying, which a batch takes one by one; behind the last one nothing is made."""
    ctx = Asking(worker.folders)
    running = worker.run(FishTask(text="Hi.", max_new_tokens=5, seed=1, audio_format="none"), ctx)
    answer = next(running)
    with contextlib.suppress(StopIteration):
        while True:
            [first, second] = [answer for answer in ctx.asked if not answer.done]
            assert answer is first
            assert first.unit is second.unit
            assert not worker.fits([first.unit], second.unit)
            [first.result] = worker.forward([first.unit])
            first.done = True
            answer = running.send(first.result)
    [behind] = [answer for answer in ctx.asked if not answer.done]
    assert worker.forward([behind.unit]) == [Advance(None, "length")]
    assert len(behind.unit.codes) == 4


class Asking(_Unheard):
    """A context that keeps what was asked for."""

    def __init__(self, folders: Folders) -> None:
        folders.work.mkdir(parents=True, exist_ok=True)
        super().__init__(folders.work, folders)
        self.asked: list[Answer] = []

    def ask(self, unit: Any) -> Answer:
        self.asked.append(Answer(unit))
        return self.asked[-1]


def test_blocks_grow_as_far_as_a_listener_is_behind(worker: CountingFish, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: whether a frame takes 5 ms or as long as it sounds; the same sound whatever the blocks."""
    synthesis, now = worker._synthesis, [0.0]
    monkeypatch.setattr(synthesis, "_clock", lambda: now[0])

    def said(seconds: float) -> tuple[list[int], npt.NDArray[np.float32]]:
        saying, sounds = synthesis.say(synthesis.prompt("Hello.", []), Sampling(seed=1), 46, again=False), []
        while saying.stop is None:
            [advance] = synthesis.advance([saying])
            assert isinstance(advance, Advance)
            sounds += [] if advance.sound is None else [advance.sound]
            now[0] += seconds
        synthesis.close(saying)
        return [len(sound) // 2048 for sound in sounds], np.concatenate(sounds)

    _, expected = said(0.0)
    monkeypatch.setattr(synthesis, "_together", True)
    for seconds, blocks in ((0.005, [1, 1, 2, 4, 8]), (1 / 21.5, [1])):
        sizes, sound = said(seconds)
        assert [*dict.fromkeys(sizes[:-1])] == [*dict.fromkeys(blocks)]
        assert sum(sizes) == 45
        assert np.abs(sound - expected).max() < 1e-4


@pytest.mark.parametrize("threads", [0, 3])
def test_texts_are_told_beside_the_model_as_they_would_be_after_it(worker: CountingFish, threads: int) -> None:
    expected = [file_of(run(worker, task(name, seed=seed)), name) for name, seed in (("a", 1), ("b", 2))]
    events: list[Event] = []
    there = threading.Event()
    engine = Engine(worker, lambda event: events.append(over_the_pipe(event)), threads, there.set)
    engine._lane._mean = 1.0  # as after slices that took long
    for name, seed in (("a", 1), ("b", 2)):
        engine.add(task(name, seed=seed))
    while sum(event.kind == "done" for event in list(events)) < 2:
        there.wait(0.01)
        there.clear()
        engine.step()
    for name, whole in zip(("a", "b"), expected, strict=True):
        assert file_of(events, name) == whole == sound(events, name)


@pytest.mark.parametrize("steps", [1, 5, 13, 24])
def test_a_later_attempt_tells_what_was_not_told(worker: CountingFish, steps: int) -> None:
    """However far the first one came: the pieces joined are the file, which is the same as without a death."""
    whole = file_of(run(worker, task("a")), "a")
    first = run(worker, task("a"), steps=steps)
    told = tuple({"start": data["start"], "end": data["end"]} for data in of(first, "a", "audio"))
    second = run(worker, dataclasses.replace(task("a"), attempt=2, finished=told))
    indices = [event.index for event in (*first, *second) if event.kind == "audio"]
    assert indices == list(range(len(indices)))
    assert sound(first, "a") + sound(second, "a") == whole == file_of(second, "a")


def test_a_cancelled_text_leaves_nothing(worker: CountingFish, folders: Folders) -> None:
    before = set(folders.speech.iterdir())
    events = run(worker, task("gone"), steps=20)
    assert of(events, "gone", "lost")
    assert not of(events, "gone", "made")
    assert set(folders.speech.iterdir()) == before
    assert not list(folders.work.iterdir())
    run(worker, *(task(name) for name in "abcd"))  # every row is free again


def test_a_file_moves_to_another_disk_whole(
    worker: CountingFish, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == folders.data.stat().st_dev:
        pytest.skip("this machine has one disk")
    speech = other / f"optivus-{tmp_path.name}-{id(worker)}"
    monkeypatch.setattr(worker, "folders", dataclasses.replace(folders, speech=speech))
    try:
        events = run(worker, task("a"))
        assert file_of(events, "a") == sound(events, "a")
        assert [path.suffix for path in speech.iterdir()] == [".wav"]
    finally:
        for path in speech.iterdir():
            path.unlink()
        speech.rmdir()


def test_each_piece_is_said_in_the_voice_of_those_before(worker: CountingFish) -> None:
    run(worker, task("a"))
    prompts = [saying.handle.utterance.prompt for saying in worker.said]
    frames = [int((prompt[1:].sum(dim=0) > 0).sum()) for prompt in prompts]
    assert frames == [0, 8, 16]  # of nine that were made of each, the first is not kept


def test_what_was_said_is_the_reference_of_what_follows_up_to_a_length() -> None:
    frames = [torch.full((8, 1), number) for number in range(6)]
    voice = Voice([], longest=10)
    voice.heard("a", frames)
    voice.heard("b", frames)  # does not fit any more
    voice.heard("c", frames[:4])
    assert [(spoken.text, spoken.codes.shape[1]) for spoken in voice.spoken] == [("a", 6), ("c", 4)]
    long = Voice([], longest=4)
    long.heard("a", frames)
    assert long.spoken[0].codes[0].tolist() == [0, 1, 2, 3]


def test_a_voice_that_was_given_stays_as_it_is() -> None:
    given = Spoken("a", torch.zeros(8, 3, dtype=torch.int64))
    voice = Voice([given], longest=100)
    voice.heard("b", [torch.zeros(8, 1)])
    assert voice.spoken == [given]


def test_references_that_leave_no_room_are_refused_before_anything_is_heard(
    worker: CountingFish, folders: Folders
) -> None:
    """The first piece would still fit."""
    voice = Voices(folders.voices).save("local", as_int16(noise(1, 60 * 44100)), 44100, "A" * 2000)
    text = "Hi.\n" + "word " * 80
    events = run(worker, task("a", text=text, chunk_length=400, max_new_tokens=600, reference_id=voice.reference_id))
    [failed] = of(events, "a", "failed")
    assert failed["error_code"] == "TEXT_TOO_LONG"
    assert not of(events, "a", "audio")


def test_a_text_whose_pieces_fit_one_by_one_is_spoken(fish_model: Path, folders: Folders) -> None:
    """What was said before is not repeated to the model where there is no room for it."""
    small = fish(fish_model, folders, length=256)
    events = run(small, task("a", text="word " * 60, chunk_length=100, max_new_tokens=90))
    assert of(events, "a", "failed") == []
    assert len(file_of(events, "a")) > 0


def test_voices_are_preloaded_by_setting(fish_model: Path, folders: Folders) -> None:
    voice = Voices(folders.voices).save("ann", as_int16(noise(2, 2 * 44100)), 44100, "Hello.")
    listed = f" {voice.reference_id}, voice_{'0' * 24},"
    assert fish(fish_model, folders, voices_preload=listed).info()["voices"]["kept"] == 1
    again = fish(fish_model, folders, voices_preload=voice.reference_id).info()["voices"]
    assert (again["disk_hits"], again["misses"]) == (1, 0)


def test_memory_for_encoded_voices_is_bounded(fish_model: Path, folders: Folders) -> None:
    voices = Voices(folders.voices)
    ids = [voices.save("local", as_int16(noise(seed, 44100)), 44100, "Hello.").reference_id for seed in (3, 4, 5)]
    small = fish(fish_model, folders, voices_cache_mb=0.003)  # two of them
    for reference_id in ids:
        run(small, task("a", text="Hi.", reference_id=reference_id))
    assert small.info()["voices"]["kept"] == 2
    assert small.info()["voices"]["kept_bytes"] <= 3000


def test_openaudio_s1_speaks_in_saved_voices_too(tmp_path: Path, folders: Folders) -> None:
    speaker = fish(make_speaker(tmp_path / "s1", "s1"), folders)
    voice = Voices(folders.voices).save("local", as_int16(noise(6, 44100)), 44100, "Hello.")
    events = run(speaker, task("a"), task("b", text="Hi.", reference_id=voice.reference_id))
    for name in "ab":
        assert sound(events, name) == file_of(events, name) != b""
    assert speaker.info()["voices"]["misses"] == 1


class NarrowLoop(Loop):
    """A loop on a device whose memory holds one sequence, or none."""

    holds = 1

    def step(self, handles: Sequence[Handle]) -> list[Frame]:
        if len(handles) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().step(handles)


def test_memory_that_runs_out_halves_the_batch_and_costs_no_frame(
    fish_model: Path, folders: Folders, worker: CountingFish, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = file_of(run(worker, task("a")), "a")
    monkeypatch.setattr("workers.fish.generate.Loop", NarrowLoop)
    narrow = fish(fish_model, folders)
    events = run(narrow, task("a"), task("b"))
    assert file_of(events, "a") == file_of(events, "b") == expected
    assert narrow.batch == 1
    monkeypatch.setattr(NarrowLoop, "holds", 0)
    [failed] = of(run(narrow, task("a")), "a", "failed")
    assert failed["error_code"] == OutOfMemory.code
    assert "FISH_BATCH" in failed["message"]


def test_without_the_package_the_command_is_told_before_anything_is_fetched(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fish_speech.tokenizer", None)
    nowhere = Path("/nonexistent/model")
    with pytest.raises(ModelUnavailable, match=INSTALL):
        fish(nowhere, folders)
    with pytest.raises(ModelUnavailable, match=INSTALL):
        Fish.pull(FishSettings(model=str(nowhere)), folders, print)
