"""Meter counts from every kind of place: the same rows, the same life while a job runs, the same refusals."""

from __future__ import annotations

import base64
import itertools
import json
import pickle
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from confluent_kafka import Producer
from psycopg import sql

from ami_beam import counts
from ami_beam import run as command
from ami_beam.codecs.meter_count_rows import parse
from ami_beam.counts_shrink import ShrinkRule
from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MINUTE, format_instant
from ami_beam.io import meter_counts_topic
from ami_beam.io.meter_counts_source import FollowedCounts, LoadMeterCounts, PolledMeterCounts
from ami_beam.io.meter_counts_table import CountsTable, name_parts
from ami_beam.io.meter_counts_topic import CountsTopic, TopicReader
from ami_beam.io.meter_registry_source import FollowedRegistry
from ami_beam.local.kafka_broker import KafkaBroker
from ami_beam.local.postgresql_server import MISSING, PostgresqlServer, programs
from ami_beam.meter_counts import MeterCountsError, MeterCountsVersion, effective, pack, unpack
from ami_beam.meter_counts_origin import Reading
from ami_beam.postgresql.connection import Database
from ami_beam.records import MeterCount
from ami_beam.registry_counts import ReceiptDelays
from ami_beam.settings import Settings
from tests.counts_places import FILES, FilePlace, Place, TablePlace, TopicPlace, values_of
from tests.debezium import change, decimal_column, time_column, with_schema
from tests.kafka_replay import READS, Outputs, Run, create_topics
from tests.stream import RUNNER, HeadEnd, at, read_json
from tests.test_end_to_end_kafka import wait_for

pytestmark = pytest.mark.processes
RECEIPTS = "ami.transformer.receipt"
WINDOW = 15 * MICROS_PER_MINUTE
QUOTE = '"'
_numbers = itertools.count()
needs_postgresql = pytest.mark.skipif(programs() is None, reason=MISSING)
PLACES = [*FILES, "topic", pytest.param("table", marks=needs_postgresql)]
FOUR_PLACES = ["counts.csv", "counts.avro", "topic", pytest.param("table", marks=needs_postgresql)]
DAY = 24 * MICROS_PER_HOUR
ROWS = [
    MeterCount("TR-1", 32, 120.5, 480 * MICROS_PER_MINUTE, at("00:00"), "C 7"),
    MeterCount("TR-1", 31, None, None, None, None),
    MeterCount('Ümspann, "Werk"|1', 1, 7_200.0, 0, at("10:15") + 1, 'Köln, "Süd"'),
    MeterCount("TR 2", 1_000_000_000, 0.1, 90_000_000, None, None),
    *(MeterCount(f"TR-{number:03}", number, 230.0, None, None, "C1") for number in range(3, 60)),
]
MakePlace = Callable[[str], Place]


@pytest.fixture(scope="module")
def database(postgresql_server: PostgresqlServer, tmp_path_factory: pytest.TempPathFactory) -> Database:
    secrets = tmp_path_factory.mktemp("counts") / "postgresql.properties"
    secrets.write_text(f"password={postgresql_server.password}\n")
    return Database(postgresql_server.create_database("counts"), str(secrets), "ami")


@pytest.fixture
def place_of(tmp_path: Path, request: pytest.FixtureRequest) -> MakePlace:
    def make(kind: str) -> Place:
        if kind == "topic":
            return TopicPlace(request.getfixturevalue("kafka_broker"))
        if kind == "table":
            return TablePlace(request.getfixturevalue("database"))
        return FilePlace(tmp_path / kind)

    return make


def in_order(rows: list[MeterCount]) -> list[MeterCount]:
    return sorted(rows, key=lambda row: (row.transformer_id, effective(row)))


def read(place: Place) -> list[MeterCount]:
    return in_order(unpack(FollowedCounts(place.origin, 0, DAY).load()))


@pytest.mark.parametrize("kind", PLACES)
def test_every_kind_gives_the_same_rows(kind: str, place_of: MakePlace) -> None:
    place = place_of(kind)
    place.write(ROWS)
    assert read(place) == in_order(ROWS)
    place.write(ROWS[3:])
    assert read(place) == in_order(ROWS[3:])
    place.write([])
    with pytest.raises(MeterCountsError, match="no rows"):
        read(place)


@pytest.mark.parametrize("kind", FOUR_PLACES)
def test_a_bad_row_is_told_and_refuses_all_but_a_topic(kind: str, place_of: MakePlace) -> None:
    place = place_of(kind)
    place.write([ROWS[0], MeterCount("TR-9", 0)])
    if kind == "topic":
        assert read(place) == [ROWS[0]]
        return
    with pytest.raises(MeterCountsError, match=r"(line 3|row 2).*: total_meters is '0'; expected an integer from 1"):
        read(place)


# --- while a job runs ----------------------------------------------------------------------------------------------


def settle(polled: PolledMeterCounts, done: Callable[[MeterCountsVersion], bool], seconds: float = 120) -> None:
    """Look until it is so."""
    until = time.monotonic() + seconds
    while not done(next(iter(polled))):
        assert time.monotonic() < until
        time.sleep(0.02)


def followed(place: Place, shrink: ShrinkRule = ShrinkRule()) -> PolledMeterCounts:
    follow = FollowedCounts(place.origin, 0, DAY, shrink=shrink)
    return PolledMeterCounts(follow.load(), follow)


@pytest.mark.parametrize("kind", [*FOUR_PLACES[1:], "registry"])
def test_a_window_uses_the_count_that_is_valid_at_its_end_and_a_job_takes_new_ones(
    kind: str, place_of: MakePlace, tmp_path: Path
) -> None:
    before = [MeterCount("T1", 2), MeterCount("T1", 3, effective_from=at("10:30"))]
    after = [MeterCount("T1", 5)]
    if kind == "registry":
        path = tmp_path / "registry.csv"
        path.write_text(registry_of(before))
        follow = FollowedCounts(
            None, 0, DAY, FollowedRegistry(str(path), 0), ReceiptDelays.of_run(Settings(allowed_lateness=DAY))
        )
        polled = PolledMeterCounts(follow.load(), follow)

        def change() -> None:
            path.write_text(registry_of(after))
            settle(polled, lambda version: [row.total_meters for row in unpack(version)] == [5])

    else:
        place = place_of(kind)
        place.write(before)
        polled = followed(place)

        def change() -> None:
            place.write(after)
            settle(polled, lambda version: unpack(version) == after)

    head_end = HeadEnd(polled)
    for end in ("10:15", "10:30", "10:45"):
        # The second batch shows that the window's time is up.
        for clock in (at(end) + MICROS_PER_MINUTE, at(end) + 6 * MICROS_PER_MINUTE):
            head_end.reads(clock, *(read_json(meter_id=meter, end=end) for meter in ("M1", "M2")))
        if end == "10:30":
            head_end.happens("10:37", change)
    published = head_end.until("10:55").run()
    totals = {row.window_end: row.total_meters for row in published.receipts if row.window_end <= at("10:45")}
    assert totals == {at("10:15"): 2, at("10:30"): 3, at("10:45"): 5}


def registry_of(rows: list[MeterCount]) -> str:
    """A registry by which there are so many."""
    lines = ["meter_id,service_point_id,transformer_id,feeder_id,effective_from,nominal_voltage_v"]
    known: dict[str, int] = {}
    for row in rows:
        since = values_of(row)["effective_from"] or ""
        first = known.get(row.transformer_id, 0)
        volts = row.nominal_voltage_v or ""
        for number in range(first, row.total_meters):
            lines.append(
                f"{row.transformer_id}-{number},{row.transformer_id}-{number},{row.transformer_id},F,{since},{volts}"
            )
        known[row.transformer_id] = row.total_meters
    return "\n".join(lines) + "\n"


NETWORK = [MeterCount(f"T{number}", 2, 120.0, 60 * MICROS_PER_MINUTE) for number in range(10)]


@pytest.mark.parametrize(
    ("kind", "lost"),
    [
        ("counts.csv", "rows"),
        ("counts.csv", "columns"),
        ("topic", "rows"),
        pytest.param("table", "rows", marks=needs_postgresql),
    ],
)
def test_no_storm_of_alerts_when_a_table_comes_in_half(
    kind: str, lost: str, place_of: MakePlace, caplog: pytest.LogCaptureFixture
) -> None:
    """A network of 120 V, whose meters all talk: what is lost would be low against the 230 V of the run."""
    half = NETWORK[:5] if lost == "rows" else [MeterCount(row.transformer_id, 2) for row in NETWORK]

    def alerts(most_pct: float, change: bool) -> list[tuple[str, str, int, str]]:
        place = place_of(kind)
        place.write(NETWORK)
        polled = followed(place, ShrinkRule(most_pct))
        head_end = HeadEnd(polled)

        def happens() -> None:
            caplog.clear()
            place.write(half)
            refused = most_pct < 100
            settle(
                polled,
                lambda version: "Meter counts refused" in caplog.text if refused else unpack(version) == half,
            )

        for clock, end in (("10:01", "10:00"), ("10:16", "10:15"), ("10:31", "10:30"), ("10:46", "10:45")):
            if change and end == "10:15":
                head_end.happens("10:07", happens)
            head_end.reads(clock, *(
                read_json(transformer_id=f"T{number}", meter_id=f"M{number}-{meter}", end=end, voltage_v=120.0)
                for number in range(10) for meter in range(2)
            ))  # fmt: skip
        published = head_end.until("10:52").run()
        return sorted((row.alert_type, row.entity_id, row.alert_time, row.status) for row in published.alerts)

    assert alerts(5, change=True) == []
    if kind == "counts.csv":
        assert alerts(5, change=False) == []
        # The rule is what keeps them away.
        assert len(alerts(100, change=True)) >= 5


class TestShrinking:
    def looks(self, place: Place, rule: ShrinkRule) -> Callable[[], list[list[MeterCount]]]:
        loader = LoadMeterCounts(
            FollowedCounts(place.origin, 0, DAY, shrink=rule), FollowedCounts(place.origin, 0, DAY).load()
        )
        return lambda: [unpack(version) for version in loader.process(None)]

    @pytest.mark.parametrize("kind", FOUR_PLACES)
    def test_refused_until_it_is_accepted(
        self, kind: str, place_of: MakePlace, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        accepted = tmp_path / "accepted.txt"
        place = place_of(kind)
        place.write(NETWORK)
        look = self.looks(place, ShrinkRule(20, str(accepted)))
        assert look() == [NETWORK]
        place.write(NETWORK[:7])
        for _ in range(4):
            # However often it is seen.
            assert look() == []
        assert caplog.text.count("has lost transformers from 10 to 7, meters from 20 to 14") == 4
        place.write(NETWORK[:8])
        assert look() == [NETWORK[:8]]
        place.write(NETWORK[:7])
        # 12.5 % less than the one in use, and 30 % less than the mark that is kept for a day.
        assert look() == []
        accepted.write_text(f"something else\n{pack(NETWORK[:7], 0).version_id[:16]}\n")
        assert look() == [NETWORK[:7]]
        place.write(NETWORK[:6])
        assert look() == [NETWORK[:6]]


def read_on(reader: TopicReader) -> None:
    """Until it fails; the client notices after a while only that a topic is gone."""
    for _ in range(100):
        reader.read()


class TestTopic:
    """What a topic does that no other place does."""

    @pytest.fixture
    def place(self, kafka_broker: KafkaBroker) -> TopicPlace:
        return TopicPlace(kafka_broker)

    @pytest.fixture
    def reader(self, place: TopicPlace) -> Iterator[TopicReader]:
        reader = place.origin.open(DAY)
        yield reader
        reader.close()

    def test_keys_tombstones_and_bad_records(
        self, place: TopicPlace, reader: TopicReader, caplog: pytest.LogCaptureFixture
    ) -> None:
        def rows() -> list[tuple[str, int]]:
            return [(row.transformer_id, row.total_meters) for row in in_order(reader.read().rows())]

        place.send("T1", {"transformer_id": "T1", "total_meters": 1})
        # Its key is the row's.
        place.send(None, {"transformer_id": "T2", "total_meters": 2})
        place.send("T3|2026-03-03T00:00:00Z", {**values_of(ROWS[0]), "transformer_id": "T3"})
        place.send("T3", {"transformer_id": "T3", "total_meters": 4})
        assert rows() == [("T1", 1), ("T2", 2), ("T3", 4), ("T3", 32)]
        same = reader.read().mark
        assert reader.read().mark == same
        place.send("T1", {"transformer_id": "T1", "total_meters": 5})
        place.send(None, {"transformer_id": "T2", "total_meters": 6})
        place.send("T3|2026-03-03T00:00:00Z", None)
        assert rows() == [("T1", 5), ("T2", 6), ("T3", 4)]
        for key, bad in (
            ("T1", b'{"transformer_id": "T1"}'),
            ("T3", b"\xff"),
            ("T4", {"transformer_id": "T4"}),
            (None, None),
        ):
            place.send(key, bad)
        reading = reader.read()
        assert reading.bad_rows == 4
        assert len(reading.rows()) == 3
        assert reader.read().bad_rows == 0
        assert rows() == [("T1", 5), ("T2", 6), ("T3", 4)]
        assert "total_meters is missing; expected an integer from 1" in caplog.text
        assert "neither key nor value" in caplog.text

    def test_bad_records_are_counted(self, place: TopicPlace) -> None:
        place.send("T1", {"transformer_id": "T1", "total_meters": 1})
        place.send("T2", b"nonsense")
        pipeline = TestPipeline(runner=RUNNER)
        _ = pipeline | beam.Create([b""]) | beam.ParDo(LoadMeterCounts(FollowedCounts(place.origin, 0, DAY)))
        result = pipeline.run()
        result.wait_until_finish()
        found = {each.key.metric.name: each.result for each in result.metrics().query()["counters"]}
        assert (found["meter_counts_bad_rows"], found["meter_counts_loaded"]) == (1, 1)
        gauges = {each.key.metric.name: each.result.value for each in result.metrics().query()["gauges"]}
        assert gauges == {"meter_counts_transformers": 1, "meter_counts_meters": 1}

    def test_what_is_not_committed_is_not_there(
        self, kafka_broker: KafkaBroker, place: TopicPlace, reader: TopicReader
    ) -> None:
        place.send("T1", {"transformer_id": "T1", "total_meters": 1})
        producer = Producer({"bootstrap.servers": kafka_broker.bootstrap_servers, "transactional.id": place.topic})
        producer.init_transactions(60)
        for number, commit in ((2, False), (3, True)):
            producer.begin_transaction()
            producer.produce(place.topic, b'{"transformer_id": "T1", "total_meters": %d}' % number, b"T1")
            assert producer.flush(30) == 0
            assert [row.total_meters for row in reader.read().rows()] == [1]
            (producer.commit_transaction if commit else producer.abort_transaction)(60)
        until = time.monotonic() + 60
        while [row.total_meters for row in reader.read().rows()] != [3]:
            assert time.monotonic() < until

    def test_a_topic_that_is_made_anew_is_read_anew(
        self, kafka_broker: KafkaBroker, place: TopicPlace, reader: TopicReader
    ) -> None:
        place.send("T1", {"transformer_id": "T1", "total_meters": 1})
        place.send("T2", {"transformer_id": "T2", "total_meters": 1})
        assert len(reader.read().rows()) == 2
        kafka_broker.delete_topics([place.topic])
        with pytest.raises(MeterCountsError, match="there is no such topic"):
            read_on(reader)
        kafka_broker.create_topic(place.topic, 3)
        place.send("T1", {"transformer_id": "T1", "total_meters": 7})
        until = time.monotonic() + 60
        found: list[MeterCount] = []
        while found != [MeterCount("T1", 7)]:
            assert time.monotonic() < until
            with suppress(MeterCountsError):
                found = reader.read().rows()

    def test_changes_of_a_database(self, kafka_broker: KafkaBroker, place: TopicPlace) -> None:
        reader = CountsTopic(place.topic, place.origin.client, "debezium").open(DAY)
        columns = {
            "effective_from": time_column("MicroTimestamp"),
            "total_meters": {"type": "int32"},
            "nominal_voltage_v": decimal_column(1),
        }

        def row(total: int, since: int | None = None, volts: str | None = None, name: str = "T1") -> bytes:
            values = {
                "transformer_id": name,
                "total_meters": total,
                "effective_from": since,
                "nominal_voltage_v": volts,
            }
            return json.dumps(values).encode()

        def send(key: str | None, value: bytes | None) -> None:
            place.send(None if key is None else json.dumps({"transformer_id": key}), value)

        # 120.5 as the bytes of 1205.
        send("T1", with_schema(change(row(3, at("10:00"), "BLU="), "r"), columns))
        send("T2", change(row(4, name="T2"), "c"))
        send("T3", change(row(5, name="T3"), "r"))
        try:
            assert in_order(reader.read().rows()) == [
                MeterCount("T1", 3, 120.5, None, at("10:00")), MeterCount("T2", 4), MeterCount("T3", 5),
            ]  # fmt: skip
            send("T1", change(row(6), "u"))
            send("T2", change(b"null", "d", before=row(4, name="T2")))
            send("T2", None)
            send("T3", b'{"no": "change"}')
            reading = reader.read()
            assert in_order(reading.rows()) == [MeterCount("T1", 6), MeterCount("T3", 5)]
            assert reading.bad_rows == 1
            send(None, change(None, "t"))
            with pytest.raises(MeterCountsError, match="no rows"):
                reader.read().rows()
        finally:
            reader.close()

    def test_no_broker_and_no_topic_are_sentences(
        self, kafka_broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(meter_counts_topic, "TIMEOUT_SECONDS", 3.0)
        nowhere = CountsTopic("counts", (("bootstrap.servers", "127.0.0.1:1"),))
        with pytest.raises(MeterCountsError, match=r"kafka:counts: cannot be read: .*--bootstrap_servers=127.0.0.1:1"):
            nowhere.open(DAY).read()
        missing = CountsTopic("no.such.topic", (("bootstrap.servers", kafka_broker.bootstrap_servers),))
        with pytest.raises(MeterCountsError, match=r"there is no such topic\. Create it"):
            missing.open(DAY).read()


def test_a_replay_reads_its_counts_from_a_topic(
    kafka_broker: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = TopicPlace(kafka_broker)
    place.write([MeterCount("T1", 4)])
    records = [
        {"ts_ms": at(clock) // 1_000, "value_b64": base64.b64encode(read_json(end=end)).decode()}
        for clock, end in (("10:16", "10:15"), ("10:36", "10:30"))
    ]
    (tmp_path / "reads.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "events.jsonl").write_text("\n")
    words = ["--source=files", "--sink=files", f"--reads={tmp_path}/reads.jsonl", f"--events={tmp_path}/events.jsonl"]
    words += [f"--meter_counts=kafka:{place.topic}", f"--output={tmp_path}/out"]
    assert command.main(words) == 2
    assert f"--meter_counts=kafka:{place.topic}" in capsys.readouterr().err
    assert command.main([*words, f"--bootstrap_servers={kafka_broker.bootstrap_servers}"]) == 0
    receipts = (tmp_path / "out" / "ami.transformer.receipt.jsonl").read_text().splitlines()
    assert [json.loads(receipt)["total_meters"] for receipt in receipts] == [4, 4]


@pytest.mark.parametrize("kind", FOUR_PLACES)
def test_the_command_says_what_is_there(
    kind: str, place_of: MakePlace, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    place = place_of(kind)
    place.write(ROWS)
    words = [f"--meter_counts={place.origin.name}"]
    if isinstance(place.origin, CountsTopic):
        words += [f"--{name.replace('.', '_')}={value}" for name, value in place.origin.client]
    if isinstance(place.origin, CountsTable):
        database = place.origin.database
        quoted = ".".join(f'"{part.replace(QUOTE, QUOTE * 2)}"' for part in place.origin.parts)
        words = [f"--meter_counts=postgresql:{quoted}", f"--postgresql={database.conninfo}"]
        words.append(f"--postgresql_config_file={database.config_file}")
    assert counts.main(words) == 0
    said = capsys.readouterr().out
    assert f"  id                      {pack(ROWS, 0).version_id[:16]}\n  rows                    61\n" in said
    assert counts.main([*words, "--csv"]) == 0
    assert parse(capsys.readouterr().out.encode(), "csv") == in_order(ROWS)
    place.write([])
    assert counts.main(words) == 1
    assert "no rows" in capsys.readouterr().err
    assert counts.main([*words, "--meter_counts_refresh=1"]) == 2


@needs_postgresql
class TestTable:
    def test_names(self) -> None:
        assert name_parts("meter_counts") == ("meter_counts",)
        assert name_parts("gis.Meter counts") == ("gis", "Meter counts")
        assert name_parts('"a.b"."c""d"') == ("a.b", 'c"d')
        for bad in ("", "a.b.c", ".b", "a.", '"a'):
            assert name_parts(bad) is None

    @pytest.mark.parametrize(
        ("column", "value", "problem"),
        [
            (
                "effective_from timestamp",
                "'2026-03-03'",
                "effective_from is '2026-03-03 00:00:00'; expected a time with a zone",
            ),
            ("nominal_voltage_v numeric", "'NaN'", "nominal_voltage_v is 'NaN'; expected volts above 0"),
            ("total_meters float8", "2", "total_meters is '2.0'; expected an integer"),
            ("effective_from timestamptz", "'infinity'", "cannot be read from"),
        ],
    )
    def test_what_is_not_certain_is_refused(self, database: Database, column: str, value: str, problem: str) -> None:
        name = column.split()[0]
        others = {"transformer_id": "'T1'", "total_meters": "2"}
        others.pop(name, None)
        listed = ", ".join(f"{text} AS {other}" for other, text in others.items())
        view = f"v{next(_numbers)}"
        with database.connect() as connection:
            connection.execute(
                f"CREATE VIEW {view} AS SELECT {listed}, {value}::{column.split()[1]} AS {name}".encode()
            )
        with pytest.raises(MeterCountsError) as caught:
            CountsTable(database, (view,)).open(DAY).read().rows()
        assert problem in str(caught.value)

    def test_missing_tables_and_columns_are_sentences(self, database: Database) -> None:
        with database.connect() as connection:
            connection.execute(b"CREATE TABLE no_counts (transformer_id text)")
        with pytest.raises(MeterCountsError, match=r"no_such.*does not exist.*Check the name"):
            CountsTable(database, ("no_such",)).open(DAY).read()
        with pytest.raises(MeterCountsError, match="no column total_meters; columns are transformer_id, total_meters"):
            CountsTable(database, ("no_counts",)).open(DAY).read()

    def test_the_password_is_read_when_it_is_needed(self, database: Database, tmp_path: Path) -> None:
        wrong = tmp_path / "wrong.properties"
        wrong.write_text("password=secret-17\n")
        with pytest.raises(MeterCountsError, match="password authentication failed") as caught:
            CountsTable(Database(database.conninfo, str(wrong), "ami"), ("t",)).open(DAY).read()
        assert "secret-17" not in str(caught.value)
        assert "secret" not in repr(pickle.dumps(CountsTable(database, ("t",))))


def test_a_look_that_takes_long_holds_nobody_up() -> None:
    """The reads go on with the table there is, and take the new one when it has come."""
    slow = _SlowOrigin()
    follow = FollowedCounts(slow, 0, DAY)
    polled = PolledMeterCounts(follow.load(), follow)
    slow.hang()
    for _ in range(50):
        (version,) = polled
        assert unpack(version) == [MeterCount("T1", 1)]
    slow.answer()
    settle(polled, lambda version: unpack(version) == [MeterCount("T1", 2)])


@needs_postgresql
def test_a_locked_table_holds_nobody_up(database: Database) -> None:
    place = TablePlace(database)
    place.write([MeterCount("T1", 1)])
    polled = followed(place)
    name = sql.Identifier(*place.origin.parts)
    with database.connect() as connection, connection.transaction():
        connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(name))
        connection.execute(sql.SQL("UPDATE {} SET total_meters = 2").format(name))
        for _ in range(50):
            (version,) = polled
            assert unpack(version) == [MeterCount("T1", 1)]
    settle(polled, lambda version: unpack(version) == [MeterCount("T1", 2)])


def test_a_broker_that_does_not_answer_holds_nobody_up(
    kafka_broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(meter_counts_topic, "TIMEOUT_SECONDS", 2.0)
    place = TopicPlace(kafka_broker)
    place.write([MeterCount("T1", 1)])
    polled = followed(place)
    settle(polled, lambda version: True)
    kafka_broker.freeze()
    try:
        settle(polled, lambda version: "Meter counts not loaded" in caplog.text)
        (version,) = polled
        assert unpack(version) == [MeterCount("T1", 1)]
    finally:
        kafka_broker.thaw()
    place.write([MeterCount("T1", 2)])
    settle(polled, lambda version: unpack(version) == [MeterCount("T1", 2)])


class _SlowOrigin:
    name = "slow"

    def __init__(self) -> None:
        self._total = 1
        self._answers = threading.Event()
        self._answers.set()

    def hang(self) -> None:
        self._answers.clear()

    def answer(self) -> None:
        self._total = 2
        self._answers.set()

    def open(self, max_receipt_delay: int | None) -> _SlowOrigin:
        return self

    def read(self) -> Reading:
        assert self._answers.wait(60)
        rows = [MeterCount("T1", self._total)]
        return Reading(str(self._total).encode(), lambda: rows)

    def close(self) -> None:
        pass


# --- the whole product ---------------------------------------------------------------------------------------------


def test_a_live_job_follows_a_topic_and_refuses_half_of_it(product_broker: KafkaBroker, tmp_path: Path) -> None:
    place = TopicPlace(product_broker)
    network = [MeterCount(f"T{number}", 2) for number in range(10)]
    place.write(network)
    create_topics(product_broker, partitions=1)
    accepted = tmp_path / "accepted.txt"
    begin = (time.time_ns() // 1_000 - 6 * MICROS_PER_HOUR) // WINDOW * WINDOW
    producer = Producer({"bootstrap.servers": product_broker.bootstrap_servers})

    def pass_(first: int, last: int) -> None:
        for window in range(first, last + 1):
            end = begin + window * WINDOW
            for number in range(10):
                value = read_json(
                    transformer_id=f"T{number}", meter_id=f"M{number}",
                    interval_start=format_instant(end - WINDOW), interval_end=format_instant(end),
                )  # fmt: skip
                producer.produce(READS, value, timestamp=(end + MICROS_PER_MINUTE) // 1_000)
        assert producer.flush(30) == 0

    outputs = Outputs(product_broker, tmp_path / "out")

    def totals(window: int) -> list[int]:
        end = format_instant(begin + window * WINDOW)
        rows = {row["transformer_id"]: row for row in outputs.rows[RECEIPTS] if row["window_end"] == end}
        return [rows[name]["total_meters"] for name in sorted(rows)]

    arguments = [
        "--runner=FlinkRunner", f"--bootstrap_servers={product_broker.bootstrap_servers}", "--start=earliest",
        f"--meter_counts=kafka:{place.topic}", "--meter_counts_refresh=1s", f"--meter_counts_accepted={accepted}",
        "--kafka_io=native", "--parallelism=1", "--shards=4",
    ]  # fmt: skip
    run = Run(arguments, tmp_path / "run.log")

    def said(words: str) -> bool:
        run.check()
        return words in run.log.read_text(errors="replace")

    def await_(done: Callable[[], bool]) -> None:
        wait_for(run, outputs, done, 400)

    try:
        pass_(1, 3)
        await_(lambda: totals(2) == [2] * 10)
        place.write([MeterCount("T0", 3), *network[1:]])
        # Looked at when records come; what is looked at is there with the next ones.
        for window in (4, 5):
            pass_(window, window)
            time.sleep(3)
        pass_(6, 8)
        await_(lambda: totals(7) == [3] + [2] * 9)
        place.write([MeterCount("T0", 3), *network[1:5]])
        for window in (9, 10):
            pass_(window, window)
            time.sleep(3)
        pass_(11, 13)
        await_(lambda: totals(12) == [3] + [2] * 9)
        await_(lambda: said("has lost transformers from 10 to 5"))
        (version,) = set(re.findall(r"has lost transformers from 10 to 5.* Its id is (\w+)", run.log.read_text()))
        accepted.write_text(f"{version}\n")
        for window in (14, 15):
            pass_(window, window)
            time.sleep(3)
        pass_(16, 18)
        await_(lambda: totals(17) == [3] + [2] * 4)
    finally:
        code = run.stop()
        outputs.close()
    assert code == 0
    assert f"10 transformers with 20 meters by now, of {place.origin.name}." in run.log.read_text()
