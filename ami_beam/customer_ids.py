"""What results name customers by: their ids as sent, a keyed hash of them, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any, Literal

from ami_beam.io import secret_manager

Policy = Literal["drop", "hmac", "keep"]
POLICIES: tuple[Policy, ...] = ("hmac", "keep", "drop")
LEAST_KEY_BYTES = 16
BLOCK = 64
"""Bytes that SHA-256 takes at once."""
DIGITS = 32
"""Of a hash: 128 bits, so that two of a billion customers are not one."""


class CustomerKeyError(ValueError):
    """A key that cannot be used; the message does not quote it."""


def load_key(path: str) -> bytes:
    """The key in a file or secret: its bytes without white space at either end. Raises CustomerKeyError."""
    try:
        if secret_manager.is_secret(path):
            key = _of_secret(path)
        else:
            with open(path, "rb") as file:
                key = file.read().strip()
    except OSError as error:
        raise CustomerKeyError(f"cannot be read: {error.strerror}") from None
    if len(key) < LEAST_KEY_BYTES:
        raise CustomerKeyError(f"holds {len(key)} bytes, which can be guessed; at least {LEAST_KEY_BYTES}")
    return key


def _of_secret(path: str) -> bytes:
    try:
        return secret_manager.read(path).strip()
    except secret_manager.SecretNameError as error:
        raise CustomerKeyError(str(error)) from None
    except Exception as error:  # of many kinds: of the client, of its transport, of its login
        raise CustomerKeyError(f"cannot be read ({type(error).__name__})") from None


def namer(policy: Policy, key_file: str | None) -> Callable[[list[str]], list[str]]:
    """What makes of customers' ids what results name them by. The same key gives the same names in every run.

    With "hmac" the first 128 bits of HMAC-SHA-256 of the id in UTF-8, as hexadecimal digits. Raises CustomerKeyError.
    """
    if policy == "keep":
        return list
    if policy == "drop":
        return _none
    assert key_file is not None
    key = load_key(key_file)

    # RFC 2104 with its two beginnings made once: half of what hmac costs, which is felt with every read.
    block = (sha256(key).digest() if len(key) > BLOCK else key).ljust(BLOCK, b"\0")
    inner, outer = (sha256(bytes(byte ^ pad for byte in block)) for pad in (0x36, 0x5C))

    def hashed(ids: list[str]) -> list[str]:
        return [_hash(inner, outer, each) for each in ids]

    return hashed


def _hash(inner: Any, outer: Any, text: str) -> str:
    message, whole = inner.copy(), outer.copy()
    message.update(text.encode())
    whole.update(message.digest())
    return whole.hexdigest()[:DIGITS]


def _none(_: list[str]) -> list[str]:
    return []
