"""The codec of fish-speech 1.5 in its published size, with random weights: real-time factors, and what streaming costs.

    .venv/bin/python -m bench.codec [--device cpu] [--threads 1] [--seconds 2] [--rounds 3]

A real-time factor is the time taken divided by the duration of the sound. Streams are decoded in pieces of a few frames
and side by side, and compared with the whole, in turns; a frame is 46 ms.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from tests.checkpoints_codec import fixture, make_firefly, noise
from workers.fish.codec import Codec
from workers.fish.codec_files import load_codec

PIECES = (1, 4, 12, 32)
BATCHES = (2, 4)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        codec = load_codec(make_firefly(Path(folder), fixture("firefly_layout.json")["shapes"], seed=4), args.device)
    print(f"{args.device}, {args.threads} threads, {args.seconds:g} s of sound, {args.rounds} rounds\n")
    print("| what | real-time factor (spread of rounds) |\n|---|---|")
    for name, times in measured(tasks(codec, args.seconds), args.rounds).items():
        low, middle, high = min(times), statistics.median(times), max(times)
        print(f"| {name} | {middle:.3f} ({low:.3f}-{high:.3f}) |")
    compare(codec, args.seconds)


def tasks(codec: Codec, seconds: float) -> dict[str, tuple[float, Callable[[], object]]]:
    """By name: how many seconds of sound it makes or hears, and how."""
    audio = noise(0, int(seconds * codec.sample_rate), codec.sample_rate)
    codes = random_codes(codec, seconds)
    length = codes.shape[1] / codec.frame_rate
    found: dict[str, tuple[float, Callable[[], object]]] = {
        "encode": (seconds, lambda: codec.encode(audio)),
        "decode, whole": (length, lambda: codec.decode(codes)),
    }
    for frames in PIECES:
        found[f"decode, stream of {frames} frames a piece"] = (length, partial(streamed, codec, codes, frames))
    for rows in BATCHES:
        found[f"decode, {rows} streams of 4 frames a piece"] = (rows * length, partial(together, codec, codes, rows, 4))
    return found


def measured(named: dict[str, tuple[float, Callable[[], object]]], rounds: int) -> dict[str, list[float]]:
    """Real-time factors of each round; the tasks take turns, and the first turn does not count."""
    factors: dict[str, list[float]] = {name: [] for name in named}
    for turn in range(rounds + 1):
        for name, (seconds, act) in named.items():
            start = time.perf_counter()
            act()
            if turn:
                factors[name].append((time.perf_counter() - start) / seconds)
    return factors


def compare(codec: Codec, seconds: float) -> None:
    codes = random_codes(codec, seconds)
    whole, frame = codec.decode(codes), streamed(codec, codes, 1)
    stream = codec.stream()
    stream.push(codes[:, :1])
    print(f"\nA stream of single frames differs from the whole by at most {np.abs(whole - frame).max():.1e}")
    print(f"What a stream remembers: {stream.memory.nbytes() / 1e6:.2f} MB")


def streamed(codec: Codec, codes: torch.Tensor, frames: int) -> np.ndarray:
    stream = codec.stream()
    return np.concatenate([*(stream.push(piece) for piece in codes.split(frames, dim=1)), stream.flush()])


def together(codec: Codec, codes: torch.Tensor, rows: int, frames: int) -> None:
    streams = [codec.stream() for _ in range(rows)]
    for piece in codes.split(frames, dim=1):
        codec.push_together(streams, [piece] * rows)


def random_codes(codec: Codec, seconds: float) -> torch.Tensor:
    frames = round(seconds * codec.frame_rate)
    return torch.from_numpy(np.random.RandomState(0).randint(0, 1000, (codec.codebooks, frames)))


if __name__ == "__main__":
    main()
