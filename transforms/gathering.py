"""When the steps that add results up look at what has come: at once for a window that is due, later for revisions."""

from __future__ import annotations

from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MILLI, MICROS_PER_MINUTE
from ami_beam.settings import Settings
from transforms.window_expiry import expiry

AFTER = MICROS_PER_MILLI
"""Timers of one instant may fire in any order, also those of a step and of what it takes from; of two not."""
GATHER_YOUNG, GATHER_OLD = MICROS_PER_MINUTE, 15 * MICROS_PER_MINUTE
"""Record time for which revisions of a window are gathered: up to `YOUNG` after its end, and later."""
YOUNG = MICROS_PER_HOUR
KEPT_LONGER = MICROS_PER_HOUR
"""So much longer than the results that they are made of steps that add up keep a window."""
EXPIRE = "expire"
"""The tag of the timer at which state is forgotten; the others' is when they fire."""


def gathered_until(at: int, window_end: int, settings: Settings) -> int:
    """When what came at `at` is looked at, both in record time, microseconds.

    `at` is an element's time or the greatest as_of in it: some revisions have the time at which their window was due.
    """
    due_at = window_end + settings.collection_delay
    at -= AFTER  # what is placed at an instant comes so much later
    if at <= due_at:
        return due_at + 2 * AFTER
    gather = GATHER_YOUNG if at < window_end + YOUNG else GATHER_OLD
    return -(-at // gather) * gather + 2 * AFTER


def gathered_with_others(at: int) -> int:
    """When late rows of many windows are looked at together, for what they say to be there by `gathered_until`."""
    return (at // GATHER_YOUNG + 1) * GATHER_YOUNG + AFTER


def forgotten_at(settings: Settings, window_end: int, hours: int = 1) -> int:
    """When the state of a window may go, so many hours after that of the results that it is made of."""
    return expiry(settings, window_end) + hours * KEPT_LONGER
