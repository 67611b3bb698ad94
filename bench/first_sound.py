"""Speech: how soon it is heard when frames become sound as they are made, against waiting for the whole sentence.

    .venv/bin/python -m bench.first_sound [--frames 32] [--rounds 3] [--threads 2]

Both models of fish-speech 1.5 in their published sizes with random weights, one sequence; the two ways take turns. The
stream decodes its first frame alone and then four at a time; the prompt's reading is counted.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from bench.fish import prompt, random_checkpoint
from tests.checkpoints_codec import fixture, make_firefly
from workers.fish.codec import Codec
from workers.fish.codec_files import load_codec
from workers.fish.generate import Loop, Utterance
from workers.fish.sampling import Sampling

PIECE = 4


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        codec = load_codec(make_firefly(Path(folder), fixture("firefly_layout.json")["shapes"], seed=4), device)
    checkpoint = random_checkpoint("1.5", 512)
    checkpoint.model.merge()
    loop = Loop(checkpoint, rows=1)
    asked = Utterance(prompt(checkpoint), Sampling(seed=0), args.frames)
    found: dict[str, list[tuple[float, float]]] = {"stream": [], "whole sentence": []}
    for turn in range(args.rounds + 1):
        for name, way in (("stream", streamed), ("whole sentence", whole)):
            figures = way(loop, asked, codec)
            if turn:
                found[name].append(figures)
    print("| way | first sound s (spread) | all of it s (spread) |\n|---|---|---|")
    for name, rounds in found.items():
        columns = (list(column) for column in zip(*rounds, strict=True))
        shown = [f"{statistics.median(column):.2f} ({min(column):.2f}-{max(column):.2f})" for column in columns]
        print(f"| {name} | {' | '.join(shown)} |")


def streamed(loop: Loop, asked: Utterance, codec: Codec) -> tuple[float, float]:
    """(seconds to the first sound, seconds to the last)."""
    began, first = time.perf_counter(), 0.0
    stream = codec.stream()
    held: list[torch.Tensor] = []
    for codes in frames(loop, asked):
        held.append(codes)
        if not first or len(held) == PIECE:
            stream.push(torch.cat(held, dim=1))
            held.clear()
            first = first or time.perf_counter() - began
    if held:
        stream.push(torch.cat(held, dim=1))
    return first, time.perf_counter() - began


def whole(loop: Loop, asked: Utterance, codec: Codec) -> tuple[float, float]:
    began = time.perf_counter()
    codec.decode(torch.cat(list(frames(loop, asked)), dim=1))
    took = time.perf_counter() - began
    return took, took


def frames(loop: Loop, asked: Utterance) -> Iterator[torch.Tensor]:
    """The codes of one utterance, each of shape (codebooks, 1)."""
    handle = loop.open(asked)
    stop = None
    while stop is None:
        [frame] = loop.step([handle])
        stop = frame.stop
        if frame.codes is not None:
            yield torch.as_tensor(frame.codes).reshape(-1, 1)
    loop.close(handle)


if __name__ == "__main__":
    main()
