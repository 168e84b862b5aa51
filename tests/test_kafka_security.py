"""Brokers that demand a password or a certificate and permit only what SECURITY.md says; and what nobody may see."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from ami_beam import counts, deadletter, explain
from ami_beam import run as command
from ami_beam.codecs.json_outputs import DEAD_LETTER_TOPIC, RESULT_TOPICS, dead_letter_json
from ami_beam.codecs.stored_letters import REPLAYED_TOPIC
from ami_beam.consumers import OPTIONAL_TOPICS
from ami_beam.headend import __main__ as headend
from ami_beam.headend.topics import CURSORS_TOPIC, SET_ASIDE_TOPIC, make_missing
from ami_beam.local.kafka_broker import KafkaBroker, Security
from ami_beam.records import DeadLetter
from tests.certificates import Authority
from tests.headend_server import HeadEndServer
from tests.kafka_replay import EVENTS, READS, Outputs, Run, create_topics
from tests.test_end_to_end_kafka import Live, wait_for

pytestmark = pytest.mark.processes
EVERY_COMBINATION = os.environ.get("AMI_BEAM_EVERY_COMBINATION")
DOCUMENT = Path(__file__).parents[1] / "SECURITY.md"
PASSWORD = "pw-UNMISTAKABLE-5c1d"
KEY_PASSWORD = "kp-UNMISTAKABLE-77aa"
CUSTOMER = "CUST-UNMISTAKABLE-"
CUSTOMER_KEY = "the key of all customers"
ACL_COMMAND = "org.apache.kafka.tools.AclCommand"


class World:
    """A secured broker with the product's topics, and the client files of those who may, or may not, use it."""

    def __init__(self, broker: KafkaBroker, directory: Path, authority: Authority, stranger: Authority) -> None:
        self.broker = broker
        self.directory = directory
        self.authority = authority
        self.stranger = stranger
        self.admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
        self.counts = directory / "counts.csv"
        self.counts.write_text("transformer_id,total_meters\nT1,1\n")
        key = authority.issue("ami-beam", KEY_PASSWORD)
        self.mtls = self.file("mtls", ("security.protocol=SSL", *self.keys(key), f"ssl.key.password={KEY_PASSWORD}"))
        store = (
            f"ssl.keystore.location={authority.issue_pkcs12('ami-beam', KEY_PASSWORD)}",
            "ssl.keystore.type=PKCS12",
        )
        self.pkcs12 = self.file("pkcs12", ("security.protocol=SSL", *store, f"ssl.keystore.password={KEY_PASSWORD}"))
        self.sasl = self.login("ami-beam", PASSWORD)

    def file(self, name: str, lines: tuple[str, ...], authority: Authority | None = None) -> Path:
        """Client properties that trust the broker's authority, or another."""
        trusted = (authority or self.authority).certificate
        path = self.directory / f"{name}.properties"
        path.write_text("\n".join(["ssl.truststore.type=PEM", f"ssl.truststore.location={trusted}", *lines]))
        return path

    def keys(self, path: Path) -> tuple[str, str]:
        return "ssl.keystore.type=PEM", f"ssl.keystore.location={path}"

    def login(self, user: str, password: str, authority: Authority | None = None) -> Path:
        module = "org.apache.kafka.common.security.scram.ScramLoginModule"
        jaas = f'sasl.jaas.config={module} required username="{user}" password="{password}";'
        lines = ("security.protocol=SASL_SSL", "sasl.mechanism=SCRAM-SHA-512", jaas)
        return self.file(f"sasl-{user}-{len(list(self.directory.iterdir()))}", lines, authority)

    def arguments(self, config: Path, *others: str) -> list[str]:
        servers = self.broker.mtls_servers if config in (self.mtls, self.pkcs12) else self.broker.sasl_servers
        return [
            *("--runner=FlinkRunner", "--start=earliest", f"--meter_counts={self.counts}"),
            *(f"--bootstrap_servers={servers}", f"--kafka_config_file={config}", *others),
        ]

    def take_away(
        self, operation: AclOperation, name: str, kind: ResourceType = ResourceType.TOPIC
    ) -> Callable[[], None]:
        """Delete an ACL of User:ami-beam on a topic, or on groups by prefix; the result gives it back."""
        pattern = ResourcePatternType.LITERAL if kind == ResourceType.TOPIC else ResourcePatternType.PREFIXED
        what = (kind, name, pattern, "User:ami-beam", "*", operation)
        (gone,) = self.admin.delete_acls([AclBindingFilter(*what, AclPermissionType.ALLOW)]).values()
        assert len(gone.result(10)) == 1

        def give_back() -> None:
            (there,) = self.admin.create_acls([AclBinding(*what, AclPermissionType.ALLOW)]).values()
            there.result(10)

        return give_back


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("security")
    authority, stranger = Authority(directory, "authority"), Authority(directory, "stranger")
    users = ("ami-beam", "ami-analyst", "ami-replayer", "ami-headend", "nobody")
    security = Security(authority.issue("broker"), authority.certificate, dict.fromkeys(users, PASSWORD))
    with KafkaBroker(security=security) as broker:
        create_topics(broker, partitions=1, timestamp_type="LogAppendTime")
        broker.create_topics((*OPTIONAL_TOPICS.values(), REPLAYED_TOPIC))
        make_missing({"bootstrap.servers": broker.bootstrap_servers}, {CURSORS_TOPIC: 1, SET_ASIDE_TOPIC: 1})
        for line in re.findall(r"^kafka-acls\.sh (.*)$", DOCUMENT.read_text(), re.MULTILINE):
            words = shlex.split(line.replace("broker1:9092", broker.bootstrap_servers))
            broker.run_tool(ACL_COMMAND, *words)
        yield World(broker, directory, authority, stranger)


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The one sentence with which a run is refused at start."""
    assert command.main(arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ami_beam.run: ")]
    assert PASSWORD not in line
    assert KEY_PASSWORD not in line
    return line


class TestRefusedAtStart:
    def test_a_wrong_password(self, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        line = refused(capsys, world.arguments(world.login("ami-beam", "pw-wrong")))
        assert "the broker refuses the login" in line
        assert "pw-wrong" not in line

    def test_a_broker_of_an_unknown_authority(self, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        line = refused(capsys, world.arguments(world.login("ami-beam", PASSWORD, world.stranger)))
        assert "not signed by an authority that this run trusts" in line
        assert "ssl.truststore.location" in line

    def test_a_certificate_of_an_unknown_authority(self, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        config = world.file("strange", ("security.protocol=SSL", *world.keys(world.stranger.issue("ami-beam"))))
        arguments = world.arguments(config)
        arguments.append(f"--bootstrap_servers={world.broker.mtls_servers}")
        assert "the broker refuses this client's certificate" in refused(capsys, arguments)

    def test_a_key_with_another_password(self, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        wrong = ("security.protocol=SSL", *world.keys(world.authority.issue("other", "kp")), "ssl.key.password=x")
        assert "ssl.key" in refused(capsys, world.arguments(world.file("wrong-key", wrong)))

    @pytest.mark.parametrize(
        ("operation", "topic", "said"),
        [
            (AclOperation.READ, READS, f"does not allow this run to read {READS}"),
            (AclOperation.READ, "ami.alerts.grid", "does not allow this run to read ami.alerts.grid"),
            (AclOperation.WRITE, "ami.deadletter", "does not allow this run to write ami.deadletter"),
        ],
    )
    def test_a_topic_without_an_acl(
        self, world: World, capsys: pytest.CaptureFixture[str], operation: AclOperation, topic: str, said: str
    ) -> None:
        give_back = world.take_away(operation, topic)
        try:
            line = refused(capsys, world.arguments(world.sasl))
        finally:
            give_back()
        assert said in line
        assert f"--operation {operation.name.capitalize()} --topic {topic}" in line

    def test_somebody_without_any_acl(self, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        line = refused(capsys, world.arguments(world.login("nobody", PASSWORD)))
        for topic in (READS, EVENTS, *RESULT_TOPICS):
            assert topic in line

    def test_a_consumer_group_without_an_acl(self, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        give_back = world.take_away(AclOperation.DESCRIBE, "ami-beam-", ResourceType.GROUP)
        try:
            line = refused(capsys, world.arguments(world.sasl))
        finally:
            give_back()
        assert "--operation Describe --group ami-beam- --resource-pattern-type prefixed" in line

    def test_a_setting_that_only_java_knows(self, world: World, capsys: pytest.CaptureFixture[str]) -> None:
        config = world.directory / "jks.properties"
        config.write_text("security.protocol=SSL\nssl.truststore.location=trust.jks\n")
        assert "ssl.truststore.type=JKS cannot be used" in refused(capsys, world.arguments(config))


def test_meter_counts_in_a_topic_need_a_login_and_an_acl(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.broker.create_topic("ami.meter.counts")
    producer = Producer({"bootstrap.servers": world.broker.bootstrap_servers})
    producer.produce("ami.meter.counts", b'{"transformer_id": "T1", "total_meters": 7}', b"T1")
    assert producer.flush(30) == 0
    options = ["--meter_counts=kafka:ami.meter.counts", f"--bootstrap_servers={world.broker.sasl_servers}"]
    for user, password, code, words in (
        ("ami-beam", PASSWORD, 0, "meters now              7\n"),
        ("ami-analyst", PASSWORD, 0, "meters now              7\n"),
        ("nobody", PASSWORD, 1, "it is not allowed: kafka-acls.sh --add --operation Read --topic ami.meter.counts"),
        ("ami-beam", "pw-wrong", 1, "Authentication failed"),
    ):
        config = f"--kafka_config_file={world.login(user, password)}"
        assert counts.main([*options, config]) == code
        said = "".join(capsys.readouterr())
        assert words in said
        assert PASSWORD not in said
        assert "pw-wrong" not in said


def test_the_head_end_adapter_needs_what_the_document_says_and_no_more(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "north.toml"
    with HeadEndServer([]) as server:
        source.write_text(
            f'name = "north"\nurl = "{server.url}/reads"\nrecords = "data/*"\n[period]\nbegin = "from"\nend = "to"\n'
            '[fields]\nmeter_id = "m"\nservice_point_id = "m"\ncustomer_id = "m"\ntransformer_id = "m"\n'
            'feeder_id = "m"\ninterval_end = "end"\nconsumption_kwh = "kwh"\n'
        )
        for user, code, words in (
            ("ami-headend", 0, ""),
            ("nobody", 2, "does not allow this run to write ami.headend.cursors"),
        ):
            config = f"--kafka_config_file={world.login(user, PASSWORD)}"
            servers = f"--bootstrap_servers={world.broker.sasl_servers}"
            said = [str(source), servers, config, "--once"]
            assert headend.main(said) == code
            error = capsys.readouterr().err
            assert words in error
            assert PASSWORD not in error
        assert server.counts["pages"] == 1


def test_who_asks_needs_what_the_document_says_and_no_more(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """`ami_beam.explain`, which reads the most: with these ACLs it gets as far as not finding what it was asked for."""
    options = [f"--meter_counts={world.counts}", f"--bootstrap_servers={world.broker.sasl_servers}"]
    for user, code, words in (
        ("ami-analyst", 1, "no alert or alarm 0123"),
        ("nobody", 2, "does not allow this run to read ami.alarms"),
    ):
        config = f"--kafka_config_file={world.login(user, PASSWORD)}"
        assert explain.main(["0123", *options, config]) == code
        said = capsys.readouterr().err
        assert words in said
        assert PASSWORD not in said


class Job:
    """A run with the product's own command line, fed with reads of planted customers until it is told to stop."""

    def __init__(
        self, world: World, folder: Path, monkeypatch: pytest.MonkeyPatch, config: Path, kafka_io: str
    ) -> None:
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        monkeypatch.setenv("TMPDIR", str(self.temporary))
        self._live = Live(world.broker)
        self.sent = 0
        self.outputs = Outputs(world.broker, folder / "out")
        # What earlier runs have published.
        while self.outputs.collect(1):
            pass
        for rows in self.outputs.rows.values():
            rows.clear()
        others = ("--window=5s", "--collection_delay=1s", "--late_gather=1s", "--shards=1", "--parallelism=1")
        key = folder / "customer.key"
        key.write_text(f"{CUSTOMER_KEY}\n")
        others += (f"--also_publish={','.join(OPTIONAL_TOPICS)}", f"--customer_key_file={key}")
        self.run = Run(world.arguments(config, *others, f"--kafka_io={kafka_io}"), folder / "run.log")

    def send(self) -> None:
        """A read, one that raises an alert, one without its voltage and a bad one, each of another customer."""
        end = time.time_ns() // 1_000 // Live.WINDOW * Live.WINDOW
        for meter, fields in enumerate(({}, {"voltage_v": 180.0}, {"voltage_v": 9_999.0}, {"consumption_kwh": "x"})):
            self.sent += 1
            self._live.read(f"M{meter}", "T1", end, customer_id=f"{CUSTOMER}{self.sent}", **fields)

    def until(self, done: Callable[[], bool]) -> None:
        """Feed it until `done`."""

        def check() -> bool:
            self.send()
            return done()

        wait_for(self.run, self.outputs, check, every=0.5)

    def has_published(self) -> bool:
        # The event alerts need a meter event, which has no customer, and the list of silent meters the end of a day.
        later = ("ami.alerts.events", "ami.meters.silent")
        return all(rows for topic, rows in self.outputs.rows.items() if topic not in later)

    def has_said(self, text: str) -> bool:
        return text in self.run.log.read_text(errors="replace")

    def stop(self) -> int:
        code = self.run.stop()
        self.outputs.close()
        return code


def get(port: str, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return answer.read().decode()


def rest_answers(temporary: Path) -> dict[str, str]:
    """Everything that the REST of the Flink with its files here says of itself and its job."""
    settings = "".join(path.read_text() for path in temporary.rglob("config.yaml"))
    # The first of the ports that it may take, as long as nothing else has it.
    (port,) = re.findall(r"^rest\.bind-port: (\d+)-", settings, re.MULTILINE)
    answers = {path: get(port, path) for path in ("/jobs/overview", "/jobmanager/config", "/config", "/taskmanagers")}
    (job,) = re.findall(r'"jid":"(\w+)"', answers["/jobs/overview"])
    for path in ("", "/config", "/plan", "/exceptions", "/checkpoints", "/checkpoints/config", "/accumulators"):
        answers[path] = get(port, f"/jobs/{job}{path}")
    for vertex in set(re.findall(r'"id":"(\w{32})"', answers[""])):
        for kind in ("", "/accumulators", "/metrics", "/subtasks/accumulators"):
            answers[vertex + kind] = get(port, f"/jobs/{job}/vertices/{vertex}{kind}")
    return answers


def customer(letter: dict[str, Any]) -> int:
    """The number of the customer in a letter's record."""
    (number,) = re.findall(CUSTOMER.encode() + rb"(\d+)", base64.b64decode(letter["value_b64"]))
    return int(number)


def leaks(job: Job, secret: str) -> list[str]:
    """The places of a running job that hold what they must not.

    The secret, and the key by which customers are named: its files (checkpoints, staged artefacts, logs), its log,
    Flink's REST, every output. A customer: the same but dead letters and files, where letters may be on their way.
    """
    files = {str(path): path.read_bytes() for path in job.temporary.rglob("*") if path.is_file()}
    rows = {topic: json.dumps(rows).encode() for topic, rows in job.outputs.rows.items()}
    shown = {name: held for name, held in files.items() if name.endswith(".log")}
    shown |= {name: answer.encode() for name, answer in rest_answers(job.temporary).items()}
    shown["log"] = job.run.log.read_bytes()
    secrets = secret.encode(), CUSTOMER_KEY.encode()
    found = [name for name, held in (files | shown | rows).items() if any(each in held for each in secrets)]
    del rows["ami.deadletter"]
    return found + [name for name, held in (shown | rows).items() if CUSTOMER.encode() in held]


class TestRun:
    def test_with_a_password(self, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        job = Job(world, tmp_path, monkeypatch, world.sasl, "native")
        letters = job.outputs.rows["ami.deadletter"]
        try:
            job.until(job.has_published)
            # A checkpoint has been taken, and is among the files.
            job.until(lambda: any(job.temporary.rglob("chk-*/_metadata")))
            assert leaks(job, PASSWORD) == []
            give_back = world.take_away(AclOperation.WRITE, "ami.deadletter")
            try:
                said = "topic ami.deadletter: refused a record"
                job.until(lambda: job.has_said(said))
                assert job.has_said("Its ACLs must allow the operation Write")
            finally:
                give_back()
            # Not one record is passed over: those that could not be written come when they may.
            set_aside = {number for number in range(1, job.sent + 1) if number % 4 in (3, 0)}
            wait_for(job.run, job.outputs, lambda: {customer(row) for row in letters} >= set_aside)
        finally:
            code = job.stop()
        assert code == 0
        log = job.run.log.read_text(errors="replace")
        assert PASSWORD not in log
        assert CUSTOMER not in log

    def test_with_a_certificate(self, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        job = Job(world, tmp_path, monkeypatch, world.mtls, "native")
        try:
            job.until(job.has_published)
            assert leaks(job, KEY_PASSWORD) == []
            give_back = world.take_away(AclOperation.READ, READS)
            try:
                job.until(lambda: job.has_said(f"topic {READS}: reading is denied"))
            finally:
                give_back()
        finally:
            code = job.stop()
        assert code == 0
        assert KEY_PASSWORD not in job.run.log.read_text(errors="replace")

    @pytest.mark.parametrize("by", ["password", "certificate"] if EVERY_COMBINATION else ["password"])
    def test_with_beams_connector(self, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
        config, secret = (world.sasl, PASSWORD) if by == "password" else (world.pkcs12, KEY_PASSWORD)
        job = Job(world, tmp_path, monkeypatch, config, "beam")
        try:
            job.until(job.has_published)
            assert leaks(job, secret) == []
        finally:
            code = job.stop()
        assert code == 0
        assert secret not in job.run.log.read_text(errors="replace")


def test_who_replays_dead_letters_needs_no_more_than_the_document_says(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last test: its event is one more than the runs before have sent."""
    event = b'{"meter_id":"M","event_code":3840,"event_ts":"2026-03-03T00:00:00Z"}'
    letter = DeadLetter("BAD_RECORD_TIME", "", EVENTS, 0, 10**9, None, event)
    Live(world.broker).send(dead_letter_json(letter), topic=DEAD_LETTER_TOPIC)
    for user, code, words in (
        ("nobody", 2, f"does not allow this run to read {DEAD_LETTER_TOPIC}"),
        ("ami-analyst", 2, f"does not allow this run to read {DEAD_LETTER_TOPIC}"),
        ("ami-replayer", 0, "1 record replayed"),
    ):
        config = [
            f"--kafka_config_file={world.login(user, PASSWORD)}",
            f"--bootstrap_servers={world.broker.sasl_servers}",
        ]
        assert deadletter.main(["replay", "--yes", "--reason=BAD_RECORD_TIME", *config]) == code
        said = capsys.readouterr()
        assert words in said.out + said.err
        assert PASSWORD not in said.out + said.err
