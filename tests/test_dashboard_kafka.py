"""The operators' screen as a process beside a real broker, which is restarted under it."""

from __future__ import annotations

import json
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from ami_beam.codecs.json_outputs import (
    ALARMS_TOPIC,
    DEAD_LETTER_TOPIC,
    RECEIPT_TOPIC,
    RESULT_TOPICS,
    SUMMARY_TOPIC,
    alarm_json,
    dead_letter_json,
    receipt_json,
    summary_json,
)
from ami_beam.dashboard.hub import ACK_TOPIC
from ami_beam.dashboard.identity import SECRET_HEADER
from ami_beam.instants import format_instant
from ami_beam.local import process
from ami_beam.local.kafka_broker import KafkaBroker
from ami_beam.records import DeadLetter
from tests.dashboard_rows import alarm, end_of, receipt, summary
from tests.kafka_replay import READS

pytestmark = pytest.mark.processes
SECRET = "a secret of the proxy"
PROXY = {SECRET_HEADER: SECRET, "X-Forwarded-User": "ada"}


class Screen:
    """`python -m ami_beam.dashboard` beside a broker."""

    def __init__(self, broker: KafkaBroker, directory: Path, *arguments: str) -> None:
        (self.port,) = process.free_ports(1)
        command = [
            *(sys.executable, "-m", "ami_beam.dashboard", f"--bootstrap_servers={broker.bootstrap_servers}"),
            *(f"--port={self.port}", *arguments),
        ]
        self.child = process.ChildProcess("the operators' screen", command, directory / "dashboard.log")
        self.child.wait_until(lambda: process.is_listening(self.port), 60)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def ask(self, path: str, data: dict[str, Any] | None = None, headers: dict[str, str] | None = None) -> Any:
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(self.url + path, body, headers or {})
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def wait(self, found: Callable[[], bool], seconds: float = 30) -> None:
        """Until it is so; a question that has no answer yet is asked again."""
        until = time.monotonic() + seconds
        while True:
            try:
                if found():
                    return
            except urllib.error.HTTPError as error:
                if error.code != 404:
                    raise
            assert time.monotonic() < until, (self.ask("api/health"), self.child.log_tail())
            time.sleep(0.2)


@pytest.fixture(scope="module")
def broker() -> Iterator[KafkaBroker]:
    """Its own, because it is stopped."""
    with KafkaBroker() as made:
        made.create_topics([READS, ACK_TOPIC, *RESULT_TOPICS])
        yield made


@pytest.fixture(scope="module")
def screen(broker: KafkaBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Screen]:
    directory = tmp_path_factory.mktemp("screen")
    (directory / "proxy.secret").write_text(SECRET)
    made = Screen(broker, directory, f"--proxy_secret_file={directory / 'proxy.secret'}", "--stale_after=24h")
    yield made
    made.child.stop()


def send(broker: KafkaBroker, *records: tuple[str, bytes]) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})
    for topic, value in records:
        producer.produce(topic, value)
    assert producer.flush(30) == 0


def code(screen: Screen, feeder: str, number: int, row: int = 0) -> str:
    columns = screen.ask(f"api/map?feeder={feeder}")["columns"]
    return columns.get(format_instant(end_of(number)), "")[row : row + 1]


def read_json(transformer: str, meter: str, end: int, **others: Any) -> bytes:
    row = {
        "meter_id": meter, "service_point_id": "SP", "customer_id": "CUSTOMER-7", "transformer_id": transformer,
        "feeder_id": "F1", "read_type": "INTERVAL", "interval_start": format_instant(end - 900_000_000),
        "interval_end": format_instant(end), "consumption_kwh": 1.0, "delivered_kwh": 1.0, "received_kwh": 0.0,
        "voltage_v": 231.5, "power_quality_code": 0, "estimated_flag": False, "read_ts": format_instant(end),
    }  # fmt: skip
    return json.dumps(row | others).encode()


def test_what_is_published_is_shown_within_seconds(broker, screen):
    letter = DeadLetter("NOT_JSON", "no JSON", READS, 0, 7, end_of(1), b"a secret of a customer")
    send(
        broker,
        (SUMMARY_TOPIC, summary_json(summary("TR-1", "F1", 1, 200, 230))),
        (RECEIPT_TOPIC, receipt_json(receipt("TR-1", "F1", 1, 3, 4))),
        (ALARMS_TOPIC, alarm_json(alarm("a1"))),
        (DEAD_LETTER_TOPIC, dead_letter_json(letter)),
    )
    began = time.monotonic()
    screen.wait(lambda: code(screen, "F1", 1) == "1")
    assert time.monotonic() - began < 10
    screen.wait(lambda: screen.ask("api/alarms/a1")["alarm"]["entity_id"] == "TR-1")
    screen.wait(lambda: screen.ask("api/letters")["total"] == 1)
    assert "a secret of a customer" not in json.dumps(screen.ask("api/letters"))
    health = screen.ask("api/health")
    assert health["status"] == "ok", health
    assert {topic["topic"] for topic in health["topics"]} >= {SUMMARY_TOPIC, ALARMS_TOPIC, ACK_TOPIC}


def test_the_reads_of_a_transformers_meters_without_their_customers(broker, screen):
    now = time.time_ns() // 1_000_000
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})
    for value in (
        read_json("TR-1", "M-1", end_of(1)),
        read_json("TR-1", "M-2", end_of(1), voltage_v=None, estimated_flag=True),
        read_json("TR-2", "M-3", end_of(1)),
        read_json("TR-1", "M-1", end_of(-50)),
        b"no read of TR-1",
    ):
        producer.produce(READS, value, timestamp=now)
    assert producer.flush(30) == 0
    screen.wait(lambda: code(screen, "F1", 1) == "1")
    found = screen.ask("api/transformers/TR-1/reads?windows=4")
    assert [(each["meter_id"], each["voltage_v"], each["estimated"]) for each in found["reads"]] == [
        ("M-1", 231.5, False),
        ("M-2", None, True),
    ]
    assert (found["searched"], found["complete"], found["omitted"]) == (5, True, 0)
    assert "CUSTOMER-7" not in json.dumps(found)


def test_an_acknowledgement_is_a_record_and_outlives_the_page(broker, screen, tmp_path):
    headers = {**PROXY, "X-Ami-Beam": "1", "Content-Type": "application/json"}
    said = screen.ask("api/alarms/a1/ack", {"comment": "crew is there"}, headers)
    assert said["user"] == "ada"
    consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": "test", "log_level": 0})
    try:
        consumer.assign([TopicPartition(ACK_TOPIC, 0, 0)])
        message = consumer.poll(30)
        assert message.key() == b"a1"
        assert json.loads(message.value()) == {"alarm_id": "a1", **said}
    finally:
        consumer.close()
    other = Screen(broker, tmp_path)
    try:
        other.wait(lambda: other.ask("api/alarms/a1")["alarm"]["ack"] == said)
        # Without a proxy's secret it only shows.
        with pytest.raises(urllib.error.HTTPError) as refused:
            other.ask("api/alarms/a1/ack", {"comment": "me, too"}, headers)
        assert refused.value.code == 403
    finally:
        other.child.stop()


def test_it_goes_on_after_a_restart_of_the_broker(broker, screen):
    broker.stop_node(0, signal.SIGKILL)
    screen.wait(lambda: screen.ask("api/health")["status"] == "disconnected", 60)
    # What was known is shown still.
    assert code(screen, "F1", 1) == "1"
    broker.start_node(0)
    send(broker, (SUMMARY_TOPIC, summary_json(summary("TR-1", "F1", 2, 225, 230))))
    screen.wait(lambda: code(screen, "F1", 2) == "3", 60)
    screen.wait(lambda: screen.ask("api/health")["status"] == "ok", 60)


def test_topics_that_come_later_are_read_and_missing_ones_named(tmp_path):
    with KafkaBroker() as young:
        screen = Screen(young, tmp_path, "--no_reads")
        try:
            screen.wait(lambda: SUMMARY_TOPIC in screen.ask("api/health")["message"])
            assert ACK_TOPIC not in screen.ask("api/health")["message"]
            young.create_topics(RESULT_TOPICS)
            send(young, (SUMMARY_TOPIC, summary_json(summary("TR-1", "F1", 1, 200, 230))))
            screen.wait(lambda: code(screen, "F1", 1) == "1", 60)
        finally:
            screen.child.stop()


def test_it_ends_in_order(broker, tmp_path):
    screen = Screen(broker, tmp_path)
    screen.child.signal(signal.SIGTERM)
    assert screen.child.wait(20) == 0
    assert "Traceback" not in (tmp_path / "dashboard.log").read_text()


def test_a_port_that_is_taken_is_said(broker, screen, tmp_path):
    command = [
        *(sys.executable, "-m", "ami_beam.dashboard", f"--bootstrap_servers={broker.bootstrap_servers}"),
        f"--port={screen.port}",
    ]
    child = process.ChildProcess("a second one", command, tmp_path / "log")
    assert child.wait(60) == 1
    assert "Name another --port" in (tmp_path / "log").read_text()
