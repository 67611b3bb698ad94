"""How a model fails: it cannot be loaded, or its device has not enough memory, for all at once or for a single one.

loading() ──what load() raises──▶ OutOfMemory, ModelUnavailable: with what the operator can do
in_halves() ──forward()─▶ results; where the memory runs out, half as many at once, down to one, which then fails
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import structlog

from contract.errors import ModelUnavailable, OutOfMemory

log = structlog.get_logger()

S = TypeVar("S")
T = TypeVar("T")


def ran_out(exc: BaseException) -> bool:
    """Whether a device had not enough memory, as torch, CTranslate2 or a worker says so."""
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(exc).__mro__)  # torch's, which need not be there
    return named or isinstance(exc, OutOfMemory) or "out of memory" in str(exc).lower()


@dataclasses.dataclass(frozen=True, slots=True)
class Advice:
    """What an operator can do when a worker's model fails.

    worker: its name. model: the model's, in a sentence. setting: the variable that names its weights. lower: the
    variables that save memory when they are lower. check: those that may be wrong when it cannot be loaded. pull: the
    command that fetches its files anew.
    """

    worker: str
    model: str
    setting: str
    lower: str
    check: str
    pull: str

    def out_of_memory(self, cause: BaseException) -> OutOfMemory:
        error = OutOfMemory(
            f"The device of the {self.model} model ran out of memory: lower {self.lower}, set {self.setting} to a "
            "smaller model, or free the device."
        )
        error.__cause__ = cause
        return error

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Around what loads the model. Raises: OutOfMemory, ModelUnavailable; MemoryError."""
        try:
            yield
        except (MemoryError, ModelUnavailable):
            raise
        except Exception as exc:
            if ran_out(exc):
                raise self.out_of_memory(exc) from exc
            log.error("model_not_loaded", worker=self.worker, error=str(exc))
            raise ModelUnavailable(
                f"The {self.model} model could not be loaded ({type(exc).__name__}); the server's log has the reason. "
                f"Check {self.check}; if its files are damaged, delete them from DATA_DIR/models and run `{self.pull}`."
            ) from exc

    def in_halves(
        self,
        work: Callable[[Sequence[S]], Sequence[T]],
        units: Sequence[S],
        smaller: Callable[[int], None],
        *,
        blame: bool = False,
    ) -> list[T | Exception]:
        """Results in order. A batch for which the memory does not suffice is tried again in halves.

        smaller: told how many units are tried at once after that. blame: whatever fails is tried in halves, down to the
        one that is to blame, in whose place the exception then stands; else only the want of memory stands there, and
        all else is raised.
        """
        try:
            return [*work(units)]
        except Exception as exc:
            short = ran_out(exc)
            if not short and not blame:
                raise
            failure = self.out_of_memory(exc) if short else exc
            if len(units) == 1:
                return [failure]
            log.warning("batch_halved", worker=self.worker, size=len(units), error=str(exc))
        half = len(units) // 2
        if short:
            del failure  # and so what the frames that failed hold of the memory
            if torch := sys.modules.get("torch"):
                torch.cuda.empty_cache()
            smaller(half)
        parts = (units[:half], units[half:])
        return [result for part in parts for result in self.in_halves(work, part, smaller, blame=blame)]
