"""The life of an alert: RAISED on the first violation, UPDATED, CLEARED, and RAISED again under the same id."""

from __future__ import annotations

from msgspec import Struct

from ami_beam.records import AlertStatus, PublishedAlert

MAX_ADOPTED = 10
"""How often an alert is set right after something else has published it: two jobs on one topic would never end."""


class AlertState(Struct, array_like=True, gc=False):
    """What was last published of an alert."""

    status: AlertStatus
    value: float | None
    revision: int
    as_of: int = 0
    """The greatest that was published: a consumer keeps the alert with the greatest."""
    adopted: int = 0
    """How often the alert was found in the topic with a content that was not ours."""


def advance(before: AlertState | None, holds: bool, value: float | None, as_of: int = 0) -> AlertState | None:
    """The state to publish after a judgement, or None where nothing is to be published.

    An alert that never held is never published. `value` is compared as published: UPDATED means that it differs. A
    CLEARED alert carries the value that ended the violation.
    """
    if before is None:
        return AlertState("RAISED", value, 0, as_of) if holds else None
    active = before.status != "CLEARED"
    status: AlertStatus
    if holds and not active:
        status = "RAISED"
    elif active and not holds:
        status = "CLEARED"
    elif active and value != before.value:
        status = "UPDATED"
    else:
        return None
    return AlertState(status, value, before.revision + 1, max(as_of, before.as_of), before.adopted)


def adopt(known: AlertState | None, published: PublishedAlert) -> AlertState | None:
    """The state that consumers were told, where it is not the one we know; None where it is, or is an older one.

    After a failure the job goes on from a checkpoint, and what it published since then is not in its state. It need
    not come to the same intermediate results again: an alert that the lost attempt raised on a part of the reads would
    stay for ever, if nobody knew of it. What has a greater as_of than ours is what consumers keep, whatever its
    revision.
    """
    if known is None:
        return AlertState(published.status, published.value, published.revision, published.as_of, 1)
    kept = published.as_of > known.as_of
    if known.adopted >= MAX_ADOPTED or (published.revision < known.revision and not kept):
        return None
    same = (published.revision, published.status, published.value) == (known.revision, known.status, known.value)
    if same and not kept:
        return None
    return AlertState(
        published.status,
        published.value,
        max(published.revision, known.revision),
        max(published.as_of, known.as_of),
        known.adopted + 1,
    )
