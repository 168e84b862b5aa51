"""Instants and durations as integer microseconds; nothing else represents time inside the product.

An instant is an `int`: microseconds since 1970-01-01T00:00:00Z. Windows are decided by integer arithmetic on it,
because a float or a millisecond would put a read that ends 1 µs after a boundary into the wrong window.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

MICROS_PER_MILLI = 1_000
MICROS_PER_SECOND = 1_000_000
MICROS_PER_MINUTE = 60 * MICROS_PER_SECOND
MICROS_PER_HOUR = 60 * MICROS_PER_MINUTE
MICROS_PER_DAY = 24 * MICROS_PER_HOUR

MIN_INSTANT = 0
"""1970-01-01T00:00:00Z, the first instant a record may carry."""
MAX_INSTANT = 4_133_980_799_999_999
"""2100-12-31T23:59:59.999999Z, the last instant a record may carry."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLIS = [f".{millis:03d}".rstrip("0") + "Z" for millis in range(1_000)]
_MICROSECOND = timedelta(microseconds=1)
# RFC 3339 as the contract narrows it: upper-case T and Z, 1 to 6 fraction digits, a zone that is always there.
# [0-9] and not \d, which would accept the digits of every script.
_INSTANT = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,6}))?(?:Z|([+-])([0-9]{2}):([0-9]{2}))",
)
_DURATION = re.compile(r"([0-9]+)(ms|s|m|h|d)")
_UNITS = {
    "ms": MICROS_PER_MILLI,
    "s": MICROS_PER_SECOND,
    "m": MICROS_PER_MINUTE,
    "h": MICROS_PER_HOUR,
    "d": MICROS_PER_DAY,
}


def parse_instant(text: str) -> int:
    """Microseconds since the epoch of `YYYY-MM-DDTHH:MM:SS[.f](Z|±HH:MM)`.

    Exact: two texts of one instant give one number. Raises ValueError with a sentence that says what is wrong.
    """
    match = _INSTANT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:64]!r} is not a timestamp of the form YYYY-MM-DDTHH:MM:SS[.ffffff] with Z or ±HH:MM")
    year, month, day, hour, minute, second, fraction, sign, zone_hour, zone_minute = match.groups()
    try:
        local = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), tzinfo=UTC)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a date and time: {error}") from None
    micros = (local - _EPOCH) // _MICROSECOND
    if fraction:
        micros += int(fraction.ljust(6, "0"))
    if sign:
        if int(zone_hour) > 23 or int(zone_minute) > 59:
            raise ValueError(f"{text!r} has a zone beyond ±23:59")
        offset = (int(zone_hour) * 60 + int(zone_minute)) * MICROS_PER_MINUTE
        micros += -offset if sign == "+" else offset
    if not MIN_INSTANT <= micros <= MAX_INSTANT:
        raise ValueError(f"{text!r} is outside the years 1970 to 2100")
    return micros


def format_instant(micros: int) -> str:
    """The instant as RFC 3339 in UTC, with a fraction only where there is one: `2026-03-03T00:15:00Z`."""
    seconds, fraction = divmod(micros, MICROS_PER_SECOND)
    if not fraction:
        return _second_text(seconds) + "Z"
    millis, rest = divmod(fraction, MICROS_PER_MILLI)
    # What Kafka has taken the time of has milliseconds: one format for each read less.
    return _second_text(seconds) + (_MILLIS[millis] if not rest else f".{fraction:06d}".rstrip("0") + "Z")


@lru_cache(maxsize=1 << 14)
def _second_text(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")


def parse_duration(text: str) -> int:
    """Microseconds of a duration such as `15m`, `90s`, `24h`, `500ms` or `2d`. Raises ValueError otherwise."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration: a whole number and one of ms, s, m, h, d, for example 15m")
    return int(match[1]) * _UNITS[match[2]]


def format_duration(micros: int) -> str:
    """The shortest text that `parse_duration` turns back into `micros` (whole milliseconds)."""
    for unit in ("d", "h", "m", "s", "ms"):
        if micros % _UNITS[unit] == 0 and (micros or unit == "s"):
            return f"{micros // _UNITS[unit]}{unit}"
    raise ValueError(f"{micros} µs is not a whole number of milliseconds")


def window_end_right_closed(instant: int, size: int) -> int:
    """The end of the window (end − size, end] that holds `instant`."""
    return -(-instant // size) * size


def window_end_left_closed(instant: int, size: int) -> int:
    """The end of the window [end − size, end) that holds `instant`."""
    return (instant // size + 1) * size
