"""The pipeline against the article's own SQL over the same records: the same rows, and each deviation on purpose.

The SQL, word for word, is in `article_sql`. The day of simbench-small is compared as a whole; what the article does
otherwise is shown on a few records each.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest

from ami_beam.codecs.json_outputs import alert_json, receipt_json, summary_json
from ami_beam.instants import MICROS_PER_MILLI
from ami_beam.records import MeterCount, RecordBatch
from ami_beam.settings import Settings
from tests.article_sql import Article, Row, read_meter_counts
from tests.replays import (
    EVENTS,
    EVENTS_TOPIC,
    METER_COUNTS,
    READS,
    READS_TOPIC,
    Replay,
    default_replay,
    exported,
    left_closed_replay,
    needs_simbench,
)
from tests.stream import at, read_json, run_pipeline

SUMMARY, RECEIPT = "ami.transformer.summary", "ami.transformer.receipt"
GRID_ALERTS, EVENT_ALERTS = "ami.alerts.grid", "ami.alerts.events"
STANDARD_NAMES = {
    3840: "LAST_GASP", 3841: "POWER_RESTORE", 3842: "OUTAGE_DETECTED",
    2048: "TAMPER_DETECTED", 2049: "REVERSE_ENERGY", 1024: "POWER_QUALITY",
}  # fmt: skip


def accepted(replay: Replay, topic: str, export: Path | None = None) -> list[Row]:
    """What the replay of an export did not set aside, read by Python's own parser; implausible voltages are taken out.

    Without an `export` it is that of simbench-small.
    """
    letters = [row for row in replay.rows("ami.deadletter") if row["topic"] == topic]
    set_aside = {row["offset"] for row in letters if not row["used"]}
    without_voltage = {row["offset"] for row in letters if row["used"]}
    rows = []
    for offset, line in enumerate(exported(export or (READS if topic == READS_TOPIC else EVENTS))):
        if offset not in set_aside:
            row = json.loads(base64.b64decode(line["value_b64"]))
            row |= {"record_time": line["ts_ms"] * MICROS_PER_MILLI, "record_offset": offset}
            rows.append(row | {"voltage_v": None} if offset in without_voltage else row)
    return rows


@cache
def article_over_simbench(right_closed: bool = False) -> Article:
    replay = default_replay() if right_closed else left_closed_replay()
    return Article(
        accepted(replay, READS_TOPIC),
        accepted(replay, EVENTS_TOPIC),
        read_meter_counts(METER_COUNTS),
        right_closed=right_closed,
    )


def by(rows: list[Row], *names: str) -> dict[tuple, Row]:
    found = {tuple(row[name] for name in names): row for row in rows}
    assert len(found) == len(rows)
    return found


def same_summaries(ours: list[Row], theirs: list[Row]) -> None:
    identity = ("transformer_id", "feeder_id", "window_start", "window_end")
    here, there = by(ours, *identity), by(theirs, *identity)
    assert here.keys() == there.keys()
    for key, row in there.items():
        for name, value in row.items():
            # Ours are exact sums rounded to 6 decimals, DuckDB adds floats
            near = pytest.approx(value, abs=1e-6) if name in ("total_consumption_kwh", "avg_voltage_v") else value
            assert here[key][name] == near, (key, name)


@needs_simbench
class TestSameRows:
    def test_summaries(self):
        theirs = article_over_simbench().rows("transformer_summary")
        assert len(theirs) > 900
        same_summaries(left_closed_replay().rows(SUMMARY), theirs)

    def test_receipt_rates(self):
        ours = by(left_closed_replay().rows(RECEIPT), "transformer_id", "window_end")
        theirs = by(article_over_simbench().rows("read_receipt_rate"), "transformer_id", "window_end")
        assert len(theirs) > 900
        for key, row in theirs.items():
            assert {name: ours[key][name] for name in row} == row
        # what the article has no row for: nothing was heard
        silent = [row for key, row in ours.items() if key not in theirs]
        assert len(silent) > 90
        assert {(row["meters_reported"], row["receipt_rate_pct"], row["feeder_id"]) for row in silent} == {
            (0, 0.0, None)
        }

    def test_receipt_alerts(self):
        ours, theirs = self._alerts("COMM")
        spoken = {key for key, row in ours.items() if row["detail_value"] > 0}
        assert spoken == theirs.keys()
        assert len(ours) > len(theirs) > 10
        for key, row in theirs.items():
            assert {name: ours[key][name] for name in row} == row

    def test_voltage_alerts(self):
        ours, theirs = self._alerts("VOLTAGE")
        extremes = by(article_over_simbench().rows("transformer_summary"), "transformer_id", "window_end")
        assert ours.keys() == theirs.keys()
        assert len(ours) >= 2
        for key, row in theirs.items():
            alert, extreme = ours[key], extremes[row["entity_id"], row["alert_time"]]
            low = alert["alert_type"] == "LOW_VOLTAGE"
            assert alert["detail_value"] == extreme["min_voltage_v" if low else "max_voltage_v"]
            assert row["detail_value"] == extreme["min_voltage_v"]  # COALESCE, also for HIGH_VOLTAGE
            assert alert["severity"] == row["severity"]

    def test_event_alerts(self):
        identity = ("entity_id", "detail_value", "alert_time")
        ours = by(left_closed_replay().rows(EVENT_ALERTS), *identity)
        first: dict[tuple, Row] = {}
        copies = 0
        for row in article_over_simbench().rows("ami_operational_alerts"):  # in the order of the records
            if row["alert_source"] == "EVENT":
                copies += 1
                first.setdefault(tuple(row[name] for name in identity), row)
        assert copies > len(first) > 400
        assert ours.keys() == first.keys()
        for key, row in first.items():
            named = row | {"alert_type": row["alert_type"] or STANDARD_NAMES[int(row["detail_value"])]}
            assert {name: ours[key][name] for name in named} == named

    def test_our_default_is_the_article_with_right_closed_windows(self):
        theirs = article_over_simbench(right_closed=True).rows("transformer_summary")
        same_summaries(default_replay().rows(SUMMARY), theirs)

    @staticmethod
    def _alerts(source: str) -> tuple[dict[tuple, Row], dict[tuple, Row]]:
        identity = ("entity_id", "alert_type", "alert_time")
        ours = left_closed_replay().rows(GRID_ALERTS)
        theirs = article_over_simbench().rows("ami_operational_alerts")
        here = by([row for row in ours if row["alert_source"] == source], *identity)
        return here, by([row for row in theirs if row["alert_source"] == source], *identity)


def run(
    reads: list[bytes], events: Sequence[bytes] = (), total_meters: int = 2, **settings: Any
) -> tuple[dict[str, list[Row]], Article]:
    """The pipeline with the article's windows, and the article without any rule of ours, over the same records."""
    settings = {"window_closed": "left", "shards": 7, **settings}
    # T2 brings the reading so far that the windows of T1 are judged.
    reads = [*reads, read_json(transformer_id="T2", end="12:00")]
    times = [at("10:16")] * (len(reads) - 1) + [at("12:01")]
    sources = [
        beam.Create(
            [RecordBatch(topic, [0] * len(values), list(range(len(values))), arrivals, list(values))], reshuffle=False
        ).with_output_types(RecordBatch)
        for topic, values, arrivals in (
            (READS_TOPIC, reads, times),
            (EVENTS_TOPIC, events, [at("10:16")] * len(events)),
        )
    ]
    counts = [MeterCount("T1", total_meters)]
    published = run_pipeline(sources[0], counts, Settings(**settings), runner="FnApiRunner", events=sources[1])
    ours = {
        SUMMARY: [json.loads(summary_json(row)) for row in published.summaries if row.transformer_id == "T1"],
        RECEIPT: [json.loads(receipt_json(row)) for row in published.receipts],
        # without those of windows in which T1 is silent, which the article has not
        "alerts": [json.loads(alert_json(row)) for row in published.alerts if row.detail_value],
        "letters": [{"reason": letter.reason, "used": letter.used} for letter in published.dead_letters],
    }
    sent = [
        json.loads(value) | {"record_time": time, "record_offset": offset}
        for offset, (value, time) in enumerate(zip(reads[:-1], times, strict=False))
    ]
    theirs = Article(sent, [json.loads(event) for event in events], [("T1", total_meters)], winners=False)
    return ours, theirs


def event_json(**fields: Any) -> bytes:
    row = {"meter_id": "M1", "event_code": 2048, "event_desc": "TAMPER", "event_ts": "2026-03-03T10:14:00Z", **fields}
    return json.dumps(row).encode()


TWO_METERS = [read_json(), read_json(meter_id="M2")]


class TestDeviations:
    def test_windows_are_right_closed(self):
        """A read of 10:00 to 10:15 belongs to 10:00–10:15; TUMBLE puts it into 10:15–10:30."""
        ours, theirs = run(TWO_METERS, window_closed="right")
        assert [row["window_end"] for row in ours[SUMMARY]] == ["2026-03-03T10:15:00Z"]
        assert [row["window_end"] for row in theirs.rows("transformer_summary")] == ["2026-03-03T10:30:00Z"]

    def test_silent_windows_have_receipt_rows(self):
        ours, theirs = run(TWO_METERS)
        assert [row["receipt_rate_pct"] for row in theirs.rows("read_receipt_rate")] == [100.0]
        rates = {row["window_end"][11:16]: row["receipt_rate_pct"] for row in ours[RECEIPT]}
        assert rates == {"10:30": 100.0} | dict.fromkeys(["10:45", "11:00", "11:15", "11:30", "11:45"], 0.0)

    def test_both_voltage_alerts_may_hold(self):
        """The article's CASE hides the second."""
        ours, theirs = run([read_json(voltage_v=200.0), read_json(meter_id="M2", voltage_v=260.0)])
        here = {(row["alert_type"], row["detail_value"]) for row in ours["alerts"]}
        there = {(row["alert_type"], row["detail_value"]) for row in theirs.rows("ami_operational_alerts")}
        assert (here, there) == ({("LOW_VOLTAGE", 200.0), ("HIGH_VOLTAGE", 260.0)}, {("LOW_VOLTAGE", 200.0)})

    def test_a_high_voltage_alert_shows_the_maximum(self):
        """The article's COALESCE shows the minimum, which no one has to worry about."""
        ours, theirs = run([read_json(voltage_v=230.0), read_json(meter_id="M2", voltage_v=260.0)])
        here = {(row["alert_type"], row["detail_value"]) for row in ours["alerts"]}
        there = {(row["alert_type"], row["detail_value"]) for row in theirs.rows("ami_operational_alerts")}
        assert (here, there) == ({("HIGH_VOLTAGE", 260.0)}, {("HIGH_VOLTAGE", 230.0)})

    def test_alerts_carry_a_lifecycle_besides_the_articles_six_columns(self):
        ours, theirs = run([read_json(voltage_v=200.0), read_json(meter_id="M2")])
        (alert,), (row,) = ours["alerts"], theirs.rows("ami_operational_alerts")
        assert {name: alert[name] for name in row} == row
        assert set(alert) - set(row) == {
            "alert_id", "status", "revision", "as_of", "window_start", "window_end", "feeder_id", "explained_by",
            "event_type", "event_code", "config_id", "meter_counts_version", "late",
        }  # fmt: skip
        assert (alert["status"], alert["revision"], alert["as_of"]) == ("RAISED", 0, "2026-03-03T10:16:00Z")

    def test_an_event_without_a_description_has_its_standard_name(self):
        events = [event_json(event_code=code, event_desc=None) for code in STANDARD_NAMES]
        ours, theirs = run(TWO_METERS, events)
        assert {row["alert_type"] for row in theirs.rows("ami_operational_alerts")} == {None}
        assert {row["detail_value"]: row["alert_type"] for row in ours["alerts"]} == STANDARD_NAMES

    def test_a_resent_event_is_one_alert(self):
        """Compared as an instant: the second is the first in another zone."""
        events = [event_json(), event_json(event_ts="2026-03-03T11:14:00+01:00"), event_json(meter_id="M2")]
        ours, theirs = run(TWO_METERS, events)
        assert sorted(row["entity_id"] for row in ours["alerts"]) == ["M1", "M2"]
        assert sorted(row["entity_id"] for row in theirs.rows("ami_operational_alerts")) == ["M1", "M1", "M2"]

    def test_implausible_voltages_are_null(self):
        """A meter that reports 0 V communicates, and is no low voltage."""
        ours, theirs = run([read_json(voltage_v=0.0), read_json(meter_id="M2")])
        assert [row["alert_type"] for row in theirs.rows("ami_operational_alerts")] == ["LOW_VOLTAGE"]
        assert ours["alerts"] == []
        (row,) = ours[SUMMARY]
        assert (row["meters_reported"], row["min_voltage_v"], row["voltage_rejected_count"]) == (2, 230.0, 1)
        assert ours["letters"] == [{"reason": "IMPLAUSIBLE_VOLTAGE", "used": True}]

    def test_impossible_consumption_is_set_aside(self):
        spike = read_json(meter_id="M2", consumption_kwh=5000.0, delivered_kwh=5000.0)
        ours, theirs = run([read_json(), spike])
        assert [row["total_consumption_kwh"] for row in theirs.rows("transformer_summary")] == [5001.0]
        assert [row["total_consumption_kwh"] for row in ours[SUMMARY]] == [1.0]
        assert ours["letters"] == [{"reason": "IMPLAUSIBLE_CONSUMPTION", "used": False}]

    def test_resent_reads_replace(self):
        """The article adds an estimate, the actual read that replaces it and its duplicate."""
        estimate = read_json(estimated_flag=True, read_ts="2026-03-03T10:15:01Z")
        ours, theirs = run([estimate, read_json(), read_json()])
        (here,), (there,) = ours[SUMMARY], theirs.rows("transformer_summary")
        assert (there["total_consumption_kwh"], there["estimated_count"], there["meters_reported"]) == (3.0, 1, 1)
        assert (here["total_consumption_kwh"], here["estimated_count"], here["meters_reported"]) == (1.0, 0, 1)

    def test_the_rate_is_the_transformers_and_not_its_feeders(self):
        """The article joins per (transformer, feeder), so a topology change looks like a loss of communication."""
        ours, theirs = run([read_json(), read_json(meter_id="M2", feeder_id="F2")])
        assert [row["receipt_rate_pct"] for row in theirs.rows("read_receipt_rate")] == [50.0, 50.0]
        assert ours[RECEIPT][0]["receipt_rate_pct"] == 100.0
        assert ours["alerts"] == []
