"""Settings: every variable the server reads, read here and nowhere else, once, when it starts.

`Settings` holds the server's own; each worker's stand in a class in the worker's file and are gathered here, named
`<WORKER>_<FIELD>` unless a field carries its own alias. README's table is generated from both (`settings_table`).
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import structlog
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

import workers
from media.files import Folders
from workers.base import Worker, WorkerSettings

PathList = Annotated[tuple[Path, ...], NoDecode]


class SettingsError(Exception):
    """A variable has a value that cannot be used; the message names it and says what is wanted."""


class Settings(BaseSettings):
    """The server's own settings. Frozen; `Settings.load()` reads the environment."""

    model_config = SettingsConfigDict(frozen=True, case_sensitive=False)

    host: str = Field("0.0.0.0", description="address to listen on")
    port: int = Field(5000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    data_dir: Path = Field(Path("data"), description="ledger, uploads, caches and downloaded models")
    voices_dir: Path = Field(Path("saved_voices"), description="saved voices")
    fs_path: Path = Field(Path("fs_audio"), description="speech that the server made")
    path_video: Path = Field(Path("test_video"), description="videos that the server downloaded")
    media_roots: PathList = Field(
        (Path(),), description="folders that `file` may lie under, separated as in PATH; default: the working directory"
    )
    workers_path: PathList = Field((), description="further folders with workers of your own, separated as in PATH")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="origins of pages that may connect from elsewhere, separated by commas; default: same origin"
    )
    retention_hours: float = Field(72, gt=0, description="answers, events and uploads are kept so long")
    job_deadline_hours: float = Field(24, gt=0, description="a job that is not done by then fails")
    max_open_jobs: int = Field(1000, ge=1, description="unfinished jobs in all; beyond: `QUEUE_FULL`")
    max_open_jobs_per_client: int = Field(100, ge=1, description="unfinished jobs of one client; beyond: `QUEUE_FULL`")
    max_items: int = Field(1000, ge=1, description="items in one batch")
    max_upload_gb: float = Field(20, gt=0, description="largest upload, in GB")
    drain_seconds: float = Field(10, ge=0, description="how long running work may go on after SIGTERM or Ctrl-C")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="least level that is logged")

    @field_validator("media_roots", "workers_path", mode="before")
    @classmethod
    def _split_paths(cls, value: Any) -> Any:
        return tuple(part for part in value.split(os.pathsep) if part) if isinstance(value, str) else value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("media_roots")
    @classmethod
    def _folders_exist(cls, roots: tuple[Path, ...]) -> tuple[Path, ...]:
        for root in roots:
            if not root.is_dir():
                raise ValueError(f"{str(root)!r} is not a folder")
        return roots

    @classmethod
    def load(cls) -> Settings:
        """The settings of this environment. Raises: SettingsError."""
        try:
            return cls()
        except ValidationError as exc:
            raise _explain(exc) from exc

    @property
    def folders(self) -> Folders:
        return Folders(
            roots=tuple(root.resolve() for root in self.media_roots),
            data=self.data_dir.resolve(),
            voices=self.voices_dir.resolve(),
            speech=self.fs_path.resolve(),
            downloads=self.path_video.resolve(),
        )


class Crew(NamedTuple):
    """One worker class with its operator's settings."""

    worker: type[Worker]
    settings: WorkerSettings


def load_workers(settings: Settings) -> dict[str, Crew]:
    """Every worker with its settings, by name. Raises: SettingsError."""
    workers.add_folders(settings.workers_path)
    return {name: Crew(cls, _worker_settings(name, cls.Settings)) for name, cls in workers.discover().items()}


def _worker_settings(name: str, cls: type[WorkerSettings]) -> WorkerSettings:
    found = {variable: os.environ[variable] for variable, _ in worker_variables(name, cls) if variable in os.environ}
    fields = dict(worker_variables(name, cls))
    try:
        return cls.model_validate({fields[variable]: value for variable, value in found.items()})
    except ValidationError as exc:
        raise _explain(exc, {field: variable for variable, field in fields.items()}) from exc


def worker_variables(name: str, cls: type[WorkerSettings]) -> Iterator[tuple[str, str]]:
    """(variable, field) of a worker's settings."""
    for field in cls.model_fields:
        yield cls.variable(name, field), field


def _explain(exc: ValidationError, names: dict[str, str] | None = None) -> SettingsError:
    error = exc.errors()[0]
    field = str(error["loc"][0]) if error["loc"] else "settings"
    variable = (names or {}).get(field, field).upper()
    return SettingsError(f"{variable}={error['input']!r} cannot be used: {error['msg']}.")


def settings_table(crews: dict[str, Crew]) -> str:
    """README's table of every variable, as Markdown."""
    rows = [(field.upper(), info.default, info.description) for field, info in Settings.model_fields.items()]
    for name, (_, settings) in crews.items():
        cls = type(settings)
        rows += [
            (variable, cls.model_fields[field].default, cls.model_fields[field].description)
            for variable, field in worker_variables(name, cls)
        ]
    lines = [f"| `{name}` | {_shown(default)} | {text} |" for name, default, text in rows]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *lines])


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        default = os.pathsep.join(map(str, default))
    return f"`{default}`" if default not in ("", None) else "-"


def share_cores() -> None:
    """Model libraries in several processes starve each other while their idle threads spin; inherited by children."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def configure_logging(level: str) -> None:
    """Once in each process: structured lines on stderr, for people on a terminal and as JSON elsewhere."""
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *(
                [structlog.dev.ConsoleRenderer()]
                if terminal
                else [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
