"""The numbers of a report as tables: what the pictures show, for those who read it in another way."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import mode

from ami_beam.instants import MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND
from ami_beam.report.report_data import UNPLACED, Extreme, HeatMap, ReportData, spans
from ami_beam.voltage_codes import ABOVE, BELOW, BOTH, NEAR_HIGH, NEAR_LOW, SILENT

MOST_ROWS = 200
"""So many are in a table; the note says how many more there are."""


@dataclass(frozen=True)
class Table:
    """Rows of texts, as they are to be shown; names in them are as they came."""

    caption: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""
    names: int = 1
    """So many of the first columns are names, and flush left."""


def voltage_table(data: ReportData, heat: HeatMap) -> Table:
    """A row for each row of the heat map, in its order."""
    whose = "feeder" if heat.feeder_id is None else "transformer"
    header = [whose, "transformers"] if heat.feeder_id is None else [whose]
    header += [
        "windows below",
        "near low",
        "near high",
        "above",
        "no voltage",
        "lowest",
        "lowest in",
        "highest",
        "highest in",
    ]
    counts = [
        heat.windows_with(*codes)
        for codes in ((BELOW, BOTH), (NEAR_LOW,), (NEAR_HIGH,), (ABOVE, BOTH), (SILENT,))
    ]  # fmt: skip
    rows = [
        [
            name,
            *([_count(heat.transformers[row])] if heat.feeder_id is None else []),
            *(_count(count[row]) for count in counts),
            *_extreme(data, heat, heat.lowest[row]),
            *_extreme(data, heat, heat.highest[row]),
        ]
        for row, name in enumerate(heat.names[:MOST_ROWS])
    ]
    caption = f"Voltage of the {whose}s{of_feeder(heat)}, the worst first; windows by their ends, UTC"
    return Table(caption, header, rows, _more(len(heat.names), f"{whose}s"))


def receipt_table(data: ReportData) -> Table:
    """The system, then the feeders, the lowest mean first."""
    receipt = data.receipt
    shown = receipt.names[:MOST_ROWS]
    limit = data.thresholds.min_receipt_rate_pct
    rows = [
        [
            name,
            per_cent(mean),
            per_cent(min((rate for rate in rates.tolist() if not math.isnan(rate)), default=math.nan)),
            _count(sum(rate < limit for rate in rates.tolist())),
        ]
        for name, mean, rates in [
            ("whole system", receipt.system_mean_pct, receipt.system_pct),
            *zip(shown, receipt.feeder_mean_pct.tolist(), receipt.feeder_pct, strict=False),
        ]
    ]
    header = ["feeder", "mean", "lowest window", f"windows below {limit:g} %"]
    caption = "Receipt rate of the whole system and of the feeders, the lowest first"
    return Table(caption, header, rows, _more(len(receipt.names), "feeders"))


def time_table(data: ReportData) -> Table:
    """The whole period, in as many steps as one can read."""
    steps = spans(data, MOST_ROWS)
    rows = [
        [
            when(step.start),
            when(step.end),
            energy(step.consumption_kwh),
            energy(step.received_kwh),
            per_cent(step.receipt_pct),
            *(_count(each) for each in (step.below, step.above, step.silent)),
        ]
        for step in steps
    ]
    together = len(steps) < len(data.ends)
    most = ", most at once" if together else ""
    header = ["from (UTC)", "to (UTC)", "consumption, kWh", "received, kWh", "receipt rate"]
    header += [f"transformers {how}{most}" for how in ("below", "above", "without voltage")]
    note = "Several windows are together in a row." if together else ""
    return Table("The whole system over time", header, rows, note, names=2)


def profile_table(data: ReportData) -> Table | None:
    """By time of day; None where there are no several days."""
    profile = data.profile
    if profile is None:
        return None
    columns = (profile.consumption_mean, profile.consumption_least, profile.consumption_most, profile.received_mean)
    rows = [
        [clock(start), _count(days), *(energy(float(column[number])) for column in columns)]
        for number, (start, days) in enumerate(zip(profile.starts.tolist(), profile.days.tolist(), strict=True))
    ]
    header = ["window begins (UTC)", "days", "mean consumption, kWh", "least", "most", "mean received, kWh"]
    return Table("Energy of a window by time of day", header, rows[:MOST_ROWS], _more(len(rows), "windows"))


def alarm_table(data: ReportData) -> Table:
    """By type, most first, and all together."""
    rows = [
        [
            tally.alarm_type,
            tally.severity,
            *map(_count, (tally.alarms, tally.active, tally.cleared, tally.unknown, tally.explained, tally.entities)),
            when(tally.first),
            when(tally.last),
        ]
        for tally in data.alarms
    ]
    if len(rows) > 1:
        sums = [sum(getattr(tally, name) for tally in data.alarms) for name in _ADDED]
        first, last = min(tally.first for tally in data.alarms), max(tally.last for tally in data.alarms)
        rows.append(["all", "", *map(_count, sums), "", when(first), when(last)])
    header = ["type", "severity", "alarms", "active", "cleared", "unknown", "explained", "entities"]
    header += ["first window ends (UTC)", "last window ends (UTC)"]
    note = "" if rows else "No alarms in this period."
    return Table("Alarms by type", header, rows, note, names=2)


_ADDED = ("alarms", "active", "cleared", "unknown", "explained")


def of_feeder(heat: HeatMap) -> str:
    """Whose transformers they are, as the end of their name; empty for feeders."""
    if heat.feeder_id is None:
        return ""
    return " of no known feeder" if heat.feeder_id == UNPLACED else f" of feeder {heat.feeder_id}"


def counted(count: int, noun: str) -> str:
    """ "1 feeder", "2 feeders"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def when(instant: int) -> str:
    """A time in UTC, without its seconds where they are none."""
    moment = datetime.fromtimestamp(instant / MICROS_PER_SECOND, UTC)
    return f"{moment:%Y-%m-%d %H:%M}" if instant % MICROS_PER_MINUTE == 0 else f"{moment:%Y-%m-%d %H:%M:%S}"


def clock(of_day: int) -> str:
    """A time of day, from microseconds since midnight."""
    minutes = of_day % MICROS_PER_DAY // MICROS_PER_MINUTE
    return f"{minutes // 60:02}:{minutes % 60:02}"


def period(data: ReportData) -> str:
    """From the start of the first window to the end of the last one."""
    return f"{when(int(data.starts[0]))} to {when(int(data.ends[-1]))} UTC"


def window_length(data: ReportData) -> str:
    """Of most windows: "15 min", "1 h"."""
    length: int = mode((data.ends - data.starts).tolist())
    for unit, size in (("h", MICROS_PER_HOUR), ("min", MICROS_PER_MINUTE)):
        if length % size == 0:
            return f"{length // size} {unit}"
    return f"{length / MICROS_PER_SECOND:g} s"


def limits(data: ReportData) -> str:
    """What voltages are held against."""
    limit = data.thresholds
    nominal = f"{limit.nominal_voltage:g} V nominal{' or the own one of a transformer' if data.own_nominal else ''}"
    return f"limits {limit.low_voltage_pct:g} % and {limit.high_voltage_pct:g} % of {nominal}"


def per_cent(value: float) -> str:
    """One decimal, or a dash where there is none."""
    return "–" if math.isnan(value) else f"{value:.1f} %"


def energy(kwh: float) -> str:
    """Three significant decimals are enough for people; a dash where there is none."""
    return "–" if math.isnan(kwh) else f"{kwh:,.3f}"


def _extreme(data: ReportData, heat: HeatMap, extreme: Extreme | None) -> Iterable[str]:
    if extreme is None:
        return "–", ""
    at = when(int(data.ends[extreme.window]))
    value = f"{extreme.volts:g} V, {extreme.pct:.3f} %"
    return value, at if heat.feeder_id is not None else f"{extreme.transformer_id}, {at}"


def _count(count: int) -> str:
    return f"{int(count):,}"


def _more(count: int, what: str) -> str:
    return f"… and {count - MOST_ROWS:,} more {what}." if count > MOST_ROWS else ""
