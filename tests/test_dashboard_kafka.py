"""The operators' screen as a process beside a real broker, which is restarted under it."""

from __future__ import annotations

import json
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

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
from ami_beam.instants import format_instant
from ami_beam.local import process
from ami_beam.local.kafka_broker import KafkaBroker
from ami_beam.records import DeadLetter
from tests.dashboard_rows import alarm, end_of, receipt, summary
from tests.dashboard_screen import NOW, PROXY, Screen, proxied, read_json, send
from tests.kafka_replay import READS


@pytest.fixture(scope="module")
def broker() -> Iterator[KafkaBroker]:
    """Its own, because it is stopped."""
    with KafkaBroker() as made:
        made.create_topics([READS, ACK_TOPIC, *RESULT_TOPICS])
        yield made


@pytest.fixture(scope="module")
def screen(broker: KafkaBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Screen]:
    made = proxied(broker, tmp_path_factory.mktemp("screen"))
    yield made
    made.child.stop()


def code(screen: Screen, feeder: str, number: int, row: int = 0) -> str:
    columns = screen.ask(f"api/map?feeder={feeder}")["columns"]
    return columns.get(format_instant(end_of(number)), "")[row : row + 1]


def test_what_is_published_is_shown_within_seconds(broker, screen):
    letter = DeadLetter("NOT_JSON", "no JSON", READS, 0, 7, end_of(NOW), b"a secret of a customer")
    send(
        broker,
        (SUMMARY_TOPIC, summary_json(summary("TR-1", "F1", NOW, 200, 230))),
        (RECEIPT_TOPIC, receipt_json(receipt("TR-1", "F1", NOW, 3, 4))),
        (ALARMS_TOPIC, alarm_json(alarm("a1", first_window=end_of(NOW), last_window=end_of(NOW), as_of=end_of(NOW)))),
        (DEAD_LETTER_TOPIC, dead_letter_json(letter)),
    )
    began = time.monotonic()
    screen.wait(lambda: code(screen, "F1", NOW) == "1")
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
        read_json("TR-1", "M-1", end_of(NOW)),
        read_json("TR-1", "M-2", end_of(NOW), voltage_v=None, estimated_flag=True),
        read_json("TR-2", "M-3", end_of(NOW)),
        read_json("TR-1", "M-1", end_of(NOW - 50)),
        b"no read of TR-1",
    ):
        producer.produce(READS, value, timestamp=now)
    assert producer.flush(30) == 0
    screen.wait(lambda: code(screen, "F1", NOW) == "1")
    found = screen.ask("api/transformers/TR-1/reads?windows=4")
    assert [(each["meter_id"], each["voltage_v"], each["estimated"]) for each in found["reads"]] == [
        ("M-1", 231.5, False),
        ("M-2", None, True),
    ]
    assert (found["searched"], found["complete"], found["omitted"]) == (5, True, 0)
    assert "CUSTOMER-7" not in json.dumps(found)


def test_customers_are_shown_only_where_that_is_switched_on(broker, screen, tmp_path):
    screen.wait(lambda: code(screen, "F1", NOW) == "1")
    other = Screen(broker, tmp_path, "--show_customer_ids")
    try:
        other.wait(lambda: code(other, "F1", NOW) == "1")
        reads = other.ask("api/transformers/TR-1/reads")["reads"]
        assert {each["customer_id"] for each in reads} == {"CUSTOMER-7"}
        assert "customer_id" not in screen.ask("api/transformers/TR-1/reads")["reads"][0]
    finally:
        other.child.stop()


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
    assert code(screen, "F1", NOW) == "1"
    broker.start_node(0)
    send(broker, (SUMMARY_TOPIC, summary_json(summary("TR-1", "F1", NOW + 1, 225, 230))))
    screen.wait(lambda: code(screen, "F1", NOW + 1) == "3", 60)
    screen.wait(lambda: screen.ask("api/health")["status"] == "ok", 60)


def test_topics_that_come_later_are_read_and_missing_ones_named(tmp_path):
    with KafkaBroker() as young:
        screen = Screen(young, tmp_path, "--no_reads")
        try:
            screen.wait(lambda: SUMMARY_TOPIC in screen.ask("api/health")["message"])
            assert ACK_TOPIC not in screen.ask("api/health")["message"]
            young.create_topics(RESULT_TOPICS)
            send(young, (SUMMARY_TOPIC, summary_json(summary("TR-1", "F1", NOW, 200, 230))))
            screen.wait(lambda: code(screen, "F1", NOW) == "1", 60)
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
