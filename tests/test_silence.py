"""Silence of the head-end: one alarm, and no receipt rate is judged before the reads that were held back."""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise, permutations

import pytest
from apache_beam.utils.timestamp import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from ami_beam.consumers import FEEDER_SUMMARY
from ami_beam.instants import MICROS_PER_DAY, MICROS_PER_HOUR, format_instant
from ami_beam.records import GroupInput, MeterCount, ReadPauses, ReadProgress
from ami_beam.settings import Settings
from tests.shard import Shard, final
from tests.stream import HeadEnd, Published, at, read_json
from tests.test_state_access import Timers, Value
from transforms.due_windows import PAUSES, Covered, ProgressWithDelays, _DueWindowsDoFn, arm, extend, promise
from transforms.silence import CATCH_UP, caught_up, found_silences, join_spans, pause_at, silences, spans_of
from transforms.window_expiry import expiry, judged_by

TIMES = st.lists(st.integers(0, 200), min_size=1, max_size=30)


class TestSpans:
    @given(TIMES, st.integers(1, 20), st.randoms(use_true_random=False))
    def test_pauses_are_found_whatever_was_read_in_which_portions(self, times, least, random):
        ordered = sorted(times)
        pauses = [(a, b) for a, b in pairwise(ordered) if b - a > least]
        shuffled = list(times)
        random.shuffle(shuffled)
        spans: list[tuple[int, int]] = []
        while shuffled:
            size = random.randint(1, 5)
            portion, shuffled = shuffled[:size], shuffled[size:]
            spans = join_spans(spans, spans_of(portion, least), least)
        assert [(a[1], b[0]) for a, b in pairwise(spans)] == pauses
        alarms = silences("reads", spans, ordered[-1], least, 900, live=False)
        assert [(alarm.began_at, alarm.ended_at) for alarm in alarms] == pauses

    @given(TIMES, st.integers(1, 20), st.integers(0, 200))
    def test_an_instant_in_a_pause_waits_for_its_end(self, times, least, instant):
        spans = spans_of(times, least)
        ordered = sorted(times)
        place = bisect_left(ordered, instant)
        inside = 0 < place < len(ordered) and ordered[place] - ordered[place - 1] > least and ordered[place] > instant
        assert pause_at(spans, instant) == ((ordered[place - 1], ordered[place]) if inside else None)

    def test_what_was_held_back_has_as_long_as_the_silence_was(self):
        assert caught_up((100, 130), 20) == 160
        assert caught_up((100, 110), 20) == 130
        assert caught_up((100, 101 + CATCH_UP), 20) == 101 + 2 * CATCH_UP

    def test_it_goes_on_when_the_watermark_says_so(self):
        spans = [(0, 100), (500, 600)]
        assert [alarm.ended_at for alarm in silences("reads", spans, 650, 100, 900, live=True)] == [500]
        assert [alarm.ended_at for alarm in silences("reads", spans, 700, 100, 900, live=True)] == [500, None]
        # Another partition may still have records from before.
        assert silences("reads", spans, 400, 100, 900, live=True) == []
        assert [alarm.ended_at for alarm in silences("reads", spans, 700, 100, 900, live=False)] == [500]

    def test_a_pause_that_is_not_known_any_more_stays_an_alarm(self):
        """As of a backlog: its end and that it is long ago are known at once."""
        settings = Settings(live=True)
        size = settings.window
        spans = [(DAY, DAY + size), (DAY + 9 * size + 1, DAY + 900 * size)]
        shard = Shard(settings)
        for known, watermark in ((spans, spans[1][0]), (spans[1:], spans[1][1])):
            found = found_silences("reads", known, watermark, size, size, live=True)
            shard.publish("entity/reads", GroupInput([found]), watermark)
        (alarm,) = final(shard.alarms).values()
        assert (alarm.began_at, alarm.ended_at, alarm.state) == (DAY + size, DAY + 9 * size + 1, "CLEARED")

    @pytest.mark.parametrize("order", list(permutations(range(3))))
    def test_several_are_known_whatever_the_order_of_timers(self, order):
        """At the end of a replay all are due at once."""
        hours = [(0, 1), (3, 4), (6, 7), (9, 10)]
        spans = [(DAY + begin * MICROS_PER_HOUR, DAY + end * MICROS_PER_HOUR) for begin, end in hours]
        state, shard, step = Value(), Shard(Settings()), _DueWindowsDoFn(Settings())
        state.write(Covered(DAY, spans[-1][1], None, None, {}, spans=spans))
        told = []
        for place in order:
            for out in step.on_silent(Timestamp(micros=spans[place + 1][0]), state):
                if out.tag == PAUSES:
                    told.append(out.value.pauses)
                else:
                    shard.publish("entity/reads", out.value[1], spans[-1][1])
        pauses = [(one[1], other[0]) for one, other in pairwise(spans)]
        assert told[-1] == pauses
        assert sorted((alarm.began_at, alarm.ended_at) for alarm in final(shard.alarms).values()) == pauses

    def test_one_of_days_ends_when_reads_come_again_and_is_told_to_who_counts_windows(self):
        settings, state, shard = Settings(live=True), Value(), Shard(Settings(live=True))
        step = _DueWindowsDoFn(settings)
        began, ended = DAY + 10 * MICROS_PER_HOUR, DAY + 70 * MICROS_PER_HOUR
        told = []
        for hour, spans in ((10.5, []), (70, [(ended, ended)]), (71, []), (120, []), (150, [])):
            watermark = DAY + int(hour * MICROS_PER_HOUR)
            known = state.read() or Covered(DAY, began, None, None, {}, spans=[(DAY, began)])
            known.spans += spans
            if known.spans[-1][0] == ended:
                known.spans[-1] = ended, max(ended, watermark - 60_000_000)
            state.write(known)
            for out in step.on_silent(Timestamp(micros=watermark), state):
                if out.tag == PAUSES:
                    told.append(out.value)
                else:
                    shard.publish("entity/reads", out.value[1], watermark)
        assert [alarm.state for alarm in shard.alarms] == ["ACTIVE", "CLEARED"]
        (alarm,) = final(shard.alarms).values()
        assert (alarm.began_at, alarm.ended_at) == (began, ended)
        assert told == [ReadPauses(DAY, [(began, ended)]), ReadPauses(ended, [])]


DAY = at("00:00")
METERS = ["M0", "M1", "M2", "M3"]


def silent_for_an_hour(backlog: bool, live: bool = True) -> Published:
    head_end = HeadEnd([MeterCount("T1", 4)], live=live, source_silent="20m", max_disorder="20s")
    ends = ["10:15", "10:30", "10:45", "11:00", "11:15", "11:30", "11:45"]
    for end in ends[:2]:
        head_end.reads(clock(end), *(read_json(end=end, meter_id=meter) for meter in METERS))
    head_end.until("11:32:00")
    held_back = [read_json(end=end, meter_id=meter) for end in ends[2:5] for meter in METERS] if backlog else []
    head_end.reads("11:32", *(read_json(end=ends[5], meter_id=meter) for meter in METERS))
    head_end.reads(clock(ends[6]), *(read_json(end=ends[6], meter_id=meter) for meter in METERS))
    if backlog:  # not at once: the head-end has an hour of it
        head_end.reads("12:05", *held_back)
    return head_end.until("12:06" if backlog else "12:40").run()


def clock(end: str) -> str:
    return format_instant(at(end) + 60_000_000)[11:19]


class TestDueWindows:
    SETTINGS = Settings(live=True)

    def progress(self, covered: Covered | None, clock: int, delays: list[int]) -> dict[int, list[int]]:
        """What becomes due for each delay by a read of the window that ends now."""
        found = {}
        after = extend(covered, ReadProgress(clock, clock, clock, clock))
        for delay in delays:
            found[delay] = arm(after, delay, self.SETTINGS)
            promise(after, delay, self.SETTINGS)
        self.covered = after
        return found

    def test_a_delay_that_is_new_in_the_counts_is_not_of_windows_that_are_forgotten(self):
        size, short, new = self.SETTINGS.window, 300_000_000, MICROS_PER_HOUR
        self.progress(None, DAY, [short])
        now = DAY + 10 * MICROS_PER_DAY
        for clock in range(DAY + MICROS_PER_DAY, now + 1, MICROS_PER_DAY):
            self.progress(self.covered, clock, [short])
        now += size
        found = self.progress(self.covered, now, [short, new])[new]
        assert judged_by(self.SETTINGS, found[0] - size) <= now < judged_by(self.SETTINGS, found[0])
        assert found[-1] == now - new
        assert self.progress(self.covered, now + size, [short, new])[new] == [found[-1] + size]

    def test_a_delay_that_nothing_was_due_for_before_a_silence_is_not_new(self):
        size, short, daily = self.SETTINGS.window, 300_000_000, 23 * MICROS_PER_HOUR
        self.progress(None, DAY, [short, daily])
        self.progress(self.covered, DAY + size, [short, daily])
        found = self.progress(self.covered, DAY + 10 * MICROS_PER_DAY, [short, daily])
        assert found[daily][:2] == [DAY, DAY + size]

    @pytest.mark.parametrize("ended", [25, 60, 300])
    def test_none_is_judged_when_it_is_forgotten(self, ended):
        """The record that ends a silence makes windows due before the watermark moves."""
        settings, state, due, silent = self.SETTINGS, Value(), Timers(), Timers()
        step = _DueWindowsDoFn(settings)
        for clock in (DAY, DAY + ended * MICROS_PER_HOUR):
            progress = ReadProgress(clock, clock, DAY, DAY, [(clock, clock)])
            step.process((0, ProgressWithDelays(progress, [23 * MICROS_PER_HOUR])), state, due, silent)
        (at,) = due.due.values()
        assert DAY + ended * MICROS_PER_HOUR <= at or at == judged_by(settings, DAY)
        assert at < expiry(settings, DAY)


class TestHeadEnd:
    def test_one_alarm_and_no_receipt_alert_for_what_comes_afterwards(self):
        published = silent_for_an_hour(backlog=True)
        assert {alarm.alarm_type for alarm in published.alarms} == {"SOURCE_SILENT"}
        opened, closed = published.alarms[:2]
        assert (opened.began_at, opened.severity, opened.as_of) == (at("10:31"), "CRITICAL", at("10:51"))
        assert (opened.state, closed.state) == ("ACTIVE", "CLEARED")
        assert (closed.began_at, closed.ended_at, closed.alarm_id) == (at("10:31"), at("11:32"), opened.alarm_id)
        assert [alert.alert_type for alert in published.alerts] == []
        rates = {row.window_end: row.receipt_rate_pct for row in published.receipts}
        assert rates == {at(end): 100.0 for end in ("10:15", "10:30", "10:45", "11:00", "11:15", "11:30", "11:45")}
        assert {row.revision for row in published.receipts} == {0}

    def test_reads_that_are_lost_are_held_against_the_transformers(self):
        published = silent_for_an_hour(backlog=False)
        assert [alarm.state for alarm in published.alarm("LOW_RECEIPT_RATE", "10:45")][:1] == ["ACTIVE"]
        assert published.life("LOW_RECEIPT_RATE", "11:00") == [("RAISED", 0.0)]

    @pytest.mark.parametrize("resumes", ["11:15", "11:50"])
    def test_what_it_leaves_too_late_is_no_alarm_of_transformers(self, resumes):
        """They are read once an hour. Of 10:15 to 10:45 every read is too late when the source speaks again."""
        hourly = MeterCount("T1", 4, receipt_delay=45 * 60_000_000)
        head_end = HeadEnd([hourly], live=True, source_silent="20m", max_disorder="20s", allowed_lateness="1h")
        ends = ["10:15", "10:30", "10:45", "11:00", "11:15", "11:30", "11:45", "12:00"]

        def hour(*which: str) -> list[bytes]:
            return [read_json(end=end, meter_id=meter) for end in which for meter in METERS]

        head_end.reads("10:01", *hour("09:45", "10:00")).reads("10:16", read_json(end="10:15", transformer_id="T2"))
        head_end.until(resumes).reads(resumes, *(hour(*ends) if resumes == "11:50" else ()))
        for minute in range(1, 30):
            head_end.reads(at(resumes) + minute * 60_000_000, read_json(end=resumes, transformer_id="T2"))
        published = head_end.run()
        rates = {row.window_end: row.receipt_rate_pct for row in published.receipts}
        lost = ["10:15", "10:30"] + (["10:45"] if resumes == "11:50" else [])
        assert [rates[at(end)] for end in lost] == [0.0] * len(lost)
        alarms = {alarm.alarm_type for alarm in published.alarms}
        assert alarms == ({"SOURCE_SILENT"} if resumes == "11:50" else {"SOURCE_SILENT", "LOW_RECEIPT_RATE"})

    @pytest.mark.parametrize("straggler", [False, True])
    def test_what_was_read_before_it_counts_however_long_it_was(self, straggler):
        """A window is due for one transformer, and for the other, which is read more seldom, only after the silence."""
        counts = [MeterCount("T1", 1, receipt_delay=45 * 60_000_000), MeterCount("T2", 1)]
        head_end = HeadEnd(counts, shards=1, source_silent="20m", max_disorder="20s", allowed_lateness="1h", live=True,
                           also_publish=(FEEDER_SUMMARY,))  # fmt: skip
        head_end.reads("10:16", read_json(end="10:15", meter_id="M1", transformer_id="T1"))
        head_end.reads("10:16", read_json(end="10:15", meter_id="M2", transformer_id="T2"))
        head_end.reads("10:31", read_json(end="10:30", meter_id="M2", transformer_id="T2"))
        if straggler:
            head_end.reads("11:15", read_json(end="11:15", meter_id="M2", transformer_id="T2"))
        # An idle source moves its watermark by the clock.
        for instant in range(at("10:40"), at("15:00"), 600_000_000):
            head_end.until(instant)
        for minute in range(0, 300, 10):
            instant = at("15:00") + minute * 60_000_000
            head_end.reads(instant, read_json(end="15:00", meter_id="M2", transformer_id="T2"))
        published = head_end.run()
        for transformer in ("T1", "T2"):
            assert [row.receipt_rate_pct for row in published.receipt("10:15", transformer)] == [100.0]
        row = published.feeder("10:15")[-1]
        assert (row.meters_reported, row.meters_expected) == (2, 2)

    def test_it_is_not_told_again_to_who_has_forgotten_it(self):
        """Read back then, the alarm would be of a pause that nobody knows, and be taken back."""
        head_end = HeadEnd(
            [MeterCount("T1", 4)], live=True, source_silent="20m", max_disorder="20s", allowed_lateness="1h"
        )
        reads = [read_json(end="10:15", meter_id=meter) for meter in METERS]
        head_end.reads("10:16", *reads)
        for minute in range(60, 60 * 9, 15):
            head_end.reads(at("10:16") + minute * 60_000_000, *reads)
        published = head_end.run()
        silences = [alarm for alarm in published.alarms if alarm.alarm_type == "SOURCE_SILENT"]
        assert [(alarm.state, alarm.revision) for alarm in silences] == [("ACTIVE", 0), ("CLEARED", 1)]

    def test_a_replay_knows_the_pause_and_not_that_the_file_ends(self):
        published = silent_for_an_hour(backlog=True, live=False)
        (alarm,) = published.alarms
        assert (alarm.state, alarm.began_at, alarm.ended_at) == ("CLEARED", at("10:31"), at("11:32"))
        assert alarm.ended_at - alarm.began_at == MICROS_PER_HOUR + 60_000_000
