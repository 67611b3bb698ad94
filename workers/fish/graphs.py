"""The frame step in few fixed shapes, captured as CUDA graphs or compiled.

Batches are filled up to a power of two with a spare row of the cache, and the cache is read up to a multiple of
LENGTH_STEP, so that a handful of shapes serves everything. Noise is drawn outside, since a graph repeats its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from workers.fish.frame import Frames, FrameStep

Acceleration = Literal["none", "graphs", "compile"]

LENGTH_STEP = 256

Advance = Callable[[Frames, int], Tensor]
"""`FrameStep.advance` of one shape."""


def accelerated(step: FrameStep, acceleration: Acceleration) -> Advance:
    """graphs: CUDA only. compile: by torch.compile, seconds to minutes for each shape when it is first met."""
    if acceleration == "graphs":
        return Graphs(step.advance)
    advance: Advance = torch.compile(step.advance, dynamic=False)
    return advance


class Shapes:
    """Brings what is asked into one of the shapes, and the answer back. spare: a row of the cache that nobody has."""

    def __init__(self, advance: Advance, spare: int, longest: int) -> None:
        self._advance, self._spare, self._longest = advance, spare, longest

    def advance(self, frames: Frames, length: int) -> Tensor:
        """As `FrameStep.advance`."""
        count = frames.rows.size(0)
        more = (1 << (count - 1).bit_length()) - count
        whole = min(-(-length // LENGTH_STEP) * LENGTH_STEP, self._longest)
        return self._advance(self._filled(frames, more), whole)[:count]

    def _filled(self, frames: Frames, more: int) -> Frames:
        """The spare rows stand at position 0; their noise and rules are ones, so that they compute finite nonsense."""
        if not more:
            return frames
        return Frames(
            tokens=functional.pad(frames.tokens, (0, 0, 0, more)),
            rows=functional.pad(frames.rows, (0, more), value=self._spare),
            positions=functional.pad(frames.positions, (0, more)),
            windows=functional.pad(frames.windows, (0, 0, 0, 0, 0, more)),
            rules=functional.pad(frames.rules, (0, 0, 0, more), value=1.0),
            noise=tuple(functional.pad(noise, (0, 0, 0, more), value=1.0) for noise in frames.noise),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    result: Tensor


class Graphs:
    """One CUDA graph for each shape, captured when it is first met; all share one memory pool."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._captured: dict[tuple[int, int], _Captured] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, frames: Frames, length: int) -> Tensor:
        key = (frames.rows.size(0), length)
        if key not in self._captured:
            self._captured[key] = self._capture(frames, length)
        captured = self._captured[key]
        for static, value in zip(captured.inputs, frames.tensors(), strict=True):
            static.copy_(value)
        captured.graph.replay()
        return captured.result.clone()

    def _capture(self, frames: Frames, length: int) -> _Captured:
        """Run twice beside the current stream first: libraries allocate their workspaces then, not in the graph."""
        inputs = tuple(tensor.clone() for tensor in frames.tensors())
        static = Frames.of(inputs)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._advance(static, length)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = self._advance(static, length)
        return _Captured(graph, inputs, result)
