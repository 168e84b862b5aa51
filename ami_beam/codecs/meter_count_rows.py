"""Rows of meter counts from whatever has columns: a CSV, JSON-lines or Avro file, a record of a topic, a table.

A table is taken whole or not at all: a row left out would silence its transformer's alerts, so one bad row refuses it.
"""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import fastavro
import msgspec

from ami_beam.csv_table import TableError, strict_header
from ami_beam.instants import MICROS_PER_MILLI, MICROS_PER_MINUTE, format_duration, parse_instant
from ami_beam.meter_counts import MeterCountsError
from ami_beam.records import MeterCount

COLUMNS = (
    "transformer_id", "total_meters", "nominal_voltage_v", "receipt_delay_minutes", "effective_from",
    "collection_group",
)  # fmt: skip
REQUIRED = COLUMNS[:2]
SHOWN_PROBLEMS = 10
AVRO_MAGIC = b"Obj\x01"
"""How an Avro object container file begins."""
_MAX_METERS = 1_000_000_000
_log = logging.getLogger(__name__)
Fields = Mapping[str, Any]


def parse(content: bytes, name: str, max_receipt_delay: int | None = None) -> list[MeterCount]:
    """The rows of a CSV, JSON-lines or Avro file. Raises MeterCountsError with the first problems of all rows.

    What it is, its first bytes say. `name` is for messages; `max_receipt_delay` (µs, the allowed lateness) is the
    longest receipt delay a row may ask for.
    """
    problems: list[str] = []
    if content.startswith(AVRO_MAGIC):
        return checked(_avro_rows(content, name), name, max_receipt_delay, problems)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MeterCountsError(f"{name}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    if text.lstrip().startswith("{"):
        return checked(_json_lines(text, problems), name, max_receipt_delay, problems)
    return checked(_csv_lines(text, name, problems), name, max_receipt_delay, problems, texts=True)


def checked(
    found: Iterable[tuple[str, Fields]],
    name: str,
    max_receipt_delay: int | None,
    problems: list[str],
    texts: bool = False,
) -> list[MeterCount]:
    """The rows of a table, if all of them are good. Raises MeterCountsError with the first problems of all rows.

    Args:
      found: of each row where it is, for messages, and its values by column.
      problems: what was wrong before; looked at when `found` has ended.
      texts: whether values are texts without a type, as in CSV.
    """
    rows: list[MeterCount] = []
    first_places: dict[tuple[str, int | None], str] = {}
    unknown: set[str] = set()
    for place, fields in found:
        unknown.update(fields.keys() - set(COLUMNS))
        try:
            row = row_of(fields, max_receipt_delay, texts)
        except ValueError as error:
            problems.append(f"{place}: {error}")
            continue
        first = first_places.setdefault((row.transformer_id, row.effective_from), place)
        if first != place:
            problems.append(
                f"{place}: transformer_id {row.transformer_id!r} with the same effective_from is on {first} already;"
                " remove one of them"
            )
        rows.append(row)
    if problems:
        raise MeterCountsError("\n  ".join([f"{name}: bad meter counts", *shown(problems)]))
    if not rows:
        raise no_rows(name)
    if unknown:
        _log.warning("%s: unknown columns ignored: %s", name, ", ".join(sorted(unknown)))
    return rows


def no_rows(name: str) -> MeterCountsError:
    """What is wrong with an empty table."""
    return MeterCountsError(f"{name}: no rows; expected at least one transformer_id with its total_meters")


def shown(problems: Sequence[str]) -> list[str]:
    """The first of them, and how many more there are."""
    more = [f"and {len(problems) - SHOWN_PROBLEMS} more"] if len(problems) > SHOWN_PROBLEMS else []
    return [*problems[:SHOWN_PROBLEMS], *more]


def header(values: Sequence[str], name: str) -> list[str]:
    """The names of the columns. Raises MeterCountsError where one that is needed is missing, or one is there twice."""
    try:
        return strict_header(values, name, REQUIRED, COLUMNS)
    except TableError as error:
        raise MeterCountsError(str(error)) from None


def _csv_lines(text: str, name: str, problems: list[str]) -> Iterator[tuple[str, Fields]]:
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    columns: list[str] | None = None
    try:
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            if columns is None:
                columns = header(values, name)
            elif len(values) != len(columns):
                problems.append(
                    f"line {reader.line_num}: {len(values)} values under {len(columns)} columns; quote commas"
                )
            else:
                yield f"line {reader.line_num}", dict(zip(columns, values, strict=True))
    except csv.Error as error:
        problems.append(f"line {reader.line_num}: not CSV: {error}; check the quotes")


def _json_lines(text: str, problems: list[str]) -> Iterator[tuple[str, Fields]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = json_fields(line)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
            continue
        yield f"line {number}", fields


def _avro_rows(content: bytes, name: str) -> Iterator[tuple[str, Fields]]:
    try:
        records = fastavro.reader(io.BytesIO(content))
        schema = records.writer_schema
        if not isinstance(schema, dict) or schema.get("type") != "record":
            raise MeterCountsError(f"{name}: its Avro schema is no record; expected one with {', '.join(COLUMNS)}")
        names = [field["name"] for field in schema["fields"]]
        missing = [column for column in REQUIRED if column not in names]
        if missing:
            raise MeterCountsError(
                f"{name}: its Avro schema has no field {' and '.join(missing)}; fields are {', '.join(COLUMNS)}"
            )
        for number, record in enumerate(records, start=1):
            assert isinstance(record, dict)
            yield f"row {number}", record
    except MeterCountsError:
        raise
    except Exception as error:  # fastavro gives whatever the bytes lead it to
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise MeterCountsError(f"{name}: damaged or truncated Avro file ({reason}); write it again") from None


def json_fields(text: str | bytes) -> dict[str, Any]:
    """The values of one row as JSON. Raises ValueError."""
    try:
        return _decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f'not a JSON object: {error}; expected {{"transformer_id": "TR-1", …}}') from None


_decode = msgspec.json.Decoder(dict[str, Any]).decode


def row_of(fields: Fields, max_receipt_delay: int | None, texts: bool = False) -> MeterCount:
    """The row of these values by column. Raises ValueError with field, value and fix.

    Args:
      max_receipt_delay: the longest receipt delay a row may ask for, in microseconds.
      texts: whether values are texts without a type, as in CSV; else a number is a number, and a time a text or a
        datetime with a zone.
    """

    def value_of(column: str) -> Any:
        value = fields.get(column)
        if isinstance(value, str) and texts and column != "transformer_id":
            value = value.strip()
        return None if value == "" else value

    transformer_id = value_of("transformer_id")
    if not isinstance(transformer_id, str) or transformer_id != transformer_id.strip():
        raise _bad("transformer_id", transformer_id, "write the id as the reads have it, without spaces around it")
    total_meters = _number(value_of("total_meters"), texts, int)
    if total_meters is None or not 1 <= total_meters <= _MAX_METERS:
        fix = f"an integer from 1 to {_MAX_METERS}; remove a transformer that has no meters"
        raise _bad("total_meters", fields.get("total_meters"), fix)
    nominal = value_of("nominal_voltage_v")
    if nominal is not None:
        nominal = _number(nominal, texts, float)
        if nominal is None or not 0 < nominal <= 1_000_000:
            raise _bad(
                "nominal_voltage_v", fields["nominal_voltage_v"], "volts above 0, for example 230; or leave it empty"
            )
    delay = value_of("receipt_delay_minutes")
    if delay is not None:
        delay = _receipt_delay(_number(delay, texts, float), fields["receipt_delay_minutes"], max_receipt_delay)
    effective_from = value_of("effective_from")
    if effective_from is not None:
        try:
            effective_from = _instant(effective_from)
        except (ValueError, TypeError, OverflowError):
            fix = "a time with a zone, for example 2026-03-03T00:00:00Z; or leave it empty"
            raise _bad("effective_from", fields["effective_from"], fix) from None
    group = value_of("collection_group")
    if group is not None and (not isinstance(group, str) or group != group.strip()):
        fix = "the name of the collector as a text, without spaces around it; or leave it empty"
        raise _bad("collection_group", group, fix)
    return MeterCount(transformer_id, int(total_meters), nominal, delay, effective_from, group)


def _instant(value: Any) -> int:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("no zone")
        value = value.astimezone(UTC).isoformat()
    return parse_instant(value)


def _number(value: Any, texts: bool, kind: Callable[[Any], Any]) -> Any:
    """The number, None when it is none: CSV holds text, the others numbers; true is not 1."""
    if not texts:
        # A decimal is what databases call a whole number, too.
        whole = isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value()
        allowed: tuple[type, ...] = (int,) if kind is int else (int, float, Decimal)
        if isinstance(value, bool) or not (whole or isinstance(value, allowed)):
            return None
    # what int() and float() take beyond a plain decimal: 1_000, infinity, digits of other scripts
    elif not isinstance(value, str) or not value.isascii() or "_" in value:
        return None
    try:
        number = kind(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _receipt_delay(minutes: float | None, given: Any, most: int | None) -> int:
    if minutes is None or minutes < 0:
        raise _bad("receipt_delay_minutes", given, "minutes from 0, for example 480 for 8 hours; or leave it empty")
    delay = round(minutes * MICROS_PER_MINUTE / MICROS_PER_MILLI) * MICROS_PER_MILLI
    if most is not None and delay > most:
        raise _bad("receipt_delay_minutes", given, f"at most the allowed lateness, {format_duration(most)}")
    return delay


def _bad(field: str, value: Any, fix: str) -> ValueError:
    shown = "is missing" if value is None or value == "" else f"is {str(value)[:80]!r}"
    return ValueError(f"{field} {shown}; expected {fix}" if field != "transformer_id" else f"{field} {shown}; {fix}")
