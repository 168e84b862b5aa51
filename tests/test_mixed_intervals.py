"""Meters with longer and shorter intervals than the window: the rule, the windows that come of it, SQL over a fleet."""

from __future__ import annotations

import base64
import json
import random
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ami_beam.beam_options import OptionError
from ami_beam.instants import MICROS_PER_MINUTE, format_instant, window_end_left_closed, window_end_right_closed
from ami_beam.long_reads import apportioned, first_window_ends
from ami_beam.options import validate
from ami_beam.read_columns import from_reads
from ami_beam.records import MeterCount, Read
from ami_beam.settings import Settings
from tests.article_sql import Article, Row
from tests.replays import READS_TOPIC, Replay, replay, write_export
from tests.stream import HeadEnd, at, read_json
from tests.test_article_sql import accepted, by

WINDOW = 15 * MICROS_PER_MINUTE
HOUR = 60 * MICROS_PER_MINUTE
NOON = 1_795_521_600_000_000


def read(start: int, end: int, window_end: int, **other) -> Read:
    fields = {
        "meter_id": "M1", "service_point_id": "S1", "transformer_id": "T1", "feeder_id": "F1", "read_type": "INTERVAL",
        "interval_start": start, "interval_end": end, "consumption_kwh": 1.0, "delivered_kwh": 1.5,
        "received_kwh": 0.5, "voltage_v": 230.0, "power_quality_code": 0, "estimated_flag": False, "read_ts": end,
        "window_end": window_end, "voltage_rejected": False, "zero_voltage": False, "record_time": end, "partition": 0,
        "offset": 0,
    }  # fmt: skip
    return Read(**(fields | other))


@st.composite
def reads(draw: st.DrawFn) -> list[Read]:
    closed = draw(st.sampled_from(["right", "left"]))
    of_instant = window_end_right_closed if closed == "right" else window_end_left_closed
    made = []
    for offset in range(draw(st.integers(0, 8))):
        minute = st.sampled_from([1, MICROS_PER_MINUTE, 5 * MICROS_PER_MINUTE])
        start = NOON + draw(st.integers(-10, 10)) * draw(minute)
        end = start + draw(st.sampled_from([1, 5, 10, 15, 16, 30, 45, 60, 61])) * draw(minute)
        kind = draw(st.sampled_from(["INTERVAL", "INTERVAL", "DAILY"]))
        kwh = draw(st.floats(-100, 100))
        window_end = int(of_instant(end, WINDOW))
        made.append(read(start, end, window_end, read_type=kind, consumption_kwh=kwh, offset=offset))
    return [replace(each, voltage_rejected=closed == "left") for each in made]


@given(reads())
def test_a_long_read_is_divided_among_the_windows_that_it_overlaps(given_reads: list[Read]) -> None:
    closed = "left" if any(each.voltage_rejected for each in given_reads) else "right"
    of_instant = window_end_right_closed if closed == "right" else window_end_left_closed
    settings = Settings(longest_interval=HOUR, window_closed=closed)
    columns = from_reads(given_reads)
    parts = defaultdict(list)
    for part in apportioned(columns, settings).reads():
        parts[part.offset].append(part)
    assert list(parts) == [each.offset for each in given_reads]
    firsts = first_window_ends(columns, settings).tolist()
    for whole, first in zip(given_reads, firsts, strict=True):
        found = parts[whole.offset]
        length = whole.interval_end - whole.interval_start
        assert first == min(part.window_end for part in found)
        if whole.read_type != "INTERVAL" or not WINDOW < length <= HOUR:
            assert found == [whole]
            continue
        # Without a gap, none across a window's end, each in the window of its own end, and with its share.
        assert [part.interval_start for part in found] == [whole.interval_start, *(p.interval_end for p in found[:-1])]
        assert found[-1].interval_end == whole.interval_end
        assert all(part.interval_start // WINDOW == (part.interval_end - 1) // WINDOW for part in found)
        for part in found:
            share = Fraction(part.interval_end - part.interval_start, length)
            assert part.consumption_kwh == pytest.approx(float(Fraction(whole.consumption_kwh) * share), rel=1e-12)
            assert part.apportioned
            assert part == replace(
                whole, interval_start=part.interval_start, interval_end=part.interval_end, apportioned=True,
                window_end=int(of_instant(part.interval_end, WINDOW)), consumption_kwh=part.consumption_kwh,
                delivered_kwh=part.delivered_kwh, received_kwh=part.received_kwh,
            )  # fmt: skip


def test_no_read_is_divided_unless_asked_for() -> None:
    columns = from_reads([read(NOON - HOUR, NOON, NOON)])
    assert apportioned(columns, Settings()) is columns
    assert not Settings(window=MICROS_PER_MINUTE).apportions


def hourly(meter: str, end: str, **fields) -> bytes:
    kwh = fields.pop("kwh", 4.0)
    return read_json(meter_id=meter, end=end, minutes=60, consumption_kwh=kwh, delivered_kwh=kwh, **fields)


class TestWindows:
    """One meter every quarter of an hour, one every hour; with the reads of the hour at 11:01."""

    def morning(self, *more: bytes) -> HeadEnd:
        head_end = HeadEnd([MeterCount("T1", 2)], longest_interval="60m", receipt_delay="50m")
        for minute in (15, 30, 45, 60):
            end = f"{10 + minute // 60}:{minute % 60:02}"
            head_end.reads(at(end) + MICROS_PER_MINUTE, read_json(end=end))
        return head_end.reads("11:02", hourly("M2", "11:00"), *more)

    def test_a_read_of_an_hour_counts_in_four_windows(self):
        published = self.morning().until("13:00").run()
        for end in ("10:15", "10:30", "10:45", "11:00"):
            row = published.summary(end)[-1]
            assert (row.meters_reported, row.apportioned_count, row.total_consumption_kwh) == (2, 1, 2.0)
            assert row.completeness_pct == 100.0
        # The first three were published without it before.
        assert [row.meters_reported for row in published.summary("10:15")] == [1, 2]
        assert [row.meters_reported for row in published.summary("11:00")] == [2]

    def test_receipt_waits_for_the_longest_interval(self):
        # A read of later, or nobody knows that this one was to be expected.
        published = self.morning().reads("12:01", read_json(end="12:00")).run()
        for end in ("10:15", "10:30", "10:45", "11:00"):
            assert [row.receipt_rate_pct for row in published.receipt(end)] == [100.0]
        assert {alert.window_end for alert in published.alerts if alert.status == "RAISED"} <= {at("11:15")}

    def test_a_resent_long_read_replaces_the_old_one_in_all_windows(self):
        resent = hourly("M2", "11:00", kwh=8.0, read_ts="2026-03-03T11:30:00Z")
        published = self.morning().reads("11:40", resent).until("13:00").run()
        assert [published.summary(end)[-1].total_consumption_kwh for end in ("10:15", "11:00")] == [3.0, 3.0]

    def test_a_long_read_and_a_short_one_of_the_same_time_count_once(self):
        # The meter was set to quarters at 10:45, and the head-end has filled the hour up, too.
        short = read_json(meter_id="M2", end="11:00", consumption_kwh=0.5, read_ts="2026-03-03T11:30:00Z")
        published = self.morning(short).until("13:00").run()
        row = published.summary("11:00")[-1]
        assert (row.meters_reported, row.total_consumption_kwh, row.apportioned_count) == (2, 1.5, 0)
        assert published.summary("10:45")[-1].total_consumption_kwh == 2.0

    def test_short_reads_add_up_with_completeness(self):
        five = [
            read_json(meter_id="M2", end=end, minutes=5, consumption_kwh=0.25) for end in ("10:05", "10:15", "10:10")
        ]
        head_end = HeadEnd().reads("10:16", read_json(), *five[:2])
        published = head_end.reads("12:01", five[2]).until("13:00").run()
        first, last = published.summary("10:15")
        # 15 + 10 of twice 15 minutes, then 15 + 15.
        assert (first.meters_reported, first.total_consumption_kwh, first.completeness_pct) == (2, 1.5, 83.3)
        assert (last.meters_reported, last.total_consumption_kwh, last.completeness_pct) == (2, 1.75, 100.0)
        assert first.apportioned_count == last.apportioned_count == 0

    def test_what_is_too_late_is_decided_by_the_end_of_the_read(self):
        # A day after 11:00, when the window until 10:15 has had its day.
        late = at("11:00") + 24 * HOUR - MICROS_PER_MINUTE
        published = self.morning().reads(late, hourly("M3", "11:00")).until(late + HOUR).run()
        assert not published.dead_letters
        assert [published.summary(end)[-1].meters_reported for end in ("10:15", "11:00")] == [3, 3]


class TestOption:
    def settings(self, *options: str) -> Settings:
        return validate(["--bootstrap_servers=b:1", *options])[0]

    @pytest.fixture(autouse=True)
    def counts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "transformer_meter_count.csv").write_text("transformer_id,total_meters\nT1,2\n")
        monkeypatch.chdir(tmp_path)

    def test_receipt_waits_longer_unless_said_otherwise(self):
        assert self.settings().receipt_delay == 5 * MICROS_PER_MINUTE
        assert self.settings("--longest_interval=60m").receipt_delay == 50 * MICROS_PER_MINUTE
        assert self.settings("--longest_interval=5m").receipt_delay == 5 * MICROS_PER_MINUTE
        assert self.settings("--longest_interval=60m", "--receipt_delay=4h").receipt_delay == 4 * HOUR

    def test_no_longer_than_reads_are_taken(self):
        with pytest.raises(OptionError, match="--longest_interval=25h: is longer than --allowed_lateness=1d"):
            self.settings("--longest_interval=25h")


# --- against SQL ---------------------------------------------------------------------------------------------------

PARTS = """
WITH cut AS (
  SELECT *, epoch_us(interval_end) - epoch_us(interval_start) AS length,
         CASE WHEN epoch_us(interval_end) - epoch_us(interval_start) BETWEEN 900000001 AND 3600000000
              THEN generate_series(time_bucket(INTERVAL '15' MINUTE, interval_start),
                                   interval_end - INTERVAL 1 MICROSECOND, INTERVAL '15' MINUTE)
              ELSE [NULL] END AS quarters
  FROM ami_interval_reads WHERE read_type = 'INTERVAL'
), parts AS (
  SELECT *, greatest(interval_start, quarter) AS part_start,
         least(interval_end, quarter + INTERVAL '15' MINUTE) AS part_end
  FROM (SELECT *, unnest(quarters) AS quarter FROM cut)
), counting AS (
  SELECT *, quarter IS NOT NULL AS apportioned,
         time_bucket(INTERVAL '15' MINUTE, part_end - INTERVAL 1 MICROSECOND) + INTERVAL '15' MINUTE AS window_end,
         (epoch_us(part_end) - epoch_us(part_start))::DOUBLE / length AS share,
         least(epoch_us(part_end) - epoch_us(part_start), 900000000) AS covered
  FROM parts
  QUALIFY row_number() OVER (
    PARTITION BY transformer_id, meter_id, part_end
    ORDER BY read_ts DESC, estimated_flag, record_time DESC, record_offset DESC) = 1
)
"""
SUMMARIES = (
    PARTS
    + """
SELECT transformer_id, feeder_id, window_end, round(sum(consumption_kwh * share), 6) AS total_consumption_kwh,
       round(sum(delivered_kwh * share), 6) AS total_delivered_kwh,
       round(sum(received_kwh * share), 6) AS total_received_kwh, count(DISTINCT meter_id) AS meters_reported,
       min(voltage_v) AS min_voltage_v, max(voltage_v) AS max_voltage_v,
       count(*) FILTER (estimated_flag) AS estimated_count, count(*) FILTER (apportioned) AS apportioned_count,
       round(sum(covered)::DECIMAL(24, 0) * 100 / (count(DISTINCT meter_id) * 900000000), 1)::DOUBLE AS completeness_pct
FROM counting GROUP BY ALL
"""
)
RECEIPTS = (
    PARTS
    + """
SELECT transformer_id, window_end, count(DISTINCT meter_id) AS meters_reported FROM counting GROUP BY ALL
"""
)
METERS, TRANSFORMERS, HOURS = 60, 6, 8
BEGIN = datetime(2026, 3, 3, 6, tzinfo=UTC)


def _fleet(randomly: random.Random) -> list[tuple[int, Row]]:
    """(record time in ms, read), by record time: meters of 5, 15, 30 and 60 minutes, and 60 that begin at 10 past."""
    sent = []
    for meter in range(METERS):
        # One transformer has only meters of the window's interval.
        lengths = [(15, 0)] if meter % TRANSFORMERS == 5 else [(5, 0), (15, 0), (15, 0), (30, 0), (60, 0), (60, 10)]
        minutes, offset = randomly.choice(lengths)
        step, begin = timedelta(minutes=minutes), BEGIN + timedelta(minutes=offset)
        while begin + step <= BEGIN + timedelta(hours=HOURS):
            end = begin + step
            received = round(randomly.random() / 3, randomly.choice([3, 6, 9])) if meter % 4 == 0 else 0.0
            delivered = round(randomly.random() * minutes / 7, 4)
            row = {
                "meter_id": f"M{meter:02}", "service_point_id": f"S{meter:02}", "customer_id": f"C{meter:02}",
                "transformer_id": f"T{meter % TRANSFORMERS}", "feeder_id": f"F{meter % 2}", "read_type": "INTERVAL",
                "interval_start": _text(begin), "interval_end": _text(end),
                "consumption_kwh": delivered - received, "delivered_kwh": delivered, "received_kwh": received,
                "voltage_v": randomly.choice([None, round(randomly.gauss(230, 9), 2)]), "power_quality_code": 0,
                "estimated_flag": randomly.random() < 0.1, "read_ts": _text(end + timedelta(seconds=20)),
            }  # fmt: skip
            begin = end
            if randomly.random() < 0.06:
                continue
            came = end + timedelta(seconds=randomly.randint(30, 200))
            if randomly.random() < 0.1:
                came += timedelta(minutes=randomly.randint(1, 600))
            sent.append((came, row))
            if randomly.random() < 0.08:
                later = came + timedelta(minutes=randomly.randint(0, 90))
                again = {"read_ts": _text(later), "delivered_kwh": delivered + 1, "consumption_kwh": delivered + 1}
                sent.append((later, row | (again | {"received_kwh": 0.0} if randomly.random() < 0.7 else {})))
    # What is exactly too late, and at the end a read that lets all windows be judged.
    sent.append((BEGIN + timedelta(hours=40), {**sent[0][1], "meter_id": "M99", "transformer_id": "T9"}))
    return sorted(((round(came.timestamp() * 1000), row) for came, row in sent), key=lambda each: each[0])


def _text(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


@dataclass(frozen=True)
class Fleet:
    replay: Replay
    sql: Article


@cache
def fleet() -> Fleet:
    with TemporaryDirectory(prefix="ami-beam-mixed-") as folder:
        rows = _fleet(random.Random(20260303))
        export = write_export(
            Path(folder) / "reads.jsonl.gz",
            (
                {
                    "ts_ms": at_ms,
                    "key": row["meter_id"],
                    "value_b64": base64.b64encode(json.dumps(row).encode()).decode(),
                }
                for at_ms, row in rows
            ),
        )
        events = write_export(Path(folder) / "events.jsonl", [])
        counts = Path(folder) / "counts.csv"
        of_each = METERS // TRANSFORMERS
        lines = ["transformer_id,total_meters", *(f"T{each},{of_each}" for each in range(TRANSFORMERS))]
        counts.write_text("\n".join(lines) + "\n")
        done = replay("--longest_interval=60m", reads=export, events=events, meter_counts=counts)
        totals = [(f"T{each}", of_each) for each in range(TRANSFORMERS)]
        return Fleet(done, Article(accepted(done, READS_TOPIC, export), [], totals, right_closed=True))


def test_summaries_are_what_sql_gives() -> None:
    theirs = by(fleet().sql.query(SUMMARIES), "transformer_id", "feeder_id", "window_end")
    ours = by(fleet().replay.rows("ami.transformer.summary"), "transformer_id", "feeder_id", "window_end")
    assert ours.keys() == theirs.keys()
    energies = ("total_consumption_kwh", "total_delivered_kwh", "total_received_kwh")
    for key, expected in theirs.items():
        for name in energies:
            # DuckDB adds doubles one after the other: a last digit can fall on the other side.
            assert ours[key][name] == pytest.approx(expected.pop(name), abs=1.1e-6)
        assert {name: ours[key][name] for name in expected} == expected
    counts = {row["apportioned_count"] > 0 for row in theirs.values()}
    complete = {row["completeness_pct"] == 100 for row in theirs.values()}
    assert counts == complete == {True, False}


def test_receipts_are_what_sql_gives() -> None:
    theirs = by(fleet().sql.query(RECEIPTS), "transformer_id", "window_end")
    ours = by(fleet().replay.rows("ami.transformer.receipt"), "transformer_id", "window_end")
    judged = {key: row for key, row in ours.items() if row["meters_reported"]}
    assert {key: row["meters_reported"] for key, row in judged.items()} == {
        key: row["meters_reported"] for key, row in theirs.items() if key in ours
    }
    # From the first window that a read counts in; all of them but those before its collection delay.
    assert min(end for _, end in ours) == format_instant(round(BEGIN.timestamp()) * 1_000_000 + WINDOW)
    assert len(judged) >= TRANSFORMERS * HOURS * 4


def test_what_is_split_is_counted() -> None:
    counters = fleet().replay.counters()
    assert 0 < counters["apportioned_reads"] < counters["accepted_reads"]
