"""What two sets of rows agree in, per meter and interval: the comparison itself, for all rows of some meters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ami_beam.instants import MICROS_PER_SECOND, format_instant
from ami_beam.reconcile_rows import ENERGIES, ESTIMATED, LATE, MICROS_PER_KWH, REVISED, Period, Problem, RowCounts


class Outcome(Enum):
    """What became of an interval of a meter."""

    EQUAL = "equal"
    DIFFERENT = "different"
    MISSING_IN_MDMS = "missing_in_mdms"
    MISSING_HERE = "missing_here"


_EQUAL, _DIFFERENT, _NOT_THERE, _NOT_HERE = range(4)
OUTCOMES = tuple(Outcome)


class Interval(msgspec.Struct, gc=False):
    """An interval that is not the same on both sides. Energies are null where a side has none, or none is compared."""

    meter_id: str
    interval_end: str
    outcome: str
    consumption_kwh_here: float | None
    consumption_kwh_mdms: float | None
    delivered_kwh_here: float | None
    delivered_kwh_mdms: float | None
    received_kwh_here: float | None
    received_kwh_mdms: float | None
    quality_here: str | None
    late_here: bool | None
    revised_here: bool | None
    as_of_here: str | None
    quality_mdms: str | None
    file_mdms: str | None
    line_mdms: int | None


class MeterTotals(msgspec.Struct, gc=False):
    """What intervals of a meter add up to; only of meters with any that is not equal."""

    meter_id: str
    equal: int
    different: int
    missing_in_mdms: int
    missing_here: int
    consumption_kwh_here: float | None
    consumption_kwh_mdms: float | None
    delivered_kwh_here: float | None
    delivered_kwh_mdms: float | None
    received_kwh_here: float | None
    received_kwh_mdms: float | None


@dataclass
class Tally:
    """Intervals of one outcome, or of all. Energies are whole millionths of a kWh, in the order of those compared."""

    here: list[int]
    mdms: list[int]
    intervals: int = 0
    estimated: int = 0
    """By what we published."""
    late: int = 0


@dataclass
class Totals:
    """What all parts add up to."""

    energies: tuple[str, ...]
    meters: int = 0
    unequal_meters: int = 0
    tallies: dict[Outcome, Tally] = field(init=False)

    def __post_init__(self) -> None:
        zeros = [0] * len(self.energies)
        self.tallies = {outcome: Tally([*zeros], [*zeros]) for outcome in Outcome}

    @property
    def equal(self) -> bool:
        """Whether nothing is missing or different."""
        return not any(tally.intervals for outcome, tally in self.tallies.items() if outcome is not Outcome.EQUAL)


@dataclass(frozen=True)
class Rules:
    """How rows are compared."""

    energies: tuple[str, ...]
    """Those that the export has: all of them are compared."""
    tolerance: int
    """Millionths of a kWh by which two energies may differ and be equal."""
    period: Period


@dataclass(frozen=True)
class Part:
    """The comparison of some meters, by interval: one place in each array, sorted by meter and time."""

    names: np.ndarray
    """Of the meters, sorted."""
    meters: np.ndarray
    """Place of the interval's meter in `names`."""
    ends: np.ndarray
    outcomes: np.ndarray
    here: np.ndarray
    """Row of our table, or −1."""
    mdms: np.ndarray
    rows_here: pa.Table
    rows_mdms: pa.Table


def compare(
    here: pa.Table,
    mdms: pa.Table,
    rules: Rules,
    counts: tuple[RowCounts, RowCounts],
    place: Callable[[int], tuple[str, int]],
    found: list[Problem],
) -> Part:
    """Compare all rows of some meters.

    Of several of ours for an interval the one with the greatest as_of counts, of those the last; of several of the
    export the last, and all before it are in `found`.
    """
    mdms = _without_repeats(mdms, rules.period, counts[1])
    names, codes_here, codes_mdms = _codes(here["meter_id"], mdms["meter_id"])
    ends_here, ends_mdms = here["interval_end"].to_numpy(), mdms["interval_end"].to_numpy()
    ends, numbers = np.unique(np.concatenate((ends_here, ends_mdms)), return_inverse=True)
    keys_here = codes_here * len(ends) + numbers[: len(ends_here)]
    keys_mdms = codes_mdms * len(ends) + numbers[len(ends_here) :]
    order = np.lexsort((here["as_of"].to_numpy(), keys_here))
    last_here = order[_lasts(keys_here[order])]
    counts[0].older += len(order) - len(last_here)
    order = np.argsort(keys_mdms, kind="stable")
    lasts = _lasts(keys_mdms[order])
    _tell_of_copies(mdms, order, lasts, place, found)
    last_mdms = order[lasts]
    keys = np.union1d(keys_here[last_here], keys_mdms[last_mdms])
    row_here, row_mdms = np.full(len(keys), -1), np.full(len(keys), -1)
    row_here[np.searchsorted(keys, keys_here[last_here])] = last_here
    row_mdms[np.searchsorted(keys, keys_mdms[last_mdms])] = last_mdms
    both = (row_here >= 0) & (row_mdms >= 0)
    different = np.zeros(len(keys), bool)
    for name in rules.energies:
        ours, theirs = here[name].to_numpy()[row_here[both]], mdms[name].to_numpy()[row_mdms[both]]
        different[both] |= np.abs(ours - theirs) > rules.tolerance
    outcomes = np.where(row_mdms < 0, _NOT_THERE, np.where(row_here < 0, _NOT_HERE, different.astype(np.int64)))
    meters, ends_of = np.divmod(keys, max(len(ends), 1))
    return Part(names, meters, ends[ends_of], outcomes, row_here, row_mdms, here, mdms)


def add_up(part: Part, totals: Totals) -> None:
    """Add a part to the totals."""
    flags = part.rows_here["flags"].to_numpy()
    for number, outcome in enumerate(OUTCOMES):
        chosen = part.outcomes == number
        tally = totals.tallies[outcome]
        tally.intervals += int(chosen.sum())
        here, mdms = part.here[chosen], part.mdms[chosen]
        here, mdms = here[here >= 0], mdms[mdms >= 0]
        tally.estimated += int(np.count_nonzero(flags[here] & ESTIMATED))
        tally.late += int(np.count_nonzero(flags[here] & LATE))
        for place, name in enumerate(totals.energies):
            tally.here[place] += int(part.rows_here[name].to_numpy()[here].sum())
            tally.mdms[place] += int(part.rows_mdms[name].to_numpy()[mdms].sum())
    totals.meters += len(np.unique(part.meters))
    totals.unequal_meters += len(np.unique(part.meters[part.outcomes != _EQUAL]))


def intervals(part: Part, rules: Rules, place: Callable[[int], tuple[str, int]]) -> list[Interval]:
    """The intervals that are not equal, by meter and time."""
    chosen = np.flatnonzero(part.outcomes != _EQUAL)
    here, mdms = part.here[chosen], part.mdms[chosen]
    ours, theirs = _rows(part.rows_here, here), _rows(part.rows_mdms, mdms)
    energies = [
        _kwh(side, name) if name in rules.energies else [None] * len(chosen)
        for name in ENERGIES
        for side in (ours, theirs)
    ]
    flags, as_of = ours["flags"].to_pylist(), ours["as_of"].to_pylist()
    places = theirs["place"].to_pylist()
    qualities = theirs["quality"].to_pylist() if "quality" in theirs.column_names else [None] * len(chosen)
    found = []
    for number, at in enumerate(chosen.tolist()):
        is_here, is_there = here[number] >= 0, mdms[number] >= 0
        flag = flags[number]
        file, line = place(places[number]) if is_there else (None, None)
        values: list[Any] = [
            part.names[part.meters[at]],
            format_instant(int(part.ends[at])),
            OUTCOMES[part.outcomes[at]].value,
            *(each[number] for each in energies),
            ("ESTIMATED" if flag & ESTIMATED else "ACTUAL") if is_here else None,
            bool(flag & LATE) if is_here else None,
            bool(flag & REVISED) if is_here else None,
            format_instant(as_of[number]) if is_here else None,
            qualities[number] if is_there else None,
            file,
            line,
        ]
        found.append(Interval(*values))
    return found


def meter_totals(part: Part, rules: Rules) -> list[MeterTotals]:
    """Of each meter with an interval that is not equal, all of its intervals; by name."""
    size = len(part.names)
    kinds = [np.bincount(part.meters[part.outcomes == number], minlength=size) for number in range(len(OUTCOMES))]
    sums: list[np.ndarray | None] = []
    for name in ENERGIES:
        for table, rows in ((part.rows_here, part.here), (part.rows_mdms, part.mdms)):
            if name not in rules.energies:
                sums.append(None)
                continue
            total = np.zeros(size, np.int64)
            np.add.at(total, part.meters[rows >= 0], table[name].to_numpy()[rows[rows >= 0]])
            sums.append(total)
    return [
        MeterTotals(
            part.names[meter],
            *(int(kind[meter]) for kind in kinds),
            *(None if total is None else int(total[meter]) / MICROS_PER_KWH for total in sums),
        )
        for meter in np.flatnonzero(kinds[_DIFFERENT] + kinds[_NOT_THERE] + kinds[_NOT_HERE]).tolist()
    ]


def _codes(here: pa.ChunkedArray, mdms: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The meters, sorted, and the place of each row's."""
    both = pa.chunked_array([*here.chunks, *mdms.chunks], pa.string()).combine_chunks().dictionary_encode()
    order = pc.array_sort_indices(both.dictionary).to_numpy()
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    codes = ranks[both.indices.to_numpy()]
    names = np.array(both.dictionary.to_pylist(), object)[order]
    return names, codes[: len(here)], codes[len(here) :]


def _lasts(keys: np.ndarray) -> np.ndarray:
    """Which of sorted keys are the last of their kind."""
    lasts = np.ones(len(keys), bool)
    lasts[:-1] = keys[1:] != keys[:-1]
    return lasts


def _without_repeats(mdms: pa.Table, period: Period, counts: RowCounts) -> pa.Table:
    """The export with times of repeated hours decided, in the order of a meter's rows.

    Such a time is the first of the two where that is after the meter's row before it, else the second.
    """
    repeats = mdms["repeats_after"].to_numpy()
    if not repeats.any():
        return mdms
    ends = mdms["interval_end"].to_numpy().copy()
    _, codes, _ = _codes(mdms["meter_id"], mdms["meter_id"].slice(0, 0))
    order = np.argsort(codes, kind="stable")
    by_meter = codes[order]
    for at in np.flatnonzero(repeats[order]).tolist():
        if at and by_meter[at - 1] == by_meter[at] and ends[order[at]] <= ends[order[at - 1]]:
            ends[order[at]] += int(repeats[order[at]]) * MICROS_PER_SECOND
    place = mdms.column_names.index("interval_end")
    inside = period.holds(ends)
    counts.outside += int(len(inside) - inside.sum())
    return mdms.set_column(place, "interval_end", pa.array(ends)).filter(pa.array(inside))


def _tell_of_copies(
    mdms: pa.Table, order: np.ndarray, lasts: np.ndarray, place: Callable[[int], tuple[str, int]], found: list[Problem]
) -> None:
    copies = np.flatnonzero(~lasts)
    for at in copies.tolist():
        row = int(order[at])
        file, line = place(mdms["place"][row].as_py())
        again_file, again = place(mdms["place"][int(order[at + 1])].as_py())
        meter, end = mdms["meter_id"][row].as_py(), format_instant(mdms["interval_end"][row].as_py())
        text = (
            f"meter {meter!r} has another row for the interval that ends at {end}: {again_file}, line {again};"
            " keep one. In an hour that comes twice, name a column dst, or order a meter's rows by time"
        )
        found.append(Problem(f"{file}, line {line}", text))


def _rows(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """The rows in this order, nulls for −1."""
    return table.take(pa.array(rows, mask=rows < 0))


def _kwh(side: pa.Table, name: str) -> list[float | None]:
    micros = side[name].to_pylist()
    return [None if value is None else value / MICROS_PER_KWH for value in micros]
