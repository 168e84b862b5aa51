"""The whole product with Avro on both sides: a real broker, a real registry, embedded Flink."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import fastavro
import pytest
from confluent_kafka.schema_registry import Schema
from fastavro.validation import validate

from ami_beam.codecs import strict_json
from ami_beam.codecs.dead_letter_reasons import Rejection
from ami_beam.codecs.json_outputs import OUTPUT_TOPICS
from ami_beam.consumers import VALIDATED_TOPIC
from ami_beam.instants import parse_instant
from ami_beam.io.schema_registry import RegistryAddress
from ami_beam.local.kafka_broker import KafkaBroker
from ami_beam.local.schema_registry import SchemaRegistry
from ami_beam.schemas import schema_text, subject_of
from tests.kafka_replay import EVENTS, READS, Outputs, Run, create_topics, publish, shift_to_now
from tests.replays import EVENTS as EVENTS_FILE
from tests.replays import METER_COUNTS, SIMBENCH, exported, needs_simbench, replay, write_export
from tests.replays import READS as READS_FILE
from tests.test_avro_files import written
from tests.test_end_to_end_kafka import accepted

pytestmark = pytest.mark.processes
TIMES = ("interval_start", "interval_end", "read_ts", "event_ts")


class Producer:
    """A head-end that writes what it can in Avro. What is no record of the contract it sends as it is."""

    def __init__(self, registry: SchemaRegistry, topic: str) -> None:
        text = schema_text(subject_of(topic))
        with RegistryAddress(registry.url).client() as client:
            self.head = b"\0" + client.register_schema(subject_of(topic), Schema(text, "AVRO")).to_bytes(4, "big")
        self.schema = fastavro.parse_schema(json.loads(text))

    def __call__(self, value: bytes | None) -> bytes | None:
        try:
            # Python's own parser takes UTF-16 and what is nested deeper for JSON, too.
            row: Any = strict_json.parse(value or b"")
            row |= {name: parse_instant(row[name]) for name in TIMES if name in row}
        except (Rejection, ValueError, TypeError):
            return value
        if not validate(row, self.schema, raise_errors=False):
            return value
        stream = io.BytesIO()
        try:
            fastavro.schemaless_writer(stream, self.schema, row)
        except (UnicodeEncodeError, OverflowError):  # half a surrogate pair, a number beyond all floats
            return value
        return self.head + stream.getvalue()


class Consumer:
    """A consumer who knows the registry's REST calls and fastavro, and none of our code."""

    def __init__(self, registry: SchemaRegistry) -> None:
        self._url = registry.url
        self._schema = cache(self._fetched)

    def _fetched(self, number: int) -> Any:
        with urllib.request.urlopen(f"{self._url}/schemas/ids/{number}", timeout=10) as answer:
            return fastavro.parse_schema(json.loads(json.loads(answer.read())["schema"]))

    def as_json(self, value: bytes) -> bytes:
        assert value[0] == 0
        stream = io.BytesIO(value[5:])
        row = fastavro.schemaless_reader(stream, self._schema(int.from_bytes(value[1:5], "big")), None)
        assert stream.read() == b""
        return json.dumps(row, default=_text).encode()


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else base64.b64encode(value).decode()  # type: ignore[arg-type]


@needs_simbench
def test_files_in_avro_give_the_rows_of_those_in_json(schema_registry: SchemaRegistry, tmp_path: Path) -> None:
    paths = {READS: READS_FILE, EVENTS: EVENTS_FILE}
    lines = {topic: exported(path)[:20_000] for topic, path in paths.items()}
    files: dict[str, list[Path]] = {topic: [] for topic in paths}
    for topic, rows in lines.items():
        files[topic].append(write_export(tmp_path / f"{topic}.json.jsonl", rows))
        produce = Producer(schema_registry, topic)
        avro = [row | {"value_b64": _encoded(produce(_decoded(row["value_b64"])))} for row in rows]
        files[topic].append(write_export(tmp_path / f"{topic}.avro.jsonl", avro))
    options = ("--reads_format=avro", "--events_format=avro", f"--schema_registry={schema_registry.url}")
    of_json = replay(reads=files[READS][0], events=files[EVENTS][0])
    of_avro = replay(*options, reads=files[READS][1], events=files[EVENTS][1])
    for topic in OUTPUT_TOPICS:
        if topic != "ami.deadletter":
            assert of_avro.lines(topic) == of_json.lines(topic), topic
    assert len(of_json.lines("ami.transformer.summary")) >= 100
    assert of_avro.set_aside() == of_json.set_aside()
    heard = next(row for row in of_json.rows("ami.alerts.grid") if row["detail_value"] > 0)
    arguments = ["--source=files", f"--output={of_avro.output}", f"--meter_counts={METER_COUNTS}"]
    arguments += [f"--reads={files[READS][1]}", f"--events={files[EVENTS][1]}", *options, "--json"]
    command = [sys.executable, "-m", "ami_beam.explain", heard["alert_id"], *arguments]
    explained = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert explained.returncode == 0, explained.stderr[-4000:]
    assert any(window["reads"] for window in json.loads(explained.stdout)["windows"])


def _decoded(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def _encoded(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


@needs_simbench
def test_a_replay_in_avro_gives_the_rows_of_the_one_in_json(
    product_broker: KafkaBroker, schema_registry: SchemaRegistry, tmp_path: Path
) -> None:
    paths = {READS: READS_FILE, EVENTS: EVENTS_FILE}
    create_topics(product_broker)
    product_broker.delete_topics([VALIDATED_TOPIC])
    product_broker.create_topic(VALIDATED_TOPIC, 2)
    shift = shift_to_now(paths.values())
    published = {
        topic: publish(product_broker, topic, path, shift, Producer(schema_registry, topic))
        for topic, path in paths.items()
    }
    outputs = Outputs(product_broker, tmp_path / "out", Consumer(schema_registry).as_json)
    run = Run(
        [
            f"--bootstrap_servers={product_broker.bootstrap_servers}", "--runner=FlinkRunner", "--start=earliest",
            f"--meter_counts={METER_COUNTS}", "--shards=1", "--reads_format=avro", "--events_format=avro",
            "--output_format=avro", f"--schema_registry={schema_registry.url}", "--schema_registration=register",
            "--also_publish=validated_reads", "--customer_id=drop", f"--validated_files={tmp_path / 'files'}",
            "--validated_files_every=3s",
        ],
        tmp_path / "run.log",
    )  # fmt: skip

    def equal() -> bool:
        command = [sys.executable, str(SIMBENCH / "compare.py"), str(SIMBENCH), str(tmp_path / "out"), str(shift)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def in_files() -> bool:
        """Every validated read of the topic is in a file, and the other way round."""
        of_topic = {_key(row) for row in outputs.rows[VALIDATED_TOPIC] if row["record"] == "READ"}
        folders = written(tmp_path / "files", "*.avro")
        return bool(of_topic) and of_topic == {
            _key(row) for folder, rows in folders.items() if folder.startswith("reads/") for row in rows
        }

    try:
        _wait_for(run, outputs, equal)
        _wait_for(run, outputs, in_files)
    finally:
        code = run.stop()
        outputs.close()
    assert code == 0
    for topic, path in paths.items():
        assert accepted(topic, path) + _set_aside(outputs, topic) == published[topic]
    reasons = {row["reason"] for row in outputs.rows["ami.deadletter"]}
    assert "INVALID_AVRO" in reasons
    assert "INVALID_JSON" not in reasons


def _set_aside(outputs: Outputs, topic: str) -> int:
    """Records that windows have not used: those that are only too late for them are used for billing."""
    letters = [row for row in outputs.rows["ami.deadletter"] if row["topic"] == topic]
    return len({(row["partition"], row["offset"]) for row in letters if not row["used"] or row["reason"] == "TOO_LATE"})


def _key(row: dict[str, Any]) -> tuple[str, datetime, int]:
    end = row["interval_end"]
    return row["meter_id"], datetime.fromisoformat(end) if isinstance(end, str) else end, row["revision"]


def _wait_for(run: Run, outputs: Outputs, done: Callable[[], bool]) -> None:
    until = time.monotonic() + 280
    while True:
        run.check()
        # A look takes time from the job: only when nothing has come for a while.
        if outputs.collect(2) == 0 and outputs.count and done():
            return
        assert time.monotonic() < until, run.log_tail()
