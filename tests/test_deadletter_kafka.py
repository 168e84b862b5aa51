"""`python -m ami_beam.deadletter` over a real broker: what is listed and shown, what goes back in, and only once."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from confluent_kafka.schema_registry import Schema

from ami_beam import deadletter
from ami_beam.codecs.avro_outputs import AvroValues
from ami_beam.codecs.json_outputs import DEAD_LETTER_TOPIC, dead_letter_json
from ami_beam.codecs.stored_letters import REPLAYED_TOPIC, parse_mark
from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MINUTE, format_instant
from ami_beam.io.schema_registry import RegistryAddress
from ami_beam.local.kafka_broker import KafkaBroker
from ami_beam.local.schema_registry import SchemaRegistry
from ami_beam.records import DeadLetter
from ami_beam.schemas import schema_text, subject_of
from tests.replays import ROOT
from tests.test_avro_kafka import Producer as AvroHeadEnd

pytestmark = pytest.mark.processes
COMMAND = (sys.executable, "-m", "ami_beam.deadletter")
KILLS = int(os.environ.get("AMI_BEAM_KILLS") or 2)
NOW = time.time_ns() // 1_000
END = NOW // (15 * MICROS_PER_MINUTE) * 15 * MICROS_PER_MINUTE


def read(meter: str, end: int = END, **fields: Any) -> dict[str, Any]:
    """A read that is accepted, with other fields."""
    return {
        "meter_id": meter, "service_point_id": "S", "customer_id": "CUST-SECRET", "transformer_id": "T",
        "feeder_id": "F", "read_type": "INTERVAL", "interval_start": format_instant(end - 15 * MICROS_PER_MINUTE),
        "interval_end": format_instant(end), "consumption_kwh": 0.5, "delivered_kwh": 0.5, "received_kwh": 0.0,
        "voltage_v": 230.0, "power_quality_code": 0, "estimated_flag": False, "read_ts": format_instant(end), **fields,
    }  # fmt: skip


class Desk:
    """Topics of a test's own, letters in them, and the command over them."""

    def __init__(self, broker: KafkaBroker, name: str, capsys: pytest.CaptureFixture[str] | None = None) -> None:
        self.servers = broker.bootstrap_servers
        self.reads, self.events = f"{name}.reads", f"{name}.events"
        self.prefix = f"{name}."
        self.letters, self.marks = self.prefix + DEAD_LETTER_TOPIC, self.prefix + REPLAYED_TOPIC
        broker.create_topics([self.reads, self.events, self.letters], partitions=3)
        compacted = NewTopic(self.marks, num_partitions=2, config={"cleanup.policy": "compact"})
        admin = AdminClient({"bootstrap.servers": self.servers})
        for done in admin.create_topics([compacted]).values():
            done.result(30)
        # The creation is acknowledged before the broker's own metadata know of it.
        while self.marks not in admin.list_topics(timeout=10).topics:
            time.sleep(0.05)
        self._capsys = capsys
        self._producer = Producer({"bootstrap.servers": self.servers})

    @property
    def where(self) -> list[str]:
        return [
            f"--bootstrap_servers={self.servers}", f"--output_prefix={self.prefix}",
            f"--reads={self.reads}", f"--events={self.events}",
        ]  # fmt: skip

    def letter(self, offset: int, value: Any, reason: str = "WRONG_TYPE", **fields: Any) -> None:
        """Publish a letter as the pipeline does."""
        made = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
        known = {"topic": self.reads, "partition": 0, "record_time": NOW, "used": False, "detail": "a field is wrong"}
        letter = DeadLetter(reason, offset=offset, value=made, **(known | fields))
        key = f"{letter.topic}/{letter.partition}/{letter.offset}"
        self._producer.produce(self.letters, dead_letter_json(letter), key)

    def flush(self) -> None:
        assert self._producer.flush(30) == 0

    def says(self, action: str, *arguments: str, code: int = 0) -> Any:
        """What the command gives as JSON."""
        assert self._capsys is not None
        self.flush()
        self._capsys.readouterr()
        found = deadletter.main([action, *arguments, *self.where, "--json"])
        said = self._capsys.readouterr()
        assert found == code, said.err
        return json.loads(said.out)

    def text(self, action: str, *arguments: str, code: int = 0) -> str:
        """What it says to people, errors too."""
        assert self._capsys is not None
        self.flush()
        self._capsys.readouterr()
        found = deadletter.main([action, *arguments, *self.where])
        said = self._capsys.readouterr()
        assert found == code, said.err
        return said.out + said.err

    def committed(self, *topics: str, isolation: str = "read_committed") -> list[Message]:
        """Every record of the topics that a consumer of committed ones gets."""
        settings = {"isolation.level": isolation, "enable.partition.eof": True, "enable.auto.commit": "false"}
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": "committed", **settings})
        try:
            known = consumer.list_topics(timeout=10).topics
            places = [TopicPartition(topic, each, 0) for topic in topics for each in known[topic].partitions]
            consumer.assign(places)
            found, ends = [], 0
            while ends < len(places):
                message = consumer.poll(30)
                assert message is not None
                if message.error() is not None:
                    ends += 1
                else:
                    found.append(message)
            return found
        finally:
            consumer.close()

    @contextmanager
    def watched(self) -> Iterator[Callable[[], int]]:
        """Says how far the reads topic has been written, open transactions and marks of their ends included."""
        settings = {"isolation.level": "read_uncommitted", "fetch.wait.max.ms": 10}
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": "watched", **settings})
        places = [TopicPartition(self.reads, each) for each in range(3)]
        try:
            yield lambda: sum(consumer.get_watermark_offsets(each, timeout=30)[1] for each in places)
        finally:
            consumer.close()


@pytest.fixture
def desk(kafka_broker: KafkaBroker, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(kafka_broker, re.sub(r"\W", "-", request.node.name), capsys)


def test_letters_are_counted_once_and_shown_without_records(desk: Desk) -> None:
    for offset in range(3):
        for _ in range(2):
            desk.letter(offset, read("M1", consumption_kwh="0,5"), record_time=NOW - offset * MICROS_PER_HOUR)
    desk.letter(7, read("M2", voltage_v=4000.0), "IMPLAUSIBLE_VOLTAGE", used=True)
    desk.letter(8, b"x" * 600_000, "INVALID_JSON")
    desk.letter(9, None, "NULL_VALUE", topic=desk.events, record_time=None)
    desk._producer.produce(desk.letters, b"no letter")
    said = desk.says("list")
    groups = {(group["topic"], group["reason"]): group for group in said["groups"]}
    assert (said["letters"], said["repeated"], said["unreadable"]) == (6, 3, 1)
    wrong = groups[desk.reads, "WRONG_TYPE"]
    assert (wrong["letters"], wrong["replayable"], wrong["replayed"]) == (3, 3, 0)
    assert (wrong["first"], wrong["last"]) == (format_instant(NOW - 2 * MICROS_PER_HOUR), format_instant(NOW))
    assert groups[desk.reads, "IMPLAUSIBLE_VOLTAGE"]["used"] == 1
    assert groups[desk.reads, "INVALID_JSON"]["truncated"] == 1
    assert groups[desk.events, "NULL_VALUE"] | {"first": None, "last": None} == {
        "topic": desk.events, "reason": "NULL_VALUE", "letters": 1, "replayable": 0, "replayed": 0, "used": 0,
        "truncated": 0, "no_value": 1, "first": None, "last": None,
    }  # fmt: skip
    text = desk.text("list")
    assert "SECRET" not in text
    assert re.search(rf"{desk.reads} +WRONG_TYPE +3 +3 +0 +0 +0 ", text)
    since = f"--since={format_instant(NOW - MICROS_PER_MINUTE)}"
    assert desk.says("list", "--reason=wrong_type", f"--topic={desk.reads}", since)["letters"] == 1
    assert desk.says("list", "--meter=M2")["letters"] == 1
    assert desk.says("list", "--meter=M")["letters"] == 0
    assert desk.says("list", f"--set_aside_since={format_instant(NOW + MICROS_PER_HOUR)}")["letters"] == 0


def test_a_letter_is_shown_and_cannot_steer_the_terminal(desk: Desk) -> None:
    desk.letter(1, read("M\x1b[2J"), "WRONG_TYPE", detail="bad \x1b]0;title\x07")
    desk.letter(2, b"\xff\x00\x1b[2Jbinary", "INVALID_UTF8")
    shown = desk.text("show", f"{desk.reads}:0:1")
    assert "customer data" in shown
    assert "WRONG_TYPE" in shown
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "CUST-SECRET" in shown
    assert "00000000  ff 00 1b 5b 32 4a 62 69 6e 61 72 79" in desk.text("show", f"{desk.reads}/0/2")
    said = desk.says("show", f"{desk.reads}:0:2")
    assert base64.b64decode(said["value_b64"]) == b"\xff\x00\x1b[2Jbinary"
    assert "no letter of" in desk.text("show", f"{desk.reads}:0:3", code=1)
    assert "is no TOPIC:PARTITION:OFFSET" in desk.text("show", "nothing", code=2)


def test_a_replay_goes_back_once_and_says_where_it_came_from(desk: Desk) -> None:
    good, late = read("M1", consumption_kwh="0,5"), read("M2", END - 3 * 24 * MICROS_PER_HOUR)
    for _ in range(2):
        desk.letter(5, good, partition=2)
    desk.letter(6, late, "TOO_LATE")
    desk.letter(7, read("M3", voltage_v=4000.0), "IMPLAUSIBLE_VOLTAGE", used=True)
    desk.letter(8, {"meter_id": "M4", "event_code": 3840, "event_ts": format_instant(END)}, topic=desk.events)
    desk.letter(9, read("M5"), partition=17)
    repair = """--repair=record | {"consumption_kwh": number(record["consumption_kwh"])}
                if "consumption_kwh" in record else record"""
    dry = desk.says("replay", repair, code=1)
    assert (dry["published"], dry["replayed"], dry["repaired"], dry["left"]) == (False, 3, 1, 2)
    assert dry["samples"] == [
        {"record": f"{desk.reads}:2:5", "changes": [{"field": "consumption_kwh", "before": "0,5", "after": 0.5}]}
    ]
    causes = {(group["reason"], group["cause"]) for group in dry["left_groups"]}
    assert causes == {("TOO_LATE", "set_aside_again"), ("IMPLAUSIBLE_VOLTAGE", "used")}
    assert desk.committed(desk.reads, desk.events, desk.marks) == []
    before = time.time_ns() // 1_000_000
    done = desk.says("replay", repair, "--yes", "--operator=jane", code=1)
    assert (done["published"], done["replayed"], done["repaired"]) == (True, 3, 1)
    records = {message.key(): message for message in desk.committed(desk.reads, desk.events)}
    assert set(records) == {b"M1", b"M4", b"M5"}
    repaired = records[b"M1"]
    assert json.loads(repaired.value() or b"") == read("M1", consumption_kwh=0.5)
    assert repaired.partition() == 2
    assert repaired.timestamp()[1] >= before
    headers = dict(repaired.headers() or ())
    assert headers.pop("ami-replayed-at")
    assert headers == {
        "ami-replayed-from": f"{desk.reads}/2/5".encode(), "ami-replayed-reason": b"WRONG_TYPE",
        "ami-replayed-by": b"jane", "ami-repaired": b"true",
    }  # fmt: skip
    # What was not repaired is what it was, to the byte; a partition that there is not any more is no obstacle.
    assert records[b"M5"].value() == json.dumps(read("M5")).encode()
    assert records[b"M4"].topic() == desk.events
    marks = [parse_mark(message.value() or b"") for message in desk.committed(desk.marks)]
    assert {(mark.record.path, mark.operator, mark.repaired) for mark in marks} == {
        (f"{desk.reads}/2/5", "jane", True),
        (f"{desk.events}/0/8", "jane", False),
        (f"{desk.reads}/17/9", "jane", False),
    }
    assert [group["replayed"] for group in desk.says("list", "--reason=WRONG_TYPE")["groups"]] == [1, 2]
    again = desk.says("replay", repair, "--yes", code=1)
    assert (again["replayed"], again["left"]) == (0, 5)
    assert len(desk.committed(desk.reads, desk.events)) == 3
    assert desk.says("replay", repair, "--yes", "--again", "--limit=2", code=0)["replayed"] == 2
    assert len(desk.committed(desk.reads, desk.events)) == 5


def test_what_is_too_late_goes_where_it_is_taken(desk: Desk, tmp_path: Path) -> None:
    """By the rules of the run: a longer lateness, or billing, which takes reads for weeks."""
    desk.letter(6, read("M2", END - 3 * 24 * MICROS_PER_HOUR), "TOO_LATE")
    key = tmp_path / "customer.key"
    key.write_text("k" * 32)
    assert desk.says("replay", code=1)["replayed"] == 0
    assert desk.says("replay", "--allowed_lateness=96h")["replayed"] == 1
    billing = ["--also_publish=validated_reads", f"--customer_key_file={key}"]
    assert desk.says("replay", *billing)["replayed"] == 1
    assert desk.says("replay", *billing, "--billing_lateness=48h", code=1)["replayed"] == 0
    forced = desk.says("replay", "--force")
    assert (forced["replayed"], forced["forced"]) == (1, 1)


def test_letters_of_a_topic_go_into_a_file_that_is_left_alone_afterwards(desk: Desk, tmp_path: Path) -> None:
    desk.letter(5, read("M1"), partition=2)
    desk.letter(8, {"meter_id": "M4", "event_code": 3840, "event_ts": format_instant(END)}, topic=desk.events)
    path = tmp_path / "reads.jsonl"
    both = desk.text("replay", f"--to={path}", "--yes", code=2)
    assert f"Example: --topic={desk.events}" in both
    assert not list(tmp_path.iterdir())
    assert desk.says("replay", f"--to={path}", f"--topic={desk.reads}", "--yes")["published"] is True
    (line,) = map(json.loads, path.read_text().splitlines())
    assert (line["ts_ms"], line["key"], line["topic"], line["partition"], line["offset"]) == (
        NOW // 1000, "M1", desk.reads, 2, 5
    )  # fmt: skip
    assert json.loads(base64.b64decode(line["value_b64"])) == read("M1")
    assert desk.committed(desk.reads, desk.marks) == []
    assert "is there already" in desk.text("replay", f"--to={path}", "--yes", code=2)


def test_a_missing_topic_of_marks_is_named_with_how_to_create_it(kafka_broker: KafkaBroker, desk: Desk) -> None:
    desk.letter(5, read("M1"))
    kafka_broker.delete_topics([desk.marks])
    assert desk.says("list")["letters"] == 1
    assert desk.says("replay")["replayed"] == 1
    said = desk.text("replay", "--yes", code=2)
    assert f"--create --partitions 1 --topic {desk.marks} --config cleanup.policy=compact" in said


def test_avro_goes_back_as_it_is(desk: Desk, schema_registry: SchemaRegistry) -> None:
    """Letters and originals in Avro, by a real registry; letters in JSON beside them."""
    encode = AvroHeadEnd(schema_registry, "ami.headend.reads")
    with RegistryAddress(schema_registry.url).client() as client:
        subject = subject_of(DEAD_LETTER_TOPIC)
        number = client.register_schema(subject, Schema(schema_text(subject), "AVRO"))
    original = encode(json.dumps(read("M1")).encode())
    assert original is not None
    in_avro = AvroValues({DEAD_LETTER_TOPIC: number})
    letter = DeadLetter("AVRO_UNKNOWN_SCHEMA", "not known then", desk.reads, 1, 5, NOW, original)
    desk._producer.produce(desk.letters, in_avro(letter))
    desk.letter(6, encode(json.dumps(read("M2")).encode()), "AVRO_UNKNOWN_SCHEMA")
    options = ["--reads_format=avro", f"--schema_registry={schema_registry.url}"]
    assert desk.says("list", *options)["letters"] == 2
    assert desk.says("list")["unreadable"] == 1
    shown = desk.says("show", f"{desk.reads}:1:5", *options)
    assert (shown["avro"]["meter_id"], base64.b64decode(shown["value_b64"])) == ("M1", original)
    assert "replayed as they are, without repair" in desk.text("replay", "--repair=record", *options, code=2)
    assert desk.says("replay", "--yes", *options)["replayed"] == 2
    records = {message.key(): message.value() for message in desk.committed(desk.reads)}
    assert records.keys() == {b"M1", b"M2"}
    assert records[b"M1"] == original


def reaches(process: subprocess.Popen[Any], written: Callable[[], int], number: int) -> None:
    """Waits until so much is written."""
    until = time.monotonic() + 300
    while written() < number and process.poll() is None:
        assert time.monotonic() < until


def test_killed_at_any_instant_each_record_goes_exactly_once(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    """kill -9 in the middle, SIGTERM in the middle, and run again: a consumer of committed records gets each once."""
    desk = Desk(kafka_broker, "killed")
    count, draw = 500 * (KILLS + 2), random.Random(8)
    values = {offset: json.dumps(read(f"M{offset}")).encode() for offset in range(count)}
    for offset, value in values.items():
        desk.letter(offset, value, partition=offset % 3)
    desk.flush()
    # A transaction is what a second has room for.
    command = [*COMMAND, "replay", "--yes", *desk.where, "--json"]
    with desk.watched() as written:
        for number in range(KILLS + 1):
            log = tmp_path / f"{number}.log"
            with log.open("w") as file:
                process = subprocess.Popen([*command, "--max_rate=500"], cwd=ROOT, stdout=file, stderr=file)
            try:
                reaches(process, written, written() + draw.randrange(1, 400))
                if number % 2:
                    # What is under way stays so until it is killed.
                    kafka_broker.freeze()
                # The last one is asked to end.
                process.send_signal(signal.SIGKILL if number < KILLS else signal.SIGTERM)
                if number < KILLS:
                    process.wait(120)
                kafka_broker.thaw()
                code = process.wait(120)
            finally:
                kafka_broker.thaw()
                process.kill()
                process.wait()
            assert code == (-signal.SIGKILL if number < KILLS else deadletter.STOPPED), log.read_text()
    assert "records were replayed; run the command again" in log.read_text()
    gone = len(desk.committed(desk.reads))
    assert 0 < gone < count
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    result = json.loads(done.stdout)
    assert (done.returncode, result["replayed"], result["left"]) == (1, count - gone, gone)
    records = desk.committed(desk.reads)
    assert Counter(message.value() for message in records) == Counter(values.values())
    sent = {dict(message.headers() or ())["ami-replayed-from"] for message in records}
    assert sent == {f"{desk.reads}/{offset % 3}/{offset}".encode() for offset in values}
    assert Counter(message.key() for message in desk.committed(desk.marks)) == Counter(sent)


HANGS = """
import sys, time
from ami_beam import deadletter
from ami_beam.io.dead_letters import ReplayProducer

def hang(producer):
    producer._producer.flush()
    print("all is written", flush=True)
    time.sleep(600)

ReplayProducer._commit = hang
deadletter.main(sys.argv[1:])
"""


def test_what_was_written_and_not_committed_is_nothing(desk: Desk) -> None:
    """Killed at the worst instant: everything is in the topics, and the transaction is open."""
    for offset in range(5):
        desk.letter(offset, read(f"M{offset}"))
    desk.flush()
    command = [sys.executable, "-c", HANGS, "replay", "--yes", *desk.where]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "all is written\n"
    finally:
        process.kill()
        process.communicate()
    assert desk.says("replay")["replayed"] == 5
    assert desk.says("replay", "--yes")["replayed"] == 5
    assert sorted(message.key() for message in desk.committed(desk.reads)) == [f"M{n}".encode() for n in range(5)]
    assert len(desk.committed(desk.reads, isolation="read_uncommitted")) == 10


def test_a_second_replay_shuts_the_first_out(kafka_broker: KafkaBroker, desk: Desk) -> None:
    for offset in range(300):
        desk.letter(offset, read(f"M{offset}"))
    desk.flush()
    command = [*COMMAND, "replay", "--yes", *desk.where, "--max_rate=10"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        with desk.watched() as written:
            reaches(process, written, 1)
        assert desk.says("replay", "--yes", code=1)["left"] > 0
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1
    assert "Another replay has begun" in said
    assert len({message.key() for message in desk.committed(desk.reads)}) == len(desk.committed(desk.reads)) == 300
