"""The daily list of silent meters: who is on it, by the definition, and whatever came in which order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec
from apache_beam.utils.timestamp import Timestamp
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ami_beam.codecs.read_block import PackedRead, pack
from ami_beam.instants import MICROS_PER_DAY, MICROS_PER_HOUR
from ami_beam.records import (
    DayStandings,
    HeardMeters,
    HearingInput,
    MeterCount,
    MeterStanding,
    ReadPauses,
    ReceiptDue,
    SilentMeter,
    StatisticsBatch,
    TransformerHeard,
)
from ami_beam.settings import Settings
from ami_beam.shards import shard_of
from tests.test_state_access import Bag, Timers
from transforms.heard_meters import heard_meters
from transforms.join_meter_counts import observation
from transforms.publish_silent_meters import KeptMeters
from transforms.publish_silent_meters import update as publish
from transforms.silent_meters import LISTED_FOR, KeptShard, Taken, _SilentMetersDoFn, fold, judge_day, take
from transforms.window_statistics import PublishedWindow, first_publication, revise

HOUR, DAY = MICROS_PER_HOUR, MICROS_PER_DAY
START = 1_772_496_000_000_000
"""2026-03-03T00:00:00Z"""
SETTINGS = Settings(window=HOUR, shards=1)


@dataclass
class Grid:
    """Who was heard when, and the list that follows from it; all state goes through its bytes after every step."""

    counts: dict[str, int]
    settings: Settings = SETTINGS
    kept: KeptShard = field(default_factory=KeptShard)
    listed: KeptMeters = field(default_factory=KeptMeters)
    rows: list[SilentMeter] = field(default_factory=list)
    without_name: int = 0
    taken: list[Taken] = field(default_factory=list)
    revisions: dict[tuple[str, int], int] = field(default_factory=dict)

    def heard(self, hour: int, transformer_id: str, *meters: str, estimated: tuple[str, ...] = ()) -> Grid:
        """The reads of the window that ends so many hours after the start, as one publication."""
        end = START + hour * HOUR
        revision = self.revisions[transformer_id, end] = self.revisions.get((transformer_id, end), -1) + 1
        return self.take(said(end, transformer_id, revision, meters, estimated, self.counts[transformer_id]))

    def due(self, day: int, judge: bool = True) -> Grid:
        """The end of the day of this number, 1 the first."""
        end = START + day * DAY
        rows = [MeterCount(name, meters) for name, meters in self.counts.items()]
        self.take(HearingInput(due=ReceiptDue(end, 0, rows, None, START + self.settings.window)))
        return self.judge() if judge else self

    def take(self, *news: HearingInput) -> Grid:
        self.taken.append(take(self.kept, news))
        self.without_name += self.taken[-1].without_name
        return self

    def judge(self) -> Grid:
        for end in sorted(self.kept.days):
            touched = [each.touches(end) for each in self.taken]
            several = None if None in touched else {name for each in touched for name in each or ()}
            changed = judge_day(self.kept, end, self.settings, several)
            self.kept = over_the_wire(self.kept)
            if changed:
                self.rows += publish(self.listed, [_day(end, changed)], end + HOUR)
                self.listed = over_the_wire(self.listed)
        self.taken = []
        return self

    def fold(self, day: int) -> Grid:
        fold(self.kept, START + day * DAY)
        self.kept = over_the_wire(self.kept)
        return self

    def on_list(self, day: int) -> dict[str, tuple[str, int | None, int]]:
        """By meter its transformer, the hour since when it is silent, and how many windows are missing."""
        last: dict[str, SilentMeter] = {}
        for row in self.rows:
            if row.window_end == START + day * DAY:
                assert row.revision == (last[row.meter_id].revision + 1 if row.meter_id in last else 0)
                assert row.meter_id not in last or row.as_of >= last[row.meter_id].as_of
                last[row.meter_id] = row
        return {
            name: (row.transformer_id, _hour(row.silent_since), row.windows_missing)
            for name, row in last.items()
            if row.status == "LISTED"
        }


def _day(end: int, standings: list[MeterStanding]) -> DayStandings:
    return over_the_wire(DayStandings(end, standings))


def _hour(instant: int | None) -> int | None:
    return None if instant is None else (instant - START) // HOUR


def over_the_wire(value):
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=type(value))


def said(end, transformer_id, revision, heard, estimated, total, feeder_id="F1") -> HearingInput:
    """As `heard_meters` says it; a test below holds that."""
    complete = len(set(heard)) >= total
    if complete and end % (6 * HOUR) and revision == 0:
        return HearingInput(HeardMeters(end, [transformer_id], []))
    names = (sorted(heard), sorted(estimated)) if not complete or end % (6 * HOUR) == 0 else ([], [])
    return HearingInput(HeardMeters(end, [], [TransformerHeard(transformer_id, feeder_id, revision, complete, *names)]))


def grid(total: int = 3, **more: int) -> Grid:
    return Grid({"T1": total, **more})


ALL = ("A", "B", "C")


def hours(day: int, until: int = 24) -> range:
    """The windows of a day."""
    return range((day - 1) * 24 + 1, (day - 1) * 24 + until + 1)


class TestList:
    def test_a_meter_that_was_not_heard_for_a_day_is_on_it_until_it_is_heard(self):
        network = grid()
        for hour in hours(1):
            network.heard(hour, "T1", *(ALL if hour <= 10 else ("A", "B")))
        network.due(1)
        assert network.on_list(1) == {}
        for hour in hours(2):
            network.heard(hour, "T1", "A", "B")
        network.due(2)
        assert network.on_list(2) == {"C": ("T1", 10, 38)}
        (row,) = network.rows
        assert (row.day, row.feeder_id, row.status, row.as_of) == ("2026-03-04", "F1", "LISTED", START + 2 * DAY)
        for hour in hours(3):
            network.heard(hour, "T1", *(ALL if hour > 50 else ("A", "B")))
        network.due(3)
        assert network.on_list(3) == {}
        assert network.on_list(2) == {"C": ("T1", 10, 38)}

    def test_a_late_read_takes_it_back(self):
        network = grid()
        for hour in (*hours(1), *hours(2)):
            network.heard(hour, "T1", *(ALL if hour <= 10 else ("A", "B")))
        network.due(2).heard(47, "T1", *ALL).judge()
        assert [(row.status, row.revision) for row in network.rows] == [("LISTED", 0), ("WITHDRAWN", 1)]
        # An estimate that replaces the read puts it on again.
        network.heard(47, "T1", "A", "B", estimated=("C",)).judge()
        assert network.on_list(2) == {"C": ("T1", 10, 38)}
        # Heard earlier than that: on the list, and since when is another.
        network.heard(12, "T1", *ALL).judge()
        assert network.on_list(2) == {"C": ("T1", 12, 36)}

    def test_estimates_are_not_heard_and_name_a_meter_that_never_was(self):
        network = grid()
        for hour in (*hours(1), *hours(2)):
            network.heard(hour, "T1", "A", "B", estimated=("C",))
        network.due(1).due(2)
        assert network.on_list(1) == {"C": ("T1", None, 24)}
        assert network.on_list(2) == {"C": ("T1", None, 48)}

    def test_a_meter_in_no_read_cannot_be_named_and_is_counted(self):
        network = grid()
        for hour in hours(1):
            network.heard(hour, "T1", "A", "B")
        network.due(1)
        assert (network.on_list(1), network.without_name) == ({}, 1)
        silent = grid(T2=4).due(1)
        assert (silent.on_list(1), silent.without_name) == ({}, 7)

    def test_a_silent_transformer_has_all_of_its_meters_on_it(self):
        network = grid(T2=1)
        for hour in (*hours(1), *hours(2)):
            if hour <= 6:
                network.heard(hour, "T1", *ALL)
            network.heard(hour, "T2", "X")
        network.due(2)
        assert network.on_list(2) == dict.fromkeys(ALL, ("T1", 6, 42))

    def test_time_in_which_the_head_end_was_silent_does_not_count(self):
        network = grid()
        for hour in (*hours(1, 12), *range(48, 73)):
            network.heard(hour, "T1", *(ALL if hour <= 10 else ("A", "B")))
        pause = ReadPauses(START, [(START + 12 * HOUR + 60, START + 47 * HOUR + 60)])
        network.take(HearingInput(pauses=pause)).due(2)
        # The windows of 11:00 and 12:00 of the first day, and the last of the second.
        assert network.on_list(2) == {}
        network.due(3)
        assert network.on_list(3) == {"C": ("T1", 10, 62 - 35)}

    def test_it_is_forgotten_after_thirty_days_and_estimates_do_not_bring_it_back(self):
        network = grid()
        for hour in hours(1):
            network.heard(hour, "T1", *ALL)
        for day in range(2, 36):
            for hour in hours(day)[5::6]:
                network.heard(hour, "T1", "A", estimated=("C",))
            network.due(day)
            if day > 3:
                network.fold(day - 3)
        assert [day for day in range(1, 36) if "B" in network.on_list(day)] == list(range(2, 32))
        assert [day for day in range(1, 36) if "C" in network.on_list(day)] == list(range(2, 32))
        assert LISTED_FOR == 30 * DAY
        network.fold(33)
        assert set(network.kept.transformers["T1"].meters) == {"A", "C"}

    def test_an_exchanged_meter_is_not_silent(self):
        network = grid()
        for hour in (*hours(1), *hours(2), *hours(3)):
            # B goes and N comes; later C is silent, and only that is news.
            names = ALL if hour <= 8 else ("A", "C", "N") if hour <= 40 else ("A", "N")
            network.heard(hour, "T1", *names)
        network.due(1).due(2).due(3)
        assert (network.on_list(2), network.on_list(3)) == ({}, {"C": ("T1", 40, 32)})

    def test_one_that_moves_is_heard_where_it_is_now(self):
        """Although the meter counts do not know yet."""
        network = grid(T2=1)
        for hour in (*hours(1), *hours(2), *hours(3), *hours(4)):
            network.heard(hour, "T1", *(ALL if hour <= 30 else ("A", "B")))
            network.heard(hour, "T2", *(("X",) if hour <= 30 or hour > 72 else ("C", "X")))
        network.due(1).due(2).due(3).due(4)
        assert network.on_list(3) == {}
        # There is no more of it there, either: as many as the count has are heard without it.
        assert network.on_list(4) == {}
        for hour in (*hours(5), *hours(6)):
            network.heard(hour, "T1", "A", "B")
            network.heard(hour, "T2", "X", "Y") if hour < 130 else network.heard(hour, "T2", "Y")
        network.counts["T2"] = 3
        network.due(5).due(6)
        assert network.on_list(6) == {}

    def test_one_that_moves_back_is_silent_nowhere(self):
        network = Grid({"T1": 3, "T2": 2})
        for day in range(1, 7):
            for hour in hours(day):
                at_home = hour <= 30 or hour > 90
                network.heard(hour, "T1", *(ALL if at_home else ("A", "B")))
                network.heard(hour, "T2", *(("X",) if at_home else ("C", "X")))
            network.due(day)
        assert all(network.on_list(day) == {} for day in range(1, 7))


# What follows: reads that are drawn, and the definition, read by read.
Heard = dict[tuple[int, str], tuple[set[str], set[str]]]
"""By window (hours) and transformer: which meters were heard, and which were only estimated."""
COUNTS = {"T1": 3, "T2": 2}
DAYS = 5


@st.composite
def networks(draw: st.DrawFn) -> tuple[Heard, Heard]:
    """What is heard in the end, and what of it was heard in time. Meters fall silent for days, move, are estimated."""
    final: Heard = {}
    early: Heard = {}
    randomly = random.Random(draw(st.integers(0, 1_000_000)))
    for meter_id, home in (("A", "T1"), ("B", "T1"), ("C", "T1"), ("D", "T2"), ("E", "T2")):
        cuts = sorted(draw(st.lists(st.integers(1, DAYS * 24), max_size=3)))
        where = home
        for begin, end in pairwise([1, *cuts, DAYS * 24 + 1]):
            state = draw(st.sampled_from(["heard", "heard", "silent", "estimated", "elsewhere", "now and then"]))
            if state == "elsewhere" and begin > 26 and where == home:
                where = "T1" if where == "T2" else "T2"
            for hour in range(begin, end):
                chance = randomly.random()
                if state == "silent" or (state == "now and then" and chance < 0.7):
                    continue
                heard, estimated = final.setdefault((hour, where), (set(), set()))
                (estimated if state == "estimated" else heard).add(meter_id)
                fate = randomly.random()
                heard, estimated = early.setdefault((hour, where), (set(), set()))
                if fate < 0.9:
                    (estimated if state == "estimated" else heard).add(meter_id)
                elif fate < 0.94:  # what came first was replaced
                    (heard if state == "estimated" else estimated).add(meter_id)
    return final, early


def by_definition(final: Heard, day: int) -> dict[str, tuple[str, int | None, int]]:
    """The list of a day, from all reads at once."""
    until = day * 24
    standings: dict[str, list[tuple[int, str, int | None]]] = {}
    for transformer_id, total in COUNTS.items():
        said = {hour: each for (hour, name), each in final.items() if name == transformer_id and hour <= until}
        complete = {hour for hour, (heard, _) in said.items() if len(heard) >= total}
        named = {hour: each for hour, each in said.items() if hour not in complete or hour % 6 == 0}
        for meter_id in "ABCDE":
            ends = [hour for hour, (heard, estimated) in named.items() if meter_id in heard | estimated]
            if not ends:
                continue
            by_name = max([hour for hour, (heard, _) in named.items() if meter_id in heard], default=0)
            exchanged = any(hour > by_name for hour in complete & named.keys())
            with_all = [] if exchanged else [hour for hour in complete if hour >= min(ends)]
            last = max([by_name, *with_all])
            missing = until - (last or min(ends) - 1)
            silent = missing >= 24 and not exchanged
            standings.setdefault(meter_id, []).append((last, transformer_id, missing if silent else None))
    found = {}
    for meter_id, several in standings.items():
        last, transformer_id, missing = max(several, key=lambda each: each[:2])
        if missing is not None:
            found[meter_id] = transformer_id, last or None, missing
    return found


def news_of(final: Heard, early: Heard) -> list[HearingInput]:
    """Publications, each with its revision, of what came in time and of what there is in the end."""
    found = []
    for hour, name in final:
        first, last = early[hour, name], final[hour, name]
        publications = [each for each in ([first, last] if first != last else [last]) if each[0] | each[1]]
        for revision, (heard, estimated) in enumerate(publications):
            found.append(said(START + hour * HOUR, name, revision, heard, estimated, COUNTS[name]))
    return found


class TestAnyOrder:
    @hypothesis_settings(max_examples=60, deadline=None)
    @given(networks(), st.integers(0, 1_000))
    def test_the_lists_are_those_of_the_definition(self, drawn, seed):
        final, early = drawn
        news = news_of(final, early)
        randomly = random.Random(seed)
        # All at once, as a replay has it, and in any order and portions, with days that are judged too early.
        replay = Grid(COUNTS).take(*news)
        for day in range(1, DAYS + 1):
            replay.due(day, judge=False)
        for day in range(1, DAYS + 1):
            end = START + day * DAY
            changed = judge_day(replay.kept, end, SETTINGS)
            replay.rows += publish(replay.listed, [_day(end, changed)] if changed else [], end)
            replay.fold(day)
        randomly.shuffle(news)
        live = Grid(COUNTS)
        waiting: list[HearingInput] = []
        for day in range(1, DAYS + 1):
            waiting += [each for each in news if START + (day - 1) * DAY < each.heard.window_end <= START + day * DAY]
            now, waiting = [each for each in waiting if randomly.random() < 0.7], []
            late = [each for each in news if each.heard.window_end <= START + day * DAY and each not in now]
            waiting = late
            live.take(*now).due(day)
        for day in range(1, DAYS + 1):
            rest = [each for each in waiting if each.heard.window_end <= START + day * DAY]
            live.take(*rest)
        live.judge()
        for day in range(1, DAYS + 1):
            expected = by_definition(final, day)
            assert replay.on_list(day) == expected
            assert live.on_list(day) == expected
        assert {row.revision for row in replay.rows} <= {0}


class TestState:
    def test_what_arrives_is_appended_and_read_once_for_a_day_and_every_six_hours(self):
        settings = Settings(window=HOUR, shards=4, live=True)
        step, log, timers = _SilentMetersDoFn(settings), Bag(), Timers()
        for hour in (*hours(1), *hours(2)):
            meters = ALL if hour <= 10 else ("A", "B")
            at = Timestamp(micros=START + hour * HOUR + settings.collection_delay)
            step.process((2, said(START + hour * HOUR, "T1", 0, meters, (), 3)), at, log, timers)
            if hour % 12 == 0:
                assert list(step.on_judge(log)) == []
        # Shards 0 to 3 look 0, 1.5, 3 and 4.5 hours after six, twelve and so on.
        assert timers.due == {"look": START + 51 * HOUR}
        assert (log.reads, len(log.held)) == (4, 1)
        end = START + 2 * DAY
        due = ReceiptDue(end, settings.receipt_delay, [MeterCount("T1", 3)], None, START + HOUR)
        step.process((2, HearingInput(due=due)), Timestamp(micros=end + HOUR), log, timers)
        assert timers.due["due"] == end + HOUR + 5 * HOUR // 60
        assert log.reads == 4
        ((shard, found),) = step.on_judge(log)
        assert (shard, found.window_end) == (shard_of("C", 4), end)
        assert found.standings == [MeterStanding("C", "T1", "F1", START + 10 * HOUR, 38)]
        assert log.reads == 5
        assert list(step.on_judge(log)) == []


class TestHeardMeters:
    def test_names_are_said_where_not_all_were_heard_and_four_times_a_day(self):
        def batch(end: int, meters: list[tuple[str, bool]], late: Sequence[tuple[str, bool]] = ()) -> StatisticsBatch:
            base, first = first_publication(end, [pack(end, [_read(end, *meter) for meter in meters])], Settings.window)
            if not late:
                return first
            fresh = [pack(end, [_read(end, *meter) for meter in late])]
            return revise(end, PublishedWindow(base, None), fresh, Settings.window)[1]

        def who(batch: StatisticsBatch, total: int | None) -> HeardMeters | None:
            seen = [observation(each, None, 230.0) for each in batch.transformers]
            counts = [None if total is None else MeterCount("T1", total)]
            return heard_meters(batch, seen, counts, SETTINGS)

        three = [("A", True), ("B", True), ("C", False)]
        assert who(batch(START + HOUR, three), 2) == HeardMeters(START + HOUR, ["T1"], [])
        assert who(batch(START + HOUR, three), None) is None
        for end, total, late, expected in (
            (START + HOUR, 3, [], ("T1", "F1", 0, False, ["A", "B"], ["C"])),
            (START + HOUR, 3, [("C", True)], ("T1", "F1", 1, True, [], [])),
            (START + 6 * HOUR, 2, [], ("T1", "F1", 0, True, ["A", "B"], ["C"])),
        ):
            found = who(batch(end, three, late), total)
            assert found == HeardMeters(end, [], [TransformerHeard(*expected)])
            heard, estimated = ("A", "B", "C") if late else ("A", "B"), () if late else ("C",)
            assert said(end, "T1", expected[2], heard, estimated, total) == HearingInput(found)


def _read(end: int, meter_id: str, actual: bool) -> PackedRead:
    read_ts = end + actual
    return PackedRead("T1", meter_id, end, read_ts, actual, end, 0, 0, "F1", 0.5, 0.5, 0.0, 230.0, False, False)
