"""Change data capture as it is in production: PostgreSQL, Debezium's connector in Kafka Connect, a broker, and the run.

The connector's configuration is the file in templates/, as it is.
"""

from __future__ import annotations

import json
import re
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from ami_beam.codecs.dead_letter_reasons import Reason
from ami_beam.codecs.debezium_reads import DebeziumReadDecoder
from ami_beam.instants import (
    MAX_INSTANT,
    MICROS_PER_DAY,
    MICROS_PER_MINUTE,
    MICROS_PER_SECOND,
    format_instant,
    parse_instant,
)
from ami_beam.io.meter_counts_topic import CountsTopic
from ami_beam.local.kafka_broker import KafkaBroker
from ami_beam.local.kafka_connect import KafkaConnect
from ami_beam.local.postgresql_server import MISSING, PostgresqlServer, programs
from ami_beam.meter_counts import MeterCountsError
from ami_beam.records import RecordBatch
from ami_beam.settings import Settings
from tests.replays import ROOT, Replay, replay, write_export

pytestmark = pytest.mark.processes

TEMPLATES = ROOT / "templates" / "debezium"
READS, EVENTS = "ami.headend.reads", "ami.headend.events"
WINDOW = 15 * MICROS_PER_MINUTE
FIELDS = (
    "meter_id", "service_point_id", "customer_id", "transformer_id", "feeder_id", "read_type", "interval_start",
    "interval_end", "consumption_kwh", "delivered_kwh", "received_kwh", "voltage_v", "power_quality_code",
    "estimated_flag", "read_ts",
)  # fmt: skip
TABLES = """
CREATE TABLE reads (
  meter_id text, service_point_id text NOT NULL, customer_id text NOT NULL, transformer_id text NOT NULL,
  feeder_id text NOT NULL, read_type text, interval_start timestamptz NOT NULL, interval_end timestamptz,
  consumption_kwh numeric(12,3) NOT NULL, delivered_kwh numeric(12,3) NOT NULL, received_kwh numeric(12,3) NOT NULL,
  voltage_v numeric(6,2), power_quality_code integer NOT NULL, estimated_flag boolean NOT NULL,
  read_ts timestamptz NOT NULL, firmware text,
  PRIMARY KEY (meter_id, read_type, interval_end)
) PARTITION BY RANGE (interval_end);
CREATE TABLE reads_now PARTITION OF reads DEFAULT;
CREATE TABLE events (
  meter_id text, event_code integer, event_ts timestamptz, event_desc text,
  PRIMARY KEY (meter_id, event_code, event_ts)
);
CREATE TABLE transformer_meter_count (transformer_id text PRIMARY KEY, total_meters integer NOT NULL);
CREATE TABLE taken_back (LIKE reads);
"""
METERS, TRANSFORMERS = 24, 3
RECENT = "read_type = 'INTERVAL' AND interval_end > now() - interval '20 hours'"
KWH = "consumption_kwh = {0}, delivered_kwh = {0}"
# A window in the past for every number, from the meters of a transformer each.
INSERT = f"""
INSERT INTO reads
SELECT 'M' || meter, 'S' || meter, 'C' || meter, 'T' || meter %% {TRANSFORMERS}, 'F1', 'INTERVAL',
  start + (number - 1) * interval '15 min', start + number * interval '15 min', (meter + number) / 64.0,
  (meter + number) / 64.0, 0, CASE WHEN meter %% 5 = 0 THEN NULL ELSE 225.25 + meter END, 0, meter %% 7 = 0,
  start + number * interval '15 min' + interval '50 s', '2.1'
FROM generate_series(1, {METERS}) AS meter, generate_series(%(first)s::int, %(last)s::int) AS number,
  (SELECT %(start)s::timestamptz AS start) AS begin
"""
MARK = """
INSERT INTO reads VALUES
  (%(meter)s, 'S', 'C', 'T1', 'F1', 'DAILY', now() - interval '1 day', now(), 1, 1, 0, NULL, 0, false, now())
"""
# What the head-end's table says, and what it has said of rows that are gone: a published number stays.
EXPECTED = """
SELECT transformer_id, feeder_id,
  date_bin('15 min', interval_end - interval '1 microsecond', 'epoch'::timestamptz) + interval '15 min' AS window_end,
  count(DISTINCT meter_id), sum(consumption_kwh)::float8, sum(delivered_kwh)::float8, sum(received_kwh)::float8,
  min(voltage_v) FILTER (WHERE voltage_v BETWEEN 100 AND 400)::float8,
  max(voltage_v) FILTER (WHERE voltage_v BETWEEN 100 AND 400)::float8,
  round(avg(voltage_v) FILTER (WHERE voltage_v BETWEEN 100 AND 400), 6)::float8, count(*) FILTER (WHERE estimated_flag)
FROM (SELECT * FROM reads UNION ALL SELECT * FROM taken_back) AS said
WHERE read_type = 'INTERVAL' AND consumption_kwh < 1000 AND interval_end > now() - interval '20 hours'
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""


class HeadEnd:
    """The database, with what follows its changes."""

    def __init__(self, server: PostgresqlServer, broker: KafkaBroker, connect: KafkaConnect) -> None:
        self._server = server
        self._broker = broker
        self.connect = connect
        self.connector = ""
        # Whole windows in the past, so that nothing is ahead of anybody's clock.
        now = time.time_ns() // 1_000
        self.start = now // WINDOW * WINDOW - 8 * WINDOW
        self._marks = 0

    def sql(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        with self._server.connect() as connection:
            cursor = connection.execute(query.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def insert(self, first: int, last: int) -> None:
        self.sql(INSERT, first=first, last=last, start=format_instant(self.start))

    def follow(self, name: str = "ami-headend", changes: dict[str, str] | None = None) -> None:
        """Start the connector of the template, with changes of its settings."""
        config = json.loads((TEMPLATES / "headend-postgresql.json").read_text())["config"]
        self.connector = name
        self.connect.put(name, config | (changes or {}))

    def settle(self) -> list[Message]:
        """The records of reads, once all changes have come: those of daily reads that are made for it come behind."""
        first, deadline = self._marks, time.monotonic() + 180
        while True:
            self.sql(MARK, meter=f"MARK{self._marks}")
            self._marks += 1
            time.sleep(0.5)
            self.connect.state(self.connector)
            found = read_topic(self._broker, READS)
            for each in found:
                said = json.loads(each.value() or b"null")
                meter = said["after"]["meter_id"] if said and said["op"] == "c" else ""
                if meter.startswith("MARK") and int(meter[4:]) >= first:
                    return found
            assert time.monotonic() < deadline, self.connect.log()[-4000:]


@pytest.fixture(scope="module")
def head_end(kafka_broker: KafkaBroker) -> Iterator[HeadEnd]:
    if programs() is None:
        pytest.skip(MISSING)
    kafka_broker.delete_topics((READS, EVENTS, "ami.headend.transformer_meter_count"))
    with PostgresqlServer(logical=True) as server, pytest.MonkeyPatch.context() as patch:
        login = {"HOST": "127.0.0.1", "PORT": server.port, "DATABASE": "postgres", "USER": "ami_cdc"}
        for name, value in {**login, "PASSWORD": server.password}.items():
            patch.setenv(f"HEADEND_{name}", str(value))
        with KafkaConnect(kafka_broker.bootstrap_servers) as connect:
            found = HeadEnd(server, kafka_broker, connect)
            found.sql(TABLES)
            found.sql(re.sub("--.*", "", (TEMPLATES / "headend-postgresql.sql").read_text()))
            found.sql(f"ALTER ROLE ami_cdc PASSWORD '{server.password}'")
            yield found


def read_topic(broker: KafkaBroker, topic: str) -> list[Message]:
    """All of a topic's records, in arrival order; none where it is not there yet."""
    consumer = Consumer(
        {"bootstrap.servers": broker.bootstrap_servers, "group.id": "cdc", "enable.auto.commit": "false"}
    )
    try:
        # Asking for a topic by its name would make it.
        topics = consumer.list_topics(timeout=10).topics
        known = topics[topic].partitions if topic in topics else {}
        ends = {each: consumer.get_watermark_offsets(TopicPartition(topic, each), timeout=10)[1] for each in known}
        consumer.assign([TopicPartition(topic, each, 0) for each in known])
        found: list[Message] = []
        deadline = time.monotonic() + 60
        while len(found) < sum(ends.values()) and time.monotonic() < deadline:
            found += [each for each in consumer.consume(10_000, timeout=0.5) if each.error() is None]
        return sorted(found, key=lambda each: (each.timestamp()[1], each.partition(), each.offset()))
    except KafkaException:  # of a topic that is just being made
        return []
    finally:
        consumer.close()


def export(path: Path, messages: list[Message]) -> Path:
    return write_export(
        path,
        (
            {
                "ts_ms": each.timestamp()[1],
                "topic": each.topic(),
                "partition": each.partition(),
                "offset": each.offset(),
                "key": (each.key() or b"").decode(),
                "value_b64": None if each.value() is None else b64encode(each.value() or b"").decode(),
            }
            for each in messages
        ),
    )


def without_doubles(messages: list[Message]) -> list[Message]:
    """Only the first record of each state of a row."""
    seen: set[str] = set()
    kept = []
    for each in messages:
        said = json.loads(each.value() or b"null")
        state = json.dumps(said["after"] if said else None)
        if said and said["op"] == "r" and state in seen:
            continue
        seen.add(state)
        kept.append(each)
    return kept


def summaries(rows: Replay) -> list[tuple[Any, ...]]:
    names = ("transformer_id", "feeder_id", "window_end", "meters_reported")
    energies = [f"total_{kind}_kwh" for kind in ("consumption", "delivered", "received")]
    others = ("min_voltage_v", "max_voltage_v", "avg_voltage_v", "estimated_count")
    return sorted(
        tuple(row[name] for name in (*names, *energies, *others)) for row in rows.rows("ami.transformer.summary")
    )


def test_a_head_end_whose_database_is_followed(head_end: HeadEnd, kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    # The table as it is found, with history that nobody wants again.
    cut = format_instant(head_end.start - 2 * MICROS_PER_DAY)
    head_end.sql(f"CREATE TABLE reads_of_before PARTITION OF reads FOR VALUES FROM (MINVALUE) TO ('{cut}')")
    head_end.insert(-400, -399)
    head_end.insert(1, 3)
    head_end.follow()
    head_end.settle()

    # Inserts, resends, corrections without a new time, what is not plausible, rows that go, and keys that change.
    head_end.insert(4, 5)
    head_end.sql(f"UPDATE reads SET {KWH.format(7.125)}, read_ts = now() WHERE meter_id = 'M1'")
    head_end.sql(f"UPDATE reads SET voltage_v = 0 WHERE meter_id = 'M2' AND {RECENT}")
    head_end.sql(f"UPDATE reads SET estimated_flag = false, received_kwh = 0.5 WHERE meter_id = 'M7' AND {RECENT}")
    gone = f"WITH gone AS (DELETE FROM reads WHERE meter_id = 'M3' AND {RECENT} RETURNING *)"
    head_end.sql(f"{gone} INSERT INTO taken_back SELECT * FROM gone")
    head_end.sql(f"INSERT INTO taken_back SELECT * FROM reads WHERE meter_id = 'M4' AND {RECENT}")
    head_end.sql(f"UPDATE reads SET meter_id = 'N4' WHERE meter_id = 'M4' AND {RECENT}")
    head_end.insert(6, 6)
    last = f"meter_id = 'M5' AND interval_end = '{format_instant(head_end.start + 6 * WINDOW)}'"
    head_end.sql(f"INSERT INTO taken_back SELECT * FROM reads WHERE {last}")
    head_end.sql(f"UPDATE reads SET consumption_kwh = 5000 WHERE {last}")
    head_end.sql("INSERT INTO events SELECT 'M1', 3840, max(read_ts), NULL FROM reads WHERE read_type = 'INTERVAL'")
    head_end.sql("TRUNCATE events")
    head_end.sql("DROP TABLE reads_of_before")
    head_end.settle()

    # Killed, it goes on where it was, or a little before.
    head_end.connect.kill()
    head_end.sql(f"UPDATE reads SET {KWH.format(6)}, read_ts = now() WHERE meter_id = 'M6' AND {RECENT}")
    head_end.connect.start()
    head_end.follow()
    head_end.settle()

    # One that remembers nothing takes another snapshot.
    head_end.connect.delete(head_end.connector)
    head_end.sql(f"UPDATE reads SET {KWH.format(3)}, read_ts = now() WHERE meter_id = 'M8' AND {RECENT}")
    head_end.follow("another")
    head_end.settle()
    head_end.insert(7, 7)
    records = head_end.settle()

    said = [json.loads(each.value() or b"null") for each in records]
    operations = Counter(each["op"] if each else "tombstone" for each in said)
    # M3's, and M4's under its old name; the killed one may have sent them again.
    assert len({each["after"] or json.dumps(each["before"]) for each in said if each and each["op"] == "d"}) == 10
    assert operations["d"] == operations["tombstone"]
    assert operations["u"] >= 7 + 5 + 5 + 1 + 6
    assert operations["r"] >= METERS * (3 + 6) - 6
    once = without_doubles(records)
    assert len(records) - len(once) > METERS * 5
    assert json.loads(once[-1].value() or b"")["op"] == "c"

    counts = tmp_path / "counts.csv"
    counts.write_text("transformer_id,total_meters\n" + "".join(f"T{each},{METERS}\n" for each in range(TRANSFORMERS)))
    events = export(tmp_path / "events.jsonl", read_topic(kafka_broker, EVENTS))
    followed = ("--reads_format=debezium", "--events_format=debezium")
    found, of_each_once = [
        replay(*followed, reads=export(tmp_path / name, some), events=events, meter_counts=counts)
        for name, some in (("all.jsonl", records), ("once.jsonl", once))
    ]
    expected = [(*row[:2], _instant(row[2]), *row[3:]) for row in head_end.sql(EXPECTED)]
    assert len(expected) == 7 * TRANSFORMERS
    assert summaries(found) == expected
    for topic in ("ami.transformer.summary", "ami.transformer.receipt", "ami.alerts.grid", "ami.alerts.events"):
        assert found.lines(topic) == of_each_once.lines(topic), topic
    (alert,) = found.rows("ami.alerts.events")
    assert (alert["entity_id"], alert["alert_type"]) == ("M1", "LAST_GASP")

    reasons = Counter(row["reason"] for row in found.rows("ami.deadletter"))
    assert reasons["ROW_DELETED"] == operations["d"]
    assert reasons["IMPLAUSIBLE_CONSUMPTION"] >= 1
    assert reasons["TOO_LATE"] >= 2  # M1's of long ago
    counters, set_aside = found.counters(), found.set_aside()[READS]
    assert counters["tombstones"] == operations["tombstone"]
    assert counters["accepted_reads"] + set_aside + counters["tombstones"] == len(records)


def _instant(at: datetime) -> str:
    return format_instant(int(at.timestamp()) * MICROS_PER_SECOND)


COUNTS = "ami.headend.transformer_meter_count"


def test_meter_counts_are_those_of_the_table(head_end: HeadEnd, kafka_broker: KafkaBroker) -> None:
    table = "transformer_meter_count"
    head_end.sql(f"DELETE FROM {table}")
    head_end.sql(f"INSERT INTO {table} SELECT 'T' || number, number FROM generate_series(1, 9) AS number")
    head_end.follow(head_end.connector or "ami-headend")
    client = (("bootstrap.servers", kafka_broker.bootstrap_servers),)
    reader = CountsTopic(COUNTS, client, "debezium").open(None)

    def follows() -> None:
        expected = sorted(head_end.sql(f"SELECT transformer_id, total_meters FROM {table}"))
        deadline, found = time.monotonic() + 180, None
        while found != expected:
            assert time.monotonic() < deadline, (found, expected)
            # The topic is made by the connector's first record.
            with suppress(MeterCountsError):
                found = sorted((row.transformer_id, row.total_meters) for row in reader.read().rows())

    try:
        follows()
        head_end.sql(f"UPDATE {table} SET total_meters = 100 WHERE transformer_id = 'T1'")
        head_end.sql(f"DELETE FROM {table} WHERE transformer_id IN ('T2', 'T3')")
        head_end.sql(f"UPDATE {table} SET transformer_id = 'N4' WHERE transformer_id = 'T4'")
        head_end.sql(f"INSERT INTO {table} VALUES ('T2', 200)")
        follows()
        # What a new snapshot says again changes nothing.
        head_end.connect.delete(head_end.connector)
        head_end.follow("once-more")
        head_end.sql(f"INSERT INTO {table} VALUES ('T10', 10)")
        follows()
    finally:
        reader.close()


OTHER = """
CREATE SCHEMA other;
CREATE TABLE other.reads AS
SELECT 'M' || meter AS meter_id, 'S' AS service_point_id, 'C' AS customer_id, 'T1' AS transformer_id, 'F1' AS feeder_id,
  'INTERVAL' AS read_type, timestamp '2026-03-03 12:00' AS interval_start,
  timestamp(3) '2026-03-03 12:15' AS interval_end, (meter / 8.0)::numeric(12,3) AS consumption_kwh,
  (meter / 8.0)::numeric AS delivered_kwh, 0::numeric(20,0) AS received_kwh, (230 + meter / 4.0)::real AS voltage_v,
  meter::numeric(4,0) AS power_quality_code, meter % 2 = 0 AS estimated_flag,
  timestamptz '2026-03-03 12:15:50.123456Z' AS read_ts
FROM generate_series(1, 40) AS meter;
CREATE PUBLICATION other FOR TABLE other.reads;
GRANT USAGE ON SCHEMA other TO ami_cdc;
GRANT SELECT ON other.reads TO ami_cdc;
"""
FORMS = {
    "schemas": {"value.converter.schemas.enable": "true", "decimal.handling.mode": "precise"},
    "texts": {"decimal.handling.mode": "string", "time.precision.mode": "isostring"},
    "neither": {"decimal.handling.mode": "precise"},
}


def test_columns_of_other_types(head_end: HeadEnd, kafka_broker: KafkaBroker) -> None:
    """Timestamps in numbers, decimals in bytes and in texts: all that says what it means gives the same reads."""
    head_end.sql(OTHER)
    for form, settings in FORMS.items():
        own = {
            "slot.name": form,
            "publication.name": "other",
            "table.include.list": "other.reads",
            "topic.prefix": form,
        }
        head_end.follow(form, {**own, **settings, "transforms": ""})
    decoder, found = DebeziumReadDecoder(Settings(allowed_lateness=MAX_INSTANT)), {}
    for form in FORMS:
        messages = wait_for(lambda: read_topic(kafka_broker, f"{form}.other.reads"), 40, head_end, form)  # noqa: B023
        columns, letters = decoder.decode(
            RecordBatch(
                form, [0] * 40, list(range(40)), [each.timestamp()[1] * 1_000 for each in messages],
                [each.value() for each in messages],
            ),
            None,
        )  # fmt: skip
        found[form] = columns.reads(), letters
    for form in ("schemas", "texts"):
        reads, letters = found[form]
        assert not letters
        said = sorted(
            (int(r.meter_id[1:]), r.interval_start, r.interval_end, r.consumption_kwh, r.delivered_kwh, r.received_kwh,
             r.voltage_v, r.power_quality_code, r.estimated_flag, r.read_ts)
            for r in reads
        )  # fmt: skip
        noon, stamp = parse_instant("2026-03-03T12:00:00Z"), parse_instant("2026-03-03T12:15:50.123456Z")
        assert said == [
            (n, noon, noon + WINDOW, n / 8, n / 8, 0, 230 + n / 4, n, n % 2 == 0, stamp) for n in range(1, 41)
        ]
    reads, letters = found["neither"]
    assert not reads
    assert {letter.reason for letter in letters} == {Reason.WRONG_TYPE}
    assert all("time.precision.mode" in letter.detail for letter in letters)


def wait_for(look: Callable[[], list[Message]], count: int, head_end: HeadEnd, connector: str) -> list[Message]:
    deadline = time.monotonic() + 120
    while len(found := look()) < count:
        head_end.connect.state(connector)
        assert time.monotonic() < deadline, head_end.connect.log()[-4000:]
        time.sleep(0.2)
    assert len(found) == count
    return found
