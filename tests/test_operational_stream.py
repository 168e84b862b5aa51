"""What the pipeline publishes, when, and how it revises it: every case of time on TestStream."""

from __future__ import annotations

import pytest

from ami_beam.records import MeterCount
from tests.stream import HeadEnd, at, read_json


def two_reads(head_end: HeadEnd, clock: str = "10:16", **fields) -> HeadEnd:
    return head_end.reads(clock, read_json(**fields), read_json(meter_id="M2", **fields))


class TestOnTime:
    def test_a_window_is_published_once_after_the_collection_delay(self):
        published = two_reads(HeadEnd()).reads("10:25", read_json(end="10:30")).run()
        (row,) = published.summary("10:15")
        assert (row.meters_reported, row.total_consumption_kwh, row.revision) == (2, 2.0, 0)
        assert row.as_of == at("10:16")
        (receipt,) = published.receipt("10:15")
        assert (receipt.receipt_rate_pct, receipt.feeder_id) == (100.0, "F1")
        assert published.alerts == []

    def test_reads_before_the_delay_is_over_are_one_publication(self):
        head_end = HeadEnd().reads("10:16", read_json()).reads("10:19:59", read_json(meter_id="M2"))
        rows = head_end.until("10:30").run().summary("10:15")
        assert [(row.revision, row.meters_reported) for row in rows] == [(0, 2)]

    def test_nothing_is_published_twice_when_a_window_closes(self):
        published = two_reads(HeadEnd()).until("23:59").run()
        assert len(published.summaries) == len(published.summary("10:15")) == 1


class TestWindowBoundaries:
    @pytest.mark.parametrize(
        ("end", "closed", "window_end"),
        [
            ("10:15:00", "right", "10:15"),
            ("10:15:00.000001", "right", "10:30"),
            ("10:15:00.001", "right", "10:30"),
            ("10:14:59.999999", "right", "10:15"),
            ("10:07", "right", "10:15"),
            ("10:15:00", "left", "10:30"),
            ("10:14:59.999999", "left", "10:15"),
            ("10:15:00.000001", "left", "10:30"),
        ],
    )
    def test_interval_end_decides_in_microseconds(self, end, closed, window_end):
        published = HeadEnd(window_closed=closed).reads("10:16", read_json(end=end)).until("11:00").run()
        assert [row.window_end for row in published.summaries] == [at(window_end)]

    @pytest.mark.parametrize("delay", ["0s", "5m", "15m", "4h", "7m"])
    def test_the_collection_delay_moves_no_read_to_another_window(self, delay):
        head_end = HeadEnd(collection_delay=delay, receipt_delay=delay)
        published = two_reads(head_end).until("15:00").run()
        assert [(row.window_end, row.revision) for row in published.summaries] == [(at("10:15"), 0)] or delay == "0s"
        assert published.summaries[-1].meters_reported == 2


class TestLate:
    def test_a_late_read_revises_its_window(self):
        head_end = HeadEnd().reads("10:16", read_json()).until("10:21")
        rows = head_end.reads("10:40", read_json(meter_id="M2")).until("12:00").run().summary("10:15")
        assert [(row.revision, row.meters_reported) for row in rows] == [(0, 1), (1, 2)]
        assert rows[1].as_of == at("10:40")

    def test_late_reads_are_gathered(self):
        head_end = HeadEnd(late_gather="1m").reads("10:16", read_json()).until("10:21")
        for second in range(10, 50, 10):
            head_end.reads(f"10:40:{second}", read_json(meter_id=f"M{second}"))
        rows = head_end.until("12:00").run().summary("10:15")
        assert [(row.revision, row.meters_reported) for row in rows] == [(0, 1), (1, 5)]

    def test_a_first_read_after_the_on_time_result_still_makes_a_row(self):
        head_end = HeadEnd().reads("10:16", read_json(meter_id="M2", transformer_id="T2")).until("11:00")
        rows = head_end.reads("11:00", read_json()).until("12:00").run().summary("10:15")
        assert [(row.revision, row.meters_reported) for row in rows] == [(0, 1)]

    def test_the_last_read_within_the_lateness_counts_and_the_next_is_too_late(self):
        head_end = HeadEnd(allowed_lateness="1h").reads("10:16", read_json()).until("10:21")
        head_end.reads("11:15", read_json(meter_id="M2")).reads("11:15:00.001", read_json(meter_id="M3"))
        published = head_end.until("12:00").run()
        assert [row.meters_reported for row in published.summary("10:15")] == [1, 2]
        assert [letter.reason for letter in published.dead_letters] == ["TOO_LATE"]

    def test_an_exact_duplicate_changes_nothing(self):
        head_end = two_reads(HeadEnd()).until("10:21").reads("10:40", read_json(), read_json())
        published = head_end.until("12:00").run()
        assert [row.revision for row in published.summaries] == [0]
        assert [row.revision for row in published.receipts] == [0]

    def test_estimate_then_actual(self):
        head_end = HeadEnd().reads("10:16", read_json(estimated_flag=True, consumption_kwh=9.0, delivered_kwh=9.0))
        rows = head_end.until("10:30").reads("10:40", read_json()).until("12:00").run().summary("10:15")
        assert [(r.estimated_count, r.total_consumption_kwh) for r in rows] == [(1, 9.0), (0, 1.0)]

    def test_actual_then_stale_estimate(self):
        head_end = HeadEnd().reads("10:16", read_json()).until("10:30")
        head_end.reads("10:40", read_json(estimated_flag=True, consumption_kwh=9.0, delivered_kwh=9.0))
        rows = head_end.until("12:00").run().summary("10:15")
        assert [(r.estimated_count, r.total_consumption_kwh) for r in rows] == [(0, 1.0)]

    def test_an_estimate_counts_as_reported_but_not_as_actual(self):
        published = (
            HeadEnd()
            .reads("10:16", read_json(estimated_flag=True), read_json(meter_id="M2"))
            .reads("10:25", read_json(end="10:30"))
        )
        (receipt,) = published.run().receipt("10:15")
        assert (receipt.receipt_rate_pct, receipt.actual_meters_reported, receipt.actual_rate_pct) == (100.0, 1, 50.0)


class TestAlertLife:
    def test_a_late_read_clears_a_receipt_alert(self):
        head_end = HeadEnd().reads("10:16", read_json()).until("10:21")
        published = head_end.reads("10:40", read_json(meter_id="M2")).until("12:00").run()
        assert published.life("LOW_RECEIPT_RATE", "10:15") == [("RAISED", 50.0), ("CLEARED", 100.0)]

    def test_a_late_read_clears_a_voltage_alert_and_another_raises_it_again(self):
        head_end = two_reads(HeadEnd(), voltage_v=206.0).until("10:21")
        newer = {"read_ts": "2026-03-03T10:30:00Z"}
        head_end.reads("10:40", read_json(**newer), read_json(meter_id="M2", **newer)).until("10:50")
        newest = {"read_ts": "2026-03-03T10:45:00Z", "voltage_v": 205.5}
        head_end.reads("11:00", read_json(**newest)).until("11:10")
        head_end.reads("11:20", read_json(meter_id="M2", **{**newest, "voltage_v": 204.0}))
        published = head_end.until("12:00").run()
        assert published.life("LOW_VOLTAGE", "10:15") == [
            ("RAISED", 206.0), ("CLEARED", 230.0), ("RAISED", 205.5), ("UPDATED", 204.0)
        ]  # fmt: skip

    def test_both_voltage_alerts_may_hold_and_limits_are_no_violations(self):
        low_and_high = HeadEnd().reads("10:16", read_json(voltage_v=200.0), read_json(meter_id="M2", voltage_v=260.0))
        published = low_and_high.until("11:00").run()
        assert published.life("LOW_VOLTAGE", "10:15") == [("RAISED", 200.0)]
        assert published.life("HIGH_VOLTAGE", "10:15") == [("RAISED", 260.0)]
        limits = HeadEnd().reads("10:16", read_json(voltage_v=207.0), read_json(meter_id="M2", voltage_v=253.0))
        assert limits.until("11:00").run().alerts == []

    def test_the_transformers_own_nominal_voltage_counts(self):
        head_end = HeadEnd([MeterCount("T1", 2, nominal_voltage_v=240.0)])
        published = two_reads(head_end, voltage_v=215.0).until("11:00").run()
        assert published.life("LOW_VOLTAGE", "10:15") == [("RAISED", 215.0)]

    def test_a_revision_that_changes_no_alert_repeats_none(self):
        head_end = HeadEnd().reads("10:16", read_json(voltage_v=200.0)).until("10:21")
        head_end.reads("10:40", read_json(meter_id="M2", voltage_v=201.0)).until("12:00")
        assert head_end.run().life("LOW_VOLTAGE", "10:15") == [("RAISED", 200.0)]

    def test_the_rounded_rate_is_compared(self):
        counts = [MeterCount("T1", 10_000)]
        reads = [read_json(meter_id=f"M{number}") for number in range(7_995)]
        published = HeadEnd(counts).reads("10:16", *reads).reads("10:25", read_json(end="10:30")).run()
        assert published.receipt("10:15")[0].receipt_rate_pct == 80.0  # 79.95 is rounded half away from zero
        assert published.alerts == []


class TestSilence:
    COUNTS = (MeterCount("T1", 2), *(MeterCount(f"SILENT-{number}", 3) for number in range(20)))

    def test_silent_transformers_and_shards_have_rows_and_alerts(self):
        published = two_reads(HeadEnd(list(self.COUNTS))).reads("10:25", read_json(end="10:30")).until("11:00").run()
        silent = [row for row in published.receipts if row.transformer_id.startswith("SILENT")]
        assert {row.transformer_id for row in silent} == {f"SILENT-{number}" for number in range(20)}
        for row in silent:
            assert (row.window_end, row.receipt_rate_pct, row.feeder_id) == (at("10:15"), 0.0, None)
            assert row.as_of == row.window_end
        assert published.life("LOW_RECEIPT_RATE", "10:15", "SILENT-3") == [("RAISED", 0.0)]

    def test_a_gap_is_filled_when_reads_resume(self):
        head_end = two_reads(HeadEnd()).until("10:45").until("11:20")
        published = head_end.reads("11:21", read_json(end="11:15"), read_json(meter_id="M2", end="11:15")).until(
            "11:22"
        )
        rows = {row.window_end: row.receipt_rate_pct for row in published.run().receipts}
        assert rows == {at("10:15"): 100.0, at("10:30"): 0.0, at("10:45"): 0.0, at("11:00"): 0.0, at("11:15"): 100.0}

    def test_a_gap_longer_than_the_lateness_is_filled_too(self):
        head_end = two_reads(HeadEnd(allowed_lateness="30m")).until("13:00")
        published = two_reads(head_end, "13:01", end="13:00").until("13:10").run()
        assert len(published.receipts) == 11  # 10:15 has its own, 10:30 to 12:45 are silent; 13:00 is not due
        assert sum(row.receipt_rate_pct == 0.0 for row in published.receipts) == 10

    def test_silence_of_the_head_end_is_no_rows(self):
        published = two_reads(HeadEnd()).until("20:00").run()
        assert published.receipts == []  # no record has been read after 10:15 + the receipt delay

    def test_a_fast_clock_opens_no_rows(self):
        head_end = two_reads(HeadEnd()).reads("10:22", read_json(meter_id="M9", end="20:00"))
        published = head_end.until("23:00").run()
        assert {row.window_end for row in published.receipts} == {at("10:15")}

    def test_a_start_in_mid_window_judges_no_window_that_it_cannot_have_seen(self):
        head_end = HeadEnd().reads("10:21", read_json(end="10:15")).reads("10:22", read_json(end="10:30"))
        published = two_reads(head_end, "10:36", end="10:30").until("11:00").run()
        assert {row.window_end for row in published.receipts} == {at("10:30")}
        assert {row.window_end for row in published.summaries} == {at("10:15"), at("10:30")}

    def test_an_unregistered_transformer_has_a_summary_and_no_receipt(self):
        published = two_reads(HeadEnd([MeterCount("OTHER", 1)])).reads("10:30", read_json(end="10:30")).until("12:00")
        rows = published.run()
        assert rows.summary("10:15")
        assert rows.receipt("10:15") == []

    def test_a_rate_above_100_is_published(self):
        head_end = HeadEnd([MeterCount("T1", 1)])
        assert two_reads(head_end).reads("10:25").until("12:00").run().receipts == []
        head_end = two_reads(HeadEnd([MeterCount("T1", 1)])).reads("10:25", read_json(end="10:30"))
        assert head_end.until("12:00").run().receipt("10:15")[0].receipt_rate_pct == 200.0


class TestReceiptDelay:
    def test_the_row_waits_for_the_receipt_delay_and_the_summary_does_not(self):
        head_end = HeadEnd(receipt_delay="4h").reads("10:16", read_json()).until("10:25")
        head_end.reads("14:00", read_json(meter_id="M2")).until("14:10").reads("14:16", read_json(end="14:15"))
        published = head_end.until("18:00").run()
        assert [row.revision for row in published.summary("10:15")] == [0, 1]
        assert [(row.revision, row.receipt_rate_pct) for row in published.receipt("10:15")] == [(0, 100.0)]
        assert published.life("LOW_RECEIPT_RATE", "10:15") == []

    def test_a_transformer_may_have_its_own(self):
        counts = [MeterCount("T1", 2), MeterCount("T2", 1, receipt_delay=3600 * 1_000_000)]
        head_end = two_reads(HeadEnd(counts)).until("10:25").reads("10:50", read_json(end="10:45"))
        published = head_end.until("10:55").reads("11:16", read_json(end="11:15")).until("12:00").run()
        assert {row.window_end for row in published.receipts if row.transformer_id == "T2"} == {at("10:15")}
        assert at("10:30") in {row.window_end for row in published.receipts if row.transformer_id == "T1"}


class TestMeterCountVersions:
    def test_a_window_uses_the_count_valid_at_its_end(self):
        counts = [MeterCount("T1", 2), MeterCount("T1", 4, effective_from=at("10:30"))]
        head_end = two_reads(two_reads(HeadEnd(counts)), "10:31", end="10:30").reads("10:46", read_json(end="10:45"))
        rows = head_end.until("12:00").run().receipts
        assert {row.window_end: row.total_meters for row in rows} == {at("10:15"): 2, at("10:30"): 4}


class TestTopology:
    def test_two_reads_of_a_meter_in_a_window_count_it_once(self):
        head_end = HeadEnd().reads("10:16", read_json(end="10:05", minutes=5), read_json(end="10:10", minutes=5))
        (row,) = head_end.until("11:00").run().summary("10:15")
        assert (row.meters_reported, row.total_consumption_kwh) == (1, 2.0)

    def test_a_meter_that_moves_between_feeders(self):
        head_end = HeadEnd().reads("10:16", read_json(feeder_id="F1")).until("10:21")
        head_end.reads("10:40", read_json(feeder_id="F2", read_ts="2026-03-03T10:30:00Z")).until("12:00")
        published = head_end.run()
        old, new = published.summary("10:15", feeder="F1"), published.summary("10:15", feeder="F2")
        assert [(row.revision, row.meters_reported) for row in old] == [(0, 1), (1, 0)]
        assert (old[1].total_consumption_kwh, old[1].avg_voltage_v, old[1].as_of) == (0.0, None, at("10:40"))
        assert [(row.revision, row.meters_reported) for row in new] == [(0, 1)]

    def test_a_meter_that_moves_between_transformers_counts_for_both(self):
        counts = [MeterCount("T1", 1), MeterCount("T2", 1)]
        head_end = (
            HeadEnd(counts).reads("10:16", read_json()).until("10:21").reads("10:40", read_json(transformer_id="T2"))
        )
        published = head_end.until("12:00").run()
        assert [row.meters_reported for row in published.summary("10:15", "T1")] == [1]
        assert [row.meters_reported for row in published.summary("10:15", "T2")] == [1]
        assert published.life("LOW_RECEIPT_RATE", "10:15", "T2") == [("RAISED", 0.0), ("CLEARED", 100.0)]


class TestQuality:
    def test_an_implausible_voltage_is_rejected_and_the_read_is_used(self):
        head_end = HeadEnd().reads("10:16", read_json(voltage_v=0.0), read_json(meter_id="M2", voltage_v=401.0))
        published = head_end.until("11:00").run()
        (row,) = published.summary("10:15")
        assert (row.meters_reported, row.voltage_rejected_count, row.zero_voltage_count) == (2, 2, 1)
        assert row.avg_voltage_v is row.min_voltage_v is row.max_voltage_v is None
        assert [(letter.reason, letter.used) for letter in published.dead_letters] == [
            ("IMPLAUSIBLE_VOLTAGE", True)
        ] * 2  # fmt: skip

    def test_daily_and_event_reads_enter_no_statistics(self):
        head_end = HeadEnd().reads("10:16", read_json(read_type="DAILY"), read_json(read_type="EVENT"))
        published = head_end.until("11:00").run()
        assert published.summaries == published.dead_letters == []


@pytest.mark.parametrize("shards", [1, 7, 1024])
def test_results_do_not_depend_on_the_number_of_shards(shards):
    counts = [MeterCount(f"T{number}", 2) for number in range(30)]
    head_end = HeadEnd(counts, shards=shards)
    for clock in ("10:16", "10:31", "10:46"):
        end = f"{clock[:3]}{int(clock[3:]) - 1}"
        head_end.reads(clock, *(read_json(transformer_id=f"T{n}", end=end, voltage_v=200.0 + n) for n in range(25)))
    published = head_end.until("12:00").run()
    assert len(published.summaries) == 75
    assert len(published.receipts) == 60
    assert {(a.alert_type, a.entity_id) for a in published.alerts if a.alert_source == "VOLTAGE"} == {
        ("LOW_VOLTAGE", f"T{number}") for number in range(7)
    }
    assert sum(a.alert_source == "COMM" for a in published.alerts) == 60
