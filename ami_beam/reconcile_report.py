"""A reconciliation as a table for people and as JSON for programs, and its lists as files."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from ami_beam.instants import format_instant
from ami_beam.reconcile_rows import MICROS_PER_KWH, Period, RowCounts
from ami_beam.reconciliation import MeterTotals, Outcome, Tally, Totals
from ami_beam.terminal_text import printable

SUFFIXES = (".csv", ".jsonl")
_WORDS = {
    Outcome.EQUAL: "equal",
    Outcome.DIFFERENT: "different",
    Outcome.MISSING_IN_MDMS: "missing in the MDMS",
    Outcome.MISSING_HERE: "missing here",
}


@dataclass(frozen=True)
class Reconciliation:
    """What was compared and what came of it."""

    here: str
    """Where our rows are from."""
    mdms: str
    period: Period
    tolerance: int
    counts: tuple[RowCounts, RowCounts]
    """Of our rows and of the export's."""
    totals: Totals
    worst: list[MeterTotals]
    """The meters that differ most."""
    problems: list[str]
    """The first of the rows that were passed over."""


class ListFile:
    """Writes records of one type to a file as CSV or JSON lines, by its suffix."""

    def __init__(self, path: Path, row_type: type[msgspec.Struct]) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = None if path.suffix == ".jsonl" else csv.writer(self._file, lineterminator="\n")
        self._encode = msgspec.json.Encoder().encode
        if self._writer is not None:
            self._writer.writerow(row_type.__struct_fields__)

    def write(self, rows: Sequence[msgspec.Struct]) -> None:
        """Append the rows."""
        if self._writer is not None:
            self._writer.writerows(map(_cells, rows))
        else:
            self._file.writelines(self._encode(row).decode() + "\n" for row in rows)

    def __enter__(self) -> ListFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _cells(row: msgspec.Struct) -> list[Any]:
    values = msgspec.structs.astuple(row)
    return [str(value).lower() if isinstance(value, bool) else value for value in values]


def as_json(found: Reconciliation) -> dict[str, Any]:
    """Everything but the lists."""
    totals = found.totals
    return {
        "equal": totals.equal,
        "from": format_instant(found.period.begin),
        "to": format_instant(found.period.end),
        "compared": list(totals.energies),
        "tolerance_kwh": found.tolerance / MICROS_PER_KWH,
        "here": {"source": found.here, "rows": asdict(found.counts[0])},
        "mdms": {"source": found.mdms, "rows": asdict(found.counts[1])},
        "meters": totals.meters,
        "meters_not_equal": totals.unequal_meters,
        "intervals": {outcome.value: _tally(tally, totals.energies) for outcome, tally in totals.tallies.items()},
        "worst_meters": [msgspec.to_builtins(each) for each in found.worst],
        "bad_lines": found.problems,
    }


def _tally(tally: Tally, energies: Sequence[str]) -> dict[str, Any]:
    return {
        "intervals": tally.intervals,
        "estimated_here": tally.estimated,
        "late_here": tally.late,
        **{f"{name}_here": value / MICROS_PER_KWH for name, value in zip(energies, tally.here, strict=True)},
        **{f"{name}_mdms": value / MICROS_PER_KWH for name, value in zip(energies, tally.mdms, strict=True)},
    }


def as_text(found: Reconciliation) -> str:
    """What was read, intervals by outcome, kWh by outcome, and the meters that differ most."""
    totals = found.totals
    lines = [
        f"Intervals that end after {format_instant(found.period.begin)} and by {format_instant(found.period.end)};"
        f" equal within {found.tolerance / MICROS_PER_KWH:g} kWh",
        _source("here", found.here, found.counts[0]),
        _source("MDMS", found.mdms, found.counts[1]),
        "",
        f"{'':<22}{'intervals':>15}{'estimated here':>17}{'late here':>15}",
    ]
    tallies = list(totals.tallies.items())
    lines += [
        f"{_WORDS[outcome]:<22}{tally.intervals:>15,}{tally.estimated:>17,}{tally.late:>15,}"
        for outcome, tally in tallies
    ]
    sums = [sum(each) for each in zip(*((t.intervals, t.estimated, t.late) for _, t in tallies), strict=True)]
    lines.append(f"{'all':<22}{sums[0]:>15,}{sums[1]:>17,}{sums[2]:>15,}")
    for place, name in enumerate(totals.energies):
        lines += ["", f"{name:<22}{'here':>20}{'MDMS':>20}{'here − MDMS':>20}"]
        rows = [(_WORDS[outcome], tally.here[place], tally.mdms[place]) for outcome, tally in tallies]
        rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
        lines += [f"{words:<22}{_kwh(a):>20}{_kwh(b):>20}{_kwh(a - b):>20}" for words, a, b in rows]
    lines += ["", f"Meters: {totals.meters:,}, of which {totals.unequal_meters:,} are not equal."]
    if found.worst:
        name = totals.energies[0]
        lines += ["", f"{'meter':<22}{'different':>11}{'not in MDMS':>13}{'not here':>11}{name + ', here − MDMS':>32}"]
        lines += [
            f"{printable(each.meter_id):<22}{each.different:>11,}{each.missing_in_mdms:>13,}{each.missing_here:>11,}"
            f"{_kwh(difference_of(each, name)):>32}"
            for each in found.worst
        ]
        if totals.unequal_meters > len(found.worst):
            lines.append(f"… and {totals.unequal_meters - len(found.worst):,} more; --meters_output writes all")
    return "\n".join(lines)


def difference_of(meter: MeterTotals, name: str) -> int:
    """What is more here than in the MDMS, in millionths of a kWh."""
    here, mdms = getattr(meter, f"{name}_here"), getattr(meter, f"{name}_mdms")
    return round(((here or 0) - (mdms or 0)) * MICROS_PER_KWH)


def _source(side: str, source: str, counts: RowCounts) -> str:
    more = [
        f"{number:,} {words}"
        for number, words in (
            (counts.outside, "outside"), (counts.older, "older versions"), (counts.bad, "bad and passed over")
        )
        if number
    ]  # fmt: skip
    return f"{side}: {printable(source)}, {counts.read:,} rows" + (f" ({', '.join(more)})" if more else "")


def _kwh(micros: int) -> str:
    return f"{micros / MICROS_PER_KWH:,.3f}"
