"""Interval reads of the head-end as Avro in Confluent's wire format: held against the very same rules as JSON."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ami_beam.codecs import checks
from ami_beam.codecs.avro_columns import Column, NotPlainError, columns, steps_of
from ami_beam.codecs.dead_letter_reasons import Rejection
from ami_beam.codecs.json_reads import READ_TYPES, REQUIRED, ReadDecoder, _Candidates
from ami_beam.codecs.writer_schemas import HEAD_BYTES, MAGIC, WriterSchema, WriterSchemas, number_of
from ami_beam.instants import MAX_INSTANT
from ami_beam.read_columns import Ints, ReadColumns, from_reads, joined
from ami_beam.records import DeadLetter, Read, RecordBatch
from ami_beam.settings import Settings

_TEXTS = ("meter_id", "service_point_id", "customer_id", "transformer_id", "feeder_id", "read_type")
_INSTANTS = ("interval_start", "interval_end", "read_ts")
_NUMBERS = ("consumption_kwh", "delivered_kwh", "received_kwh")
_WANTED = frozenset((*REQUIRED, "voltage_v"))
_WHOLE, _BROKEN = ("int", "long"), ("float", "double")


class _Found(_Candidates):
    """Reads in columns of Avro, where all of them may be accepted as they are. Raises NotPlainError otherwise."""

    def __init__(
        self,
        fields: dict[str, Column],
        scales: dict[str, int],
        instants: checks.InstantCache,
        record_times: list[int],
        partitions: list[int],
        offsets: list[int],
    ) -> None:
        for name in REQUIRED:
            if name not in fields or not fields[name].complete:
                raise NotPlainError(f"{name} is not there")
        self.meter_ids, self.service_point_ids, self.customer_ids, self.transformer_ids, self.feeder_ids = [
            _texts(fields[name]) for name in _TEXTS[:-1]
        ]
        self.read_types = _texts(fields["read_type"])
        if not set(self.read_types) <= set(READ_TYPES):
            raise NotPlainError("another type of reads")
        self.start, self.end, self.read_ts = [_instants(fields[name], scales.get(name), instants) for name in _INSTANTS]
        self.consumption, self.delivered, self.received = [
            _typed(fields[name], _WHOLE + _BROKEN).astype(np.float64) for name in _NUMBERS
        ]
        self.voltage = _voltages(fields.get("voltage_v"), len(offsets))
        self.quality_codes = _typed(fields["power_quality_code"], _WHOLE)
        self.estimated = _typed(fields["estimated_flag"], ("boolean",))
        self.record_time = np.array(record_times, np.int64)
        self.window_end = self.end
        self.partitions = partitions
        self.offsets = offsets


class AvroReadDecoder(ReadDecoder):
    """What `ReadDecoder` promises, of reads in Avro: the same acceptance and the same reasons.

    A record is decoded by the schema that it was written with, and its fields are taken by their names: order, extra
    fields and a missing voltage do not matter, as in JSON. Instants are timestamp-micros, timestamp-millis, or texts as
    in JSON. Whoever looks the schemas up may fail, which fails the batch and makes no dead letter.

    Args:
      settings: the rules of the run.
      schemas: the writers' schemas.
      keep_customers: as for `ReadDecoder`.
    """

    def __init__(self, settings: Settings, schemas: WriterSchemas, keep_customers: bool = False) -> None:
        super().__init__(settings, keep_customers)
        self._schemas = schemas
        self._steps = cache(_steps)

    def __reduce__(self) -> Any:
        return AvroReadDecoder, (self._settings, self._schemas, self._keep_customers)

    def _clean_columns(self, batch: RecordBatch, greatest: int) -> ReadColumns | None:
        values = batch.values
        if not values or None in values or None in batch.record_times:
            return None
        first = values[0] or b""
        beginning = first[:HEAD_BYTES]
        if len(beginning) < HEAD_BYTES or not all(value.startswith(beginning) for value in values):  # type: ignore[union-attr]
            return None
        found = self._found(batch)
        return self._columns(found) if found is not None and self._acceptable(found, greatest).all() else None

    def _found(self, batch: RecordBatch) -> _Found | None:
        """The reads of records that have one schema. None where they must be looked at one by one."""
        try:
            schema = self._schemas.schema(number_of(batch.values[0]))
            steps = self._steps(schema)
            if steps is None:
                return None
            fields = columns(batch.values, steps, _WANTED)  # type: ignore[arg-type]
            return _Found(
                fields, schema.scales, self._instants, batch.record_times, batch.partitions, batch.offsets  # type: ignore[arg-type]
            )  # fmt: skip
        except (Rejection, NotPlainError, OverflowError):
            return None

    def _sorted_out(self, batch: RecordBatch, greatest: int, letters: list[DeadLetter]) -> ReadColumns:
        by_schema: dict[bytes, list[int]] = {}
        doubtful: list[int] = []
        for place, (record_time, value) in enumerate(zip(batch.record_times, batch.values, strict=True)):
            plausible = record_time is not None and 0 <= record_time <= greatest
            if plausible and value is not None and len(value) > HEAD_BYTES and value.startswith(MAGIC):
                by_schema.setdefault(value[:HEAD_BYTES], []).append(place)
            else:
                doubtful.append(place)
        parts: list[ReadColumns] = []
        places: list[int] = []
        for some in by_schema.values():
            found = self._found(batch.at(some))
            if found is None:
                doubtful += some
                continue
            acceptable = self._acceptable(found, greatest)
            doubtful += [some[i] for i in np.flatnonzero(~acceptable).tolist()]
            chosen = np.flatnonzero(acceptable)
            parts.append(self._columns(found).take(chosen))
            places += [some[i] for i in chosen.tolist()]
        reads: list[Read] = []
        for place in sorted(doubtful):
            before = len(reads)
            self._decode_one(
                batch.topic, batch.partitions[place], batch.offsets[place], batch.record_times[place],
                batch.values[place], greatest, reads, letters, self._fields_of, self._instants,
            )  # fmt: skip
            if len(reads) > before:
                places.append(place)
        parts.append(from_reads(reads))
        return joined(parts).take(np.argsort(np.array(places, np.int64)))

    def _fields_of(self, value: bytes | None) -> checks.Fields:
        return avro_fields(value, self._schemas)


def avro_fields(value: bytes | None, schemas: WriterSchemas) -> checks.Fields:
    """The fields of a record in wire format. Raises Rejection, or what `schemas` raises."""
    number = number_of(value)
    assert value is not None
    return schemas.schema(number).fields_of(value)


def _steps(schema: WriterSchema) -> tuple[tuple[str, str, int | None], ...] | None:
    return None if schema.problem is not None else steps_of(schema.fields)


def _texts(column: Column) -> list[str]:
    if column.kind != "string" or not all(column.values):
        raise NotPlainError("no text, or an empty one")
    return column.values


def _typed(column: Column, kinds: tuple[str, ...]) -> Any:
    if column.kind not in kinds:
        raise NotPlainError("of another type")
    return column.values


def _instants(column: Column, scale: int | None, instants: checks.InstantCache) -> Ints:
    if column.kind == "string":
        return np.array(list(map(instants.__getitem__, column.values)), np.int64)
    if column.kind != "long" or scale is None:
        raise NotPlainError("no instant")
    units: Ints = column.values
    if not ((units >= 0) & (units <= MAX_INSTANT // scale)).all():
        raise NotPlainError("no instant")
    return units * scale


def _voltages(column: Column | None, count: int) -> Any:
    """NaN where there is none. One that was sent as NaN is not the same."""
    if column is None or column.kind == "null":
        return np.full(count, np.nan)
    volts = _typed(column, _WHOLE + _BROKEN).astype(np.float64)
    present = np.ones(count, np.bool_) if column.present is None else column.present
    if np.isnan(volts[present]).any():
        raise NotPlainError("no number")
    volts[~present] = np.nan
    return volts
