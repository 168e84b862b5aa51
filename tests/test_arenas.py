"""The C library's memory: threads share it."""

from __future__ import annotations

import platform
import re
import subprocess
import sys

import pytest

_ARENAS_OF_THIRTY_THREADS = """
import ctypes, threading
from ami_beam.arenas import share_arenas
if SHARED:
    share_arenas()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
together = threading.Barrier(30)
def work():
    together.wait()
    ctypes.create_string_buffer(20_000)
    together.wait()
threads = [threading.Thread(target=work) for _ in range(30)]
for each in threads:
    each.start()
for each in threads:
    each.join()
file = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_threads_share_arenas(monkeypatch):
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    shared, own = (
        len(re.findall("<heap nr", subprocess.check_output(
            [sys.executable, "-c", _ARENAS_OF_THIRTY_THREADS.replace("SHARED", text)], text=True
        )))
        for text in ("True", "False")
    )  # fmt: skip
    assert shared < own
    assert shared <= 3
