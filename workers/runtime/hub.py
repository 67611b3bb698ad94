"""Where a model's files are, fetched if need be: the first of these that has them.

    a local folder ─▶ DATA_DIR/models ─▶ the hub's cache on this machine ─▶ the hub ─▶ a spare copy elsewhere

What is on this machine is looked at first and without the network, so a model that was pulled once needs none. Files of
a hub id are kept under DATA_DIR/models. Code that comes with a model is never run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import structlog

from contract.errors import ModelUnavailable
from contract.folders import Folders

Say = Callable[[str], None] | None
"""Tells a person what is going on; None where nobody watches, and then nothing is printed at all."""

log = structlog.get_logger()

_HUB_SECONDS = 5.0
"""A hub that does not answer so long counts as out of reach."""


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """One way in which a model's files lie in a folder. `needs` must be there; `also` may hold `*`."""

    name: str
    needs: tuple[str, ...]
    also: tuple[str, ...] = ()

    def fits(self, names: Collection[str]) -> bool:
        return all(need in names for need in self.needs)


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    path: Path
    layout: Layout


@dataclasses.dataclass(frozen=True, slots=True)
class Spare:
    """A copy of the model outside the hub. name: its folder's under DATA_DIR/models; fill: writes it there."""

    name: str
    layout: Layout
    fill: Callable[[Path, Say], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What to find. name: as the operator wrote it in `setting`; repositories: the hub ids that serve it, best first.

    worker: whose model it is. layouts: those that it understands, best first. spare: for the default model only.
    """

    name: str
    worker: str
    setting: str
    repositories: tuple[str, ...]
    layouts: tuple[Layout, ...]
    spare: Spare | None = None


def shown(model: str) -> str:
    """A model's name for /health: that of its folder, without where it lies, or its hub id."""
    local = Path(model).expanduser()
    return local.name if local.is_dir() else model


def find(wanted: Wanted, folders: Folders, say: Say = None) -> Found:
    """The model's folder. Raises: ModelUnavailable, whose sentence names the setting to change."""
    local = Path(wanted.name).expanduser()
    if local.is_dir():
        return _in_folder(local, wanted)
    if found := _cached(wanted, folders):
        return found
    failure = ModelUnavailable("the model hub was not asked")
    for repository in wanted.repositories:
        try:
            return _download(repository, wanted.layouts, folders, say)
        except ModelUnavailable as exc:
            failure = exc
            if exc.details.get("unreachable"):
                break
    if wanted.spare:
        spare, target = wanted.spare, folders.models / wanted.spare.name
        return Found(build(target, lambda folder: spare.fill(folder, say), say), spare.layout)
    raise ModelUnavailable(
        f"The model {_shown(wanted)} is neither a folder nor in the caches of this server, and {failure.message}. "
        f"Correct {wanted.setting}, or run `optivus models pull {wanted.worker}` where the hub can be reached."
    ) from failure


def convert(
    found: Found,
    folders: Folders,
    write: Callable[[Path, Path], None],
    unusable: Callable[[], ModelUnavailable],
    say: Say = None,
) -> Path:
    """The model in another form, made once and kept under DATA_DIR/models.

    write: from the checkpoint's folder into an empty one. unusable: what to answer when the checkpoint is to blame.
    """
    target = folders.models / "converted" / identity(found)
    if target.is_dir():
        return target
    if say:
        say("Converting the checkpoint, once.")

    def fill(folder: Path) -> None:
        try:
            write(found.path, folder)
        except Exception as exc:
            of_disk = isinstance(exc, OSError) and exc.errno is not None and not isinstance(exc, FileNotFoundError)
            if of_disk or isinstance(exc, MemoryError):
                raise  # the machine's fault, not the checkpoint's
            log.error("checkpoint_conversion_failed", error=str(exc))
            raise unusable() from exc

    return build(target, fill, say)


def build(target: Path, fill: Callable[[Path], None], say: Say = None) -> Path:
    """The folder `target`, filled once: beside its place, then moved there whole.

    Processes that build the same folder wait for each other; one that was killed leaves nothing in the way.
    """
    from filelock import FileLock, Timeout

    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{target}.lock")
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        if say:
            say("Another process is fetching this model; waiting for it.")
        held = lock.acquire()
    with held:
        if target.is_dir():
            return target
        part = target.with_name(f"{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            fill(part)
            _sync(part.iterdir())
            part.replace(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return target


def identity(found: Found) -> str:
    """The same for the same files, wherever they lie and whenever they were copied there."""
    digest = hashlib.sha256()
    patterns = (*found.layout.needs, *found.layout.also)
    for file in sorted({file for pattern in patterns for file in found.path.glob(pattern)}):
        with file.open("rb") as opened:
            digest.update(f"{file.name}\0{hashlib.file_digest(opened, 'sha256').hexdigest()}\0".encode())
    return digest.hexdigest()[:32]


def _sync(files: Iterable[Path]) -> None:
    """To the disk before the rename, or a power cut may leave a whole folder of empty files."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _in_folder(folder: Path, wanted: Wanted) -> Found:
    names = {file.name for file in folder.iterdir()}
    for layout in wanted.layouts:
        if layout.fits(names):
            return Found(folder.resolve(), layout)
    forms = "; or ".join(f"{', '.join(layout.needs)} ({layout.name})" for layout in wanted.layouts)
    raise ModelUnavailable(f"The folder that {wanted.setting} names holds no model for this worker; it needs {forms}.")


def caches(folders: Folders) -> tuple[Path, ...]:
    """Folders of this machine in which the hub's library keeps files."""
    from huggingface_hub import constants

    return _hub_folder(folders), Path(constants.HF_HUB_CACHE)


def _cached(wanted: Wanted, folders: Folders) -> Found | None:
    if wanted.spare and (folder := folders.models / wanted.spare.name).is_dir():
        return Found(folder, wanted.spare.layout)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    for repository in wanted.repositories:
        for cache in caches(folders):
            for layout in wanted.layouts:
                patterns = [*layout.needs, *layout.also]
                try:
                    path = snapshot_download(
                        repository, cache_dir=cache, allow_patterns=patterns, local_files_only=True
                    )
                except (LocalEntryNotFoundError, HFValidationError):
                    continue
                if layout.fits({file.name for file in Path(path).iterdir()}):
                    return Found(Path(path), layout)
    return None


def _download(repository: str, layouts: tuple[Layout, ...], folders: Folders, say: Say) -> Found:
    """Raises: ModelUnavailable, its message the reason alone; `unreachable` where another repository is no help."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
    from huggingface_hub.errors import HTTPError as AnyHTTPError  # type: ignore[attr-defined]  # its HTTP library's
    from huggingface_hub.utils.tqdm import disable_progress_bars

    logging.getLogger("huggingface_hub").setLevel(
        logging.ERROR
    )  # its tries one by one are no news: the last one's failure is told
    if not say:
        disable_progress_bars()
    try:
        files = {file.rfilename for file in HfApi().model_info(repository, timeout=_HUB_SECONDS).siblings or ()}
        layout = next((layout for layout in layouts if layout.fits(files)), None)
        if layout is None:
            raise ModelUnavailable("the hub's files of that name are not of a kind that this worker reads")
        log.info("fetching_model", repository=repository)
        if say:
            say(f"Fetching {repository} from the model hub.")
        patterns = [*layout.needs, *layout.also]
        path = snapshot_download(repository, cache_dir=_hub_folder(folders), allow_patterns=patterns)
        return Found(Path(path), layout)
    except GatedRepoError as exc:
        raise ModelUnavailable("the hub gives it only to accounts that accepted its licence (set HF_TOKEN)") from exc
    except RepositoryNotFoundError as exc:
        raise ModelUnavailable("the hub has no model of that name") from exc
    except HFValidationError as exc:
        raise ModelUnavailable("it is not a hub id of the form owner/name") from exc
    except (AnyHTTPError, OSError) as exc:
        if isinstance(exc, OSError) and exc.errno is not None and not isinstance(exc, ConnectionError | TimeoutError):
            raise  # the disk's error, not the network's
        log.warning("model_hub_unreachable", repository=repository, error=str(exc))
        raise ModelUnavailable("the model hub could not be reached", unreachable=True) from exc


def _hub_folder(folders: Folders) -> Path:
    return folders.models / "hub"


def _shown(wanted: Wanted) -> str:
    """A path stays on the server; a hub id may be named in an answer."""
    is_path = wanted.name.startswith((os.sep, ".", "~")) or wanted.name.count("/") > 1 or "\\" in wanted.name
    return f"that {wanted.setting} names" if is_path else f"{wanted.name!r}, set in {wanted.setting},"
