"""Bytes in fewer bytes, for what waits in state for weeks."""

from __future__ import annotations

import zlib

from zstandard import ZstdCompressor, ZstdDecompressor

_LEVEL = 1
"""Greater levels save nothing here. zlib's own level 1 made as few bytes in six times the time."""
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
"""What its frames begin with (RFC 8878, section 3.1.1)."""


def compressed(data: bytes) -> bytes:
    """The same in fewer bytes."""
    return ZstdCompressor(level=_LEVEL).compress(data)


def decompressed(data: bytes) -> bytes:
    """What was compressed, also by zlib: so it waits in savepoints of 2026."""
    return ZstdDecompressor().decompress(data) if data.startswith(_ZSTANDARD) else zlib.decompress(data)
