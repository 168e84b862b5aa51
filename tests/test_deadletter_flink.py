"""An hour of history through topics and Flink: its dead letters are repaired, replayed, and revise the results."""

from __future__ import annotations

import base64
import json
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import Producer

from ami_beam import deadletter
from ami_beam.codecs.stored_letters import REPLAYED_TOPIC
from ami_beam.local.kafka_broker import KafkaBroker
from tests.damaged_hour import REPAIR, damaged, hour
from tests.kafka_replay import EVENTS, READS, Outputs, Run, create_topics, shifted
from tests.replays import METER_COUNTS, Row, needs_simbench
from tests.test_deadletter_hour import verdict
from tests.test_end_to_end_kafka import wait_for

pytestmark = [
    pytest.mark.processes,
    needs_simbench,
    # The same hour as files is in every `make test`, and replays over a broker are.
    pytest.mark.skipif(not os.environ.get("AMI_BEAM_EVERY_COMBINATION"), reason="AMI_BEAM_EVERY_COMBINATION=1 runs it"),
]
LATENESS = "--allowed_lateness=48h"
"""Some of the hour's reads came a day late, and now is when the last of them came."""


def publish(
    broker: KafkaBroker, rows: dict[str, list[Row]], shift: int, draw: random.Random, kinds: Counter[str]
) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "linger.ms": 20})
    for topic, share in ((READS, 0.2), (EVENTS, 0.5)):
        for row in rows[topic]:
            value = shifted(None if row["value_b64"] is None else base64.b64decode(row["value_b64"]), shift)
            if row["accepted"]:
                assert value is not None
                value = damaged(value, draw, kinds, share)
            producer.produce(topic, value, row["key"], timestamp=row["ts_ms"] + shift * 1000)
            producer.poll(0)
    assert producer.flush(60) == 0


def test_a_damaged_hour_through_kafka_and_flink_is_repaired_and_equals_the_oracle(
    product_broker: KafkaBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    product_broker.delete_topics([REPLAYED_TOPIC])
    create_topics(product_broker)
    product_broker.create_topic(REPLAYED_TOPIC)
    whole = hour(tmp_path)
    rows = {READS: whole.reads, EVENTS: whole.events}
    last = max(row["ts_ms"] for each in rows.values() for row in each)
    shift = int(time.time() - last / 1000) // 900 * 900
    kinds = Counter[str]()
    publish(product_broker, rows, shift, random.Random(8), kinds)
    before = sum(not row["accepted"] for each in rows.values() for row in each)
    outputs = Outputs(product_broker, tmp_path / "out")
    servers = f"--bootstrap_servers={product_broker.bootstrap_servers}"
    arguments = [servers, "--runner=FlinkRunner", "--start=earliest", f"--meter_counts={METER_COUNTS}", LATENESS]
    run = Run([*arguments, "--kafka_io=native", "--parallelism=1"], tmp_path / "run.log")
    repair = tmp_path / "repair.py"
    repair.write_text(REPAIR)
    try:
        wait_for(run, outputs, lambda: outputs.set_aside().total() == before + kinds.total())
        report = verdict(whole.oracle, tmp_path / "out", shift)
        assert report.splitlines()[-1] != "equal"
        code = deadletter.main(["replay", servers, LATENESS, f"--repair_file={repair}", "--yes", "--json"])
        # What was damaged before stays.
        assert code == deadletter.SOME_STAY
        said = json.loads(capsys.readouterr().out)
        assert (said["replayed"], said["repaired"]) == (kinds.total(), kinds.total())

        def equal() -> bool:
            nonlocal report
            report = verdict(whole.oracle, tmp_path / "out", shift)
            return report.splitlines()[-1] == "equal"

        wait_for(run, outputs, equal)
        # Equal for good: nothing that is still under way may change it.
        outputs.collect(8)
        assert equal(), report
        # Nothing of what was replayed came back as a letter.
        assert outputs.set_aside().total() == before + kinds.total()
    finally:
        code = run.stop()
        outputs.close()
    assert code == 0
