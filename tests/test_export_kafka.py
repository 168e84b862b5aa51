"""`python -m ami_beam.export` over a real broker: all records, resumed, checked, and replayed."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from ami_beam.export import main
from ami_beam.io.files import read_batches, replay_files
from ami_beam.io.kafka_period import period_batches
from ami_beam.local.kafka_broker import KafkaBroker
from tests.memory_files import SCHEME, MemoryFiles
from tests.replays import ROOT

pytestmark = pytest.mark.processes
HOUR_MS = 3_600_000
BEGIN_MS = 1_772_496_000_000
"""2026-03-03T00:00:00Z."""
RECORDS = 900
LARGE = 150_000


def export(broker: KafkaBroker, *options: str, fails: int | None = None) -> Any:
    """What the command says, as JSON; or, where it has to fail, the error."""
    where = [] if "--verify" in options else [f"--bootstrap_servers={broker.bootstrap_servers}"]
    said, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(errors):
        code = main([*where, "--json", *options])
    assert code == (fails or 0), errors.getvalue()
    return json.loads(said.getvalue()) if said.getvalue() else errors.getvalue()


def lines(folder: Path) -> dict[tuple[int, int], dict[str, Any]]:
    """By partition and offset."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for file in sorted(folder.glob("[!_]*.jsonl*")):
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        for text in content.splitlines():
            line = json.loads(text)
            place = line["partition"], line["offset"]
            assert place not in found
            found[place] = line
    return found


def in_topic(broker: KafkaBroker, topic: str) -> dict[tuple[int, int], tuple[Any, ...]]:
    """Record time, key, value and headers by partition and offset, as a consumer sees them."""
    settings = {"bootstrap.servers": broker.bootstrap_servers, "group.id": "test", "enable.partition.eof": True}
    consumer = Consumer({**settings, "isolation.level": "read_committed"})
    found, at_end = {}, set()
    try:
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(3)])
        until = time.monotonic() + 120
        while len(at_end) < 3 and time.monotonic() < until:
            for message in consumer.consume(1000, 1.0):
                if message.error() is not None:
                    at_end.add(message.partition())
                    continue
                place = message.partition(), message.offset()
                found[place] = message.timestamp()[1], message.key(), message.value(), message.headers()
    finally:
        consumer.close()
    assert len(at_end) == 3
    return found


@pytest.fixture(scope="module")
def topic(kafka_broker: KafkaBroker) -> str:
    """Six hours of records in three partitions, with all that a record may be, and transactions of both ends."""
    name = "export.reads"
    kafka_broker.create_topics([name], 3)
    plain = Producer({"bootstrap.servers": kafka_broker.bootstrap_servers})
    for number in range(RECORDS):
        value = None if number % 50 == 0 else f"value {number} ü ".encode() * (1 + number % 30)
        key = None if number % 7 == 0 else b"\xff\x00" if number % 11 == 0 else f"M{number}".encode()
        headers = [("replayed", b"\x00\xff"), ("replayed", None)] if number % 13 == 0 else []
        # A few come out of order.
        ts_ms = BEGIN_MS + number * 6 * HOUR_MS // RECORDS - (2 * HOUR_MS if number % 90 == 89 else 0)
        plain.produce(name, value, key, number % 2, timestamp=ts_ms, headers=headers)
    assert plain.flush(60) == 0
    unsure = Producer({"bootstrap.servers": kafka_broker.bootstrap_servers, "transactional.id": "export-test"})
    unsure.init_transactions(60)
    for keeps in (True, False):
        unsure.begin_transaction()
        for partition in range(2):
            unsure.produce(name, b"committed" if keeps else b"aborted", partition=partition, timestamp=BEGIN_MS)
        assert unsure.flush(60) == 0
        if keeps:
            unsure.commit_transaction(60)
        else:
            unsure.abort_transaction(60)
    return name


@pytest.fixture(scope="module")
def exported(kafka_broker: KafkaBroker, topic: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of it, in files of an hour, small ones."""
    folder = tmp_path_factory.mktemp("export") / "reads"
    said = export(kafka_broker, f"--topic={topic}", f"--output={folder}", "--file_size=16KB")
    assert said["complete"]
    assert said["records"] == RECORDS + 2
    assert said["files"] == len(list(folder.glob("*.jsonl.gz")))
    return folder


def test_every_committed_record_as_it_is(kafka_broker: KafkaBroker, topic: str, exported: Path) -> None:
    found = {
        place: (
            line["ts_ms"],
            b64decode(line["key_b64"]) if "key_b64" in line else line["key"] and line["key"].encode(),
            None if line["value_b64"] is None else b64decode(line["value_b64"]),
            [(name, value and b64decode(value)) for name, value in line.get("headers_b64", [])] or None,
        )
        for place, line in lines(exported).items()
    }
    assert found == in_topic(kafka_broker, topic)
    assert {line["topic"] for line in lines(exported).values()} == {topic}


def test_files_are_cut_by_partition_time_and_size_and_sort_by_time(topic: str, exported: Path) -> None:
    files = sorted(exported.glob("*.jsonl.gz"))
    times = []
    for file in files:
        rows = [json.loads(text) for text in gzip.decompress(file.read_bytes()).splitlines()]
        (partition,) = {row["partition"] for row in rows}
        assert f"-p{partition:05d}-" in file.name
        began = rows[0]["ts_ms"] // HOUR_MS * HOUR_MS
        assert time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(began / 1000)) in file.name
        assert all(row["ts_ms"] < began + HOUR_MS for row in rows)
        assert len(gzip.decompress(file.read_bytes())) < 20_000
        times.append(began)
    assert times == sorted(times)
    assert len(files) > 2 * 6  # more than one of some hours


def test_a_replay_has_what_the_topic_has(kafka_broker: KafkaBroker, topic: str, exported: Path) -> None:
    def rows(batches: Any) -> list[tuple[Any, ...]]:
        return sorted(
            (
                row
                for each in batches
                for row in zip(each.partitions, each.offsets, each.record_times, each.values, strict=True)
            ),
            key=lambda row: row[:2],
        )

    config = {"bootstrap.servers": kafka_broker.bootstrap_servers}
    assert rows(read_batches(replay_files(str(exported)), topic)) == rows(period_batches(config, topic, None, None))


def test_ranges_of_time_and_of_offsets(kafka_broker: KafkaBroker, topic: str, tmp_path: Path) -> None:
    day = "--start=2026-03-03T01:00:00Z", "--end=2026-03-03T02:00:00Z"
    export(kafka_broker, f"--topic={topic}", f"--output={tmp_path / 'hour.jsonl'}", *day)
    in_order = {place: line for place, line in lines(tmp_path).items() if line["ts_ms"] >= BEGIN_MS + HOUR_MS}
    assert len(in_order) >= 148
    assert min(line["ts_ms"] for line in in_order.values()) == BEGIN_MS + HOUR_MS
    assert max(line["ts_ms"] for line in in_order.values()) < BEGIN_MS + 2 * HOUR_MS
    folder = tmp_path / "offsets"
    # Behind the last record of partition 1 are only marks of transactions.
    options = "--start=0:10,1:452", "--end=0:20,1:453", "--compression=none"
    export(kafka_broker, f"--topic={topic}", f"--output={folder}", *options)
    assert sorted(lines(folder)) == [(0, offset) for offset in range(10, 20)]
    assert export(kafka_broker, "--verify", f"--output={folder}")["complete"]
    assert export(kafka_broker, "--verify", f"--output={tmp_path / 'hour.jsonl'}")["complete"]


class TestVerify:
    def test_a_complete_export(self, kafka_broker: KafkaBroker, exported: Path) -> None:
        said = export(kafka_broker, "--verify", f"--output={exported}")
        assert (said["complete"], said["records"], said["problems"]) == (True, RECORDS + 2, [])

    def test_a_missing_and_a_damaged_file(self, kafka_broker: KafkaBroker, exported: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(exported, tmp_path / "copy")
        files = sorted(folder.glob("*.jsonl.gz"))
        files[3].unlink()
        files[5].write_bytes(files[5].read_bytes()[:-20])
        changed = gzip.decompress(files[7].read_bytes()).splitlines(keepends=True)
        files[7].write_bytes(gzip.compress(b"".join(changed[1:])))
        said = export(kafka_broker, "--verify", f"--output={folder}", fails=1)
        assert not said["complete"]
        problems = dict(problem.split(": ", 1) for problem in said["problems"])
        assert problems.keys() == {str(files[at]) for at in (3, 5, 7)}
        assert "missing" in problems[str(files[3])]
        with pytest.raises(ValueError, match=f"{files[3].name} of its manifest is missing"):
            replay_files(str(folder))

    def test_a_file_that_the_manifest_has_lost(self, kafka_broker: KafkaBroker, exported: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(exported, tmp_path / "copy")
        path = folder / "_manifest.json"
        manifest = json.loads(path.read_text())
        gone = manifest["files"].pop(4)["spans"][0]
        path.write_text(json.dumps(manifest))
        (problem,) = export(kafka_broker, "--verify", f"--output={folder}", fails=1)["problems"]
        between = f"{gone['first_offset']} to {gone['end_offset'] - 1}"
        assert problem == f"partition {gone['partition']}: offsets {between} are in no file"


def stopped(broker: KafkaBroker, options: list[str], folder: Path, how: signal.Signals) -> int:
    """An export, stopped when it has its first files. Its exit code."""
    command = [sys.executable, "-m", "ami_beam.export", f"--bootstrap_servers={broker.bootstrap_servers}", *options]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while not list(folder.glob("*.jsonl.gz")) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(how)
        return process.wait(120)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def large_topic(kafka_broker: KafkaBroker) -> Iterator[str]:
    """Enough that an export of it can be stopped before its end."""
    name = "export.large"
    kafka_broker.create_topics([name], 2)
    producer = Producer({"bootstrap.servers": kafka_broker.bootstrap_servers, "linger.ms": 20})
    for number in range(LARGE):
        while True:
            try:
                producer.produce(name, b"%0400d" % number, partition=number % 2, timestamp=BEGIN_MS + number * 100)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(120) == 0
    yield name
    kafka_broker.delete_topics([name])


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_an_interrupted_export_goes_on(
    kafka_broker: KafkaBroker, large_topic: str, tmp_path: Path, how: signal.Signals, code: int
) -> None:
    folder = tmp_path / "reads"
    options = [f"--topic={large_topic}", f"--output={folder}", "--file_size=1MB", "--file_period=10m"]
    assert stopped(kafka_broker, options, folder, how) == code
    manifest = json.loads((folder / "_manifest.json").read_text())
    assert not manifest["complete"]
    assert export(kafka_broker, "--verify", f"--output={folder}", fails=1)["problems"]
    # Every file that has its own name is whole.
    for file in folder.glob("*.jsonl.gz"):
        gzip.decompress(file.read_bytes())
    if how == signal.SIGTERM:
        assert not list(folder.glob("*.part"))
    with pytest.raises(ValueError, match="is not complete"):
        replay_files(str(folder))
    before = {file.name: file.read_bytes() for file in folder.glob("*.jsonl.gz")}
    # What comes after the export began is no part of it.
    late = Producer({"bootstrap.servers": kafka_broker.bootstrap_servers})
    late.produce(large_topic, b"later", partition=0, timestamp=BEGIN_MS)
    assert late.flush(30) == 0
    ends = {each["partition"]: each["end_offset"] for each in manifest["partitions"]}
    assert export(kafka_broker, *options)["records"] == sum(ends.values())
    assert all((folder / name).read_bytes() == content for name, content in before.items())
    assert not list(folder.glob("*.part"))
    assert export(kafka_broker, "--verify", f"--output={folder}")["complete"]
    numbers = [int(b64decode(line["value_b64"])) for line in lines(folder).values() if line["value_b64"][:2] == "MD"]
    assert sorted(numbers) == list(range(LARGE))


def test_another_export_is_not_mixed_in(kafka_broker: KafkaBroker, topic: str, tmp_path: Path) -> None:
    options = [f"--topic={topic}", f"--output={tmp_path / 'reads'}"]
    export(kafka_broker, *options, "--end=2026-03-03T02:00:00Z")
    error = export(kafka_broker, *options, "--end=2026-03-03T03:00:00Z", fails=2)
    assert "end=2026-03-03T02:00:00Z, and now it is end=2026-03-03T03:00:00Z" in error
    assert "--overwrite" in error
    anew = export(kafka_broker, *options, "--end=2026-03-03T03:00:00Z", "--overwrite")
    assert anew["records"] == len(lines(tmp_path / "reads"))
    assert export(kafka_broker, "--verify", f"--output={tmp_path / 'reads'}")["complete"]


def test_to_a_bucket_and_from_there(
    kafka_broker: KafkaBroker, topic: str, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As to a folder: where files are is for Beam's file systems alone."""
    MemoryFiles.objects.clear()
    where = f"--bootstrap_servers={kafka_broker.bootstrap_servers}", f"--topic={topic}"
    output = f"{SCHEME}://bucket/history/reads"
    assert main([*where, f"--output={output}", "--file_size=16KB"]) == 0
    assert main(["--verify", f"--output={output}"]) == 0
    assert f"complete. {RECORDS + 2:,} records" in capsys.readouterr().out
    local = {path.name: path.read_bytes() for path in exported.glob("*.jsonl.gz")}
    names = {path.rpartition("/")[2]: content for path, content in MemoryFiles.objects.items()}
    assert {name: content for name, content in names.items() if name.startswith(topic)} == local
    assert names.keys() - local.keys() == {"_manifest.json"}
    assert list(read_batches(replay_files(output), topic)) == list(read_batches(replay_files(str(exported)), topic))
    gone = sorted(MemoryFiles.objects)[3]
    del MemoryFiles.objects[gone]
    assert main(["--verify", f"--output={output}"]) == 1
    assert f"{gone}: missing" in capsys.readouterr().out
    with pytest.raises(ValueError, match="of its manifest is missing"):
        replay_files(output)


def test_wrong_partitions_and_topics_are_named(kafka_broker: KafkaBroker, topic: str, tmp_path: Path) -> None:
    output = f"--output={tmp_path / 'reads'}"
    assert "has no partition 7" in export(kafka_broker, f"--topic={topic}", output, "--start=7:1", fails=1)
    assert "has no topic export.nowhere" in export(kafka_broker, "--topic=export.nowhere", output, fails=2)
