"""The meter registry, `--meter_registry`: where each meter hangs, from when on, and how many each transformer has.

A file is taken whole or not at all, like the meter counts. Millions of rows are held as numpy columns over 64-bit
hashes of the meters' names: as Python objects they would take gigabytes in every worker.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from ami_beam.csv_table import TableError, strict_header
from ami_beam.instants import MICROS_PER_MINUTE, parse_instant
from ami_beam.io.files import ReplayError, open_plain_or_gz
from ami_beam.read_columns import Flags, Ints
from ami_beam.registry_counts import ALWAYS, NEVER, Codes, CountChanges, Rows, count_changes

COLUMNS = (
    "meter_id", "service_point_id", "transformer_id", "feeder_id", "nominal_voltage_v", "interval_minutes", "status",
    "effective_from",
)  # fmt: skip
_REQUIRED = COLUMNS[:4]
Texts = np.ndarray[Any, np.dtype[np.object_]]
_SHOWN_PROBLEMS = 10
_BLOCK_BYTES = 8 << 20
"""So much of a file is parsed at a time; what is not kept of it is freed."""
_log = logging.getLogger(__name__)


class CurrentRegistry(Protocol):
    """How transforms get at the registry, whoever loads it."""

    @property
    def changes(self) -> bool:
        """Whether there may be another version later."""

    def current(self, at_least: str = "") -> MeterRegistry:
        """The newest good version. One that was seen elsewhere, `at_least`, is looked for at once."""

    def hold(self, registry: MeterRegistry) -> None:
        """Keep this version, and no other one, however often the file changes until somebody asks for it."""

    def held(self, version: str) -> MeterRegistry | None:
        """The version that is kept, if it is this one."""


class Places(NamedTuple):
    """Where meters hang: value i of each is about meter i. `rows` are of the registry, −1 where it has none."""

    rows: Ints
    registered: Flags


@dataclass(frozen=True, eq=False)
class MeterRegistry:
    """Every row of a registry, found by meter and instant. Good for one process: `hash` of a text differs elsewhere."""

    hashes: Ints
    """Of the rows' meters, ascending; rows of one meter in order of time."""
    effective_from: Ints | None
    """Of each row; None where all hold from the beginning."""
    place: Codes
    """Of each row, an index of `transformers` and `feeders`."""
    inactive: Flags
    counts_as: Codes | None
    """Of each row an index of `meters`, −1 for a meter that counts as itself; None where all do."""
    replaced_at: Ints | None
    """Of each row, when another meter took its service point over; None where no service point has several."""
    transformers: Texts
    feeders: Texts
    meters: Texts
    changes: CountChanges
    """How many meters each transformer has."""
    version: str = ""
    """Other files have other ones."""

    def __len__(self) -> int:
        return len(self.hashes)

    def at(self, meter_ids: Sequence[str], instants: Ints) -> Places:
        """The row of each meter with the greatest effective_from ≤ its instant."""
        count = len(meter_ids)
        wanted = np.fromiter(map(hash, meter_ids), np.int64, count)
        # In their order one search runs over what the one before has brought near: half the time of millions of rows.
        order = np.argsort(wanted)
        rows = np.empty(count, np.int64)
        rows[order] = np.searchsorted(self.hashes, wanted[order], side="right") - 1
        # −1 is before all rows; any row will do, as its meter is another one.
        registered = self.hashes[rows] == wanted
        if self.effective_from is not None:
            early = np.flatnonzero(registered & (self.effective_from[rows] > instants))
            while len(early):
                # One row earlier: most meters have one or two.
                rows[early] -= 1
                registered[early] = (rows[early] >= 0) & (self.hashes[rows[early]] == wanted[early])
                early = early[registered[early] & (self.effective_from[rows[early]] > instants[early])]
        return Places(np.where(registered, rows, -1), registered)

    def expects(self, meter_id: str, instant: int) -> bool:
        """Whether reads of the meter are expected at the instant: not of one that is inactive or was replaced.

        True of a meter that is not registered then: nothing is known of it.
        """
        rows, registered = self.at([meter_id], np.array([instant]))
        if not registered[0]:
            return True
        row = rows[0]
        return not self.inactive[row] and (self.replaced_at is None or bool(self.replaced_at[row] > instant))


def load(path: str) -> MeterRegistry:
    """The registry of a CSV file, plain or .gz. Raises TableError."""
    with readable(path) as file:
        return parse(file, path)


@contextmanager
def readable(path: str) -> Iterator[BinaryIO]:
    """The content of a file, plain or .gz; TableError where it cannot be read."""
    try:
        with open_plain_or_gz(path) as file:
            yield file
    except TableError:
        raise
    except ReplayError as error:
        raise TableError(str(error)) from None
    except Exception as error:  # each file system has its own exceptions
        raise TableError(f"{path}: cannot be read: {error!r}") from error


def parse(file: BinaryIO, path: str) -> MeterRegistry:
    """The registry in `file`, which can be read again; `path` is for messages.

    Raises TableError with line, field, value and fix of the first problems of all rows.
    """
    header = _header(file, path)
    parts = _Parts()
    bad: list[Ints] = []
    uneven: list[None] = []

    def passed_over(_: Any) -> str:
        uneven.append(None)
        return "skip"

    try:
        for batch in _batches(file, header, passed_over):
            bad.append(parts.add(batch) + parts.rows - len(batch))
    except pa.ArrowInvalid as error:
        raise TableError(f"{path}: {_problem_of(error)}") from None
    if any(len(rows) for rows in bad) or uneven:
        raise _refusal(file, path, header, np.concatenate(bad or [np.array([], int)]), len(uneven), {})
    if not parts.rows:
        raise TableError(f"{path}: no rows; expected at least one meter_id with its service point and transformer")
    unknown = sorted(set(header) - set(COLUMNS))
    if unknown:
        _log.warning("%s: unknown columns ignored: %s", path, ", ".join(unknown))
    rows = parts.sort()
    if len(rows.twice):
        first = dict(zip(rows.order[rows.twice].tolist(), rows.order[rows.twice - 1].tolist(), strict=True))
        raise _refusal(file, path, header, np.array(list(first)), 0, first)
    return parts.registry(rows, path)


class Sorted(NamedTuple):
    """Rows by meter and time: which ones in that order, when each begins and ends to hold."""

    order: Ints
    hashes: Ints
    """Of the meters."""
    begins: Ints
    ends: Ints
    twice: Ints
    """The places of those that repeat the one before."""


class _Parts:
    """The columns of a file as they are gathered."""

    def __init__(self) -> None:
        self.rows = 0
        self._meters: list[pa.Array] = []
        self._numbers: dict[str, list[np.ndarray]] = {}
        self._transformers: dict[str, int] = {}
        self._feeders: dict[str, int] = {}

    def add(self, batch: pa.RecordBatch) -> Ints:
        """Take rows in; where among them those with a problem are."""
        self.rows += len(batch)
        bad = np.zeros(len(batch), np.bool_)
        for name in _REQUIRED:
            bad |= _bad_ids(batch[name])
        for name, check in _CHECKS.items():
            values, wrong = _checked(batch, name, check)
            self._keep(name, values)
            bad |= wrong
        for name in set(batch.schema.names) - set(COLUMNS):
            # A quote that is not closed swallows the rows behind it.
            bad |= _broken(batch[name]).to_numpy(zero_copy_only=False)
        self._keep("meter_id", _hashes(batch["meter_id"]))
        self._keep("service_point_id", _hashes(batch["service_point_id"]))
        self._keep("transformer_id", _codes(batch["transformer_id"], self._transformers))
        self._keep("feeder_id", _codes(batch["feeder_id"], self._feeders))
        self._meters.append(batch["meter_id"])
        return np.flatnonzero(bad)

    def _keep(self, name: str, values: np.ndarray) -> None:
        self._numbers.setdefault(name, []).append(values)

    def _column(self, name: str) -> Any:
        """The whole of it, which is not kept here: a copy less of each."""
        return np.concatenate(self._numbers.pop(name))

    def sort(self) -> Sorted:
        """The rows by meter and time."""
        hashes, begins = self._column("meter_id"), self._column("effective_from")
        order = np.lexsort((begins, hashes))
        hashes, begins = hashes[order], begins[order]
        same = hashes[1:] == hashes[:-1]
        self._check_hashes(order[1:][same], order[:-1][same])
        ends = np.full(len(order), NEVER)
        ends[:-1][same] = begins[1:][same]
        return Sorted(order, hashes, begins, ends, np.flatnonzero(same & (begins[1:] == begins[:-1])) + 1)

    def _check_hashes(self, some: Ints, others: Ints) -> None:
        """Of five million meters two share a hash in one of a million processes: then this one cannot use them."""
        if len(some):
            meters = pa.chunked_array(self._meters)
            if not pc.all(pc.equal(meters.take(pa.array(some)), meters.take(pa.array(others)))).as_py():
                raise TableError("two meters have the same 64-bit hash in this process; start it again")

    def registry(self, rows: Sorted, path: str) -> MeterRegistry:
        """All of them, in that order."""
        order, hashes, begins = rows.order, rows.hashes, rows.begins
        transformers = self._column("transformer_id")[order]
        inactive = self._column("status")[order]
        service_points = self._column("service_point_id")[order]
        names = list(self._transformers)
        changes = count_changes(
            Rows(
                transformers, service_points, begins, rows.ends, ~inactive,
                self._column("nominal_voltage_v")[order], self._column("interval_minutes")[order],
            ),
            names,
        )  # fmt: skip
        if changes.mixed_voltages:
            _log.warning(
                "%s: of %d transformers the meters have different nominal_voltage_v; that of most of them is used",
                path, changes.mixed_voltages,
            )  # fmt: skip
        counts_as, stand_ins, replaced_at = self._exchanges(order, hashes, service_points, begins, ~inactive)
        # Few pairs of a transformer and a feeder: one number a row says both.
        pairs = transformers.astype(np.int64) * len(self._feeders) + self._column("feeder_id")[order]
        distinct, place = np.unique(pairs, return_inverse=True)
        which, feeder = np.divmod(distinct, len(self._feeders))
        return MeterRegistry(
            hashes,
            None if (begins == ALWAYS).all() else begins,
            place.astype(np.int32),
            inactive,
            counts_as,
            replaced_at,
            _texts(names)[which],
            _texts(list(self._feeders))[feeder],
            stand_ins,
            changes,
        )

    def _exchanges(
        self, order: Ints, hashes: Ints, service_points: Ints, begins: Ints, active: Flags
    ) -> tuple[Codes | None, Texts, Ints | None]:
        """What meters count as, the names of those that stand for others, and when each row's meter was replaced."""
        by_point = np.lexsort((begins, service_points))
        points = service_points[by_point]
        first = np.r_[True, points[1:] != points[:-1]]
        group = np.cumsum(first) - 1
        # A service point has several meters where not all have the same as its first row.
        differs = hashes[by_point] != hashes[by_point][first][group]
        several = np.zeros(group[-1] + 1, np.bool_)
        several[group[differs]] = True
        if not several.any():
            return None, _texts([]), None
        rows = by_point[several[group]]
        ids = pa.chunked_array(self._meters).take(pa.array(order[rows])).to_pylist()
        groups = group[several[group]]
        stand_in = _stand_ins(groups, ids, _elsewhere(hashes, service_points, rows))
        names = sorted(set(stand_in.values()))
        number_of = {name: number for number, name in enumerate(names)}
        counts_as = np.full(len(order), -1, np.int32)
        counts_as[rows] = [number_of[stand_in[point]] for point in groups.tolist()]
        replaced_at = np.full(len(order), NEVER)
        replaced_at[rows] = _replaced(groups, hashes[rows], begins[rows], active[rows])
        return counts_as, _texts(names), replaced_at


def _elsewhere(hashes: Ints, service_points: Ints, rows: Ints) -> Flags:
    """Which rows' meters have been at other service points, too."""
    same_meter = hashes[1:] == hashes[:-1]
    moved = hashes[1:][same_meter & (service_points[1:] != service_points[:-1])]
    return np.isin(hashes[rows], moved)


def _stand_ins(groups: Ints, ids: Sequence[str], elsewhere: Flags) -> dict[int, str]:
    """By service point the meter that all of it count as: the first by name that was never at another one.

    Where all have been elsewhere, one that stands for no other service point, if there is one: two of them that count
    as one meter would be one too few.
    """
    stand_in: dict[int, str] = {}
    moved: dict[int, set[str]] = {}
    for point, meter_id, was_elsewhere in zip(groups.tolist(), ids, elsewhere.tolist(), strict=True):
        if was_elsewhere:
            moved.setdefault(point, set()).add(meter_id)
        elif meter_id < stand_in.get(point, meter_id + "\0"):
            stand_in[point] = meter_id
    taken: set[str] = set()
    # By name: the order of the numbers of service points differs from process to process.
    for point in sorted(moved.keys() - stand_in.keys(), key=lambda point: sorted(moved[point])):
        stand_in[point] = min(moved[point] - taken or moved[point])
        taken.add(stand_in[point])
    return stand_in


def _replaced(groups: Ints, hashes: Ints, begins: Ints, active: Flags) -> Ints:
    """Of rows by service point and time, when the next active row of another meter begins that is later."""
    replaced = np.full(len(groups), NEVER)
    for distance in range(1, int(np.bincount(groups).max())):
        row, later = slice(None, -distance), slice(distance, None)
        by = (groups[row] == groups[later]) & (hashes[row] != hashes[later]) & active[later]
        by &= begins[later] > begins[row]
        replaced[row][by] = np.minimum(replaced[row][by], begins[later][by])
    return replaced


def _header(file: BinaryIO, path: str) -> list[str]:
    """The names of the columns; `file` stands behind them."""
    line = b""
    while not line.strip(b"\xef\xbb\xbf \t\r\n") and (line := file.readline()):
        pass
    try:
        values = next(csv.reader([line.decode("utf-8-sig")], strict=True), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{path}, line 1: not CSV in UTF-8: {error}; save the file as such") from None
    return strict_header(values, path, _REQUIRED, COLUMNS)


def _batches(file: BinaryIO, header: list[str], passed_over: Callable[[Any], str]) -> Iterator[pa.RecordBatch]:
    """The rows behind the header, all as texts; `passed_over` gets those with too many values or too few."""
    reader = arrow_csv.open_csv(
        file,
        read_options=arrow_csv.ReadOptions(use_threads=False, column_names=header, block_size=_BLOCK_BYTES),
        parse_options=arrow_csv.ParseOptions(invalid_row_handler=passed_over),
        convert_options=arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False
        ),
    )
    yield from reader


def _problem_of(error: pa.ArrowInvalid) -> str:
    text = str(error)
    if "Empty CSV" in text:
        return "no rows; expected at least one meter_id with its service point and transformer"
    if "UTF8" in text:
        return "not UTF-8; save the file as UTF-8"
    return f"not CSV: {text}; check the quotes"


def _bad_ids(ids: pa.Array) -> Flags:
    """Which cannot be the id that reads have. A line break in one is a quote that was not closed."""
    trimmed = pc.equal(pc.utf8_trim_whitespace(ids), ids)
    good = pc.and_(pc.and_(trimmed, pc.greater(pc.binary_length(ids), 0)), pc.invert(_broken(ids)))
    return ~good.to_numpy(zero_copy_only=False)


def _broken(texts: pa.Array) -> pa.Array:
    return pc.match_substring(texts, "\n")


def _hashes(ids: pa.Array) -> Ints:
    return np.fromiter(map(hash, ids.to_pylist()), np.int64, len(ids))


def _codes(names: pa.Array, numbers: dict[str, int]) -> Codes:
    """The number of each name; new ones are added to `numbers`."""
    encoded = names.dictionary_encode()
    known = [numbers.setdefault(name, len(numbers)) for name in encoded.dictionary.to_pylist()]
    return np.array(known, np.int32)[encoded.indices.to_numpy()]


def _texts(texts: Sequence[str]) -> Texts:
    found = np.empty(len(texts), object)
    found[:] = texts
    return found


class _Check(NamedTuple):
    """What a column may hold, where it is there: `value` gives it, or raises ValueError with what is expected."""

    value: Callable[[str], float]
    kind: type


def _volts(text: str) -> float:
    if not text:
        return math.nan
    if not re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,9})?", text) or not 0 < float(text) <= 1_000_000:
        raise ValueError("volts above 0, for example 230; or leave it empty")
    return float(text)


def _interval(text: str) -> int:
    if not text:
        return 0
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= 1440:
        raise ValueError("whole minutes from 1 to 1440, for example 15; or leave it empty")
    return int(text) * MICROS_PER_MINUTE


def _is_inactive(text: str) -> bool:
    if text not in ("", "ACTIVE", "INACTIVE"):
        raise ValueError("ACTIVE or INACTIVE; or leave it empty, which is ACTIVE")
    return text == "INACTIVE"


def _begin(text: str) -> int:
    try:
        return parse_instant(text) if text else ALWAYS
    except ValueError:
        raise ValueError("a time with a zone, for example 2026-03-03T00:00:00Z; or leave it empty") from None


_CHECKS = {
    "nominal_voltage_v": _Check(_volts, np.float64),
    "interval_minutes": _Check(_interval, np.int64),
    "status": _Check(_is_inactive, np.bool_),
    "effective_from": _Check(_begin, np.int64),
}


def _checked(batch: pa.RecordBatch, name: str, check: _Check) -> tuple[np.ndarray, Flags]:
    """A column's values, and which of them are bad; each distinct text is looked at once."""
    if name not in batch.schema.names:
        return np.full(len(batch), check.value(""), check.kind), np.zeros(len(batch), np.bool_)
    encoded = batch[name].dictionary_encode()
    values, wrong = [], []
    for text in encoded.dictionary.to_pylist():
        try:
            values.append(check.value(text.strip()))
            wrong.append(False)
        except ValueError:
            values.append(check.value(""))
            wrong.append(True)
    codes = encoded.indices.to_numpy()
    return np.array(values, check.kind)[codes], np.array(wrong, np.bool_)[codes]


def _refusal(
    file: BinaryIO, path: str, header: Sequence[str], bad: Ints, uneven: int, first: Mapping[int, int]
) -> TableError:
    """What to say of a file with bad rows, which is read again for their lines. `first`: the row that each repeats."""
    wanted, lines = set(bad.tolist()), dict.fromkeys(first.values(), 0)
    problems: list[str] = []
    file.seek(0)
    texts = io.TextIOWrapper(file, "utf-8-sig", newline="")
    reader = csv.reader(texts, strict=True)
    row = -1
    try:
        next(values for values in reader if any(map(str.strip, values)))
        for values in filter(None, reader):
            if len(values) != len(header):
                problems.append(
                    f"line {reader.line_num}: {len(values)} values under {len(header)} columns; quote commas"
                )
            else:
                row += 1
                if row in lines:
                    lines[row] = reader.line_num
                if row in wanted:
                    fields = dict(zip(header, values, strict=True))
                    problem = _problem(fields) if row not in first else _repeats(fields, lines[first[row]])
                    problems.append(f"line {reader.line_num}: {problem}")
            if len(problems) == _SHOWN_PROBLEMS:
                break
    except csv.Error as error:
        problems.append(f"line {reader.line_num}: not CSV: {error}; check the quotes")
    finally:
        texts.detach()
    rest = len(wanted) + uneven - len(problems)
    more = [f"and {rest} more"] if rest > 0 else []
    return TableError("\n  ".join([f"{path}: bad meter registry", *problems, *more]))


def _problem(fields: Mapping[str, str]) -> str:
    """The first of a row."""
    for name in _REQUIRED:
        if not fields[name]:
            return f"{name} is missing; write the id as the reads have it"
        if _bad_ids(pa.array([fields[name]]))[0]:
            shown = repr(fields[name][:80])
            return f"{name} is {shown}; write the id as the reads have it, without spaces around it or line breaks"
    for name, check in _CHECKS.items():
        try:
            check.value(fields.get(name, "").strip())
        except ValueError as error:
            return f"{name} is {fields[name][:80]!r}; expected {error}"
    return "a value goes over several lines; check the quotes"


def _repeats(fields: Mapping[str, str], line: int) -> str:
    return f"meter_id {fields['meter_id']!r} with the same effective_from is on line {line} already; remove one of them"
