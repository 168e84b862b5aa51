"""The answer of a what-if as a picture: alarms over time under both settings, and what changes by type and feeder."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ami_beam.alarm_changes import Tally, alarm_type, at_once, feeder, tallies
from ami_beam.instants import MICROS_PER_SECOND
from ami_beam.whatif_report import Comparison

FORMATS = (".png", ".svg", ".pdf")
_MOST_FEEDERS = 12
# Okabe and Ito's colours, which people with any kind of colour vision can tell apart.
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#E69F00", "#009E73", "#999999"


class PictureError(RuntimeError):
    """There is no library to draw with; the message says how to get it."""


def check_library() -> None:
    """Raises PictureError where there is nothing to draw with."""
    if find_spec("matplotlib") is None:
        raise PictureError("--picture needs matplotlib: pip install 'ami-beam[report]'")


def draw(comparison: Comparison, path: Path) -> None:
    """Write the picture; the suffix says which kind. Raises PictureError."""
    check_library()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Names come from a topic, and a dollar sign in one is no formula.
    with rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(11, 8), layout="constrained")
        _fill(figure, comparison)
        figure.savefig(path, dpi=120)


def _fill(figure: Any, comparison: Comparison) -> None:
    figure.suptitle("What if " + ", ".join(comparison.sets) + "?")
    over_time, by_type, by_feeder = figure.subplot_mosaic([["time", "time"], ["type", "feeder"]]).values()
    _over_time(over_time, comparison)
    _bars(by_type, "by type", tallies(comparison.changes, alarm_type))
    feeders = list(tallies(comparison.changes, feeder).items())[:_MOST_FEEDERS]
    _bars(by_feeder, "by feeder (most changes)", {name or "(nothing heard)": tally for name, tally in feeders})
    handles, labels = by_type.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=4)


def _over_time(axes: Any, comparison: Comparison) -> None:
    for name, changed, colour, style in (("current", False, _BLUE, "-"), ("changed", True, _ORANGE, "--")):
        steps = list(at_once(comparison.alarms(changed)))
        times = [datetime.fromtimestamp(instant / MICROS_PER_SECOND, UTC) for instant, _ in steps]
        axes.step(times, [count for _, count in steps], where="post", label=name, color=colour, linestyle=style)
    axes.set_title("alarms in violation at once")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("window end, UTC")
    axes.legend()


def _bars(axes: Any, title: str, rows: dict[Any, Tally]) -> None:
    names = [str(name) for name in rows][::-1]
    tallied = list(rows.values())[::-1]
    left = [0] * len(names)
    for label, colour, hatch, values in (
        ("stay", _GREY, "", [t.changed - t.appear - t.move for t in tallied]),
        ("move", _BLUE, "//", [t.move for t in tallied]),
        ("appear", _ORANGE, "..", [t.appear for t in tallied]),
        ("vanish", _GREEN, "xx", [t.vanish for t in tallied]),
    ):
        values = [max(value, 0) for value in values]
        axes.barh(names, values, left=left, label=label, color=colour, hatch=hatch, edgecolor="white")
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.set_title(title)
    axes.set_xlabel("alarms")
