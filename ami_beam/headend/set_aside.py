"""What cannot be published as one of our records, with its original bytes: the records of the set-aside topic."""

from __future__ import annotations

import base64
import hashlib
from typing import Literal

import msgspec
from msgspec import Struct

from ami_beam.codecs.json_outputs import MAX_LETTER_BYTES
from ami_beam.instants import format_instant


class SetAside(Struct, frozen=True):
    """A page or a record that was set aside."""

    source: str
    what: Literal["record", "page"]
    reason: str
    """A stable code."""
    detail: str
    url: str
    """Of the page, without what may be secret."""
    at: str
    original_b64: str
    """The bytes; the first of them where `truncated`."""
    size: int
    sha256: str
    truncated: bool


def set_aside(
    source: str, what: Literal["record", "page"], reason: str, detail: str, url: str, at: int, original: bytes
) -> SetAside:
    """The record for some bytes."""
    kept = original[:MAX_LETTER_BYTES]
    return SetAside(
        source, what, reason, detail, url, format_instant(at), base64.b64encode(kept).decode(), len(original),
        hashlib.sha256(original).hexdigest(), len(kept) < len(original),
    )  # fmt: skip


def encode_set_aside(record: SetAside) -> bytes:
    return msgspec.json.encode(record)
