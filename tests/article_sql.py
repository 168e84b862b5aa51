"""The SQL of the article that the product was ordered from, run in DuckDB over records of the head-end.

"Processing AMI data streams at scale", steps 2 and 3. The text is the article's. DuckDB has neither TUMBLE nor
materialized views, so `_in_duckdb` writes `time_bucket` for the one and plain views for the other.
"""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from ami_beam.instants import format_instant

Row = dict[str, Any]

TRANSFORMER_SUMMARY = """
CREATE MATERIALIZED VIEW transformer_summary AS
SELECT
transformer_id,
feeder_id,
window_start,
window_end,
SUM(consumption_kwh) AS total_consumption_kwh,
COUNT(DISTINCT meter_id) AS meters_reported,
AVG(voltage_v) AS avg_voltage_v,
MIN(voltage_v) AS min_voltage_v,
MAX(voltage_v) AS max_voltage_v,
SUM(CASE WHEN estimated_flag THEN 1 ELSE 0 END) AS estimated_count
FROM TUMBLE(
(SELECT * FROM ami_interval_reads WHERE read_type = 'INTERVAL'),
interval_end,
INTERVAL '15' MINUTE
)
GROUP BY transformer_id, feeder_id, window_start, window_end;
"""

READ_RECEIPT_RATE = """
CREATE MATERIALIZED VIEW read_receipt_rate AS
SELECT
t.transformer_id,
t.window_end,
t.meters_reported,
c.total_meters,
ROUND(t.meters_reported::DECIMAL / c.total_meters * 100, 1) AS receipt_rate_pct
FROM transformer_summary t
JOIN transformer_meter_count c ON t.transformer_id = c.transformer_id;
"""

AMI_OPERATIONAL_ALERTS = """
CREATE MATERIALIZED VIEW ami_operational_alerts AS
SELECT
alert_source,
entity_id,
alert_time,
alert_type,
detail_value,
severity
FROM (
-- Low read receipt rate: possible communications issue
SELECT
'COMM' AS alert_source,
transformer_id AS entity_id,
window_end AS alert_time,
'LOW_RECEIPT_RATE' AS alert_type,
receipt_rate_pct AS detail_value,
'WARNING' AS severity
FROM read_receipt_rate
WHERE receipt_rate_pct < 80
UNION ALL
-- Voltage violations from AMI readings
SELECT
'VOLTAGE' AS alert_source,
transformer_id AS entity_id,
window_end AS alert_time,
CASE
WHEN min_voltage_v < 207 THEN 'LOW_VOLTAGE'
WHEN max_voltage_v > 253 THEN 'HIGH_VOLTAGE'
END AS alert_type,
COALESCE(min_voltage_v, max_voltage_v) AS detail_value,
'WARNING' AS severity
FROM transformer_summary
WHERE min_voltage_v < 207 OR max_voltage_v > 253
UNION ALL
-- High-priority AMI events (outage, tamper, reverse energy)
SELECT
'EVENT' AS alert_source,
meter_id AS entity_id,
event_ts AS alert_time,
event_desc AS alert_type,
event_code::DOUBLE PRECISION AS detail_value,
CASE WHEN event_code IN (3840, 3841, 3842) THEN 'CRITICAL' ELSE 'WARNING' END AS severity
FROM ami_events
WHERE event_code IN (3840, 3841, 3842, 2048, 2049, 1024)
) alerts;
"""

_TUMBLE = """TUMBLE(
(SELECT * FROM ami_interval_reads WHERE read_type = 'INTERVAL'),
interval_end,
INTERVAL '15' MINUTE
)"""
_TIME_BUCKET = """(
SELECT *, time_bucket(INTERVAL '15' MINUTE, interval_end) AS window_start,
time_bucket(INTERVAL '15' MINUTE, interval_end) + INTERVAL '15' MINUTE AS window_end
FROM (SELECT * FROM ami_interval_reads WHERE read_type = 'INTERVAL')
)"""

READ_COLUMNS = {
    "meter_id": "VARCHAR", "service_point_id": "VARCHAR", "customer_id": "VARCHAR", "transformer_id": "VARCHAR",
    "feeder_id": "VARCHAR", "read_type": "VARCHAR", "interval_start": "TIMESTAMP", "interval_end": "TIMESTAMP",
    "consumption_kwh": "DOUBLE", "delivered_kwh": "DOUBLE", "received_kwh": "DOUBLE", "voltage_v": "DOUBLE",
    "power_quality_code": "BIGINT", "estimated_flag": "BOOLEAN", "read_ts": "TIMESTAMP",
    "record_time": "BIGINT", "record_offset": "BIGINT",
}  # fmt: skip
EVENT_COLUMNS = {"meter_id": "VARCHAR", "event_code": "BIGINT", "event_desc": "VARCHAR", "event_ts": "TIMESTAMP"}
_TIMES = ("interval_start", "interval_end", "read_ts", "event_ts")

# Our winner rule: the greatest read_ts, actual before estimated, the later arrival; of identical content the first.
WINNERS = """
SELECT * FROM (
  SELECT * FROM sent_reads
  QUALIFY row_number() OVER (
    PARTITION BY transformer_id, meter_id, interval_end, read_type, read_ts, estimated_flag,
                 feeder_id, consumption_kwh, delivered_kwh, received_kwh, voltage_v
    ORDER BY record_time, record_offset) = 1
)
QUALIFY row_number() OVER (
  PARTITION BY transformer_id, meter_id, interval_end, read_type
  ORDER BY read_ts DESC, estimated_flag, record_time DESC, record_offset DESC) = 1
"""


class Article:
    """The article's views over the records that are given.

    Args:
      reads, events: records as the head-end sent them, JSON objects; reads also with record_time and record_offset.
      meter_counts: (transformer_id, total_meters).
      winners: whether our winner rule comes first; without it every record counts, as in the article.
      right_closed: moves interval_end back by a microsecond, so that TUMBLE gives the windows of our default.
    """

    def __init__(
        self,
        reads: Iterable[Row],
        events: Iterable[Row] = (),
        meter_counts: Iterable[tuple[str, int]] = (),
        winners: bool = True,
        right_closed: bool = False,
    ) -> None:
        self._db = duckdb.connect(config={"threads": 1})
        self._load("sent_reads", reads, READ_COLUMNS)
        self._load("ami_events", events, EVENT_COLUMNS)
        self._db.execute("CREATE TABLE transformer_meter_count (transformer_id VARCHAR, total_meters INTEGER)")
        for row in meter_counts:
            self._db.execute("INSERT INTO transformer_meter_count VALUES (?, ?)", row)
        epsilon = "INTERVAL 1 MICROSECOND" if right_closed else "INTERVAL 0 SECOND"
        self._db.execute(
            f"CREATE TABLE ami_interval_reads AS SELECT * REPLACE (interval_end - {epsilon} AS interval_end)"
            f" FROM ({WINNERS if winners else 'SELECT * FROM sent_reads'})"
        )
        for statement in (TRANSFORMER_SUMMARY, READ_RECEIPT_RATE, AMI_OPERATIONAL_ALERTS):
            self._db.execute(_in_duckdb(statement))

    def rows(self, view: str) -> list[Row]:
        """The rows of a view, with times as our outputs write them."""
        return self.query(f"SELECT * FROM {view}")

    def query(self, statement: str) -> list[Row]:
        """The rows of a query over the winning reads in `ami_interval_reads` and over the views, likewise."""
        found = self._db.execute(statement)
        assert found.description is not None
        names = [column[0] for column in found.description]
        return [{name: _published(value) for name, value in zip(names, row, strict=True)} for row in found.fetchall()]

    def execute(self, statement: str) -> None:
        """Make a table or a view beside them."""
        self._db.execute(statement)

    def _load(self, table: str, rows: Iterable[Row], columns: dict[str, str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "rows.jsonl"
            with file.open("w", encoding="utf-8") as lines:
                for row in rows:
                    lines.write(json.dumps({name: _sql(name, row.get(name)) for name in columns}) + "\n")
            self._db.execute(
                f"CREATE TABLE {table} AS SELECT * FROM read_json(?, format='newline_delimited', columns={columns!r})",
                [str(file)],
            )


def read_meter_counts(path: Path) -> list[tuple[str, int]]:
    with path.open(newline="", encoding="utf-8") as lines:
        return [(row["transformer_id"], int(row["total_meters"])) for row in csv.DictReader(lines)]


def _in_duckdb(statement: str) -> str:
    return statement.replace(_TUMBLE, _TIME_BUCKET).replace("MATERIALIZED VIEW", "VIEW")


def _sql(name: str, value: Any) -> Any:
    """UTC without a zone: DuckDB's TIMESTAMPTZ functions are in an extension that may have to be downloaded."""
    if name not in _TIMES or value is None:
        return value
    return datetime.fromisoformat(value).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def _published(value: Any) -> Any:
    if isinstance(value, datetime):
        return format_instant(
            (value.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        )
    return value
