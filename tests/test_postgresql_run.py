"""Runs of the product with a real PostgreSQL: tables equal files, the article's SQL runs, and no password is seen."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.internal.cloudpickle import cloudpickle
from apache_beam.options.pipeline_options import PipelineOptions

from ami_beam.codecs.json_outputs import OUTPUT_TOPICS
from ami_beam.consumers import OPTIONAL_TOPICS
from ami_beam.io.meter_counts_source import load_version
from ami_beam.io.postgresql_sink import UpsertDoFn
from ami_beam.local.postgresql_server import MISSING, PostgresqlServer, programs
from ami_beam.options import validate
from ami_beam.postgresql.connection import Database
from ami_beam.results import RESULTS, Kind, Result
from ami_beam.run import Registered, build, new_pipeline
from tests.article_sql import AMI_OPERATIONAL_ALERTS, READ_RECEIPT_RATE
from tests.postgresql import new_database, psql, rows
from tests.replays import EVENTS, EVENTS_TOPIC, METER_COUNTS, READS, ROOT, Replay, Row, needs_simbench
from tests.test_article_sql import accepted, article_over_simbench, by

pytestmark = [pytest.mark.processes, pytest.mark.skipif(programs() is None, reason=MISSING)]
PASSWORD = "pw-UNMISTAKABLE-77aa"


def arguments(database: Database, output: Path, *others: str) -> list[str]:
    inputs = [f"--reads={READS}", f"--events={EVENTS}", f"--meter_counts={METER_COUNTS}"]
    where = [f"--postgresql={database.conninfo}", f"--postgresql_config_file={database.config_file}"]
    return ["--source=files", "--sink=files,postgresql", *inputs, *where, f"--output={output}", *others]


class Replayed:
    """A replay to files and tables whose server went away before the first row, and came back."""

    def __init__(self, server: PostgresqlServer, folder: Path, *others: str) -> None:
        self.server = server
        self.database = new_database(server, "replayed", folder)
        output, log = folder / "out", folder / "run.log"
        command = [sys.executable, "-m", "ami_beam.run", *arguments(self.database, output, *others)]
        begun = time.monotonic()
        with log.open("wb") as errors:
            run = subprocess.Popen(command, cwd=ROOT, stdout=errors, stderr=subprocess.STDOUT)
        try:
            self._until(run, log, "state cache")
            server.kill()
            self._until(run, log, "Everything waits for the database")
            server.start()
            assert run.wait(120) == 0, log.read_text()[-4000:]
        finally:
            if run.poll() is None:
                run.kill()
                run.wait()
        self.files = Replay(output, log.read_text(), time.monotonic() - begun)

    @staticmethod
    def _until(run: subprocess.Popen[bytes], log: Path, words: str) -> None:
        until = time.monotonic() + 60
        while words not in log.read_text():
            assert run.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < until
            time.sleep(0.05)


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replayed]:
    with PostgresqlServer() as server:
        folder = tmp_path_factory.mktemp("replayed")
        # The windows of the article, whose SQL is run on the tables.
        everything = f"--also_publish={','.join(OPTIONAL_TOPICS)}", "--customer_id=keep"
        yield Replayed(server, folder, *everything, "--window_closed=left")


def as_json(result: Result, values: tuple[Any, ...]) -> Row:
    """A row of a table as the topic's JSON has it; instants in PostgreSQL's own words."""
    row = dict(zip((field.name for field in result.fields), values, strict=True))
    if result.table == "dead_letter" and row["value_size"] is None:
        del row["value_size"], row["value_sha256"]
    return row if result.kind is None else row | {result.kind[0]: result.kind[1]}


@needs_simbench
class TestReplay:
    @pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.table)
    def test_every_table_is_what_the_files_have(self, replayed: Replayed, result: Result) -> None:
        columns = ", ".join(
            f"to_char(\"{field.name}\" AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US')"
            if field.kind is Kind.INSTANT
            else f'"{field.name}"'
            for field in result.fields
        )
        found = [as_json(result, row) for row in rows(replayed.database, f"SELECT {columns} FROM ami.{result.table}")]
        instants = [field.name for field in result.fields if field.kind is Kind.INSTANT]
        expected = []
        for row in replayed.files.rows(result.topic):
            if result.kind is None or row[result.kind[0]] == result.kind[1]:
                for name in instants:
                    if row[name] is not None:
                        whole, _, fraction = row[name].removesuffix("Z").partition(".")
                        row[name] = f"{whole}.{fraction:0<6}"
                expected.append(row)
        assert sorted(map(text, found)) == sorted(map(text, expected))
        # Its list comes when a whole day is over.
        assert found or result.table == "silent_meter"

    def test_the_config_explains_the_alerts(self, replayed: Replayed) -> None:
        (line,) = (replayed.files.output / "ami.config.jsonl").read_text().splitlines()
        written = json.loads(line)
        found = rows(replayed.database, "SELECT config_id, rules FROM ami.config")
        assert found == [(written["config_id"], written["rules"])]
        assert rows(replayed.database, "SELECT DISTINCT config_id FROM ami.grid_alert") == [(written["config_id"],)]

    def test_nothing_was_lost_while_the_server_was_away(self, replayed: Replayed) -> None:
        counters = replayed.files.counters()
        assert counters["postgresql_retries"] >= 1
        assert counters["postgresql_rows"] >= sum(
            len(replayed.files.lines(topic)) for topic in ("ami.transformer.summary", "ami.deadletter")
        )
        assert replayed.server.password not in replayed.files.log


def text(row: Row) -> str:
    return json.dumps(row, sort_keys=True)


@needs_simbench
class TestArticle:
    """Through psql; what the article's own statements give over the raw records is what `article_sql` computes."""

    def test_its_queries_run_on_the_views(self, replayed: Replayed) -> None:
        query = "SELECT * FROM ami_operational_alerts WHERE alert_source IN ('VOLTAGE', 'COMM')"
        uri = replayed.database.conninfo
        found = psql(replayed.server, uri, query).splitlines()
        assert len(found) == len(replayed.files.rows("ami.alerts.grid")) > 100
        query = "SELECT alert_source, entity_id, alert_time FROM ami_operational_alerts WHERE alert_source = 'EVENT'"
        assert len(psql(replayed.server, uri, query).splitlines()) == len(replayed.files.rows("ami.alerts.events"))

    @pytest.mark.parametrize(
        ("view", "names"),
        [
            (
                "transformer_summary",
                "transformer_id feeder_id window_start window_end total_consumption_kwh meters_reported avg_voltage_v"
                " min_voltage_v max_voltage_v estimated_count",
            ),
            ("read_receipt_rate", "transformer_id window_end meters_reported total_meters receipt_rate_pct"),
            ("ami_operational_alerts", "alert_source entity_id alert_time alert_type detail_value severity"),
        ],
    )
    def test_its_views_have_its_columns(self, replayed: Replayed, view: str, names: str) -> None:
        with replayed.database.connect() as connection:
            found = connection.execute(f"SELECT * FROM ami.{view} LIMIT 0".encode())
            assert found.description is not None
            assert [column.name for column in found.description] == names.split()

    def test_its_summaries_are_those_of_the_view(self, replayed: Replayed) -> None:
        theirs = by(article_over_simbench().rows("transformer_summary"), "transformer_id", "feeder_id", "window_end")
        query = "SELECT row_to_json(t) FROM transformer_summary t"
        ours = by(self._rows(replayed, query), "transformer_id", "feeder_id", "window_end")
        assert ours.keys() == theirs.keys()
        assert len(ours) > 900
        for key, row in theirs.items():
            for name, value in row.items():
                near = pytest.approx(value, abs=1e-6) if name in ("total_consumption_kwh", "avg_voltage_v") else value
                assert ours[key][name] == near, (key, name)

    def test_its_statements_run_unchanged_on_the_views(self, replayed: Replayed) -> None:
        """Steps 2 and 3 word for word in a schema of its own, over our summary and counts and the events as sent."""
        uri = replayed.database.conninfo
        events = [(e["meter_id"], e["event_code"], e.get("event_desc"), e["event_ts"]) for e in self._events(replayed)]
        psql(
            replayed.server,
            uri,
            "CREATE SCHEMA article; CREATE TABLE article.ami_events (meter_id varchar, event_code integer,"
            " event_desc varchar, event_ts timestamptz);",
        )
        load = "COPY article.ami_events FROM STDIN"
        with replayed.database.connect() as connection, connection.cursor() as cursor, cursor.copy(load) as copy:
            for event in events:
                copy.write_row(event)
        psql(replayed.server, uri, READ_RECEIPT_RATE + AMI_OPERATIONAL_ALERTS, "article,ami")
        for view in ("read_receipt_rate", "ami_operational_alerts"):
            ours = self._rows(replayed, f"SELECT row_to_json(t) FROM article.{view} t")
            theirs = article_over_simbench().rows(view)
            assert sorted(map(text, map(plain, ours))) == sorted(map(text, map(plain, theirs)))
            assert len(ours) > 500

    @staticmethod
    def _events(replayed: Replayed) -> list[Row]:
        return accepted(replayed.files, EVENTS_TOPIC)

    @staticmethod
    def _rows(replayed: Replayed, query: str) -> list[Row]:
        lines = psql(replayed.server, replayed.database.conninfo, query).splitlines()
        found = [json.loads(line) for line in lines]
        return [
            {name: value.replace("+00:00", "Z") if isinstance(value, str) else value for name, value in row.items()}
            for row in found
        ]


def plain(row: Row) -> Row:
    """Numbers of either data base as floats."""
    numbers = ("detail_value", "receipt_rate_pct")
    return {name: float(value) if name in numbers else value for name, value in row.items()}


def test_no_password_is_in_the_plan_or_the_graph(postgresql_server: PostgresqlServer, tmp_path: Path) -> None:
    secret = tmp_path / "postgresql.properties"
    secret.write_text(f"password={PASSWORD}\n")
    database = Database(postgresql_server.uri(), str(secret), "ami")
    (tmp_path / "counts.csv").write_text("transformer_id,total_meters\nT1,1\n")
    (tmp_path / "reads.jsonl").write_text("")
    inputs = [f"--{name}={tmp_path}/reads.jsonl" for name in ("reads", "events")]
    settings, plan = validate(
        [*arguments(database, tmp_path / "out"), *inputs, f"--meter_counts={tmp_path}/counts.csv"]
    )
    assert plan.postgresql == database
    assert database.parameters()["password"] == PASSWORD
    pipeline = new_pipeline(plan, PipelineOptions(list(plan.pipeline_args)))
    build(pipeline, settings, plan, load_version(plan.meter_counts, settings.allowed_lateness))
    steps = []

    class Look:
        def visit_transform(self, step: Any) -> None:
            steps.append(getattr(step.transform, "fn", None))

        enter_composite_transform = leave_composite_transform = visit_value = lambda self, *_: None

    pipeline.visit(Look())
    sinks = [step for step in steps if isinstance(step, UpsertDoFn)]
    assert len(sinks) == 7
    # What a runner gets of a step is compressed.
    held = b"".join(map(cloudpickle.dumps, sinks)) + pipeline.to_runner_api().SerializeToString()
    shown = repr(plan) + json.dumps(plan.redacted(), default=str) + str(plan.pipeline_args)
    assert PASSWORD.encode() not in held
    assert str(secret).encode() in held
    assert PASSWORD not in shown


def test_tables_are_made_of_json_where_topics_have_avro(tmp_path: Path) -> None:
    (tmp_path / "counts.csv").write_text("transformer_id,total_meters\nT1,1\n")
    (tmp_path / "reads.jsonl").write_text("")
    inputs = [f"--{name}={tmp_path}/reads.jsonl" for name in ("reads", "events")]
    database = Database("postgresql://ami_writer@db1/ami", None, "ami")
    words = ["--source=files", "--sink=kafka,postgresql", "--runner=FlinkRunner", "--kafka_io=native", *inputs]
    words += ["--bootstrap_servers=broker:9092", "--output_format=avro", "--schema_registry=http://registry:8081"]
    words += [f"--meter_counts={tmp_path}/counts.csv", f"--postgresql={database.conninfo}"]
    settings, plan = validate(words)
    pipeline = beam.Pipeline(options=PipelineOptions(["--runner=DirectRunner"]))
    ids = dict.fromkeys(OUTPUT_TOPICS, 1)
    counts = load_version(plan.meter_counts, settings.allowed_lateness)
    build(pipeline, settings, plan, counts, registered=Registered(ids))
    made_by: dict[str, str] = {}

    class Look:
        def visit_transform(self, step: Any) -> None:
            if step.full_label.startswith(("Kafka ", "PostgreSQL ")):
                made_by.setdefault(step.full_label.partition("/")[0], step.inputs[0].producer.full_label)

        enter_composite_transform = leave_composite_transform = visit_value = lambda self, *_: None

    pipeline.visit(Look())
    assert made_by["PostgreSQL ami.transformer.summary"].startswith("TextSummaryJson")
    assert made_by["Kafka ami.transformer.summary"].startswith("SummaryJson")
