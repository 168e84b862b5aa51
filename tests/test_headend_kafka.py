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
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, Producer

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
BEGIN = datetime(2026, 3, 3, tzinfo=UTC)
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


def period(start: str = "2026-03-03T00:00:00Z", chunk: str = "3h") -> str:
    return f'[period]\nbegin = "from"\nend = "to"\nchunk = "{chunk}"\nstart = "{start}"\n'


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
    with HeadEndServer(all_of_them[:-30], faults, seed=7) as server:
        adapter = Adapter(kafka_broker, server.url + path, more)
        if way == "links":
            adapter.text = adapter.text.replace('records = "data/*"', 'records = "*"')
        assert adapter.run() is None
        adapter.holds(all_of_them[:-30])
        # What comes later is new in the next round, of another process; and nothing else is.
        server.readings = all_of_them
        assert adapter.run() is None
        if "period" not in more:
            adapter.holds(all_of_them)
        assert all(server.counts[kind] for kind in ("throttled", "failing", "cut_off", "half", "slow"))
    assert adapter.set_aside() == []
