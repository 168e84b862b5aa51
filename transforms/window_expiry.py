"""When the steps that keep a window's state may forget it."""

from __future__ import annotations

from ami_beam.instants import MICROS_PER_HOUR
from ami_beam.settings import Settings


def expiry(settings: Settings, window_end: int) -> int:
    """The instant of the watermark after which nothing about the window can come: two hours after its last late read.

    These steps run in the global window and keep time themselves: Flink holds a stateful step's watermark at the end of
    every Beam window that it keeps, and Beam would drop the windows of a gap that is filled after the head-end was
    silent for longer than the allowed lateness. Two hours, because reads are gathered up to half an hour, and the
    watermark of a source that is caught up may be ahead of the next record time.
    """
    return window_end + settings.collection_delay + settings.allowed_lateness + 2 * MICROS_PER_HOUR
