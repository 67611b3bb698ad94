"""What a worker says of itself, so that others need not know it: its name, what it may be asked, what it answers.

Plans, documents and the transport read nothing else of a worker; `workers.base.Worker` adds what it does.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from contract.params import Params

OFF = "none"
"""The model of a worker that is switched off."""


class WorkerSettings(BaseModel):
    """What an operator may set for one worker, by the variables `<NAME>_<FIELD>` or a field's alias.

    Each worker narrows or extends this with a subclass in its own file.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True, allow_inf_nan=False)

    replicas: int = Field(1, ge=0, le=64, description="processes that serve this model side by side; 0: it is off")
    preload: bool = Field(False, description="load the model when the server starts, not at the first request")
    idle_unload_minutes: float = Field(30, ge=0, description="the process leaves after so long without work; 0: never")
    max_growth_gb: float = Field(
        4, ge=0, description="a process that holds so much memory beyond its model is replaced between tasks; 0: never"
    )
    step_seconds: float = Field(
        60, gt=0, description="longest time of one step; a process silent for thrice as long is restarted"
    )

    @classmethod
    def variable(cls, worker: str, field: str) -> str:
        """The name of a field's variable."""
        return cls.model_fields[field].alias or f"{worker}_{field}".upper()

    def switched_off(self, worker: str) -> str | None:
        """The setting that switches the worker off, such as `AI_FISH_MODEL=none`; None while it is on."""
        if getattr(self, "model", None) == OFF:
            return f"{self.variable(worker, 'model')}={OFF}"
        return None if self.replicas else f"{self.variable(worker, 'replicas')}=0"


class ModelSettings(WorkerSettings):
    """Settings of a worker that computes."""

    device: str = Field("auto", description="`auto`, `cpu`, `cuda` or `cuda:N`")
    threads: int = Field(0, ge=0, description="CPU threads of one process; 0 shares the cores among the processes")

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", device):
            raise ValueError("it should be auto, cpu, cuda or cuda:N")
        return device


class Declaration:
    """One worker, as others know it."""

    name: ClassVar[str]
    """The worker's name, also of its one-stage plan's stage and of its settings' variables (upper case)."""
    message_type: ClassVar[str]
    """The `type` of the messages that ask for this worker alone."""
    answer: ClassVar[dict[str, Any] | str] = {}
    """The documented answer of that type, with references to the stage: ``{"transcribe_audio": "$whisper"}``.

    A reference alone, such as ``"$florence"``, means that the result itself is the answer.
    """
    Params: ClassVar[type[Params]]
    TaskParams: ClassVar[type[BaseModel] | None] = None
    """A subclass of `Params` for tasks, where the server's plans ask more of the worker than clients may."""
    Result: ClassVar[Any] = dict[str, Any]
    """The type of what a task gives, for the documents: a `TypedDict`, or a union of several."""
    Settings: ClassVar[type[WorkerSettings]] = ModelSettings
    example: ClassVar[dict[str, Any]]
    """Parameters of a request that works wherever the model does; run by the tests, and when the model was loaded.

    Files are named by paths relative to the server's folder or to that of the worker's file.
    """
    warm_up: ClassVar[bool] = True
    """Whether loading ends with the example (`runtime.warm_up`). False where that does something in the world."""
    imports: ClassVar[tuple[str, ...]] = ()
    """Modules whose import is slow and safe to share: loaded once in the fork server."""
    live: ClassVar[bool] = False
    """Whether the client sends the parameter `file` while the task runs, which then may yield `MORE`."""
    open_tasks: ClassVar[int] = 8
    """How many tasks the host holds open at once."""
    live_tasks: ClassVar[int] = 64
    """How many further tasks it holds open that follow a recording while it is being sent."""

    @classmethod
    def places(cls, settings: Any) -> int:
        """How many tasks a process with these settings holds open at once."""
        return cls.open_tasks
