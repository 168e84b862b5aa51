"""`python -m ami_beam.reconcile` as a process: over a real topic, and stopped by a signal."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer

from ami_beam.codecs.avro_outputs import AvroValues
from ami_beam.consumers import VALIDATED_TOPIC
from ami_beam.io.schema_registry import RegistryAddress, register
from ami_beam.local.kafka_broker import KafkaBroker
from ami_beam.local.schema_registry import SchemaRegistry
from tests.billing_json import validated_json
from tests.replays import ROOT
from tests.test_reconcile import HEADER, read

pytestmark = pytest.mark.processes
PREFIX = "reconcile."
TOPIC = PREFIX + VALIDATED_TOPIC
COMMAND = (sys.executable, "-m", "ami_beam.reconcile")


def test_the_topic_as_it_was_at_start(product_broker: KafkaBroker, tmp_path: Path) -> None:
    """Every partition, the final version, and nothing of a transaction that was given up."""
    product_broker.create_topic(TOPIC, partitions=3)
    servers = {"bootstrap.servers": product_broker.bootstrap_servers}
    plain = Producer(servers)
    for number in range(20):
        for kwh in (9.0, 1.0):
            plain.produce(TOPIC, validated_json(read(f"M{number}", kwh=kwh)), f"M{number}")
    plain.produce(TOPIC, None, "M0")
    assert plain.flush(30) == 0
    unsure = Producer({**servers, "transactional.id": "reconcile-test"})
    unsure.init_transactions(30)
    for keeps, number in ((False, 3), (True, 4)):
        unsure.begin_transaction()
        unsure.produce(TOPIC, validated_json(read(f"M{number}", kwh=5.0)), f"M{number}")
        assert unsure.flush(30) == 0
        if keeps:
            unsure.commit_transaction(30)
        else:
            unsure.abort_transaction(30)
    export = tmp_path / "mdms.csv"
    export.write_text("\n".join([HEADER, *(f"M{number},2026-03-03T00:15:00Z,1" for number in range(19)), ""]))
    where = [f"--bootstrap_servers={product_broker.bootstrap_servers}", f"--output_prefix={PREFIX}"]
    output = tmp_path / "differences.jsonl"
    command = [*COMMAND, *where, f"--mdms={export}", "--day=2026-03-03", "--json", f"--output={output}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr[-4000:]
    said = json.loads(done.stdout)
    assert said["here"]["rows"] == {"read": 41, "bad": 0, "outside": 0, "older": 21}
    rows = sorted((row["meter_id"], row["outcome"]) for row in map(json.loads, output.read_text().splitlines()))
    assert rows == [("M19", "missing_in_mdms"), ("M4", "different")]


def test_rows_in_avro(product_broker: KafkaBroker, schema_registry: SchemaRegistry, tmp_path: Path) -> None:
    """With the registry they count; without it the command says what is missing."""
    prefix = "reconcile-avro."
    topic = prefix + VALIDATED_TOPIC
    product_broker.create_topic(topic, partitions=1)
    address = RegistryAddress(schema_registry.url, registration="register")
    values = AvroValues(register(address, [VALIDATED_TOPIC], prefix))
    producer = Producer({"bootstrap.servers": product_broker.bootstrap_servers})
    for number, encode in enumerate((values, validated_json, values)):
        producer.produce(topic, encode(read(f"M{number}")), f"M{number}")
    assert producer.flush(30) == 0
    export = tmp_path / "mdms.csv"
    export.write_text("\n".join([HEADER, *(f"M{number},2026-03-03T00:15:00Z,1" for number in range(3)), ""]))
    where = [f"--bootstrap_servers={product_broker.bootstrap_servers}", f"--output_prefix={prefix}"]
    command = [*COMMAND, *where, f"--mdms={export}", "--day=2026-03-03"]
    for options, code, says in (
        ((f"--schema_registry={schema_registry.url}",), 0, ""),
        ((), 2, "--schema_registry must say"),
        (("--schema_registry=http://127.0.0.1:9/none",), 2, "127.0.0.1:9"),
    ):
        done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == code, done.stderr[-4000:]
        assert says in done.stderr
        assert "Traceback" not in done.stderr


def test_a_missing_topic_is_named(product_broker: KafkaBroker, tmp_path: Path) -> None:
    (tmp_path / "mdms.csv").write_text(f"{HEADER}\nM1,2026-03-03T00:15:00Z,1\n")
    where = [f"--bootstrap_servers={product_broker.bootstrap_servers}", "--output_prefix=nowhere."]
    command = [*COMMAND, *where, f"--mdms={tmp_path / 'mdms.csv'}", "--day=2026-03-03"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no topic nowhere.ami.reads.validated" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    """Stopped while it reads, it is not taken for equal."""
    validated, export, work = tmp_path / "reads.jsonl", tmp_path / "mdms.csv", tmp_path / "work"
    work.mkdir()
    line = validated_json(read()) + b"\n"
    with validated.open("wb") as file:
        for _ in range(300):
            file.write(line * 10_000)
    export.write_text(f"{HEADER}\nM1,2026-03-03T00:15:00Z,1\n")
    paths = [f"--validated={validated}", f"--mdms={export}", f"--work_folder={work}"]
    process = subprocess.Popen([*COMMAND, *paths, "--day=2026-03-03"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 60
        while not list(work.iterdir()) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, said
    assert "nothing was compared" in said
    assert list(work.iterdir()) == []
