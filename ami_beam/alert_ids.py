"""Deterministic alert ids: the same condition has the same id in every run, replay and after every crash."""

from __future__ import annotations

from hashlib import sha256


def alert_id(alert_source: str, alert_type: str, entity_id: str, alert_time: int) -> str:
    """32 hex digits; different conditions have different ids (128 bits of SHA-256 over an unambiguous text)."""
    return _digest(alert_source, alert_type, entity_id, str(alert_time))


def event_alert_id(meter_id: str, event_code: int, event_ts: int) -> str:
    """The id of an event's alert; the description does not count, since a resent event may lack it."""
    return _digest("EVENT", str(event_code), meter_id, str(event_ts))


def _digest(*parts: str) -> str:
    # The lengths make ("a", "bc") and ("ab", "c") different.
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return sha256(text.encode()).hexdigest()[:32]
