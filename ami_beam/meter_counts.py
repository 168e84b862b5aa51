"""`transformer_meter_count`: how many meters each transformer has, from when on, and what else it says about it.

A file is taken whole or not at all: a row left out would silence its transformer's alerts, so one bad row refuses it.
"""

from __future__ import annotations

import csv
import logging
import math
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from threading import Lock
from typing import Any

import msgspec
from msgspec import Struct

from ami_beam.coders import carries
from ami_beam.csv_table import TableError, strict_header
from ami_beam.instants import MICROS_PER_MILLI, MICROS_PER_MINUTE, format_duration, parse_instant
from ami_beam.io.files import ReplayError, file_lines
from ami_beam.records import MeterCount
from ami_beam.shards import shard_of

COLUMNS = (
    "transformer_id", "total_meters", "nominal_voltage_v", "receipt_delay_minutes", "effective_from",
    "collection_group",
)  # fmt: skip
_REQUIRED = COLUMNS[:2]
VERSION_DIGITS = 16
"""So many of a version's id are written beside what was judged by it."""
_MAX_METERS = 1_000_000_000
_SHOWN_PROBLEMS = 10
_log = logging.getLogger(__name__)


class MeterCountsError(ValueError):
    """Meter counts that cannot be used: names the file and, for each bad row, line, field, value and fix."""


class MeterCountsVersion(Struct, array_like=True, gc=False):
    """One state of the table, small enough for a side input: it is decoded for every bundle, and unpacked only once."""

    version_id: str
    """SHA-256 of the rows: the same table has the same id, in whatever order its rows come."""
    loaded_at: int
    """When it was loaded, by the wall clock, in microseconds."""
    payload: bytes


carries(MeterCountsVersion)


def newest(versions: Iterable[MeterCountsVersion]) -> MeterCountsVersion:
    """The version loaded last. A side input may show older ones beside it."""
    return max(versions, key=lambda version: (version.loaded_at, version.version_id))


class MeterCounts:
    """The table, indexed: by transformer and time, and by shard."""

    def __init__(self, versions: dict[str, tuple[MeterCount, ...]]) -> None:
        self._versions = versions
        self._shards: dict[int, list[list[str]]] = {}
        self._receipt_delays: dict[int, tuple[int, ...]] = {}

    @classmethod
    def from_rows(cls, rows: Iterable[MeterCount]) -> MeterCounts:
        """Indexes rows in any order."""
        versions: dict[str, tuple[MeterCount, ...]] = {}
        for row in rows:
            versions[row.transformer_id] = (*versions.get(row.transformer_id, ()), row)
        for transformer_id, several in versions.items():
            if len(several) > 1:
                versions[transformer_id] = tuple(sorted(several, key=effective))
        return cls(versions)

    def __len__(self) -> int:
        return len(self._versions)

    def at(self, transformer_id: str, window_end: int) -> MeterCount | None:
        """The row with the greatest effective_from ≤ window_end; one without it is valid from the beginning.

        None where that row has no meters: nothing is expected of the transformer then.
        """
        row = self.row_at(transformer_id, window_end)
        return row if row is not None and row.total_meters else None

    def row_at(self, transformer_id: str, window_end: int) -> MeterCount | None:
        """The same row, whether it has meters or not."""
        several = self._versions.get(transformer_id)
        if several is None:
            return None
        place = bisect_right(several, window_end, key=effective)
        return several[place - 1] if place else None

    def rows_of(self, transformer_id: str) -> tuple[MeterCount, ...]:
        """All rows of the transformer, by time."""
        return self._versions.get(transformer_id, ())

    def in_shard(self, shard: int, shards: int, window_end: int) -> list[MeterCount]:
        """The rows of all transformers of a shard that are valid at window_end."""
        index = self._shards.get(shards)
        if index is None:
            index = [[] for _ in range(shards)]
            for transformer_id in self._versions:
                index[shard_of(transformer_id, shards)].append(transformer_id)
            self._shards[shards] = index
        rows = (self.at(transformer_id, window_end) for transformer_id in index[shard])
        return [row for row in rows if row is not None]

    def receipt_delays(self, default: int) -> tuple[int, ...]:
        """The distinct receipt delays in use, ascending; `default` stands for the rows without their own."""
        # Asked for with every batch of reads.
        delays = self._receipt_delays.get(default)
        if delays is None:
            rows = (row for several in self._versions.values() for row in several if row.total_meters)
            distinct = {default if row.receipt_delay is None else row.receipt_delay for row in rows}
            delays = self._receipt_delays[default] = tuple(sorted(distinct))
        return delays


def effective(row: MeterCount) -> int:
    """From when on a row holds, as a sort key: before every instant where it does not say."""
    return -1 if row.effective_from is None else row.effective_from


def pack(rows: Iterable[MeterCount], loaded_at: int) -> MeterCountsVersion:
    """The rows as one version."""
    content = msgspec.msgpack.encode(sorted(rows, key=lambda row: (row.transformer_id, effective(row))))
    return MeterCountsVersion(sha256(content).hexdigest(), loaded_at, zlib.compress(content, 6))


def unpack(version: MeterCountsVersion) -> list[MeterCount]:
    """The rows of a version."""
    return msgspec.msgpack.decode(zlib.decompress(version.payload), type=list[MeterCount])


_CACHED_VERSIONS = 4
_cache: OrderedDict[str, MeterCounts] = OrderedDict()
_cache_lock = Lock()


def counts_of(version: MeterCountsVersion) -> MeterCounts:
    """The table of a version; unpacked once a process for the versions last used."""
    with _cache_lock:
        counts = _cache.get(version.version_id)
        if counts is None:
            counts = _cache[version.version_id] = MeterCounts.from_rows(unpack(version))
            if len(_cache) > _CACHED_VERSIONS:
                _cache.popitem(last=False)
        _cache.move_to_end(version.version_id)
        return counts


def load(path: str, max_receipt_delay: int | None = None) -> list[MeterCount]:
    """The rows of a CSV or JSON-lines file, plain or .gz. Raises MeterCountsError.

    `max_receipt_delay` (µs, the allowed lateness) is the longest receipt delay a row may ask for.
    """
    return parse(read(path), path, max_receipt_delay)


def read(path: str) -> bytes:
    """The content of the file. Raises MeterCountsError."""
    try:
        return b"".join(file_lines(path))
    except ReplayError as error:
        raise MeterCountsError(str(error)) from None
    except Exception as error:  # each file system has its own exceptions
        raise MeterCountsError(f"{path}: cannot be read: {error}") from error


def parse(content: bytes, path: str, max_receipt_delay: int | None = None) -> list[MeterCount]:
    """The rows in `content`; `path` is for messages. Raises MeterCountsError with the first problems of all rows."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MeterCountsError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    is_json = text.lstrip().startswith("{")
    problems: list[str] = []
    rows: list[MeterCount] = []
    first_lines: dict[tuple[str, int | None], int] = {}
    unknown: set[str] = set()
    for number, fields in (_json_lines if is_json else _csv_lines)(text, path, problems):
        unknown.update(fields.keys() - set(COLUMNS))
        try:
            row = _row(fields, is_json, max_receipt_delay)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
            continue
        first = first_lines.setdefault((row.transformer_id, row.effective_from), number)
        if first != number:
            problems.append(
                f"line {number}: transformer_id {row.transformer_id!r} with the same effective_from is on line {first}"
                " already; remove one of them"
            )
        rows.append(row)
    if problems:
        more = [f"and {len(problems) - _SHOWN_PROBLEMS} more"] if len(problems) > _SHOWN_PROBLEMS else []
        raise MeterCountsError("\n  ".join([f"{path}: bad meter counts", *problems[:_SHOWN_PROBLEMS], *more]))
    if not rows:
        raise MeterCountsError(f"{path}: no rows; expected at least one transformer_id with its total_meters")
    if unknown:
        _log.warning("%s: unknown columns ignored: %s", path, ", ".join(sorted(unknown)))
    return rows


def _csv_lines(text: str, path: str, problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    header: list[str] | None = None
    try:
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            if header is None:
                header = _header(values, path)
            elif len(values) != len(header):
                problems.append(
                    f"line {reader.line_num}: {len(values)} values under {len(header)} columns; quote commas"
                )
            else:
                yield reader.line_num, dict(zip(header, values, strict=True))
    except csv.Error as error:
        problems.append(f"line {reader.line_num}: not CSV: {error}; check the quotes")


def _header(values: list[str], path: str) -> list[str]:
    try:
        return strict_header(values, path, _REQUIRED, COLUMNS)
    except TableError as error:
        raise MeterCountsError(str(error)) from None


def _json_lines(text: str, path: str, problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = decode(line)
        except msgspec.MsgspecError as error:
            problems.append(f'line {number}: not a JSON object: {error}; expected {{"transformer_id": "TR-1", …}}')
            continue
        yield number, fields


def _row(fields: dict[str, Any], is_json: bool, max_receipt_delay: int | None) -> MeterCount:
    def value_of(name: str) -> Any:
        value = fields.get(name)
        if isinstance(value, str) and not is_json and name != "transformer_id":
            value = value.strip()
        return None if value == "" else value

    transformer_id = value_of("transformer_id")
    if not isinstance(transformer_id, str) or transformer_id != transformer_id.strip():
        raise _bad("transformer_id", transformer_id, "write the id as the reads have it, without spaces around it")
    total_meters = _number(value_of("total_meters"), is_json, int)
    if total_meters is None or not 1 <= total_meters <= _MAX_METERS:
        fix = f"an integer from 1 to {_MAX_METERS}; remove a transformer that has no meters"
        raise _bad("total_meters", fields.get("total_meters"), fix)
    nominal = value_of("nominal_voltage_v")
    if nominal is not None:
        nominal = _number(nominal, is_json, float)
        if nominal is None or not 0 < nominal <= 1_000_000:
            raise _bad(
                "nominal_voltage_v", fields["nominal_voltage_v"], "volts above 0, for example 230; or leave it empty"
            )
    delay = value_of("receipt_delay_minutes")
    if delay is not None:
        delay = _receipt_delay(_number(delay, is_json, float), fields["receipt_delay_minutes"], max_receipt_delay)
    effective_from = value_of("effective_from")
    if effective_from is not None:
        try:
            effective_from = parse_instant(effective_from)
        except (ValueError, TypeError):
            fix = "a time with a zone, for example 2026-03-03T00:00:00Z; or leave it empty"
            raise _bad("effective_from", fields["effective_from"], fix) from None
    group = value_of("collection_group")
    if group is not None and (not isinstance(group, str) or group != group.strip()):
        fix = "the name of the collector as a text, without spaces around it; or leave it empty"
        raise _bad("collection_group", group, fix)
    return MeterCount(transformer_id, int(total_meters), nominal, delay, effective_from, group)


def _number(value: Any, is_json: bool, kind: Callable[[Any], Any]) -> Any:
    """The number, None when it is none: CSV holds text, JSON numbers; true is not 1."""
    if is_json:
        allowed: tuple[type, ...] = (int,) if kind is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, allowed):
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
