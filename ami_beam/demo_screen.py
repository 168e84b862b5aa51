"""What the demonstration shows: every alert and change of an alarm as one line, and below them a running count.

Nothing that a record holds reaches the terminal as a control character. Colours and the line that is rewritten in place
are for terminals only; a file or a pipe gets plain lines, the counts now and then. NO_COLOR is respected.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Mapping
from typing import TextIO

import msgspec

from ami_beam.codecs.json_outputs import (
    ALARMS_TOPIC,
    DEAD_LETTER_TOPIC,
    EVENT_ALERTS_TOPIC,
    GRID_ALERTS_TOPIC,
    SUMMARY_TOPIC,
    parse_alarm,
    parse_alert,
    parse_summary,
)
from ami_beam.event_map import ARTICLE
from ami_beam.instants import format_instant
from ami_beam.records import Alarm, Alert
from ami_beam.terminal_text import printable
from transforms.group_causes import FEEDER_OUTAGE, GROUPS, SECTION_OUTAGE
from transforms.loss_events import LOSS_CONTROL
from transforms.silence import SOURCE_SILENT

ALERT_KINDS = (
    *("LOW_VOLTAGE", "HIGH_VOLTAGE", "LOW_RECEIPT_RATE"),
    *(kind.name for _, kind in ARTICLE.kinds),
)
"""The nine types, events by their standard names."""

_NAMES = {code: kind.name for code, kind in ARTICLE.kinds}
_CODES = {name: code for code, name in _NAMES.items()}
_ENTITIES = {
    **dict.fromkeys((FEEDER_OUTAGE, SECTION_OUTAGE, *GROUPS.values()), "feeder"),
    SOURCE_SILENT: "topic of",
    **dict.fromkeys(LOSS_CONTROL, "meter"),
}
_UNITS = {"LOW_VOLTAGE": " V", "HIGH_VOLTAGE": " V", "LOW_RECEIPT_RATE": " % of reads"}
_UNITS |= {group: _UNITS[kind] for kind, group in GROUPS.items()}
_COLOURS = {"CRITICAL": "31;1", "WARNING": "33", "CLEARED": "32", "faint": "2"}
_COUNT_SECONDS_TERMINAL, _COUNT_SECONDS_FILE = 0.5, 15.0


def kind(alert: Alert) -> str | None:
    """Which of the nine types an alert is. An event's own alert_type is free text; its code tells."""
    if alert.alert_source == "EVENT":
        return _NAMES.get(alert.event_code or "")
    return alert.alert_type if alert.alert_type in ALERT_KINDS else None


def missing(seen: Iterable[str]) -> list[str]:
    """The types that are not among `seen`, in the order of `ALERT_KINDS`, events with their codes."""
    left = [name for name in ALERT_KINDS if name not in set(seen)]
    return [f"{name} ({_CODES[name]})" if name in _CODES else name for name in left]


def alert_line(alert: Alert, colours: bool = False) -> str:
    """Time (UTC), severity, type, entity, value and status of an alert, in columns."""
    name = kind(alert)
    value = "" if alert.detail_value is None else f"{alert.detail_value:g}"
    if alert.alert_source == "EVENT":
        value = f"code {alert.event_code}" + ("" if alert.alert_type == name else f", “{alert.alert_type}”")
    else:
        value = value + _UNITS.get(alert.alert_type, "") if value else "no value"
    value += ", explained by an alarm" if alert.explained_by is not None else ""
    entity = f"{'meter' if alert.alert_source == 'EVENT' else 'transformer'} {alert.entity_id}"
    where = f"  feeder {alert.feeder_id}" if alert.feeder_id else ""
    at = format_instant(alert.alert_time)[11:19]
    severity = _coloured(f"{alert.severity:<8}", alert.severity, colours and alert.status == "RAISED")
    status = _coloured(f"{alert.status:<7}", "CLEARED" if alert.status == "CLEARED" else "", colours)
    what, entity, value = printable(name or alert.alert_type), printable(entity), printable(value)
    line = f"{at}  {severity}  {what:<16}  {status}  {entity:<22}  {value}"
    return line + _coloured(printable(where), "faint", colours)


def alarm_line(alarm: Alarm, colours: bool = False) -> str:
    """Time of the last window (UTC), type, state, entity and evidence of an alarm, in the columns of `alert_line`."""
    at = format_instant(alarm.last_window)[11:19]
    word = _coloured(f"{'ALARM':<8}", "CRITICAL", colours and alarm.state == "ACTIVE")
    state = _coloured(f"{alarm.state:<7}", "CLEARED" if alarm.state == "CLEARED" else "", colours)
    if not alarm.windows_in_violation:
        evidence = "taken back by late reads"
    elif alarm.began_at is not None:
        until = "" if alarm.ended_at is None else f" to {format_instant(alarm.ended_at)[11:19]}"
        of = f"{alarm.meters_in_violation} of {alarm.meters_total} meters, " if alarm.meters_total else ""
        evidence = f"{of}from {format_instant(alarm.began_at)[11:19]}{until}"
    else:
        unit = _UNITS.get(alarm.alarm_type, "")
        evidence = f"{alarm.worst_value:g}{unit} at worst, {alarm.windows_in_violation} windows"
    evidence += ", explained by another" if alarm.cause is not None else ""
    kind_of_entity = _ENTITIES.get(alarm.alarm_type, "transformer")
    if kind_of_entity == "feeder" and alarm.entity_id != alarm.feeder_id:
        kind_of_entity = "collector"
    entity = f"{kind_of_entity} {alarm.entity_id}"
    return f"{at}  {word}  {printable(alarm.alarm_type):<16}  {state}  {printable(entity):<22}  {evidence}"


def _coloured(text: str, name: str, wanted: bool) -> str:
    return f"\x1b[{_COLOURS[name]}m{text}\x1b[0m" if wanted and name in _COLOURS and text else text


def announced_line(value: bytes, colours: bool = False) -> str:
    """What the OMS announces, in the columns of `alert_line`: beginning (UTC), kind, status, entity and end."""
    said = msgspec.json.decode(value)
    word = _coloured(f"{'OMS':<8}", "WARNING", colours)
    entity = f"{said['entity_type'].lower()} {said['entity_id']}"
    until = "" if said["to"] is None else f", to {said['to'][11:19]}"
    texts = [printable(text) for text in (said["kind"], said["status"], entity, f"{said['outage_id']}{until}")]
    held = " (its alarms are held)" if said["kind"] == "PLANNED" and said["status"] == "ACTIVE" else ""
    return f"{said['from'][11:19]}  {word}  {texts[0]:<16}  {texts[1]:<7}  {texts[2]:<22}  {texts[3]}{held}"


class Tally:
    """What has come out so far. A record that is delivered twice counts once."""

    def __init__(self) -> None:
        self.reads = 0
        self.seen: set[str] = set()
        self._windows: set[int] = set()
        self._alerts: set[str] = set()
        self._alarms: set[str] = set()
        self._letters: set[tuple[str, int, int, str]] = set()

    def take(self, topic: str, value: bytes) -> Alert | Alarm | None:
        """Count a record of an output topic; the alert or alarm, when it is one."""
        if topic == SUMMARY_TOPIC:
            self._windows.add(parse_summary(value).window_end)
        elif topic == DEAD_LETTER_TOPIC:
            letter = msgspec.json.decode(value)
            self._letters.add((letter["topic"], letter["partition"], letter["offset"], letter["reason"]))
        elif topic in (GRID_ALERTS_TOPIC, EVENT_ALERTS_TOPIC):
            alert = parse_alert(value)
            self._alerts.add(alert.alert_id)
            if name := kind(alert):
                self.seen.add(name)
            return alert
        elif topic == ALARMS_TOPIC:
            alarm = parse_alarm(value)
            self._alarms.add(alarm.alarm_id)
            return alarm
        return None

    def line(self) -> str:
        """The running count."""
        return (
            f"{self.reads:,} reads · {len(self._windows):,} windows · {len(self._alerts):,} alerts, "
            f"{len(self.seen)} of {len(ALERT_KINDS)} types · {len(self._alarms):,} alarms · "
            f"{len(self._letters):,} dead letters"
        )


class Screen:
    """Writes lines to `out`, and keeps the running count below them."""

    def __init__(self, out: TextIO, environment: Mapping[str, str] = os.environ) -> None:
        self._out = out
        self._terminal = out.isatty() and environment.get("TERM") != "dumb"
        self._colours = self._terminal and not environment.get("NO_COLOR")
        self._count = ""
        self._next = 0.0

    def say(self, text: str = "") -> None:
        """A line of ours."""
        self._write(text)

    def alert(self, alert: Alert | Alarm) -> None:
        line = alarm_line(alert, self._colours) if isinstance(alert, Alarm) else alert_line(alert, self._colours)
        self._write(line)

    def announced(self, value: bytes) -> None:
        """A record of announced outages."""
        self._write(announced_line(value, self._colours))

    def count(self, tally: Tally, force: bool = False) -> None:
        """Show the running count, when it has changed and is due."""
        now = time.monotonic()
        text = tally.line()
        if not force and (now < self._next or text == self._count):
            return
        self._next = now + (_COUNT_SECONDS_TERMINAL if self._terminal else _COUNT_SECONDS_FILE)
        self._count = text
        if self._terminal:
            self._draw_count()
        else:
            self._write(f"-- {text}")
        self._out.flush()

    def end_count(self) -> None:
        """Leave the running count where it is: what follows goes below it."""
        if self._terminal and self._count:
            self._out.write("\n")
            self._out.flush()
        self._count = ""

    def _write(self, text: str) -> None:
        if self._terminal and self._count:
            self._out.write("\r\x1b[K")
        self._out.write(f"{text}\n")
        if self._terminal and self._count:
            self._draw_count()
        self._out.flush()

    def _draw_count(self) -> None:
        # One row only: a wrapped line could not be rewritten in place.
        width = shutil.get_terminal_size().columns - 1
        self._out.write(f"\r\x1b[K{_coloured(self._count[:width], 'faint', self._colours)}")
