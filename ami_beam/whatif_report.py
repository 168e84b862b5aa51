"""The answer of a what-if as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from ami_beam.alarm_changes import Change, Tally, alarm_type, feeder, hour_of_day, most_at_once, tallies
from ami_beam.codecs.json_outputs import alarm_json
from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MINUTE, format_instant
from ami_beam.records import Alarm
from ami_beam.settings import Settings
from ami_beam.terminal_text import printable

MOST_FEEDERS = 15
"""So many feeders are in the table; all are in the JSON."""
_COLUMNS = ("current", "changed", "appear", "vanish", "move")


@dataclass(frozen=True)
class Comparison:
    """The alarms of a period (None: from the first, to the last record) under two settings."""

    begin: int | None
    end: int | None
    current: Settings
    changed: Settings
    sets: tuple[str, ...]
    """The changes as they were asked for."""
    changes: list[Change]

    def alarms(self, changed: bool) -> list[Alarm]:
        """Of the changed or of the current settings."""
        found = (each.changed if changed else each.current for each in self.changes)
        return [alarm for alarm in found if alarm is not None]

    def different_settings(self) -> dict[str, tuple[Any, Any]]:
        """By name of the setting, the current and the changed value; durations in microseconds."""
        return {
            field.name: (before, after)
            for field in fields(Settings)
            if (before := getattr(self.current, field.name)) != (after := getattr(self.changed, field.name))
        }

    def span(self) -> tuple[int, int] | None:
        """The period, open ends at the alarms' own; None where there is neither."""
        alarms = [each.alarm for each in self.changes]
        begin = min((alarm.first_window for alarm in alarms), default=None) if self.begin is None else self.begin
        end = max((alarm.last_window for alarm in alarms), default=None) if self.end is None else self.end
        return None if begin is None or end is None else (begin, end)


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything: the settings, the tallies, the most alarms at once, and every alarm that differs."""
    changes = comparison.changes
    return {
        "from": _text(comparison.begin),
        "to": _text(comparison.end),
        "set": list(comparison.sets),
        "settings": {
            name: {"current": before, "changed": after}
            for name, (before, after) in comparison.different_settings().items()
        },
        "total": asdict(_total(changes)),
        "most_at_once": {
            "current": most_at_once(comparison.alarms(False)),
            "changed": most_at_once(comparison.alarms(True)),
        },
        "by_type": _rows("alarm_type", tallies(changes, alarm_type)),
        "by_feeder": _rows("feeder_id", tallies(changes, feeder)),
        "by_hour": _rows("hour", dict(sorted(tallies(changes, hour_of_day).items()))),
        "changes": [
            {
                "change": each.kind,
                "begins_later_minutes": each.begins_later / MICROS_PER_MINUTE,
                "lasts_longer_minutes": each.lasts_longer / MICROS_PER_MINUTE,
                "current": _alarm(each.current),
                "changed": _alarm(each.changed),
            }
            for each in changes
            if each.kind != "stays"
        ],
    }


def as_text(comparison: Comparison) -> str:
    """Tables by type, feeder and hour of the day (UTC), and what alarms that move do."""
    changes = comparison.changes
    span = comparison.span()
    lines = [f"What if {', '.join(comparison.sets)}?"]
    if span is None:
        return lines[0] + "\nNo alarm, with either settings."
    current, changed = comparison.alarms(False), comparison.alarms(True)
    hours = max((span[1] - span[0]) / MICROS_PER_HOUR, 1.0)
    lines += [
        f"{format_instant(span[0])} to {format_instant(span[1])}",
        "",
        f"{'':<24}{'current':>10}{'changed':>10}",
        f"{'alarms':<24}{len(current):>10,}{len(changed):>10,}",
        f"{'alarms an hour':<24}{len(current) / hours:>10.2f}{len(changed) / hours:>10.2f}",
        f"{'most at once':<24}{most_at_once(current):>10,}{most_at_once(changed):>10,}",
        "",
    ]
    lines += _table("type", tallies(changes, alarm_type), str, _total(changes))
    by_feeder = tallies(changes, feeder)
    shown = dict(list(by_feeder.items())[:MOST_FEEDERS])
    lines += ["", *_table("feeder", shown, lambda name: name or "(nothing heard)")]
    if len(by_feeder) > len(shown):
        lines.append(f"… and {len(by_feeder) - len(shown):,} more, with fewer changes; --json has all")
    by_hour = dict(sorted(tallies(changes, hour_of_day).items()))
    lines += ["", *_table("hour (UTC)", by_hour, lambda hour: f"{hour:02}")]
    moved = [each for each in changes if each.kind == "moves"]
    if moved:
        lines += ["", *_moves(moved)]
    return "\n".join(lines)


def _moves(moved: list[Change]) -> Iterable[str]:
    later = sorted(each.begins_later / MICROS_PER_MINUTE for each in moved)
    longer = sorted(each.lasts_longer / MICROS_PER_MINUTE for each in moved)
    yield f"Of {len(moved):,} that move:"
    for words, values in (("begin", later), ("length", longer)):
        middle = values[len(values) // 2]
        yield f"  {words:<8}{values[0]:+.0f} to {values[-1]:+.0f} minutes, median {middle:+.0f}"


def _table(title: str, rows: dict[Any, Tally], name: Callable[[Any], str], total: Tally | None = None) -> list[str]:
    named = [(name(key), tally) for key, tally in rows.items()]
    if total is not None:
        named.append(("all", total))
    width = max(24, *(len(text) for text, _ in named)) if named else 24
    lines = [f"{title:<{width}}" + "".join(f"{column:>10}" for column in _COLUMNS)]
    lines += [
        f"{printable(text):<{width}}" + "".join(f"{getattr(tally, column):>10,}" for column in _COLUMNS)
        for text, tally in named
    ]
    return lines


def _total(changes: list[Change]) -> Tally:
    return tallies(changes, lambda _: "all").get("all", Tally())


def _rows(key: str, rows: dict[Any, Tally]) -> list[dict[str, Any]]:
    return [{key: name, **asdict(tally)} for name, tally in rows.items()]


def _alarm(alarm: Alarm | None) -> Any:
    return None if alarm is None else json.loads(alarm_json(alarm))


def _text(instant: int | None) -> str | None:
    return None if instant is None else format_instant(instant)
