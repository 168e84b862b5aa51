"""Fixtures that several test files share: one local Kafka and one local Flink a session, started when asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from apache_beam.runners.direct import transform_evaluator
from apache_beam.transforms import userstate
from hypothesis import settings
from playwright.sync_api import Browser

from ami_beam.codecs.json_outputs import RESULT_TOPICS
from ami_beam.consumers import OPTIONAL_TOPICS
from ami_beam.local import java
from ami_beam.local.flink import LocalFlink
from ami_beam.local.kafka_broker import KafkaBroker
from ami_beam.local.postgresql_server import MISSING, PostgresqlServer, programs
from ami_beam.local.schema_registry import SchemaRegistry
from ami_beam.ready_steps import SpecsOfClasses
from tests.kafka_replay import EVENTS, READS
from tools.chromium import MISSING as CHROMIUM_MISSING
from tools.chromium import browser, program

# How long an example takes is the machine's affair: a deadline fails where others work, too.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _steps_are_looked_over_once() -> Iterator[None]:
    """Beam's direct runner looks for a step's state and timers with every bundle, by the signatures of its methods.

    That was three quarters of the time of tests with TestStream. They are the same for every step of a class.
    """
    look_once = SpecsOfClasses(userstate.get_dofn_specs)
    with pytest.MonkeyPatch.context() as patch:
        for module in (userstate, transform_evaluator):
            patch.setattr(module, "get_dofn_specs", look_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def _jvms_live_shortly() -> Iterator[None]:
    """Every JVM that a test or its processes start compiles lightly: it ends before thorough compiling has paid.

    A replay on a Flink of two TaskManagers takes a quarter less of the machine so.
    """
    options = f"{os.environ.get('JAVA_TOOL_OPTIONS', '')} {java.LIGHT}".strip()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAVA_TOOL_OPTIONS", options)
        yield


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[KafkaBroker]:
    """An empty broker. It outlives a test: give every test topics of its own names."""
    with KafkaBroker() as broker:
        yield broker


@pytest.fixture
def product_broker(kafka_broker: KafkaBroker) -> KafkaBroker:
    """The same broker, without any of the product's topics: what an earlier test has left in them is gone."""
    kafka_broker.delete_topics((READS, EVENTS, *RESULT_TOPICS, *OPTIONAL_TOPICS.values()))
    return kafka_broker


@pytest.fixture(scope="session")
def schema_registry() -> Iterator[SchemaRegistry]:
    """A registry. It outlives a test: give every test subjects of its own."""
    with SchemaRegistry() as registry:
        yield registry


@pytest.fixture(scope="session")
def local_flink() -> Iterator[LocalFlink]:
    """A job server. Cancel every streaming job with its `cancel`: others run on until the session ends."""
    with LocalFlink() as flink:
        yield flink


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A headless browser. Use contexts of your own, and close them.

    Of a module: while it is there its event loop runs in this thread, and another one cannot.
    """
    if program() is None:
        pytest.skip(CHROMIUM_MISSING)
    with browser() as made:
        yield made


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresqlServer]:
    """A server without tables, which goes on: make databases of names of your own, and do not stop it."""
    if programs() is None:
        pytest.skip(MISSING)
    with PostgresqlServer() as server:
        yield server
