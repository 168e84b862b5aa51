"""An MDMS export: CSV or JSON lines, plain or .gz, as columns; what cannot be used with file, line, column and fix."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ami_beam.instants import MICROS_PER_SECOND
from ami_beam.io.files import file_lines
from ami_beam.mdms_times import TimeRules, interval_end
from ami_beam.reconcile_rows import (
    ENERGIES,
    FILE_BITS,
    MAX_KWH,
    MICROS_PER_KWH,
    BadRows,
    Period,
    Problem,
    Problems,
    RowCounts,
    mdms_schema,
    select,
)

COLUMNS = ("meter_id", "interval_end", *ENERGIES, "quality", "dst")
"""The names that a column may have here; an export may have others for them."""
BLOCK_LINES = 50_000
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_DAYLIGHT = {"y": True, "yes": True, "true": True, "1": True, "n": False, "no": False, "false": False, "0": False}


@dataclass(frozen=True)
class ExportFormat:
    """What an export looks like."""

    names: Mapping[str, str]
    """Its own name of each of `COLUMNS`."""
    times: TimeRules
    delimiter: str = ","


@dataclass
class _Block:
    """Rows as they are written, by column."""

    lines: list[int]
    meter_id: Sequence[str]
    interval_end: Sequence[str]
    energies: list[Sequence[Any]]
    quality: Sequence[str] | None
    dst: Sequence[str] | None


@dataclass
class MdmsExport:
    """Files with the same columns. Raises BadRows where the first has no use.

    Attributes:
      energies: those of `ENERGIES` that it has.
      quality: whether it has a column of that name.
    """

    files: list[str]
    form: ExportFormat
    energies: tuple[str, ...] = field(init=False)
    quality: bool = field(init=False)
    schema: pa.Schema = field(init=False)
    _known: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self._known = self._columns(self.files[0])
        self.energies = tuple(name for name in ENERGIES if name in self._known)
        self.quality = "quality" in self._known
        self.schema = mdms_schema(self.energies, self.quality)

    def place(self, place: int) -> tuple[str, int]:
        """The file and the line of a row."""
        return self.files[place >> FILE_BITS], place & ((1 << FILE_BITS) - 1)

    def batches(
        self, period: Period, meters: Collection[str] | None, counts: RowCounts, problems: Problems
    ) -> Iterator[pa.RecordBatch]:
        """The rows of the period and of these meters (None: of all), in order. Raises BadRows and ReplayError."""
        for number, file in enumerate(self.files):
            if self._columns(file) != self._known:
                raise BadRows(f"{file} has other columns than {self.files[0]}: export them in one way")
            for block in self._blocks(file, problems):
                counts.read += len(block.lines)
                yield select(self._batch(block, number, problems), period, meters, counts)

    def _columns(self, file: str) -> frozenset[str]:
        """Which of ours a file has."""
        for line in file_lines(file):
            text = line.decode("utf-8-sig", errors="replace").strip()
            if text:
                break
        else:
            raise BadRows(f"{file} is empty; export it again")
        if text.startswith("{"):
            try:
                names = list(msgspec.json.decode(text, type=dict[str, Any]))
            except msgspec.MsgspecError as error:
                raise BadRows(f"{file}, line 1: not JSON: {error}") from None
        else:
            names = [name.strip() for name in next(csv.reader([text], delimiter=self.form.delimiter))]
        twice = sorted({name for name in names if names.count(name) > 1} & {*self.form.names.values()})
        if twice:
            raise BadRows(f"{file}, line 1: column {twice[0]} is there twice; keep one")
        found = frozenset(ours for ours, theirs in self.form.names.items() if theirs in names)
        missing = [self.form.names[name] for name in ("meter_id", "interval_end") if name not in found]
        if not found & {*ENERGIES}:
            missing.append(" or ".join(self.form.names[name] for name in ENERGIES))
        if missing:
            hint = "--mdms_columns meter_id=METER,interval_end=TIME says what they are called"
            if ";" in text and self.form.delimiter != ";":
                hint = "is it separated by semicolons? Then give --mdms_delimiter=semicolon"
            raise BadRows(f"{file}, line 1: no column {missing[0]}; there are {', '.join(names)[:500]}. {hint}")
        return found

    def _blocks(self, file: str, problems: Problems) -> Iterator[_Block]:
        for line in file_lines(file):
            if line.strip(b"\xef\xbb\xbf \t\r\n"):
                is_json = line.lstrip(b"\xef\xbb\xbf \t").startswith(b"{")
                return self._json_blocks(file, problems) if is_json else self._csv_blocks(file, problems)
        return iter(())

    def _csv_blocks(self, file: str, problems: Problems) -> Iterator[_Block]:
        found: list[Problem] = []
        reader = csv.reader(_texts(file, found), delimiter=self.form.delimiter, strict=True)
        header = next(filter(None, reader))
        names = [name.strip() for name in header]
        places = {ours: names.index(theirs) for ours, theirs in self.form.names.items() if ours in self._known}
        width = len(header)
        more = True
        while more:
            rows: list[list[str]] = []
            lines: list[int] = []
            while len(rows) < BLOCK_LINES:
                try:
                    row = next(reader)
                except StopIteration:
                    more = False
                    break
                except csv.Error as error:
                    found.append(Problem(_at(file, reader.line_num), f"is no CSV: {error}; check the quotes"))
                    continue
                if len(row) == width:
                    rows.append(row)
                    lines.append(reader.line_num)
                elif row and any(value.strip() for value in row):
                    fix = "quote values with commas; write decimals with a point, 1.5"
                    text = f"{len(row)} values under {width} columns; {fix}"
                    found.append(Problem(_at(file, reader.line_num), text))
            problems.take(found)
            found.clear()
            if rows:
                columns = list(zip(*rows, strict=True))

                def column(name: str, columns: list[tuple[str, ...]] = columns) -> tuple[str, ...]:
                    return columns[places[name]]

                yield self._block(lines, column)

    def _json_blocks(self, file: str, problems: Problems) -> Iterator[_Block]:
        kinds: dict[str, Any] = {"meter_id": str | int, "interval_end": str, "quality": str | int | None}
        kinds["dst"] = str | int | bool | None
        fields = [(name, kinds.get(name, float)) for name in COLUMNS if name in self._known]
        row_type = msgspec.defstruct("Row", fields, rename=dict(self.form.names), gc=False)
        decoder = msgspec.json.Decoder(row_type)
        numbered = enumerate(file_lines(file), 1)
        while chunk := list(islice(numbered, BLOCK_LINES)):
            if chunk[0][0] == 1:
                chunk[0] = 1, chunk[0][1].removeprefix(b"\xef\xbb\xbf")
            chunk = [each for each in chunk if not each[1].isspace()]
            lines = [number for number, _ in chunk]
            found: list[Problem] = []
            try:
                rows = decoder.decode_lines(b"".join(line for _, line in chunk))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                rows = []
            if len(rows) != len(lines):
                rows, lines = [], []
                for number, line in chunk:
                    try:
                        rows.append(decoder.decode(line))
                        lines.append(number)
                    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                        text = str(error).replace(" - at `$.", ", column `")
                        found.append(Problem(_at(file, number), f"{text}; write it as JSON says"))
            problems.take(found)
            if rows:

                def column(name: str, rows: list[Any] = rows) -> list[Any]:
                    values = [getattr(row, name) for row in rows]
                    return values if name in ENERGIES else ["" if each is None else str(each) for each in values]

                yield self._block(lines, column)

    def _block(self, lines: list[int], column: Callable[[str], Sequence[Any]]) -> _Block:
        return _Block(
            lines,
            column("meter_id"),
            column("interval_end"),
            [column(name) for name in self.energies],
            column("quality") if self.quality else None,
            column("dst") if "dst" in self._known else None,
        )

    def _batch(self, block: _Block, number: int, problems: Problems) -> pa.RecordBatch:
        """The rows that can be used."""
        bad: dict[int, str] = {}
        names = self.form.names
        meters = _trimmed(block.meter_id)
        for row in np.flatnonzero(pc.equal(meters, "").to_numpy(zero_copy_only=False)):
            bad[int(row)] = f"{names['meter_id']} is empty; name the meter"
        ends, repeats = self._ends(_trimmed(block.interval_end), block.dst, bad)
        energies = [
            _energies(values, names[name], bad) for name, values in zip(self.energies, block.energies, strict=True)
        ]
        columns = [meters, pa.array(ends), pa.array(repeats), *map(pa.array, energies)]
        if block.quality is not None:
            columns.append(_trimmed(block.quality))
        columns.append(pa.array(np.array(block.lines, np.int64) + (number << FILE_BITS)))
        batch = pa.RecordBatch.from_arrays(columns, schema=self.schema)
        if not bad:
            return batch
        problems.take([Problem(_at(self.files[number], block.lines[row]), bad[row]) for row in sorted(bad)])
        good = np.ones(len(ends), bool)
        good[list(bad)] = False
        return batch.filter(pa.array(good))

    def _ends(
        self, texts: pa.Array, daylight: Sequence[str] | None, bad: dict[int, str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the intervals and their `repeats_after`."""
        encoded = texts.dictionary_encode()
        distinct = encoded.dictionary.to_pylist()
        known = np.zeros((2, len(distinct)), np.int64)
        wrong: dict[int, str] = {}
        for place, text in enumerate(distinct):
            try:
                known[:, place] = interval_end(text, self.form.times)
            except ValueError as error:
                wrong[place] = f"{self.form.names['interval_end']}: {error}"
        indices = encoded.indices.to_numpy()
        if wrong:
            for row in np.flatnonzero(np.isin(indices, list(wrong))):
                bad.setdefault(int(row), wrong[indices[row]])
        ends, repeats = known[0][indices], known[1][indices].astype(np.int32)
        if daylight is not None:
            for each in np.flatnonzero(repeats).tolist():
                first = _DAYLIGHT.get(daylight[each].strip().lower())
                if first is None:
                    said = f"{self.form.names['dst']} is {daylight[each]!r} in an hour that comes twice"
                    bad.setdefault(each, f"{said}; write Y for daylight saving time, N for standard time")
                elif not first:
                    ends[each] += int(repeats[each]) * MICROS_PER_SECOND
                repeats[each] = 0
        return ends, repeats


def _trimmed(values: Sequence[str]) -> pa.Array:
    return pc.utf8_trim_whitespace(pa.array(values, pa.string()))


def _energies(values: Sequence[Any], name: str, bad: dict[int, str]) -> np.ndarray:
    """Whole millionths of a kWh; 0 where a value is bad."""
    numbers: np.ndarray
    if values and isinstance(values[0], str):
        try:
            numbers = _trimmed(values).cast(pa.float64()).to_numpy()
        except pa.ArrowInvalid:
            numbers = np.zeros(len(values))
            for row, text in enumerate(values):
                problem = _problem_of(text.strip())
                if problem is None:
                    numbers[row] = float(text)
                else:
                    bad.setdefault(row, f"{name}: {problem}")
    else:
        numbers = np.array(values, np.float64)
    possible = np.abs(numbers) <= MAX_KWH
    if not possible.all():
        for row in map(int, np.flatnonzero(~possible)):
            bad.setdefault(row, f"{name}: {values[row]} is no energy of an interval; allowed is ±{MAX_KWH:,.0f} kWh")
        numbers = np.where(possible, numbers, 0)
    return np.rint(numbers * MICROS_PER_KWH).astype(np.int64)


def _problem_of(text: str) -> str | None:
    if _NUMBER.fullmatch(text):
        return None
    if not text:
        return "is empty; write the energy, or leave the row out"
    if re.fullmatch(r"[+-]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]+)?", text):
        return f"{text!r} has commas in it, of thousands or of decimals; write 1234.5 or 1.5"
    if re.fullmatch(r"[+-]?[0-9.]*,[0-9]+", text):
        return f"{text!r} has a decimal comma; write decimals with a point, {text.replace('.', '').replace(',', '.')}"
    return f"{text[:64]!r} is no number; write one such as 1.5"


def _texts(file: str, found: list[Problem]) -> Iterator[str]:
    """The lines; of one that is not UTF-8 an empty one, and the problem."""
    for number, line in enumerate(file_lines(file), 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            found.append(Problem(_at(file, number), f"is not UTF-8 at byte {error.start}; save the file as UTF-8"))
            yield "\n"


def _at(file: str, line: int) -> str:
    return f"{file}, line {line}"
