"""Speech: frames a second of our loop against the package's own `generate`, and the memory that many requests leave.

    .venv/bin/python -m bench.fish [--sizes tiny 1.5] [--batches 1 2 4 8] [--frames 4] [--rounds 3] [--requests 200]

Weights are random, of the sizes in tests/fixtures/fish_sizes.json (`1.5`, `s1`) or small (`tiny`): the arithmetic is
that of trained ones. Both sides compute with the same numbers and take turns. The prompt's reading is not counted. The
package serves one sequence at a time, so its figure is the floor of every batch. Where there is a CUDA device it is
used, in bfloat16, and our loop is measured with graphs and without.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from workers.fish.checkpoint import Checkpoint
from workers.fish.dual_ar import DualAR, DualARConfig
from workers.fish.family import FISH_SPEECH_15, OPENAUDIO_S1
from workers.fish.generate import Loop, Utterance
from workers.fish.graphs import Acceleration
from workers.fish.sampling import Sampling

SIZES = json.loads((Path(__file__).parent.parent / "tests" / "fixtures" / "fish_sizes.json").read_text())
TINY = {
    "vocab_size": 2048,
    "n_layer": 2,
    "n_fast_layer": 2,
    "dim": 64,
    "n_head": 4,
    "head_dim": 16,
    "intermediate_size": 128,
}
PROMPT = 48
"""Tokens: a short sentence."""

Turn = Callable[[], tuple[float, float]]
"""Measures once. Returns (frames a second, CPU seconds a frame)."""


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What both models ask a tokenizer for. The semantic tokens come last, for random weights may say anything, and the
    package cannot go on from a token beyond them."""

    size: int
    codes: int

    @property
    def semantic_begin_id(self) -> int:
        return self.size - self.codes

    @property
    def semantic_end_id(self) -> int:
        return self.size - 1

    @property
    def semantic_id_to_token_id(self) -> dict[int, int]:
        return {code: self.semantic_begin_id + code for code in range(self.codes)}

    def get_token_id(self, token: str) -> int:
        """Only the end is asked for. It is never said, so that every measurement has its frames."""
        return -1

    def encode(self, s: str, allowed_special: bool | set[str] = True) -> list[int]:
        raise NotImplementedError


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="+", default=["tiny", "1.5"], choices=["tiny", "1.5", "s1"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--frames", type=int, default=4, help="in each measurement, for each sequence")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--length", type=int, default=2048, help="positions of both caches; the package reads all of its"
    )
    parser.add_argument("--requests", type=int, default=200, help="of the memory's measurement; 0: none")
    args = parser.parse_args()
    print("| size | who | batch | frames/s (spread of rounds) | of the package's | CPU s a frame |")
    print("|---|---|---|---|---|---|")
    for size in args.sizes:
        checkpoint = random_checkpoint(size, args.length)
        compare(size, checkpoint, args.batches, args.frames * (10 if size == "tiny" else 1), args.rounds)
    if args.requests:
        print(memory(args.requests))


def compare(size: str, checkpoint: Checkpoint, batches: list[int], frames: int, rounds: int) -> None:
    turns = dict(contestants(checkpoint, batches, frames))
    for turn in turns.values():
        turn()
    found: dict[tuple[str, int], list[tuple[float, float]]] = {who: [] for who in turns}
    for _ in range(rounds):
        for who, turn in turns.items():
            found[who].append(turn())
    floor = statistics.median(rate for rate, _ in found["package", 1])
    for (name, batch), figures in found.items():
        rates, cpu = [rate for rate, _ in figures], statistics.median(cpu for _, cpu in figures)
        print(
            f"| {size} | {name} | {batch} | {statistics.median(rates):.2f} ({min(rates):.2f}-{max(rates):.2f}) "
            f"| {statistics.median(rates) / floor:.2f} | {cpu:.3f} |",
            flush=True,
        )


def contestants(checkpoint: Checkpoint, batches: list[int], frames: int) -> Iterator[tuple[tuple[str, int], Turn]]:
    model = package(checkpoint)
    checkpoint.model.merge()
    yield ("package", 1), lambda: of_package(model, prompt(checkpoint), frames)
    ways: tuple[Acceleration, ...] = ("none", "graphs") if torch.cuda.is_available() else ("none",)
    for way in ways:
        loop = Loop(checkpoint, rows=max(batches), acceleration=way)
        for batch in batches:
            name = "ours" if way == "none" else f"ours, {way}"
            yield (name, batch), lambda loop=loop, batch=batch: of_loop(loop, checkpoint, batch, frames)  # type: ignore[misc]


def random_checkpoint(size: str, length: int) -> Checkpoint:
    family = OPENAUDIO_S1 if size == "s1" else FISH_SPEECH_15
    published = {**SIZES["1.5"]["config"], **TINY} if size == "tiny" else SIZES[size]["config"]
    config = DualARConfig.of({**published, "max_seq_len": length})
    words = Vocabulary(config.vocab_size, config.codebook_size)
    torch.manual_seed(0)
    model = DualAR(config, (words.semantic_begin_id, words.semantic_end_id))
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    model = model.to(device=device, dtype=torch.bfloat16 if gpu else torch.float32).requires_grad_(False)
    model.make_tables(device)
    choices = torch.arange(words.semantic_begin_id, words.semantic_end_id + 1)
    return Checkpoint(model, words, family, words.get_token_id(""), choices, model.head[choices])


def package(checkpoint: Checkpoint) -> Any:
    """The package's model over the same tensors."""
    from fish_speech.models.text2semantic import inference, llama

    inference.tqdm = lambda steps: steps  # its progress bar, on every generation
    weight = checkpoint.model.embeddings.weight
    arguments = llama.DualARModelArgs(**dataclasses.asdict(checkpoint.model.config))
    with torch.device("meta"):
        shell = llama.DualARTransformer(arguments, checkpoint.tokenizer)
    shell.load_state_dict(checkpoint.model.state_dict(), assign=True)
    shell.freqs_cis = torch.view_as_real(checkpoint.model.turns).to(weight.dtype)
    shell.fast_freqs_cis = torch.view_as_real(checkpoint.model.fast_turns).to(weight.dtype)
    shell.causal_mask = torch.ones(arguments.max_seq_len, arguments.max_seq_len, dtype=torch.bool).tril()
    with torch.device(weight.device):
        shell.setup_caches(1, arguments.max_seq_len, dtype=weight.dtype)
    return shell.to(weight.device).eval()


def prompt(checkpoint: Checkpoint) -> torch.Tensor:
    grid = torch.zeros(checkpoint.model.config.num_codebooks + 1, PROMPT, dtype=torch.int64)
    grid[0] = torch.arange(PROMPT)
    return grid


def of_package(model: Any, asked: torch.Tensor, frames: int) -> tuple[float, float]:
    """`generate` takes the function that makes a frame, so the frames alone are timed."""
    from fish_speech.models.text2semantic import inference

    began: list[tuple[float, float]] = []

    def timed(**options: Any) -> torch.Tensor:
        began.append(clocks())
        return inference.decode_one_token_ar(**options)

    device = model.embeddings.weight.device
    rules = {"temperature": 0.7, "top_p": 0.7, "repetition_penalty": 1.2}
    inference.generate(
        model=model,
        prompt=asked.int().to(device),
        max_new_tokens=frames + 1,
        audio_masks=None,
        audio_parts=None,
        decode_one_token=timed,
        **rules,
    )
    return rates(began[0], frames)


def of_loop(loop: Loop, checkpoint: Checkpoint, batch: int, frames: int) -> tuple[float, float]:
    rules = Sampling(0.7, 0.7, 1.2, seed=1)
    handles = [loop.open(Utterance(prompt(checkpoint), rules, frames + 1)) for _ in range(batch)]
    loop.step(handles)
    began = clocks()
    for _ in range(frames):
        loop.step(handles)
    found = rates(began, frames * batch)
    for handle in handles:
        loop.close(handle)
    return found


def clocks() -> tuple[float, float]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def rates(began: tuple[float, float], frames: int) -> tuple[float, float]:
    wall, cpu = clocks()
    return frames / (wall - began[0]), (cpu - began[1]) / frames


def memory(requests: int) -> str:
    """Requests of the tiny model, four at once, every third closed halfway."""
    checkpoint = random_checkpoint("tiny", 256)
    loop = Loop(checkpoint, rows=4)
    sizes = {}
    for number in range(0, requests, 4):
        rules = Sampling(seed=number)
        handles = [loop.open(Utterance(prompt(checkpoint), rules, 16)) for _ in range(4)]
        for _ in range(8):
            loop.step(handles)
        staying = [handle for index, handle in enumerate(handles, number) if index % 3]
        for _ in range(8):
            loop.step(staying)
        for handle in handles:
            loop.close(handle)
        sizes[number + 4] = resident()
    early, late = sizes[20], sizes[max(sizes)]
    return f"{max(sizes)} requests, a third cancelled: {late:.1f} MiB, {late / early - 1:+.1%} of that after 20."


def resident() -> float:
    """MiB of this process, from /proc; elsewhere 0."""
    if not sys.platform.startswith("linux"):
        return 0.0
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


if __name__ == "__main__":
    main()
