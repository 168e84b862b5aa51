"""When nothing came on the reads topic: pauses between record times, whatever was read in which order."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import pairwise

from ami_beam.alert_ids import alarm_id
from ami_beam.instants import MICROS_PER_HOUR
from ami_beam.records import Alarm, FoundAlarms
from transforms.outages import window_of

SOURCE_SILENT = "SOURCE_SILENT"

CATCH_UP = 4 * MICROS_PER_HOUR
"""So long at most windows of a silence wait for what was held back. Those of after it tell meanwhile who is silent."""

Span = tuple[int, int]
"""First and last record time (microseconds) of records between which no pause is too long."""


def spans_of(times: Iterable[int], least: int) -> list[Span]:
    """The spans of one batch: `least` is the longest pause that is none."""
    ordered = sorted(times)
    if not ordered or ordered[-1] - ordered[0] <= least:
        return [(ordered[0], ordered[-1])] if ordered else []
    cuts = [place for place, (one, other) in enumerate(pairwise(ordered), 1) if other - one > least]
    return [(ordered[begin], ordered[end - 1]) for begin, end in pairwise([0, *cuts, len(ordered)])]


def join_spans(known: Sequence[Span], news: Iterable[Span], least: int) -> list[Span]:
    """Both, those joined between which the pause is at most `least`. In any order and portions the same."""
    found: list[Span] = []
    for first, last in sorted([*known, *news]):
        if found and first - found[-1][1] <= least:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return found


def pause_at(spans: Sequence[Span], instant: int) -> Span | None:
    """The pause that is over and that contains the instant: when it began, and when records came again."""
    place = bisect_left(spans, (instant, instant))
    if place in (0, len(spans)) or spans[place - 1][1] >= instant or spans[place][0] == instant:
        return None
    return spans[place - 1][1], spans[place][0]


def caught_up(pause: Span, collection_delay: int) -> int:
    """By when what was held back in a pause is there: a source that sends twice as fast as ever takes as long as that.

    No longer than `CATCH_UP`, and no shorter than reads always take.
    """
    began, ended = pause
    return ended + max(collection_delay, min(ended - began, CATCH_UP))


def pauses_of(spans: Sequence[Span]) -> list[Span]:
    """The pauses that are over: when each began, and when records came again."""
    return [(one[1], other[0]) for one, other in pairwise(spans)]


def certain_pauses(spans: Sequence[Span], watermark: int) -> list[Span]:
    """`pauses_of`, as far as they are certain at this watermark."""
    return [(began, ended) for began, ended in pauses_of(spans) if ended <= watermark]


def silences(topic: str, spans: Sequence[Span], watermark: int, least: int, window: int, live: bool) -> list[Alarm]:
    """The alarms of the pauses that are certain at this watermark, the one that goes on last.

    A pause is certain when every partition has been read beyond it.
    """
    pauses: list[tuple[int, int | None]] = [*certain_pauses(spans, watermark)]
    read_to = [span for span in spans if span[0] <= watermark]
    if live and read_to and read_to[-1] == spans[-1] and watermark - spans[-1][1] >= least:
        pauses.append((spans[-1][1], None))
    return [_alarm(topic, began, ended, least, window) for began, ended in pauses]


def found_silences(
    topic: str, spans: Sequence[Span], watermark: int, least: int, window: int, live: bool
) -> FoundAlarms:
    """`silences`, and up to where none are named any more: those before the first span that is still known."""
    alarms = silences(topic, spans, watermark, least, window, live)
    # A pause ends in the window in which the first span begins, also where that is the window's first instant.
    return FoundAlarms(topic, SOURCE_SILENT, alarms, window_of(spans[0][0], window))


def _alarm(topic: str, began: int, ended: int | None, least: int, window: int) -> Alarm:
    first, last = window_of(began, window), window_of(began + least if ended is None else ended, window)
    return Alarm(
        alarm_id=alarm_id(SOURCE_SILENT, topic, began),
        alarm_type=SOURCE_SILENT,
        entity_id=topic,
        feeder_id=None,
        state="ACTIVE" if ended is None else "CLEARED",
        severity="CRITICAL",
        first_window=first,
        last_window=last,
        worst_value=None,
        windows_in_violation=(last - first) // window + 1,
        meters_in_violation=0,
        worst_meter_id=None,
        meters_missing=0,
        cause=None,
        revision=0,
        as_of=began + least if ended is None else ended,
        began_at=began,
        ended_at=ended,
    )
