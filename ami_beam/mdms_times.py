"""Times in an MDMS export: with a zone, or as a clock on the wall shows them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal

from ami_beam.instants import MAX_INSTANT, MICROS_PER_SECOND, MIN_INSTANT
from ami_beam.local_days import EPOCH
from ami_beam.local_times import instants_at, start_of_gap

FORM = "YYYY-MM-DD HH:MM[:SS], T instead of the space if you like, with Z or ±HH:MM or nothing behind it"
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,6}))?)?"
    r" ?(Z|[+-][0-9]{2}:?[0-9]{2})?"
)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class TimeRules:
    """How the times of an export are meant."""

    zone: str
    """Of times without one."""
    label: Literal["end", "begin"]
    """Which end of an interval its time is."""
    interval: int
    """How long intervals are, in microseconds; needed where they are named by their begin."""


@lru_cache(maxsize=1 << 16)
def interval_end(text: str, rules: TimeRules) -> tuple[int, int]:
    """The end of the interval, and the seconds after which the same text means another one: 0 but in a repeated hour.

    Of the two the first is given. Raises ValueError with what is wrong and what to do.
    """
    wall, zone = parse_wall(text)
    instant, repeats_after = (with_zone(wall, zone, text), 0) if zone else _on_the_wall(wall, text, rules)
    if rules.label == "begin":
        instant += rules.interval
    if not MIN_INSTANT <= instant <= MAX_INSTANT:
        raise ValueError(f"{text!r} is outside the years 1970 to 2100")
    return instant, repeats_after


def parse_wall(text: str) -> tuple[datetime, str | None]:
    """What a clock shows, and the zone behind it if there is one. Raises ValueError with what is wrong."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:64]!r} is no time; write {FORM}")
    day, hour, minute, second, fraction, zone = match.groups()
    try:
        # 24:00 ends a day.
        end_of_day = (hour, minute, second or "00", int(fraction or 0)) == ("24", "00", "00", 0)
        wall = datetime.fromisoformat(f"{day}T{'00' if end_of_day else hour}:{minute}:{second or '00'}")
    except ValueError as error:
        raise ValueError(f"{text!r} is no time: {error}") from None
    wall += timedelta(days=int(end_of_day), microseconds=int((fraction or "").ljust(6, "0")))
    return wall, zone


def with_zone(wall: datetime, zone: str, text: str) -> int:
    """The instant of a clock and its distance from UTC, Z or ±HH:MM. Raises ValueError."""
    offset = timedelta()
    if zone != "Z":
        hours, minutes = int(zone[1:3]), int(zone[-2:])
        if hours > 23 or minutes > 59:
            raise ValueError(f"{text!r} has a zone beyond ±23:59")
        offset = timedelta(hours=hours, minutes=minutes) * (-1 if zone[0] == "-" else 1)
    return (wall.replace(tzinfo=UTC) - offset - EPOCH) // _MICROSECOND


def _on_the_wall(wall: datetime, text: str, rules: TimeRules) -> tuple[int, int]:
    found = instants_at(wall, rules.zone)
    if found:
        return found[0], (found[-1] - found[0]) // MICROS_PER_SECOND
    # The last interval before a gap may be said to end where it begins: at 02:00, which is 03:00.
    gap = start_of_gap(wall, rules.zone) if rules.label == "end" else None
    if gap is None:
        raise ValueError(
            f"{text!r} is on no clock in {rules.zone}, which is put forward then; is --mdms_time_zone right, and"
            " --mdms_interval_label?"
        )
    return gap, 0
