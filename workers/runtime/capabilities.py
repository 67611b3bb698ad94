"""What root may do beside what a user may (capabilities(7)): given up, but for what concerns whose files are whose.

With them a process reads the memory of others past Landlock, and loads modules into the kernel. A program that it
starts gets none back, since `no_new_privs` is set beside.
"""

from __future__ import annotations

import ctypes
import os
import sys

_VERSION_3 = 0x2008_0522
_OF_FILES = 0b11111
"""chown, dac_override, dac_read_search, fowner and fsetid, of linux/capability.h."""


def give_up() -> None:
    """Keep those that root needs for the files of others, and of anybody else's none. For this thread and its own."""
    if sys.platform != "linux":
        return
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, twice: of the lower and of the higher 32
    libc = ctypes.CDLL(None)
    if libc.capget(header, sets) == 0:
        kept = sets[1] & _OF_FILES if os.geteuid() == 0 else 0
        libc.capset(header, (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0))
