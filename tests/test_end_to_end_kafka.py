"""The whole product with nothing replaced: a real broker, `python -m ami_beam.run`, embedded Flink, real topics."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from ami_beam.codecs.json_events import EventDecoder
from ami_beam.codecs.json_reads import ReadDecoder
from ami_beam.instants import MICROS_PER_MILLI, MICROS_PER_SECOND, format_instant, parse_instant
from ami_beam.local.kafka_broker import KafkaBroker
from ami_beam.records import RecordBatch
from ami_beam.settings import Settings
from tests.kafka_replay import EVENTS, READS, Outputs, Run, create_topics, exported, publish, shift_to_now

pytestmark = pytest.mark.processes
COMBINATIONS = (
    list(product(("beam", "native"), (1, 2), ("auto", "1", "7", "1024")))
    if os.environ.get("AMI_BEAM_EVERY_COMBINATION")
    else [("beam", 1, "auto"), ("native", 2, "1024")]
)
"""Kafka I/O, parallelism and shards of the replays through Kafka and Flink; all of them take a quarter of an hour."""
SIMBENCH = Path(__file__).parents[2] / "shared" / "data" / "simbench-small"
JOB_SECONDS = 280


def wait_for(
    run: Run, outputs: Outputs, done: Callable[[], bool], seconds: float = JOB_SECONDS, every: float = 2
) -> None:
    """Collect until `done`, asking every so many seconds; fail with the run's log when it ends first or time is up."""
    until = time.monotonic() + seconds
    while not done():
        run.check()
        if time.monotonic() > until:
            raise AssertionError(f"not done after {seconds} s:\n{run.log.read_text()[-4000:]}")
        outputs.collect(every)


@pytest.mark.skipif(not SIMBENCH.is_dir(), reason="needs the data set shared/data/simbench-small")
@pytest.mark.parametrize(("kafka_io", "parallelism", "shards"), COMBINATIONS)
def test_a_replay_through_kafka_and_flink_gives_the_expected_rows(
    product_broker: KafkaBroker, tmp_path: Path, kafka_io: str, parallelism: int, shards: str
) -> None:
    counts = SIMBENCH / "transformer_meter_count.csv"
    paths = {READS: SIMBENCH / "reads.jsonl.gz", EVENTS: SIMBENCH / "events.jsonl.gz"}
    create_topics(product_broker)
    shift = shift_to_now(paths.values())
    published = {topic: publish(product_broker, topic, path, shift) for topic, path in paths.items()}
    outputs = Outputs(product_broker, tmp_path / "out")
    arguments = ["--runner=FlinkRunner", "--start=earliest", f"--meter_counts={counts}"]
    arguments += [f"--kafka_io={kafka_io}", f"--parallelism={parallelism}", f"--shards={shards}"]
    run = Run([f"--bootstrap_servers={product_broker.bootstrap_servers}", *arguments], tmp_path / "run.log")
    compare = [sys.executable, SIMBENCH / "compare.py", SIMBENCH, tmp_path / "out", str(shift)]
    report = ""
    seen = compared = 0

    def equal() -> bool:
        nonlocal report
        done = subprocess.run(compare, capture_output=True, text=True, check=False)
        report = done.stdout
        return done.returncode == 0

    def still_and_equal() -> bool:
        """A comparison takes time from the job: only when nothing has come since the last look, and once for that."""
        nonlocal seen, compared
        before, seen = seen, outputs.count
        if seen > before or seen == compared:
            return False
        compared = seen
        return equal()

    try:
        wait_for(run, outputs, still_and_equal)
        # Equal for good: nothing that is still under way may change it.
        outputs.collect(8)
        assert equal(), report
    finally:
        code = run.stop()
        outputs.close()
    assert code == 0
    # Accepted + set aside = records read: what the decoders accept of the same records is all that is not set aside.
    for topic, path in paths.items():
        assert accepted(topic, path) + outputs.set_aside()[topic] == published[topic]


@cache
def accepted(topic: str, path: Path) -> int:
    """How many records of an export the decoders accept, by definition (the careful path)."""
    rows = list(exported(path))
    batch = RecordBatch(
        topic,
        [0] * len(rows),
        list(range(len(rows))),
        [ts * MICROS_PER_MILLI for ts, _, _ in rows],
        [v for *_, v in rows],
    )
    decoder = ReadDecoder(Settings()) if topic == READS else EventDecoder(Settings())
    return len(decoder.decode_carefully(batch, None)[0])


def test_a_run_that_loses_a_worker_ends_and_says_so(product_broker: KafkaBroker, tmp_path: Path) -> None:
    counts = tmp_path / "counts.csv"
    counts.write_text("transformer_id,total_meters\nT1,1\n")
    create_topics(product_broker, partitions=1, timestamp_type="LogAppendTime")
    outputs = Outputs(product_broker, tmp_path / "out")
    arguments = ["--runner=FlinkRunner", f"--meter_counts={counts}", "--kafka_io=native", "--parallelism=2"]
    arguments += [f"--bootstrap_servers={product_broker.bootstrap_servers}", "--start=earliest"]
    run = Run(arguments, tmp_path / "run.log")
    Live(product_broker).send(b"not json")
    try:
        wait_for(run, outputs, lambda: bool(outputs.rows["ami.deadletter"]), every=0.5)
        workers = run.workers()
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        assert run.wait(30) == 1
    finally:
        run.stop()
        outputs.close()
    last = run.log.read_text().splitlines()[-1]
    assert last.startswith("ami_beam.run: worker ")
    assert "was killed by signal 9" in last
    assert not Path(f"/proc/{workers[1]}").exists()


class Live:
    """A head-end that sends reads now, window by window of five seconds."""

    WINDOW = 5 * MICROS_PER_SECOND

    def __init__(self, broker: KafkaBroker):
        self._producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "message.max.bytes": 12_000_000})
        self._ticked: int | None = None

    def send(self, value: bytes | None, partition: int = 0, topic: str = READS) -> None:
        self._producer.produce(topic, value=value, key=b"M", partition=partition)
        self._producer.flush(10)

    def read(self, meter: str, transformer: str, end: int, partition: int = 0, **fields: Any) -> None:
        self.send(
            json.dumps(
                {
                    "meter_id": meter, "service_point_id": "S", "customer_id": "C", "transformer_id": transformer,
                    "feeder_id": "F", "read_type": "INTERVAL", "interval_start": format_instant(end - self.WINDOW),
                    "interval_end": format_instant(end), "consumption_kwh": 0.1, "delivered_kwh": 0.1,
                    "received_kwh": 0.0, "voltage_v": 230.0, "power_quality_code": 0, "estimated_flag": False,
                    "read_ts": format_instant(end), **fields,
                }
            ).encode(),
            partition,
        )  # fmt: skip

    def tick(self) -> None:
        """The reads of the windows that have ended since the last tick, once, all to partition 0."""
        end = time.time_ns() // 1_000 // self.WINDOW * self.WINDOW
        for each in range(end if self._ticked is None else self._ticked + self.WINDOW, end + 1, self.WINDOW):
            self.read("M1", "T1", each)
        self._ticked = end


@pytest.mark.parametrize("kafka_io", ["beam", "native"])
def test_live_with_an_idle_and_an_empty_partition_poison_and_reloaded_counts(
    product_broker: KafkaBroker, tmp_path: Path, kafka_io: str
) -> None:
    counts = tmp_path / "counts.csv"
    counts.write_text("transformer_id,total_meters\nT1,1\nSILENT,3\n")
    # Partition 1 gets one read and falls idle, partition 2 never holds a record.
    create_topics(product_broker, partitions=3, timestamp_type="LogAppendTime")
    live = Live(product_broker)
    outputs = Outputs(product_broker, tmp_path / "out")
    run = Run(
        [
            f"--bootstrap_servers={product_broker.bootstrap_servers}",
            *("--runner=FlinkRunner", "--start=earliest", f"--meter_counts={counts}", "--meter_counts_refresh=1s"),
            *("--window=5s", "--collection_delay=2s", "--late_gather=1s", f"--kafka_io={kafka_io}"),
        ],
        tmp_path / "run.log",
    )
    live.read("M9", "T9", time.time_ns() // 1_000 // live.WINDOW * live.WINDOW, partition=1)
    nested = b"[" * 10_000_000
    for poison in (None, b"", b"not json", nested):
        live.send(poison)

    def receipts(transformer: str, total: int) -> list[dict]:
        rows = outputs.rows["ami.transformer.receipt"]
        return [row for row in rows if (row["transformer_id"], row["total_meters"]) == (transformer, total)]

    def raised(transformer: str) -> bool:
        return any(alert["entity_id"] == transformer for alert in outputs.rows["ami.alerts.grid"])

    def ticking(done: Callable[[], bool], seconds: float = JOB_SECONDS) -> None:
        def check() -> bool:
            live.tick()
            return done()

        wait_for(run, outputs, check, seconds, every=0.5)

    try:
        ticking(lambda: len(receipts("T1", 1)) > 1 and len(receipts("SILENT", 3)) > 1)
        counts.write_text("transformer_id,total_meters\nT1,4\nSILENT,3\n")
        ticking(lambda: len(receipts("T1", 4)) > 1)
        ticking(lambda: raised("SILENT") and raised("T1"))
        # Nobody has ever sent an event: alarms do not wait for the first.
        ticking(lambda: any(a["entity_id"] == "SILENT" for a in outputs.rows["ami.alarms"]), 60)
    finally:
        code = run.stop()
        outputs.close()
    assert code == 0
    reasons = sorted(row["reason"] for row in outputs.rows["ami.deadletter"])
    assert reasons == ["EMPTY_VALUE", "INVALID_JSON", "INVALID_JSON", "NULL_VALUE"]
    big = next(row for row in outputs.rows["ami.deadletter"] if row.get("value_size", 0) > 1_000_000)
    assert big["value_size"] == len(nested)
    # Each window keeps the count it was judged by, and the versions follow each other.
    totals = {parse_instant(row["window_end"]): row["total_meters"] for row in outputs.rows["ami.transformer.receipt"]
              if row["transformer_id"] == "T1"}  # fmt: skip
    in_order = [totals[end] for end in sorted(totals)]
    assert in_order == sorted(in_order)
    silent = receipts("SILENT", 3)
    assert {row["receipt_rate_pct"] for row in silent} == {0.0}
    alerts = outputs.rows["ami.alerts.grid"]
    assert {alert["entity_id"] for alert in alerts if alert["status"] == "RAISED"} == {"SILENT", "T1"}
    # T1 was complete until its count grew. A read that a busy machine brought late has ended the alert.
    last: dict[int, dict] = {}
    for alert in sorted((alert for alert in alerts if alert["entity_id"] == "T1"), key=lambda alert: alert["revision"]):
        last[parse_instant(alert["window_end"])] = alert
    first_short = min(end for end, total in totals.items() if total == 4)
    assert {alert["status"] for end, alert in last.items() if end < first_short} <= {"CLEARED"}
    assert {alert["status"] for end, alert in last.items() if end >= first_short} >= {"RAISED"}
