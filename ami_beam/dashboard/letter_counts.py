"""Dead letters counted by reason and minute, each once however often it is delivered. Holds no byte of a record."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from ami_beam.instants import MICROS_PER_MINUTE

_REMEMBERED = 200_000
"""Letters known by their identity: what a job writes again after a failure is among the last of them."""
_MOST_REASONS = 100
OTHER = "(others)"
"""Where the reasons beyond _MOST_REASONS are counted: a topic must not fill the memory."""


@dataclass(frozen=True)
class Place:
    """Where a record is, and what was wrong with it."""

    topic: str
    partition: int
    offset: int
    record_time: str | None
    detail: str


@dataclass
class Reason:
    """How often, by the minute (microseconds), and where last."""

    name: str
    minutes: Counter[int] = field(default_factory=Counter)
    used_minutes: Counter[int] = field(default_factory=Counter)
    """Likewise, of records that were used for all that."""
    last: Place | None = None

    @property
    def total(self) -> int:
        return self.minutes.total()

    @property
    def used(self) -> int:
        return self.used_minutes.total()


class LetterCounts:
    """Not safe for threads: its owner locks.

    Args:
      history: microseconds; minutes so long before the newest are dropped.
    """

    def __init__(self, history: int) -> None:
        self._history = history
        self._known: set[tuple[str, int, int, str]] = set()
        self._order: deque[tuple[str, int, int, str]] = deque()
        self._reasons: dict[str, Reason] = {}
        self.version = 1
        self.newest = 0
        """Minute of the newest letter, microseconds."""

    def take(self, reason: str, used: bool, place: Place, at: int) -> bool:
        """Whether it is a new one. `at`: when the letter was written, microseconds."""
        identity = place.topic, place.partition, place.offset, reason
        if identity in self._known:
            return False
        self._known.add(identity)
        self._order.append(identity)
        if len(self._order) > _REMEMBERED:
            self._known.discard(self._order.popleft())
        name = reason if reason in self._reasons or len(self._reasons) < _MOST_REASONS else OTHER
        entry = self._reasons.setdefault(name, Reason(name))
        minute = at // MICROS_PER_MINUTE * MICROS_PER_MINUTE
        entry.minutes[minute] += 1
        if used:
            entry.used_minutes[minute] += 1
        entry.last = place
        self.version += 1
        if minute > self.newest:
            self.newest = minute
            self._forget(minute - self._history)
        return True

    def reasons(self) -> list[Reason]:
        """The most frequent first."""
        return sorted(self._reasons.values(), key=lambda each: (-each.total, each.name))

    @property
    def total(self) -> int:
        return sum(each.total for each in self._reasons.values())

    def _forget(self, until: int) -> None:
        for name, each in list(self._reasons.items()):
            for minute in [minute for minute in each.minutes if minute < until]:
                del each.minutes[minute]
                each.used_minutes.pop(minute, None)
            if not each.minutes:
                del self._reasons[name]
