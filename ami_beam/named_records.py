"""Those records of a batch that may name something, found in their bytes before any is decoded."""

from __future__ import annotations

from ami_beam.records import RecordBatch


def that_name(batch: RecordBatch, name: bytes) -> RecordBatch:
    """The records that may hold the name: with an escape in them any name may be meant."""
    return batch.at([place for place, value in enumerate(batch.values) if value and (name in value or b"\\u" in value)])
