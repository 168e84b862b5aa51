"""Outages out of events and reads, on TestStream: when they begin, grow and are over, and what they explain."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_SECOND, format_instant
from ami_beam.records import Alarm, MeterCount
from tests.stream import HeadEnd, Published, at, read_json

WINDOWS = ["10:15", "10:30", "10:45", "11:00", "11:15", "11:30", "11:45", "12:00"]
NEXT_DAY = at("13:00") + 14 * MICROS_PER_HOUR
METERS = [f"M{number}" for number in range(10)]
COUNTS = [MeterCount("T1", 10), MeterCount("T2", 2)]
LAST_GASP, POWER_RESTORE = 3840, 3841


def clock_after(instant: int, seconds: int = 60) -> str:
    return format_instant(instant + seconds * MICROS_PER_SECOND)[11:19]


def event_json(meter_id: str, clock: str, code: int = LAST_GASP) -> bytes:
    return json.dumps({"meter_id": meter_id, "event_code": code, "event_ts": format_instant(at(clock))}).encode()


class Day:
    """A morning of a transformer T1 of ten meters, and T2 of two, both on one feeder; what is not said is well."""

    def __init__(self, counts: list[MeterCount] | None = None, live: bool = True):
        self._counts, self._live = counts or COUNTS, live
        self._dark: dict[str, set[str]] = {end: set() for end in WINDOWS}
        self._zero: dict[str, set[str]] = {end: set() for end in WINDOWS}
        self._events: list[tuple[int, bytes]] = []
        self._late: list[tuple[int, bytes]] = []
        self._told: list[tuple[int, int, bytes]] = []

    def dark(self, meters: list[str], *ends: str) -> Day:
        """No reads."""
        for end in ends:
            self._dark[end] |= set(meters)
        return self

    def zero(self, meters: list[str], *ends: str) -> Day:
        """Reads of no voltage."""
        for end in ends:
            self._zero[end] |= set(meters)
        return self

    def event(self, meters: list[str], clock: str, code: int = LAST_GASP, arrives: str | None = None) -> Day:
        for meter_id in meters:
            self._events.append((at(arrives or clock) + 5 * MICROS_PER_SECOND, event_json(meter_id, clock, code)))
        return self

    def late_read(self, arrives: str, **fields) -> Day:
        self._late.append((at(arrives), read_json(**fields)))
        return self

    def outage(self, arrives: str, begins: str, ends: str, **fields) -> Day:
        """The OMS says so."""
        said = {
            "outage_id": "O1", "kind": "PLANNED", "status": "ACTIVE", "entity_type": "TRANSFORMER", "entity_id": "T1",
            "from": format_instant(at(begins)), "to": format_instant(at(ends)), **fields,
        }  # fmt: skip
        self._told.append((at(arrives), 2, json.dumps(said).encode()))
        return self

    def work(self, arrives: str, begins: str, ends: str, **fields) -> Day:
        """There is work at a meter."""
        said = {
            "work_id": "W1", "kind": "EXCHANGE", "status": "ACTIVE", "meter_id": "N1",
            "from": format_instant(at(begins)), "to": format_instant(at(ends)), **fields,
        }  # fmt: skip
        self._told.append((at(arrives), 3, json.dumps(said).encode()))
        return self

    def run(self, backlog: bool = False, at_once: bool = False) -> Published:
        """`backlog`: all events are read before the first reads; `at_once`: and everything before time passes, with a
        day and a half behind it."""
        head_end = HeadEnd(self._counts, live=self._live)
        arrivals: list[tuple[int, int, bytes]] = [(when, 1, value) for when, value in self._events]
        if backlog:
            for when, _, value in arrivals:
                head_end.backlog_of_events(when, value)
            arrivals.clear()
        for end in WINDOWS:
            for transformer, meters in (("T1", METERS), ("T2", ["N0", "N1"])):
                for meter_id in meters:
                    if meter_id not in self._dark[end]:
                        volts = 0.0 if meter_id in self._zero[end] else 230.0
                        value = read_json(end=end, meter_id=meter_id, transformer_id=transformer, voltage_v=volts)
                        arrivals.append((at(end) + 60 * MICROS_PER_SECOND, 0, value))
        arrivals += [(when, 0, value) for when, value in self._late] + self._told
        if at_once:
            later = at("12:00") + 36 * MICROS_PER_HOUR
            moved = {
                "interval_start": format_instant(later - 900 * MICROS_PER_SECOND),
                "interval_end": format_instant(later),
            }
            for meter_id in METERS:
                arrivals.append((later + 60 * MICROS_PER_SECOND, 0, read_json(meter_id=meter_id, **moved)))
            for when, kind, value in sorted(arrivals):
                (head_end.backlog_of_reads, head_end.backlog_of_events)[kind](when, value)
            return head_end.until(later + 14 * MICROS_PER_HOUR).run()
        methods = head_end.reads, head_end.events, head_end.outages, head_end.work
        for when in sorted({when for when, _, _ in arrivals}):
            for kind, method in enumerate(methods):
                values = [value for at_time, of_kind, value in arrivals if (at_time, of_kind) == (when, kind)]
                if values:
                    method(when, *values)
        return head_end.until(NEXT_DAY).run()


def storm(**fields) -> Day:
    """Eight of ten meters lose supply at 10:32, six of which can say so; back at 11:17."""
    day = Day(**fields).dark(METERS[:8], "10:45", "11:00", "11:15")
    return day.event(METERS[:6], "10:32").event(METERS[:8], "11:17", POWER_RESTORE)


def outages(published: Published) -> list[Alarm]:
    """As they stand in the end, without those taken back."""
    last = {alarm.alarm_id: alarm for alarm in sorted(published.alarms, key=lambda alarm: alarm.revision)}
    return sorted(
        (alarm for alarm in last.values() if alarm.began_at is not None and alarm.windows_in_violation),
        key=lambda alarm: (alarm.began_at, alarm.entity_id),
    )


class TestTransformer:
    def test_it_begins_with_the_meters_words_and_is_over_with_them(self):
        published = storm().run()
        (alarm,) = outages(published)
        assert (alarm.alarm_type, alarm.entity_id, alarm.feeder_id) == ("TRANSFORMER_OUTAGE", "T1", "F1")
        assert (alarm.state, alarm.severity, alarm.momentary) == ("CLEARED", "CRITICAL", False)
        assert (alarm.began_at, alarm.ended_at) == (at("10:32"), at("11:17"))
        assert (alarm.meters_in_violation, alarm.meters_total, alarm.worst_value) == (6, 10, 60.0)
        assert (alarm.first_window, alarm.last_window) == (at("10:45"), at("11:30"))
        first = published.alarm("TRANSFORMER_OUTAGE", "10:45")[0]
        assert None not in {each.meter_counts_version for each in published.alarms}
        # Published when the meters said so, and not when their window was due.
        assert (first.state, first.as_of) == ("ACTIVE", at("10:32") + 5 * MICROS_PER_SECOND)

    def test_it_raises_no_receipt_alarm_of_its_own(self):
        published = storm().run()
        assert [alarm.alarm_type for alarm in published.alarms if alarm.windows_in_violation] == [
            "TRANSFORMER_OUTAGE"
        ] * len(published.alarms)
        assert published.life("LOW_RECEIPT_RATE", "11:00") == [("RAISED", 20.0)]
        (outage,) = outages(published)
        for end in ("10:45", "11:00", "11:15"):
            # At once, and explained.
            alert, copy = published.copies("LOW_RECEIPT_RATE", end)
            assert (alert.explained_by, copy.explained_by) == (None, outage.alarm_id)
            assert replace(copy, explained_by=None) == alert
        without_events = Day().dark(METERS[:8], "10:45", "11:00", "11:15").run()
        assert {alarm.alarm_type for alarm in without_events.alarms} == {"LOW_RECEIPT_RATE"}

    def test_it_is_over_when_reads_show_supply_where_no_meter_says_so(self):
        day = Day().dark(METERS[:8], "10:45", "11:00", "11:15").event(METERS[:6], "10:32")
        (alarm,) = outages(day.run())
        # 11:15 to 11:30 is the first whole interval with reads.
        assert (alarm.state, alarm.ended_at) == ("CLEARED", at("11:30"))

    def test_zero_volts_are_a_loss_and_join_those_that_were_told(self):
        day = Day().zero(METERS[:5], "10:45", "11:00")
        (alarm,) = outages(day.run())
        assert (alarm.began_at, alarm.ended_at, alarm.meters_in_violation) == (at("10:45"), at("11:15"), 5)
        day = Day().zero(METERS[:2], "10:45", "11:00").event(METERS[5:7], "10:32").dark(METERS[5:7], "10:45", "11:00")
        (alarm,) = outages(day.run())
        assert (alarm.began_at, alarm.meters_in_violation, alarm.worst_meter_id) == (at("10:32"), 4, "M0")

    def test_it_grows_while_it_lasts(self):
        day = storm().event(METERS[8:], "11:05").dark(METERS[8:], "11:15")
        published = day.run()
        (alarm,) = outages(published)
        # The two that could not say so are counted when no meter is shown to have supply.
        assert alarm.meters_in_violation == 10
        seen = [each.meters_in_violation for each in published.alarm("TRANSFORMER_OUTAGE", "10:45")]
        assert sorted(seen) == seen
        assert (seen[0], seen[-1], 8 in seen) == (6, 10, True)

    def test_single_customers(self):
        day = Day().event(["N1"], "10:32").dark(["N1"], "10:45", "11:00").event(["N1"], "11:02", POWER_RESTORE)
        (alarm,) = outages(day.run())
        assert (alarm.alarm_type, alarm.entity_id, alarm.severity) == ("SINGLE_OUTAGE", "T2", "WARNING")
        assert (alarm.began_at, alarm.ended_at, alarm.worst_value) == (at("10:32"), at("11:02"), 50.0)

    def test_an_event_that_is_an_hour_late_opens_none_and_one_that_is_not_revises(self):
        day = storm().event(METERS[6:7], "10:30", arrives="11:20").event(METERS[7:8], "10:30", arrives="11:31")
        (alarm,) = outages(day.run())
        assert (alarm.began_at, alarm.meters_in_violation) == (at("10:30"), 7)

    def test_late_reads_say_what_was_not_known(self):
        """No word of return, and reads that came late: it was over before."""
        day = Day().dark(METERS[:8], "10:45", "11:00", "11:15", "11:30").event(METERS[:6], "10:32")
        for meter_id in METERS[:8]:
            day.late_read("11:58", end="11:00", meter_id=meter_id)
        (alarm,) = outages(day.run())
        assert alarm.ended_at == at("11:00")

    def test_a_backlog_of_days_that_is_read_at_once_says_the_same(self):
        """Time passes only when all of it was read; the order in which Flink works then is in test_locate_events."""
        (alarm,) = outages(storm().run(backlog=True, at_once=True))
        assert (alarm.began_at, alarm.ended_at, alarm.meters_in_violation) == (at("10:32"), at("11:17"), 6)

    @pytest.mark.parametrize("live", [True, False])
    def test_a_replay_says_the_same(self, live):
        published = storm(live=live).run()
        (alarm,) = outages(published)
        assert (alarm.began_at, alarm.ended_at, alarm.meters_in_violation) == (at("10:32"), at("11:17"), 6)
        assert published.copies("LOW_RECEIPT_RATE", "11:00")[-1].explained_by == alarm.alarm_id


class TestFeeder:
    def test_outages_that_begin_together_are_one_of_the_feeder(self):
        day = storm().event(["N0", "N1"], "10:33").dark(["N0", "N1"], "10:45", "11:00")
        published = day.event(["N0", "N1"], "11:17", POWER_RESTORE).run()
        found = {alarm.alarm_type: alarm for alarm in outages(published)}
        feeder = found["FEEDER_OUTAGE"]
        assert (feeder.entity_id, feeder.state, feeder.meters_in_violation, feeder.meters_total) == (
            "F1", "CLEARED", 8, 12,
        )  # fmt: skip
        # Over when fewer than two transformers are out: T2's reads of 11:15 came.
        assert (feeder.began_at, feeder.ended_at) == (at("10:32"), at("11:15"))
        assert found["TRANSFORMER_OUTAGE"].cause == feeder.alarm_id
        assert found["SINGLE_OUTAGE"].cause == feeder.alarm_id
        assert len(found) == 3
        # The outmost alarm: the one that an operator sees.
        assert published.copies("LOW_RECEIPT_RATE", "11:00")[-1].explained_by == feeder.alarm_id

    def test_receipt_alarms_of_half_of_its_transformers_have_one_cause(self):
        silent = ("10:45", "11:00", "11:15")
        counts = [*COUNTS, MeterCount("T3", 1), MeterCount("T4", 1)]
        day = Day(counts).dark([*METERS, "N0", "N1"], *silent)
        for end in WINDOWS:
            day.late_read(clock_after(at(end)), end=end, meter_id="O", transformer_id="T3")
            day.late_read(clock_after(at(end)), end=end, meter_id="P", transformer_id="T4")
        published = day.run()
        last = {alarm.alarm_id: alarm for alarm in sorted(published.alarms, key=lambda alarm: alarm.revision)}
        by_place = {(alarm.alarm_type, alarm.entity_id): alarm for alarm in last.values()}
        assert set(by_place) == {("COMM_GROUP", "F1"), ("LOW_RECEIPT_RATE", "T1"), ("LOW_RECEIPT_RATE", "T2")}
        group = by_place["COMM_GROUP", "F1"]
        assert (group.first_window, group.last_window, group.state) == (at("10:45"), at("11:15"), "CLEARED")
        assert (group.meters_missing, group.windows_in_violation) == (12, 3)
        for transformer in ("T1", "T2"):
            mine = [alarm for alarm in published.alarms if alarm.entity_id == transformer]
            # From the first word on: no operator sees them without it.
            assert {alarm.cause for alarm in mine} == {group.alarm_id}
            for end in silent:
                said = [alert.explained_by for alert in published.copies("LOW_RECEIPT_RATE", end, transformer)]
                assert said == [None, group.alarm_id]


class TestAnnounced:
    @pytest.mark.parametrize("live", [True, False])
    def test_planned_ones_hold_and_work_does_not_count_and_records_stay(self, live):
        day = storm(live=live).outage("10:16", "10:30", "10:40").outage("10:17", "10:30", "10:40", outage_id="")
        # T2: an exchange, and at its feeder what is known from later on.
        day.work("10:16", "10:30", "10:40").event(["N1"], "10:32").dark(["N1"], "10:45")
        day.event(["N0"], "11:20").event(["N0"], "11:40", POWER_RESTORE)
        day.outage("11:45", "11:10", "11:40", outage_id="O2", kind="KNOWN", entity_type="FEEDER", entity_id="F1")
        published = day.run()
        transformer, single = outages(published)
        assert (transformer.entity_id, transformer.state, transformer.cause) == ("T1", "CLEARED", "oms:O1")
        assert (transformer.began_at, transformer.ended_at) == (at("10:32"), at("11:17"))
        assert (single.entity_id, single.began_at, single.cause) == ("T2", at("11:20"), "oms:O2")
        # Leeway, a window and the collection delay after 10:40.
        first = published.alarm("TRANSFORMER_OUTAGE", "10:45")[0]
        assert (first.state, first.cause) == ("ACTIVE" if live else "CLEARED", "oms:O1")
        seen = [each.cause for each in published.alarm("SINGLE_OUTAGE", "11:30", "T2")]
        assert (seen[0], seen[-1]) == (None if live else "oms:O2", "oms:O2")
        # The alerts and rows of the windows are as ever.
        assert published.life("LOW_RECEIPT_RATE", "11:00") == [("RAISED", 20.0)]
        assert published.receipt("10:45", "T2")[-1].meters_reported == 1
        (letter,) = published.dead_letters
        assert (letter.reason, letter.topic) == ("EMPTY_ID", "ami.oms.outages")

    @pytest.mark.parametrize("live", [True, False])
    def test_what_is_over_in_time_is_not_published_and_explains_alerts(self, live):
        published = storm(live=live).outage("10:16", "10:30", "11:15").run()
        assert published.alarms == []
        for end in ("10:45", "11:00", "11:15"):
            said = [alert.explained_by for alert in published.copies("LOW_RECEIPT_RATE", end)]
            # Once and at the end, where all of a replay is there at once; a stream may end in several steps.
            assert said == [None, "oms:O1"] or (said == ["oms:O1"] and not live)

    def test_of_a_backlog_events_wait_for_what_was_announced_before_them(self):
        published = storm().outage("10:31", "10:30", "11:15").run(backlog=True)
        assert published.alarms == []
        (alarm,) = outages(storm().run(backlog=True))
        assert (alarm.began_at, alarm.ended_at, alarm.cause) == (at("10:32"), at("11:17"), None)
