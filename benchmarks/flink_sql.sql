-- What ami-beam does, as a user of Flink SQL would write it. flink_sql.py fills in the names that begin with a dollar sign.
-- Easier than ami-beam's work: only the fields that are used are declared, nothing is checked, a resent read counts
-- twice, a late read is dropped, no receipt rows, and an alert is raised and never updated or cleared.

SET 'pipeline.name' = $job;
SET 'table.local-time-zone' = 'UTC';

CREATE TEMPORARY TABLE meter_reads (
  meter_id STRING,
  transformer_id STRING,
  feeder_id STRING,
  read_type STRING,
  interval_end TIMESTAMP_LTZ(3),
  consumption_kwh DOUBLE,
  delivered_kwh DOUBLE,
  received_kwh DOUBLE,
  voltage_v DOUBLE,
  estimated_flag BOOLEAN,
  record_time TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
  -- Windows are closed on the right.
  measured_at AS interval_end - INTERVAL '0.001' SECOND,
  -- A window is due when the record time, the least of all partitions, passes its end by the collection delay.
  WATERMARK FOR measured_at AS record_time - INTERVAL '5' MINUTE
) WITH (
  'connector' = 'kafka', 'topic' = $reads, 'properties.bootstrap.servers' = $bootstrap_servers,
  'properties.group.id' = $job, 'properties.isolation.level' = 'read_committed',
  'scan.startup.mode' = 'earliest-offset',
  'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601'
);

CREATE TEMPORARY TABLE meter_events (
  meter_id STRING,
  event_code INT,
  event_desc STRING,
  event_ts TIMESTAMP_LTZ(3),
  record_time TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
  seen_at AS PROCTIME()
) WITH (
  'connector' = 'kafka', 'topic' = $events, 'properties.bootstrap.servers' = $bootstrap_servers,
  'properties.group.id' = $job, 'scan.startup.mode' = 'earliest-offset',
  'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601'
);

CREATE TEMPORARY TABLE meter_counts (
  transformer_id STRING,
  total_meters INT
) WITH (
  'connector' = 'filesystem', 'path' = $meter_counts, 'format' = 'csv', 'csv.allow-comments' = 'false',
  -- The line of the columns' names has no number.
  'csv.ignore-parse-errors' = 'true'
);

CREATE TEMPORARY TABLE summaries (
  transformer_id STRING,
  feeder_id STRING,
  window_start STRING,
  window_end STRING,
  total_consumption_kwh DOUBLE,
  total_delivered_kwh DOUBLE,
  total_received_kwh DOUBLE,
  meters_reported BIGINT,
  avg_voltage_v DOUBLE,
  min_voltage_v DOUBLE,
  max_voltage_v DOUBLE,
  estimated_count BIGINT,
  voltage_rejected_count BIGINT,
  zero_voltage_count BIGINT,
  as_of TIMESTAMP_LTZ(3)
) WITH (
  'connector' = 'kafka', 'topic' = $summaries, 'properties.bootstrap.servers' = $bootstrap_servers,
  'properties.linger.ms' = '20', 'key.format' = 'raw', 'key.fields' = 'transformer_id',
  'value.format' = 'json', 'value.json.timestamp-format.standard' = 'ISO-8601'
);

CREATE TEMPORARY TABLE alerts (
  alert_id STRING,
  alert_source STRING,
  entity_id STRING,
  alert_time STRING,
  alert_type STRING,
  detail_value STRING,
  severity STRING,
  as_of TIMESTAMP_LTZ(3)
) WITH (
  'connector' = 'kafka', 'topic' = $alerts, 'properties.bootstrap.servers' = $bootstrap_servers,
  'properties.linger.ms' = '20', 'key.format' = 'raw', 'key.fields' = 'entity_id',
  'value.format' = 'json', 'value.json.timestamp-format.standard' = 'ISO-8601'
);

CREATE TEMPORARY VIEW interval_reads AS
SELECT *, CASE WHEN voltage_v BETWEEN 100 AND 400 THEN voltage_v END AS plausible_v
FROM meter_reads
WHERE read_type = 'INTERVAL';

CREATE TEMPORARY VIEW transformer_windows AS
SELECT
  transformer_id,
  feeder_id,
  DATE_FORMAT(window_start, 'yyyy-MM-dd''T''HH:mm:ss''Z''') AS window_start,
  DATE_FORMAT(window_end, 'yyyy-MM-dd''T''HH:mm:ss''Z''') AS window_end,
  ROUND(SUM(consumption_kwh), 6) AS total_consumption_kwh,
  ROUND(SUM(delivered_kwh), 6) AS total_delivered_kwh,
  ROUND(SUM(received_kwh), 6) AS total_received_kwh,
  COUNT(DISTINCT meter_id) AS meters_reported,
  ROUND(AVG(plausible_v), 6) AS avg_voltage_v,
  MIN(plausible_v) AS min_voltage_v,
  MAX(plausible_v) AS max_voltage_v,
  COUNT(*) FILTER (WHERE estimated_flag) AS estimated_count,
  COUNT(voltage_v) - COUNT(plausible_v) AS voltage_rejected_count,
  COUNT(*) FILTER (WHERE voltage_v >= 0 AND voltage_v < 10) AS zero_voltage_count,
  MAX(record_time) AS as_of
FROM TABLE(TUMBLE(
  TABLE interval_reads, DESCRIPTOR(measured_at), INTERVAL '15' MINUTE))
GROUP BY transformer_id, feeder_id, window_start, window_end;

-- A window joins once, when it is due; the meter counts stay.
CREATE TEMPORARY VIEW receipts AS
SELECT /*+ STATE_TTL('w' = '1 h', 'c' = '0 s') */
  w.transformer_id, w.window_end, w.as_of, ROUND(100.0 * w.meters_reported / c.total_meters, 1) AS receipt_rate_pct
FROM transformer_windows AS w
JOIN meter_counts AS c ON w.transformer_id = c.transformer_id;

CREATE TEMPORARY VIEW first_events AS
SELECT * FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY meter_id, event_code, event_ts ORDER BY seen_at) AS number
  FROM meter_events
  WHERE event_code IN (3840, 3841, 3842, 2048, 2049, 1024)
)
WHERE number = 1;

CREATE TEMPORARY VIEW all_alerts (alert_source, entity_id, alert_time, alert_type, detail_value, severity, as_of) AS
SELECT 'COMM', transformer_id, window_end, 'LOW_RECEIPT_RATE', CAST(receipt_rate_pct AS STRING), 'WARNING', as_of
FROM receipts
WHERE receipt_rate_pct < 80
UNION ALL
SELECT 'VOLTAGE', transformer_id, window_end, 'LOW_VOLTAGE', CAST(min_voltage_v AS STRING), 'WARNING', as_of
FROM transformer_windows
WHERE min_voltage_v < 207
UNION ALL
SELECT 'VOLTAGE', transformer_id, window_end, 'HIGH_VOLTAGE', CAST(max_voltage_v AS STRING), 'WARNING', as_of
FROM transformer_windows
WHERE max_voltage_v > 253
UNION ALL
SELECT
  'EVENT', meter_id, DATE_FORMAT(event_ts, 'yyyy-MM-dd''T''HH:mm:ss''Z'''),
  COALESCE(event_desc, CASE event_code
    WHEN 3840 THEN 'LAST_GASP' WHEN 3841 THEN 'POWER_RESTORE' WHEN 3842 THEN 'OUTAGE_DETECTED'
    WHEN 2048 THEN 'TAMPER_DETECTED' WHEN 2049 THEN 'REVERSE_ENERGY' ELSE 'POWER_QUALITY' END),
  CAST(event_code AS STRING), CASE WHEN event_code >= 3840 THEN 'CRITICAL' ELSE 'WARNING' END, record_time
FROM first_events;

EXECUTE STATEMENT SET BEGIN
  INSERT INTO summaries SELECT * FROM transformer_windows;
  INSERT INTO alerts
  SELECT CONCAT_WS('/', alert_source, entity_id, alert_type, alert_time), a.* FROM all_alerts AS a;
END;
