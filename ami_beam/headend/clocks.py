"""A head-end's times as instants: with a zone, as numbers, or as a clock on the wall shows them.

A clock that is put back shows an hour twice. Which of the two a time is in follows, in this order, from a flag of the
record, from the range that was asked for, from the record before it of the same meter (the next interval, up or down),
from a record that is exactly this one and was understood before, and from the order of the answer. A time that a clock
never shows, because it is put forward, is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Literal

import pytz

from ami_beam.instants import MAX_INSTANT, MICROS_PER_MILLI, MICROS_PER_SECOND, MIN_INSTANT
from ami_beam.local_days import EPOCH
from ami_beam.local_times import instants_at, start_of_gap
from ami_beam.mdms_times import parse_wall, with_zone

Policy = Literal["utc", "local", "standard"]
_MICROSECOND = timedelta(microseconds=1)
_TRUE = {"y", "yes", "true", "1", "dst", "s"}
_FALSE = {"n", "no", "false", "0", "std", "w"}


@dataclass(frozen=True)
class Clock:
    """The clock that a source's times are read off."""

    zone: str
    policy: Policy
    """`utc`: the clock shows UTC; `local`: it is put forward and back; `standard`: it never is."""

    def instants(self, wall: datetime, ends_interval: bool = False) -> tuple[int, ...]:
        """The instants at which it shows `wall`, in order: two in a repeated hour, and none in a gap.

        The last interval before a gap may be said to end where it begins: at 02:00, which is 03:00.
        """
        if self.policy == "utc":
            return (_micros(wall),)
        if self.policy == "standard":
            return (_micros(wall - _standard_offset(wall.year, self.zone)),)
        found = instants_at(wall, self.zone)
        if not found and ends_interval:
            gap = start_of_gap(wall, self.zone)
            return () if gap is None else (gap,)
        return found

    def shows(self, instant: int) -> datetime:
        """What it shows at an instant, without a zone."""
        moment = EPOCH + timedelta(microseconds=instant)
        if self.policy == "utc":
            return moment.replace(tzinfo=None)
        if self.policy == "standard":
            return (moment + _standard_offset(moment.year, self.zone)).replace(tzinfo=None)
        return moment.astimezone(pytz.timezone(self.zone)).replace(tzinfo=None)

    def before_repeat(self, instant: int) -> int:
        """The instant, or where it is in a stretch that the clock shows twice the begin of the first time.

        A range that is asked for must not begin in the middle of one: which half its times are of would be open.
        """
        if self.policy != "local":
            return instant
        found = instants_at(self.shows(instant), self.zone)
        if len(found) < 2:
            return instant
        # The stretch is as long as the clock is put back: 1 h mostly, 30 min on Lord Howe Island.
        length = found[1] - found[0]
        step = 60 * MICROS_PER_SECOND
        start = found[0] // step * step
        while start > found[0] - length and len(instants_at(self.shows(start - step), self.zone)) == 2:
            start -= step
        return start


@lru_cache(maxsize=1 << 10)
def _standard_offset(year: int, zone: str) -> timedelta:
    """Of the zone in winter, on whichever half of the globe."""
    halves = (datetime(year, month, 1, tzinfo=UTC).astimezone(pytz.timezone(zone)).utcoffset() for month in (1, 7))
    return min(half for half in halves if half is not None)


def _micros(wall: datetime) -> int:
    return (wall.replace(tzinfo=UTC) - EPOCH) // _MICROSECOND


def candidates(value: Any, form: str, clock: Clock, ends_interval: bool = False) -> tuple[int, ...]:
    """The instants that a value can mean: one, or two in a repeated hour. Raises ValueError with what is wrong."""
    if form in ("epoch_s", "epoch_ms"):
        unit = MICROS_PER_SECOND if form == "epoch_s" else MICROS_PER_MILLI
        found: tuple[int, ...] = (int(_number(value) * unit),)
    else:
        if not isinstance(value, str):
            raise ValueError("is no time in a text; is the field's format right")
        wall, zone = _parsed(value, form)
        found = clock.instants(wall, ends_interval) if zone is None else (with_zone(wall, zone, value),)
    if not found:
        raise ValueError(
            f"{value!r} is on no clock in {clock.zone}, which is put forward then; are time_zone, dst and"
            " interval_label in [times] right"
        )
    if not all(MIN_INSTANT <= each <= MAX_INSTANT for each in found):
        raise ValueError("is outside the years 1970 to 2100")
    return found


def _number(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        raise ValueError("is no number of seconds or milliseconds")
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise ValueError("is no number of seconds or milliseconds") from None
    if not number.is_finite() or abs(number) > MAX_INSTANT:
        raise ValueError("is outside the years 1970 to 2100")
    return number


@lru_cache(maxsize=1 << 16)
def _parsed(text: str, form: str) -> tuple[datetime, str | None]:
    if form == "iso":
        return parse_wall(text)
    try:
        parsed = datetime.strptime(text, form)
    except ValueError as error:
        raise ValueError(str(error)) from None
    offset = parsed.utcoffset()
    if offset is None:
        return parsed, None
    return (parsed - offset).replace(tzinfo=None), "Z"


def in_daylight_time(flag: Any) -> bool:
    """What a record's flag says. Raises ValueError."""
    if isinstance(flag, bool):
        return flag
    word = str(flag).strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"{flag!r} says neither that it is daylight saving time nor that it is not")


@dataclass
class Series:
    """The order of every meter's records, where it decides which of two equal times is meant.

    One serves all pages of one question, or of a feed for as long as it runs: begin each anew with `begin`.
    """

    descending: bool = False
    bounds: tuple[int, int] | None = None
    """Of the range that was asked for, with what may lie outside it."""
    last: dict[str, int] = field(default_factory=dict)
    _understood: dict[bytes, int] = field(default_factory=dict)
    """Digests of records in repeated hours, and what their time was taken to be."""

    def begin(self, bounds: tuple[int, int] | None) -> None:
        """Another question, whose records are in an order of their own."""
        self.bounds = bounds
        self.last.clear()
        self._understood.clear()

    def choose(self, meter: str, found: Sequence[int], step: int, digest: bytes, daylight: bool | None = None) -> int:
        """The instant that is meant, and remembered as the meter's last one.

        Args:
          found: those that the time can mean, in order.
          step: how far apart records are; 0 where they are at no fixed distance.
          digest: of the whole record.
          daylight: what the record's flag says.
        """
        chosen = found[0] if len(found) == 1 else self._one_of(meter, found, step, digest, daylight)
        self.last[meter] = chosen
        return chosen

    def _one_of(self, meter: str, found: Sequence[int], step: int, digest: bytes, daylight: bool | None) -> int:
        if daylight is not None:
            return found[0] if daylight else found[-1]
        if self.bounds is not None:
            inside = [each for each in found if self.bounds[0] <= each <= self.bounds[1]]
            if len(inside) == 1:
                return inside[0]
        last = self.last.get(meter)
        chosen = None
        if last is not None and step:
            # Where an hour has two intervals, the one before and the one after can show the same: the order decides.
            onward = -step if self.descending else step
            near = [each for each in (last + onward, last - onward) if each in found]
            chosen = near[0] if near else None
        if chosen is None and digest in self._understood:
            return self._understood[digest]
        if chosen is None and last is not None:
            beyond = [each for each in found if (each < last if self.descending else each > last)]
            chosen = (beyond[-1] if self.descending else beyond[0]) if beyond else None
        if chosen is None:
            chosen = found[-1] if self.descending and last is None else found[0]
        if len(self._understood) > 1_000_000:
            self._understood.clear()
        self._understood[digest] = chosen
        return chosen
