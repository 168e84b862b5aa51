"""Which records have been seen: sets of ids that take little memory."""

from __future__ import annotations

from ami_beam.codecs.stored_letters import RecordId


class RecordSet:
    """A set of record ids: a number each, where tuples of their own would take four times as much."""

    def __init__(self) -> None:
        self._offsets: dict[tuple[str, int], set[int]] = {}

    def __contains__(self, record: RecordId) -> bool:
        return record.offset in self._offsets.get((record.topic, record.partition), ())

    def __len__(self) -> int:
        return sum(map(len, self._offsets.values()))

    def add(self, record: RecordId) -> bool:
        """Whether it was not in there before."""
        offsets = self._offsets.setdefault((record.topic, record.partition), set())
        known = record.offset in offsets
        offsets.add(record.offset)
        return not known
