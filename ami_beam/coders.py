"""How record types cross a shuffle and rest in state: MessagePack by msgspec, never pickle."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from apache_beam import coders
from apache_beam.coders import registry


class MsgspecCoder(coders.Coder):
    """Carries one msgspec Struct type as MessagePack; what is decoded equals what was encoded.

    Types are registered where they are defined, with `carries`, so that no process can forget to.
    """

    def __init__(self, record_type: type):
        self._type = record_type
        self._encode = _encoder().encode
        self._decode = _decoder(record_type).decode

    def encode(self, value: Any) -> bytes:
        return self._encode(value)

    def decode(self, encoded: bytes) -> Any:
        return self._decode(encoded)

    def __reduce__(self) -> tuple[type[MsgspecCoder], tuple[type]]:
        return MsgspecCoder, (self._type,)

    def is_deterministic(self) -> bool:
        # Equal values can differ in bytes (1 and 1.0 in a float field), so a record must never be a key.
        return False

    def to_type_hint(self) -> type:
        return self._type

    @classmethod
    def from_type_hint(cls, typehint: Any, registry: Any) -> MsgspecCoder:  # type: ignore[override]
        return cls(typehint)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._type is other._type

    def __hash__(self) -> int:
        return hash((MsgspecCoder, self._type))

    def __repr__(self) -> str:
        return f"MsgspecCoder[{self._type.__name__}]"


@cache
def _encoder() -> msgspec.msgpack.Encoder:
    return msgspec.msgpack.Encoder()


@cache
def _decoder(record_type: type) -> msgspec.msgpack.Decoder:
    return msgspec.msgpack.Decoder(record_type)


def carries(*record_types: type) -> None:
    """Make Beam choose `MsgspecCoder` for these types wherever they are named in type hints."""
    for record_type in record_types:
        registry.register_coder(record_type, MsgspecCoder)
