"""When the next request may be sent: the source's rate, what a head-end asks for, and back-off with jitter."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

CAP_SECONDS = 300.0
LONGEST_RETRY_AFTER = 3_600.0
"""A head-end that asks for more is asked again after an hour all the same."""


class TokenBucket:
    """At most `rate` requests a second over any longer time, and `burst` at once."""

    def __init__(self, rate: float, burst: int, now: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._now = now
        self._tokens = float(burst)
        self._at = now()

    def delay(self) -> float:
        """Take one request; how many seconds it has to wait."""
        at = self._now()
        self._tokens = min(self._burst, self._tokens + (at - self._at) * self._rate)
        self._at = at
        self._tokens -= 1.0
        return max(0.0, -self._tokens / self._rate)


def backoff(failures: int, first: float = 1.0, draw: Callable[[float, float], float] = random.uniform) -> float:
    """Seconds to wait after so many failures in a row: anything up to a bound, `first`, that doubles (full jitter)."""
    return draw(0.0, min(CAP_SECONDS, first * 2.0 ** min(failures - 1, 30)))


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that `Retry-After` asks for, as seconds or as a date; None where there is none that can be read.

    A date is held against the head-end's own `Date`, so that a clock that is wrong does not matter.
    """
    text = headers.get("Retry-After", "").strip()
    if not text:
        return None
    if text.isdigit() and text.isascii():
        return min(float(text[:9]), LONGEST_RETRY_AFTER)
    until = http_date(text)
    if until is None:
        return None
    theirs = http_date(headers.get("Date", ""))
    return min(max(0.0, until - (now if theirs is None else theirs)), LONGEST_RETRY_AFTER)


def http_date(text: str) -> float | None:
    """Seconds since 1970 of a date in a header; None where it is none."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
