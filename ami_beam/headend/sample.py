"""What becomes of a saved answer, for whoever writes a source's file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from decimal import Decimal

import msgspec

from ami_beam.headend.clocks import Series
from ami_beam.headend.json_paths import records_of
from ami_beam.headend.lookup import LookupFile
from ami_beam.headend.mapping import Mapped, Mapper
from ami_beam.headend.source_file import Source


def mapped_sample(source: Source, answer: bytes) -> Iterator[str]:
    """A line for each record: as it would be published, or why it would be set aside.

    Raises PathError, TableError and msgspec.DecodeError.
    """
    rows = None if source.lookup is None else LookupFile(source.lookup).rows()
    document = msgspec.json.Decoder(float_hook=Decimal).decode(answer)
    series = Series(source.times.order == "descending")
    records = list(records_of(document, source.records))
    for each in Mapper(source, rows).map(records, series, time.time_ns() // 1_000):
        yield each.value.decode() if isinstance(each, Mapped) else f"set aside: {each.reason}: {each.detail}"
