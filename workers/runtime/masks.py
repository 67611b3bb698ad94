"""Files that a process cannot see, though the folder that they lie in is open to it (mount_namespaces(7)).

Landlock grants folders and takes nothing out of them again. In a mount namespace of its own a process has /dev/null
laid over such files: root's at once, others' inside a user namespace, which some systems and most containers refuse.
Root does without one: inside it would lose its rights over the files of others.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterable
from pathlib import Path

_CLONE_NEWNS, _CLONE_NEWUSER = 0x0002_0000, 0x1000_0000
_MS_BIND, _MS_REC, _MS_SLAVE = 1 << 12, 1 << 14, 1 << 19

_libc = ctypes.CDLL(None, use_errno=True)


def lay_over(files: Iterable[Path]) -> bool:
    """Hide these files from this process, which has one thread yet, and from what it starts. Whether that was done.

    What is mounted elsewhere later is still seen. Other processes notice nothing. The capabilities that came with the
    namespace are the caller's to give up.
    """
    if sys.platform != "linux":
        return False
    if _libc.unshare(_CLONE_NEWNS) and (os.geteuid() == 0 or not _become_user()):
        return False
    hidden = _libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None) == 0
    return hidden and all(map(_lay_over, files))


def _become_user() -> bool:
    """Whether this process is in a user namespace, as the same user, and in a mount namespace of its own."""
    user, group = os.getuid(), os.getgid()
    if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS):
        return False
    try:
        for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            Path("/proc/self", name).write_text(line)
    except OSError:
        return False
    return True


def _lay_over(file: Path) -> bool:
    """Whether nobody here sees it, as where it has vanished since."""
    failed = _libc.mount(b"/dev/null", os.fsencode(file), None, ctypes.c_ulong(_MS_BIND), None)
    return not failed or ctypes.get_errno() == errno.ENOENT
