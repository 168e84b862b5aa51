"""Alarms out of reads, on TestStream: with which evidence they open, end, and change when reads come late."""

from __future__ import annotations

import pytest

from ami_beam.instants import MICROS_PER_HOUR, format_instant
from ami_beam.records import Alarm, MeterCount
from tests.stream import HeadEnd, at, read_json

COUNTS = [MeterCount("T1", 4)]
WINDOWS = ["10:15", "10:30", "10:45", "11:00", "11:15", "11:30", "11:45", "12:00"]
# Behind the clock by months, late reads are gathered for up to half of --max_disorder.
NEXT_DAY = at("13:00") + 14 * MICROS_PER_HOUR
GOOD = [230.0] * 4
LOW = [230.0, 200.0, 198.5, 231.0]


def clock_after(end: str) -> str:
    return format_instant(at(end) + 60_000_000)[11:19]


def day(volts: list[list[float]], counts: list[MeterCount] | None = None, **fields) -> HeadEnd:
    """A window for each list, a meter for each voltage in it; in the windows that follow all is well."""
    head_end = HeadEnd(counts or COUNTS, live=fields.pop("live", True))
    for end, of_window in zip(WINDOWS, volts + [GOOD] * (len(WINDOWS) - len(volts)), strict=True):
        reads = [read_json(end=end, meter_id=f"M{n}", voltage_v=v, **fields) for n, v in enumerate(of_window)]
        head_end.reads(clock_after(end), *reads)
    return head_end


def life(alarms: list[Alarm]) -> list[tuple[str, int]]:
    return [(alarm.state, alarm.windows_in_violation) for alarm in alarms]


class TestVoltage:
    def test_it_opens_at_the_second_window_and_closes_at_the_second_that_is_clear(self):
        published = day([GOOD, LOW, LOW, GOOD, GOOD, GOOD]).until(NEXT_DAY).run()
        alarms = published.alarm("LOW_VOLTAGE", "10:30")
        assert life(alarms) == [("ACTIVE", 2), ("CLEARED", 2)]
        assert published.alarms == alarms
        last = alarms[-1]
        assert (last.entity_id, last.feeder_id, last.severity) == ("T1", "F1", "WARNING")
        assert (last.first_window, last.last_window) == (at("10:30"), at("10:45"))
        assert (last.worst_value, last.meters_in_violation, last.worst_meter_id) == (198.5, 2, "M2")
        assert last.as_of == at("11:15")
        # The alerts of the windows are as ever.
        assert published.life("LOW_VOLTAGE", "10:30") == [("RAISED", 198.5)]

    def test_one_window_is_none_and_the_deadband_does_not_end_one(self):
        assert day([GOOD, LOW, GOOD, LOW, GOOD]).until(NEXT_DAY).run().alarms == []
        band = [230.0, 208.0, 230.0, 230.0]
        published = day([LOW, LOW, band, band, band, band, band]).until(NEXT_DAY).run()
        assert life(published.alarm("LOW_VOLTAGE", "10:15")) == [("ACTIVE", 2)]

    def test_both_kinds_at_once(self):
        both = [200.0, 260.0, 255.0, 230.0]
        published = day([both, both]).until(NEXT_DAY).run()
        low, high = published.alarm("LOW_VOLTAGE", "10:15"), published.alarm("HIGH_VOLTAGE", "10:15")
        assert [(a.worst_value, a.meters_in_violation, a.worst_meter_id) for a in (low[0], high[0])] == [
            (200.0, 1, "M0"), (260.0, 2, "M1"),
        ]  # fmt: skip

    def test_nominal_voltage_of_the_transformer(self):
        counts = [MeterCount("T1", 4, nominal_voltage_v=218.0)]
        assert day([LOW, LOW], counts).until(NEXT_DAY).run().alarms == []

    def test_late_reads_lengthen_an_alarm_and_take_one_back(self):
        head_end = day([LOW, LOW, GOOD, GOOD, GOOD])
        head_end.reads("12:40", read_json(end="10:45", meter_id="M9", voltage_v=180.0))
        published = head_end.until(NEXT_DAY).run()
        alarms = published.alarm("LOW_VOLTAGE", "10:15")
        assert life(alarms) == [("ACTIVE", 2), ("CLEARED", 2), ("CLEARED", 3)]
        assert (alarms[-1].worst_value, alarms[-1].worst_meter_id) == (180.0, "M9")
        head_end = day([GOOD, LOW, LOW, GOOD, GOOD])
        again = {"end": "10:45", "read_ts": "2026-03-03T12:39:00Z", "voltage_v": 229.0}
        head_end.reads("12:40", *(read_json(meter_id=f"M{n}", **again) for n in (1, 2)))
        published = head_end.until(NEXT_DAY).run()
        assert life(published.alarm("LOW_VOLTAGE", "10:30")) == [("ACTIVE", 2), ("CLEARED", 2), ("CLEARED", 0)]

    def test_a_replay_publishes_the_end_only(self):
        head_end = day([GOOD, LOW, LOW], live=False)
        (alarm,) = head_end.until(NEXT_DAY).run().alarms
        assert (alarm.state, alarm.revision, alarm.windows_in_violation) == ("CLEARED", 0, 2)


class TestReceipt:
    def test_missing_meters_for_two_windows(self):
        published = day([GOOD, GOOD[:2], GOOD[:3], GOOD[:1], GOOD, GOOD]).until(NEXT_DAY).run()
        alarms = published.alarm("LOW_RECEIPT_RATE", "10:30")
        # 10:45: one of four is missing, which is no alarm; 11:00 alone is none.
        assert alarms == []
        published = day([GOOD, GOOD[:2], GOOD[:1], GOOD, GOOD, GOOD]).until(NEXT_DAY).run()
        (opened, closed) = published.alarm("LOW_RECEIPT_RATE", "10:30")
        assert (opened.state, closed.state, closed.worst_value, closed.meters_missing) == ("ACTIVE", "CLEARED", 25.0, 3)

    def test_one_silent_meter_of_three_is_no_alarm(self):
        head_end = day([[230.0] * 2] * 4, [MeterCount("T1", 3)])
        published = head_end.until(NEXT_DAY).run()
        assert published.alarms == []
        assert [status for status, _ in published.life("LOW_RECEIPT_RATE", "10:15")] == ["RAISED"]

    def test_estimates_are_not_heard(self):
        published = day([GOOD, GOOD], estimated_flag=True).until(NEXT_DAY).run()
        alarm = published.alarm("LOW_RECEIPT_RATE", "10:15")[-1]
        assert (alarm.state, alarm.worst_value, alarm.meters_missing) == ("ACTIVE", 0.0, 4)

    def test_a_silent_transformer_keeps_its_voltage_alarm(self):
        counts = [MeterCount("T1", 4), MeterCount("T2", 1)]
        head_end = HeadEnd(counts, live=True)
        for end, of_window in zip(WINDOWS, [LOW, LOW, [], [], [], [], [], []], strict=True):
            reads = [read_json(end=end, meter_id=f"M{n}", voltage_v=v) for n, v in enumerate(of_window)]
            head_end.reads(clock_after(end), *reads, read_json(end=end, meter_id="X", transformer_id="T2"))
        published = head_end.until(NEXT_DAY).run()
        assert life(published.alarm("LOW_VOLTAGE", "10:15")) == [("ACTIVE", 2)]
        assert life(published.alarm("LOW_RECEIPT_RATE", "10:45")) == [("ACTIVE", n) for n in (2, 3, 4, 5)]

    @pytest.mark.parametrize("delay", [5, 45])
    def test_the_transformer_s_own_receipt_delay(self, delay):
        counts = [MeterCount("T1", 4, receipt_delay=delay * 60_000_000)]
        published = day([GOOD[:1], GOOD[:1], GOOD, GOOD], counts).until(NEXT_DAY).run()
        alarms = published.alarm("LOW_RECEIPT_RATE", "10:15")
        assert [alarm.state for alarm in alarms] == ["ACTIVE", "CLEARED"]
