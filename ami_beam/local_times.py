"""What a clock on the wall shows in a time zone, as instants: hours that are skipped, and hours that come twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

import pytz

from ami_beam.local_days import EPOCH

_DAY = timedelta(days=1)
_MICROSECOND = timedelta(microseconds=1)


@lru_cache(maxsize=1 << 14)
def instants_at(wall: datetime, zone: str) -> tuple[int, ...]:
    """The instants at which a clock in `zone` shows `wall`, in order: none in a gap, two in a repeated hour."""
    moments = sorted(wall - offset for offset in {_offset(wall - _DAY, zone), _offset(wall + _DAY, zone)})
    return tuple(_micros(moment) for moment in moments if moment + _offset(moment, zone) == wall)


def start_of_gap(wall: datetime, zone: str) -> int | None:
    """The instant at which the clock jumps over `wall` and what follows it; None where it does not begin there."""
    moment = wall - _offset(wall - _DAY, zone)
    jumps = (
        moment + _offset(moment, zone) > wall and moment - _MICROSECOND + _offset(moment - _MICROSECOND, zone) < wall
    )
    return _micros(moment) if jumps else None


def _offset(moment: datetime, zone: str) -> timedelta:
    """Of local time from UTC, at a moment in UTC."""
    offset = moment.replace(tzinfo=UTC).astimezone(pytz.timezone(zone)).utcoffset()
    assert offset is not None
    return offset


def _micros(moment: datetime) -> int:
    return (moment.replace(tzinfo=UTC) - EPOCH) // _MICROSECOND
