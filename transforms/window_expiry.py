"""When the steps that keep a window's state may forget it."""

from __future__ import annotations

from ami_beam.instants import MICROS_PER_HOUR
from ami_beam.settings import Settings


def billing_expiry(settings: Settings, window_end: int) -> int:
    """The watermark at which reads of meters are forgotten, likewise."""
    lateness = max(settings.billing_lateness, settings.allowed_lateness)
    return window_end + settings.collection_delay + lateness + settings.max_disorder + MICROS_PER_HOUR


def expiry(settings: Settings, window_end: int) -> int:
    """The watermark at which a window is forgotten: the time of its last late read, and how far that may be behind.

    The steps run in the global window and keep time themselves: Flink holds a stateful step's watermark at the end of
    every Beam window that it keeps, and Beam would drop the windows of a gap that is filled after the head-end was
    silent for longer than the allowed lateness. The gathering of late reads takes half of `max_disorder`
    or half an hour at most (`GatherLateReads`). What is too late is decided by the window in which a read ends, which
    for a read of several windows is the last.
    """
    lateness = settings.allowed_lateness + settings.behind_windows
    return window_end + settings.collection_delay + lateness + settings.max_disorder + MICROS_PER_HOUR


def judged_by(settings: Settings, window_end: int) -> int:
    """The watermark at which a window is judged at the latest: no read of it is taken any more, and it is still known.

    Of a window that is forgotten nobody could tell whether a transformer was silent.
    """
    return expiry(settings, window_end) - MICROS_PER_HOUR // 2
