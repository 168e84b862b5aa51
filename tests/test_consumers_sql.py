"""Results for other consumers against SQL over the same records: simbench-small, whose transformers do not move."""

from __future__ import annotations

import pytest

from tests.replays import Row, everything, needs_simbench
from tests.test_article_sql import article_over_simbench, by

TOPIC, HEATMAP = "ami.feeder.summary", "ami.voltage.heatmap"

# Every transformer of the meter counts has a receipt in every window from the first to the last that was judged; it is
# expected on its feeder, or on none if it never was heard.
FEEDER_SUMMARY = """
WITH reads AS (
  SELECT *, time_bucket(INTERVAL '15' MINUTE, interval_end) + INTERVAL '15' MINUTE AS window_end
  FROM ami_interval_reads WHERE read_type = 'INTERVAL'
), places AS (
  SELECT transformer_id, min(feeder_id) AS feeder_id FROM reads GROUP BY 1
), windows AS (
  SELECT DISTINCT window_end FROM reads WHERE window_end BETWEEN TIMESTAMP '{first}' AND TIMESTAMP '{last}'
), by_transformer AS (
  SELECT transformer_id, window_end, count(DISTINCT meter_id) AS meters, min(voltage_v) AS low, max(voltage_v) AS high
  FROM reads GROUP BY 1, 2
), receipts AS (
  SELECT c.transformer_id, p.feeder_id, w.window_end, c.total_meters, coalesce(t.meters, 0) AS meters,
         round(coalesce(t.meters, 0)::DECIMAL / c.total_meters * 100, 1) < 80 AS low
  FROM transformer_meter_count c CROSS JOIN windows w
  LEFT JOIN places p USING (transformer_id)
  LEFT JOIN by_transformer t USING (transformer_id, window_end)
), violations AS (
  SELECT transformer_id, window_end FROM by_transformer WHERE low < 207 OR high > 253
  UNION SELECT transformer_id, window_end FROM receipts WHERE low
), measured AS (
  SELECT {segment} AS feeder_id, window_end, round(sum(consumption_kwh), 6) AS total_consumption_kwh,
         round(sum(delivered_kwh), 6) AS total_delivered_kwh, round(sum(received_kwh), 6) AS total_received_kwh,
         count(DISTINCT meter_id) AS meters_reported, avg(voltage_v) AS avg_voltage_v, min(voltage_v) AS min_voltage_v,
         max(voltage_v) AS max_voltage_v, count(DISTINCT transformer_id) AS transformers_reported
  FROM reads GROUP BY 1, 2
), expected AS (
  SELECT {segment} AS feeder_id, window_end, sum(total_meters) AS meters_expected, sum(meters) AS judged,
         count(*) AS transformers_expected
  FROM receipts GROUP BY 1, 2
), violated AS (
  SELECT {segment} AS feeder_id, window_end, count(*) AS transformers_in_violation
  FROM violations LEFT JOIN places USING (transformer_id) GROUP BY 1, 2
)
SELECT feeder_id, window_end, coalesce(total_consumption_kwh, 0) AS total_consumption_kwh,
       coalesce(total_delivered_kwh, 0) AS total_delivered_kwh, coalesce(total_received_kwh, 0) AS total_received_kwh,
       coalesce(meters_reported, 0) AS meters_reported, coalesce(meters_expected, 0) AS meters_expected,
       round(judged::DECIMAL / meters_expected * 100, 1)::DOUBLE AS receipt_rate_pct,
       avg_voltage_v, min_voltage_v, max_voltage_v, coalesce(transformers_reported, 0) AS transformers_reported,
       coalesce(transformers_expected, 0) AS transformers_expected,
       coalesce(transformers_in_violation, 0) AS transformers_in_violation
FROM measured FULL JOIN expected USING (feeder_id, window_end) LEFT JOIN violated USING (feeder_id, window_end)
"""


READS = """reads AS (
  SELECT *, time_bucket(INTERVAL '15' MINUTE, interval_end) + INTERVAL '15' MINUTE AS window_end
  FROM ami_interval_reads WHERE read_type = 'INTERVAL' AND voltage_v IS NOT NULL
), windows AS (
  SELECT transformer_id, window_end, min(feeder_id) AS feeder_id, min(voltage_v) AS low, avg(voltage_v) AS mean,
         max(voltage_v) AS high
  FROM reads GROUP BY 1, 2
), bands AS (
  SELECT *,
    CASE WHEN low >= 230 * 0.95 - 1e-9 AND high <= 230 * 1.05 + 1e-9 THEN 'A'
         WHEN low >= 230 * 110 / 120 - 1e-9 AND high <= 230 * 127 / 120 + 1e-9 THEN 'B'
         ELSE 'OUTSIDE' END AS ansi_c84_1,
    CASE WHEN low >= 230 * 0.9 - 1e-9 AND high <= 230 * 1.1 + 1e-9 THEN 'NORMAL'
         WHEN low >= 230 * 0.85 - 1e-9 AND high <= 230 * 1.1 + 1e-9 THEN 'EXTENDED' ELSE 'OUTSIDE' END AS en_50160
  FROM windows
)"""
TRANSFORMERS = f"""WITH {READS}
SELECT transformer_id, window_end, feeder_id, round(low / 2.3, 2) AS min_pct, round(high / 2.3, 2) AS max_pct,
       ansi_c84_1, en_50160 FROM bands"""
DAYS = f"""WITH {READS}
SELECT transformer_id, strftime(window_end - INTERVAL '15' MINUTE, '%Y-%m-%d') AS day,
       15.0 * count(*) FILTER (ansi_c84_1 <> 'A') AS outside_ansi_a_minutes,
       15.0 * count(*) FILTER (ansi_c84_1 = 'OUTSIDE') AS outside_ansi_b_minutes,
       15.0 * count(*) FILTER (en_50160 <> 'NORMAL') AS outside_en_50160_minutes
FROM bands GROUP BY 1, 2 HAVING count(*) FILTER (ansi_c84_1 <> 'A') > 0"""
HISTOGRAMS = f"""WITH {READS}
SELECT feeder_id, window_end, floor(voltage_v * 100 / 230 + 1e-9)::INTEGER AS pct, count(*) AS reads
FROM reads GROUP BY 1, 2, 3"""


def heat(segment: str) -> list[Row]:
    return [row for row in everything().rows(HEATMAP) if row["segment"] == segment]


@needs_simbench
def test_bands_are_what_sql_gives():
    theirs = by(article_over_simbench(right_closed=True).query(TRANSFORMERS), "transformer_id", "window_end")
    ours = by(heat("TRANSFORMER"), "transformer_id", "window_end")
    assert ours.keys() == theirs.keys()
    for key, expected in theirs.items():
        # DuckDB rounds what a float says, ours half up.
        for name in ("min_pct", "max_pct"):
            assert ours[key][name] == pytest.approx(expected.pop(name), abs=0.01001)
        assert {name: ours[key][name] for name in expected} == expected
    assert {row["ansi_c84_1"] for row in ours.values()} == {"A", "B", "OUTSIDE"}


@needs_simbench
def test_minutes_of_days_are_what_sql_gives():
    theirs = by(article_over_simbench(right_closed=True).query(DAYS), "transformer_id", "day")
    ours = by(heat("TRANSFORMER_DAY"), "transformer_id", "day")
    assert ours.keys() == theirs.keys()
    for key, expected in theirs.items():
        assert {name: ours[key][name] for name in expected} == expected


@needs_simbench
def test_histograms_are_what_sql_gives():
    theirs: dict[tuple, dict[int, int]] = {}
    for row in article_over_simbench(right_closed=True).query(HISTOGRAMS):
        classes = theirs.setdefault((row["feeder_id"], row["window_end"]), {})
        name = min(max(row["pct"], 84), 115)
        classes[name] = classes.get(name, 0) + row["reads"]
    ours = {
        (row["feeder_id"], row["window_end"]): {
            84 + number: count for number, count in enumerate([row["below"], *row["histogram"], row["above"]]) if count
        }
        for row in heat("FEEDER")
    }
    assert ours == theirs


@needs_simbench
@pytest.mark.parametrize("segment", ["FEEDER", "SYSTEM"])
def test_summaries_are_what_sql_gives(segment: str):
    replay = everything()
    judged = sorted({row["window_end"].removesuffix("Z") for row in replay.rows("ami.transformer.receipt")})
    # Of a null feeder there is no row; the system counts it.
    name = "feeder_id" if segment == "FEEDER" else "'SYSTEM'"
    statement = FEEDER_SUMMARY.format(first=judged[0], last=judged[-1], segment=name)
    theirs = [row for row in article_over_simbench(right_closed=True).query(statement) if row["feeder_id"]]
    ours = [row for row in replay.rows(TOPIC) if row["segment"] == segment]
    assert {row["revision"] for row in ours} == {0}
    for row in ours:
        row["feeder_id"] = row["feeder_id"] or "SYSTEM"
    here, there = by(ours, "feeder_id", "window_end"), by(theirs, "feeder_id", "window_end")
    assert here.keys() == there.keys()
    for key, expected in there.items():
        average = expected.pop("avg_voltage_v")
        assert {name: here[key][name] for name in expected} == expected
        assert here[key]["avg_voltage_v"] == (None if average is None else pytest.approx(average, abs=1.1e-6))
    assert any(row["transformers_in_violation"] for row in theirs)
    assert any(row["meters_reported"] < row["meters_expected"] for row in theirs)
