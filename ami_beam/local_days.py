"""The days of a utility's own time zone: 23, 24 or 25 hours long."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

import numpy as np
import pytz

from ami_beam.read_columns import Ints

# The rules of pytz come with it: a worker's image need not have any.
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def all_zones() -> list[str]:
    """The names of all time zones of the IANA data base."""
    return list(pytz.all_timezones)


def is_zone(name: str) -> bool:
    """Whether it is the name of a time zone of the IANA data base, such as America/Chicago."""
    return name in pytz.all_timezones_set


@lru_cache(maxsize=1 << 12)
def local_day(instant: int, zone: str) -> str:
    """The date, as YYYY-MM-DD, that a clock in `zone` shows at the instant (microseconds)."""
    at = EPOCH + timedelta(microseconds=instant)
    return at.astimezone(pytz.timezone(zone)).date().isoformat()


def days_of(instants: Ints, zone: str) -> tuple[list[str], Ints]:
    """The days of instants: their dates, each once, and which of them each instant is on."""
    different, places = np.unique(instants, return_inverse=True)
    days: dict[str, int] = {}
    numbers = [days.setdefault(local_day(instant, zone), len(days)) for instant in different.tolist()]
    return list(days), np.array(numbers, np.int64)[places]


@lru_cache(maxsize=1 << 10)
def bounds_of(day: str, zone: str) -> tuple[int, int]:
    """The instants (microseconds) at which the day begins and ends: 23, 24 or 25 hours apart, or what its zone has."""
    date_ = date.fromisoformat(day)
    return _midnight(date_, zone), _midnight(date_ + timedelta(days=1), zone)


def _midnight(day: date, zone: str) -> int:
    """The first instant at which a clock shows `day`: where midnight is left out, the next time that there is."""
    at = datetime(day.year, day.month, day.day)
    local = pytz.timezone(zone)
    try:
        found = local.localize(at, is_dst=None)
    except pytz.AmbiguousTimeError:
        found = local.localize(at, is_dst=True)
    except pytz.NonExistentTimeError:
        found = local.normalize(local.localize(at, is_dst=True))
        if found.date() != day:
            found = local.normalize(local.localize(at, is_dst=False))
    return (found - EPOCH) // timedelta(microseconds=1)


def end_of_month(month: str, zone: str) -> int:
    """The instant at which the month (YYYY-MM) is over."""
    year, number = map(int, month.split("-"))
    first = date(year + number // 12, number % 12 + 1, 1)
    return _midnight(first, zone)
