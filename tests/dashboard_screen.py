"""The operators' screen as a process beside a broker, for tests of it."""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from ami_beam.dashboard.identity import SECRET_HEADER
from ami_beam.instants import format_instant
from ami_beam.local import process
from ami_beam.local.kafka_broker import KafkaBroker
from tests.dashboard_rows import START, WINDOW

SECRET = "a secret of the proxy"
PROXY = {SECRET_HEADER: SECRET, "X-Forwarded-User": "ada"}
NOW = (time.time_ns() // 1_000 - START) // WINDOW
"""Number of the window that has ended last, as `dashboard_rows` counts them."""


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


def send(broker: KafkaBroker, *records: tuple[str, bytes]) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})
    for topic, value in records:
        producer.produce(topic, value)
    assert producer.flush(30) == 0


def proxied(broker: KafkaBroker, directory: Path, *arguments: str) -> Screen:
    """One that believes a proxy."""
    (directory / "proxy.secret").write_text(SECRET)
    return Screen(broker, directory, f"--proxy_secret_file={directory / 'proxy.secret'}", *arguments)


def read_json(transformer: str, meter: str, end: int, **others: Any) -> bytes:
    """A read of the head-end, of an interval that ends there."""
    row = {
        "meter_id": meter, "service_point_id": "SP", "customer_id": "CUSTOMER-7", "transformer_id": transformer,
        "feeder_id": "F1", "read_type": "INTERVAL", "interval_start": format_instant(end - WINDOW),
        "interval_end": format_instant(end), "consumption_kwh": 1.0, "delivered_kwh": 1.0, "received_kwh": 0.0,
        "voltage_v": 231.5, "power_quality_code": 0, "estimated_flag": False, "read_ts": format_instant(end),
    }  # fmt: skip
    return json.dumps(row | others).encode()
