"""Settings: every variable the server reads, read here and nowhere else, once, when it starts.

`Settings` holds the server's own; each worker's stand in a class in the worker's file and are gathered here, named
`<WORKER>_<FIELD>` unless a field carries its own alias. README's table is generated from both (`settings_table`).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, IPvAnyNetwork, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from contract import logs, spelling
from contract.folders import Folders
from workers.base import Worker, WorkerSettings
from workers.runtime.discovery import Unfit, add_folders, discover

ROOT = Path(__file__).resolve().parent
"""The folder of the server's own modules."""

MOST_HOURS = 1e6
"""A century; what is longer no timer counts."""
MOST_SECONDS = 86_400
PathList = Annotated[tuple[Path, ...], NoDecode]


class SettingsError(Exception):
    """A variable has a value that cannot be used; the message names it and says what is wanted."""


class Settings(BaseSettings):
    """The server's own settings. Frozen; `Settings.load()` reads the environment."""

    model_config = SettingsConfigDict(frozen=True, case_sensitive=False, allow_inf_nan=False)

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
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="names, separated by commas, by which the server may be called beside IP addresses, names without "
        "a dot, local ones (`.local`, `.lan` …), the machine's own and those of `CORS_ORIGINS`; `*`: any",
    )
    trusted_proxies: Annotated[tuple[IPvAnyNetwork, ...], NoDecode] = Field(
        (),
        description="addresses or networks, separated by commas, of reverse proxies whose `X-Forwarded-For`, `-Host`, "
        "`-Proto` and `-Prefix` are believed",
    )
    retention_hours: float = Field(72, gt=0, le=MOST_HOURS, description="how long answers, events and uploads are kept")
    job_deadline_hours: float = Field(24, gt=0, le=MOST_HOURS, description="a job that is not done by then fails")
    max_open_jobs: int = Field(1000, ge=1, description="most unfinished jobs in all; beyond: `QUEUE_FULL`")
    max_open_jobs_per_client: int = Field(
        100,
        ge=1,
        description="most unfinished jobs of one client, and of all at one address that send no token; beyond: "
        "`QUEUE_FULL`",
    )
    max_open_jobs_per_address: int = Field(
        500, ge=1, description="most unfinished jobs of all clients at one address; beyond: `QUEUE_FULL`"
    )
    requests_per_second: float = Field(
        100,
        ge=0,
        description="messages and HTTP requests of one address, bursts of ten times as many aside; beyond: "
        "`RATE_LIMITED`; 0: any number",
    )
    max_connections: int = Field(
        2000, ge=1, description="most connections in all; fewer where the system gives the server few open files"
    )
    max_connections_per_address: int = Field(500, ge=1, description="most connections of one address")
    max_items: int = Field(1000, ge=1, description="most items in one batch")
    max_upload_gb: float = Field(20, gt=0, le=1e6, description="largest upload, in GB")
    least_free_gb: float | None = Field(
        None,
        ge=0,
        le=1e6,
        description="what stays free on the disk of `DATA_DIR`, in GB, for the ends of what runs; beyond: `DISK_FULL`; "
        "default: a hundredth of the disk, 1 GB at most",
    )
    stall_seconds: float = Field(
        24,
        gt=0,
        le=MOST_SECONDS,
        description="a connection that says nothing, or stops in the middle of a request, is closed after that",
    )
    drain_seconds: float = Field(
        10, ge=0, le=MOST_SECONDS, description="how long running work may go on after SIGTERM or Ctrl-C"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")

    @field_validator("data_dir", "voices_dir", "fs_path", "path_video", mode="before")
    @classmethod
    def _names_a_folder(cls, value: Any) -> Any:
        if not str(value).strip():
            raise ValueError("it should name a folder; without the variable the server takes its default")
        return value

    @field_validator("media_roots", "workers_path", mode="before")
    @classmethod
    def _split_paths(cls, value: Any) -> Any:
        return tuple(part for part in value.split(os.pathsep) if part) if isinstance(value, str) else value

    @field_validator("cors_origins", "allowed_hosts", "trusted_proxies", mode="before")
    @classmethod
    def _split_list(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(origin if origin in ("*", "null") else _origin(origin) for origin in origins)

    @field_validator("allowed_hosts")
    @classmethod
    def _are_names(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if host != "*" and set(host) & set("*/ "):
                raise ValueError(f"{host!r} should be one name like media.example; a * alone stands for any")
        return hosts

    @field_validator("media_roots", "workers_path")
    @classmethod
    def _folders_exist(cls, folders: tuple[Path, ...]) -> tuple[Path, ...]:
        for folder in folders:
            if not folder.is_dir():
                raise ValueError(f"{str(folder)!r} is not a folder")
        return folders

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


def _origin(text: str) -> str:
    """An origin as browsers send it: no path, no default port, lower case, in ASCII. Raises: ValueError."""
    scheme, _, rest = text.lower().partition("://")
    host, _, path = rest.partition("/")
    if "*" in host:
        raise ValueError(f"{text!r} should name one host; a * alone stands for all")
    if not host or path or set(host) & set("?#@ "):
        likely = (host or scheme.strip("/").partition("/")[0]).split()[0]
        raise ValueError(f"{text!r} should be an origin, scheme and host and nothing else, like https://{likely}")
    default_port = {"http": ":80", "https": ":443"}.get(scheme)
    host = host.removesuffix(default_port) if default_port else host
    return f"{scheme}://{host if host.isascii() else host.encode('idna').decode()}"


class Crew(NamedTuple):
    """One worker class with its operator's settings."""

    worker: type[Worker]
    settings: WorkerSettings


def load_workers(settings: Settings) -> dict[str, Crew]:
    """Every worker with its settings, by name. Raises: SettingsError."""
    add_folders(settings.workers_path)
    try:
        found = discover()
    except Unfit as exc:
        raise SettingsError(f"The workers cannot be used: {exc}") from exc
    return {name: Crew(cls, _worker_settings(name, cls.Settings)) for name, cls in found.items()}


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
    value = logs.without_secrets(repr(error["input"]))
    reason = error["msg"].removeprefix("Value error, ").replace("Input should", "it should").partition(", unable to")[0]
    return SettingsError(f"{variable}={value} cannot be used: {reason}.")


class Variable(NamedTuple):
    name: str
    default: str
    meaning: str


def variables(crew: Mapping[str, type[Worker]]) -> list[Variable]:
    """Every variable that the server and these workers read."""
    fields = [(name.upper(), info) for name, info in Settings.model_fields.items()]
    for name, worker in crew.items():
        cls = worker.Settings
        fields += [(variable, cls.model_fields[field]) for variable, field in worker_variables(name, cls)]
    return [Variable(name, _shown(info.default), info.description or "") for name, info in fields]


def settings_table(crews: dict[str, Crew]) -> str:
    """README's table of every variable, as Markdown."""
    rows = variables({name: crew.worker for name, crew in crews.items()})
    lines = [f"| `{name}` | {f'`{default}`' if default else '-'} | {text} |" for name, default, text in rows]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *lines])


def misspelt(crews: dict[str, Crew]) -> dict[str, list[str]]:
    """Variables of this environment that nobody reads, but that look like ours: with those that were perhaps meant."""
    known = [variable.name for variable in variables({name: crew.worker for name, crew in crews.items()})]
    read = {*known, *(name for name in os.environ if name.lower() in Settings.model_fields)}
    suspects = ((name, spelling.meant(name, known)) for name in os.environ if name not in read)
    return {name: meant for name, meant in suspects if meant}


def library_folders() -> tuple[Path, ...]:
    """Where this environment says that libraries lie."""
    return tuple(Path(folder) for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder)


_SECRET = re.compile(r"token(?!i)|secret|passw|credential|api_?key|access_?key", re.IGNORECASE)
"""In the names of variables whose values are secrets."""
LEAST_TOKEN = 8
"""Characters of a token or a cookie; what is shorter is `false` or `en`."""


def secrets() -> tuple[str, ...]:
    """What this environment holds that no log line may: passwords, also those in URLs, tokens, and cookies."""
    found: set[str] = set()
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= LEAST_TOKEN:
            found.add(value)
        _, scheme, rest = value.rpartition("://")
        user, at, _ = rest.rpartition("@")
        who, colon, password = user.partition(":")
        if at and colon and "/" not in who:
            found |= {user, password}
        elif at and scheme and len(user) >= LEAST_TOKEN:  # what is shorter is `git`; without a scheme it is mail's
            found.add(user)
        if name.upper().endswith("COOKIES"):
            found |= _cookies(Path(value))
    return tuple(sorted(secret for secret in found if secret))


def _cookies(path: Path) -> set[str]:
    """The values in a file of Netscape's format; one that cannot be read is refused elsewhere."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return set()
    return {fields[6] for line in lines if len(fields := line.split("\t")) == 7 and len(fields[6]) >= LEAST_TOKEN}


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        default = os.pathsep.join(map(str, default))
    return "" if default is None else str(default)


def share_cores() -> None:
    """Model libraries in several processes starve each other while their idle threads spin; inherited by children."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def shield_imports() -> None:
    """Python looks for modules in the working directory when it is started with `-c`, as multiprocessing starts its
    processes, or with `-m`; there lie users' files, of any name. Inherited by children, which find the server's own
    modules by PYTHONPATH. Raises: SettingsError.
    """
    if sys.flags.ignore_environment and not sys.flags.safe_path:
        raise SettingsError(
            "Under -E, Python would import users' files from the working directory; start it with -P -E, or without -E."
        )
    found = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *(folder for folder in found if folder)])
    os.environ["PYTHONSAFEPATH"] = "1"
