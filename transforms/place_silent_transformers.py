"""On which feeder a transformer is of which nothing is heard: its meters are expected there."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct, field
from msgspec.structs import replace

from ami_beam.coders import MsgspecCoder
from ami_beam.instants import MICROS_PER_DAY
from ami_beam.records import FeederInput, HeardOn, ReceiptStanding
from ami_beam.settings import Settings
from transforms.end_of_replay import FOUND
from transforms.feeder_contributions import GroupWindow, group_of
from transforms.gathering import AFTER, gathered_with_others
from transforms.state_log import read_log
from transforms.window_expiry import expiry

Came = tuple[int, str]
"""The first window of a UTC day in which a transformer was heard on a feeder, and that feeder."""


class Silent(Struct, array_like=True, gc=False):
    """A transformer that was silent in a window, as was said of it last."""

    standing: ReceiptStanding
    """Its feeder is where it was said to be."""
    said: bool = False
    heard: bool = False
    """Whether late reads have shown that it was not silent."""


class KeptShard(Struct, array_like=True, gc=False):
    """What is known of a shard's transformers."""

    came: dict[str, list[Came]] = field(default_factory=dict)
    """By transformer_id, sorted."""
    silent: dict[int, dict[str, Silent]] = field(default_factory=dict)
    """By window_end and transformer_id."""


class LogEntry(Struct, array_like=True, gc=False):
    """An element of a shard's log: something that has come, or what was known when it was read."""

    news: HeardOn | None
    kept: KeptShard | None


@beam.typehints.with_input_types(tuple[int, HeardOn])
@beam.typehints.with_output_types(tuple[tuple[int, int], FeederInput])
class PlaceSilentTransformers(beam.PTransform):
    """Every transformer of which nothing was heard in a window is on one feeder, or on none if it never was heard.

    Of the feeders on which it was heard on a UTC day each counts from the first window of that day on; the last of them
    up to the window holds, else the first one after it. So the answer does not depend on the order in which rows come,
    and says the same in a replay. One that turns out to have been heard, or to be elsewhere, is taken away where it
    was.

    State per shard: about 40 bytes a transformer and day on which reads may still come, and as much again for every
    silent one in every window.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, heard: beam.PCollection[tuple[int, HeardOn]]) -> beam.PCollection[tuple[GroupWindow, FeederInput]]:
        label = f"Places {self._settings.state_label()}"
        return heard | label >> beam.ParDo(_PlaceDoFn(self._settings))


class _PlaceDoFn(beam.DoFn):
    LOG = BagStateSpec("silent_places_log", MsgspecCoder(LogEntry))
    PLACE = TimerSpec("silent_places", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings

    def process(
        self,
        element: tuple[int, HeardOn],
        at: Any = beam.DoFn.TimestampParam,
        log: Any = beam.DoFn.StateParam(LOG),
        place: Any = beam.DoFn.TimerParam(PLACE),
    ) -> None:
        news = element[1]
        log.add(LogEntry(news, None))
        if not self._settings.live:
            when = FOUND
        elif news.first:
            when = at.micros + AFTER
        else:
            # Revisions have the time at which their window was due.
            when = gathered_with_others(max(at.micros, news.as_of))
        place.set(Timestamp(micros=when), dynamic_timer_tag=str(when))

    @on_timer(PLACE)
    def on_place(
        self, at: Any = beam.DoFn.TimestampParam, log: Any = beam.DoFn.StateParam(LOG)
    ) -> Iterator[tuple[GroupWindow, FeederInput]]:
        news, kept = read_log(log)
        if not news:
            return
        kept = kept or KeptShard()
        found: dict[GroupWindow, FeederInput] = {}
        for window_end, standing in update(kept, news):
            key = group_of(standing.feeder_id, self._settings), window_end
            found.setdefault(key, FeederInput()).receipts.append(standing)
        if self._settings.live:
            forget(kept, at.micros - expiry(self._settings, 0))
        log.clear()
        log.add(LogEntry(None, kept))
        yield from found.items()


def update(kept: KeptShard, news: Iterable[HeardOn]) -> list[tuple[int, ReceiptStanding]]:
    """Take news in: what is to be said, as (window_end, standing)."""
    news = list(news)
    touched: set[tuple[int, str]] = set()
    for each in news:
        for standing in each.silent:
            silent = kept.silent.setdefault(each.window_end, {})
            if standing.transformer_id not in silent:
                silent[standing.transformer_id] = Silent(standing)
                touched.add((each.window_end, standing.transformer_id))
    moved: set[str] = set()
    for each in news:
        silent = kept.silent.get(each.window_end, {})
        for transformer_id, feeder_id in each.heard.items():
            if _note(kept.came.setdefault(transformer_id, []), each.window_end, feeder_id):
                moved.add(transformer_id)
            if transformer_id in silent:
                silent[transformer_id].heard = True
                touched.add((each.window_end, transformer_id))
    if moved:
        for window_end, transformers in kept.silent.items():
            touched.update((window_end, transformer_id) for transformer_id in moved & transformers.keys())
    said: list[tuple[int, ReceiptStanding]] = []
    for window_end, transformer_id in sorted(touched):
        which = kept.silent[window_end][transformer_id]
        said += ((window_end, each) for each in _say(which, _place(kept.came.get(transformer_id, []), window_end)))
    return said


def _note(came: list[Came], window_end: int, feeder_id: str) -> bool:
    """Note that a transformer was heard on a feeder; whether that may change where it was in other windows."""
    day = window_end // MICROS_PER_DAY
    for number in range(len(came) - 1, -1, -1):
        known, feeder = came[number]
        if feeder == feeder_id and known // MICROS_PER_DAY == day:
            if known <= window_end:
                return False
            del came[number]
            break
    insort(came, (window_end, feeder_id))
    return len({feeder for _, feeder in came}) > 1 or len(came) == 1


def _place(came: list[Came], window_end: int) -> str | None:
    """Where a transformer is that was not heard in this window."""
    if not came:
        return None
    return came[max(bisect_right(came, (window_end, "\U0010ffff")) - 1, 0)][1]


def _say(which: Silent, feeder_id: str | None) -> Iterator[ReceiptStanding]:
    """What is to be said of a silent transformer that is on this feeder; notes that it was."""
    before = which.standing
    number = (before.placed or 0) + 1
    stays = not which.heard and before.feeder_id == feeder_id
    if which.said and stays:
        return
    if which.said:
        yield replace(before, placed=number, gone=True)
    which.standing, which.said = replace(before, feeder_id=feeder_id, placed=number), not which.heard
    if which.said:
        yield which.standing


def forget(kept: KeptShard, before: int) -> None:
    """Forget windows that end before then, and where transformers had come to earlier but for the last place."""
    kept.silent = {window_end: each for window_end, each in kept.silent.items() if window_end >= before}
    for came in kept.came.values():
        while len(came) > 1 and came[1][0] < before:
            del came[0]
