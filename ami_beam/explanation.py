"""What is behind an alert or an alarm: its revisions, the rules, and of every window the reads, as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ami_beam.codecs.json_announcements import ACTIVE, CANCELLED, Source
from ami_beam.codecs.json_outputs import alarm_json, alert_json
from ami_beam.codecs.read_block import PackedRead
from ami_beam.instants import format_duration, format_instant
from ami_beam.long_reads import apportioned
from ami_beam.meter_counts import MeterCounts
from ami_beam.read_columns import from_reads
from ami_beam.records import Alarm, Alert, Announcement, Event, Read
from ami_beam.settings import Settings
from ami_beam.terminal_text import printable
from transforms.alarm_episodes import OUTAGES
from transforms.comm_alerts import LOW_RECEIPT_RATE
from transforms.group_causes import FEEDER_OUTAGE, GROUPS, LEAST_TRANSFORMERS, SECTION_OUTAGE
from transforms.loss_episodes import TOGETHER as LOSSES_TOGETHER
from transforms.loss_events import LOSS_CONTROL, TAMPER_REPEATED
from transforms.outages import LEAST_SHARE_PCT, TOGETHER, needed
from transforms.receipt_rate import receipt_rate_pct
from transforms.silence import SOURCE_SILENT
from transforms.voltage_alerts import HIGH_VOLTAGE, LOW_VOLTAGE
from transforms.winners import Winners

NO_TRANSFORMER = (FEEDER_OUTAGE, SECTION_OUTAGE, *GROUPS.values(), SOURCE_SILENT, *LOSS_CONTROL)
"""Alarms that are about something else, and made of other alarms, of a meter's events or of nothing."""
SHOWN_READS = 8
"""So many reads of a window are in the text, the worst first; all are in the JSON."""


@dataclass(frozen=True)
class Judged:
    """What an id stands for, whether alert or alarm, as it was published last."""

    identity: str
    type: str
    transformer_id: str
    first_window: int
    last_window: int
    revisions: list[Alert | Alarm]
    """As they stand in their topic, the last one last."""

    @property
    def last(self) -> Alert | Alarm:
        return self.revisions[-1]


def judged(rows: Iterable[Alert | Alarm]) -> Judged | None:
    """Of rows with one id in topic order; None where there is none. Raises ValueError for an event's alert."""
    revisions = list(rows)
    if not revisions:
        return None
    # What consumers keep: the greatest as_of, then topic order.
    revisions.sort(key=lambda row: row.as_of)
    last = revisions[-1]
    if isinstance(last, Alarm):
        # The first window is part of the id; late reads may have taken the last ones back.
        final = max(row.last_window for row in revisions if isinstance(row, Alarm))
        return Judged(last.alarm_id, last.alarm_type, last.entity_id, last.first_window, final, revisions)
    if last.window_end is None:
        raise ValueError(
            f"alert {last.alert_id} is about an event: {last.alert_type} of meter {last.entity_id} at"
            f" {format_instant(last.alert_time)}, code {last.detail_value}. Nothing is behind it but that record."
        )
    return Judged(last.alert_id, last.alert_type, last.entity_id, last.window_end, last.window_end, revisions)


@dataclass(frozen=True)
class WindowEvidence:
    """The reads of the transformer in one window."""

    window_end: int
    reads: list[tuple[Read, bool]]
    """Every one that was accepted, and whether it counts: resends and what a newer read replaces do not."""
    limit_v: float | None
    """Volts: voltages beyond it are in violation; None for a receipt rate."""
    total_meters: int | None
    not_heard: list[str]
    """Meters that were heard in another of these windows, and not actually in this one."""

    def counted(self) -> list[Read]:
        return [read for read, counts in self.reads if counts]

    def beyond(self, read: Read, alarm_type: str) -> bool:
        """Whether its voltage is in violation."""
        if self.limit_v is None or read.voltage_v is None:
            return False
        return read.voltage_v < self.limit_v if alarm_type == LOW_VOLTAGE else read.voltage_v > self.limit_v


@dataclass(frozen=True)
class Announced:
    """An announced outage, or work, that a revision names as its cause."""

    name: str
    topic: str | None
    """None where it was not said in which topic it is announced: then there are no records."""
    records: list[Announcement]
    """All that was announced under its id, the one that counts last."""
    alarms: list[Alarm] = field(default_factory=list)
    """The others that have it as their cause, as they stand."""


@dataclass(frozen=True)
class Explanation:
    """Everything that is known of one alert or alarm."""

    judged: Judged
    topic: str
    """Of the reads."""
    config: Mapping[str, Any] | None
    """The record of `ami.config` that it names; None where there is none, and the options of this command are used."""
    settings: Settings
    counts_version: str
    """Of the meter counts that are used here."""
    windows: list[WindowEvidence]
    events: list[Event] = field(default_factory=list)
    """Of an outage: what the transformer's meters said of their supply, in the order in which it happened. Of an alarm
    of loss control: the events that it is made of."""
    explains: list[Alarm] = field(default_factory=list)
    """The alarms whose cause it is, as they stand."""
    announced: list[Announced] = field(default_factory=list)


def source_of(name: str) -> Source:
    """Who has announced what has this name."""
    return "oms" if name.startswith("oms:") else "work"


def announced_names(found: Judged) -> list[str]:
    """The announced outages and work that its revisions name as what explains it, in their order."""
    causes = (row.cause if isinstance(row, Alarm) else row.explained_by for row in found.revisions)
    # Alarm ids have no colon.
    return list(dict.fromkeys(cause for cause in causes if cause is not None and ":" in cause))


def reads_until(found: Judged, counts: MeterCounts, settings: Settings) -> int:
    """The record time, in microseconds, up to which the transformer's reads are behind it.

    Those that had arrived when it was published last. Of an outage `as_of` is what meters said and the end of the
    interval that shows supply again, whose reads came later: there also those by which the window after its last was
    judged.
    """
    if found.type not in OUTAGES:
        return found.last.as_of
    row = counts.at(found.transformer_id, found.last_window)
    delay = settings.receipt_delay_of(None if row is None else row.receipt_delay)
    judged_at = found.last_window + settings.window + max(settings.collection_delay, delay)
    return max(found.last.as_of, judged_at)


def evidence(found: Judged, reads: Iterable[Read], counts: MeterCounts, settings: Settings) -> list[WindowEvidence]:
    """The reads of the transformer by window, from the first to the last of the alarm and around it."""
    size = settings.window
    around = size if found.first_window != found.last_window else 0
    first, last = found.first_window - around, found.last_window + around
    by_window: dict[int, list[Read]] = {end: [] for end in range(first, last + size, size)}
    for read in reads:
        interval = read.transformer_id == found.transformer_id and read.read_type == "INTERVAL"
        if not interval:
            continue
        # A long one counts in several windows.
        for part in apportioned(from_reads([read]), settings).reads() if settings.apportions else [read]:
            if part.window_end in by_window:
                by_window[part.window_end].append(part)
    known = {read.meter_id for several in by_window.values() for read in several}
    windows = []
    for end, several in by_window.items():
        winners = Winners()
        winners.add(map(_packed, several))
        counts_as = {(read.partition, read.offset) for read in winners.winners()}
        heard = {read.meter_id for read in several if not read.estimated_flag}
        row = counts.at(found.transformer_id, end)
        nominal = settings.nominal_voltage if row is None or row.nominal_voltage_v is None else row.nominal_voltage_v
        windows.append(
            WindowEvidence(
                end,
                [(read, (read.partition, read.offset) in counts_as) for read in several],
                _limit(found.type, nominal, settings),
                None if row is None else row.total_meters,
                sorted(known - heard),
            )
        )
    return windows


def _packed(read: Read) -> PackedRead:
    return PackedRead(
        read.transformer_id, read.meter_id, read.interval_end, read.read_ts, not read.estimated_flag, read.record_time,
        read.partition, read.offset, read.feeder_id, read.consumption_kwh, read.delivered_kwh, read.received_kwh,
        read.voltage_v, read.voltage_rejected, read.zero_voltage, apportioned=read.apportioned,
    )  # fmt: skip


def _limit(alarm_type: str, nominal: float, settings: Settings) -> float | None:
    if alarm_type == LOW_VOLTAGE:
        return nominal * settings.low_voltage_pct / 100
    return nominal * settings.high_voltage_pct / 100 if alarm_type == HIGH_VOLTAGE else None


def as_json(explanation: Explanation) -> dict[str, Any]:
    """All of it, every read included."""
    found = explanation.judged
    return {
        "id": found.identity,
        "type": found.type,
        "transformer_id": found.transformer_id,
        "revisions": [json.loads(_json(row)) for row in found.revisions],
        "config": explanation.config,
        "meter_counts_version": explanation.counts_version,
        "windows": [
            {
                "window_end": format_instant(window.window_end),
                "limit_v": window.limit_v,
                "total_meters": window.total_meters,
                "not_heard": window.not_heard,
                "reads": [
                    {
                        "meter_id": read.meter_id,
                        "voltage_v": read.voltage_v,
                        "estimated": read.estimated_flag,
                        "read_ts": format_instant(read.read_ts),
                        "record_time": format_instant(read.record_time),
                        "topic": explanation.topic,
                        "partition": read.partition,
                        "offset": read.offset,
                        "counts": counts,
                        "beyond_limit": counts and window.beyond(read, found.type),
                    }
                    for read, counts in window.reads
                ],
            }
            for window in explanation.windows
        ],
        "events": [
            {
                "meter_id": event.meter_id,
                "event_code": event.event_code,
                "event_ts": format_instant(event.event_ts),
                "record_time": format_instant(event.record_time),
                "partition": event.partition,
                "offset": event.offset,
            }
            for event in explanation.events
        ],
        "explains": [json.loads(alarm_json(alarm)) for alarm in explanation.explains],
        "announcements": [
            {
                "name": announced.name,
                "kind": record.kind,
                "status": _status(record),
                "entity_type": record.entity_type,
                "entity_id": record.entity_id,
                "from": format_instant(record.begins),
                "to": None if record.ends is None else format_instant(record.ends),
                "record_time": format_instant(record.record_time),
                "topic": announced.topic,
                "partition": record.partition,
                "offset": record.offset,
                "counts": record is announced.records[-1],
            }
            for announced in explanation.announced
            for record in announced.records
        ],
        "same_cause": [json.loads(alarm_json(alarm)) for each in explanation.announced for alarm in each.alarms],
    }


def as_text(explanation: Explanation) -> str:
    """For people: the story first, then each window with its worst reads."""
    found, rules = explanation.judged, explanation.settings
    what = "on" if found.type in NO_TRANSFORMER else "on transformer"
    what = "on meter" if found.type in LOSS_CONTROL else what
    lines = [f"{printable(found.type)} {what} {printable(found.transformer_id)}, {found.identity}", ""]
    lines += [_revision(row) for row in found.revisions]
    lines += ["", *_rules(explanation), ""]
    for window in explanation.windows:
        inside = found.first_window <= window.window_end <= found.last_window
        lines.append(_window(window, found.type, rules) + ("" if inside else "  (beside it)"))
        if inside:
            lines += _reads(window, found.type, explanation.topic)
    if explanation.events:
        lines += [
            "",
            f"What {'it' if found.type in LOSS_CONTROL else 'its meters'} said:",
            *map(_event, explanation.events),
        ]
    if explanation.explains:
        lines += ["", "It explains:", *map(_explained, explanation.explains)]
    for announced in explanation.announced:
        lines += ["", *_announced(announced)]
    return "\n".join(lines)


def _announced(announced: Announced) -> Iterable[str]:
    name = printable(announced.name)
    option = "--oms_outages" if source_of(announced.name) == "oms" else "--work"
    if announced.topic is None:
        yield f"{name} was announced; {option} says where, and its records are shown"
    elif not announced.records:
        yield f"{name} was announced, and is not in {announced.topic} any more"
    else:
        yield f"{name} was announced; the last record counts:"
    for record in announced.records:
        ends = "…" if record.ends is None else format_instant(record.ends)
        yield (
            f"    {record.kind} {_status(record)}, {record.entity_type} {printable(record.entity_id)},"
            f" {format_instant(record.begins)} to {ends},"
            f" arrived {format_instant(record.record_time)}, {announced.topic}/{record.partition}/{record.offset}"
        )
    if announced.alarms:
        yield "It explains, too:"
        yield from map(_explained, announced.alarms)


def _status(record: Announcement) -> str:
    return ACTIVE if record.active else CANCELLED


def _event(event: Event) -> str:
    return (
        f"    {format_instant(event.event_ts)}  {printable(event.meter_id)}  {printable(str(event.event_code))},"
        f" arrived {format_instant(event.record_time)}, {event.partition}/{event.offset}"
    )


def _explained(alarm: Alarm) -> str:
    return f"    {printable(alarm.alarm_type)} {printable(alarm.entity_id)}, {alarm.state}, {alarm.alarm_id}"


def _revision(row: Alert | Alarm) -> str:
    if isinstance(row, Alarm):
        what = (
            f"{row.state:<8} {format_instant(row.first_window)} to {format_instant(row.last_window)},"
            f" {row.windows_in_violation} windows, worst {_value(row.worst_value)}"
            f"{f' ({printable(row.worst_meter_id)})' if row.worst_meter_id else ''}, {row.meters_in_violation} meters"
        )
        if row.began_at is not None:
            what += f"; from {format_instant(row.began_at)} to {format_instant(row.ended_at) if row.ended_at else '…'}"
        if row.cause is not None:
            what += f"; explained by {printable(row.cause)}"
    else:
        what = f"{row.status:<8} {_value(row.detail_value)}"
        if row.explained_by is not None:
            what += f"; explained by {printable(row.explained_by)}"
    return f"  revision {row.revision}, as of {format_instant(row.as_of)}: {what}"


def _rules(explanation: Explanation) -> Iterable[str]:
    found, config = explanation.judged, explanation.config
    if config is not None:
        yield f"Rules {config['config_id']}, version {config['version']}, since {config['started']}:"
    else:
        yield f"Rules {found.last.config_id}: not in the topic of configurations; the options of this command are used:"
    rules = explanation.settings
    if found.type in (FEEDER_OUTAGE, SECTION_OUTAGE):
        yield f"  outages of {LEAST_TRANSFORMERS} transformers within {format_duration(TOGETHER)}"
    elif found.type in GROUPS.values():
        yield f"  such alarms of {LEAST_TRANSFORMERS} transformers of a feeder or collection group together"
    elif found.type in OUTAGES:
        total = found.last.meters_total if isinstance(found.last, Alarm) else None
        least = f"{needed(total)} of {total} meters" if total else f"{LEAST_SHARE_PCT} % of the meters"
        yield f"  {least} without supply within {format_duration(TOGETHER)}"
    elif found.type == SOURCE_SILENT:
        yield f"  no record for {format_duration(rules.source_silent)}"
    elif found.type == TAMPER_REPEATED:
        yield f"  {rules.tamper_events} tamper events within {format_duration(LOSSES_TOGETHER)}"
    elif found.type in LOSS_CONTROL:
        yield "  reverse energy at a meter that is not registered as a producer"
    elif found.type == LOW_RECEIPT_RATE:
        yield f"  below {rules.min_receipt_rate_pct:g} % of the meters, at least {rules.min_missing_meters} missing"
    else:
        low = found.type == LOW_VOLTAGE
        percent = rules.low_voltage_pct if low else rules.high_voltage_pct
        yield f"  {'below' if low else 'above'} {percent:g} % of the nominal voltage"
    if isinstance(found.last, Alarm) and found.last.began_at is None and found.type not in NO_TRANSFORMER:
        yield f"  opens after {rules.alarm_on_windows} windows in a row, closes after {rules.alarm_off_windows}"
    if found.type in LOSS_CONTROL:
        yield f"  over {format_duration(LOSSES_TOGETHER)} after the last event"
        return
    same = found.last.meter_counts_version == explanation.counts_version
    yield f"Meter counts {found.last.meter_counts_version}" + (
        "" if same else f"; {explanation.counts_version}, which are there now, are used below"
    )


def _window(window: WindowEvidence, alarm_type: str, rules: Settings) -> str:
    counted = window.counted()
    actual = len({read.meter_id for read in counted if not read.estimated_flag})
    total = window.total_meters
    text = f"{format_instant(window.window_end)}  {actual} of {'?' if total is None else total} meters"
    if alarm_type == LOW_RECEIPT_RATE:
        rate = f" ({receipt_rate_pct(actual, total):g} %)" if total else ""
        estimated = len({read.meter_id for read in counted}) - actual
        missing = f"; not heard: {', '.join(map(printable, window.not_heard))}" if window.not_heard else ""
        return text + rate + (f", {estimated} estimated" if estimated > 0 else "") + missing
    volts = [read.voltage_v for read in counted if read.voltage_v is not None]
    zero = len({read.meter_id for read in counted if read.zero_voltage})
    text += f", {zero} with zero volts" if zero else ""
    if not volts:
        return text + ", no voltage"
    if window.limit_v is None:
        return text + f", {min(volts):g} to {max(volts):g} V"
    beyond = len({read.meter_id for read in counted if window.beyond(read, alarm_type)})
    return text + f", {min(volts):g} to {max(volts):g} V, limit {window.limit_v:g} V, {beyond} beyond it"


def _reads(window: WindowEvidence, alarm_type: str, topic: str) -> Iterable[str]:
    if alarm_type not in (LOW_VOLTAGE, HIGH_VOLTAGE):
        return
    sign = 1 if alarm_type == LOW_VOLTAGE else -1
    beyond = [read for read in window.counted() if window.beyond(read, alarm_type)]
    beyond.sort(key=lambda read: (sign * (read.voltage_v or 0.0), read.meter_id))
    for read in beyond[:SHOWN_READS]:
        late = " estimated" if read.estimated_flag else ""
        yield (
            f"    {printable(read.meter_id)}  {read.voltage_v:g} V{late}, read {format_instant(read.read_ts)},"
            f" arrived {format_instant(read.record_time)}, {topic}/{read.partition}/{read.offset}"
        )
    if len(beyond) > SHOWN_READS:
        yield f"    … and {len(beyond) - SHOWN_READS} more; --json has all"


def _value(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"


def _json(row: Alert | Alarm) -> bytes:
    return alarm_json(row) if isinstance(row, Alarm) else alert_json(row)
