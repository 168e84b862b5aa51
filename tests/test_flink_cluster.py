"""A job on a Flink cluster that is not ours: what is refused, how it goes on from a savepoint, what a pool does."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from ami_beam.beam_options import OptionError
from ami_beam.dashboard.health import FlinkWatch
from ami_beam.flink_checks import bytes_of, check_settings, value_of
from ami_beam.flink_rest import FlinkError, FlinkRest
from ami_beam.flink_submission import newest_checkpoint
from ami_beam.local import jars, process
from ami_beam.local.flink_cluster import FlinkCluster
from ami_beam.local.kafka_broker import KafkaBroker
from tests.kafka_replay import EVENTS, READS, Outputs, Run, create_topics
from tests.prometheus import ONLY_AFTER, PREFIX, documented_names, scrape, selectors, series, steps
from tests.test_end_to_end_kafka import Live, wait_for

pytestmark = pytest.mark.processes
SAFE = {"state.checkpoints.dir": "s3://bucket/checkpoints"}
CHECKPOINTS = ["--checkpointing_interval=10000"]


class TestSettings:
    def test_safe_ones_pass_without_a_word(self):
        assert check_settings(SAFE, CHECKPOINTS, "jm:8081") == []

    @pytest.mark.parametrize(
        ("settings", "arguments", "named"),
        [
            (SAFE, [], "--checkpointing_interval"),
            (SAFE, ["--checkpointing_interval=-1"], "--checkpointing_interval"),
            (SAFE, ["--checkpointing_interval=0"], "--checkpointing_interval"),
            ({}, CHECKPOINTS, "state.checkpoints.dir"),
            ({**SAFE, "state.checkpoint-storage": "jobmanager"}, CHECKPOINTS, "state.checkpoint-storage"),
            ({**SAFE, "restart-strategy.type": "none"}, CHECKPOINTS, "restart-strategy.type"),
            ({**SAFE, "restart-strategy": "off"}, CHECKPOINTS, "restart-strategy.type"),
            (SAFE, [*CHECKPOINTS, "--number_of_execution_retries=0"], "--number_of_execution_retries"),
        ],
    )
    def test_what_loses_data_is_refused_by_name(self, settings, arguments, named):
        with pytest.raises(OptionError, match=re.escape(named)):
            check_settings(settings, arguments, "jm:8081")

    def test_what_is_dangerous_is_named(self):
        local = {"state.checkpoints.dir": "file:/var/flink"}
        (warning,) = check_settings(local, CHECKPOINTS, "jm:8081")
        assert "local path" in warning
        (warning,) = check_settings(SAFE, [*CHECKPOINTS, "--allow_non_restored_state"], "jm:8081")
        assert "DROPPED" in warning

    def test_options_are_read_in_both_spellings(self):
        assert value_of(["--a=1", "--a", "2"], "--a") == "2"
        assert value_of(["--flag", "--b=1"], "--flag") == "true"
        assert value_of(["--ab=1"], "--a") is None

    def test_sizes(self):
        assert [bytes_of(text) for text in ("1024", "100mb", "1 gb", "64k", "nonsense", "")] == [
            1024, 100 << 20, 1 << 30, 64 << 10, 0, 0,
        ]  # fmt: skip


class TestNewestCheckpoint:
    def completed(self, path: Path, when: float) -> Path:
        path.mkdir(parents=True)
        (path / "_metadata").touch()
        os.utime(path / "_metadata", (when, when))
        return path

    def test_the_last_that_was_completed_of_all_jobs(self, tmp_path: Path):
        self.completed(tmp_path / "job-a" / "chk-9", 1_000)
        newest = self.completed(tmp_path / "job-b" / "chk-3", 2_000)
        (tmp_path / "job-b" / "chk-4").mkdir()
        assert newest_checkpoint(str(tmp_path)) == newest.as_uri()
        assert newest_checkpoint(tmp_path.as_uri()) == newest.as_uri()

    def test_a_savepoint_is_itself(self, tmp_path: Path):
        savepoint = self.completed(tmp_path / "savepoint-1", 1_000)
        assert newest_checkpoint(str(savepoint)) == savepoint.as_uri()
        assert newest_checkpoint(f"{savepoint}/_metadata") == savepoint.as_uri()

    def test_a_place_that_only_the_cluster_knows_is_left_to_it(self):
        assert newest_checkpoint("abfs://ami@store/savepoints/savepoint-1") == "abfs://ami@store/savepoints/savepoint-1"

    def test_none_is_refused(self, tmp_path: Path):
        with pytest.raises(OptionError, match="no completed savepoint"):
            newest_checkpoint(str(tmp_path))


@pytest.fixture
def refusing() -> Iterator[str]:
    """The address of a REST interface that refuses everything."""

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"errors": ["Outer\n\tat x\nCaused by: java.io.IOException: disk full"]}).encode()
            self.send_response(409)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Refusing)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_refusal_is_told_with_its_last_cause(refusing: str) -> None:
    with pytest.raises(FlinkError, match=r"refused GET /overview: java.io.IOException: disk full"):
        FlinkRest(refusing).version()


def test_no_answer_names_the_address() -> None:
    (port,) = process.free_ports(1)
    with pytest.raises(FlinkError, match=f"JobManager at 127.0.0.1:{port}"):
        FlinkRest(f"127.0.0.1:{port}").version()


@pytest.fixture
def reporters() -> list[int]:
    """The ports at which JobManager and TaskManager answer Prometheus; each takes one that is free."""
    return process.free_ports(2)


@pytest.fixture
def cluster(tmp_path: Path, reporters: list[int]) -> Iterator[FlinkCluster]:
    directory = tmp_path / "flink"
    (directory / "tmp").mkdir(parents=True)
    flink = FlinkCluster(
        os.pathsep.join((jars.flink_class_path(), jars.class_path("flink_prometheus"))),
        directory,
        task_managers=1,
        heap="512m",
        settings={
            "restart-strategy.type": "exponential-delay",
            "metrics.reporters": "prom",
            "metrics.reporter.prom.factory.class": "org.apache.flink.metrics.prometheus.PrometheusReporterFactory",
            "metrics.reporter.prom.port": ",".join(map(str, reporters)),
        },
    )
    flink.start()
    yield flink
    flink.stop()


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[int]:
    """The port of a worker pool, a process as beside a TaskManager."""
    (port,) = process.free_ports(1)
    command = [sys.executable, "-m", "ami_beam.worker_pool", f"--port={port}"]
    child = process.ChildProcess("the worker pool", command, tmp_path / "pool.log")
    child.wait_until(lambda: process.is_listening(port), 60)
    yield port
    child.stop()


def names_of_rests(savepoint: str) -> set[bytes]:
    """The names of state under which the rests of the sources are kept. Flink never forgets a name."""
    found: set[bytes] = set()
    for path in Path(savepoint.removeprefix("file:")).rglob("*"):
        found.update(re.findall(rb"sdf_checkpoint:\w+:\d+", path.read_bytes()))
    return found


def test_a_job_is_stopped_with_a_savepoint_and_goes_on_from_it_and_rules_find_its_metrics(
    tmp_path: Path, cluster: FlinkCluster, pool: int, reporters: list[int], product_broker: KafkaBroker
) -> None:
    counts = tmp_path / "counts.csv"
    counts.write_text("transformer_id,total_meters\nT1,2\n")
    create_topics(product_broker, partitions=2, timestamp_type="LogAppendTime")
    outputs = Outputs(product_broker, tmp_path / "out")
    live = Live(product_broker)
    runs = 0

    def submit(*arguments: str) -> Run:
        nonlocal runs
        runs += 1
        return Run(
            [
                *("--runner=FlinkRunner", f"--flink_master={cluster.master}", "--environment_type=EXTERNAL"),
                *(f"--environment_config=localhost:{pool}", f"--bootstrap_servers={product_broker.bootstrap_servers}"),
                *(f"--meter_counts={counts}", "--start=earliest", "--shards=1", "--job_name=ami-beam"),
                *("--window=5s", "--collection_delay=30s", "--late_gather=1s", "--checkpointing_interval=1000"),
                *arguments,
            ],
            tmp_path / f"run-{runs}.log",
        )

    end = time.time_ns() // 1_000 // live.WINDOW * live.WINDOW
    run = submit()
    try:
        live.read("M1", "T1", end)
        live.send(b"not json")
        wait_for(run, outputs, lambda: bool(outputs.rows["ami.deadletter"]))
        second = submit()
        assert second.wait(60) == 2
        assert "runs already" in second.log_tail()
        # The window waits for its collection delay: its first read is in the savepoint and nowhere else.
        assert run.stop() == 0
        (savepoint,) = re.findall(r"--savepoint_path=(\S+)", run.log.read_text())
        assert names_of_rests(savepoint) == {b"sdf_checkpoint:rest:0"}
        assert all(job.ended for job in FlinkRest(cluster.master).jobs())
        # Other shards would look for that read elsewhere.
        run = submit(f"--savepoint_path={savepoint}", "--shards=4", "--on_stop=cancel")
        live.read("M2", "T1", end)
        # The job says so at its first read, or Flink before it where its numbers of the steps are others.
        refusals = ("was made with 'window=5s", "The savepoint is of another graph: of other --shards")
        until = time.monotonic() + 150
        while not any(words in run.log.read_text() for words in refusals):
            assert time.monotonic() < until, run.log.read_text()[-4000:]
            outputs.collect(1)
        run.stop()
        run = submit(f"--savepoint_path={savepoint}", "--return_when=checkpointed", "--meter_counts_refresh=1s")
        assert run.wait(120) == 0
        # One of everything that is counted and no part of every run.
        counts.write_text("transformer_id,total_meters\nT1,1\n")
        live.send(None)
        live.read("M8", "T8", time.time_ns() // 1_000 // live.WINDOW * live.WINDOW - 12 * live.WINDOW)
        live.send(b"no event", topic=EVENTS)
        (job,) = [job for job in FlinkRest(cluster.master).jobs() if not job.ended]
        assert job.name == "ami-beam"
        found = FlinkWatch(cluster.master, "ami-beam").look()
        assert found["state"] == "RUNNING"
        assert 0 <= found["checkpoint_age_seconds"] < 120

        def complete() -> bool:
            # Later reads move the watermark over the window.
            live.read("M9", "T9", time.time_ns() // 1_000 // live.WINDOW * live.WINDOW)
            rows = outputs.rows["ami.transformer.summary"]
            return any(row["transformer_id"] == "T1" and row["meters_reported"] == 2 for row in rows)

        until = time.monotonic() + 120
        while not complete():
            assert time.monotonic() < until, FlinkRest(cluster.master).failure(job.id)
            outputs.collect(1)
        while unmet := what_rules_miss(scrape(reporters)):
            assert time.monotonic() < until, unmet
            if "meter_counts_refused" not in str(unmet):
                counts.write_text("no meter counts\n")
            complete()
            outputs.collect(1)
        assert_documents_name_what_is_there(scrape(reporters))
        FlinkRest(cluster.master).cancel(job.id)
    finally:
        run.stop()
        outputs.close()
    reasons = [(row["topic"], row["reason"]) for row in outputs.rows["ami.deadletter"]]
    assert sorted(reasons) == [(EVENTS, "INVALID_JSON"), (READS, "INVALID_JSON"), (READS, "NULL_VALUE")]


def what_rules_miss(text: str) -> list[object]:
    """What the alert rules read, or tell apart, and this answer of the reporters does not have."""
    found = [labels for labels, _ in series(text)]
    names = [labels.get("operator_name", "") for labels in found]
    unmet: list[object] = [each for each in selectors() if not any(each.takes(labels) for labels in found)]
    return unmet + [step for step in steps() if not any(re.fullmatch(step, name) for name in names)]


def assert_documents_name_what_is_there(text: str) -> None:
    found = series(text)
    names = {labels["__name__"] for labels, _ in found}
    documented = documented_names()
    assert documented - names <= ONLY_AFTER, documented - names - ONLY_AFTER
    assert {name for name in names if name.startswith(PREFIX)} <= documented
    assert set(re.findall(rf"^# TYPE {PREFIX}\w+ (\w+)$", text, re.MULTILINE)) == {"gauge"}
    values = {labels["__name__"].removeprefix(PREFIX): value for labels, value in found if "operator_id" in labels}
    assert values["collection_delay_sum_ms"] > 0
    assert values["collection_delay_ms"] == 0
