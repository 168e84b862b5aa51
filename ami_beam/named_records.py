"""Those records of a batch that may name something, found in their bytes before any is decoded."""

from __future__ import annotations

from ami_beam.records import RecordBatch


def that_name(batch: RecordBatch, name: bytes) -> RecordBatch:
    """The records that may hold the name: with an escape in them any name may be meant."""
    places = [place for place, value in enumerate(batch.values) if value and (name in value or b"\\u" in value)]
    return RecordBatch(
        batch.topic,
        [batch.partitions[place] for place in places],
        [batch.offsets[place] for place in places],
        [batch.record_times[place] for place in places],
        [batch.values[place] for place in places],
    )
