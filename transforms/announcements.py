"""Announced outages and work at meters: which of several records counts, from when until when, and for which meters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MINUTE
from ami_beam.records import Announcement
from ami_beam.settings import Settings
from transforms.window_expiry import expiry

LEEWAY = 15 * MICROS_PER_MINUTE
"""So long before its beginning and after its end a lack of supply may still be the announced one: crews switch off a
little early and on a little late, and what reads show of it is an interval long."""
OPEN_ENDED = 24 * MICROS_PER_HOUR
"""So long an outage counts whose end nobody has said: an end that was forgotten must not hold alarms for ever."""

Span = tuple[int, int]
"""First and last instant, microseconds."""


def latest(known: Announcement | None, news: Announcement) -> Announcement:
    """The record that counts of two with one id, with the earliest time at which either was announced."""
    if known is None:
        return news
    newest = news if news.version >= known.version else known
    announced_at = min(known.announced_at, news.announced_at)
    return newest if newest.announced_at == announced_at else replace(newest, announced_at=announced_at)


def withdrawn(known: Announcement, because: Announcement) -> Announcement:
    """What is to be said where `known` was announced, when `because` has taken its id elsewhere."""
    return replace(
        known,
        active=False,
        record_time=because.record_time,
        partition=because.partition,
        offset=because.offset,
        placed_at=because.placed_at,
    )


def until(announced: Announcement) -> int:
    """The instant at which it ends."""
    return announced.begins + OPEN_ENDED if announced.ends is None else announced.ends


def forgotten_at(announced: Announcement, settings: Settings) -> int:
    """The watermark at which it is forgotten: later than every alarm that it may hold."""
    holds = until(announced) + LEEWAY + 4 * settings.window + settings.allowed_lateness
    return holds + expiry(settings, 0) + settings.allowed_lateness


def work_spans(announced: Iterable[Announcement]) -> dict[str, list[Span]]:
    """By meter_id when there is work at it."""
    spans: dict[str, list[Span]] = {}
    for each in announced:
        if each.active and each.entity_type == "METER":
            spans.setdefault(each.entity_id, []).append((each.begins - LEEWAY, until(each) + LEEWAY))
    return spans


def is_at_work(meter_id: str, first: int, last: int, spans: Mapping[str, Sequence[Span]]) -> bool:
    """Whether there is work at the meter at any time from `first` to `last`."""
    return any(begin <= last and first <= end for begin, end in spans.get(meter_id, ()))


def work_before(meter_id: str, at: int, announced: Iterable[Announcement], window: int) -> str | None:
    """The name of the work at the meter behind which it has no supply at `at`: the last that ended less than two
    windows before, as the first whole interval behind it says. None where there is none."""
    found = [
        (until(each), each.name)
        for each in announced
        if each.active
        and each.entity_type == "METER"
        and each.entity_id == meter_id
        and each.begins - LEEWAY <= at <= until(each) + LEEWAY + 2 * window
    ]
    return max(found)[1] if found else None
