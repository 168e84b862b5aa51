"""BigQuery: tables made of the catalogue, rows made of the records themselves, and what Beam's connector is asked for.

Nothing here reaches BigQuery, nor Beam's Java connector.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import duckdb
import grpc
import msgspec
import pytest
from apache_beam import coders
from apache_beam.io.gcp import bigquery_tools
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import (
    beam_expansion_api_pb2,
    beam_expansion_api_pb2_grpc,
    external_transforms_pb2,
    schema_pb2,
)
from apache_beam.typehints.schemas import named_tuple_to_schema
from apache_beam.utils.timestamp import Timestamp

from ami_beam import bigquery_tables
from ami_beam.beam_options import OptionError
from ami_beam.bigquery_tables import Dataset, columns, current_rows, dataset_of, main, partition_column
from ami_beam.codecs.bigquery_rows import row_type, to_row
from ami_beam.codecs.json_outputs import RESULT_TOPICS
from ami_beam.instants import parse_instant
from ami_beam.io.bigquery_sink import WriteToTables, _ToRows
from ami_beam.io.kafka_preflight import Topic
from ami_beam.io.meter_counts_source import load_version
from ami_beam.options import validate
from ami_beam.records import KeyedRecords
from ami_beam.results import RESULTS, Kind, Result
from ami_beam.run import build
from tests.test_results import ENCODERS, each_result, example

DATASET = Dataset("my-project", "ami")
WRITTEN = parse_instant("2026-03-03T12:00:00.000001Z")
TYPES: dict[str, type | tuple[type, ...]] = {
    "STRING": str, "INT64": int, "FLOAT64": float, "BOOL": bool, "TIMESTAMP": Timestamp,
}  # fmt: skip


def table(name: str) -> Result:
    (found,) = [result for result in RESULTS if result.table == name]
    return found


class Checker:
    """Holds rows of one table against its columns."""

    def __init__(self, result: Result) -> None:
        self._result = result
        self._to_row = to_row(result)
        self._columns = columns(result)
        self._kinds = {field.name: field.kind for field in result.fields}
        self._coder = coders.registry.get_coder(row_type(result))
        assert isinstance(self._coder, coders.RowCoder)

    def check(self, value: bytes) -> beam.Row | None:
        """The row of a record: of the columns' types, the record's content, and the same behind Beam's coder."""
        row = self._to_row(value, WRITTEN)
        if row is None:
            return None
        fields = row._asdict()
        assert list(fields) == [column.name for column in self._columns]
        record = msgspec.json.decode(value)
        for column in self._columns:
            found = fields[column.name]
            if column.mode == "REPEATED":
                assert all(type(each) is TYPES[column.field_type] for each in found), column.name
            elif found is None:
                assert column.mode == "NULLABLE", column.name
            else:
                assert type(found) is TYPES[column.field_type], column.name
            if column.name in self._kinds:
                told = record.pop(column.name, None)
                if self._kinds[column.name] is Kind.INSTANT and told is not None:
                    told = Timestamp(micros=parse_instant(told))
                assert found == told, column.name
        assert record == ({} if self._result.kind is None else dict([self._result.kind]))
        again = self._coder.decode(self._coder.encode(row))._asdict()
        assert {name: list(value) if isinstance(value, tuple) else value for name, value in again.items()} == fields
        return row


@each_result
def test_an_example_of_every_kind_is_a_row(result: Result) -> None:
    assert Checker(result).check(ENCODERS[result.row_type](example(result))) is not None


@each_result
def test_a_row_with_every_null_is_a_row(result: Result) -> None:
    optional = {field.name for field in result.fields if field.optional}
    row = example(result)
    for name in row.__struct_fields__:
        name_in_json = "value_b64" if name == "value" and result.table == "dead_letter" else name
        if name_in_json in optional:
            setattr(row, name, None)
    found = Checker(result).check(ENCODERS[result.row_type](row))
    assert found is not None
    assert {name for name, value in found._asdict().items() if value is None} == optional


@each_result
def test_the_columns_are_those_that_beam_and_bigquery_take(result: Result) -> None:
    described = {"fields": [column.to_api_repr() for column in columns(result)]}
    parsed = bigquery_tools.parse_table_schema_from_json(msgspec.json.encode(described).decode())
    assert [(each.name, each.mode) for each in parsed.fields] == [(each.name, each.mode) for each in columns(result)]
    for column in columns(result):
        # BigQuery's own rule for names.
        assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,299}", column.name)
    modes = {column.name: column.mode for column in columns(result)}
    assert modes[partition_column(result)] == "REQUIRED"
    assert all(modes[name] != "REPEATED" for name in result.identity)


def test_the_current_view_has_the_row_that_counts() -> None:
    """On DuckDB, which has QUALIFY, too; the last written of those with the greatest as_of, also without a feeder."""
    result = table("feeder_summary")
    rows = [("FEEDER", "F1", 1, 5, 1), ("FEEDER", "F1", 1, 7, 2), ("FEEDER", "F1", 1, 7, 3), ("FEEDER", "F1", 1, 6, 4)]
    rows += [("SYSTEM", None, 1, 5, 6), ("SYSTEM", None, 1, 4, 7), ("FEEDER", "F1", 2, 1, 8)]
    database = duckdb.connect()
    database.execute("CREATE TABLE t (segment TEXT, feeder_id TEXT, window_end INT, as_of INT, written_at INT)")
    database.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?)", rows)
    found = database.execute(current_rows("t", result).replace("`", '"')).fetchall()
    assert set(found) == {rows[2], rows[4], rows[6]}


def test_statements(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", "--dataset=my-project:ami"]) == 0
    said = capsys.readouterr().out
    assert len(re.findall(r"^CREATE TABLE IF NOT EXISTS `my-project\.ami\.\w+` \($", said, re.MULTILINE)) == len(
        RESULTS
    )
    assert said.count("CREATE OR REPLACE VIEW") == len(RESULTS)
    assert "`flags` ARRAY<STRING>,\n" in said
    assert "PARTITION BY TIMESTAMP_TRUNC(`interval_end`, DAY)\nCLUSTER BY `meter_id`, `interval_end`" in said
    # A name that GoogleSQL reserves.
    assert "`partition` INT64 NOT NULL" in said
    assert main(["sql", "--dataset=ami"]) == 2
    assert "Example: --dataset=my-project:ami" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["ami", "my-project:", "my-project:a-b", "My:ami", "p:a.b.c", "my-project:ami;drop"])
def test_no_dataset(text: str) -> None:
    with pytest.raises(OptionError, match="--x="):
        dataset_of("--x", text)


def test_datasets() -> None:
    assert dataset_of("--x", "my-project.ami") == dataset_of("--x", "my-project:ami") == DATASET
    assert dataset_of("--x", "example.com:my-project:ami").project == "example.com:my-project"


def test_descriptions_are_literals() -> None:
    assert bigquery_tables._literal("it's a \\") == r"'it\'s a \\'"


class Errors(NamedTuple):
    output: str


class Configuration(NamedTuple):
    table: str
    create_disposition: str
    write_disposition: str
    triggering_frequency_seconds: int | None
    auto_sharding: bool
    num_streams: int
    use_at_least_once_semantics: bool
    use_cdc_writes: bool
    primary_key: Sequence[str] | None
    clustering_fields: Sequence[str] | None
    big_lake_configuration: Mapping[str, str] | None
    error_handling: Errors


"""What Beam's Python side gives its Java connector, by the names it has there."""


class Recorder(beam_expansion_api_pb2_grpc.ExpansionServiceServicer):
    """Stands where Beam's Java expansion service does, keeps what it is asked for, and expands nothing."""

    def __init__(self) -> None:
        self.requests: list[beam_expansion_api_pb2.ExpansionRequest] = []

    def DiscoverSchemaTransform(self, request: Any, context: Any) -> Any:
        names = beam.io.gcp.bigquery.StorageWriteToBigQuery
        answer = beam_expansion_api_pb2.DiscoverSchemaTransformResponse()
        config = answer.schema_transform_configs[names.IDENTIFIER]
        config.config_schema.CopyFrom(named_tuple_to_schema(Configuration))
        return answer

    def Expand(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return beam_expansion_api_pb2.ExpansionResponse(error="recorded")


@contextmanager
def recorder() -> Iterator[tuple[Recorder, str]]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    kept = Recorder()
    beam_expansion_api_pb2_grpc.add_ExpansionServiceServicer_to_server(kept, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield kept, f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def test_what_the_connector_is_asked_for() -> None:
    """Up to the request for Beam's Java connector: its settings, and the schema of the rows that it is to get."""
    result = table("receipt")
    with recorder() as (kept, address):
        pipeline = beam.Pipeline()
        records = pipeline | beam.Create([KeyedRecords([], [])]).with_output_types(KeyedRecords)
        with pytest.raises(RuntimeError, match="recorded"):
            _ = {result.topic: (records,)} | WriteToTables(DATASET, address)
    (request,) = kept.requests
    asked_for = external_transforms_pb2.SchemaTransformPayload.FromString(request.transform.spec.payload)
    asked = coders.RowCoder(asked_for.configuration_schema).decode(asked_for.configuration_row)._asdict()
    assert asked["table"] == "my-project:ami.receipt"
    assert asked["create_disposition"] == "CREATE_NEVER"
    assert asked["write_disposition"] == "WRITE_APPEND"
    assert asked["use_at_least_once_semantics"] is True
    sent = _schema_of_input(request)
    assert [field.name for field in sent.fields] == [column.name for column in columns(result)]
    for field, column in zip(sent.fields, columns(result), strict=True):
        assert field.type.nullable is (column.mode == "NULLABLE"), field.name
        if column.field_type == "TIMESTAMP":
            assert field.type.logical_type.urn == "beam:logical_type:micros_instant:v1"
        elif column.field_type == "FLOAT64":
            assert field.type.atomic_type == schema_pb2.DOUBLE
        elif column.field_type == "INT64":
            assert field.type.atomic_type == schema_pb2.INT64


def test_a_run_asks_for_it(tmp_path: Path) -> None:
    (tmp_path / "counts.csv").write_text("transformer_id,total_meters\nT1,1\n")
    words = ["--runner=FlinkRunner", "--sink=kafka,bigquery", "--kafka_io=native", "--bootstrap_servers=broker:9092"]
    words += [f"--meter_counts={tmp_path}/counts.csv", "--bigquery_dataset=my-project:ami"]
    with recorder() as (kept, address):
        service = {"sdks:java:io:google-cloud-platform:expansion-service:build": address}
        settings, plan = validate([*words, f"--beam_services={json.dumps(service)}"])
        assert plan.bigquery == DATASET
        counts = load_version(plan.meter_counts, settings.allowed_lateness)
        names = (plan.reads, plan.events, *RESULT_TOPICS)
        topics = {name: Topic(name, 1, "LogAppendTime", ()) for name in names}
        pipeline = beam.Pipeline(options=PipelineOptions(list(plan.pipeline_args)))
        with pytest.raises(RuntimeError, match="recorded"):
            build(pipeline, settings, plan, counts, topics=topics)
    assert len(kept.requests) == 1


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--sink=bigquery"], "is missing, and --sink=bigquery needs it"),
        (["--sink=bigquery", "--bigquery_dataset=ami"], "is no dataset"),
        (["--sink=bigquery", "--bigquery_dataset=p:ami", "--source=files"], "DirectRunner cannot run"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], problem: str, tmp_path: Path) -> None:
    (tmp_path / "counts.csv").write_text("transformer_id,total_meters\nT1,1\n")
    with pytest.raises(OptionError, match=problem):
        validate(["--bootstrap_servers=broker:9092", f"--meter_counts={tmp_path}/counts.csv", *words])


def _schema_of_input(request: beam_expansion_api_pb2.ExpansionRequest) -> schema_pb2.Schema:
    (name,) = request.transform.inputs.values()
    coder = request.components.coders[request.components.pcollections[name].coder_id]
    while coder.spec.urn != "beam:coder:row:v1":
        coder = request.components.coders[coder.component_coder_ids[0]]
    return schema_pb2.Schema.FromString(coder.spec.payload)


def test_rows_of_a_bundle_are_written_in_its_order() -> None:
    step = _ToRows("receipt")
    step.setup()
    value = ENCODERS[table("receipt").row_type](example(table("receipt")))
    rows = list(step.process(KeyedRecords([b"k"] * 1_000, [value] * 1_000)))
    times = [row.written_at for row in rows]
    assert len(set(times)) == 1_000
    assert times == sorted(times)


def test_rows_of_other_kinds_of_the_topic_are_left_to_their_tables() -> None:
    read = ENCODERS[table("validated_read").row_type](example(table("validated_read")))
    assert to_row(table("meter_day"))(read, WRITTEN) is None
    assert to_row(table("validated_read"))(read, WRITTEN) is not None
