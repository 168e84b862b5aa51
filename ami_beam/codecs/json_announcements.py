"""Outages of the OMS and work at meters: JSON records in, announcements and dead letters out."""

from __future__ import annotations

from typing import Literal, get_args

from ami_beam.codecs import checks
from ami_beam.codecs.dead_letter_reasons import Reason, Rejection
from ami_beam.records import Announcement, DeadLetter, RecordBatch
from ami_beam.settings import Settings

Source = Literal["oms", "work"]
PLANNED, KNOWN = "PLANNED", "KNOWN"
EXCHANGE, DISCONNECT, TEST = "EXCHANGE", "DISCONNECT", "TEST"
ACTIVE, CANCELLED = "ACTIVE", "CANCELLED"
Entity = Literal["TRANSFORMER", "FEEDER"]
ENTITIES: tuple[Entity, ...] = get_args(Entity)
REQUIRED = {
    "oms": ("outage_id", "kind", "status", "entity_type", "entity_id", "from"),
    "work": ("work_id", "kind", "status", "meter_id", "from", "to"),
}


class AnnouncementDecoder:
    """Every record becomes exactly one announcement or exactly one dead letter, in the order of the records.

    A `reason` is checked and dropped: it is a free text, and no output has one.

    Args:
      settings: the rules of the run.
      source: which of the two formats.
    """

    def __init__(self, settings: Settings, source: Source) -> None:
        self._settings = settings
        self._source: Source = source

    def decode(self, batch: RecordBatch, now: int | None) -> tuple[list[Announcement], list[DeadLetter]]:
        """What is announced in `batch`, and its dead letters. `now`: wall clock in microseconds, needed when live."""
        greatest = checks.greatest_record_time(self._settings, now)
        found: list[Announcement] = []
        letters: list[DeadLetter] = []
        for partition, offset, record_time, value in zip(
            batch.partitions, batch.offsets, batch.record_times, batch.values, strict=True
        ):
            try:
                fields = self._fields_of(value)
                checks.check_present(fields, REQUIRED[self._source])
                at = checks.check_record_time(record_time, greatest)
                make = _outage if self._source == "oms" else _work
                found.append(make(fields, at, partition, offset))
            except Rejection as rejection:
                letters.append(
                    checks.dead_letter(
                        rejection.reason, rejection.detail, batch.topic, partition, offset, record_time, value
                    )
                )
        return found, letters

    def _fields_of(self, value: bytes | None) -> checks.Fields:
        """The fields as they were sent. Raises Rejection."""
        return checks.fields_of(value)


def _outage(fields: checks.Fields, record_time: int, partition: int, offset: int) -> Announcement:
    outage_id = checks.identifier(fields, "outage_id")
    kind = checks.word(fields, "kind", (PLANNED, KNOWN))
    status = checks.word(fields, "status", (ACTIVE, CANCELLED))
    entity_type: Entity = checks.word(fields, "entity_type", ENTITIES)
    entity_id = checks.identifier(fields, "entity_id")
    begins, ends = _span(fields)
    checks.optional_text(fields, "reason")
    return Announcement(
        "oms", outage_id, kind, status == ACTIVE, entity_type, entity_id, None, begins, ends,
        record_time, partition, offset, record_time,
    )  # fmt: skip


def _work(fields: checks.Fields, record_time: int, partition: int, offset: int) -> Announcement:
    work_id = checks.identifier(fields, "work_id")
    kind = checks.word(fields, "kind", (EXCHANGE, DISCONNECT, TEST))
    status = checks.word(fields, "status", (ACTIVE, CANCELLED))
    meter_id = checks.identifier(fields, "meter_id")
    named = fields.get("transformer_id") is not None
    transformer_id = checks.identifier(fields, "transformer_id") if named else None
    begins, ends = _span(fields)
    if ends is None:
        raise Rejection(Reason.WRONG_TYPE, "to must be a timestamp in a string.")
    return Announcement(
        "work", work_id, kind, status == ACTIVE, "METER", meter_id, transformer_id, begins, ends,
        record_time, partition, offset, record_time,
    )  # fmt: skip


def _span(fields: checks.Fields) -> tuple[int, int | None]:
    begins = checks.instant(fields, "from")
    ends = None if fields.get("to") is None else checks.instant(fields, "to")
    if ends is not None and begins >= ends:
        raise Rejection(Reason.INTERVAL_REVERSED, "from must be before to.")
    return begins, ends
