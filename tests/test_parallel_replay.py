"""A replay of many files has the rows of a replay of one, whatever they hold and whichever is read first."""

from __future__ import annotations

import base64
import gzip
import json
import os
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from ami_beam.io.files import WHOLE, ReadReplay, ReplayError, lines_within, parts_of, replay_files
from ami_beam.records import RecordBatch
from ami_beam.simulate import main as simulate
from tests.replays import Replay, replay

Row = dict[str, Any]


def line(number: int, **fields: Any) -> bytes:
    value = base64.b64encode(b"v" * (number % 40)).decode()
    return json.dumps({"ts_ms": 1000 + number, "value_b64": value, **fields}).encode() + b"\n"


@given(st.lists(st.integers(0, 90), min_size=1, max_size=40), st.integers(1, 400), st.booleans())
@settings(max_examples=100)
def test_pieces_of_a_plain_file_have_every_line_once(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], part_bytes: int, ends: bool
) -> None:
    path = tmp_path_factory.mktemp("pieces") / "reads.jsonl"
    lines = [b"x" * size + b"\n" for size in sizes]
    if not ends:
        lines[-1] = lines[-1][:-1]
    path.write_bytes(b"".join(lines))
    found = []
    for _, file, begin, end in parts_of([str(path)], part_bytes):
        if end == WHOLE:
            begin, end = 0, path.stat().st_size
        found += [text for _, _, text in lines_within(file, begin, end)]
    assert found == [text for text in lines if text]


def places(batch: RecordBatch) -> list[str]:
    return [json.dumps(row) for row in zip(batch.partitions, batch.offsets, strict=True)]


def read(path: str, output: Path, part_bytes: int = 64 << 20) -> list[tuple[int, int]]:
    """(partition, offset) of every record, sorted."""
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        batches = pipeline | ReadReplay(path, "t", part_bytes)
        _ = batches | beam.FlatMap(places) | beam.io.WriteToText(str(output / "read"), shard_name_template="")
    return sorted(tuple(json.loads(text)) for text in (output / "read").read_text().splitlines())


def test_records_without_offsets_are_numbered_over_all_files(tmp_path: Path) -> None:
    """As one reader would count them; files with offsets of their own have those."""
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(line(0) + b"\n" + line(1)))
    (tmp_path / "b.jsonl").write_bytes(line(2, partition=5, offset=70) + line(3, partition=5, offset=71))
    (tmp_path / "c.jsonl").write_bytes(line(4) * 3)
    expected = [(0, 0), (0, 2), (0, 3), (0, 4), (0, 5), (5, 70), (5, 71)]
    output = tmp_path / "output"
    assert read(str(tmp_path), output) == expected
    # Not in pieces: their lines would have no numbers.
    assert read(str(tmp_path), output, 20) == expected


def test_a_list_of_files_folders_and_patterns(tmp_path: Path) -> None:
    for name in ("day1/a.jsonl", "day1/_manifest.jsonl", "day2/b.jsonl", "day2/c.txt", "d,e.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(line(0))
    found = replay_files(f"{tmp_path}/day2/*.jsonl, {tmp_path}/day1,{tmp_path}/day2/b.jsonl")
    assert found == [f"{tmp_path}/day2/b.jsonl", f"{tmp_path}/day1/a.jsonl"]
    assert replay_files(f"{tmp_path}/d,e.jsonl") == [f"{tmp_path}/d,e.jsonl"]
    with pytest.raises(ReplayError, match="nowhere"):
        replay_files(f"{tmp_path}/day1,{tmp_path}/nowhere")


@pytest.mark.parametrize("part_bytes", [64 << 20, 20])
def test_a_bad_line_is_named(tmp_path: Path, part_bytes: int) -> None:
    (tmp_path / "a.jsonl").write_bytes(line(0, offset=1) + b'{"ts_ms": 1}\n')
    (tmp_path / "b.jsonl").write_bytes(line(0, offset=2) + line(0))
    for name, where in (("a", f"line 2|byte {len(line(0, offset=1))}"), ("b", "has no offset")):
        (tmp_path / "other.jsonl").write_bytes(line(0, offset=3))
        with pytest.raises(Exception, match=where):
            read(f"{tmp_path}/other.jsonl,{tmp_path}/{name}.jsonl", tmp_path / "output", part_bytes)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A day with faults, silences of the head-end, resent reads and events, planned outages and work; as one file a
    topic, with the partitions and offsets of three partitions."""
    folder = tmp_path_factory.mktemp("history")
    options = ["--meters=60", "--intervals=130", "--planned_outages=3", "--work_orders=8", "--silence=10h,2h"]
    assert simulate([f"--output={folder}", *options]) == 0
    for path in folder.glob("*.jsonl.gz"):
        rows = [json.loads(text) for text in gzip.decompress(path.read_bytes()).splitlines()]
        if path.name == "events.jsonl.gz":
            rows = resent(rows)
        counts = [0, 0, 0]
        for row in rows:
            row["partition"] = sum(row["key"].encode()) % 3 if row["key"] else 0
            row["offset"] = counts[row["partition"]]
            counts[row["partition"]] += 1
        write(path, rows)
    return folder


def resent(rows: list[Row]) -> list[Row]:
    """Some events come again, an hour later and with another description: the first copy counts."""
    again = []
    for row in rows[::3]:
        event = json.loads(base64.b64decode(row["value_b64"]))
        value = base64.b64encode(json.dumps(event | {"event_desc": "SENT AGAIN"}).encode()).decode()
        again.append(row | {"ts_ms": row["ts_ms"] + 3_600_000, "value_b64": value})
    return sorted(rows + again, key=lambda row: row["ts_ms"])


def write(path: Path, rows: list[Row]) -> None:
    text = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    path.write_bytes(gzip.compress(text, 1) if path.suffix == ".gz" else text)


def scattered(history: Path, folder: Path, seed: int) -> Path:
    """The same records in many files: cut at random, in an order that has nothing to do with time, some not packed."""
    rng = random.Random(seed)
    for path in sorted(history.glob("*.jsonl.gz")):
        rows = [json.loads(text) for text in gzip.decompress(path.read_bytes()).splitlines()]
        parts = folder / path.name.removesuffix(".jsonl.gz")
        parts.mkdir(parents=True)
        cuts = sorted(rng.choices(range(len(rows) + 1), k=7))
        names = list(range(8))
        rng.shuffle(names)
        for name, (begin, end) in zip(names, pairwise([0, *cuts, len(rows)]), strict=True):
            own = rows[begin:end]
            rng.shuffle(own)
            write(parts / f"{name}.jsonl{rng.choice(['', '.gz'])}", own)
    return folder


def run(history: Path, folder: Path, *options: str, name: str = "{}") -> Replay:
    """A replay of the records in `folder`, with what else is in `history`."""
    announced = [f"--oms_outages={folder / name.format('outages')}", f"--work={folder / name.format('work')}"]
    return replay(
        *announced,
        "--also_publish=feeder_summary,voltage_heatmap,validated_reads,customer_consumption",
        "--customer_id=keep",
        *options,
        reads=folder / name.format("reads"),
        events=folder / name.format("events"),
        meter_counts=history / "transformer_meter_count.csv",
    )


@pytest.fixture(scope="module")
def in_one_file(history: Path) -> Replay:
    return run(history, history, name="{}.jsonl.gz")


def rows_of(replay: Replay) -> dict[str, list[str]]:
    """All rows by topic, sorted. 3841 and 3841.0 are the same: what a runner does not encode stays what it was."""
    topics = sorted(path.stem for path in replay.output.glob("*.jsonl") if path.stem != "ami.config")
    return {topic: sorted(map(canonical, replay.rows(topic))) for topic in topics}


def canonical(row: Row) -> str:
    return json.dumps({name: float(value) if type(value) is int else value for name, value in row.items()})


def test_files_in_any_order(history: Path, in_one_file: Replay, tmp_path: Path) -> None:
    # Of what depends on what came before what there is something.
    assert {row["alarm_type"] for row in in_one_file.rows("ami.alarms")} >= {"SOURCE_SILENT", "LOW_RECEIPT_RATE"}
    events = in_one_file.rows("ami.alerts.events")
    assert events
    assert not any(row["alert_type"] == "SENT AGAIN" for row in events)
    empty = {topic for topic, rows in rows_of(in_one_file).items() if not rows}
    assert empty <= {"ami.meters.silent"}
    assert rows_of(run(history, scattered(history, tmp_path, 1))) == rows_of(in_one_file)


@pytest.mark.processes
@pytest.mark.parametrize("parallelism", [1, 2] if os.environ.get("AMI_BEAM_EVERY_COMBINATION") else [2])
def test_on_flink_with_one_and_two_workers(
    history: Path, in_one_file: Replay, tmp_path: Path, parallelism: int
) -> None:
    options = "--runner=FlinkRunner", f"--parallelism={parallelism}"
    assert rows_of(run(history, scattered(history, tmp_path, 3), *options)) == rows_of(in_one_file)
