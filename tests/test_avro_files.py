"""Avro files of validated reads: every row is in one, by day and hour, as any reader of Avro sees it."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import apache_beam as beam
import duckdb
import fastavro
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from ami_beam.codecs.billing_batches import validated_batch
from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MINUTE
from ami_beam.io import avro_files
from ami_beam.io.avro_files import WriteAvroFiles, by_file, hour_folder, write_file
from ami_beam.records import MeterDay, ValidatedBatch, ValidatedRead
from ami_beam.schemas import schema_text

BEGIN = 1_772_496_000_000_000  # 2026-03-03T00:00:00Z
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read(meter: int, start: int, revision: int = 0) -> ValidatedRead:
    end = start + 15 * MICROS_PER_MINUTE
    return ValidatedRead(
        f"M{meter}", "S", None, "T1", start, end, 0.25 + meter, 0.25, 0.0, "ACTUAL", 0, False, False, ["UNBALANCED"],
        end, end, revision,
    )  # fmt: skip


def day(meter: int, of: str = "2026-03-03") -> MeterDay:
    return MeterDay(f"M{meter}", of, 96, 96, 0, 1.0, 1.0, 0.0, None, 0, None, 0, 0, None, [], BEGIN, 0)


BATCHES = [
    validated_batch([read(meter, BEGIN + hour * MICROS_PER_HOUR) for meter in range(20)], [day(hour)])
    for hour in range(3)
]


def written(folder: Path, pattern: str = "*") -> dict[str, list[dict[str, Any]]]:
    """What a reader that knows none of our code finds, by folder."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.rglob(pattern)):
        if path.is_file():
            assert path.suffix == ".avro", path
            with path.open("rb") as stream:
                found.setdefault(str(path.parent.relative_to(folder)), []).extend(fastavro.reader(stream))  # type: ignore[arg-type]
    return found


def run(folder: Path, batches: list[ValidatedBatch], zone: str = "UTC") -> None:
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        rows = pipeline | beam.Create(batches).with_output_types(ValidatedBatch)
        _ = rows | WriteAvroFiles(str(folder), zone, None)


def test_every_row_is_in_the_file_of_its_hour(tmp_path: Path) -> None:
    run(tmp_path / "made" / "here", BATCHES)
    found = written(tmp_path / "made" / "here")
    assert {folder: len(rows) for folder, rows in found.items()} == {
        "reads/day=2026-03-03/hour=00": 20,
        "reads/day=2026-03-03/hour=01": 20,
        "reads/day=2026-03-03/hour=02": 20,
        "meter_days/day=2026-03-03": 3,
    }
    row = next(row for row in found["reads/day=2026-03-03/hour=01"] if row["meter_id"] == "M7")
    sent = read(7, BEGIN + MICROS_PER_HOUR)
    times = ("interval_start", "interval_end", "read_ts", "as_of")
    expected = {name: getattr(sent, name) for name in sent.__struct_fields__}
    assert row == expected | {name: EPOCH + timedelta(microseconds=expected[name]) for name in times}
    # Nothing is left of what was being written.
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_the_same_rows_again_are_the_same_files(tmp_path: Path) -> None:
    run(tmp_path, BATCHES)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.avro")}
    run(tmp_path, BATCHES[::-1])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.avro")} == before
    # Revised rows are added, and the greater as_of counts.
    run(tmp_path, [validated_batch([read(7, BEGIN, 1)])])
    assert len(written(tmp_path)["reads/day=2026-03-03/hour=00"]) == 21


@pytest.mark.parametrize(
    ("instant", "zone", "folder"),
    [
        (BEGIN, "UTC", "day=2026-03-03/hour=00"),
        (BEGIN - 1, "UTC", "day=2026-03-02/hour=23"),
        (BEGIN, "America/Chicago", "day=2026-03-02/hour=18"),
        (BEGIN, "Asia/Kathmandu", "day=2026-03-03/hour=05"),
    ],
)
def test_days_and_hours_are_those_of_the_zone(instant: int, zone: str, folder: str) -> None:
    assert hour_folder(instant, zone) == folder
    (key,) = (key for key, _ in by_file(validated_batch([read(1, instant)]), zone))
    assert key.rpartition("/")[0] == f"reads/{folder}"


def test_a_file_has_no_more_rows_than_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avro_files, "MOST_ROWS", 10)
    run(tmp_path, [validated_batch([read(meter, BEGIN)]) for meter in range(200)])
    sizes = Counter(path.parent.name for path in tmp_path.rglob("*.avro"))
    assert len(written(tmp_path)["reads/day=2026-03-03/hour=00"]) == 200
    assert 200 / 10 <= sizes["hour=00"] <= 200 / 10 + avro_files.WRITERS


def test_a_file_that_cannot_be_written_leaves_none(tmp_path: Path) -> None:
    schema = fastavro.parse_schema(json.loads(schema_text("validated_read")))
    broken = read(1, BEGIN)
    broken.meter_id = 7  # type: ignore[assignment]
    with pytest.raises(Exception, match="meter_id"):
        write_file(str(tmp_path), [read(0, BEGIN), broken], schema)
    assert not list(tmp_path.glob("*.avro"))


def test_duckdb_sums_what_a_reader_gives_it(tmp_path: Path) -> None:
    """As a data warehouse would: the last version of every interval, by what the file says of its types."""
    run(tmp_path, [validated_batch([read(meter, BEGIN, revision) for meter in range(5) for revision in range(2)])])
    rows = written(tmp_path)["reads/day=2026-03-03/hour=00"]
    table = duckdb.connect()
    table.execute("CREATE TABLE reads (meter_id VARCHAR, interval_end TIMESTAMPTZ, revision BIGINT, kwh DOUBLE)")
    table.executemany(
        "INSERT INTO reads VALUES (?, ?, ?, ?)",
        [[row["meter_id"], row["interval_end"], row["revision"], row["consumption_kwh"]] for row in rows],
    )
    total = table.execute(
        "SELECT count(*), sum(kwh) FROM"
        " (SELECT max_by(kwh, revision) AS kwh FROM reads GROUP BY meter_id, interval_end)"
    ).fetchone()
    assert total == (5, sum(0.25 + meter for meter in range(5)))
