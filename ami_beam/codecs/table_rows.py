"""Records of result topics as rows of tables: the JSON decoded by the catalogue's types, values in a table's order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Union

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from ami_beam.postgresql.tables import RESULT_TABLES, Table
from ami_beam.results import RESULTS, Field, Kind, Result

_JSON: dict[Kind, Any] = {
    Kind.TEXT: str,
    Kind.INTEGER: int,
    Kind.NUMBER: float,
    Kind.CONDITION: bool,
    # PostgreSQL reads RFC 3339, and takes the text as it is.
    Kind.INSTANT: str,
    Kind.BYTES: str,
    Kind.TEXTS: list[str],
    Kind.INTEGERS: list[int],
}


@dataclass(frozen=True, slots=True)
class Version:
    """A row of a table as one record has it."""

    values: tuple[Any, ...]
    """In the order of the table's columns."""
    as_of: str
    """Greater texts are later; empty where rows have no versions."""
    record: bytes
    """The JSON itself."""


class TopicRows:
    """Gathers records of one topic. Of every identity it keeps the version that counts: greatest as_of, then last."""

    def __init__(self, topic: str) -> None:
        known = [(table, result) for table, result in zip(RESULT_TABLES, RESULTS, strict=True) if result.topic == topic]
        if not known:
            raise ValueError(f"the catalogue of results has no topic {topic}")
        kinds = [_row_kind(result) for _, result in known]
        self._decode = msgspec.json.Decoder(Union[tuple(kinds)]).decode  # noqa: UP007
        self._of: dict[type, tuple[Callable[[Any], Any], bool, dict[Any, Version]]] = {}
        self._tables: list[tuple[Table, dict[Any, Version]]] = []
        for kind, (table, _) in zip(kinds, known, strict=True):
            rows: dict[Any, Version] = {}
            self._of[kind] = attrgetter(*table.identity), table.versioned, rows
            self._tables.append((table, rows))
        self.records = 0
        self.size = 0
        """Bytes of JSON that are kept, or were."""

    def add(self, record: bytes) -> None:
        """Take one record. Raises msgspec.MsgspecError where it is none of the topic's."""
        row = self._decode(record)
        identity_of, versioned, rows = self._of[type(row)]
        identity = identity_of(row)
        self.records += 1
        self.size += len(record)
        kept = rows.get(identity)
        if not versioned:
            if kept is None:
                rows[identity] = Version(astuple(row), "", record)
            return
        # Without the Z: "…00Z" would be greater than "…00.5Z".
        as_of = row.as_of[:-1]
        if kept is None or as_of >= kept.as_of:
            rows[identity] = Version(astuple(row), as_of, record)

    def take(self) -> list[tuple[Table, list[Version]]]:
        """What was gathered, by table, and begin anew."""
        taken = [(table, list(rows.values())) for table, rows in self._tables if rows]
        for _, rows in self._tables:
            rows.clear()
        self.records = self.size = 0
        return taken


def _row_kind(result: Result) -> type[Struct]:
    """A type for the rows of one table as JSON has them."""
    fields = [_typed(field) for field in result.fields]
    name = "".join(part.capitalize() for part in result.table.split("_")) + "Json"
    if result.kind is None:
        return msgspec.defstruct(name, fields, kw_only=True, gc=False)
    return msgspec.defstruct(name, fields, kw_only=True, gc=False, tag_field=result.kind[0], tag=result.kind[1])


def _typed(field: Field) -> tuple[str, Any] | tuple[str, Any, Any]:
    own = _JSON[field.kind]
    return (field.name, own | None, None) if field.optional else (field.name, own)
