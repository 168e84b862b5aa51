"""The adapter between a head-end that misbehaves and a real broker: everything arrives, and nothing twice."""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from ami_beam.headend.health import HealthServer, SourceHealth
from ami_beam.headend.poll import BackfillRange
from ami_beam.headend.publisher import DIGEST_HEADER, SOURCE_HEADER
from ami_beam.headend.source_file import Source, parse_source
from ami_beam.headend.topics import CURSORS_TOPIC, SET_ASIDE_TOPIC, make_missing, read_to_end
from ami_beam.headend.worker import Job, SourceWorker
from ami_beam.instants import parse_instant
from ami_beam.local import process
from ami_beam.local.kafka_broker import KafkaBroker
from tests.headend_server import Faults, HeadEndServer, Poison, readings

pytestmark = pytest.mark.processes
BEGIN = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=8)
KILLS = int(os.environ.get("AMI_BEAM_HEADEND_KILLS", "5"))
SECONDS = 300.0

SOURCE = """
name = "{name}"
url = "{url}"
topic = "{topic}"
records = "data/*"
every = "{every}"
look_back = "{look_back}"
{more}

[request]
rate = 10000
burst = 10000
timeout = "5s"
attempts = 8
backoff = "20ms"

[times]
interval = "15m"

[fields]
meter_id = "meter"
service_point_id = {{ path = "meter", prefix = "SP-" }}
customer_id = {{ constant = "-" }}
transformer_id = {{ constant = "TR-1" }}
feeder_id = {{ constant = "FDR-1" }}
interval_end = "end"
consumption_kwh = {{ path = "wh", factor = 0.001 }}
voltage_v = "volts"
"""
PAGES = '[paging]\ntype = "page"\nsize_parameter = "limit"\nsize = 50\n'


def text_of(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def period(start: datetime = BEGIN, chunk: str = "3h") -> str:
    return f'[period]\nbegin = "from"\nend = "to"\nchunk = "{chunk}"\nstart = "{text_of(start)}"\n'


@pytest.fixture(scope="module")
def cursors(kafka_broker: KafkaBroker) -> None:
    make_missing({"bootstrap.servers": kafka_broker.bootstrap_servers}, {CURSORS_TOPIC: 1, SET_ASIDE_TOPIC: 1})


class Adapter:
    """A source of its own name and topic, polled in this process."""

    def __init__(
        self, broker: KafkaBroker, url: str, more: str, look_back: str = "1h", name: str = "", every: str = "100ms"
    ) -> None:
        self.name = name or f"north-{uuid.uuid4().hex[:8]}"
        self.topic = f"reads-{self.name}"
        self.config = {"bootstrap.servers": broker.bootstrap_servers}
        self.text = SOURCE.format(
            name=self.name, url=url, topic=self.topic, more=more, look_back=look_back, every=every
        )
        make_missing(self.config, {self.topic: 3})
        self.stop = threading.Event()
        self.health = SourceHealth(self.name, 900.0)

    @property
    def source(self) -> Source:
        return parse_source(self.text, "north.toml")

    def run(self, backfill: BackfillRange | None = None) -> str | None:
        """One round, or a back-fill, to its end. What it failed with."""
        job = Job(self.source, self.topic, True, backfill)
        worker = SourceWorker(job, self.config, self.health, self.stop)
        worker.run()
        return worker.failure

    def start(self) -> SourceWorker:
        worker = SourceWorker(Job(self.source, self.topic, False, None), self.config, self.health, self.stop)
        worker.start()
        return worker

    def published(self) -> list[dict[str, Any]]:
        """What a read_committed consumer finds."""
        return [
            json.loads(message.value() or b"") for message in read_to_end(self.config, self.topic, None, lambda _: None)
        ]

    def written(self) -> int:
        """How far the topic has got, open and given up transactions included; nothing is waited for."""
        consumer = Consumer({**self.config, "group.id": self.name, "isolation.level": "read_uncommitted"})
        try:
            places = [TopicPartition(self.topic, partition) for partition in range(3)]
            return sum(consumer.get_watermark_offsets(place, timeout=30)[1] for place in places)
        finally:
            consumer.close()

    def set_aside(self) -> list[dict[str, Any]]:
        found = (
            json.loads(message.value() or b"")
            for message in read_to_end(self.config, SET_ASIDE_TOPIC, None, lambda _: None)
        )
        return [each for each in found if each["source"] == self.name]

    def holds(self, expected: list[dict[str, Any]]) -> None:
        """Each of the head-end's readings is there once, as it should be, and nothing else."""
        assert Counter(map(identity, self.published())) == Counter(map(expected_identity, expected))


def identity(read: dict[str, Any]) -> tuple[str, str, float]:
    return read["meter_id"], read["interval_end"], read["consumption_kwh"]


def expected_identity(reading: dict[str, Any]) -> tuple[str, str, float]:
    return reading["meter"], reading["end"], round(reading["wh"] / 1000, 3)


def eventually(holds: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < until, what
        time.sleep(0.1)


@pytest.mark.usefixtures("cursors")
@pytest.mark.parametrize("way", ["pages", "offsets", "cursors", "feed", "links", "offset feed", "page feed"])
def test_every_reading_once_from_a_head_end_that_misbehaves(kafka_broker: KafkaBroker, way: str) -> None:
    faults = Faults(throttled=0.05, failing=0.05, cut_off=0.05, half=0.05, repeated=0.3, slow=0.05, slow_seconds=0.2)
    paging = {
        "pages": ("/reads", PAGES + period()),
        "offsets": ("/offsets", '[paging]\ntype = "offset"\nsize = 40\n' + period()),
        "cursors": ("/feed", '[paging]\ntype = "cursor"\nnext = "next"\n' + period()),
        "feed": ("/feed", '[paging]\ntype = "cursor"\nnext = "next"\n'),
        "links": ("/links", '[paging]\ntype = "link"\n'),
        "offset feed": ("/offsets", '[paging]\ntype = "offset"\nsize = 40\n'),
        "page feed": ("/reads", PAGES),
    }
    path, more = paging[way]
    all_of_them = readings(20, BEGIN, 24)
    with HeadEndServer(all_of_them[:-30], faults, page_size=20, seed=7) as server:
        adapter = Adapter(kafka_broker, server.url + path, more, look_back="5h")
        if way == "links":
            adapter.text = adapter.text.replace('records = "data/*"', 'records = "*"')
        assert adapter.run() is None
        adapter.holds(all_of_them[:-30])
        # What comes later is new in the next round, of another process; and nothing else is.
        server.readings = all_of_them
        assert adapter.run() is None
        adapter.holds(all_of_them)
        assert sum(server.counts[kind] for kind in ("throttled", "failing", "cut_off", "half")) > 2, server.counts
    assert adapter.set_aside() == []


@pytest.fixture
def command(kafka_broker: KafkaBroker, tmp_path: Path) -> Iterator[Callable[..., process.ChildProcess]]:
    """Starts the command as a process, with what it says in a file; ends it however the test ends."""
    started: list[process.ChildProcess] = []

    def start(adapter: Adapter, *more: str) -> process.ChildProcess:
        path = tmp_path / "source.toml"
        path.write_text(adapter.text)
        command = [sys.executable, "-m", "ami_beam.headend", path, *more]
        command += [f"--bootstrap_servers={kafka_broker.bootstrap_servers}"]
        started.append(process.ChildProcess("the adapter", command, tmp_path / f"{len(started)}.log"))
        return started[-1]

    yield start
    for each in started:
        each.stop(patience=0)


@pytest.mark.usefixtures("cursors")
@pytest.mark.timeout(3_600)
def test_killed_at_any_instant_it_publishes_each_reading_once(
    kafka_broker: KafkaBroker, command: Callable[..., process.ChildProcess]
) -> None:
    """SIGKILL at seeded instants after a start, before the first request or in the middle of many transactions."""
    draw = random.Random(20)
    faults = Faults(throttled=0.02, failing=0.02, half=0.02, repeated=0.3, slow=1.0, slow_seconds=0.01)
    # An hour and a half, 51 pages with a transaction each, for every kill, so that every start finds work.
    begin = BEGIN + timedelta(hours=8) - timedelta(minutes=90) * KILLS
    all_of_them = readings(40, begin, 6 * KILLS)
    with HeadEndServer(all_of_them, faults, page_size=5, seed=3) as server:
        adapter = Adapter(kafka_broker, f"{server.url}/reads", PAGES + period(begin, "30m"), look_back="30m")
        written = []
        for _ in range(KILLS):
            child = command(adapter)
            before = server.counts["requests"]
            # Of five, one is killed before it has asked for anything.
            if draw.random() < 0.8:
                server.wait_for("requests", before + draw.randint(10, 60), SECONDS)
                # What it looks back at first is there already: on a slow machine that may be all of these.
                until = time.monotonic() + SECONDS
                while adapter.written() <= (written[-1] if written else 0) and time.monotonic() < until:
                    time.sleep(0.01)
                time.sleep(draw.uniform(0.0, 0.05))
            else:
                time.sleep(draw.uniform(0.5, 2.5))
            child.signal(signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL
            written.append(adapter.written())
        assert len(set(written)) > KILLS // 2, "most of the kills came while it was publishing"
        last = command(adapter, "--once")
        assert last.wait() == 0, last.log_tail()
        assert ": 0 published" not in last.log_tail(), "the last kill came too late to be one"
        adapter.holds(all_of_them)
        assert adapter.set_aside() == []


@pytest.mark.usefixtures("cursors")
def test_sigterm_ends_it_in_order_and_it_goes_on_from_there(
    kafka_broker: KafkaBroker, command: Callable[..., process.ChildProcess]
) -> None:
    all_of_them = readings(50, BEGIN, 24)
    with HeadEndServer(all_of_them, Faults(slow=1.0, slow_seconds=0.02), page_size=10) as server:
        adapter = Adapter(kafka_broker, f"{server.url}/feed", '[paging]\ntype = "cursor"\nnext = "next"\n')
        child = command(adapter, "--health=127.0.0.1:0")
        server.wait_for("pages", 20, SECONDS)
        child.signal(signal.SIGTERM)
        assert child.wait() == 0, child.log_tail()
        assert "published" in child.log_tail()
        count = len(adapter.published())
        assert 150 <= count < len(all_of_them)
        assert adapter.run() is None
        adapter.holds(all_of_them)


@pytest.mark.usefixtures("cursors")
def test_sigterm_does_not_wait_for_a_slow_head_end_and_no_log_has_a_secret(
    kafka_broker: KafkaBroker, command: Callable[..., process.ChildProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "hunter2-of-the-head-end"
    monkeypatch.setenv("HES_PASSWORD", secret)
    faults = Faults(slow=1.0, slow_seconds=60.0)
    with HeadEndServer(readings(3, BEGIN, 4), faults, secret=secret) as server:
        more = '[authentication]\ntype = "token"\ntoken_env = "HES_PASSWORD"\nparameter = "k"\n'
        adapter = Adapter(kafka_broker, f"{server.url}/reads", PAGES + more)
        adapter.text = adapter.text.replace('timeout = "5s"', 'timeout = "90s"')
        child = command(adapter)
        server.wait_for("slow", 1, SECONDS)
        asked = time.monotonic()
        child.signal(signal.SIGTERM)
        assert child.wait() == 0, child.log_tail()
        assert time.monotonic() - asked < 30
        assert secret not in child.log_tail()
        faults.slow = 0.0
        # Where something is wrong, too.
        monkeypatch.setenv("HES_PASSWORD", f"old-{secret}")
        child = command(adapter, "--once")
        assert child.wait() == 1
        assert "401" in child.log_tail()
        assert secret not in child.log_tail()


@pytest.mark.usefixtures("cursors")
def test_a_second_instance_takes_over_and_the_first_one_ends(kafka_broker: KafkaBroker) -> None:
    all_of_them = readings(10, BEGIN, 24)
    with HeadEndServer(all_of_them[:100], page_size=10) as server:
        adapter = Adapter(kafka_broker, f"{server.url}/feed", '[paging]\ntype = "cursor"\nnext = "next"\n')
        first = adapter.start()
        eventually(lambda: len(adapter.published()) == 100, "the first has published")
        second = adapter.start()
        try:
            eventually(lambda: second.is_alive() and server.counts["requests"] > 40, "the second polls")
            server.readings = all_of_them
            eventually(lambda: not first.is_alive(), "the first has ended")
            assert first.failure is not None
            assert "another instance" in first.failure
            eventually(lambda: len(adapter.published()) >= len(all_of_them), "the second has published")
        finally:
            adapter.stop.set()
            second.join(30)
        assert second.failure is None
        adapter.holds(all_of_them)


@pytest.mark.usefixtures("cursors")
def test_the_end_of_a_topic_is_behind_open_transactions_of_others(kafka_broker: KafkaBroker) -> None:
    """A position that was committed behind one is not overlooked: what it covers would be published again."""
    config = {"bootstrap.servers": kafka_broker.bootstrap_servers}
    name = f"open-{uuid.uuid4().hex[:8]}"
    make_missing(config, {name: 1})
    slow, quick = (Producer({**config, "transactional.id": f"{name}-{each}"}) for each in ("slow", "quick"))
    for each in (slow, quick):
        each.init_transactions()
        each.begin_transaction()
    slow.produce(name, b"open")
    assert slow.flush(30) == 0
    quick.produce(name, b"committed behind it")
    quick.commit_transaction()
    waited = threading.Event()

    def waiting(_: float) -> None:
        if not waited.is_set():
            waited.set()
            threading.Timer(1.5, slow.abort_transaction).start()

    found = [message.value() for message in read_to_end(config, name, None, waiting)]
    assert found == [b"committed behind it"]
    # A topic whose last record is no record but the end of a transaction has an end, too.
    assert len(list(read_to_end(config, name, {0: 2}, waiting))) == 0


@pytest.mark.usefixtures("cursors")
def test_a_resend_with_other_content_is_published_and_an_equal_one_is_not(kafka_broker: KafkaBroker) -> None:
    all_of_them = readings(3, BEGIN, 28)
    with HeadEndServer(all_of_them) as server:
        adapter = Adapter(kafka_broker, f"{server.url}/reads", PAGES + period(), look_back="8h")
        assert adapter.run() is None
        server.readings = [*all_of_them[:-1], {**all_of_them[-1], "wh": 5}]
        assert adapter.run() is None
        adapter.holds([*all_of_them, server.readings[-1]])


@pytest.mark.usefixtures("cursors")
@pytest.mark.parametrize("status", [200, 500])
def test_a_poison_page_is_set_aside_and_the_poll_goes_on(kafka_broker: KafkaBroker, status: int) -> None:
    all_of_them = readings(10, BEGIN, 8)
    poison = Poison(lambda query: query.get("page") == "2" and query["from"] == text_of(BEGIN), status)
    with HeadEndServer(all_of_them, poison=poison, page_size=20) as server:
        adapter = Adapter(kafka_broker, f"{server.url}/reads", PAGES + period(BEGIN), look_back="0s")
        adapter.text = adapter.text.replace("attempts = 8", "attempts = 2")
        assert adapter.run() is None
        # Page 2 of the first three hours.
        adapter.holds(all_of_them[:20] + all_of_them[40:])
        (page,) = adapter.set_aside()
        assert (page["what"], page["reason"]) == ("page", "INVALID_JSON" if status == 200 else "HTTP_500")
        assert base64.b64decode(page["original_b64"]) == poison.body
        assert "page=2" in page["url"]
        assert ("setaside_total", page["reason"]) in adapter.health.counts()


@pytest.mark.usefixtures("cursors")
def test_a_head_end_that_is_down_is_waited_for(kafka_broker: KafkaBroker) -> None:
    """Nothing is set aside where nothing can be read: it would be everything."""
    all_of_them = readings(10, BEGIN, 8)
    with HeadEndServer(all_of_them, Faults(failing=1.0)) as server:
        adapter = Adapter(kafka_broker, f"{server.url}/reads", PAGES + period(BEGIN), look_back="0s")
        adapter.text = adapter.text.replace("attempts = 8", "attempts = 1")
        failure = adapter.run()
        assert failure is not None
        assert "HTTP_500" in failure
        assert any("HTTP_500" in each for each in adapter.health.reasons())
        assert adapter.published() == adapter.set_aside() == []
        server.faults.failing = 0.0
        assert adapter.run() is None
        adapter.holds(all_of_them)
        assert adapter.health.reasons() == []


@pytest.mark.usefixtures("cursors")
def test_a_cursor_page_that_is_poison_holds_the_source_and_says_so(kafka_broker: KafkaBroker) -> None:
    all_of_them = readings(10, BEGIN, 8)
    poison = Poison(lambda query: query.get("cursor") == "40")
    with HeadEndServer(all_of_them, poison=poison, page_size=20) as server:
        adapter = Adapter(kafka_broker, f"{server.url}/feed", '[paging]\ntype = "cursor"\nnext = "next"\n')
        adapter.text = adapter.text.replace("attempts = 8", "attempts = 2")
        assert "INVALID_JSON" in (adapter.run() or "")
        adapter.holds(all_of_them[:40])
        assert any(each.startswith("page: ") for each in adapter.health.reasons())
        server.poison = Poison()
        assert adapter.run() is None
        adapter.holds(all_of_them)


@pytest.mark.usefixtures("cursors")
def test_schema_drift_is_set_aside_record_by_record(kafka_broker: KafkaBroker) -> None:
    all_of_them = readings(10, BEGIN, 8)
    for each in all_of_them[40:]:
        each["energy"] = {"wh": each.pop("wh")}
    with HeadEndServer(all_of_them, page_size=20) as server:
        adapter = Adapter(kafka_broker, f"{server.url}/reads", PAGES + period(BEGIN), look_back="8h")
        assert adapter.run() is None
        adapter.holds(all_of_them[:40])
        found = adapter.set_aside()
        assert {(each["what"], each["reason"]) for each in found} == {("record", "MISSING_FIELD")}
        assert sorted(base64.b64decode(each["original_b64"]) for each in found) == sorted(
            json.dumps(each, separators=(",", ":")).encode() for each in all_of_them[40:]
        )
        assert any(each.startswith("mapping: ") for each in adapter.health.reasons())
        # They come again with the look-back, and are known.
        assert adapter.run() is None
        assert len(adapter.set_aside()) == 40


@pytest.mark.usefixtures("cursors")
def test_a_back_fill_beside_the_live_poll_adds_what_is_missing(kafka_broker: KafkaBroker) -> None:
    all_of_them = readings(5, BEGIN, 28)
    middle = BEGIN + timedelta(hours=4)
    with HeadEndServer(all_of_them, page_size=20) as server:
        adapter = Adapter(
            kafka_broker, f"{server.url}/reads", PAGES + period(middle, "1h"), look_back="30m", every="1s"
        )
        live = adapter.start()
        try:
            recent = [each for each in all_of_them if each["end"] >= text_of(middle - timedelta(minutes=30))]
            eventually(lambda: len(adapter.published()) >= len(recent), "the live poll has what is recent")
            wanted = BackfillRange(*(parse_instant(text_of(each)) for each in (BEGIN, middle + timedelta(hours=1))))
            # Twice: what the first has published, the second knows. Half an hour is the live poll's own.
            for _ in range(2):
                asked = server.counts["requests"]
                assert adapter.run(wanted) is None
                adapter.holds(all_of_them)
                # Five hours, each asked for by itself, and each with a second page.
                assert server.counts["requests"] >= asked + 10
            too_new = BackfillRange(wanted.begin, time.time_ns() // 1_000)
            assert "must end before" in (adapter.run(too_new) or "")
            assert live.is_alive()
        finally:
            adapter.stop.set()
            live.join(30)
        assert live.failure is None


@pytest.mark.usefixtures("cursors")
def test_health_and_metrics_are_answered_and_hold_no_secret(kafka_broker: KafkaBroker, tmp_path: Path) -> None:
    secret = "hunter2-of-the-head-end"
    (tmp_path / "secret").write_text(secret)
    with HeadEndServer(readings(3, BEGIN, 8), secret=secret, token_life=0.0) as server:
        more = (
            f'[authentication]\ntype = "oauth2"\ntoken_url = "{server.url}/token"\nclient_id = "adapter"\n'
            f'client_secret_file = "{tmp_path / "secret"}"\n'
        )
        adapter = Adapter(kafka_broker, f"{server.url}/reads", PAGES + period(BEGIN) + more)
        answers = HealthServer("127.0.0.1", 0, [adapter.health])
        try:
            # Tokens that are over at once: the head-end answers 401 with each of them.
            assert "401" in (adapter.run() or "")
            status, text = fetched(answers.port, "/healthz")
            assert status == 503
            assert f"{adapter.name}: authentication: " in text
            server.token_life = 3600.0
            assert adapter.run() is None
            assert fetched(answers.port, "/healthz") == (200, "ok\n")
            _, metrics = fetched(answers.port, "/metrics")
            assert f'ami_headend_published_total{{source="{adapter.name}"}} 24' in metrics
            assert f'ami_headend_healthy{{source="{adapter.name}"}} 1' in metrics
            assert secret not in text + metrics
            assert "token-" not in text + metrics
        finally:
            answers.close()
        adapter.holds(server.readings)


def fetched(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.usefixtures("cursors")
def test_events_of_a_feed_are_published_each_once(kafka_broker: KafkaBroker) -> None:
    events = [
        {"meter": f"M-{each}", "type": "DOWN", "at": text_of(BEGIN + timedelta(seconds=each))} for each in range(90)
    ]
    with HeadEndServer(events, Faults(repeated=0.5), page_size=20) as server:
        adapter = Adapter(kafka_broker, f"{server.url}/feed", '[paging]\ntype = "cursor"\nnext = "next"\n')
        head = adapter.text.partition("[fields]")[0].replace("topic =", 'kind = "events"\ntopic =')
        adapter.text = (
            head + '[fields]\nmeter_id = "meter"\nevent_code = { path = "type", values = { DOWN = 3840 } }\n'
            'event_ts = "at"\n'
        )
        for _ in range(2):
            assert adapter.run() is None
        found = {(each["meter_id"], each["event_code"], each["event_ts"]) for each in adapter.published()}
        assert found == {(each["meter"], 3840, each["at"]) for each in events}
        assert len(adapter.published()) == len(events)


@pytest.mark.usefixtures("cursors")
def test_a_broker_that_is_silent_for_longer_than_a_transaction_may_take(
    kafka_broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction is given up on both sides, and done again."""
    monkeypatch.setattr("ami_beam.headend.publisher._TRANSACTION_SECONDS", 3)
    all_of_them = readings(40, BEGIN, 24)
    with HeadEndServer(all_of_them, Faults(slow=1.0, slow_seconds=0.02), page_size=4) as server:
        adapter = Adapter(kafka_broker, f"{server.url}/feed", '[paging]\ntype = "cursor"\nnext = "next"\n')
        worker = adapter.start()
        try:
            server.wait_for("pages", 20, SECONDS)
            kafka_broker.freeze()
            time.sleep(5)
            kafka_broker.thaw()
            eventually(
                lambda: len(adapter.published()) >= len(all_of_them) or not worker.is_alive(), "all is published"
            )
        finally:
            kafka_broker.thaw()
            adapter.stop.set()
            worker.join(30)
        assert worker.failure is None
        assert adapter.health.counts()["aborted_transactions_total", ""] > 0
        adapter.holds(all_of_them)


@pytest.mark.usefixtures("cursors")
def test_records_say_whose_they_are_and_when_they_were_collected(kafka_broker: KafkaBroker) -> None:
    with HeadEndServer(readings(3, BEGIN, 4)) as server:
        adapter = Adapter(kafka_broker, f"{server.url}/reads", PAGES + period(BEGIN))
        before = time.time_ns() // 1_000_000
        assert adapter.run() is None
        messages = list(read_to_end(adapter.config, adapter.topic, None, lambda _: None))
        assert len(messages) == 12
        for message in messages:
            assert message.key() == json.loads(message.value() or b"")["meter_id"].encode()
            assert before <= message.timestamp()[1] <= time.time_ns() // 1_000_000
            headers = dict(message.headers() or ())
            assert headers[SOURCE_HEADER] == adapter.name.encode()
            assert len(headers[DIGEST_HEADER] or b"") == 16
        # Of one meter all are in one partition.
        assert len({(message.key(), message.partition()) for message in messages}) == 3
