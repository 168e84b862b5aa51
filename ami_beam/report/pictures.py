"""The pictures of a report: heat maps of voltage, receipt rates and energy over time, alarms by type.

Made with matplotlib, which the extra `ami-beam[report]` brings. The same data give the same files.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from ami_beam.instants import MICROS_PER_HOUR
from ami_beam.report.report_data import UNPLACED, Floats, HeatMap, Integers, Profile, ReportData, coarser, steps
from ami_beam.report.tables import (
    Table,
    alarm_table,
    counted,
    limits,
    of_feeder,
    per_cent,
    period,
    when,
    window_length,
)
from ami_beam.terminal_text import printable
from ami_beam.voltage_codes import (
    ABOVE,
    BELOW,
    BOTH,
    ENOUGH,
    NEAR_HIGH,
    NEAR_LOW,
    NEAR_TOO_FEW,
    NO_ROW,
    NORMAL,
    SILENT,
    TOO_FEW,
    UNHEARD,
    Codes,
    Thresholds,
)

FORMATS = ("png", "svg")
MOST_NAMED = 50
"""So many rows of a heat map have room for their names; of more, the worst of them have, below a map of all."""
_MOST_ROWS, _MOST_COLUMNS = 400, 800
"""Of the picture's points: more cells than that are drawn the worst of several."""
_MOST_STEPS = 200
"""Of a line; with more, lines of rates hide each other."""
_MOST_SYMBOLS = 110
"""Windows; symbols in narrower cells would run into each other."""
_MOST_RECEIPT_ROWS = 20
_DPI = 120
_INCHES = 11.0
_ROW_INCHES = 0.21

# ColorBrewer's PuOr and RdBu: blue to orange is told apart with any kind of colour vision, and dark is beyond a limit.
_BLUE, _LIGHT_BLUE, _LIGHT_ORANGE, _ORANGE = "#2166ac", "#92c5de", "#fdb863", "#b35806"
_NORMAL, _SILENT, _EMPTY, _BLACK = "#e9ebe6", "#7d7d7d", "#ffffff", "#1a1a1a"
# Okabe and Ito's, for the lines of feeders, of which more would hide each other; each has its own pattern as well.
_LINES = (
    ("#0072B2", (0, (6, 1))),
    ("#E69F00", (0, (3, 1))),
    ("#009E73", (0, (6, 1, 1, 1))),
)


class PictureError(RuntimeError):
    """There is no library to draw with; the message says how to get it."""


@dataclass(frozen=True)
class Picture:
    """One picture, in the kinds of files that were asked for."""

    name: str
    """Of its files, without the suffix: letters, digits, dots, dashes."""
    title: str
    alt: str
    """What it shows, for those who cannot see it."""
    files: dict[str, bytes]
    """By format."""


@dataclass(frozen=True)
class _Look:
    """How a code is drawn: colour, the symbol of cells that have room for one, words."""

    code: int
    colour: str
    symbol: str
    words: str


def check_library() -> None:
    """Raises PictureError where there is nothing to draw with."""
    if find_spec("matplotlib") is None:
        raise PictureError("pictures need matplotlib: pip install 'ami-beam[report]'")


def pictures(data: ReportData, formats: Sequence[str]) -> Iterator[Picture]:
    """All of them, in the order in which a report has them. Raises PictureError."""
    check_library()
    yield _voltage(data, data.feeders, "voltage-feeders", formats)
    taken: set[str] = set()
    for heat in data.chosen:
        yield _voltage(data, heat, _unused(f"voltage-feeder-{_slug(str(heat.feeder_id))}", taken), formats)
    if data.receipt.names:
        yield _receipt(data, formats)
    yield _consumption(data, formats)
    yield _alarms(data, formats)


def _voltage(data: ReportData, heat: HeatMap, name: str, formats: Sequence[str]) -> Picture:
    looks = _voltage_looks(data.thresholds)
    rows, named = len(heat.names), min(len(heat.names), MOST_NAMED)
    whose = "feeders" if heat.feeder_id is None else "transformers"
    title = f"Voltage of the transformers{_short(of_feeder(heat), 40)}"
    if heat.feeder_id is None:
        title = "Voltage by feeder: each window shows the worst transformer of the feeder"

    def fill(figure: Any) -> None:
        if rows == named:
            axes = figure.subplots()
        else:
            whole, axes = figure.subplots(2, height_ratios=[3.5, named * _ROW_INCHES])
            _heat(whole, data, heat.codes, [], looks, "voltage", whose)
            whole.set_title(f"all {rows:,} {whose}, the worst at the top")
            axes.set_title(f"the worst {named} of them")
        _heat(axes, data, heat.codes[:named], heat.names[:named], looks, "voltage", whose)
        _legend(figure, looks)

    height = 2.2 + named * _ROW_INCHES + (4.2 if rows > named else 0)
    return Picture(
        name, title, _voltage_alt(data, heat), _drawn(title, f"{period(data)} · {limits(data)}", height, fill, formats)
    )


def _voltage_alt(data: ReportData, heat: HeatMap) -> str:
    rows, windows = heat.codes.shape
    whose = counted(rows, "feeder" if heat.feeder_id is None else "transformer") + of_feeder(heat)
    beyond = heat.windows_with(BELOW, ABOVE, BOTH)
    silent = heat.windows_with(SILENT)
    said = [f"Heat map of voltage, {whose} by {counted(windows, 'window')}, {period(data)}."]
    if beyond[0]:
        said.append(
            f"Beyond a limit in some window: {int((beyond > 0).sum()):,} of them, {heat.names[0]} in the most,"
            f" {int(beyond[0]):,}."
        )
    else:
        said.append("None of them is beyond a limit in any window.")
    if silent.any():
        said.append(f"Without any voltage in some window: {int((silent > 0).sum()):,}.")
    return " ".join(said) + " The table has the numbers."


def _receipt(data: ReportData, formats: Sequence[str]) -> Picture:
    receipt, limit = data.receipt, data.thresholds.min_receipt_rate_pct
    shown = min(len(receipt.names), _MOST_RECEIPT_ROWS)
    looks = _receipt_looks(data.thresholds)
    # Of what no feeder is known is no feeder, and its line is the axis.
    lowest = [row for row, name in enumerate(receipt.names) if name != UNPLACED][: len(_LINES)]
    title = "Receipt rate: meters heard, of those expected"

    def fill(figure: Any) -> None:
        lines, map_axes = figure.subplots(2, height_ratios=[4.0, max(shown * _ROW_INCHES, 1)])
        parts = steps(data, _MOST_STEPS)
        starts = np.array([data.starts[part][0] for part in parts])
        ends = np.array([data.ends[part][-1] for part in parts])
        for row, (colour, dashes) in zip(lowest, _LINES, strict=False):
            rates, label = receipt.in_steps(parts, row), _short(receipt.names[row])
            _line(lines, starts, ends, rates, color=colour, linestyle=dashes, linewidth=1.3, label=label)
        rates = receipt.in_steps(parts, None)
        _line(lines, starts, ends, rates, color=_BLACK, linewidth=2.2, label="whole system")
        lines.axhline(limit, color=_ORANGE, linewidth=1, label=f"least: {limit:g} %")
        lines.set_ylabel("per cent of the meters")
        lines.set_ylim(0, max(103, lines.get_ylim()[1]))
        said = f"whole system, and the {len(lowest)} lowest feeders by their mean" if lowest else "whole system"
        _key(lines, said + ("; a step is the mean of several windows" if len(parts) < len(data.ends) else ""))
        _time_axis(lines, data)
        whose = (
            "all feeders" if shown == len(receipt.names) else f"the lowest {shown} of {len(receipt.names):,} feeders"
        )
        map_axes.set_title(f"{whose}, the lowest mean at the top")
        _heat(map_axes, data, receipt.codes[:shown], receipt.names[:shown], looks, "receipt", "feeders")
        _legend(figure, looks)

    means = ", ".join(f"{receipt.names[row]} {per_cent(float(receipt.feeder_mean_pct[row]))}" for row in lowest)
    alt = (
        f"Receipt rate over time, {period(data)}, in per cent of the meters. Mean of the whole system"
        f" {per_cent(receipt.system_mean_pct)}, lowest window {per_cent(float(np.nanmin(receipt.system_pct)))}."
        f" Lowest feeders by their mean: {means or 'none is known'}. The table has the numbers."
    )
    files = _drawn(title, f"{period(data)} · least {limit:g} %", 6.6 + max(shown * _ROW_INCHES, 1), fill, formats)
    return Picture("receipt-rate", title, alt, files)


def _consumption(data: ReportData, formats: Sequence[str]) -> Picture:
    profile = data.profile
    title = f"Consumption and received energy of the whole system, kWh in a window of {window_length(data)}"

    def fill(figure: Any) -> None:
        panels = figure.subplots(1 if profile is None else 2, squeeze=False)[:, 0]
        over_time = panels[0]
        for kwh, (colour, _), style, label in (
            (data.consumption_kwh, _LINES[0], "-", "consumption"),
            (data.received_kwh, _LINES[1], "--", _RECEIVED),
        ):
            _line(over_time, data.starts, data.ends, kwh, color=colour, linewidth=1.8, linestyle=style, label=label)
        _energy_axis(over_time, "over time")
        _time_axis(over_time, data)
        if profile is not None:
            _by_time_of_day(panels[1], profile)

    total, received = float(np.nansum(data.consumption_kwh)), float(np.nansum(data.received_kwh))
    alt = (
        f"Energy of the whole system by window, {period(data)}: {total:,.1f} kWh consumed and {received:,.1f} kWh"
        f" received in all. {_peak(data)}The table has the numbers."
    )
    return Picture(
        "consumption", title, alt, _drawn(title, period(data), 5.2 if profile is None else 9.4, fill, formats)
    )


_RECEIVED = "received from producers"


def _peak(data: ReportData) -> str:
    if np.isnan(data.consumption_kwh).all():
        return ""
    window = int(np.nanargmax(data.consumption_kwh))
    at = np.datetime64(int(data.ends[window]), "us").astype("datetime64[m]").item()
    return f"Most was consumed in the window until {at:%Y-%m-%d %H:%M} UTC: {data.consumption_kwh[window]:,.1f} kWh. "


def _by_time_of_day(axes: Any, profile: Profile) -> None:
    hours = profile.starts / MICROS_PER_HOUR
    length = float(np.diff(hours).min()) if len(hours) > 1 else 1.0
    # A step lasts as long as its window; where there is none, the line has a gap.
    edges, values = [hours[0]], []
    columns = (profile.consumption_mean, profile.consumption_least, profile.consumption_most, profile.received_mean)
    for row, hour in zip(np.column_stack(columns), hours, strict=True):
        if hour > edges[-1] + length / 100:
            edges.append(hour)
            values.append(np.full(len(columns), np.nan))
        edges.append(hour + length)
        values.append(row)
    mean, least, most, received = np.array(values).T
    axes.stairs(most, edges, baseline=least, fill=True, color=_LIGHT_BLUE, alpha=0.6, label="least to most of all days")
    axes.stairs(mean, edges, baseline=None, color=_LINES[0][0], linewidth=1.8, label="mean consumption")
    axes.stairs(
        received, edges, baseline=None, color=_LINES[1][0], linewidth=1.8, linestyle="--", label=f"mean {_RECEIVED}"
    )
    _energy_axis(axes, f"by time of day, {profile.days.max():,} days")
    axes.set_xlim(0, 24)
    axes.set_xticks(range(0, 25, 2), [f"{hour:02}:00" for hour in range(0, 25, 2)])
    axes.set_xlabel("time of day, UTC")


def _alarms(data: ReportData, formats: Sequence[str]) -> Picture:
    table = alarm_table(data)

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        axes.set_axis_off()
        _table(axes, table)

    alarms = sum(tally.alarms for tally in data.alarms)
    # They are not those of the windows with rows: an alarm of silence is there because of windows without.
    said = "no alarms"
    if data.alarms:
        first, last = min(tally.first for tally in data.alarms), max(tally.last for tally in data.alarms)
        said = f"{alarms:,} alarms of windows that end from {when(first)} to {when(last)} UTC"
    alt = f"Table of alarms by type: {said}" + (f", most often {data.alarms[0].alarm_type}." if data.alarms else ".")
    height = 1.6 + 0.3 * len(table.rows)
    return Picture("alarms", table.caption, alt, _drawn(table.caption, said, height, fill, formats))


def _table(axes: Any, table: Table) -> None:
    if not table.rows:
        axes.text(0.5, 0.5, table.note, ha="center", va="center")
        return
    cells = [[_short(text, 36) for text in row] for row in table.rows]
    drawn = axes.table(cells, colLabels=[_broken(text) for text in table.header], loc="upper center", cellLoc="right")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(8.5)
    drawn.auto_set_column_width(list(range(len(table.header))))
    for (row, column), cell in drawn.get_celld().items():
        cell.set_edgecolor("#bbbbbb")
        cell.PAD = 0.07
        cell.set_height(0.3 / (1.0 + 0.3 * len(table.rows)) * (1.6 if row == 0 else 1))
        if column < table.names:
            cell.set_text_props(ha="left")
        if row == 0:
            cell.set_facecolor(_NORMAL)


def _heat(
    axes: Any,
    data: ReportData,
    codes: Codes,
    names: list[str],
    looks: Sequence[_Look],
    kind: Literal["voltage", "receipt"],
    whose: str,
) -> None:
    """Draws the codes, the first row at the top; without `names` as one block. `whose` the rows are: feeders."""
    from matplotlib.colors import BoundaryNorm, ListedColormap

    edges, places = _columns(data.starts, data.ends)
    codes = np.column_stack([codes, np.full(len(codes), NO_ROW, np.uint8)])[:, places]
    across, down = (-(-count // most) for count, most in ((len(places), _MOST_COLUMNS), (len(codes), _MOST_ROWS)))
    columns = together(places, across)
    codes = coarser(codes, np.arange(len(codes)) // down, columns, kind)
    edges = np.append(edges[:-1][np.diff(columns, prepend=-1) > 0], edges[-1])
    number = {look.code: place for place, look in enumerate(looks)}
    shown = np.vectorize(number.__getitem__, otypes=[np.uint8])(codes)
    times, rows = _times(edges), np.arange(len(codes) + 1) - 0.5
    axes.pcolormesh(
        times, rows, shown, cmap=ListedColormap([look.colour for look in looks]),
        norm=BoundaryNorm(np.arange(len(looks) + 1) - 0.5, len(looks)), rasterized=True,
        edgecolors="white" if names and codes.shape[1] <= _MOST_SYMBOLS else "none", linewidth=0.4,
    )  # fmt: skip
    axes.set_ylim(len(codes) - 0.5, -0.5)
    _time_axis(axes, data)
    axes.set_yticks(range(len(names)), [_short(name) for name in names], fontsize="small")
    axes.tick_params(axis="y", length=0)
    folded = [f"{size:,} {what}" for size, what in ((across, "windows"), (down, whose)) if size > 1]
    if folded:
        axes.set_xlabel(f"{_TIME}; of every {' and '.join(folded)} the worst is drawn")
    if names and codes.shape[1] <= _MOST_SYMBOLS:
        middles = times[:-1] + np.diff(times) / 2
        for look in looks:
            found, at = np.nonzero(codes == look.code)
            if look.symbol and len(at):
                axes.scatter(middles[at], found, s=9, marker=look.symbol, color="white", linewidths=0.8)


def _columns(starts: Integers, ends: Integers) -> tuple[Integers, list[int]]:
    """Edges of a picture's columns, in microseconds, and of each the number of its window; -1 where there is none."""
    edges, places = [int(starts[0])], []
    for window, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        if start > edges[-1]:
            edges.append(start)
            places.append(-1)
        edges.append(end)
        places.append(window)
    return np.array(edges, np.int64), places


def together(places: list[int], most: int) -> Integers:
    """Which columns are drawn as one: so many windows at most, and never a time without one, which may be long."""
    numbers: list[int] = []
    number = size = 0
    for before, place in pairwise([-1, *places]):
        if numbers and (size == most or place < 0 or before < 0):
            number, size = number + 1, 0
        numbers.append(number)
        size += 1
    return np.array(numbers, np.int64)


def _line(axes: Any, starts: Integers, ends: Integers, values: Floats, **look: Any) -> None:
    """A step for each window, and a gap where there is none."""
    edges, places = _columns(starts, ends)
    axes.stairs(np.append(values, np.nan)[places], _times(edges), baseline=None, **look)


def _times(instants: Integers) -> Floats:
    from matplotlib.dates import date2num

    return np.asarray(date2num(instants.astype("datetime64[us]")))


_TIME = "time, UTC"


def _time_axis(axes: Any, data: ReportData) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(tz="UTC")
    axes.xaxis.set_major_locator(locator)
    day, of_day = "%Y-%m-%d", "%H:%M"
    formats = ["%Y", "%Y-%m", day, of_day, of_day, "%H:%M:%S"]
    at_zero = ["", day, day, day, of_day, of_day]
    formatter = ConciseDateFormatter(locator, tz="UTC", formats=formats, zero_formats=at_zero, show_offset=False)
    axes.xaxis.set_major_formatter(formatter)
    axes.set_xlim(*_times(np.array([data.starts[0], data.ends[-1]])))
    axes.set_xlabel(_TIME)


def _energy_axis(axes: Any, title: str) -> None:
    axes.set_ylabel("kWh")
    axes.grid(axis="y", color="#dddddd")
    axes.set_axisbelow(True)
    axes.axhline(0, color="#888888", linewidth=0.8)
    if axes.dataLim.ymin >= 0:
        axes.set_ylim(bottom=0)
    _key(axes, title)


def _key(axes: Any, title: str) -> None:
    """What the lines are, above them: inside it would hide some."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=6, fontsize="small", frameon=False, borderaxespad=0.2,
        title=title, alignment="left",
    )  # fmt: skip


def _legend(figure: Any, looks: Sequence[_Look]) -> None:
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D

    handles = []
    for look in looks:
        square = Line2D([], [], linestyle="", marker="s", markersize=10, color=look.colour, markeredgecolor="#888888")
        symbol = Line2D([], [], linestyle="", marker=look.symbol or None, markersize=4, color="white")
        handles.append((square, symbol))
    words = [look.words for look in looks]
    figure.legend(
        handles, words, handler_map={tuple: HandlerTuple(ndivide=1)}, loc="outside lower center",
        ncols=4 if len(looks) > 5 else len(looks), fontsize="small", frameon=False,
    )  # fmt: skip


def _voltage_looks(limit: Thresholds) -> list[_Look]:
    return [
        _Look(BELOW, _BLUE, "v", f"below {limit.low_voltage_pct:g} %"),
        _Look(NEAR_LOW, _LIGHT_BLUE, "", f"near it: below {limit.near_low_pct:g} %"),
        _Look(NORMAL, _NORMAL, "", "normal"),
        _Look(NEAR_HIGH, _LIGHT_ORANGE, "", f"near it: above {limit.near_high_pct:g} %"),
        _Look(ABOVE, _ORANGE, "^", f"above {limit.high_voltage_pct:g} %"),
        _Look(BOTH, _BLACK, "D", "both below and above"),
        _Look(SILENT, _SILENT, "x", "no voltage was heard"),
        _Look(NO_ROW, _EMPTY, "", "no row"),
    ]


def _receipt_looks(limit: Thresholds) -> list[_Look]:
    return [
        _Look(UNHEARD, _SILENT, "x", "nothing heard"),
        _Look(TOO_FEW, _ORANGE, "v", f"below {limit.min_receipt_rate_pct:g} %"),
        _Look(NEAR_TOO_FEW, _LIGHT_ORANGE, "", f"near it: below {limit.near_receipt_pct:g} %"),
        _Look(ENOUGH, _NORMAL, "", "normal"),
        _Look(NO_ROW, _EMPTY, "", "no row"),
    ]


def _drawn(
    title: str, subtitle: str, height: float, fill: Callable[[Any], None], formats: Sequence[str]
) -> dict[str, bytes]:
    """The files of a figure of this height, in inches, that `fill` draws into."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Names come from a topic, and a dollar sign in one is no formula. A salt, or an SVG's ids would be random.
    settings: Any = {"text.parse_math": False, "svg.hashsalt": "ami-beam", "axes.titlesize": "medium"}
    with rc_context(settings), warnings.catch_warnings():
        # In scripts that the font has not, names are boxes; the tables have them.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(_INCHES, height), layout="constrained")
        figure.suptitle(f"{title}\n{subtitle}", fontsize="large")
        fill(figure)
        found = {}
        for each in formats:
            content = io.BytesIO()
            figure.savefig(content, format=each, dpi=_DPI, metadata={"Date": None} if each == "svg" else None)
            found[each] = content.getvalue()
    return found


def _short(name: str, most: int = 26) -> str:
    """A name as a label: ids differ at their ends, so what is left out of a long one is its middle."""
    name = printable(name)
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2 - 1) :]}"


def _broken(text: str) -> str:
    """A heading in two lines."""
    words = text.split()
    if len(text) <= 9 or len(words) == 1:
        return text
    half = math.ceil(len(words) / 2)
    return " ".join(words[:half]) + "\n" + " ".join(words[half:])


def _slug(name: str) -> str:
    """What of a name can be in a file's on any system."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:60]


def _unused(name: str, taken: set[str]) -> str:
    """The name, with a number where it is taken already, by systems that know no case, too."""
    number, free = 1, name
    while free.lower() in taken:
        number += 1
        free = f"{name}-{number}"
    taken.add(free.lower())
    return free
