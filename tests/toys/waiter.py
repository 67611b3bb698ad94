"""A worker that waits: each task for a file to appear in its folder, as a download waits for its source."""

from __future__ import annotations

from typing import Any

from workers.base import AsyncWorker, Context, Params
from workers.runtime.async_engine import in_thread


class WaiterParams(Params):
    fifo: str


class Waiter(AsyncWorker):
    name = "waiter"
    message_type = "waiter"
    answer = {"waiter": "$waiter"}
    Params = WaiterParams
    example = {"fifo": "/dev/null"}
    concurrency = 2

    async def run_async(self, params: WaiterParams, ctx: Context) -> Any:
        """Reads a pipe in a thread; cancelled, it writes to the pipe itself, so that the thread ends."""
        ctx.progress(0.5)

        def read() -> str:
            with open(params.fifo) as pipe:
                return pipe.read()

        def stop() -> None:
            with open(params.fifo, "w") as pipe:
                pipe.write("stopped")

        text = await in_thread(read, stop)
        ctx.partial(0, text)
        return {"text": text}
