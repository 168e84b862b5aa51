"""From meters without supply to outages: when enough of them lose it together, who joins, and when it is over."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MINUTE
from transforms.announcements import Span, is_at_work
from transforms.supply import Loss

TOGETHER = 5 * MICROS_PER_MINUTE
"""Within which losses belong together."""
LEAST_METERS, LEAST_SHARE_PCT = 3, 30
MOMENTARY = 5 * MICROS_PER_MINUTE
"""An interruption up to this long is momentary (IEEE 1366-2022, section 3)."""
UNHEARD = "~"
"""Stands for meters whose names are not known; after all names in order."""
SMALL_TRANSFORMER = 2
"""Up to so many meters an outage is one of single customers."""


@dataclass(frozen=True)
class Member:
    """What loses supply: a meter, or in a feeder's outage the outage of a transformer."""

    name: str
    at: int
    until: int | None
    weight: int
    """In meters."""
    as_of: int


@dataclass
class Outage:
    """What lost supply together."""

    began_at: int
    ended_at: int | None
    members: list[Member]
    """All that were part of it, in the order of their losses."""
    most: int
    """Meters without supply, at most."""
    as_of: int

    @property
    def momentary(self) -> bool | None:
        """None while it is not over."""
        return None if self.ended_at is None else self.ended_at - self.began_at <= MOMENTARY

    def windows(self, window: int) -> tuple[int, int]:
        """The ends of the windows in which it began, and in which it was over or grew last."""
        last = self.members[-1].at if self.ended_at is None else self.ended_at
        return window_of(self.began_at, window), window_of(last, window)


def needed(meters: int) -> int:
    """How many of so many meters make an outage: three, or all where there are fewer, and 30 per cent."""
    if meters <= SMALL_TRANSFORMER:
        return 1
    return max(min(LEAST_METERS, meters), -(-meters * LEAST_SHARE_PCT // 100))


def of_losses(losses: Iterable[Loss], window: int) -> list[Member]:
    """The meters of one transformer as members.

    A loss that only a read shows happened somewhere in its interval: it is put at the first word of another meter in
    this interval or the one before, if there is one.
    """
    known = sorted(losses)
    said = sorted(loss.at for loss in known if loss.by_event)
    members = []
    for loss in known:
        at = loss.at
        if not loss.by_event:
            at = next((word for word in said if at - 2 * window <= word <= at), at)
        members.append(Member(loss.meter_id, at, loss.until, 1, loss.as_of))
    return members


def unheard(
    members: Sequence[Member],
    dark: Sequence[int],
    lit: Sequence[int],
    meters: int,
    window: int,
    work: Mapping[str, Sequence[Span]],
) -> list[Member]:
    """The meters of a transformer that could not say so: none is shown to have supply after others have lost it.

    One member for all of them, for as long as the others are out and none is shown to have supply. Those at which
    there is work are silent for that. Where any was shown to have supply, and nobody has told of a loss since, a loss
    of before took nobody else: a silence of hours later is another matter.

    Args:
      members: the meters that are known to have lost supply.
      dark: ends of windows in which no meter is shown to have supply, in order.
      lit: ends of those in which one is, in order.
      meters: on the transformer.
      window: length in microseconds.
      work: by meter_id when there is work at it.
    """
    found: list[Member] = []
    for end in dark:
        if found and (found[-1].until is None or found[-1].until >= end):
            continue  # the same darkness
        before = bisect_left(lit, end)
        since = lit[before - 1] - window if before else None
        if since is not None and not any(since < each.at <= end for each in members):
            continue
        out = [each for each in members if each.at <= end - window and (each.until is None or each.until >= end)]
        named = {each.name for each in members if each.at <= end and _is_out(each, end - 1)}
        named |= {meter_id for meter_id in work if is_at_work(meter_id, end - window + 1, end, work)}
        others = meters - len(named)
        if not out or others <= 0:
            continue
        ends = [each.until for each in out if each.until is not None]
        until = max(ends) if len(ends) == len(out) else None
        again = next((later for later in lit if later > end), None)
        until = again if until is None or (again is not None and again < until) else until
        as_of = max(*(each.as_of for each in out), end)
        # Shown to have supply when some had lost it long before, they have lost it with those that tell of it since.
        at = min(each.at for each in (out if since is None else members) if since is None or since < each.at <= end)
        found.append(Member(UNHEARD, at, until, others, as_of))
    return found


def outages(members: Iterable[Member], need: int) -> list[Outage]:
    """Every time that members of `need` meters lose supply within five minutes, in order.

    Who loses supply before it is over joins. It is over when fewer than `need` are still without; of those no further
    outage is made. Does not depend on the order of the members.
    """
    ordered = sorted(members, key=_order)
    found: list[Outage] = []
    recent: list[Member] = []
    current: Outage | None = None
    out: list[Member] = []
    for member in ordered:
        if current is not None:
            ended = _end(out, need, member.at)
            if ended is None:
                out.append(member)
                current.members.append(member)
                current.most = max(current.most, _weight(each for each in out if _is_out(each, member.at)))
                continue
            current.ended_at = ended
            current = None
        recent = [each for each in recent if member.at - each.at <= TOGETHER and each.name != member.name]
        recent.append(member)
        if _weight(recent) >= need:
            current = Outage(recent[0].at, None, list(recent), _weight(recent), 0)
            found.append(current)
            out, recent = list(recent), []
    if current is not None:
        current.ended_at = _end(out, need, None)
    for outage in found:
        outage.as_of = max(each.as_of for each in outage.members)
    return found


def _order(member: Member) -> tuple[int, str, int]:
    return member.at, member.name, member.until or 0


def _is_out(member: Member, at: int) -> bool:
    return member.until is None or member.until > at


def _weight(members: Iterable[Member]) -> int:
    return sum({member.name: member.weight for member in members}.values())


def _end(out: list[Member], need: int, before: int | None) -> int | None:
    """When fewer than `need` of those that are out were still so, if that was so at `before` (None: ever)."""
    last: dict[str, Member] = {}
    for member in out:
        last[member.name] = member
    ends = sorted((each.until, each.weight) for each in last.values() if each.until is not None)
    without = sum(each.weight for each in last.values())
    for until, weight in ends:
        without -= weight
        if without < need and (before is None or until <= before):
            return until
    return None


def window_of(at: int, window: int) -> int:
    """The end of the window that contains the instant."""
    return -(-at // window) * window


UNKNOWN_AFTER = 24 * MICROS_PER_HOUR
"""So long after its beginning it is not known any more whether an outage goes on."""
