"""What a worker is: one model in one process, serving many tasks a step at a time.

A worker is one file in this folder. It says what a task may ask (`Params`), what its operator may set (`Settings`), and
implements three methods; the host (`workers.runtime.host`) does the rest:

    load()            once in the process, before the first task; heavy imports belong here; then `example` is done once
    run(params, ctx)  a generator for each task: yields units of work, is sent each unit's result, returns the task's;
                      `yield [unit, …]` asks for several at once and is sent the list of their results
    forward(units)    one batch on the model: units of any open tasks that `key` says go together; results in order

What `run` does between two yields is preparation: reading, decoding, resizing, writing down. It runs in threads beside
`forward`, which has a thread of its own, so a model need not wait for it. What both use has to allow that. A task stays
ahead of the model by asking without waiting: `answer = ctx.ask(unit)`, and later `yield answer`. One that prepares for
long yields `TURN` now and then, so that others have theirs.

A task that follows its client's recording while that is still being sent yields `MORE` where there is no more of it
yet, and is resumed when there is, or when the recording has ended (`Context.ended`).

A worker that waits more than it computes, as downloads do, is an `AsyncWorker`: `run_async` instead of the last two.

The host takes units round-robin between the open tasks, so a short file is not stuck behind a long one and tasks of
different clients share batches. Between two yields a task may emit partials and checkpoints; when its process dies, a
new attempt finds the last checkpoint and the finished partials in `ctx` and goes on from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from contract.declaration import Declaration, ModelSettings, WorkerSettings
from contract.folders import Folders
from contract.messages import BlobRef, FileRef
from contract.params import Params

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "MORE",
    "TURN",
    "Answer",
    "AsyncWorker",
    "BlobRef",
    "Confinement",
    "Context",
    "FileRef",
    "ModelSettings",
    "Params",
    "Run",
    "Worker",
    "WorkerSettings",
]
"""What a worker's file needs."""

Run = Generator[Any, Any, Any]
"""Yields units, answers or lists of them, is sent results, returns the task's: JSON, whose own fields may be bytes."""


MORE: Final = object()
"""What a task yields to wait until its recording has grown or ended."""
TURN: Final = object()
"""What a task yields to let others have a turn."""


class Answer:
    """What the model will have said of a unit. `yield` it to wait for the result, which is then sent."""

    __slots__ = ("done", "result", "unit")

    def __init__(self, unit: Any) -> None:
        self.unit = unit
        self.result: Any = None
        self.done = False
        """Whether waiting for it would be over at once."""

    def get(self) -> Any:
        """The result, once it is done. Raises: the result, where that is an exception."""
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


class Context:
    """A running task's line to the server. `partial` and `checkpoint` are durable, `progress` is a hint."""

    checkpoint_data: Any
    """The last checkpoint of an earlier attempt, or None."""
    finished: Sequence[Any]
    """By index, the data of the partials that earlier attempts emitted; of audio ``{"start", "end"}``, in samples."""
    cancelled: bool = False
    ended: bool = False
    """Whether the recording that the task follows is whole. Ask before you read: what follows then is the end."""

    owner: str
    """Whose the voices are that the task may use, and what it makes."""

    @property
    def key(self) -> str:
        """The task's own name, the same in every attempt: what it makes may be called after it."""
        raise NotImplementedError

    def local(self, ref: FileRef) -> Path:
        """A path to read, any number of times while the task runs: it names the file that lay there when it was asked
        for first, and nothing that is put into its place.

        What the file is called is `ref.name`; the path's own name and suffix say nothing. A program that the worker
        starts needs the descriptor, which is the path's name (`pass_fds`). Raises: FileNotFound, FileForbidden,
        InvalidInput.
        """
        raise NotImplementedError

    def open(self, ref: BlobRef) -> Any:
        """The value of a parameter that may be large: JSON, or bytes; read anew each time. Raises: Internal."""
        raise NotImplementedError

    def ask(self, unit: Any) -> Answer:
        """Have a unit computed while the task goes on. A task bounds how many it has asked for: they take memory."""
        raise NotImplementedError

    @property
    def workdir(self) -> Path:
        """A folder for this attempt's temporary files, removed when it ends."""
        raise NotImplementedError

    def progress(self, fraction: float | None, eta: float | None = None, **details: Any) -> None:
        """fraction: 0 to 1, None while unknown; eta: seconds until done. Coalesced, so call it as often as you like."""
        raise NotImplementedError

    def partial(self, index: int, data: Any) -> None:
        """A finished piece of the result, JSON of at most 64 KiB; the same index again replaces the earlier one."""
        raise NotImplementedError

    def audio(self, index: int, start: int, samples: npt.NDArray[np.int16], sample_rate: int) -> None:
        """The next piece of sound, to be heard at once: int16, (n_samples,), mono, at most half a second.

        start: how many samples came before it. The pieces in order of their index are the whole.
        """
        raise NotImplementedError

    def made(self, path: Path, name: str) -> None:
        """A file that the worker put into one of the server's own folders, whole, belongs to the job's owner now.

        It is deleted when the retention is over. name: what to call it when it is downloaded.
        """
        raise NotImplementedError

    def checkpoint(self, data: Any) -> None:
        """From here a later attempt goes on: JSON of at most 64 KiB, given back as `checkpoint_data`."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, slots=True)
class Confinement:
    """What a confined process may touch beside what it needs to run, to load its model and to read what clients send.

    reads, writes: files and folders, with all beneath them. network: whether it may reach the internet.
    """

    reads: tuple[Path, ...] = ()
    writes: tuple[Path, ...] = ()
    network: bool = False


class Worker(Declaration):
    """One model. Subclasses set the class attributes and implement `run`, and `load` and `forward` where needed."""

    batch: int = 1
    """How many units `forward` takes at once."""

    def __init__(self, settings: Any, folders: Folders) -> None:
        self.settings = settings
        self.folders = folders

    def load(self) -> dict[str, Any]:
        """Load the model. Returns facts for /health: ``{"device": "cpu", "model": …}``. Raises: ModelUnavailable."""
        return {}

    def run(self, params: Any, ctx: Context) -> Run:
        raise NotImplementedError

    def key(self, unit: Any) -> Hashable:
        """Units of equal key may share a batch."""
        return None

    def fits(self, batch: list[Any], unit: Any) -> bool:
        """Whether a unit of equal key may join a batch that is being put together; its first unit waited longest."""
        return True

    def forward(self, units: list[Any]) -> list[Any]:
        """One batch. A result that is an exception is raised in its own task only."""
        raise NotImplementedError

    def info(self) -> dict[str, Any]:
        """Facts that change while running, for /health: ``{"vram_used_gb": 1.5}``."""
        return {}

    @classmethod
    def pull(cls, settings: Any, folders: Folders, say: Callable[[str], None] | None) -> None:
        """Fetch what `load` will need, so that a server starts without the network. Raises: ModelUnavailable.

        say: tells a person what is going on; None where nobody watches.
        """

    @classmethod
    def confinement(cls, settings: Any, folders: Folders) -> Confinement | None:
        """What its process is confined to, where the system can do so (`runtime.confine`). None: it is not confined.

        Asked of the class that has the name only: one that is derived from it says so anew. A confined one is loaded
        after `pull`, which a process of its own has done.
        """
        return None


class AsyncWorker(Worker):
    """A worker without a model: its tasks wait for others most of the time, and run side by side."""

    Settings = WorkerSettings
    warm_up: ClassVar[bool] = False

    concurrency: int = 4
    """How many tasks are under way at once."""

    async def run_async(self, params: Any, ctx: Context) -> Any:
        """The task's result. It is cancelled by `asyncio.CancelledError`, at an `await`."""
        raise NotImplementedError
