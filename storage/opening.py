"""Opening a file by a path that holds no links, and naming what was opened by its descriptor.

A path that was resolved and checked may hold a link by the time it is opened. So it is opened without following any: at
once where the kernel can (openat2, Linux 5.6), elsewhere folder by folder. What was opened keeps its descriptor, whose
name leads to the same file whatever is put into its place:

    resolved path ─▶ without_links() ─▶ descriptor ─▶ /proc/self/fd/N, to be opened as often as one likes

On Linux the descriptor is a place and nothing more (O_PATH): a pipe or a device is seen to be none before it is opened,
so nobody waits for it. A system without /proc/self/fd has no such name; there it is the path.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

_PLACE = os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY | os.O_NONBLOCK)
_NAMES = Path("/proc/self/fd")

_OPENAT2 = 437
_AT_FDCWD = -100
_RESOLVE_NO_SYMLINKS = 0x04
"""Of linux/openat2.h; those of /proc that lead to open files count as links too."""


class _OpenHow(ctypes.Structure):
    """`struct open_how` of openat2(2)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)


def at_once(path: Path) -> int:
    """A descriptor of what lies at an absolute path. Raises: OSError, also where a link or `..` is on the way."""
    how = _OpenHow(_PLACE, 0, _RESOLVE_NO_SYMLINKS)
    name, size = os.fsencode(_plain(path)), ctypes.c_size_t(ctypes.sizeof(how))
    while True:
        descriptor = _libc.syscall(ctypes.c_long(_OPENAT2), _AT_FDCWD, name, ctypes.byref(how), size)
        if descriptor >= 0:
            return int(descriptor)
        if (number := ctypes.get_errno()) != errno.EINTR:
            raise OSError(number, os.strerror(number), str(path))


def step_by_step(path: Path) -> int:
    """The same on any system."""
    folder = os.open("/", _PLACE | os.O_DIRECTORY)
    try:
        for name in _plain(path).parts[1:-1]:
            before = folder
            folder = os.open(name, _PLACE | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=before)
            os.close(before)
        return os.open(path.name or "/", _PLACE | os.O_NOFOLLOW, dir_fd=folder)
    finally:
        os.close(folder)


def _plain(path: Path) -> Path:
    if not path.is_absolute() or ".." in path.parts:
        raise OSError(errno.ELOOP, "not a resolved path", str(path))
    return path


def _kernel_has_openat2() -> bool:
    """Sandboxes may refuse it on kernels that have it."""
    if sys.platform != "linux":
        return False
    try:
        os.close(at_once(Path("/")))
    except OSError:
        return False
    return True


without_links: Callable[[Path], int] = at_once if _kernel_has_openat2() else step_by_step


class Opened:
    """What lies at a resolved path now.

    path: names just that until `close`, to be opened any number of times; its name and suffix say nothing. Another
    program has to be given the descriptor, by `pass_fds`.
    """

    def __init__(self, path: Path) -> None:
        """Raises: OSError."""
        self._descriptor = without_links(path)
        self.close = weakref.finalize(self, os.close, self._descriptor)
        """Let go of it; done at the latest when nobody holds this object any more."""
        named = _NAMES / str(self._descriptor)
        self.path = named if named.exists() else path

    @property
    def mode(self) -> int:
        """As `stat` tells it, of a link that lies there the link's own."""
        return os.fstat(self._descriptor).st_mode
