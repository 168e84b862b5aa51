"""How the simulation's intervals lie in real time and in the simulated day.

Interval n measures (start + n·interval, start + (n+1)·interval]. Record times are always real. Intervals shorter than
15 minutes compress the day instead: 96 of them are one simulated day, so that a demonstration with 15-second intervals
sees morning, noon and evening within 24 minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ami_beam.instants import MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_MILLI, MICROS_PER_MINUTE, MICROS_PER_SECOND

QUARTER = 15 * MICROS_PER_MINUTE
INTERVALS_PER_COMPRESSED_DAY = 96


@dataclass(frozen=True)
class Clock:
    """Instants in microseconds inside, milliseconds towards the records (Kafka's resolution)."""

    start: int
    interval: int
    first_hour: float | None = None
    """Hour of the simulated day in which interval 0 begins; None: the hour of `start`."""

    def __post_init__(self) -> None:
        if self.interval < 100 * MICROS_PER_MILLI or self.interval % MICROS_PER_MILLI:
            raise ValueError("interval must be whole milliseconds and at least 100ms")
        if self.start % MICROS_PER_MILLI:
            raise ValueError("start must be a whole millisecond")

    @property
    def intervals_per_day(self) -> int:
        return INTERVALS_PER_COMPRESSED_DAY if self.interval < QUARTER else max(1, MICROS_PER_DAY // self.interval)

    @property
    def start_ms(self) -> int:
        return self.start // MICROS_PER_MILLI

    @property
    def interval_ms(self) -> int:
        return self.interval // MICROS_PER_MILLI

    @property
    def resolution_ms(self) -> int:
        """Meters stamp whole seconds, unless that is coarse for the interval."""
        return 1 if self.interval < MICROS_PER_MINUTE else 1_000

    @property
    def delay_ms(self) -> float:
        """Greatest ordinary delay from a meter to the head-end: 3 minutes, at most a quarter of the interval."""
        return min(180_000.0, self.interval_ms / 4)

    def begin_ms(self, interval: int) -> int:
        return self.start_ms + interval * self.interval_ms

    def end_ms(self, interval: int) -> int:
        return self.start_ms + (interval + 1) * self.interval_ms

    def slots(self, interval: np.ndarray) -> np.ndarray:
        """The slot of the simulated day, 0 to intervals_per_day - 1, of each interval."""
        hour = (self.start % MICROS_PER_DAY) / MICROS_PER_HOUR if self.first_hour is None else self.first_hour
        return (interval + round(hour / 24 * self.intervals_per_day)) % self.intervals_per_day

    def until_hour(self, interval: int, hour: float) -> int:
        """How many intervals after `interval` the one comes whose middle is nearest to this hour of the day."""
        wanted = int(np.argmin(np.abs(self.hour_of_slot() - hour)))
        return int((wanted - self.slots(np.array([interval]))[0]) % self.intervals_per_day)

    def hour_of_slot(self) -> np.ndarray:
        """The middle of each slot as an hour of the day."""
        return (np.arange(self.intervals_per_day) + 0.5) * 24 / self.intervals_per_day

    def whole(self, ms: float) -> int:
        """`ms` rounded down to the meters' resolution."""
        return int(ms // self.resolution_ms) * self.resolution_ms


def format_ms(ms: np.ndarray, resolution_ms: int) -> list[str]:
    """Instants in milliseconds as RFC 3339 in UTC, with a fraction only where the resolution asks for one."""
    # Few distinct instants in a batch of reads: text is made once for each.
    distinct, inverse = np.unique(ms, return_inverse=True)
    unit: Literal["ms", "s"] = "ms" if resolution_ms < MICROS_PER_SECOND // MICROS_PER_MILLI else "s"
    instants: list[str] = np.datetime_as_string(distinct.astype("datetime64[ms]"), unit=unit).tolist()
    texts = [f"{text}Z" for text in instants]
    return [texts[i] for i in inverse.tolist()]
