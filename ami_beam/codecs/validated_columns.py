"""Many records of `ami.reads.validated` at once, as the columns that a reconciliation compares."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
from msgspec import Struct

from ami_beam.instants import parse_instant
from ami_beam.local_days import EPOCH
from ami_beam.reconcile_rows import ENERGIES, ESTIMATED, HERE, LATE, MAX_KWH, MICROS_PER_KWH, REVISED

_instant_of = lru_cache(maxsize=1 << 16)(parse_instant)
_MICROSECOND = timedelta(microseconds=1)


class _Read(Struct, tag_field="record", tag="READ", gc=False):
    """What is needed of a `ValidatedRead`."""

    meter_id: str
    interval_end: str
    consumption_kwh: float
    delivered_kwh: float
    received_kwh: float
    quality: Literal["ACTUAL", "ESTIMATED"]
    late: bool
    revised: bool
    as_of: str


class _Day(Struct, tag_field="record", tag="METER_DAY", gc=False):
    """A record that is not about one interval."""


_decoder = msgspec.json.Decoder(_Read | _Day)


class _AvroRead(Struct, gc=False):
    """The same of an Avro record, whose instants are datetimes."""

    meter_id: str
    interval_end: datetime
    consumption_kwh: float
    delivered_kwh: float
    received_kwh: float
    quality: Literal["ACTUAL", "ESTIMATED"]
    late: bool
    revised: bool
    as_of: datetime


AVRO_FIELDS = _AvroRead.__struct_fields__


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
    ends, as_of = ([_instant_of(getattr(row, name)) for row in good] for name in ("interval_end", "as_of"))
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


def _columns(reads: Sequence[_Read | _AvroRead], ends: np.ndarray, as_of: np.ndarray) -> pa.RecordBatch:
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


def _problem(read: _Read | _AvroRead) -> str | None:
    for name in ("interval_end", "as_of"):
        value = getattr(read, name)
        try:
            if isinstance(value, str):
                parse_instant(value)
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
