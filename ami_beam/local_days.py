"""The days of a utility's own time zone: 23, 24 or 25 hours long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

import pytz

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
