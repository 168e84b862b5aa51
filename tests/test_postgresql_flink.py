"""A live run on Flink with both sinks: after a restart of the database its tables have the last word of every topic."""

from __future__ import annotations

from pathlib import Path

import pytest

from ami_beam.local.kafka_broker import KafkaBroker
from ami_beam.local.postgresql_server import MISSING, PostgresqlServer, programs
from tests.kafka_replay import Outputs, Run, create_topics
from tests.postgresql import new_database, rows
from tests.test_end_to_end_kafka import Live, wait_for

pytestmark = [pytest.mark.processes, pytest.mark.skipif(programs() is None, reason=MISSING)]
LETTERS, SUMMARY = "ami.deadletter", "ami.transformer.summary"


def test_a_live_run_waits_for_the_database_and_goes_on(product_broker: KafkaBroker, tmp_path: Path) -> None:
    counts = tmp_path / "counts.csv"
    counts.write_text("transformer_id,total_meters\nT1,1\n")
    create_topics(product_broker, partitions=1, timestamp_type="LogAppendTime")
    live = Live(product_broker)
    outputs = Outputs(product_broker, tmp_path / "out")
    with PostgresqlServer() as server:
        database = new_database(server, "live", tmp_path)
        run = Run(
            [
                *(
                    f"--bootstrap_servers={product_broker.bootstrap_servers}",
                    "--runner=FlinkRunner",
                    "--start=earliest",
                ),
                *(f"--meter_counts={counts}", "--window=5s", "--collection_delay=1s", "--late_gather=1s"),
                *("--shards=1", "--parallelism=1", "--sink=kafka,postgresql"),
                *(f"--postgresql={database.conninfo}", f"--postgresql_config_file={database.config_file}"),
            ],
            tmp_path / "run.log",
        )

        def until(topic: str, table: str, number: int) -> None:
            """As many rows of it are in the topic and in the table."""

            def there() -> bool:
                live.tick()
                written = rows(database, f"SELECT count(*) FROM ami.{table}")[0][0]
                return min(len(outputs.rows[topic]), written) >= number

            wait_for(run, outputs, there, every=0.5)

        try:
            live.send(b"not json")
            until(LETTERS, "dead_letter", 1)
            until(SUMMARY, "summary", 1)
            server.kill()
            for _ in range(3):
                live.send(b"not json either")
            wait_for(run, outputs, lambda: "Everything waits" in run.log.read_text(), every=0.5)
            server.start()
            until(LETTERS, "dead_letter", 4)
            until(SUMMARY, "summary", len(outputs.rows[SUMMARY]) + 2)
            log = run.log.read_text()
        finally:
            code = run.stop()
            outputs.collect(2)
            outputs.close()
        assert code == 0
        assert "again, after" in log
        assert server.password not in log
        last: dict[str, dict] = {}
        for row in outputs.rows[SUMMARY]:
            if row["window_end"] not in last or row["as_of"] >= last[row["window_end"]]["as_of"]:
                last[row["window_end"]] = row
        query = (
            "SELECT to_char(window_end AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), meters_reported, revision"
        )
        found = {end: others for end, *others in rows(database, f"{query} FROM ami.summary")}
        # What was on its way when it was stopped is in one of them, or in both.
        assert len(found.keys() & last.keys()) >= 3
        assert all(
            found[end] == [last[end]["meters_reported"], last[end]["revision"]] for end in found.keys() & last.keys()
        )
        assert len(found.keys() ^ last.keys()) <= 2
