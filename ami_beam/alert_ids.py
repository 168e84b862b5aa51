"""Deterministic alert ids: the same alert has the same id in every run, replay and retry, and no other alert has it."""

from __future__ import annotations

from hashlib import sha256

import msgspec


def alert_id(source: str, alert_type: str, entity_id: str, alert_time: int) -> str:
    """32 hexadecimal digits for one (source, type, entity, instant in microseconds)."""
    # a JSON array and not a joined text: ("a|b", "c") and ("a", "b|c") must differ
    return sha256(msgspec.json.encode([source, alert_type, entity_id, alert_time])).hexdigest()[:32]


def event_alert_id(meter_id: str, event_code: int | str, event_ts: int) -> str:
    """The id of an event alert. Its type is free text and no part of it: a resend may word it otherwise."""
    return alert_id("EVENT", str(event_code), meter_id, event_ts)


def alarm_id(alarm_type: str, entity_id: str, first_window: int) -> str:
    """The id of an alarm: it is known by the end of its first window, an outage by that of the one it began in."""
    return alert_id("ALARM", alarm_type, entity_id, first_window)
