"""How the steps over (shard, window) use their state: one wait for an answer a timer, in any order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apache_beam.pvalue import TaggedOutput
from apache_beam.utils.timestamp import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from ami_beam.codecs.read_block import PackedRead, pack
from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND
from ami_beam.records import (
    AlarmInput,
    Alert,
    Announcement,
    DayStandings,
    JudgeInput,
    MeterCount,
    Observation,
    PowerEvent,
    ReceiptBatch,
    ReceiptDue,
    ReceiptRow,
    SupplyNote,
    TransformerPlace,
)
from ami_beam.settings import Settings
from transforms.alarm_episodes import _EpisodesDoFn
from transforms.judge_windows import VERDICTS, _JudgeWindowsDoFn
from transforms.latest_announcements import _LatestDoFn
from transforms.locate_events import PowerNews, _LocateDoFn
from transforms.publish_silent_meters import _PublishDoFn
from transforms.silent_meters import JUDGED_WITHIN
from transforms.supply_notes import pack_notes
from transforms.window_statistics import DUE, EXPIRE, LATE, _WindowStatisticsDoFn

END = 1_772_496_900_000_000
DELAY = 5 * MICROS_PER_MINUTE
KEY = (3, END)


class Bag:
    """A bag that counts how often it was read."""

    def __init__(self) -> None:
        self.held: list[Any] = []
        self.reads = 0

    def add(self, value: Any) -> None:
        self.held.append(value)

    def read(self) -> Iterator[Any]:
        self.reads += 1
        return iter(list(self.held))

    def clear(self) -> None:
        self.held.clear()


class Value(Bag):
    def write(self, value: Any) -> None:
        self.held[:] = [value]

    def read(self) -> Any:
        self.reads += 1
        return self.held[0] if self.held else None


class Timers:
    def __init__(self) -> None:
        self.due: dict[str, int] = {}

    def set(self, at: Timestamp, dynamic_timer_tag: str = "") -> None:
        self.due[dynamic_timer_tag] = at.micros


def read(meter: int, record_time: int) -> PackedRead:
    return PackedRead(
        "T1", f"M{meter}", END, END, True, record_time, 0, meter, "F1", 0.5, 0.5, 0.0, 230.0, False, False
    )


class TestWindowStatistics:
    def test_a_window_is_read_once_to_be_published_and_never_when_reads_arrive(self):
        step, reads, revised, timers = _WindowStatisticsDoFn(Settings()), Bag(), Value(), Timers()
        for meter in range(3):
            block = pack(END, [read(meter, END + 1_000)])
            assert list(step.process((KEY, block), reads, revised, timers)) == []
        assert (reads.reads, revised.reads) == (0, 0)
        assert timers.due == {DUE: END + DELAY}
        ((key, batch),) = step.on_publish(KEY, DUE, reads, revised, timers)
        assert key == KEY
        assert batch.transformers[0].meters_reported == 3
        assert (reads.reads, revised.reads) == (1, 0)
        assert EXPIRE in timers.due
        # Merged into one block, because they were small.
        assert len(reads.held) == len(reads.held[0].blocks) == 1

    def test_a_late_read_revises_at_once_and_what_was_published_stays(self):
        step, reads, revised, timers = _WindowStatisticsDoFn(Settings()), Bag(), Value(), Timers()
        list(step.process((KEY, pack(END, [read(1, END + 1_000)])), reads, revised, timers))
        list(step.on_publish(KEY, DUE, reads, revised, timers))
        before = list(reads.held)
        ((_, batch),) = step.process((KEY, pack(END, [read(2, END + DELAY)])), reads, revised, timers)
        assert (batch.transformers[0].meters_reported, batch.transformers[0].revision) == (2, 1)
        assert reads.held == before
        assert list(step.on_publish(KEY, LATE, reads, revised, timers)) == []

    def test_reads_that_come_after_the_publication_with_an_old_record_time_are_in_the_next(self):
        step, reads, revised, timers = _WindowStatisticsDoFn(Settings()), Bag(), Value(), Timers()
        for meter in (1, 2):
            list(step.process((KEY, pack(END, [read(meter, END + 1_000)])), reads, revised, timers))
            published = list(step.on_publish(KEY, DUE, reads, revised, timers))
        assert [(t.meters_reported, t.revision) for t in published[0][1].transformers] == [(2, 1)]
        list(step.on_publish(KEY, EXPIRE, reads, revised, timers))
        assert reads.held == revised.held == []

    def test_late_reads_of_a_window_that_was_never_published_are_not_put_off_by_later_ones(self):
        """A backlog after a silence: all come before their time, and their receipt is judged hours after the first."""
        step, reads, revised, timers = _WindowStatisticsDoFn(Settings()), Bag(), Value(), Timers()
        arrived = [END + hours * MICROS_PER_HOUR for hours in (1, 3, 5)]
        list(step.process((KEY, pack(END, [read(1, arrived[0]), read(2, arrived[1])])), reads, revised, timers))
        list(step.process((KEY, pack(END, [read(3, arrived[2])])), reads, revised, timers))
        assert sorted(timers.due.values()) == [arrived[0], arrived[2]]
        first = min(timers.due, key=timers.due.__getitem__)
        ((_, batch),) = step.on_publish(KEY, first, reads, revised, timers)
        assert batch.transformers[0].meters_reported == 3

    def test_what_is_still_waiting_when_the_window_expires_is_published_first(self):
        step, reads, revised, timers = _WindowStatisticsDoFn(Settings()), Bag(), Value(), Timers()
        list(step.process((KEY, pack(END, [read(1, END + 1_000)])), reads, revised, timers))
        assert len(list(step.on_publish(KEY, EXPIRE, reads, revised, timers))) == 1
        assert reads.held == []


def observation(transformer: str, revision: int, meters: int, volts: float, feeder: str = "F1") -> Observation:
    voltage = (volts, feeder)
    return Observation(transformer, feeder, meters, meters, voltage, voltage, END + revision, revision, 230.0, None)


class Window:
    """One window of `JudgeWindows` with what it has given."""

    def __init__(self) -> None:
        self.step = _JudgeWindowsDoFn(Settings())
        self.log, self.timers, self.expiry = Bag(), Timers(), Timers()
        self.rows: list[ReceiptRow] = []
        self.alerts: list[tuple[str, str, str, int, float | None]] = []

    def take(self, update: JudgeInput) -> None:
        assert self.step.process((KEY, update), self.log, self.timers) is None

    def judge(self, tag: int | str = DELAY) -> None:
        for output in self.step.on_judge(KEY, str(tag), self.log, self.expiry):
            if isinstance(output, ReceiptBatch):
                self.rows += output.rows
            elif output.tag != VERDICTS:
                assert isinstance(output, TaggedOutput)
                alert: Alert = output.value
                self.alerts.append(
                    (alert.entity_id, alert.alert_type, alert.status, alert.revision, alert.detail_value)
                )

    def expire(self) -> None:
        self.step.on_expire(self.log)


UPDATES = [
    JudgeInput([], ReceiptDue(END, DELAY, [MeterCount("T1", 2), MeterCount("T2", 2), MeterCount("SILENT", 5)])),
    JudgeInput([observation("T1", 0, 1, 200.0), observation("T2", 0, 2, 231.0)], None),
    JudgeInput([observation("T1", 1, 2, 199.0)], None),
    JudgeInput([observation("T2", 1, 2, 260.0, "F2")], None),
]


class TestJudgeWindows:
    def test_the_log_is_read_once_a_timer_and_never_when_something_arrives(self):
        window = Window()
        for update in UPDATES:
            window.take(update)
        assert window.log.reads == 0
        assert window.timers.due == {str(DELAY): END + DELAY}
        window.judge()
        assert window.log.reads == 1
        assert len(window.log.held) == 1
        assert {(row.transformer_id, row.receipt_rate_pct, row.feeder_id) for row in window.rows} == {
            ("T1", 100.0, "F1"), ("T2", 100.0, "F2"), ("SILENT", 0.0, None),
        }  # fmt: skip
        assert sorted(window.alerts) == [
            ("SILENT", "LOW_RECEIPT_RATE", "RAISED", 0, 0.0),
            ("T1", "LOW_VOLTAGE", "RAISED", 0, 200.0),
            ("T1", "LOW_VOLTAGE", "UPDATED", 1, 199.0),
            ("T2", "HIGH_VOLTAGE", "RAISED", 0, 260.0),
        ]

    @given(st.permutations(UPDATES), st.lists(st.booleans(), min_size=4, max_size=4))
    def test_the_end_does_not_depend_on_the_order_and_on_when_the_timer_fires(self, updates, fires):
        window = Window()
        for update, fire in zip(updates, fires, strict=True):
            window.take(update)
            if fire:
                window.judge()
        window.judge()
        rows = {}
        for row in window.rows:
            assert row.revision == (rows[row.transformer_id].revision + 1 if row.transformer_id in rows else 0)
            rows[row.transformer_id] = row
        assert {name: (row.receipt_rate_pct, row.feeder_id, row.as_of) for name, row in rows.items()} == {
            "T1": (100.0, "F1", END + 1), "T2": (100.0, "F2", END + 1), "SILENT": (0.0, None, END),
        }  # fmt: skip
        last = {(entity, kind): (status, value) for entity, kind, status, _, value in window.alerts}
        assert last.pop(("T1", "LOW_VOLTAGE")) in {("RAISED", 199.0), ("UPDATED", 199.0)}
        assert last.pop(("T2", "HIGH_VOLTAGE")) == ("RAISED", 260.0)
        assert last.pop(("SILENT", "LOW_RECEIPT_RATE")) == ("RAISED", 0.0)
        assert {status for status, _ in last.values()} <= {"CLEARED"}

    def test_a_timer_of_another_delay_judges_nobody(self):
        window = Window()
        window.take(UPDATES[0])
        window.judge(0)
        assert window.rows == []
        window.judge()
        assert len(window.rows) == 3

    def test_it_forgets_what_was_judged_and_only_that(self):
        window = Window()
        window.take(UPDATES[1])
        window.judge()
        window.expire()
        assert len(window.log.held) == 1  # the head-end is silent, its windows are not due yet
        window.take(UPDATES[0])
        window.expire()
        assert len(window.log.held) == 2  # a timer for what has come is on its way
        window.judge()
        assert len(window.rows) == 3
        window.expire()
        assert window.log.held == []

    def test_who_is_due_is_judged_although_the_end_of_the_window_comes_first(self):
        """The watermark jumps over both: the order of timers of different names is the runner's."""
        window, later = Window(), DELAY + 60 * MICROS_PER_MINUTE
        window.take(JudgeInput([], ReceiptDue(END, DELAY, [MeterCount("T1", 2)])))
        window.take(JudgeInput([], ReceiptDue(END, later, [MeterCount("SLOW", 2, receipt_delay=later)])))
        window.take(UPDATES[1])
        window.judge()
        assert {row.transformer_id for row in window.rows} == {"T1"}
        window.expire()
        window.expiry.due.clear()
        window.judge(later)
        assert {row.transformer_id for row in window.rows} == {"T1", "SLOW"}
        assert window.expiry.due != {}
        window.expire()
        assert window.log.held == []


class TestEventsOfSupply:
    def test_a_storm_does_not_put_off_what_is_made_of_its_first_events(self):
        locate, judge = Timers(), Timers()
        locates, judges = _LocateDoFn(Settings(live=True)), _EpisodesDoFn(Settings(live=True))
        for second in range(60):
            at = END + second * MICROS_PER_SECOND
            told = PowerEvent(f"M{second}", "T1", False, at, at)
            locates.process((0, PowerNews(None, [told])), Bag(), locate)
            judges.process((0, AlarmInput(0, [], events=[told])), Bag(), judge)
        for timers in (locate, judge):
            assert min(timers.due.values()) < END + 5 * MICROS_PER_SECOND
            assert max(timers.due.values()) == END + 59 * MICROS_PER_SECOND
            assert len(timers.due) <= 13

    def test_of_a_backlog_what_reads_said_is_there_when_the_events_of_their_time_come(self):
        """Windows of hours later are judged in the same look, and the events are a step behind."""
        step, log, places, timers = _EpisodesDoFn(Settings(live=True)), Bag(), Value(), Timers()
        delay = Settings().receipt_delay
        where = TransformerPlace("T1", "F1", 3, delay, END)
        dark = SupplyNote("T1", False, [], [], END + MICROS_PER_MINUTE)
        step.process((0, AlarmInput(END, [], delay, notes=pack_notes([dark]), places=[where])), log, timers)
        for hour in range(1, 30):
            step.process((0, AlarmInput(END + hour * MICROS_PER_HOUR, [], delay)), log, timers)
        first = [found for found in step.on_judge(Timestamp(micros=END + delay), log, places) if found[1].found]
        assert first == []
        for meter in ("M1", "M2"):
            told = PowerEvent(meter, "T1", False, END - 16 * MICROS_PER_MINUTE, END - 15 * MICROS_PER_MINUTE)
            step.process((0, AlarmInput(0, [], events=[told])), log, timers)
        ((_, group),) = step.on_judge(Timestamp(micros=END + delay + 1), log, places)
        ((alarm,),) = (found.alarms for found in group.found if found.alarms)
        # With the third, which could not say so, but was not heard.
        assert (alarm.alarm_type, alarm.meters_in_violation) == ("TRANSFORMER_OUTAGE", 3)


class TestAnnouncements:
    def test_each_has_effect_at_its_time_and_none_waits_for_the_newest(self):
        step, log, timers = _LatestDoFn(Settings(live=True)), Bag(), Timers()
        later = END + MICROS_PER_HOUR
        for name, at in (("O2", later), ("O1", END)):
            said = Announcement(
                "oms", name, "KNOWN", True, "FEEDER", "F1", None, END, END + 2 * MICROS_PER_HOUR, at, 0, 0, at
            )
            step.process((0, said), log, timers)
        assert sorted(timers.due.values()) == [END, later]
        for at, name in ((END, "O1"), (later, "O2")):
            (told,) = step.on_latest(Timestamp(micros=at), log, timers)
            assert [each.announcement_id for each in told.value[1].announced] == [name]


class TestSilentMeters:
    def test_news_that_go_on_coming_do_not_put_the_list_off(self):
        step, timers = _PublishDoFn(Settings(live=True)), Timers()
        for minute in range(60):
            at = END + minute * MICROS_PER_MINUTE
            step.process((0, DayStandings(END, [])), Timestamp(micros=at), Bag(), timers)
        assert min(timers.due.values()) < END + 2 * JUDGED_WITHIN
