"""Meter events of the head-end: JSON records in, accepted events and dead letters out."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from ami_beam.codecs import checks
from ami_beam.codecs.dead_letter_reasons import Reason, Rejection
from ami_beam.codecs.strict_json import may_be_too_deep
from ami_beam.records import DeadLetter, Event, RecordBatch
from ami_beam.settings import Settings

REQUIRED = ("meter_id", "event_code", "event_ts")
"""Every field but event_desc, for which the code has a standard name."""


class _WireEvent(Struct, gc=False):
    """An event as msgspec may decode it; the timestamp stays a text, as in reads."""

    meter_id: Annotated[str, Meta(min_length=1)]
    event_code: Annotated[int, Meta(ge=checks.MIN_INT64, le=checks.MAX_INT64)] | str
    event_ts: str
    event_desc: str | None = None


class EventDecoder:
    """Every record becomes exactly one accepted event or exactly one dead letter, in the order of the records.

    Events of any code are accepted, however late or early: only what cannot be understood is set aside, because an
    event is a fact on its own. `decode_carefully` is the definition and `decode` its fast form, see `ReadDecoder`.

    Args:
      settings: the rules of the run.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._decode_wire = msgspec.json.Decoder(_WireEvent).decode
        self._instants = checks.InstantCache()
        self._texts = settings.event_map.texts()

    def __reduce__(self) -> tuple[type[EventDecoder], tuple[Settings]]:
        return EventDecoder, (self._settings,)

    def decode(self, batch: RecordBatch, now: int | None) -> tuple[list[Event], list[DeadLetter]]:
        """The accepted events of `batch` and its dead letters. `now`: wall clock in microseconds, needed when live."""
        greatest = checks.greatest_record_time(self._settings, now)
        events: list[Event] = []
        letters: list[DeadLetter] = []
        for partition, offset, record_time, value in zip(
            batch.partitions, batch.offsets, batch.record_times, batch.values, strict=True
        ):
            if value and record_time is not None and 0 <= record_time <= greatest and not may_be_too_deep(value):
                try:
                    if not value.isascii():
                        value.decode("utf-8")
                    wire = self._decode_wire(value)
                    event_ts = self._instants[wire.event_ts]
                    if type(wire.event_code) is not int and wire.event_code not in self._texts:
                        event_ts = self._instants.NONE
                except (msgspec.DecodeError, ValueError, RecursionError):
                    event_ts = self._instants.NONE  # the definition says what is wrong, if anything is
                if event_ts >= 0:
                    events.append(
                        Event(
                            wire.meter_id,
                            wire.event_code,
                            wire.event_desc,
                            event_ts,
                            record_time,
                            partition,
                            offset,
                        )
                    )
                    continue
            self._decode_one(batch.topic, partition, offset, record_time, value, greatest, events, letters)
        return events, letters

    def decode_carefully(self, batch: RecordBatch, now: int | None) -> tuple[list[Event], list[DeadLetter]]:
        """What `decode` gives, by definition."""
        greatest = checks.greatest_record_time(self._settings, now)
        events: list[Event] = []
        letters: list[DeadLetter] = []
        for partition, offset, record_time, value in zip(
            batch.partitions, batch.offsets, batch.record_times, batch.values, strict=True
        ):
            self._decode_one(batch.topic, partition, offset, record_time, value, greatest, events, letters)
        return events, letters

    def _fields_of(self, value: bytes | None) -> checks.Fields:
        """A record's fields, by definition."""
        return checks.fields_of(value)

    def _code(self, fields: checks.Fields) -> int | str:
        """An integer, or a text that the event map has."""
        code = fields["event_code"]
        if not self._texts or not isinstance(code, str):
            return checks.integer(fields, "event_code")
        if code not in self._texts:
            raise Rejection(Reason.WRONG_TYPE, "event_code must be an integer, or a text that the event map has.")
        return code

    def _decode_one(
        self,
        topic: str,
        partition: int,
        offset: int,
        record_time: int | None,
        value: bytes | None,
        greatest: int,
        events: list[Event],
        letters: list[DeadLetter],
    ) -> None:
        """Adds the record to `events` or to `letters`. The first rule that is broken is the letter's reason."""
        try:
            fields = self._fields_of(value)
            checks.check_present(fields, REQUIRED)
            event = Event(
                meter_id=checks.identifier(fields, "meter_id"),
                event_code=self._code(fields),
                event_desc=checks.optional_text(fields, "event_desc"),
                event_ts=checks.instant(fields, "event_ts"),
                record_time=checks.check_record_time(record_time, greatest),
                partition=partition,
                offset=offset,
            )
        except Rejection as rejection:
            letters.append(
                checks.dead_letter(rejection.reason, rejection.detail, topic, partition, offset, record_time, value)
            )
        else:
            events.append(event)
