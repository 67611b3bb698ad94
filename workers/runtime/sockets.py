"""Which sockets a process may still make and connect: a seccomp filter (seccomp(2)), which nothing lifts again.

Landlock knows TCP and no more. What remains would lead out of it: D-Bus and Docker, by Unix sockets, start programs
that nobody confines, and names can be asked for by UDP. Pairs of sockets, which have no address, stay; so do Unix
sockets that wait to be connected to, of which CUDA has one in each process.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import socket
import struct
import sys

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2

_ARCHITECTURES = {"x86_64": (0xC000003E, 41, 42), "aarch64": (0xC00000B7, 198, 203)}
"""By machine: AUDIT_ARCH_… and the numbers of socket(2) and connect(2)."""
_IO_URING_SETUP = 425
"""By which sockets could be made past every filter."""
_X32 = 0x40000000
"""The bit of x86-64's other set of numbers."""

# Of linux/bpf_common.h and linux/seccomp.h; the data are those of `struct seccomp_data`.
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000

_INTERNET = (socket.AF_INET, socket.AF_INET6, *((socket.AF_NETLINK,) if sys.platform == "linux" else ()))
"""What connections to the internet need; the last tells the C library which addresses this machine has."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def restrict(*, network: bool) -> bool:
    """Keep this thread, and what it starts, to the internet's sockets, or without network from connecting to anything.

    Whether that could be done.
    """
    known = _ARCHITECTURES.get(platform.machine())
    if sys.platform != "linux" or known is None or sys.maxsize < 1 << 32:  # a 32-bit Python has other numbers
        return False
    code = _filter(*known, network)
    program = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0) == 0)


def _filter(architecture: int, make: int, connect: int, network: bool) -> bytes:
    """Jumps are forward, by so many instructions; the last two are `refuse` and `allow`."""
    tests: list[tuple[int, int, str, str]] = [
        (_LOAD, _ARCHITECTURE, "", ""),
        (_EQUAL, architecture, "", "refuse"),
        (_LOAD, _NUMBER, "", ""),
        (_AT_LEAST, _X32, "refuse", ""),
        (_EQUAL, _IO_URING_SETUP, "refuse", ""),
        (_EQUAL, connect, "allow" if network else "refuse", ""),
        (_EQUAL, make, "", "allow"),
        (_LOAD, _FIRST_ARGUMENT, "", ""),
        *((_EQUAL, family, "allow", "") for family in (_INTERNET if network else (socket.AF_UNIX,))),
    ]
    to = {"refuse": len(tests), "allow": len(tests) + 1}
    jumps = [
        (code, value, *(to[target] - place - 1 if target else 0 for target in targets))
        for place, (code, value, *targets) in enumerate(tests)
    ]
    ends = [(_RETURN, _ERRNO | errno.EACCES, 0, 0), (_RETURN, _ALLOW, 0, 0)]
    return b"".join(struct.pack("=HBBI", code, yes, no, value) for code, value, yes, no in [*jumps, *ends])
