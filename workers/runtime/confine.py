"""What the process of a worker that opens strangers' bytes may still touch: a hole in a decoder leads no further.

    Worker.confinement() ─▶ fetched and converted, apart ─▶ confine(): folders, sockets ─▶ threads, load(), tasks

Read are the system, Python and its packages, the model, and what clients may name; written are the tasks' own files.
The key, the ledger, the user's home and other programs' files stay closed, and so do other processes. Root keeps its
rights over files, and no others.

Rules:
- Everything happens before the process has a second thread: Landlock would not hold for those that are there.
- What a kernel cannot do is left out, and told as a fact: `confined` in /health.
- Landlock grants folders whole. Where DATA_DIR lies under one that is read whole, as it does by default, what lies
  directly in it, the key and the ledger, is masked (`runtime.masks`).
- A folder is the one that is there now: one that is put into its place later, as a disk that is mounted again, is
  closed until the process starts anew. What mounts itself when it is asked for stays mounted as long.
- The memory of the process itself is not bounded: CUDA reserves far more addresses than any limit could allow.
"""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from contract import environment
from contract.folders import Folders
from contract.launch import Launch
from media import ffmpeg
from storage.workdirs import temporary_dir
from workers.base import Confinement
from workers.runtime import capabilities, hub, landlock, masks, sockets
from workers.runtime.landlock import DEVICE, READ, RUN, WRITE

log = structlog.get_logger()

Grants = Iterator[tuple[Path, int]]

_SYSTEM = "/usr /bin /sbin /lib /lib32 /lib64 /opt /nix/store /gnu/store /home/linuxbrew/.linuxbrew"
"""Programs and libraries."""
_FACTS = "/proc /sys /run/systemd/resolve /run/resolvconf /var/cache/fontconfig"
_ETC = (
    "OpenCL alternatives ca-certificates ca-certificates.conf crypto-policies fonts gai.conf glvnd group host.conf "
    "hosts ld.so.cache ld.so.conf ld.so.conf.d localtime magic mime.types nsswitch.conf nvidia os-release passwd pki "
    "protocols resolv.conf services ssl static timezone vulkan"
)
"""What programs read of /etc, where keys of the system lie, too."""
_DEVICES = "null zero full random urandom dri kfd dxg nvidia* nvmap nvhost* nvgpu*"
"""The last are the Jetson's."""
_GPUS, _WAKING_SECONDS = Path("/proc/driver/nvidia/gpus"), 60.0
_SHARED_MEMORY = Path("/dev/shm")


def confine(allowed: Confinement, settings: Any, launch: Launch) -> bool:
    """Give up for good whatever is not allowed. Whether files outside are closed now; where not, the log has why."""
    _wake_gpus()
    folders = launch.folders
    for folder in (folders.uploads, folders.blobs, folders.work, *folders.made, *allowed.writes):
        with suppress(OSError):  # one that cannot be made is missed where it is needed
            folder.mkdir(parents=True, exist_ok=True)
    sockets.restrict(network=allowed.network)
    if not landlock.version():
        return False
    temporary = temporary_dir(os.getpid(), folders)
    with suppress(OSError):
        temporary.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(temporary)
    environment.tell(TMPDIR=str(temporary))
    grants = [*_system(folders, launch.libraries), *_devices()]
    grants += [*_media(folders, launch.workers_path), *_named(settings, folders)]
    grants += [(path, READ) for path in allowed.reads]
    grants += [(path, WRITE) for path in (folders.work, folders.blobs, temporary, *allowed.writes)]
    paths = [path for path, _ in grants]
    _keep_mounted(paths)
    closed = _mask(folders, paths)
    capabilities.give_up()
    try:
        landlock.restrict(grants, network=allowed.network)
    except OSError as exc:
        log.info("landlock_refused", error=exc.strerror)
        return False
    return closed


def _wake_gpus() -> None:
    """The first program on a machine that asks for its GPUs has their devices made, by one that becomes root for it;
    from a confined process none does.
    """
    if Path("/dev/nvidia-uvm").exists() or not (program := shutil.which("nvidia-modprobe")):
        return
    try:
        _run(program, "-c", "0", "-u")  # from now on the driver knows how many there are
        for minor in range(1, len(list(_GPUS.glob("*")))):
            _run(program, "-c", str(minor))
    except (OSError, subprocess.SubprocessError) as exc:
        log.warning("gpus_not_woken", error=str(exc))


def _run(*command: str) -> None:
    subprocess.run(command, check=False, capture_output=True, timeout=_WAKING_SECONDS)


def _keep_mounted(paths: list[Path]) -> None:
    """Hold what is mounted when it is asked for (autofs(5)): idle it would go, and what comes again is closed."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:  # without /proc nobody says what is mounted
        return
    points = [line.split()[4].replace("\\040", " ") for line in lines if " - autofs " in line]
    for path in paths:
        with suppress(OSError):
            if path.is_dir() and any(path.resolve().is_relative_to(point) for point in points):
                os.open(f"{path}/.", os.O_PATH | os.O_CLOEXEC)  # as long as the process lives


def _mask(folders: Folders, granted: list[Path]) -> bool:
    """Whether what lies directly in DATA_DIR is closed."""
    if not any(folders.data.is_relative_to(path.resolve()) for path in granted):
        return True
    if masks.lay_over(path for path in folders.data.iterdir() if path.is_file()):
        return True
    log.info(
        "data_dir_open_to_worker",
        hint="DATA_DIR lies under MEDIA_ROOTS, and this system lets no process hide files in it from itself; with one "
        "that lies elsewhere, the key and the ledger are closed to workers.",
    )
    return False


def _system(folders: Folders, libraries: Iterable[Path]) -> Grants:
    """Programs, libraries, Python, and its modules, among them the server's own.

    Modules are not run: what the server makes lies beside its own, and Landlock would let no file be renamed from
    where none is run to where some are.
    """
    yield from ((Path(path), RUN) for path in _SYSTEM.split())
    yield from ((Path(path), READ) for path in _FACTS.split())
    yield from ((Path("/etc") / name, READ) for name in _ETC.split())
    programs = {sys.prefix, sys.base_prefix, sys.exec_prefix, site.getusersitepackages()}
    modules = {*sys.path, *map(str, libraries)} - {""}  # what is loaded is not run
    for names, rights in ((programs, RUN), (modules, READ)):
        yield from ((path, rights) for name in sorted(names) for path in _around(Path(name), folders.data))
    with suppress(RuntimeError):  # there is none
        yield Path(ffmpeg.binary()).resolve(), RUN
    if deno := shutil.which("deno"):
        yield Path(deno).resolve(), RUN


def _around(folder: Path, closed: Path) -> Iterator[Path]:
    """The folder, or what is in it where what stays closed is in it too: the server's own may hold its data."""
    if not closed.is_relative_to(folder.resolve()):
        yield folder
    elif folder.is_dir() and folder.resolve() != closed:
        for path in folder.iterdir():
            yield from _around(path, closed)


def _devices() -> Grants:
    yield from ((path, DEVICE) for name in _DEVICES.split() for path in Path("/dev").glob(name))
    yield _SHARED_MEMORY, WRITE


def _media(folders: Folders, workers_path: tuple[Path, ...]) -> Grants:
    """What clients may name or have sent, and models."""
    read = (*folders.roots, *folders.made, folders.uploads, folders.models, *workers_path)
    yield from ((path, READ) for path in read)


def _named(settings: Any, folders: Folders) -> Grants:
    """What the operator names in a setting, such as the folder of a model, with what links in it lead to."""
    named = (str(value) for value in settings.model_dump().values() if isinstance(value, str | Path) and str(value))
    for name in named:
        with suppress(OSError, RuntimeError):  # it is too long for a path, or in the home of nobody
            path = Path(name).expanduser()
            if path.exists():
                yield path, READ
                links = (part for part in path.iterdir() if part.is_symlink()) if path.is_dir() else ()
                yield from ((link.resolve(), READ) for link in links)
    if hasattr(settings, "model"):
        yield from ((cache, READ) for cache in hub.caches(folders))
