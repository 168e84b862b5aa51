"""Feeder summaries against SQL over the same records: the day of simbench-small, whose transformers do not move."""

from __future__ import annotations

import pytest

from tests.replays import needs_simbench, replay_with
from tests.test_article_sql import article_over_simbench, by

TOPIC = "ami.feeder.summary"

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


@needs_simbench
@pytest.mark.parametrize("segment", ["FEEDER", "SYSTEM"])
def test_rows_are_what_sql_gives(segment: str):
    replay = replay_with("--also_publish=feeder_summary")
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
