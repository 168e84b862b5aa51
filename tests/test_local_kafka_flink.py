"""The local Kafka and Flink run a streaming pipeline, and nothing of them is left, whatever ends their owner."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.coders import BytesCoder
from apache_beam.io.kafka import ReadFromKafka, WriteToKafka
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Duration, Timestamp
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from ami_beam.local import process
from ami_beam.local.flink import LocalFlink
from ami_beam.local.kafka_broker import KafkaBroker

pytestmark = pytest.mark.processes
BYTES = "org.apache.kafka.common.serialization.ByteArraySerializer"


class Gathered(beam.DoFn):
    """Emits each value as it comes, and all values of a key when the watermark has passed the last one by a second."""

    VALUES = BagStateSpec("values", BytesCoder())
    DUE = TimerSpec("due", TimeDomain.WATERMARK)

    def process(  # type: ignore[override]
        self,
        element: tuple[bytes, bytes],
        timestamp: Timestamp = beam.DoFn.TimestampParam,
        values=beam.DoFn.StateParam(VALUES),
        due=beam.DoFn.TimerParam(DUE),
    ) -> Iterator[tuple[bytes, bytes]]:
        values.add(element[1])
        due.set(timestamp + Duration(1))
        yield b"value", element[1]

    @on_timer(DUE)
    def gathered(self, values=beam.DoFn.StateParam(VALUES)) -> Iterator[tuple[bytes, bytes]]:
        yield b"gathered", b" ".join(sorted(values.read()))
        values.clear()


def described(record) -> tuple[bytes, bytes]:
    return record.key, b"%d/%d/%s" % (record.partition, record.offset, record.value)


def produce(broker: KafkaBroker, topic: str, values: Iterable[bytes], partition: int, time_ms: int) -> None:
    errors: list[KafkaError] = []
    producer = Producer(
        {
            "bootstrap.servers": broker.bootstrap_servers,
            "message.max.bytes": 16_000_000,
            "message.timeout.ms": 5000,
        }
    )
    for value in values:
        producer.produce(
            topic, value, b"key", partition, timestamp=time_ms, on_delivery=lambda e, _: errors.append(e) if e else None
        )
    assert producer.flush(30) == 0
    assert errors == []


def consume(broker: KafkaBroker, topic: str, enough: int | Callable[[list], bool], seconds: float = 60) -> list:
    """A topic's messages until there are `enough` of them, or as many as came in time."""
    done = enough if callable(enough) else lambda messages: len(messages) >= enough
    consumer = Consumer(
        {"bootstrap.servers": broker.bootstrap_servers, "group.id": f"of-{topic}", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([topic])
    deadline = time.monotonic() + seconds
    messages: list = []
    while not done(messages) and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            messages.append(message)
    consumer.close()
    return messages


def test_the_broker_keeps_large_old_and_early_records(kafka_broker: KafkaBroker) -> None:
    kafka_broker.create_topic("records", 2)
    tomorrow = int(time.time() * 1000) + 86_400_000
    produce(kafka_broker, "records", [b"x" * 12_000_000], 0, 1000)
    produce(kafka_broker, "records", [b"early"], 1, tomorrow)
    messages = consume(kafka_broker, "records", 2)
    assert {(len(message.value()), message.timestamp()[1]) for message in messages} == {
        (12_000_000, 1000),
        (5, tomorrow),
    }


def test_topics_exist_only_when_created(kafka_broker: KafkaBroker) -> None:
    kafka_broker.create_topic("appended", timestamp_type="LogAppendTime")
    produce(kafka_broker, "appended", [b"x"], 0, 1000)
    assert consume(kafka_broker, "appended", 1)[0].timestamp()[1] > 1_600_000_000_000
    with pytest.raises(KafkaException):
        kafka_broker.create_topic("appended")
    with pytest.raises(AssertionError):
        produce(kafka_broker, "mistyped", [b"x"], 0, 1000)


def test_the_broker_starts_with_any_cluster_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ami_beam.local.kafka_broker.uuid.uuid4", lambda: uuid.UUID(bytes=b"\xfb" * 16))
    with KafkaBroker() as broker:
        assert broker.bootstrap_servers


def test_a_streaming_pipeline_runs_from_kafka_to_kafka(kafka_broker: KafkaBroker, local_flink: LocalFlink) -> None:
    kafka_broker.create_topic("in", 2)
    kafka_broker.create_topic("out")
    servers = {"bootstrap.servers": kafka_broker.bootstrap_servers}
    now = int(time.time() * 1000)
    for partition in (0, 1):
        produce(kafka_broker, "in", [b"a", b"b"], partition, now - 5000)
    options = PipelineOptions(local_flink.pipeline_args(parallelism=2, checkpoint_seconds=1))
    pipeline = beam.Pipeline(options=options)
    with local_flink.expansion() as expansion_service:
        (
            pipeline
            | ReadFromKafka(
                {**servers, "auto.offset.reset": "earliest", "enable.auto.commit": "false"},
                ["in"],
                timestamp_policy=ReadFromKafka.create_time_policy,
                with_metadata=True,
                expansion_service=expansion_service,
            )
            | beam.Map(described).with_output_types(tuple[bytes, bytes])
            | beam.ParDo(Gathered()).with_output_types(tuple[bytes, bytes])
            | WriteToKafka(
                servers, "out", key_serializer=BYTES, value_serializer=BYTES, expansion_service=expansion_service
            )
        )
    # Of Flink's class path, 200 MB, no step has brought a copy.
    assert sum(path.stat().st_size for path in Path(pipeline.local_tempdir).iterdir()) < 1_000_000
    values = [b"0/0/a", b"0/1/b", b"1/0/a", b"1/1/b"]
    result = pipeline.run()
    try:
        messages = consume(kafka_broker, "out", lambda messages: len(gathered(messages)) >= 4 and len(messages) >= 5)
        assert sorted(message.value() for message in messages if message.key() == b"value") == values
        # Each value exactly once, but not in one firing: with two subtasks KafkaIO's watermark now and then passes
        # records that were published before the job started (3 of 14 runs with checkpoints), so the timer fires twice.
        assert sorted(gathered(messages)) == values
        # Recovery starts from checkpoints, so they have to be completed ones.
        deadline = time.monotonic() + 20
        while not list(local_flink.checkpoints.rglob("_metadata")) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert list(local_flink.checkpoints.rglob("_metadata"))
    finally:
        local_flink.cancel(result)
    assert result.state == "CANCELLED"
    assert local_flink._flink_jobs(result._job_id.rpartition("_")[0]) == []


def gathered(messages: list) -> list[bytes]:
    """The values that timers emitted, of all firings."""
    return [value for message in messages if message.key() == b"gathered" for value in message.value().split()]


def test_ports_of_other_services_are_no_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"not http\r\n")

        threading.Thread(target=answer, daemon=True).start()
        flink = LocalFlink()
        port = other.getsockname()[1]
        monkeypatch.setattr(flink, "_rest_ports", range(port, port + 1))
        assert flink._flink_jobs("any") == []


OWNER = """
    import sys, time
    from ami_beam.local.flink import LocalFlink
    from ami_beam.local.kafka_broker import KafkaBroker
    with KafkaBroker() as broker, LocalFlink() as flink, flink.expansion():
        print(broker.pid, *flink.pids, broker.log.parent, flink.logs[0].parent, flush=True)
        {last}
    print("left in order")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills the children of a process that was killed")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, None])
def test_nothing_is_left_when_the_owner_ends(end: signal.Signals | None) -> None:
    script = textwrap.dedent(OWNER).format(last="time.sleep(600)" if end else "pass")
    owner = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # Tests in the background of a shell have SIGINT ignored, and so would this process.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert owner.stdout is not None
    *pids, broker_directory, flink_directory = owner.stdout.readline().split()
    assert len(pids) == 3
    if end:
        assert all(map(is_running, pids))
        owner.send_signal(end)
    owner.wait(30)
    owner.stdout.close()
    deadline = time.monotonic() + 10
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, pids))
    if end in (None, signal.SIGINT):
        assert not Path(broker_directory).exists()
        assert not Path(flink_directory).exists()


def test_a_directory_of_a_killed_process_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    script = (
        "import os; from ami_beam.local.process import TemporaryDirectory as D; d = D('p-'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    first = process.TemporaryDirectory("p-")
    second = process.TemporaryDirectory("p-")
    assert sorted(tmp_path.iterdir()) == sorted([first.path, second.path])
    first.remove()
    second.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_fails_to_start_says_why(tmp_path: Path) -> None:
    child = process.ChildProcess("the child", ["/bin/sh", "-c", "echo what is wrong; exit 3"], tmp_path / "log")
    with pytest.raises(process.StartError, match=r"the child ended with code 3:\nwhat is wrong"):
        child.wait_until(lambda: False, 10)


def test_a_child_that_ignores_sigterm_is_killed_with_its_own_children(tmp_path: Path) -> None:
    script = "trap '' TERM; sleep 600 & echo $!; wait; wait"
    child = process.ChildProcess("the child", ["/bin/sh", "-c", script], tmp_path / "log")
    child.wait_until(lambda: bool((tmp_path / "log").read_text()), 10)
    child.stop(patience=0.2)
    assert not child.is_alive()
    grandchild = (tmp_path / "log").read_text().strip()
    deadline = time.monotonic() + 5
    while is_running(grandchild) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(grandchild)


def is_running(pid: str) -> bool:
    """Whether a process lives; one that only waits to be reaped does not."""
    try:
        os.kill(int(pid), 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
