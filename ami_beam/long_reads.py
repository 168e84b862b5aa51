"""Which reads are longer than a window, and what part of each falls into which window."""

from __future__ import annotations

from typing import Any

import numpy as np
from msgspec import structs

from ami_beam.instants import window_end_left_closed, window_end_right_closed
from ami_beam.read_columns import Flags, Ints, ReadColumns, floats, ints, is_interval
from ami_beam.settings import Settings


def window_ends(interval_end: Ints, settings: Settings) -> Ints:
    """The window of each read, by its end."""
    of_instant: Any = window_end_right_closed if settings.window_closed == "right" else window_end_left_closed
    return of_instant(interval_end, settings.window)


def is_long(reads: ReadColumns, settings: Settings) -> Flags:
    """Which of the reads are to be split."""
    length = ints(reads.interval_end) - ints(reads.interval_start)
    long: Flags = (length > settings.window) & (length <= settings.window + settings.behind_windows)
    return long & is_interval(reads) if long.any() else long


def first_window_ends(reads: ReadColumns, settings: Settings) -> Ints:
    """The end of the first window that each read counts in."""
    ends = ints(reads.window_end)
    long = is_long(reads, settings)
    if not long.any():
        return ends
    start = ints(reads.interval_start)
    return np.where(long, window_ends((start // settings.window + 1) * settings.window, settings), ends)


def apportioned(reads: ReadColumns, settings: Settings) -> ReadColumns:
    """The reads, those that are to be split as their parts; in order."""
    long = is_long(reads, settings)
    if not long.any():
        return reads
    window = settings.window
    start, end = ints(reads.interval_start), ints(reads.interval_end)
    begins = start // window * window
    parts = np.where(long, -((begins - end) // window), 1)
    of = np.repeat(np.arange(len(reads)), parts)
    number = np.arange(len(of)) - np.repeat(np.cumsum(parts) - parts, parts)
    split = long[of]
    from_ = np.where(split, np.maximum(start[of], begins[of] + number * window), start[of])
    to = np.where(split, np.minimum(end[of], begins[of] + (number + 1) * window), end[of])
    taken = reads.take(of)
    share, length = to - from_, (end - start)[of]

    def of_part(kwh: bytes) -> bytes:
        whole = floats(kwh)
        # Multiplied first, so that what is a whole number of its unit stays one.
        return np.where(split, whole * share / length, whole).tobytes()

    return structs.replace(
        taken,
        interval_start=from_.tobytes(),
        interval_end=to.tobytes(),
        window_end=np.where(split, window_ends(to, settings), ints(taken.window_end)).tobytes(),
        consumption_kwh=of_part(taken.consumption_kwh),
        delivered_kwh=of_part(taken.delivered_kwh),
        received_kwh=of_part(taken.received_kwh),
        apportioned=split.tobytes(),
    )
