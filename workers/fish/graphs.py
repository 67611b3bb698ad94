"""Steps on tensors that stay where they are, captured as CUDA graphs or compiled, one for each shape.

A step takes nothing and gives a tensor: what it reads and writes lies in tensors that its maker holds, and the caller
writes its inputs there before it is done again. A graph repeats exactly what was captured, so a step never asks the
device for a number, draws no random ones and sends none from the host. What it gives is read before another step of the
same `Capture` is done, for they share their memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, Literal, TypeVar

import structlog
import torch
from torch import Tensor

from workers.runtime.cuda_graphs import CudaGraphs

log = structlog.get_logger()

Acceleration = Literal["none", "graphs", "compile"]

Step = Callable[[], Tensor]
Capture = Callable[[Step], Step]

K = TypeVar("K", bound=Hashable)


def capture_for(acceleration: Acceleration, device: torch.device) -> Capture | None:
    """How steps are prepared; None where there are none.

    graphs: captured on CUDA, elsewhere done as they are. compile: by torch.compile, seconds to minutes for each shape
    when it is first met, and captured then, too.
    """
    if acceleration == "none":
        return None
    captured = or_as_it_is(captured_by(CudaGraphs(device))) if device.type == "cuda" else lambda step: step
    return captured if acceleration == "graphs" else lambda step: captured(torch.compile(step, dynamic=False))


def or_as_it_is(capture: Capture) -> Capture:
    """A step that cannot be captured is done without, and the log says so."""

    def tried(step: Step) -> Step:
        try:
            return capture(step)
        except RuntimeError as exc:
            log.warning("speech_not_captured", error=str(exc), effect="speech of this shape is slower")
            return step

    return tried


def captured_by(graphs: CudaGraphs) -> Capture:
    """Steps as graphs. Raises: RuntimeError, when one is captured."""

    def captured(step: Step) -> Step:
        given: list[Tensor] = []

        def keeping() -> None:
            given[:] = [step()]

        replay = graphs.recorded(keeping)

        def replayed() -> Tensor:
            replay()
            return given[0]

        return replayed

    return captured


class Shapes(Generic[K]):
    """One step for each shape, made when it is first met. make: writes inputs with which the step changes nothing that
    counts, since capturing does it, and returns the step."""

    def __init__(self, make: Callable[[K], Step], capture: Capture) -> None:
        self._make, self._capture = make, capture
        self._steps: dict[K, Step] = {}

    def __len__(self) -> int:
        return len(self._steps)

    def of(self, shape: K) -> Step:
        """Ask before writing the inputs."""
        if shape not in self._steps:
            self._steps[shape] = self._capture(self._make(shape))
        return self._steps[shape]

    def prepare(self, what: str, shapes: Iterable[K]) -> None:
        """Make the steps of all these shapes, so that no request waits for one."""
        began = time.monotonic()
        for shape in shapes:
            self.of(shape)
        log.info("speech_shapes_ready", of=what, count=len(self), seconds=round(time.monotonic() - began, 1))
