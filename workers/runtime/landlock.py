"""Landlock (landlock(7), Linux 5.19): a process gives up rights for good, for itself and for all that it starts.

    handled rights ─ granted to folders and files ─▶ restrict() ─▶ whatever else is refused with EACCES

It holds for the thread that asks and for those that it starts, so it is asked before there are others. Reading what an
open descriptor leads to is never asked; opening it anew by its name (`/proc/self/fd/N`) is, by where the file lies.
Beside files it keeps processes of the domain from tracing, and from reading `/proc/…/mem` or `/proc/…/fd` of, those
outside; from signalling them; and from TCP. Its first version, of Linux 5.13, lets no file be renamed from one folder
into another, and is not used.
"""

from __future__ import annotations

import ctypes
import functools
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

# Of linux/landlock.h.
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (1 << bit for bit in range(6, 13))
REFER, TRUNCATE, IOCTL_DEV = (1 << bit for bit in range(13, 16))

READ = READ_FILE | READ_DIR
RUN = READ | EXECUTE
WRITE = READ | WRITE_FILE | TRUNCATE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SYM | REFER
DEVICE = READ | WRITE_FILE | IOCTL_DEV
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
"""The rights that a rule for what is no folder may have."""

_FIRST_USED = 2
_RIGHTS = {2: 14, 3: 15, 5: 16}
"""How many of these rights a version knows; those between know as many as the one before."""
_TCP, _TCP_SINCE = 0b11, 4
_SCOPES, _SCOPES_SINCE = 0b11, 6
"""Abstract Unix sockets and signals."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


_libc = ctypes.CDLL(None, use_errno=True)


@functools.cache
def version() -> int:
    """The kernel's, from 2; 0 where it has none, has it switched off, or has the first."""
    if sys.platform != "linux":
        return 0
    found = int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION)))
    return found if found >= _FIRST_USED else 0


def restrict(grants: Iterable[tuple[Path, int]], *, network: bool) -> None:
    """Keep this thread, and what it starts, to these paths. Call it where `version` is not 0.

    grants: what is there with its rights, beneath it too where it is a folder; what is not there is left out.
    network: whether TCP stays open. Raises: OSError.
    """
    known = (1 << max(count for since, count in _RIGHTS.items() if since <= version())) - 1
    tcp = _TCP if version() >= _TCP_SINCE and not network else 0
    rules = _Ruleset(known, tcp, _SCOPES if version() >= _SCOPES_SINCE else 0)
    size = 24 if version() >= _SCOPES_SINCE else 16 if version() >= _TCP_SINCE else 8
    ruleset = _checked(_libc.syscall(_CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0)))
    try:
        for path, rights in grants:
            _grant(ruleset, path, rights & known)
        _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(_libc.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)))
    finally:
        os.close(ruleset)


def _grant(ruleset: int, path: Path, rights: int) -> None:
    try:
        inside = f"{path}/." if path.is_dir() else path  # so that what waits to be mounted there is
        place = os.open(inside, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # it is not there, or nobody could open it anyway
        return
    try:
        folder = stat.S_ISDIR(os.fstat(place).st_mode)
        rule = _PathBeneath(rights if folder else rights & _OF_FILES, place)
        _checked(_libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), ctypes.c_uint32(0)))
    finally:
        os.close(place)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
