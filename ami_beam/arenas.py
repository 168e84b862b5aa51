"""The C library's memory in a process of many threads that make and drop buffers all the time."""

from __future__ import annotations

import ctypes
import os
import platform

ARENAS = 2
"""glibc gives threads eight for each core by default."""
_M_ARENA_MAX = -8  # malloc.h


def share_arenas() -> None:
    """From now on the threads of this process share a few arenas, so that what one has freed another can use.

    To be called before there are many threads: each keeps the arena that it has. With glibc's default three quarters of
    what a worker held after five minutes was free, in sixteen arenas, and it grew by 40 MB an hour. Does nothing where
    the C library is another one, or MALLOC_ARENA_MAX says how many there are to be.
    """
    if platform.libc_ver()[0] == "glibc" and "MALLOC_ARENA_MAX" not in os.environ:
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)


def give_back() -> None:
    """What was freed goes back to the system, after something large was made that left much of it behind."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
