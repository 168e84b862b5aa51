"""Announced outages and work out of real topics: what they hold and explain, while they are changed during the run."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from ami_beam.explain import main as explain
from ami_beam.instants import MICROS_PER_MINUTE, format_instant
from ami_beam.local.kafka_broker import KafkaBroker
from tests.kafka_replay import EVENTS, READS, Outputs, Run, create_topics
from tests.test_end_to_end_kafka import wait_for

pytestmark = pytest.mark.processes
OUTAGES, WORK = "ami.oms.outages", "ami.work"
WINDOW = 15
METERS = {"T1": 5, "T2": 5, "T3": 5, "T4": 5, "W1": 1, "W2": 1, "W3": 1}
"""By transformer; each is on a feeder of its own, so that none explains another."""
OUT = {
    "T1": (20, 62), "T2": (20, 62), "T3": (20, 100), "T4": (20, 62), "W1": (20, 62), "W2": (53, 70), "W3": (53, 70),
}  # fmt: skip
"""From when until when they have no supply, in minutes of the morning."""
LAST_GASP, POWER_RESTORE = 3840, 3841


class Morning:
    """What the head-end, the OMS and the crews tell of a morning that is over, each record when it came."""

    def __init__(self, broker: KafkaBroker):
        self._producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
        size = WINDOW * MICROS_PER_MINUTE
        self._begin = (time.time_ns() // 1_000 - 8 * 60 * MICROS_PER_MINUTE) // size * size

    def at(self, minute: float) -> str:
        return format_instant(self._begin + int(minute * MICROS_PER_MINUTE))

    def send(self, topic: str, minute: float, key: str, value: dict[str, Any]) -> None:
        millis = (self._begin + int(minute * MICROS_PER_MINUTE)) // 1_000
        self._producer.produce(topic, json.dumps(value).encode(), key.encode(), timestamp=millis)

    def outage(self, said: float, name: str, entity: str, until: float, **fields: str) -> None:
        """From minute 15 on."""
        told = {
            "outage_id": name, "kind": "PLANNED", "status": "ACTIVE",
            "entity_type": "FEEDER" if entity.startswith("F") else "TRANSFORMER", "entity_id": entity,
            "from": self.at(15), "to": self.at(until), "reason": "new switchgear", **fields,
        }  # fmt: skip
        self.send(OUTAGES, said, name, told)

    def work(self, said: float, name: str, meter: str, begins: float, until: float) -> None:
        told = {
            "work_id": name, "kind": "EXCHANGE", "status": "ACTIVE", "meter_id": meter,
            "from": self.at(begins), "to": self.at(until),
        }  # fmt: skip
        self.send(WORK, said, name, told)

    def announced(self) -> None:
        """All of it is in its topic."""
        assert self._producer.flush(30) == 0

    def passes(self, since: int, until: int) -> None:
        """The head-end's records of these minutes: reads a minute after their interval, events at once."""
        for minute in range(since, until):
            for transformer, meters in METERS.items():
                began, over = OUT[transformer]
                for number in range(meters):
                    meter = f"{transformer}-{number}"
                    if minute in (began, over):
                        code = LAST_GASP if minute == began else POWER_RESTORE
                        event = {"meter_id": meter, "event_code": code, "event_ts": self.at(minute)}
                        self.send(EVENTS, minute + 0.1, meter, event)
                    end = minute - 1
                    if end % WINDOW == 0 and (end <= began or end - WINDOW >= over):
                        self.send(READS, minute, meter, self._read(meter, transformer, end))
        self.announced()

    def _read(self, meter: str, transformer: str, end: int) -> dict[str, Any]:
        return {
            "meter_id": meter, "service_point_id": "S", "customer_id": "C", "transformer_id": transformer,
            "feeder_id": f"F-{transformer}", "read_type": "INTERVAL", "interval_start": self.at(end - WINDOW),
            "interval_end": self.at(end), "consumption_kwh": 0.1, "delivered_kwh": 0.1, "received_kwh": 0.0,
            "voltage_v": 230.0, "power_quality_code": 0, "estimated_flag": False, "read_ts": self.at(end),
        }  # fmt: skip


def test_they_are_read_before_and_while_the_pipeline_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = tmp_path / "counts.csv"
    counts.write_text("transformer_id,total_meters\n" + "".join(f"{name},{n}\n" for name, n in METERS.items()))
    with KafkaBroker() as broker:
        create_topics(broker, partitions=1)
        for topic in (OUTAGES, WORK):
            broker.create_topic(topic, partitions=1)
        morning = Morning(broker)
        outputs = Outputs(broker, tmp_path / "out")

        def letters() -> list[tuple[str, str]]:
            return [(row["topic"], row["reason"]) for row in outputs.rows["ami.deadletter"]]

        def judged(minute: int) -> bool:
            end, rows = morning.at(minute), outputs.rows["ami.transformer.receipt"]
            return {row["transformer_id"] for row in rows if row["window_end"] == end} == METERS.keys()

        def said(transformer: str, minute: int) -> list[str | None]:
            """What was said to explain the receipt alert of this window, in the order of the topic."""
            place = (transformer, "LOW_RECEIPT_RATE", morning.at(minute))
            rows = outputs.rows["ami.alerts.grid"]
            found = [row for row in rows if (row["entity_id"], row["alert_type"], row["window_end"]) == place]
            assert {row["status"] for row in found} <= {"RAISED"}
            return [row["explained_by"] for row in found]

        def alarms() -> dict[tuple[str, str], dict[str, Any]]:
            """As they stand in the end."""
            last = {row["alarm_id"]: row for row in sorted(outputs.rows["ami.alarms"], key=lambda row: row["revision"])}
            return {(row["alarm_type"], row["entity_id"]): row for row in last.values() if row["windows_in_violation"]}

        # Long before: what is planned for three transformers, what is known of one, and an exchange. The last is wrong.
        morning.outage(-600, "O1", "T1", 75)
        morning.outage(-600, "O2", "T2", 75)
        morning.outage(-600, "O3", "F-T3", 45)
        morning.outage(-600, "O4", "T4", 60, kind="KNOWN")
        morning.outage(-600, "O5", "T1", 75, kind="PERHAPS")
        morning.work(-600, "X1", "W1-0", 15, 75)
        morning.passes(0, 18)
        where = [f"--bootstrap_servers={broker.bootstrap_servers}", f"--meter_counts={counts}"]
        where += [f"--oms_outages={OUTAGES}", f"--work={WORK}"]
        run = Run(
            [
                *where,
                *("--runner=FlinkRunner", "--start=earliest", "--kafka_io=native", "--parallelism=1", "--shards=2"),
                "--source_silent=12h",
            ],
            tmp_path / "run.log",
        )
        try:
            wait_for(run, outputs, lambda: judged(0) and bool(letters()))
            # Five of them lose supply. One of the alarms is not held: its outage is known, and not planned.
            morning.passes(18, 48)
            expected = {"T1": ["oms:O1"], "T2": ["oms:O2"], "T3": ["oms:O3"], "T4": ["oms:O4"]}
            wait_for(run, outputs, lambda: {name: said(name, 30)[-1:] for name in expected} == expected)
            wait_for(run, outputs, lambda: bool(alarms()))
            assert {place: row["cause"] for place, row in alarms().items()} == {("TRANSFORMER_OUTAGE", "T4"): "oms:O4"}
            # One is cancelled, one is put off, one that is known, too, and there is an exchange more.
            morning.outage(50.0, "O2", "T2", 75, status="CANCELLED")
            morning.outage(50.1, "O3", "F-T3", 240)
            morning.outage(50.2, "O4", "T4", 75, kind="KNOWN")
            morning.work(50.3, "X2", "W2-0", 53, 70)
            morning.work(50.4, "X3", "", 53, 70)
            morning.announced()
            wait_for(run, outputs, lambda: len(letters()) == 2)
            morning.passes(48, 200)
            wait_for(run, outputs, lambda: judged(180) and len(alarms()) >= 3)
            # Nothing that is still under way may change it.
            outputs.collect(5)
        finally:
            code = run.stop()
            outputs.close()
        assert code == 0
        found = alarms()
        known = found["TRANSFORMER_OUTAGE", "T4"]
        # Its records are shown by who explains the alarm.
        assert explain([known["alarm_id"], *where, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["announcements"]
    assert [(each["topic"], each["partition"], each["offset"], each["to"], each["counts"]) for each in told] == [
        (OUTAGES, 0, 3, morning.at(60), False), (OUTAGES, 0, 7, morning.at(75), True),
    ]  # fmt: skip

    assert letters() == [(OUTAGES, "UNKNOWN_WORD"), (WORK, "EMPTY_ID")]
    assert {place: (row["state"], row["cause"]) for place, row in found.items()} == {
        ("TRANSFORMER_OUTAGE", "T2"): ("CLEARED", None),
        ("TRANSFORMER_OUTAGE", "T4"): ("CLEARED", "oms:O4"),
        ("SINGLE_OUTAGE", "W3"): ("CLEARED", None),
    }
    cancelled, single = found["TRANSFORMER_OUTAGE", "T2"], found["SINGLE_OUTAGE", "W3"]
    assert (cancelled["began_at"], cancelled["ended_at"]) == (morning.at(20), morning.at(62))
    assert (single["began_at"], single["ended_at"]) == (morning.at(53), morning.at(70))
    # Alerts are there whatever is held, at once without an explanation.
    finally_by = {"T1": "oms:O1", "T2": cancelled["alarm_id"], "T3": "oms:O3", "T4": "oms:O4", "W1": None, "W2": None}
    finally_by["W3"] = single["alarm_id"]
    for transformer, (began, over) in OUT.items():
        for end in range(0, 181, WINDOW):
            is_dark = end > began and end - WINDOW < over
            assert said(transformer, end)[-1:] == ([finally_by[transformer]] if is_dark else [])
    assert said("T1", 30) == [None, "oms:O1"]
    assert said("T2", 30) == [None, "oms:O2", cancelled["alarm_id"]]
