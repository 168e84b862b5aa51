"""Validated reads, days of meters and consumption of customers against SQL over the same records.

Over simbench-small, and over weeks of a generated network in a zone with a day of 25 hours and one with a day of 23:
several meters a customer, estimates that are replaced, resent and late reads up to 40 days, registers of days.
"""

from __future__ import annotations

import base64
import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from zoneinfo import ZoneInfo

import pytest

from tests.article_sql import Article, Row
from tests.replays import READS_TOPIC, Replay, everything, needs_simbench, replay, write_export
from tests.test_article_sql import accepted, by

OPTIONS = ("--also_publish=validated_reads,customer_consumption", "--customer_id=keep")
VALIDATED, CUSTOMERS = "ami.reads.validated", "ami.customer.consumption"
STEP = timedelta(minutes=15)


@dataclass(frozen=True)
class Weeks:
    """A replay, and all versions of its reads in SQL, with the days of its zone."""

    replay: Replay
    sql: Article

    def ours(self, topic: str, kind: str, value: str) -> list[Row]:
        rows = [row for row in self.replay.rows(topic) if row.pop(kind) == value]
        assert rows
        assert {row.pop("revision") for row in rows} == {0}
        return rows


# What counts of each interval, and the day that it begins on.
COUNTING = """
WITH versions AS (
  SELECT *, count(DISTINCT struct_pack(a := estimated_flag, b := consumption_kwh, c := delivered_kwh,
                                       d := received_kwh)) OVER (PARTITION BY meter_id, interval_end) > 1 AS revised
  FROM ami_interval_reads WHERE read_type = 'INTERVAL'
), firsts AS (
  SELECT * FROM versions
  QUALIFY row_number() OVER (
    PARTITION BY meter_id, interval_end, read_ts, estimated_flag, service_point_id, customer_id, transformer_id,
                 interval_start, consumption_kwh, delivered_kwh, received_kwh
    ORDER BY record_time, record_offset) = 1
), intervals AS (
  SELECT *, time_bucket(INTERVAL '15' MINUTE, interval_end - INTERVAL 1 MICROSECOND) + INTERVAL '20' MINUTE AS due
  FROM firsts
  QUALIFY row_number() OVER (
    PARTITION BY meter_id, interval_end
    ORDER BY read_ts DESC, estimated_flag, record_time DESC, record_offset DESC) = 1
), counting AS (
  SELECT i.*, d.day, d.begins, d.over FROM intervals i JOIN days d ON interval_start >= begins AND interval_start < over
)
"""
READS = (
    COUNTING
    + """
SELECT meter_id, service_point_id, customer_id, transformer_id, interval_start, interval_end, consumption_kwh,
       delivered_kwh, received_kwh, CASE WHEN estimated_flag THEN 'ESTIMATED' ELSE 'ACTUAL' END AS quality,
       make_timestamp(record_time) >= due AS late, revised, read_ts, make_timestamp(record_time) AS as_of
FROM counting
"""
)
METER_DAYS = (
    COUNTING
    + """
, registers AS (
  SELECT meter_id, day, consumption_kwh AS register_kwh, record_time
  FROM ami_interval_reads JOIN days ON interval_start >= begins AND interval_start < over
  WHERE read_type = 'DAILY'
  QUALIFY row_number() OVER (
    PARTITION BY meter_id, day ORDER BY interval_end DESC, read_ts DESC, estimated_flag, record_time DESC) = 1
), numbered AS (
  SELECT *, row_number() OVER (PARTITION BY meter_id, day ORDER BY consumption_kwh DESC) AS place,
         coalesce(max(interval_end) OVER before, begins) AS covered,
         row_number() OVER (PARTITION BY meter_id, day ORDER BY interval_start) - row_number() OVER (
           PARTITION BY meter_id, day, consumption_kwh = 0 AND delivered_kwh = 0 AND received_kwh = 0
           ORDER BY interval_start) AS run
  FROM counting
  WINDOW before AS (PARTITION BY meter_id, day ORDER BY interval_start ROWS UNBOUNDED PRECEDING EXCLUDE CURRENT ROW)
), thirds AS (
  SELECT meter_id, day, consumption_kwh AS third FROM numbered WHERE place = 3
), runs AS (
  SELECT meter_id, day, count(*) AS length FROM numbered
  WHERE consumption_kwh = 0 AND delivered_kwh = 0 AND received_kwh = 0 GROUP BY meter_id, day, run
), longest AS (
  SELECT meter_id, day, max(length) AS longest_zero_run FROM runs GROUP BY 1, 2
)
SELECT n.meter_id, n.day, date_diff('minute', min(begins), min(over)) / 15 AS intervals_expected,
       count(*) AS intervals_reported, count(*) FILTER (estimated_flag) AS intervals_estimated,
       round(sum(consumption_kwh), 6) AS consumption_kwh, round(sum(delivered_kwh), 6) AS delivered_kwh,
       round(sum(received_kwh), 6) AS received_kwh, any_value(register_kwh) AS register_kwh,
       sum(greatest(date_diff('minute', covered, interval_start), 0))
         + greatest(date_diff('minute', max(interval_end), min(over)), 0) AS missing_minutes,
       coalesce(min(covered) FILTER (interval_start > covered),
                CASE WHEN max(interval_end) < min(over) THEN max(interval_end) END) AS first_gap,
       coalesce(any_value(longest_zero_run), 0) AS longest_zero_run,
       count(*) FILTER (consumption_kwh > 2.8 * third AND consumption_kwh >= 0.1) AS spikes,
       min(interval_end) FILTER (consumption_kwh > 2.8 * third AND consumption_kwh >= 0.1) AS first_spike,
       make_timestamp(greatest(max(n.record_time), coalesce(any_value(r.record_time), 0))) AS as_of,
       bool_or(consumption_kwh < 0) AS negative
FROM numbered n LEFT JOIN thirds USING (meter_id, day) LEFT JOIN longest USING (meter_id, day)
     LEFT JOIN registers r USING (meter_id, day)
GROUP BY 1, 2
"""
)
CUSTOMER_DAYS = (
    COUNTING
    + """
SELECT customer_id, day, round(sum(delivered_kwh), 6) AS delivered_kwh, round(sum(received_kwh), 6) AS received_kwh,
       round(sum(delivered_kwh - received_kwh), 6) AS net_kwh, count(*) AS intervals,
       count(*) FILTER (estimated_flag) AS estimated_intervals, make_timestamp(max(record_time)) AS as_of
FROM counting GROUP BY 1, 2
"""
)
CUSTOMER_MONTHS = (
    COUNTING
    + """
, named AS (
  SELECT *, day[1:7] AS month, max(interval_end) OVER (PARTITION BY customer_id, day[1:7]) AS last,
         max(day) OVER (PARTITION BY customer_id, day[1:7]) AS last_day FROM counting
)
SELECT customer_id, month, min(interval_start) FILTER (interval_end = last) AS interval_start,
       min(last) AS interval_end,
       round(sum(delivered_kwh) FILTER (interval_end = last), 6) AS interval_delivered_kwh,
       round(sum(received_kwh) FILTER (interval_end = last), 6) AS interval_received_kwh,
       round(sum(delivered_kwh - received_kwh) FILTER (interval_end = last), 6) AS interval_net_kwh,
       min(last_day) AS day,
       round(sum(delivered_kwh) FILTER (day = last_day), 6) AS day_delivered_kwh,
       round(sum(received_kwh) FILTER (day = last_day), 6) AS day_received_kwh,
       round(sum(delivered_kwh - received_kwh) FILTER (day = last_day), 6) AS day_net_kwh,
       round(sum(delivered_kwh), 6) AS month_delivered_kwh, round(sum(received_kwh), 6) AS month_received_kwh,
       round(sum(delivered_kwh - received_kwh), 6) AS month_net_kwh,
       count(*) AS intervals, count(*) FILTER (estimated_flag) AS estimated_intervals,
       make_timestamp(max(record_time)) AS as_of
FROM named GROUP BY 1, 2
"""
)


def days_of(zone: str, first: date, count: int) -> Iterator[tuple[str, str, str]]:
    """Days and the instants at which they begin and end, by another library than ours."""
    for number in range(count):
        day = first + timedelta(days=number)
        bounds = (
            datetime(at.year, at.month, at.day, tzinfo=ZoneInfo(zone)).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
            for at in (day, day + timedelta(days=1))
        )
        yield (day.isoformat(), *bounds)  # type: ignore[misc]


def in_sql(replayed: Replay, reads: Path | None, zone: str, first: date, count: int) -> Weeks:
    records = accepted(replayed, READS_TOPIC) if reads is None else accepted(replayed, READS_TOPIC, reads)
    article = Article(records, winners=False)
    values = ", ".join(f"('{day}', TIMESTAMP '{a}', TIMESTAMP '{b}')" for day, a, b in days_of(zone, first, count))
    article.execute(f"CREATE TABLE days AS SELECT * FROM (VALUES {values}) AS d(day, begins, over)")
    return Weeks(replayed, article)


@cache
def simbench() -> Weeks:
    return in_sql(everything(), None, "UTC", date(2026, 3, 1), 5)


def generated(zone: str, first: date, days: int, meters: int, seed: int) -> Iterator[Row]:
    """Reads as a head-end sends them, with `ts`, the record time. Customer 0 has three meters, customer 1 two."""
    luck = random.Random(seed)
    begin = datetime(first.year, first.month, first.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)
    last = first + timedelta(days=days)
    end = datetime(last.year, last.month, last.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)
    for meter in range(meters):
        customer = 0 if meter < 3 else 1 if meter < 5 else meter
        ids = {"meter_id": f"M{meter}", "service_point_id": f"S{meter}", "customer_id": f"C{customer}"}
        ids |= {"transformer_id": f"T{meter % 3}", "feeder_id": "F1"}
        at, sums = begin, {}
        while at < end:
            at += STEP
            if luck.random() < 0.01:
                continue
            delivered = 0.0 if meter == 7 and at.hour < 14 else round(luck.expovariate(4), 4)
            if luck.random() < 0.002:
                delivered *= 20
            received = round(luck.random(), 3) if meter % 4 == 3 else 0.0
            local = (at - STEP).astimezone(ZoneInfo(zone)).date()
            sums[local] = sums.get(local, 0.0) + delivered - received
            values = (delivered, received, luck.random() < 0.03)
            late = luck.choice([timedelta(hours=luck.uniform(1, 23)), timedelta(days=luck.uniform(1.1, 40))])
            delay = late if luck.random() < 0.03 else timedelta(seconds=luck.uniform(5, 200))
            yield read(ids, at, values, at + delay, at + timedelta(minutes=1))
            if luck.random() < (0.7 if values[2] else 0.01):
                delay = timedelta(hours=luck.uniform(0.2, 60))
                again = (values[0] if luck.random() < 0.3 else round(values[0] * 1.1, 4), received, False)
                yield read(ids, at, again, at + delay, at + timedelta(minutes=luck.choice([1, 50])))
        for day, total in sums.items():
            over = day + timedelta(days=1)
            bounds = [
                datetime(each.year, each.month, each.day, tzinfo=ZoneInfo(zone)).astimezone(UTC) for each in (day, over)
            ]
            values = (round(max(total, 0.0), 4), 0.0, False)
            yield read(ids, bounds[1], values, bounds[1] + timedelta(minutes=25), bounds[1], bounds[0], "DAILY")


def read(
    ids: dict[str, str], end: datetime, values: tuple[float, float, bool], record_time: datetime, read_ts: datetime,
    start: datetime | None = None, read_type: str = "INTERVAL",
) -> Row:  # fmt: skip
    delivered, received, estimated = values
    document = ids | {
        "read_type": read_type, "interval_start": text(start or end - STEP), "interval_end": text(end),
        "consumption_kwh": round(delivered - received, 6), "delivered_kwh": delivered, "received_kwh": received,
        "voltage_v": 230.0, "power_quality_code": 0, "estimated_flag": estimated, "read_ts": text(read_ts),
    }  # fmt: skip
    millis = int(record_time.timestamp() * 1000)
    return {"ts_ms": millis, "value_b64": base64.b64encode(json.dumps(document).encode()).decode()}


def text(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


ZONES = {
    "a day of 25 hours": ("America/Chicago", date(2026, 10, 31), 3, 10),
    "a day of 23 hours": ("Europe/Berlin", date(2026, 3, 28), 3, 8),
}
if os.environ.get("AMI_BEAM_WHOLE_MONTH"):  # takes minutes
    ZONES["a month"] = ("America/Chicago", date(2026, 10, 17), 31, 10)


@cache
def weeks(name: str) -> Weeks:
    zone, first, days, meters = ZONES[name]
    rows = sorted(generated(zone, first, days, meters, seed=7), key=lambda row: row["ts_ms"])
    with TemporaryDirectory() as folder:
        reads = write_export(Path(folder) / "reads.jsonl.gz", rows)
        events = write_export(Path(folder) / "events.jsonl", [])
        counts = Path(folder) / "counts.csv"
        counts.write_text("transformer_id,total_meters\nT0,4\nT1,4\nT2,4\n")
        # DirectRunner takes an hour for a month.
        runner = ("--runner=FlinkRunner",) if days > 7 else ()
        options = (*OPTIONS, f"--time_zone={zone}", *runner)
        done = replay(*options, reads=reads, events=events, meter_counts=counts, seconds=100 * days)
        return in_sql(done, reads, zone, first - timedelta(days=1), days + 2)


@pytest.fixture(scope="module", params=[pytest.param("simbench-small", marks=needs_simbench), *ZONES])
def data(request: pytest.FixtureRequest) -> Weeks:
    return simbench() if request.param == "simbench-small" else weeks(request.param)


def same(ours: list[Row], theirs: list[Row], *identity: str) -> None:
    here, there = by(ours, *identity), by(theirs, *identity)
    assert here.keys() == there.keys()
    for key, expected in there.items():
        found = {name: here[key][name] for name in expected}
        # Ours are exact sums that are rounded, DuckDB adds floats up.
        assert found == {n: pytest.approx(v, abs=1.1e-6) if "kwh" in n else v for n, v in expected.items()}, key


def test_reads_that_count_are_what_sql_gives(data: Weeks):
    ours = data.ours(VALIDATED, "record", "READ")
    same(ours, data.sql.query(READS), "meter_id", "interval_end")
    assert any(row["late"] for row in ours)
    assert any(row["revised"] for row in ours)
    assert {row["quality"] for row in ours} == {"ACTUAL", "ESTIMATED"}
    for row in ours:
        energies = [row[name] for name in ("consumption_kwh", "delivered_kwh", "received_kwh")]
        # Net, what was taken only, or nothing where more was fed in: heads-ends send one of these.
        net = energies[1] - energies[2]
        unbalanced = any(energies[1:]) and min(abs(energies[0] - e) for e in (net, max(net, 0), energies[1])) > 0.001001
        found = {"NEGATIVE": energies[0] < 0, "UNBALANCED": unbalanced}
        assert row["flags"] == [name for name, marked in found.items() if marked]
        assert row["espi_quality"] == (10 if unbalanced else 14 if row["quality"] == "ACTUAL" else 11)


def test_days_of_meters_are_what_sql_gives(data: Weeks):
    ours, theirs = data.ours(VALIDATED, "record", "METER_DAY"), data.sql.query(METER_DAYS)
    for row in theirs:
        register, total = row["register_kwh"], row["consumption_kwh"]
        differs = register is not None and abs(total - register) > max(0.01, 0.001 * register) + 1e-9
        found = {
            "ESTIMATED": row["intervals_estimated"] > 0, "GAP": row["missing_minutes"] > 0,
            "NEGATIVE": row.pop("negative"), "SPIKE": row["spikes"] > 0, "SUM_MISMATCH": differs,
            "ZERO_RUN": row["longest_zero_run"] >= 48,
        }  # fmt: skip
        row["flags"] = [name for name, marked in found.items() if marked]
    same(ours, theirs, "meter_id", "day")
    flags = {flag for row in ours for flag in row["flags"]}
    assert {"ESTIMATED", "GAP", "SPIKE", "SUM_MISMATCH"} <= flags
    assert any(row["register_kwh"] is not None and "SUM_MISMATCH" not in row["flags"] for row in ours)


def test_days_of_customers_are_what_sql_gives(data: Weeks):
    ours = data.ours(CUSTOMERS, "period", "DAY")
    same(ours, data.sql.query(CUSTOMER_DAYS), "customer_id", "day")


def test_months_of_customers_are_what_sql_gives(data: Weeks):
    ours = data.ours(CUSTOMERS, "period", "MONTH")
    same(ours, data.sql.query(CUSTOMER_MONTHS), "customer_id", "month")


@pytest.mark.parametrize(("name", "intervals"), [("a day of 25 hours", 100), ("a day of 23 hours", 92)])
def test_a_day_of_another_length_expects_as_many_intervals(name: str, intervals: int):
    rows = weeks(name).ours(VALIDATED, "record", "METER_DAY")
    assert {row["intervals_expected"] for row in rows} == {96, intervals}


def test_reads_that_are_too_late_for_windows_only_are_accounted_for(data: Weeks):
    letters = data.replay.rows("ami.deadletter")
    used = [row for row in letters if row["reason"] == "TOO_LATE" and row["used"]]
    counters = data.replay.counters()
    assert len(used) == counters["billing_only_reads"] > 0
