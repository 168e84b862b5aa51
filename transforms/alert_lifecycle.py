"""The life of an alert: RAISED on the first violation, UPDATED, CLEARED, and RAISED again under the same id."""

from __future__ import annotations

from msgspec import Struct

from ami_beam.records import AlertStatus


class AlertState(Struct, array_like=True, gc=False):
    """What was last published of an alert."""

    status: AlertStatus
    value: float | None
    revision: int


def advance(before: AlertState | None, holds: bool, value: float | None) -> AlertState | None:
    """The state to publish after a judgement, or None where nothing is to be published.

    An alert that never held is never published. `value` is compared as published: UPDATED means that it differs. A
    CLEARED alert carries the value that ended the violation.
    """
    if before is None:
        return AlertState("RAISED", value, 0) if holds else None
    active = before.status != "CLEARED"
    if holds and not active:
        return AlertState("RAISED", value, before.revision + 1)
    if active and not holds:
        return AlertState("CLEARED", value, before.revision + 1)
    if active and value != before.value:
        return AlertState("UPDATED", value, before.revision + 1)
    return None
