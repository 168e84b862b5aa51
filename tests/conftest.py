"""Fixtures that several test files share: one local Kafka and one local Flink a session, started when asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ami_beam.local.flink import LocalFlink
from ami_beam.local.kafka_broker import KafkaBroker


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[KafkaBroker]:
    """An empty broker. It outlives a test: give every test topics of its own names."""
    with KafkaBroker() as broker:
        yield broker


@pytest.fixture(scope="session")
def local_flink() -> Iterator[LocalFlink]:
    """A job server. Cancel every streaming job with its `cancel`: others run on until the session ends."""
    with LocalFlink() as flink:
        yield flink
