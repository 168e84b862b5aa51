"""What the page is told of alarms, alerts and announcements, as documents for JSON.

Whoever calls holds the hub's lock.
"""

from __future__ import annotations

from typing import Any

from ami_beam.dashboard.alarm_board import Acknowledgement, AlarmBoard, Kept, last
from ami_beam.instants import format_instant
from ami_beam.records import Alarm, Alert, Announcement
from transforms.alarm_episodes import SINGLE_OUTAGE, TRANSFORMER_OUTAGE
from transforms.comm_alerts import LOW_RECEIPT_RATE
from transforms.group_causes import (
    COMM_GROUP,
    FEEDER_OUTAGE,
    HIGH_VOLTAGE_GROUP,
    LOW_VOLTAGE_GROUP,
    SECTION_OUTAGE,
)
from transforms.loss_events import LOSS_CONTROL, REVERSE_ENERGY_UNREGISTERED, TAMPER_REPEATED
from transforms.silence import SOURCE_SILENT
from transforms.voltage_alerts import HIGH_VOLTAGE, LOW_VOLTAGE

MOST_ALARMS = 5_000
MOST_ALERTS = 500
MOST_EXPLAINED = 200
WORDS = {
    LOW_VOLTAGE: "Low voltage",
    HIGH_VOLTAGE: "High voltage",
    LOW_RECEIPT_RATE: "Low receipt rate",
    LOW_VOLTAGE_GROUP: "Low voltage on a feeder",
    HIGH_VOLTAGE_GROUP: "High voltage on a feeder",
    COMM_GROUP: "Meters silent together",
    TRANSFORMER_OUTAGE: "Transformer outage",
    SINGLE_OUTAGE: "Outage of a single customer",
    FEEDER_OUTAGE: "Feeder outage",
    SECTION_OUTAGE: "Outage of a feeder's section",
    SOURCE_SILENT: "Head-end silent",
    TAMPER_REPEATED: "Repeated tamper",
    REVERSE_ENERGY_UNREGISTERED: "Unregistered reverse energy",
}
"""The types of alarms in words for people."""
_FEEDERS = (FEEDER_OUTAGE, SECTION_OUTAGE, LOW_VOLTAGE_GROUP, HIGH_VOLTAGE_GROUP)
_VOLTS = (LOW_VOLTAGE, HIGH_VOLTAGE, LOW_VOLTAGE_GROUP, HIGH_VOLTAGE_GROUP)
Document = dict[str, Any]


def entity_kind(alarm: Alarm) -> str:
    """What an alarm is about: a transformer, feeder, meter, collector or topic."""
    if alarm.alarm_type == COMM_GROUP:
        return "feeder" if alarm.entity_id == alarm.feeder_id else "collector"
    if alarm.alarm_type in _FEEDERS:
        return "feeder"
    if alarm.alarm_type in LOSS_CONTROL:
        return "meter"
    return "topic" if alarm.alarm_type == SOURCE_SILENT else "transformer"


def _unit(kind: str) -> str:
    return "V" if kind in _VOLTS else "" if kind in (*LOSS_CONTROL, SOURCE_SILENT) else "%"


def alarm_document(kept: Kept, board: AlarmBoard) -> Document:
    """An alarm as it stands."""
    document = version_document(kept.alarm)
    document["explains"] = len(board.explained(kept.alarm.alarm_id))
    document["revised"] = len(kept.versions) > 1 or kept.alarm.revision > 0
    document["ack"] = None if kept.acknowledged is None else acknowledgement_document(kept.acknowledged)
    return document


def version_document(alarm: Alarm) -> Document:
    """One version of an alarm."""
    return {
        "id": alarm.alarm_id,
        "type": alarm.alarm_type,
        "entity_id": alarm.entity_id,
        "entity_kind": entity_kind(alarm),
        "feeder_id": alarm.feeder_id,
        "state": alarm.state,
        "severity": alarm.severity,
        "first_window": format_instant(alarm.first_window),
        "last_window": format_instant(alarm.last_window),
        "began_at": _text(alarm.began_at),
        "ended_at": _text(alarm.ended_at),
        "value": alarm.worst_value,
        "unit": _unit(alarm.alarm_type),
        "windows_in_violation": alarm.windows_in_violation,
        "meters_in_violation": alarm.meters_in_violation,
        "meters_missing": alarm.meters_missing,
        "meters_total": alarm.meters_total,
        "worst_meter_id": alarm.worst_meter_id,
        "momentary": alarm.momentary,
        "cause": alarm.cause,
        "revision": alarm.revision,
        "taken_back": alarm.state == "CLEARED" and not alarm.windows_in_violation,
        "as_of": format_instant(alarm.as_of),
    }


def acknowledgement_document(said: Acknowledgement) -> Document:
    return {"user": said.user, "at": format_instant(said.at), "comment": said.comment}


def alert_document(alert: Alert) -> Document:
    """One per-window alert, or one about an event."""
    unit = "" if alert.alert_source == "EVENT" else "%" if alert.alert_source == "COMM" else "V"
    return {
        "id": alert.alert_id,
        "type": alert.alert_type,
        "entity_id": alert.entity_id,
        "source": alert.alert_source,
        "status": alert.status,
        "severity": alert.severity,
        "value": alert.detail_value,
        "unit": unit,
        "time": format_instant(alert.alert_time),
        "window_end": _text(alert.window_end),
        "feeder_id": alert.feeder_id,
        "explained_by": alert.explained_by,
        "revision": alert.revision,
        "late": alert.late,
    }


def announcement_document(said: Announcement, board: AlarmBoard) -> Document:
    return {
        "name": said.name,
        "kind": said.kind,
        "entity_type": said.entity_type,
        "entity_id": said.entity_id,
        "from": format_instant(said.begins),
        "to": _text(said.ends),
        "explains": len(board.explained(said.name)),
    }


def stream_document(board: AlarmBoard, since: int | None) -> Document:
    """What a page is told that knows the board as of a version; None: nothing yet."""
    changes = None if since is None else board.changes(since)
    if changes is None:
        kept = sorted(board.alarms(), key=_importance)
        told = kept[:MOST_ALARMS]
        return {
            "full": True,
            "alarms": [alarm_document(each, board) for each in told],
            "removed": [],
            "omitted": len(kept) - len(told),
        }
    changed, gone = changes
    return {"full": False, "alarms": [alarm_document(each, board) for each in changed], "removed": gone, "omitted": 0}


def detail_document(board: AlarmBoard, identity: str) -> Document | None:
    """An alarm with its history and what is behind it; None where it is not known."""
    kept = board.get(identity)
    if kept is None:
        return None
    cause = kept.alarm.cause
    cause_kept = None if cause is None else board.get(cause)
    announcement = None if cause is None else board.announcement(cause)
    explained = [board.get(each) for each in sorted(board.explained(identity))[:MOST_EXPLAINED]]
    return {
        "alarm": alarm_document(kept, board),
        "history": [version_document(each) for each in kept.versions],
        "alerts": [alert_document(each) for each in board.alerts_behind(kept.alarm)[-MOST_ALERTS:]],
        "explained": [alarm_document(each, board) for each in explained if each is not None],
        "caused_by": None if cause_kept is None else alarm_document(cause_kept, board),
        "announcement": None if announcement is None else announcement_document(announcement, board),
    }


def outages_document(board: AlarmBoard) -> Document:
    """Outages that are there, those that have ended, and what was announced."""
    kept = sorted(board.outages(), key=lambda each: (-(each.alarm.began_at or 0), each.alarm.alarm_id))
    active = [each for each in kept if each.alarm.state != "CLEARED"]
    recent = [each for each in kept if each.alarm.state == "CLEARED"]
    return {
        "version": board.version + board.announced_version,
        "active": [alarm_document(each, board) for each in active[:MOST_ALARMS]],
        "recent": [alarm_document(each, board) for each in recent[:MOST_ALARMS]],
        "announced": [announcement_document(each, board) for each in board.announcements()[:MOST_ALARMS]],
    }


def _importance(kept: Kept) -> tuple[bool, bool, bool, int]:
    alarm = kept.alarm
    return alarm.state == "CLEARED", alarm.cause is not None, alarm.severity != "CRITICAL", -last(alarm)


def _text(instant: int | None) -> str | None:
    return None if instant is None else format_instant(instant)
