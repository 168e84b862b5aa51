"""What distinguishes the alarms of two settings on the same reads: which appear, which vanish and which move."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from ami_beam.instants import MICROS_PER_HOUR
from ami_beam.records import Alarm

Kind = Literal["appears", "vanishes", "moves", "stays"]
Group = TypeVar("Group", str, int, "str | None")


@dataclass(frozen=True)
class Change:
    """An alarm of the current settings beside the one of the changed settings that is the same, where there is one."""

    kind: Kind
    current: Alarm | None
    changed: Alarm | None

    @property
    def alarm(self) -> Alarm:
        """The changed one if there is one: what the operators would see."""
        found = self.changed or self.current
        assert found is not None
        return found

    @property
    def begins_later(self) -> int:
        """Microseconds by which its first window is later; 0 where there is only one of them."""
        return self.changed.first_window - self.current.first_window if self.changed and self.current else 0

    @property
    def lasts_longer(self) -> int:
        """Microseconds between first and last window more than before; 0 where there is only one of them."""
        return _length(self.changed) - _length(self.current) if self.changed and self.current else 0


@dataclass
class Tally:
    """How many alarms a group has under each of the settings, and how they compare."""

    current: int = 0
    changed: int = 0
    appear: int = 0
    vanish: int = 0
    move: int = 0


def within(alarms: Iterable[Alarm], begin: int | None, end: int | None) -> list[Alarm]:
    """The alarms that hold in any window that ends after `begin` and not after `end`, without those taken back."""
    return [
        alarm
        for alarm in alarms
        if alarm.windows_in_violation
        and (begin is None or alarm.last_window > begin)
        and (end is None or alarm.first_window <= end)
    ]


def compare(current: Iterable[Alarm], changed: Iterable[Alarm]) -> list[Change]:
    """Every alarm of both once, in the order of their first windows, then type and entity.

    Alarms of one type and entity are the same when they overlap, the earliest first: where one becomes two, one moves
    and one appears. One that stays has the same first and last window and state; its evidence may differ.
    """
    places: dict[tuple[str, str], tuple[list[Alarm], list[Alarm]]] = {}
    for side, alarms in enumerate((current, changed)):
        for alarm in alarms:
            places.setdefault((alarm.alarm_type, alarm.entity_id), ([], []))[side].append(alarm)
    found: list[Change] = []
    for before, after in places.values():
        found += _paired(sorted(before, key=_first), sorted(after, key=_first))
    return sorted(found, key=lambda each: (each.alarm.first_window, each.alarm.alarm_type, each.alarm.entity_id))


def tallies(changes: Iterable[Change], group: Callable[[Alarm], Group]) -> dict[Group, Tally]:
    """By group, largest difference first and then by name. An alarm that moves to another group counts in both."""
    found: dict[Group, Tally] = {}
    for change in changes:
        places: Counter[Group] = Counter()
        if change.current is not None:
            place = group(change.current)
            found.setdefault(place, Tally()).current += 1
            places[place] += 1
        if change.changed is not None:
            place = group(change.changed)
            found.setdefault(place, Tally()).changed += 1
            places[place] += 1
        for place in places:
            tally = found[place]
            tally.appear += change.kind == "appears"
            tally.vanish += change.kind == "vanishes"
            tally.move += change.kind == "moves"
    return dict(sorted(found.items(), key=lambda item: (-_difference(item[1]), str(item[0]))))


def alarm_type(alarm: Alarm) -> str:
    """For `tallies`."""
    return alarm.alarm_type


def feeder(alarm: Alarm) -> str | None:
    """For `tallies`. None where nothing was heard of the transformer."""
    return alarm.feeder_id


def hour_of_day(alarm: Alarm) -> int:
    """For `tallies`: the hour of the day (UTC) in which its first window lies, from 0."""
    # first_window is where the window ends: that of 09:45 to 10:00 lies in hour 9.
    return (alarm.first_window - 1) // MICROS_PER_HOUR % 24


def at_once(alarms: Iterable[Alarm]) -> Iterator[tuple[int, int]]:
    """(Instant, how many alarms hold from then on), in order; an alarm holds up to and with its last window."""
    steps: Counter[int] = Counter()
    for alarm in alarms:
        steps[alarm.first_window] += 1
        steps[alarm.last_window + 1] -= 1
    now = 0
    for instant, step in sorted(steps.items()):
        now += step
        yield instant, now


def most_at_once(alarms: Iterable[Alarm]) -> int:
    """The most alarms that hold in one window."""
    return max((count for _, count in at_once(alarms)), default=0)


def _paired(before: Sequence[Alarm], after: Sequence[Alarm]) -> list[Change]:
    found = []
    left, right = 0, 0
    while left < len(before) and right < len(after):
        one, other = before[left], after[right]
        if one.last_window < other.first_window:
            found.append(Change("vanishes", one, None))
            left += 1
        elif other.last_window < one.first_window:
            found.append(Change("appears", None, other))
            right += 1
        else:
            same = (one.first_window, one.last_window, one.state) == (
                other.first_window, other.last_window, other.state
            )  # fmt: skip
            found.append(Change("stays" if same else "moves", one, other))
            left, right = left + 1, right + 1
    found += [Change("vanishes", each, None) for each in before[left:]]
    found += [Change("appears", None, each) for each in after[right:]]
    return found


def _first(alarm: Alarm) -> int:
    return alarm.first_window


def _length(alarm: Alarm) -> int:
    return alarm.last_window - alarm.first_window


def _difference(tally: Tally) -> int:
    return tally.appear + tally.vanish + tally.move
