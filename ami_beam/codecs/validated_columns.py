"""Many records of `ami.reads.validated` at once, as the columns that a reconciliation compares."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import groupby
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
from msgspec import Struct

from ami_beam.codecs.checks import Micros
from ami_beam.codecs.dead_letter_reasons import Reason, Rejection
from ami_beam.codecs.writer_schemas import MAGIC, WriterSchemas, number_of
from ami_beam.instants import MAX_INSTANT, MIN_INSTANT, parse_instant
from ami_beam.local_days import EPOCH
from ami_beam.reconcile_rows import ENERGIES, ESTIMATED, HERE, LATE, MAX_KWH, MICROS_PER_KWH, REVISED

_instant_of = lru_cache(maxsize=1 << 16)(parse_instant)
_MICROSECOND = timedelta(microseconds=1)


class _Said(Struct, gc=False):
    """What is needed of a `ValidatedRead`, but for its instants."""

    meter_id: str
    consumption_kwh: float
    delivered_kwh: float
    received_kwh: float
    quality: Literal["ACTUAL", "ESTIMATED"]
    late: bool
    revised: bool


class _Read(_Said, tag_field="record", tag="READ", gc=False):
    """Of a record in JSON."""

    interval_end: str
    as_of: str


class _Day(Struct, tag_field="record", tag="METER_DAY", gc=False):
    """A record that is not about one interval."""


_decoder = msgspec.json.Decoder(_Read | _Day)


class _AvroRead(_Said, gc=False):
    """Of a record in a file of Avro."""

    interval_end: datetime
    as_of: datetime


class _WireRead(_Said, gc=False):
    """Of a record on Kafka in Avro, whose instants are microseconds."""

    interval_end: int
    as_of: int


AVRO_FIELDS = _AvroRead.__struct_fields__
_INSTANTS = ("interval_end", "as_of")


def json_columns(values: Sequence[bytes], bad: Callable[[int, str], None]) -> pa.RecordBatch:
    """The reads among the records, in order; `bad` is told the number of every other that is none, and why."""
    rows: list[Any] = []
    with suppress(msgspec.MsgspecError, UnicodeDecodeError):
        rows = _decoder.decode_lines(b"\n".join(values))
    numbers: Sequence[int] = range(len(values))
    if len(rows) != len(values):
        rows, numbers = [], []
        for number, value in enumerate(values):
            try:
                rows.append(_decoder.decode(value))
                numbers.append(number)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                bad(number, str(error))
    reads = [row for row in rows if type(row) is _Read]
    try:
        return _columns(reads, _text_ends([read.interval_end for read in reads]), _texts([r.as_of for r in reads]))
    except ValueError:
        pass
    good = []
    for number, row in zip(numbers, rows, strict=True):
        if type(row) is not _Read:
            continue
        problem = _problem(row)
        if problem is None:
            good.append(row)
        else:
            bad(number, problem)
    ends, as_of = ([_instant_of(getattr(row, name)) for row in good] for name in _INSTANTS)
    return _columns(good, np.array(ends, np.int64), np.array(as_of, np.int64))


def avro_columns(records: Sequence[Mapping[str, Any]], bad: Callable[[int, str], None]) -> pa.RecordBatch:
    """The same of records that fastavro has read."""
    rows: list[_AvroRead] = []
    for number, record in enumerate(records):
        if record.get("record", "READ") != "READ":
            continue
        try:
            row = msgspec.convert({name: record[name] for name in AVRO_FIELDS}, _AvroRead, str_keys=True)
            problem = _problem(row)
        except (msgspec.MsgspecError, KeyError) as error:
            problem = str(error)
        if problem is None:
            rows.append(row)
        else:
            bad(number, problem)
    return _columns(rows, _moments([row.interval_end for row in rows]), _moments([row.as_of for row in rows]))


def wire_columns(
    values: Sequence[bytes], schemas: WriterSchemas | None, bad: Callable[[int, str], None]
) -> Iterator[pa.RecordBatch]:
    """The same of values on Kafka, which may be JSON and Avro in one topic.

    Args:
      schemas: what those in Avro were written with; without them each is bad.
    """
    first = 0
    # Run by run: of equal rows the last one counts.
    for is_avro, run in groupby(values, lambda value: value.startswith(MAGIC)):
        several = list(run)

        def bad_here(place: int, text: str, first: int = first) -> None:
            bad(first + place, text)

        yield _avro_values(several, schemas, bad_here) if is_avro else json_columns(several, bad_here)
        first += len(several)


def _avro_values(
    values: Sequence[bytes], schemas: WriterSchemas | None, bad: Callable[[int, str], None]
) -> pa.RecordBatch:
    rows: list[_WireRead] = []
    for number, value in enumerate(values):
        try:
            row = _wire_read(value, schemas)
            problem = None if row is None else _problem(row)
        except (msgspec.MsgspecError, KeyError) as error:
            row, problem = None, f"field {error} is missing" if isinstance(error, KeyError) else str(error)
        except Rejection as rejection:
            row, problem = None, rejection.detail
        if problem is not None:
            bad(number, problem)
        elif row is not None:
            rows.append(row)
    ends, as_of = (np.array([getattr(row, name) for row in rows], np.int64) for name in _INSTANTS)
    return _columns(rows, ends, as_of)


def _wire_read(value: bytes, schemas: WriterSchemas | None) -> _WireRead | None:
    """The read; None for a record of something else. Raises Rejection, KeyError and msgspec's errors."""
    if schemas is None:
        raise Rejection(Reason.INVALID_AVRO, "It is in Avro: --schema_registry must say where its schema is.")
    fields = schemas.schema(number_of(value)).fields_of(value)
    if fields.get("record", "READ") != "READ":
        return None
    needed: dict[str, Any] = {name: fields[name] for name in AVRO_FIELDS}
    for name in _INSTANTS:
        if not isinstance(needed[name], Micros):
            raise Rejection(Reason.INVALID_AVRO, f"{name} is no instant: its logical type must be timestamp-micros.")
        needed[name] = int(needed[name])
    return msgspec.convert(needed, _WireRead, str_keys=True)


def _columns(reads: Sequence[_Read | _AvroRead | _WireRead], ends: np.ndarray, as_of: np.ndarray) -> pa.RecordBatch:
    energies = []
    for name in ENERGIES:
        numbers = np.array([getattr(read, name) for read in reads], np.float64)
        # What we publish as IMPLAUSIBLE may be any number; no export has one that is equal.
        micros = np.rint(np.clip(numbers, -MAX_KWH, MAX_KWH) * MICROS_PER_KWH)
        energies.append(pa.array(micros.astype(np.int64)))
    flags = [(read.quality == "ESTIMATED") * ESTIMATED + read.late * LATE + read.revised * REVISED for read in reads]
    return pa.RecordBatch.from_arrays(
        [
            pa.array([read.meter_id for read in reads], pa.string()),
            pa.array(ends),
            pa.array(as_of),
            *energies,
            pa.array(np.array(flags, np.uint8)),
        ],
        schema=HERE,
    )


def _problem(read: _Read | _AvroRead | _WireRead) -> str | None:
    for name in _INSTANTS:
        value = getattr(read, name)
        try:
            if isinstance(value, str):
                parse_instant(value)
            elif isinstance(value, int):
                if not MIN_INSTANT <= value <= MAX_INSTANT:
                    return f"{name}: no instant that can be written"
            elif value.tzinfo is None:
                return f"{name} has no zone: its logical type must be timestamp-micros"
        except ValueError as error:
            return f"{name}: {error}"
    # JSON has no NaN, Avro has.
    nan = [name for name in ENERGIES if math.isnan(getattr(read, name))]
    return f"{nan[0]} is no number" if nan else None


def _text_ends(texts: list[str]) -> np.ndarray:
    """Of texts that are few: many meters have the same."""
    return np.fromiter(map(_instant_of, texts), np.int64, len(texts))


def _texts(texts: list[str]) -> np.ndarray:
    """Of texts that differ; Arrow's parser is quicker, and takes what ours writes."""
    return pa.array(texts, pa.string()).cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()


def _moments(moments: list[datetime]) -> np.ndarray:
    return np.array([(moment.astimezone(UTC) - EPOCH) // _MICROSECOND for moment in moments], np.int64)
