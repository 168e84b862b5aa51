"""Bytes in fewer bytes, for what waits in state for weeks."""

from __future__ import annotations

import zlib

_LEVEL = 1
"""Greater levels save a few per cent and cost several times as much."""


def compressed(data: bytes) -> bytes:
    """The same in fewer bytes."""
    return zlib.compress(data, _LEVEL)


def decompressed(data: bytes) -> bytes:
    """What was compressed."""
    return zlib.decompress(data)
