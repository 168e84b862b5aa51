"""The PostgreSQL sink against a real server: which row stays, who gets into whose way, and what becomes of failures."""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ami_beam.io.postgresql_writer import MAX_CONNECTIONS
from ami_beam.local.postgresql_server import MISSING, PostgresqlServer, programs
from ami_beam.postgresql.connection import Database, PostgresqlError
from tests.postgresql import Sink, new_database, rows, summary

pytestmark = [pytest.mark.processes, pytest.mark.skipif(programs() is None, reason=MISSING)]
_names = (f"sink{number}" for number in itertools.count())


@pytest.fixture
def database(postgresql_server: PostgresqlServer, tmp_path: Path) -> Database:
    return new_database(postgresql_server, next(_names), tmp_path)


@pytest.fixture
def own_server() -> Iterator[PostgresqlServer]:
    """One that may be stopped."""
    with PostgresqlServer() as server:
        yield server


VERSIONS = st.lists(
    st.tuples(st.sampled_from("AB"), st.sampled_from([0, 1, 250_000, 500_000, 1_000_000, 60_000_000])),
    min_size=1,
    max_size=12,
)
"""(transformer, as_of): fractions of one digit, of several and none, which as texts are not in their order."""
_examples = itertools.count()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrivals=VERSIONS, cuts=st.sets(st.integers(1, 11)))
def test_the_greatest_as_of_stays_in_any_order_of_arrival(
    database: Database, arrivals: list[tuple[str, int]], cuts: set[int]
) -> None:
    """`cuts`: between which arrivals a bundle ends."""
    example = next(_examples)
    records = [
        summary(f"{name}{example}", as_of, meters_reported=number) for number, (name, as_of) in enumerate(arrivals)
    ]
    expected: dict[str, tuple[int, int]] = {}
    for number, (name, as_of) in enumerate(arrivals):
        if name not in expected or as_of >= expected[name][0]:
            expected[name] = as_of, number
    edges = [0, *sorted(cut for cut in cuts if cut < len(records)), len(records)]
    with Sink(database) as sink:
        for begin, end in itertools.pairwise(edges):
            sink.bundle(records[begin:end], at_once=2)
    found = rows(
        database,
        "SELECT left(transformer_id, 1), meters_reported FROM ami.summary WHERE transformer_id IN (%s, %s)",
        f"A{example}",
        f"B{example}",
    )
    assert dict(found) == {name: number for name, (_, number) in expected.items()}


def test_what_comes_again_changes_nothing(database: Database) -> None:
    records = [summary(f"T{number}") for number in range(50)]
    with Sink(database) as sink:
        sink.bundle(records)
        before = rows(database, "SELECT transformer_id, xmin::text FROM ami.summary ORDER BY 1")
        sink.bundle(records)
    assert rows(database, "SELECT transformer_id, xmin::text FROM ami.summary ORDER BY 1") == before


def test_the_row_of_the_whole_system_is_one_row(database: Database) -> None:
    fields = (
        '"window_start":"2026-03-03T00:00:00Z","window_end":"2026-03-03T00:15:00Z","total_consumption_kwh":1.0,'
        '"total_delivered_kwh":1.0,"total_received_kwh":0.0,"meters_reported":%d,"meters_expected":5,'
        '"receipt_rate_pct":100.0,"avg_voltage_v":null,"min_voltage_v":null,"max_voltage_v":null,'
        '"transformers_reported":1,"transformers_expected":1,"transformers_in_violation":0,'
        '"as_of":"2026-03-03T00:20:00Z","revision":0}'
    )
    system, feeder = '{"segment":"SYSTEM","feeder_id":null,', '{"segment":"FEEDER","feeder_id":"F1",'
    with Sink(database, "ami.feeder.summary") as sink:
        for number in (1, 2):
            sink.bundle([(begin + fields % number).encode() for begin in (system, feeder)])
    found = rows(database, "SELECT segment, feeder_id, meters_reported FROM ami.feeder_summary ORDER BY 1")
    assert found == [("FEEDER", "F1", 2), ("SYSTEM", None, 2)]


def letter(offset: int, detail: str = "is not JSON") -> bytes:
    return (
        f'{{"reason":"INVALID_JSON","detail":"{detail}","topic":"ami.headend.reads","partition":0,"offset":{offset},'
        '"record_time":null,"value_b64":"e30=","used":false}'
    ).encode()


def test_a_dead_letter_is_inserted_once(database: Database) -> None:
    with Sink(database, "ami.deadletter") as sink:
        sink.bundle([letter(1), letter(1, "another word for it"), letter(2)])
        sink.bundle([letter(1, "another word for it"), letter(3)])
    found = rows(database, 'SELECT "offset", detail, value_b64 FROM ami.dead_letter ORDER BY 1')
    assert found == [(offset, "is not JSON", "e30=") for offset in (1, 2, 3)]


def test_a_row_that_cannot_be_held_is_set_aside_and_the_others_are_not(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    # More than a page of an index takes, in spite of its compression.
    long = "".join(random.Random(1).choices("0123456789abcdef", k=20_000))
    wrong = {
        "NUL": summary("nul\0"),
        "index row": summary(long),
        "out of range": summary("big", revision=2**64 - 1),
    }
    good = [summary(f"T{number:03}") for number in range(40)]
    records = [*good[:10], wrong["NUL"], *good[10:20], wrong["index row"], wrong["out of range"], *good[20:]]
    with Sink(database) as sink:
        sink.bundle(records)
        sink.bundle(records)
    found = rows(database, "SELECT transformer_id FROM ami.summary ORDER BY 1")
    assert [name for (name,) in found] == [f"T{number:03}" for number in range(40)]
    rejected = rows(database, "SELECT topic, value, reason FROM ami.rejected_row")
    assert {topic for topic, *_ in rejected} == {"ami.transformer.summary"}
    assert {bytes(value) for _, value, _ in rejected} == set(wrong.values())
    for words, record in wrong.items():
        (reason,) = [reason for _, value, reason in rejected if bytes(value) == record]
        assert words in reason
    assert "rejected_row" in caplog.text
    assert long[:100] not in caplog.text


def test_what_no_retry_can_help_is_an_error_without_values(database: Database) -> None:
    rows_before = [summary("SECRET-TRANSFORMER")]
    with database.connect() as connection:
        connection.execute("ALTER TABLE ami.summary DROP COLUMN revision")
    with Sink(database) as sink, pytest.raises(PostgresqlError, match=r"column \"revision\".*does not exist") as caught:
        sink.bundle(rows_before)
    assert "SECRET-TRANSFORMER" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
def test_writers_at_once_neither_lose_a_row_nor_get_stuck(database: Database, isolation: str) -> None:
    """The same rows in other orders and versions, from as many threads as there are connections, and two more."""
    name = database.conninfo.rpartition("/")[2]
    with database.connect() as connection:
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{isolation}'".encode())
    names = [f"T{number:03}" for number in range(60)]
    errors: list[BaseException] = []

    def write(seed: int) -> None:
        order = random.Random(seed)
        try:
            with Sink(database) as sink:
                for round_ in range(6):
                    as_of = order.sample(range(1_000), len(names))
                    held = [summary(name, at, meters_reported=at) for name, at in zip(names, as_of, strict=True)]
                    # The last word on each row is one writer's of one round.
                    if seed == 3 and round_ == 3:
                        held = [summary(name, 5_000, meters_reported=5_000) for name in names]
                    order.shuffle(held)
                    sink.bundle(held)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(MAX_CONNECTIONS + 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not errors
    assert rows(database, "SELECT DISTINCT meters_reported, count(*) OVER () FROM ami.summary") == [(5_000, 60)]
    ((deadlocks, used),) = rows(
        database,
        "SELECT deadlocks, (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) - 1"
        " FROM pg_stat_database WHERE datname = current_database()",
    )
    assert deadlocks == 0
    # Those that are closed may take a moment to be gone.
    assert used <= MAX_CONNECTIONS


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_restart_of_the_server_loses_nothing(
    own_server: PostgresqlServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    caplog.set_level(logging.INFO)
    database = new_database(own_server, "restarted", tmp_path)
    written: list[int] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def write() -> None:
        try:
            with Sink(database) as sink:
                while not done.is_set():
                    batch = len(written)
                    sink.bundle([summary(f"B{batch:05}-{number}") for number in range(20)])
                    # Only now may a runner forget them.
                    written.append(batch)
        except BaseException as error:
            errors.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(2):
            wait_until(lambda before=len(written): len(written) > before + 20 or bool(errors))
            getattr(own_server, how)()
            at = len(written)
            time.sleep(0.5)
            # Down: the bundle that was being written waits.
            assert len(written) <= at + 1
            own_server.start()
            wait_until(lambda before=len(written): len(written) > before + 5 or bool(errors))
    finally:
        done.set()
        writer.join(60)
    assert not errors
    found = {name for (name,) in rows(database, "SELECT transformer_id FROM ami.summary")}
    assert found == {f"B{batch:05}-{number}" for batch in written for number in range(20)}
    assert "Everything waits for the database at 127.0.0.1" in caplog.text
    assert "takes rows of ami.transformer.summary again" in caplog.text
    assert own_server.password not in caplog.text


def test_a_database_that_stays_away_fails_the_bundle(own_server: PostgresqlServer, tmp_path: Path) -> None:
    database = new_database(own_server, "away", tmp_path)
    with Sink(database, give_up_seconds=1) as sink:
        sink.bundle([summary("T1")])
        own_server.stop()
        with pytest.raises(PostgresqlError, match="tried again for 1 s") as caught:
            sink.bundle([summary("T2")])
        assert own_server.password not in str(caught.value)
        own_server.start()
        # As a runner goes back to where it was: the bundle comes again.
        sink.bundle([summary("T2")])
    assert rows(database, "SELECT transformer_id FROM ami.summary ORDER BY 1") == [("T1",), ("T2",)]


def wait_until(ready: object, seconds: float = 60) -> None:
    assert callable(ready)
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until
        time.sleep(0.02)
