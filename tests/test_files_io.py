"""Replay files in, JSON lines out."""

import gzip
import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp

from ami_beam.codecs.json_outputs import OUTPUT_TOPICS
from ami_beam.io.files import ReadReplay, ReplayError, WriteOutputs, batch_timestamp, read_batches, replay_files
from ami_beam.records import KeyedRecords, RecordBatch

RUNNER = "BundleBasedDirectRunner"


def line(number: int, **fields: Any) -> str:
    value = b64encode(f"value {number}".encode()).decode()
    return json.dumps({"ts_ms": 1000 + number, "key": "ignored", "value_b64": value, **fields})


def replay(path: Path, lines: list[str], newline: str = "\n") -> str:
    data = newline.join(lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


@pytest.mark.parametrize("name", ["reads.jsonl", "reads.jsonl.gz"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_record_once_in_file_order_in_batches(tmp_path: Path, name: str, newline: str) -> None:
    path = replay(tmp_path / name, [line(number) for number in range(4_500)], newline)
    batches = list(read_batches([path], "t"))
    assert [len(batch.offsets) for batch in batches] == [2_000, 2_000, 500]
    assert [offset for batch in batches for offset in batch.offsets] == list(range(4_500))
    assert [time for batch in batches for time in batch.record_times] == [(1000 + n) * 1000 for n in range(4_500)]
    assert [value for batch in batches for value in batch.values] == [f"value {n}".encode() for n in range(4_500)]
    assert {(batch.topic, *batch.partitions) for batch in batches if len(set(batch.partitions)) == 1}
    assert batches[2].partitions == [0] * 500


def test_provenance_is_taken_where_it_is_given(tmp_path: Path) -> None:
    lines = [
        line(0, topic="other", partition=3, offset=77),
        line(1),
        "",
        line(2, value_b64=None, ts_ms=None),
        line(3, ts_ms=-1),
    ]
    batches = list(read_batches([replay(tmp_path / "reads.jsonl", lines)], "t"))
    assert batches == [
        RecordBatch("other", [3], [77], [1_000_000], [b"value 0"]),
        RecordBatch("t", [0, 0, 0], [1, 3, 4], [1_001_000, None, None], [b"value 1", None, b"value 3"]),
    ]


def test_offsets_go_on_over_several_files(tmp_path: Path) -> None:
    for name, count in (("b.jsonl.gz", 2), ("a.jsonl", 3), ("aa.jsonl", 0)):
        replay(tmp_path / name, [line(number) for number in range(count)])
    (tmp_path / "README.md").write_text("not a replay")
    (tmp_path / "folder.jsonl").mkdir()
    for path in (str(tmp_path), str(tmp_path) + "/", str(tmp_path / "*.jsonl*")):
        files = replay_files(path)
        assert [Path(file).name for file in files] == ["a.jsonl", "aa.jsonl", "b.jsonl.gz"]
        batches = list(read_batches(files, "t"))
        assert [offset for batch in batches for offset in batch.offsets] == [0, 1, 2, 3, 4]


def test_no_files_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.jsonl", tmp_path / "*.jsonl"):
        with pytest.raises(ReplayError, match="no such file"):
            replay_files(str(path))


@pytest.mark.parametrize(
    "bad",
    [
        "nonsense",
        "[]",
        '{"ts_ms": 1}',
        '{"value_b64": "e30="}',
        '{"ts_ms": "1", "value_b64": "e30="}',
        '{"ts_ms": 1.5, "value_b64": "e30="}',
        '{"ts_ms": 1, "value_b64": "e30"}',
        '{"ts_ms": 1, "value_b64": "e30=", "offset": "x"}',
        '{"ts_ms": 1, "value_b64": "e3',
    ],
)
def test_a_bad_line_is_an_error_with_file_and_line(tmp_path: Path, bad: str) -> None:
    first, second = replay(tmp_path / "a.jsonl", [line(0)]), replay(tmp_path / "b.jsonl", [line(0), line(1), bad])
    with pytest.raises(ReplayError, match=r"b\.jsonl, line 3: not an exported Kafka record: .*Expected"):
        list(read_batches([first, second], "t"))


@pytest.mark.parametrize("cut", [1, 8, 300])
def test_a_truncated_file_is_never_a_shorter_one(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "reads.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(line(number) for number in range(5_000)).encode())[:-cut])
    with pytest.raises(ReplayError, match=r"reads\.jsonl\.gz: damaged or truncated"):
        list(read_batches([str(path)], "t"))


def test_a_batch_is_as_old_as_its_oldest_record() -> None:
    def of(*times: int | None) -> Timestamp:
        return batch_timestamp(RecordBatch("t", [0] * len(times), [0] * len(times), list(times), [None] * len(times)))

    assert of(5_000, 3_000, None, 4_000) == Timestamp(micros=3_000)
    assert of(None) == MIN_TIMESTAMP
    assert of(2**62) < MAX_TIMESTAMP


def test_read_replay_gives_typed_batches_with_record_time(tmp_path: Path) -> None:
    path = replay(tmp_path / "reads.jsonl.gz", [line(number) for number in range(2_001)])
    with TestPipeline(runner=RUNNER) as pipeline:
        batches = pipeline | ReadReplay(path, "t")
        assert batches.element_type is RecordBatch
        stamped = batches | beam.Map(lambda batch, time=beam.DoFn.TimestampParam: (time.micros, len(batch.offsets)))
        assert_that(stamped, equal_to([(1_000_000, 2_000), (3_000_000, 1)]))


@pytest.mark.parametrize("runner", [RUNNER, "apache_beam.runners.portability.fn_api_runner.FnApiRunner"])
def test_outputs_are_one_file_a_topic_also_when_empty(tmp_path: Path, runner: str) -> None:
    values = [f'{{"n":{number},"text":"ü"}}'.encode() for number in range(100)]
    for run in (values, values[:3]):  # the second replaces the files of the first
        with TestPipeline(runner=runner) as pipeline:
            records = pipeline | beam.Create([KeyedRecords([b"key"] * len(part), part) for part in (run[:2], run[2:])])
            windowed = records | beam.WindowInto(beam.window.FixedWindows(1))
            empty = records | beam.Filter(lambda record: False)
            outputs = dict.fromkeys(OUTPUT_TOPICS, (empty,)) | {OUTPUT_TOPICS[0]: (windowed,)}
            _ = outputs | WriteOutputs(str(tmp_path / "results"))
        assert sorted(p.name for p in (tmp_path / "results").iterdir()) == sorted(f"{t}.jsonl" for t in OUTPUT_TOPICS)
        lines = (tmp_path / "results" / f"{OUTPUT_TOPICS[0]}.jsonl").read_bytes().splitlines()
        assert sorted(lines) == sorted(run)
        assert (tmp_path / "results" / f"{OUTPUT_TOPICS[1]}.jsonl").read_bytes() == b""
