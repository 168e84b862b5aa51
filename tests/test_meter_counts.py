"""Meter counts: what a file must be, which row holds when, and reloading while a job runs."""

import gzip
import io
import json
import logging
import re
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import apache_beam as beam
import fastavro
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from ami_beam import meter_counts
from ami_beam.codecs.meter_count_rows import parse
from ami_beam.instants import MAX_INSTANT, MICROS_PER_HOUR, MICROS_PER_MINUTE, parse_instant
from ami_beam.io.meter_counts_file import CountsFile, load
from ami_beam.io.meter_counts_source import FollowedCounts, LoadMeterCounts, ReadMeterCounts, load_version
from ami_beam.meter_counts import MeterCounts, MeterCountsError, counts_of, newest, pack, unpack
from ami_beam.records import MeterCount
from ami_beam.shards import shard_of
from tests.counts_places import SCHEMA, as_avro, as_csv, as_json, moment, values_of

RUNNER = "BundleBasedDirectRunner"
MARCH = parse_instant("2026-03-01T00:00:00Z")
FULL = MeterCount("T1", 32, 120.5, 480 * MICROS_PER_MINUTE, MARCH)
HEADER = "transformer_id,total_meters,nominal_voltage_v,receipt_delay_minutes,effective_from\n"


def rows_of(tmp_path: Path, content: str | bytes, name: str = "counts") -> list[MeterCount]:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load(str(path), 24 * MICROS_PER_HOUR)


def refusal(tmp_path: Path, content: str | bytes, name: str = "counts") -> str:
    with pytest.raises(MeterCountsError) as caught:
        rows_of(tmp_path, content, name)
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        HEADER + "T1,32,120.5,480,2026-03-01T00:00:00Z\nT2,1,,,\n",
        HEADER + '\nT1, 32 ,120.5,480.0,2026-03-01T01:00:00+01:00\r\n\r\n"T2",1,,,',
        "\ufeff" + "total_meters,effective_from,transformer_id,receipt_delay_minutes,nominal_voltage_v\n"
        "32,2026-03-01T00:00:00Z,T1,480,120.5\n1,,T2,,\n",
        '{"transformer_id": "T1", "total_meters": 32, "nominal_voltage_v": 120.5, "receipt_delay_minutes": 480,'
        ' "effective_from": "2026-03-01T00:00:00Z"}\n\n'
        '{"transformer_id": "T2", "total_meters": 1, "effective_from": null}',
    ],
)
def test_csv_and_json_lines_give_the_same_rows(tmp_path: Path, content: str) -> None:
    assert rows_of(tmp_path, content) == [FULL, MeterCount("T2", 1)]
    assert rows_of(tmp_path, gzip.compress(content.encode()), "counts.gz") == [FULL, MeterCount("T2", 1)]


@pytest.mark.parametrize(
    ("fields", "field", "fix"),
    [
        ({"transformer_id": ""}, "transformer_id is missing", "as the reads have it"),
        ({"transformer_id": " T1"}, "transformer_id is ' T1'", "without spaces"),
        ({"total_meters": ""}, "total_meters is missing", "an integer from 1"),
        ({"total_meters": "0"}, "total_meters is '0'", "remove a transformer that has no meters"),
        ({"total_meters": "-3"}, "total_meters is '-3'", "an integer from 1"),
        ({"total_meters": "1.5"}, "total_meters is '1.5'", "an integer from 1"),
        ({"total_meters": "1_0"}, "total_meters is '1_0'", "an integer from 1"),
        ({"total_meters": "many"}, "total_meters is 'many'", "an integer from 1"),
        ({"nominal_voltage_v": "0"}, "nominal_voltage_v is '0'", "volts above 0"),
        ({"nominal_voltage_v": "nan"}, "nominal_voltage_v is 'nan'", "volts above 0"),
        ({"receipt_delay_minutes": "-1"}, "receipt_delay_minutes is '-1'", "minutes from 0"),
        ({"receipt_delay_minutes": "8h"}, "receipt_delay_minutes is '8h'", "480"),
        ({"receipt_delay_minutes": "1500"}, "receipt_delay_minutes is '1500'", "allowed lateness, 1d"),
        ({"effective_from": "2026-03-01"}, "effective_from is '2026-03-01'", "a time with a zone"),
    ],
)
def test_a_bad_row_is_refused_with_line_field_value_and_fix(
    tmp_path: Path, fields: dict[str, str], field: str, fix: str
) -> None:
    row = {"transformer_id": "T2", "total_meters": "5", "nominal_voltage_v": "", "receipt_delay_minutes": ""}
    row |= {"effective_from": "", **fields}
    text = refusal(tmp_path, f"{HEADER}T1,2,,,\n{','.join(row.values())}\n")
    assert f"line 3: {field}" in text
    assert fix in text
    assert str(tmp_path / "counts") in text


@pytest.mark.parametrize("value", ["true", '"5"', "5.0", "null", "[]", "10000000000"])
def test_json_total_meters_is_a_json_integer(tmp_path: Path, value: str) -> None:
    assert "line 1: total_meters is" in refusal(tmp_path, f'{{"transformer_id": "T1", "total_meters": {value}}}')


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "no rows"),
        (HEADER, "no rows"),
        ("transformer_id;total_meters\nT1;2\n", "no column transformer_id and total_meters"),
        ("transformer_id,total_meters,total_meters\nT1,2,3\n", "there twice"),
        (HEADER + "T1,2\n", "line 2: 2 values under 5 columns"),
        (HEADER + '"T1,2,,,\n', "line 2: not CSV"),
        ('{"transformer_id": "T1", "total_meters": 2}\n[1]', "line 2: not a JSON object"),
        ('{"transformer_id": "T1", "total_meters": 2}\n{"transf', "line 2: not a JSON object"),
        (b"transformer_id,total_meters\nT\xff,1", "not UTF-8"),
        (
            HEADER + "T1,2,,,\nT2,1,,,\nT1,3,,,\n",
            "line 4: transformer_id 'T1' with the same effective_from is on line 2",
        ),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, content: str | bytes, problem: str) -> None:
    assert problem in refusal(tmp_path, content)


def test_a_missing_or_truncated_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MeterCountsError, match="cannot be read"):
        load(str(tmp_path / "missing.csv"))
    packed = gzip.compress((HEADER + "T1,2,,,\n" * 50).encode())
    assert "truncated" in refusal(tmp_path, packed[:-12], "counts.gz")


def test_which_collector_hears_a_transformer(tmp_path: Path) -> None:
    header = HEADER.replace("\n", ",collection_group\n")
    expected = [
        MeterCount("T1", 32, 120.5, 480 * MICROS_PER_MINUTE, MARCH, "C 7"),
        MeterCount("T1", 32, collection_group="C8"),
        MeterCount("T2", 1),
    ]
    rows = header + "T1,32,120.5,480,2026-03-01T00:00:00Z,C 7\nT1,32,,,, C8 \nT2,1,,,,\n"
    assert rows_of(tmp_path, rows) == expected
    lines = [
        '{"transformer_id": "T1", "total_meters": 32, "nominal_voltage_v": 120.5, "receipt_delay_minutes": 480,'
        ' "effective_from": "2026-03-01T00:00:00Z", "collection_group": "C 7"}',
        '{"transformer_id": "T1", "total_meters": 32, "collection_group": "C8"}',
        '{"transformer_id": "T2", "total_meters": 1, "collection_group": null}',
    ]
    assert rows_of(tmp_path, "\n".join(lines)) == expected
    for value, shown in (("5", "'5'"), ('" C8"', "' C8'")):
        text = refusal(tmp_path, f'{{"transformer_id": "T1", "total_meters": 2, "collection_group": {value}}}')
        assert f"line 1: collection_group is {shown}; expected the name of the collector" in text


def test_all_bad_rows_are_named_but_not_endlessly(tmp_path: Path) -> None:
    text = refusal(tmp_path, HEADER + "".join(f"T{number},0,,,\n" for number in range(1000)))
    assert text.count("total_meters is '0'") == 10
    assert "and 990 more" in text


def test_unknown_columns_are_ignored_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert rows_of(tmp_path, "transformer_id,total_meters,bus\nT1,2,x\n") == [MeterCount("T1", 2)]
    assert "unknown columns ignored: bus" in caplog.text


def test_the_row_with_the_greatest_effective_from_up_to_the_window_end_holds() -> None:
    first, second, third = (
        MeterCount("T1", 1),
        MeterCount("T1", 2, None, None, 100),
        MeterCount("T1", 3, None, None, 200),
    )
    late = MeterCount("T2", 9, None, None, 150)
    counts = MeterCounts.from_rows([third, first, late, second])
    assert [counts.at("T1", end) for end in (0, 99, 100, 199, 200)] == [first, first, second, second, third]
    assert [counts.at("T2", end) for end in (149, 150)] == [None, late]
    assert counts.at("T3", 0) is None
    assert len(counts) == 2


@pytest.mark.parametrize("shards", [1, 7, 1024])
def test_shards_hold_every_transformer_once(shards: int) -> None:
    rows = [MeterCount(f"T{number}", 1, None, None, 100 if number % 2 else None) for number in range(200)]
    counts = MeterCounts.from_rows(rows)
    for window_end, expected in ((99, rows[::2]), (100, rows)):
        by_shard = [counts.in_shard(shard, shards, window_end) for shard in range(shards)]
        assert sorted(row.transformer_id for part in by_shard for row in part) == sorted(
            r.transformer_id for r in expected
        )
        for shard, part in enumerate(by_shard):
            assert all(shard_of(row.transformer_id, shards) == shard for row in part)


def test_a_shard_is_the_same_in_every_process() -> None:
    assert [shard_of(name, 1024) for name in ("TR-LV1.104", "T1", "Ümspannwerk")] == [14, 661, 65]


def test_receipt_delays_are_those_in_use() -> None:
    rows = [MeterCount("T1", 1), MeterCount("T2", 1, None, 50), MeterCount("T3", 1, None, 50)]
    assert MeterCounts.from_rows(rows).receipt_delays(20) == (20, 50)
    assert MeterCounts.from_rows(rows[1:]).receipt_delays(20) == (50,)


def test_a_version_is_its_rows_whatever_their_order() -> None:
    rows = [FULL, MeterCount("T0", 1), MeterCount("T1", 2)]
    version = pack(rows, 7)
    assert version.version_id == pack(reversed(rows), 8).version_id != pack(rows[:2], 7).version_id
    assert sorted(row.total_meters for row in unpack(version)) == [1, 2, 32]
    assert newest([pack(rows, 8), version]).loaded_at == 8


def test_a_version_is_unpacked_once_a_process_and_few_are_kept() -> None:
    versions = [pack([MeterCount("T1", number)], 0) for number in range(1, 9)]
    first = counts_of(versions[0])
    assert counts_of(versions[0]) is first
    for version in versions[1:]:
        counts_of(version)
        counts_of(versions[0])
    assert counts_of(versions[0]) is first
    assert len(meter_counts._cache) <= 4


def test_half_a_million_rows_stay_small() -> None:
    version = pack([MeterCount(f"TR-{number:07}", number % 60 + 1) for number in range(100_000)], 0)
    assert len(version.payload) < 1_000_000


def test_reload_gives_changes_only_and_keeps_the_last_good_table(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "counts.csv"
    path.write_text("transformer_id,total_meters\nT1,2\nT2,5\n")
    loader = LoadMeterCounts(FollowedCounts(CountsFile(str(path)), 60_000_000))

    def reload() -> list[list[int]]:
        return [sorted(row.total_meters for row in unpack(version)) for version in loader.process(b"")]

    assert reload() == [[2, 5]]
    assert reload() == []
    path.write_text("transformer_id,total_meters\nT2,5\nT1,2\n")
    assert reload() == []  # only the order changed
    for bad in ("transformer_id,total_meters\nT1,0\n", "transformer_id,total_meters\n", ""):
        path.write_text(bad)
        assert reload() == []
    path.unlink()
    assert reload() == []
    assert caplog.text.count("Meter counts not loaded") == 4
    path.write_text("transformer_id,total_meters\nT1,3\n")
    assert reload() == [[3]]
    path.write_text("transformer_id,total_meters\nT1,2\nT2,5\n")
    assert reload() == [[2, 5]]


def test_a_worker_that_cannot_reach_the_file_uses_the_table_of_the_start(tmp_path: Path) -> None:
    initial = pack([FULL], 7)
    loader = LoadMeterCounts(FollowedCounts(CountsFile(str(tmp_path / "elsewhere.csv")), 60_000_000), initial)
    assert list(loader.process(b"")) == [initial]
    assert list(loader.process(b"")) == []


def test_failed_loads_are_counted(tmp_path: Path) -> None:
    pipeline = TestPipeline(runner=RUNNER)
    missing = str(tmp_path / "missing.csv")
    _ = pipeline | beam.Create([b""]) | beam.ParDo(LoadMeterCounts(FollowedCounts(CountsFile(missing), 60_000_000)))
    result = pipeline.run()
    result.wait_until_finish()
    counters = result.metrics().query(MetricsFilter().with_name("meter_counts_load_failed"))["counters"]
    assert [counter.committed for counter in counters] == [1]


def test_a_bad_file_stops_a_run_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(MeterCountsError):
        load_version(str(tmp_path / "missing.csv"))


def test_bounded_meter_counts_are_one_version(tmp_path: Path) -> None:
    (tmp_path / "counts.jsonl").write_text(json.dumps({"transformer_id": "T1", "total_meters": 2}))
    with TestPipeline(runner=RUNNER) as pipeline:
        versions = pipeline | ReadMeterCounts(load_version(str(tmp_path / "counts.jsonl")), follow=None)
        assert_that(versions | beam.Map(unpack), equal_to([[MeterCount("T1", 2)]]))


def test_unbounded_meter_counts_are_a_graph_in_the_global_window(tmp_path: Path) -> None:
    (tmp_path / "counts.csv").write_text("transformer_id,total_meters\nT1,2\n")
    pipeline = beam.Pipeline(runner=RUNNER)
    path = str(tmp_path / "counts.csv")
    versions = pipeline | ReadMeterCounts(load_version(path), FollowedCounts(CountsFile(path), 60_000_000))
    assert versions.element_type is meter_counts.MeterCountsVersion
    assert versions.windowing.windowfn == beam.window.GlobalWindows()
    assert not versions.windowing.is_default()


IDS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=6)
ROWS = st.builds(
    MeterCount,
    IDS,
    st.integers(1, 1_000_000_000),
    st.none() | st.floats(0.001, 1_000_000),
    st.none() | st.integers(0, 24 * 60 * 60 * 1_000).map(lambda millis: millis * 1_000),
    st.none() | st.integers(0, MAX_INSTANT),
    st.none() | IDS,
)
"""Rows of any content that a good file may have."""


@given(st.lists(ROWS, min_size=1, max_size=8, unique_by=lambda row: (row.transformer_id, row.effective_from)))
def test_csv_json_and_avro_give_the_rows_that_were_written(rows: list[MeterCount]) -> None:
    for content in (as_csv(rows), as_json(rows), as_avro(rows), as_avro(rows, codec="null")):
        assert parse(content, "counts", 24 * MICROS_PER_HOUR) == rows


class TestAvro:
    def refusal(self, content: bytes) -> str:
        with pytest.raises(MeterCountsError) as caught:
            parse(content, "counts", 24 * MICROS_PER_HOUR)
        return str(caught.value)

    def test_its_first_bytes_tell_and_not_its_name(self, tmp_path: Path) -> None:
        assert rows_of(tmp_path, as_avro([FULL]), "counts.csv") == [FULL]
        assert rows_of(tmp_path, gzip.compress(as_avro([FULL])), "counts.jsonl.gz") == [FULL]
        assert "not UTF-8" in refusal(tmp_path, b"Obj\x02" + as_avro([FULL])[4:], "counts.avro")

    def test_bad_rows_have_their_numbers(self) -> None:
        text = self.refusal(as_avro([FULL, MeterCount("T2", 0), MeterCount("T3", 1, -1.0), FULL]))
        assert "row 2: total_meters is '0'; expected an integer from 1" in text
        assert "row 3: nominal_voltage_v is '-1.0'; expected volts above 0" in text
        assert "row 4: transformer_id 'T1' with the same effective_from is on row 1 already" in text

    @pytest.mark.parametrize(
        ("column", "kind", "problem"),
        [
            ("total_meters", "double", "total_meters is '32.0'; expected an integer"),
            ("total_meters", "string", "total_meters is '32'; expected an integer"),
            ("transformer_id", "bytes", "transformer_id is \"b'T1'\"; write the id as the reads have it"),
            (
                "effective_from",
                {"type": "long", "logicalType": "local-timestamp-micros"},
                "effective_from is '2026-03-01 00:00:00'; expected a time with a zone",
            ),
            ("effective_from", "long", "effective_from is '1772323200000000'; expected a time with a zone"),
        ],
    )
    def test_types_are_strict(self, column: str, kind: Any, problem: str) -> None:
        fields = [{**each, "type": kind} if each["name"] == column else each for each in SCHEMA["fields"]]
        values = {**values_of(FULL), "effective_from": moment(FULL)}
        values[column] = {
            "double": 32.0, "string": "32", "bytes": b"T1", "long": 1_772_323_200_000_000,
        }.get(str(kind), datetime(2026, 3, 1))  # fmt: skip
        content = io.BytesIO()
        fastavro.writer(content, fastavro.parse_schema({**SCHEMA, "fields": fields}), [values])
        assert f"row 1: {problem}" in self.refusal(content.getvalue())

    def test_other_times_and_numbers_that_are_certain(self) -> None:
        kinds = {
            "transformer_id": "string",
            "total_meters": "long",
            "nominal_voltage_v": {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 1},
            "receipt_delay_minutes": ["null", "int"],
            "effective_from": {"type": "long", "logicalType": "timestamp-millis"},
        }
        fields = [{"name": name, "type": kind} for name, kind in kinds.items()]
        values = {**values_of(FULL), "nominal_voltage_v": Decimal("120.5"), "effective_from": moment(FULL)}
        content = io.BytesIO()
        schema = fastavro.parse_schema({"type": "record", "name": "Count", "fields": fields})
        fastavro.writer(content, schema, [{**values, "receipt_delay_minutes": 480}])
        assert parse(content.getvalue(), "counts") == [FULL]

    def test_every_truncation_is_refused(self) -> None:
        whole = as_avro([MeterCount(f"T{number}", 1) for number in range(50)], codec="null")
        for size in (*range(5, len(whole), 97), len(whole) - 1):
            assert re.search("damaged or truncated Avro|no rows", self.refusal(whole[:size]))

    def test_other_schemas_are_refused(self) -> None:
        content = io.BytesIO()
        fastavro.writer(content, {"type": "string"}, ["T1"])
        assert "its Avro schema is no record" in self.refusal(content.getvalue())
        fields = [{"name": "transformer_id", "type": "string"}]
        content = io.BytesIO()
        fastavro.writer(content, fastavro.parse_schema({**SCHEMA, "fields": fields}), [{"transformer_id": "T1"}])
        assert "has no field total_meters" in self.refusal(content.getvalue())
