"""Functions of tensors that lie still, recorded as CUDA graphs: hundreds of kernels are started as one.

A function takes nothing and works in place on tensors that are always the same: it must not wait for the device, make
shapes of what it finds, nor keep what it allocates. All graphs share one memory pool, so one is replayed at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch


class CudaGraphs:
    """One graph for each key."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._recorded: dict[Hashable, torch.cuda.CUDAGraph] = {}
        with torch.cuda.device(device):
            self._stream = torch.cuda.Stream()
            self._pool = torch.cuda.graph_pool_handle()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._recorded

    def record(self, key: Hashable, function: Callable[[], None]) -> None:
        """Calls the function three times; the last call changes nothing. Raises: what it raises; RuntimeError.

        The first two are on a stream of their own: libraries allocate their workspaces then, not in the graph.
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
        self._recorded[key] = graph

    def replay(self, key: Hashable) -> None:
        """On the current stream, without waiting."""
        self._recorded[key].replay()
