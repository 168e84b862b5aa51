"""When the steps that add results up look at what has come: at once for a window that is due, later for revisions."""

from __future__ import annotations

from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MILLI, MICROS_PER_MINUTE
from ami_beam.settings import Settings

AFTER = MICROS_PER_MILLI
"""Timers of one instant may fire in any order, also those of a step and of what it takes from; of two not."""
GATHER_YOUNG, GATHER_OLD = MICROS_PER_MINUTE, 15 * MICROS_PER_MINUTE
"""Record time for which revisions of a window are gathered: up to an hour after its end, and later."""
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
    gather = GATHER_YOUNG if at < window_end + MICROS_PER_HOUR else GATHER_OLD
    return -(-at // gather) * gather + 2 * AFTER
