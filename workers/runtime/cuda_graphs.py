"""Functions of tensors that lie still, recorded as CUDA graphs: hundreds of kernels are started as one.

A function takes nothing and works in place on tensors that are always the same: it must not wait for the device, make
shapes of what it finds, nor keep what it allocates. All graphs share one memory pool, so one is replayed at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


class CudaGraphs:
    """Those of one model, with their stream and their memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):
            self._stream = torch.cuda.Stream()
            self._pool = torch.cuda.graph_pool_handle()

    def recorded(self, function: Callable[[], None]) -> Callable[[], None]:
        """The function as a graph, which is replayed on the current stream, without waiting.

        Calls the function three times; the last call changes nothing. The first two are on a stream of their own:
        libraries allocate their workspaces then, not in the graph. Raises: what it raises; RuntimeError.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(2):
                    function()
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                function()
            torch.cuda.current_stream().wait_stream(self._stream)
        replay: Callable[[], None] = graph.replay
        return replay


def sizes_up_to(most: int, least: int = 1) -> list[int]:
    """Powers of two times `least`, and `most` as the last: few shapes, and none much larger than what it is for."""
    sizes = [least << power for power in range(most.bit_length()) if least << power < most]
    return [*sizes, most]
