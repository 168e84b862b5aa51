"""Networks that collect every few hours: with a matching receipt delay no COMM alert is raised that is not true."""

from __future__ import annotations

import base64
import csv
import json
from functools import cache

import pytest

from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MILLI, MICROS_PER_MINUTE, parse_instant
from ami_beam.records import MeterCount
from tests.article_sql import read_meter_counts
from tests.replays import METER_COUNTS, READS, SIMBENCH, exported, needs_simbench
from tests.stream import HeadEnd, Published, at, read_json

pytestmark = needs_simbench

TRANSFORMERS = ("TR-LV1.104", "TR-LV4.110", "TR-LV1.130")
"""32 and 60 meters with hours of outages and slow reads, and a collector that never talks."""
FIRST, LAST = at("00:15"), at("12:00")
MARGIN = 20 * MICROS_PER_MINUTE
"""Beyond the batch period. A read that was heard d after its window's end is published with the next batch, so at most
d + period after it. In these 12 hours 80 % of a transformer's meters are heard within 14 minutes wherever they are
heard at all; late reads are then gathered for 10 seconds."""


@cache
def sent() -> list[tuple[int, bytes]]:
    """(record time, value) of the interval reads of these transformers and hours, in arrival order."""
    names = {f'"transformer_id":"{name}"'.encode() for name in TRANSFORMERS}
    found = []
    for line in exported(READS):
        value = base64.b64decode(line["value_b64"] or "")
        if any(name in value for name in names):
            try:
                end = parse_instant(json.loads(value)["interval_end"])
            except (ValueError, KeyError, TypeError):
                continue
            if FIRST <= end <= LAST:
                found.append((line["ts_ms"] * MICROS_PER_MILLI, value))
    return sorted(found, key=lambda record: record[0])


def collected_every(hours: int) -> list[tuple[int, list[bytes]]]:
    """The same reads as batches: each is published at the first whole `hours` after it was heard."""
    period = hours * MICROS_PER_HOUR
    collected: dict[int, list[bytes]] = {}
    for record_time, value in sent():
        collected.setdefault((record_time // period + 1) * period, []).append(value)
    return sorted(collected.items())


@cache
def run(hours: int, receipt_delay: int) -> Published:
    """A stream of those batches. DAILY reads show that the head-end was there before and is there afterwards."""
    counts = [MeterCount(name, meters) for name, meters in read_meter_counts(METER_COUNTS) if name in TRANSFORMERS]
    head_end = HeadEnd(counts, receipt_delay=receipt_delay)
    head_end.reads("00:10", read_json(read_type="DAILY", end="00:00"))
    batches = collected_every(hours)
    for record_time, values in batches:
        head_end.reads(record_time, *values)
    after = max(batches[-1][0], LAST + receipt_delay) + MICROS_PER_HOUR
    return head_end.reads(after, read_json(read_type="DAILY", end="12:00")).until(after + MICROS_PER_HOUR).run()


def lives(published: Published) -> dict[tuple[str, int], list[str]]:
    """The statuses of every COMM alert, in order."""
    found: dict[tuple[str, int], list[str]] = {}
    for alert in sorted(published.alerts, key=lambda alert: alert.revision):
        if alert.alert_source == "COMM":
            found.setdefault((alert.entity_id, alert.alert_time), []).append(alert.status)
    return found


def true_alerts() -> set[tuple[str, int]]:
    """What holds at the end, by the data set's own expected rows."""
    with (SIMBENCH / "expected_alerts.csv").open(newline="", encoding="utf-8") as lines:
        return {
            (row["transformer_id"], window_end)
            for row in csv.DictReader(lines)
            if row["alert_type"] == "LOW_RECEIPT_RATE"
            and row["transformer_id"] in TRANSFORMERS
            and (window_end := parse_instant(row["window_end"])) <= LAST
        }


@pytest.mark.parametrize("hours", [1, 4, 8])
class TestBatches:
    def test_with_a_matching_receipt_delay_every_alert_is_true(self, hours):
        published = run(hours, hours * MICROS_PER_HOUR + MARGIN)
        raised = lives(published)
        assert not [identity for identity, statuses in raised.items() if "CLEARED" in statuses]
        assert raised.keys() == true_alerts()
        assert len(raised) >= 48  # the silent collector's at least

    def test_with_the_default_delay_there_is_a_storm_of_false_ones(self, hours):
        """So the test above can fail: these windows are judged before their reads are published."""
        raised = lives(run(hours, 5 * MICROS_PER_MINUTE))
        cleared = {identity for identity, statuses in raised.items() if statuses[-1] == "CLEARED"}
        assert len(cleared) > 40
        assert raised.keys() - cleared == true_alerts()

    def test_summaries_do_not_wait_for_the_receipt_delay(self, hours):
        """Voltage and energy are published with the batch that brings them, whatever the receipt delay."""
        patient, eager = run(hours, hours * MICROS_PER_HOUR + MARGIN), run(hours, 5 * MICROS_PER_MINUTE)
        assert len(patient.summaries) >= 48
        assert sorted(map(repr, patient.summaries)) == sorted(map(repr, eager.summaries))
