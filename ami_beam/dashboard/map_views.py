"""What the page asks of the grid: maps, cells, series and transformers, as documents for JSON.

Whoever calls holds the hub's lock. Instants are texts in UTC; numbers that are not known are null.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ami_beam.dashboard.grid import DARK, RECEIPT, REVISED, Column, Digest, Grid, WindowColumns, receipt_pct
from ami_beam.instants import format_instant
from ami_beam.voltage_codes import NO_ROW, receipt_codes, voltage_codes

Metric = Literal["voltage", "receipt"]
MOST_ROWS = 5_000
_MOST_REVISED = 1_000
_CHOSEN_SECONDS = 60.0
_LETTERS = np.full(256, ord("?"), np.uint8)
_LETTERS[:10] = np.frombuffer(b"0123456789", np.uint8)
_LETTERS[NO_ROW] = ord(".")
Document = dict[str, Any]


@dataclass
class _Rows:
    """Which rows a map has, in which order."""

    version: int
    of: int
    """The grid's rows_version when they were chosen."""
    chosen_at: float
    places: Column
    """Feeders or pairs."""
    omitted: int


class MapViews:
    """Maps of one grid; remembers which rows it showed, so that a page need only ask for what has changed."""

    def __init__(self, grid: Grid, clock: Callable[[], float] = time.monotonic) -> None:
        self._grid = grid
        self._clock = clock
        self._rows: dict[str | None, _Rows] = {}
        self._count = 0

    def map(self, metric: Metric, feeder: str | None, rows: int | None, since: int | None) -> Document | None:
        """Of all feeders, or of one feeder's transformers; None where there is no such feeder.

        `rows` and `since` are those of the map that the page has: then only windows that have changed since are told,
        and rows only where they are others.
        """
        grid = self._grid
        if feeder is not None and grid.feeder_index(feeder) is None:
            return None
        chosen = self._chosen(feeder)
        full = rows != chosen.version or since is None
        ends = grid.ends
        told = ends
        version = grid.version
        if feeder is None:
            digests = {end: grid.digest(end, fresh=False) for end in ends}
            versions = {end: digest.version for end, digest in digests.items() if digest is not None}
            version = max(versions.values(), default=0)
            if not full:
                told = [end for end in ends if versions[end] > (since or 0)]
        elif not full:
            told = [end for end in ends if grid.windows[end].version > (since or 0)]
        columns, revised = {}, {}
        for end in told:
            codes, again = self._column(metric, feeder, end, chosen.places)
            name = format_instant(end)
            columns[name] = _LETTERS[codes].tobytes().decode("ascii")
            revised[name] = np.flatnonzero(again)[:_MOST_REVISED].tolist()
        now = self._now(feeder, chosen.places)
        document: Document = {
            "metric": metric,
            "feeder": feeder,
            "rows_version": chosen.version,
            "version": version,
            "full": full,
            "omitted": chosen.omitted,
            "windows": [format_instant(end) for end in ends],
            "columns": columns,
            "revised": revised,
            "thresholds": self.thresholds(),
            "now": now,
        }
        if full:
            document["rows"] = self._described(feeder, chosen.places, now)
        return document

    def thresholds(self) -> Document:
        """What bands are made of."""
        limits = self._grid.thresholds
        names = (
            *("nominal_voltage", "low_voltage_pct", "high_voltage_pct", "near_low_pct", "near_high_pct"),
            *("min_receipt_rate_pct", "near_receipt_pct"),
        )
        return {name: getattr(limits, name) for name in names}

    def map_version(self) -> int:
        """Of all maps: another one where any of them may have changed."""
        grid = self._grid
        made = (grid.digest(end, fresh=False) for end in grid.ends)
        return max((digest.version for digest in made if digest is not None), default=0) + grid.rows_version

    def _chosen(self, feeder: str | None) -> _Rows:
        grid = self._grid
        rows = self._rows.get(feeder)
        now = self._clock()
        same = rows is not None and rows.of == grid.rows_version
        if rows is not None and same and (not rows.omitted or now < rows.chosen_at + _CHOSEN_SECONDS):
            return rows
        if feeder is None:
            places: Column = np.arange(len(grid.feeders))
        else:
            index = grid.feeder_index(feeder)
            assert index is not None
            places = grid.members()[index]
        omitted = max(len(places) - MOST_ROWS, 0)
        if omitted:
            worst = self._badness(feeder, places)
            places = np.sort(places[np.argsort(-worst, kind="stable")[:MOST_ROWS]])
        if rows is not None and rows.omitted == omitted and np.array_equal(rows.places, places):
            rows.of, rows.chosen_at = grid.rows_version, now
            return rows
        self._count += 1
        self._rows[feeder] = _Rows(self._count, grid.rows_version, now, places, omitted)
        while len(self._rows) > 256:
            # The one that was chosen longest ago.
            del self._rows[min(self._rows, key=lambda name: self._rows[name].chosen_at)]
        return self._rows[feeder]

    def _badness(self, feeder: str | None, places: Column) -> Column:
        ends = self._grid.ends
        digest = self._grid.digest(ends[-1]) if ends else None
        if digest is None:
            return np.zeros(len(places))
        if feeder is None:
            return (10 * (digest.below + digest.above) + digest.silent)[places]
        codes = digest.pair_voltage[places]
        return np.select([(codes == 6) | (codes == 1) | (codes == 5), codes == 0, codes == NO_ROW], [3, 2, 0], 1)

    def _column(self, metric: Metric, feeder: str | None, end: int, places: Column) -> tuple[Column, Column]:
        """Codes, and whether a row was revised."""
        grid = self._grid
        if feeder is None:
            digest = grid.digest(end, fresh=False)
            assert digest is not None
            return (digest.voltage if metric == "voltage" else digest.receipt)[places], digest.revised[places]
        window = grid.windows[end]
        told = _pairs(grid, window, places)
        return told.voltage if metric == "voltage" else told.receipt, told.revised

    def _now(self, feeder: str | None, places: Column) -> list[Document]:
        grid = self._grid
        end = newest_judged(grid)
        if end is None:
            return [{"below": 0, "above": 0, "silent": 0, "receipt_pct": None} for _ in places]
        if feeder is None:
            digest = grid.digest(end, fresh=False)
            assert digest is not None
            columns = (digest.below, digest.above, digest.silent, digest.heard, digest.total)
            told = zip(*(column[places].tolist() for column in columns), strict=True)
        else:
            pairs = _pairs(grid, grid.windows[end], places)
            low, high = (pairs.voltage == 1) | (pairs.voltage == 6), (pairs.voltage == 5) | (pairs.voltage == 6)
            columns = (low, high, pairs.voltage == 0, pairs.heard, pairs.total)
            told = zip(*(column.astype(int).tolist() for column in columns), strict=True)
        return [
            {"below": below, "above": above, "silent": silent, "receipt_pct": receipt_pct(heard, total)}
            for below, above, silent, heard, total in told
        ]

    def _described(self, feeder: str | None, places: Column, now: list[Document]) -> list[Document]:
        grid = self._grid
        if feeder is not None:
            return [
                {"id": grid.transformers[place], "now": each} for place, each in zip(places.tolist(), now, strict=True)
            ]
        members = grid.members()
        return [
            {"id": grid.feeders[place], "transformers": len(members[place]), "now": each}
            for place, each in zip(places.tolist(), now, strict=True)
        ]


@dataclass
class _Pairs:
    voltage: Column
    receipt: Column
    revised: Column
    heard: Column
    total: Column


def _pairs(grid: Grid, window: WindowColumns, places: Column) -> _Pairs:
    """Codes of these pairs in a window."""
    known = places < len(window.flags)
    safe = np.where(known, places, 0)
    flags = np.where(known, window.flags[safe], 0)
    receipt = (flags & RECEIPT) > 0
    heard, total = (np.where(known, column[safe], 0).astype(np.int64) for column in (window.heard, window.total))
    low, high = grid.pct(window, safe)
    low, high = np.where(known, low, np.nan), np.where(known, high, np.nan)
    measured = ~np.isnan(low)
    silent = ~measured & ((receipt & (heard == 0)) | ((flags & DARK) > 0))
    return _Pairs(
        voltage_codes(low, high, measured | silent, grid.thresholds),
        receipt_codes(heard, total, receipt, grid.thresholds),
        (flags & REVISED) > 0,
        heard,
        total,
    )


def newest_judged(grid: Grid) -> int | None:
    """The newest window of which most rows are there: one that is just being published says little.

    That is the newest, or the one before it while it has less than half as many transformers.
    """
    ends = grid.ends[-2:]
    if len(ends) == 2:
        before, newest = (grid.digest(end, fresh=False) for end in ends)
        if before is not None and newest is not None and 2 * newest.present.sum() < before.present.sum():
            return ends[0]
    return ends[-1] if ends else None


def cell(grid: Grid, end: int, feeder: str | None, transformer: str | None) -> Document | None:
    """What is known of a transformer or a feeder in one window; None where there is nothing."""
    window = grid.windows.get(end)
    if window is None:
        return None
    times = {"window_start": format_instant(window.start), "window_end": format_instant(window.end)}
    if transformer is not None:
        told = _of_transformer(grid, window, grid.places(transformer))
        if told is None:
            return None
        return {"id": transformer, "kind": "transformer", **times, **told}
    index = None if feeder is None else grid.feeder_index(feeder)
    digest = grid.digest(end)
    if index is None or digest is None or (digest.voltage[index] == NO_ROW and digest.receipt[index] == NO_ROW):
        return None
    members = grid.members()[index]
    members = members[members < len(window.flags)]
    low, high = grid.pct(window, members)
    worst: str | None = None
    least: float | None = None
    most: float | None = None
    if np.isfinite(low).any():
        least = grid.volts(window, int(members[int(np.nanargmin(low))]))[0]
    if np.isfinite(high).any():
        most = grid.volts(window, int(members[int(np.nanargmax(high))]))[2]
    beyond = np.fmax(100 - low, high - 100)
    if np.isfinite(beyond).any():
        worst = grid.transformers[members[int(np.nanargmax(beyond))]]
    return {
        "id": feeder,
        "kind": "feeder",
        "feeder_id": feeder,
        **times,
        "min_voltage_v": least,
        "avg_voltage_v": None,
        "max_voltage_v": most,
        "min_pct": _number(digest.min_pct[index], 2),
        "max_pct": _number(digest.max_pct[index], 2),
        "consumption_kwh": _number(digest.kwh[index], 3),
        "meters_reported": int(digest.heard[index]),
        "total_meters": int(digest.total[index]),
        "receipt_rate_pct": receipt_pct(int(digest.heard[index]), int(digest.total[index])),
        "revised": bool(digest.revised[index]),
        "transformers": int(digest.present[index]),
        "below": int(digest.below[index]),
        "above": int(digest.above[index]),
        "silent": int(digest.silent[index]),
        "worst": worst,
    }


def _of_transformer(grid: Grid, window: WindowColumns, places: Sequence[int]) -> Document | None:
    """All pairs of a transformer together."""
    rows = [(place, grid.row(window, place)) for place in places]
    there = [place for place, (summary, receipt, _) in rows if summary or receipt]
    if not there:
        return None
    volts = [grid.volts(window, place) for place in there]
    lows = [low for low, _, _ in volts if low is not None]
    means = [mean for _, mean, _ in volts if mean is not None]
    highs = [high for _, _, high in volts if high is not None]
    energies = [float(window.kwh[place]) for place in there if np.isfinite(window.kwh[place])]
    nominal = grid.nominal(there[0])
    heard, total = sum(int(window.heard[place]) for place in there), sum(int(window.total[place]) for place in there)
    low, high = min(lows, default=None), max(highs, default=None)
    return {
        "feeder_id": grid.feeder_of(there[0]),
        "min_voltage_v": low,
        "avg_voltage_v": means[0] if len(means) == 1 else None,
        "max_voltage_v": high,
        "min_pct": None if low is None else round(low / nominal * 100, 2),
        "max_pct": None if high is None else round(high / nominal * 100, 2),
        "consumption_kwh": round(sum(energies), 3) if energies else None,
        "meters_reported": heard if total else None,
        "total_meters": total or None,
        "receipt_rate_pct": receipt_pct(heard, total),
        "revised": any(revised for _, (_, _, revised) in rows),
    }


def series(grid: Grid, feeder: str | None) -> Document | None:
    """The whole system, or one feeder, over time; None where there is no such feeder."""
    index = None
    if feeder is not None:
        index = grid.feeder_index(feeder)
        if index is None:
            return None
    ends = grid.ends
    digests = [digest for end in ends if (digest := grid.digest(end, fresh=index is not None)) is not None]

    def of(column: Callable[[Digest], Column], over: Callable[[Column], Any]) -> list[Any]:
        return [column(each)[index] if index is not None else over(column(each)) for each in digests]

    heard = [int(each) for each in of(lambda digest: digest.heard, np.sum)]
    total = [int(each) for each in of(lambda digest: digest.total, np.sum)]
    return {
        "feeder": feeder,
        "windows": [format_instant(end) for end in ends],
        "consumption_kwh": [_number(each, 3) for each in of(lambda digest: digest.kwh, _sum)],
        "received_kwh": [_number(each, 3) for each in of(lambda digest: digest.received, _sum)],
        "receipt_pct": [receipt_pct(*each) for each in zip(heard, total, strict=True)],
        "min_voltage_pct": [_number(each, 2) for each in of(lambda digest: digest.min_pct, _least)],
        "max_voltage_pct": [_number(each, 2) for each in of(lambda digest: digest.max_pct, _greatest)],
        "transformers": [int(each) for each in of(lambda digest: digest.present, np.sum)],
        "below": [int(each) for each in of(lambda digest: digest.below, np.sum)],
        "above": [int(each) for each in of(lambda digest: digest.above, np.sum)],
        "silent": [int(each) for each in of(lambda digest: digest.silent, np.sum)],
    }


def transformer(grid: Grid, identity: str) -> Document | None:
    """One transformer over time, without its alarms; None where it is not known."""
    places = grid.places(identity)
    if not places:
        return None
    nominal = grid.nominal(places[0])
    limits = grid.thresholds
    windows = [grid.windows[end] for end in grid.ends]
    rows = [_of_transformer(grid, window, places) or {} for window in windows]
    return {
        "id": identity,
        "feeders": list(dict.fromkeys(grid.feeder_of(place) for place in places)),
        "nominal_voltage_v": nominal,
        "low_voltage_v": round(nominal * limits.low_voltage_pct / 100, 3),
        "high_voltage_v": round(nominal * limits.high_voltage_pct / 100, 3),
        "windows": [format_instant(window.end) for window in windows],
        **{
            name: [row.get(name) for row in rows]
            for name in ("min_voltage_v", "avg_voltage_v", "max_voltage_v", "consumption_kwh")
        },
        "meters_reported": [row.get("meters_reported") for row in rows],
        "total_meters": [row.get("total_meters") for row in rows],
        "receipt_pct": [row.get("receipt_rate_pct") for row in rows],
        "revised": [bool(row.get("revised")) for row in rows],
    }


def _number(value: Any, digits: int) -> float | None:
    return round(float(value), digits) if np.isfinite(value) else None


def _sum(values: Column) -> float:
    there = values[np.isfinite(values)]
    return float(there.sum()) if len(there) else np.nan


def _least(values: Column) -> float:
    there = values[np.isfinite(values)]
    return float(there.min()) if len(there) else np.nan


def _greatest(values: Column) -> float:
    there = values[np.isfinite(values)]
    return float(there.max()) if len(there) else np.nan
