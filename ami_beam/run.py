"""`python -m ami_beam.run`: reads the command line, looks at the world, builds the graph and runs it to its end.

Exit codes: 0 done or stopped by SIGTERM or Ctrl-C; 1 the job failed; 2 a wrong option, file, topic or broker.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import apache_beam as beam
import grpc
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import (
    CrossLanguageOptions,
    FlinkRunnerOptions,
    PipelineOptions,
    StandardOptions,
)
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineState
from apache_beam.utils.subprocess_server import JavaJarServer
from confluent_kafka import KafkaException
from google.api_core.exceptions import GoogleAPIError

from ami_beam.arenas import share_arenas
from ami_beam.beam_options import OptionError
from ami_beam.codecs.avro_outputs import AvroValues
from ami_beam.codecs.json_outputs import ALARMS_TOPIC, CONFIG_TOPIC, GRID_ALERTS_TOPIC, OUTPUT_TOPICS, RESULT_TOPICS
from ami_beam.codecs.writer_schemas import KnownSchemas
from ami_beam.command import Stopped, leave, start_logging, stoppable
from ami_beam.consumers import OPTIONAL_TOPICS
from ami_beam.counts_shrink import size_of
from ami_beam.csv_table import TableError
from ami_beam.dataflow_checks import on_dataflow
from ami_beam.effective_config import config_id, config_json, publish_config
from ami_beam.flink_checks import value_of
from ami_beam.flink_rest import FlinkError
from ami_beam.flink_submission import FlinkCluster, JobEndedError
from ami_beam.instants import MICROS_PER_SECOND, format_duration
from ami_beam.io.avro_files import WriteAvroFiles
from ami_beam.io.bigquery_sink import WriteToTables
from ami_beam.io.files import ReadReplay, WriteOutputs
from ami_beam.io.kafka import NO_TIME, ReadTopic, WriteTopic
from ami_beam.io.kafka_expansion import beams_expansion
from ami_beam.io.kafka_preflight import PreflightError, Topic, inspect, report
from ami_beam.io.librdkafka import librdkafka
from ami_beam.io.meter_counts_file import CountsFile
from ami_beam.io.meter_counts_source import FollowedCounts, PolledMeterCounts, ReadMeterCounts
from ami_beam.io.meter_counts_table import CountsTable, name_parts
from ami_beam.io.meter_counts_topic import CountsTopic
from ami_beam.io.meter_registry_source import FollowedRegistry
from ami_beam.io.native_kafka_sink import WriteTopicNatively
from ami_beam.io.native_kafka_source import IDLE_SECONDS_BACK, ReadTopicNatively
from ami_beam.io.postgresql_config import write_config
from ami_beam.io.postgresql_sink import WriteTopicToPostgresql
from ami_beam.io.producers_source import FollowedProducers
from ami_beam.io.schema_registry import RegistryError, all_versions, register
from ami_beam.io.schema_registry import check as check_registry
from ami_beam.local.expansion import locked_expansion
from ami_beam.local.flink import LocalFlink
from ami_beam.local.jars import JarError
from ami_beam.local.process import StartError
from ami_beam.meter_counts import VERSION_DIGITS, MeterCountsError, MeterCountsVersion, unpack
from ami_beam.meter_counts_origin import Origin
from ami_beam.meter_counts_view import MeterCountsSource
from ami_beam.options import RunPlan, validate
from ami_beam.postgresql.connection import PostgresqlError
from ami_beam.postgresql.migration import check
from ami_beam.ready_steps import keep_steps_ready
from ami_beam.records import RecordBatch
from ami_beam.registry_counts import ReceiptDelays
from ami_beam.settings import Settings
from ami_beam.shard_count import shards_for
from pipelines.backfill import within
from pipelines.operational import Inputs, operational
from pipelines.published import labelled, published

_log = logging.getLogger("ami_beam.run")
CHECKPOINT_SECONDS = 10
MAX_BUNDLE_MILLIS = 100
"""How long a bundle on the local Flink may wait: every shuffle delays an alert by as much."""
WORKER_KEPT_MILLIS = 60_000
"""Between the stages of a replay."""
_FEW_READERS = 4
"""Of a topic where the parallelism is unknown: those that share a subtask take turns."""
_OTHER_GRAPH = "Cannot map checkpoint/savepoint state"
"""What Flink says of a savepoint whose steps are not where this graph has them."""
_TEMPLATE = "--template_location"
_KAFKA_SERVICE = "sdks:java:io:expansion-service:shadowJar"
"""What `--beam_services` calls the expansion service that knows KafkaIO."""
_MAX_PARALLELISM = 8
"""On the local Flink, unless --parallelism says more: every worker process takes some 300 MB."""


@dataclass(frozen=True)
class Runner:
    """Where the job runs: its pipeline options, and what builds KafkaIO there.

    `expansion` gives the expansion service for `build` while its block lasts, or None where nothing is Java's.
    `cluster` is there when the job outlives this process.
    """

    pipeline_args: tuple[str, ...]
    expansion: Callable[[], AbstractContextManager[Any]]
    cluster: FlinkCluster | None = None


@dataclass(frozen=True)
class Registered:
    """What the schema registry has of the result topics. Workers get it as it is, and ask nobody."""

    ids: Mapping[str, int] = field(default_factory=dict)
    """Of our schemas, by topic; empty where results are JSON."""
    written: Mapping[int, str] = field(default_factory=dict)
    """Schemas of alerts and alarms that are read back, by id."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line. Returns the exit code."""
    share_arenas()
    start_logging()
    # Says of every annotation that is a text that it is one.
    logging.getLogger("apache_beam.typehints.native_type_compatibility").setLevel(logging.WARNING)
    with stoppable():
        try:
            settings, plan = validate(sys.argv[1:] if argv is None else argv)
            for warning in plan.warnings:
                _log.warning("%s", warning)
            counts = followed_counts(settings, plan).load()
            tell_size(plan, counts)
            warn_of_intervals(settings, plan)
            settings = with_shards(settings, plan, counts)
            if plan.postgresql is not None:
                check(plan.postgresql)
            also = [OPTIONAL_TOPICS[name] for name in settings.also_publish]
            topics = _look_at_kafka(plan, also)
            registered = _look_at_registry(plan, [*OUTPUT_TOPICS, *also])
            with open_runner(plan) as runner:
                return _run(settings, plan, counts, runner, topics, registered)
        except (OptionError, PreflightError, MeterCountsError, TableError, RegistryError) as error:
            print(f"ami_beam.run: {error}", file=sys.stderr)
            return 2
        except PostgresqlError as error:
            print(f"ami_beam.run: {error}.", file=sys.stderr)
            return 2
        except (StartError, FlinkError, JobEndedError, JarError) as error:
            print(f"ami_beam.run: {error}", file=sys.stderr)
            return 1
        except Stopped:
            _log.info("Stopped.")
            return 0


def new_pipeline(plan: RunPlan, options: PipelineOptions) -> beam.Pipeline:
    """An empty pipeline on the plan's runner."""
    # DirectRunner would pick one of three engines silently, and may download one.
    return beam.Pipeline(runner=FnApiRunner() if plan.runner == "DirectRunner" else None, options=options)


def build(
    pipeline: beam.Pipeline,
    settings: Settings,
    plan: RunPlan,
    meter_counts: MeterCountsVersion,
    expansion_service: Any = None,
    topics: Mapping[str, Topic] | None = None,
    registered: Registered = Registered(),
) -> None:
    """Build the whole graph: source, operational pipeline, sink. `meter_counts` are the plan's as they are now."""
    follow = followed_counts(settings, plan)
    counts: MeterCountsSource
    if plan.runner == "FlinkRunner" and not plan.bounded:
        counts = PolledMeterCounts(meter_counts, follow)
    else:
        counts = pipeline | "MeterCounts" >> ReadMeterCounts(meter_counts, None if plan.bounded else follow)

    known = topics or {}

    paths = {plan.reads_topic: plan.reads, plan.events_topic: plan.events, **plan.announced_topics}

    def records(topic: str, keeps_time: bool = True) -> beam.PTransform:
        if plan.source == "files":
            return ReadReplay(paths[topic], topic)
        if plan.kafka_io == "native":
            readers = _readers(pipeline.options, known[topic].partitions)
            return ReadTopicNatively(topic, plan.kafka_client, plan.start, readers, keeps_time)
        return ReadTopic(topic, plan.kafka_client, plan.start, known[topic].timestamp_type, expansion_service)

    def without_time(topic: str, start: str | int) -> beam.PTransform:
        """A topic that holds no watermark back, and of which little comes."""
        if plan.kafka_io == "native":
            return ReadTopicNatively(topic, plan.kafka_client, start, keeps_time=False, idle_seconds=IDLE_SECONDS_BACK)
        return ReadTopic(topic, plan.kafka_client, start, NO_TIME, expansion_service)

    def announced(label: str, topic: str | None) -> beam.PCollection[RecordBatch] | None:
        """From its oldest record on, wherever the run starts: an outage of today may have been announced last week."""
        if topic is None:
            return None
        return pipeline | label >> (records(topic) if plan.source == "files" else without_time(topic, "earliest"))

    reads = pipeline | "Reads" >> records(plan.reads_topic)
    # Events are rare, or are never sent at all: what is made of reads, too, must not wait for the next one. Those that
    # are there at the start come first.
    events = pipeline | "Events" >> records(plan.events_topic, keeps_time=False)
    # What a failed attempt has published is in its topic and not in the state that the next one goes on from.
    alerts, alarms = [
        pipeline | label >> without_time(topic, plan.start)
        for label, topic in zip(("PublishedGridAlerts", "PublishedAlarmRecords"), _read_back(plan), strict=False)
    ] or (None, None)
    outages, work = announced("Outages", plan.outages_topic), announced("Work", plan.work_topic)
    schemas = replace(plan.formats.inputs(), published=KnownSchemas(registered.written) if registered.written else None)
    inputs = Inputs(
        reads, events, counts, alerts, alarms, producers_of(plan), outages, work, schemas, registry_of(plan)
    )  # fmt: skip
    found = within(operational(inputs, settings), plan.period)
    outputs = published(found, config_id(settings), AvroValues(registered.ids) if registered.ids else None)
    # Files and tables are made of JSON, whatever topics have.
    texts = outputs
    if registered.ids and plan.sinks != ("kafka",):
        texts = published(found, config_id(settings), label="Text")
    if plan.validated_files is not None:
        gather = None if plan.bounded else plan.validated_files_every / MICROS_PER_SECOND
        for part, label in zip(found.validated, ("ValidatedFiles", "MeterDayFiles"), strict=True):
            _ = part | label >> WriteAvroFiles(plan.validated_files, settings.time_zone, gather)
    if "files" in plan.sinks:
        _ = texts | "Files" >> WriteOutputs(plan.output)
    if plan.postgresql is not None:
        for topic, parts in texts.items():
            for label, rows in labelled(f"PostgreSQL {topic}", parts):
                _ = rows | label >> WriteTopicToPostgresql(topic, plan.postgresql)
    if plan.bigquery is not None:
        # Beam starts its service for this, unless --beam_services names one.
        with JavaJarServer.beam_services(pipeline.options.view_as(CrossLanguageOptions).beam_services):
            _ = texts | "BigQuery" >> WriteToTables(plan.bigquery)
    for topic, parts in outputs.items() if "kafka" in plan.sinks else ():
        name = plan.output_prefix + topic
        for label, rows in labelled(f"Kafka {topic}", parts):
            write: beam.PTransform
            if plan.kafka_io == "native":
                write = WriteTopicNatively(name, plan.kafka_client)
            else:
                write = WriteTopic(name, plan.kafka_client, expansion_service)
            _ = rows | label >> write


def producers_of(plan: RunPlan) -> FollowedProducers | None:
    """The producers as workers look them up; None where the plan names none. A replay looks at the file once."""
    if plan.producers is None:
        return None
    return FollowedProducers(plan.producers, None if plan.bounded else plan.meter_counts_refresh)


def registry_of(plan: RunPlan) -> FollowedRegistry | None:
    """The meter registry, likewise."""
    if plan.meter_registry is None:
        return None
    refresh = None if plan.bounded else plan.meter_counts_refresh
    return FollowedRegistry(plan.meter_registry, refresh, plan.meter_counts_shrink)


def counts_origin(plan: RunPlan) -> Origin | None:
    """Where the meter counts are; None where the registry alone makes them."""
    if plan.meter_counts is None:
        return None
    name = plan.meter_counts.partition(":")[2]
    if plan.meter_counts_database is not None:
        parts = name_parts(name)
        assert parts is not None
        return CountsTable(plan.meter_counts_database, parts)
    if plan.meter_counts_client:
        return CountsTopic(name, tuple(sorted(plan.meter_counts_client.items())), plan.meter_counts_format)
    return CountsFile(plan.meter_counts)


def followed_counts(settings: Settings, plan: RunPlan) -> FollowedCounts:
    """The meter counts of the plan."""
    return FollowedCounts(
        counts_origin(plan),
        plan.meter_counts_refresh,
        settings.allowed_lateness,
        registry_of(plan),
        ReceiptDelays.of_run(settings),
        plan.meter_counts_shrink,
    )


def tell_size(plan: RunPlan, counts: MeterCountsVersion) -> None:
    """Say how large the table is with which the run starts: there is none before, so it was taken as it is."""
    size = size_of(unpack(counts), time.time_ns() // 1_000)
    places = " and ".join(place for place in (plan.meter_registry, plan.meter_counts) if place is not None)
    _log.info(
        "Meter counts %s: %s transformers with %s meters by now, of %s.",
        counts.version_id[:VERSION_DIGITS], f"{size.transformers:,}", f"{size.meters:,}", places,
    )  # fmt: skip


def warn_of_intervals(settings: Settings, plan: RunPlan) -> None:
    """Say which option is missing where the registry has intervals that windows are too short for."""
    registry = registry_of(plan)
    if registry is None:
        return
    longest = int(registry.current().changes.longest.max(initial=0))
    if longest > settings.window + settings.behind_windows:
        length = format_duration(longest)
        _log.warning(
            "Meters of the registry have intervals of %s, and windows are of %s: of these meters only some windows"
            " will have a read. With --longest_interval=%s they count in every window.",
            length, format_duration(settings.window), length,
        )  # fmt: skip


def _read_back(plan: RunPlan) -> list[str]:
    """The result topics that are read, too: those of grid alerts and alarms, where they are written to Kafka."""
    live = plan.source == "kafka" and "kafka" in plan.sinks
    return [plan.output_prefix + topic for topic in (GRID_ALERTS_TOPIC, ALARMS_TOPIC)] if live else []


def with_shards(settings: Settings, plan: RunPlan, counts: MeterCountsVersion) -> Settings:
    """The settings with a number of shards that fits the network, where the command line names none."""
    if not plan.choose_shards:
        return settings
    shards = shards_for(unpack(counts), plan.bounded)
    keep = "" if plan.bounded else f"; keep savepoints usable with --shards={shards}"
    _log.info("Shards: %d, chosen from the meter counts%s.", shards, keep)
    return replace(settings, shards=shards)


def _readers(options: PipelineOptions, partitions: int) -> int:
    """How many readers share out the partitions of a topic: one for every parallel subtask that will have some."""
    parallelism = options.view_as(FlinkRunnerOptions).parallelism
    if parallelism > 0:
        return min(parallelism, partitions)
    _log.info("Reading with up to %d readers. --parallelism tells how many subtasks your Flink gives.", _FEW_READERS)
    return min(_FEW_READERS, partitions)


def _look_at_kafka(plan: RunPlan, also: Sequence[str]) -> dict[str, Topic]:
    """The input topics by name. `also`: results beside those of every run."""
    if plan.bootstrap_servers is None:
        return {}
    announced = [] if plan.bounded else list(plan.announced_topics)
    inputs = [] if plan.bounded else [plan.reads, plan.events, *announced]
    results = [plan.output_prefix + topic for topic in (*RESULT_TOPICS, *also)] if "kafka" in plan.sinks else []
    native = plan.kafka_io == "native"
    topics = inspect(plan.bootstrap_servers, plan.kafka_config, inputs, results, native, _read_back(plan))
    report(topics, announced)
    return {topic.name: topic for topic in topics}


def _look_at_registry(plan: RunPlan, topics: Sequence[str]) -> Registered:
    """What the registry says of the result topics. Raises RegistryError."""
    registry, kafka = plan.formats.registry, "kafka" in plan.sinks
    if registry is None:
        return Registered()
    check_registry(registry)
    ids = register(registry, topics, plan.output_prefix) if plan.formats.output == "avro" else {}
    read_back = (GRID_ALERTS_TOPIC, ALARMS_TOPIC) if kafka and not plan.bounded else ()
    return Registered(ids, all_versions(registry, read_back, plan.output_prefix))


@contextlib.contextmanager
def open_runner(plan: RunPlan) -> Iterator[Runner]:
    """The runner that was asked for. FlinkRunner without a master means a Flink of our own, for as long as we run."""
    arguments = list(plan.pipeline_args)
    own_server = any(word.startswith(("--job_endpoint", "--flink_job_server_jar")) for word in arguments)
    needs_kafka = "kafka" in (plan.source, *plan.sinks) and plan.kafka_io == "beam"
    if plan.runner != "FlinkRunner" or own_server:
        expansion: Callable[[], AbstractContextManager[Any]] = partial(beams_expansion, arguments)
        if on_dataflow(plan.runner) and _KAFKA_SERVICE not in (value_of(arguments, "--beam_services") or ""):
            # Nothing is fetched at a launch that the image does not have, and that no lock names.
            expansion = locked_expansion
        yield Runner(tuple(arguments), expansion if needs_kafka else contextlib.nullcontext)
        return
    master = value_of(arguments, "--flink_master")
    if master is not None and not master.startswith("["):
        with FlinkCluster(master, arguments) as cluster:
            for warning in cluster.warnings:
                _log.warning("%s", warning)
            yield Runner(cluster.pipeline_args, cluster.expansion if needs_kafka else contextlib.nullcontext, cluster)
        return
    arguments = [word for word in arguments if not word.startswith("--flink_master")]
    _log.info("Starting a local Flink (name a cluster with --flink_master).")
    lost: list[str] = []

    def process_lost(reason: str) -> None:
        lost.append(reason)
        os.kill(os.getpid(), signal.SIGTERM)

    workers = _parallelism(arguments)
    with LocalFlink(workers if workers > 1 else 0, heap=None, on_lost=process_lost) as flink:
        local = flink.pipeline_args(
            checkpoint_seconds=None if plan.bounded else CHECKPOINT_SECONDS, bundle_milliseconds=MAX_BUNDLE_MILLIS
        )
        if plan.bounded:
            local.remove("--streaming")
            if workers > 1:
                # Else they end with every stage, and start again for the next.
                local.append(f"--environment_cache_millis={WORKER_KEPT_MILLIS}")
        given = {word.partition("=")[0] for word in arguments}
        arguments = [word for word in arguments if not word.startswith("--runner")]
        arguments += [word for word in local if word.partition("=")[0] not in given - {"--runner"}]
        try:
            yield Runner(tuple(arguments), flink.expansion if needs_kafka else contextlib.nullcontext)
        except Stopped:
            if lost:
                raise StartError(f"{lost[0]}; start the run again") from None
            raise


def _parallelism(arguments: Sequence[str]) -> int:
    """As given, else one for every two processors that this process may use: a worker keeps a JVM busy, too."""
    given = PipelineOptions(list(arguments)).view_as(FlinkRunnerOptions).parallelism
    return given if given > 0 else min(max(len(os.sched_getaffinity(0)) // 2, 1), _MAX_PARALLELISM)


def _run(
    settings: Settings,
    plan: RunPlan,
    counts: MeterCountsVersion,
    runner: Runner,
    topics: Mapping[str, Topic],
    registered: Registered,
) -> int:
    options = PipelineOptions(list(runner.pipeline_args))
    options.view_as(StandardOptions).streaming = not plan.bounded
    pipeline = new_pipeline(plan, options)
    if runner.cluster is not None and plan.kafka_io == "beam":
        # Beam restores the parts of its KafkaIO by their number, and loses those that are too many (its issue 25975).
        parallelism = options.view_as(FlinkRunnerOptions).parallelism
        source = f"beam,parallelism={parallelism}"
        settings = replace(settings, source=",".join(filter(None, (source, settings.source))))
    with runner.expansion() as expansion_service:
        build(pipeline, settings, plan, counts, expansion_service, topics, registered)
    _publish_config(settings, plan)
    _log.info("Run: %s", json.dumps(plan.redacted(), default=str, ensure_ascii=False))
    # The local Flink with one slot has its worker in this process.
    keep_steps_ready()
    result = pipeline.run()
    if not getattr(result, "has_job", True):
        _log.info("The job is described at %s, for Dataflow to create it.", value_of(plan.pipeline_args, _TEMPLATE))
        return 0
    try:
        if runner.cluster is not None and plan.return_when == "checkpointed":
            job = runner.cluster.wait_for_checkpoint()
            _log.info("Job %s (%s) runs, and its first checkpoint is complete.", job, runner.cluster.job_name)
            return 0
        state = result.wait_until_finish()
    except Stopped:
        # A second signal ends the process at once.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        if runner.cluster is not None:
            _stop_on_cluster(runner.cluster, plan.on_stop)
            raise
        if on_dataflow(plan.runner) and plan.on_stop == "leave":
            _log.info("Job %s runs on at Dataflow.", _job_id(result))
            raise
        _log.info("Stopping the job.")
        _report_metrics(result)
        # Beam's threads would each tell of the connections that end.
        threading.excepthook = _without_lost_connections
        with contextlib.suppress(Exception):
            result.cancel()
        raise
    except Exception as error:
        _log.error("The job failed: %s", error)
        if _OTHER_GRAPH in str(error):
            _log.error(
                "The savepoint is of another graph: of other --shards, windows or delays, or of another version. Start"
                " with the options it was made with, or beside the old job as docs/flink.md says (Upgrade and rescale)."
            )
        return 1
    _report_metrics(result)
    return 0 if state in (None, PipelineState.DONE) else 1


def _job_id(result: Any) -> str:
    """Dataflow's name for a job that it has created."""
    return str(result.job_id())


def _publish_config(settings: Settings, plan: RunPlan) -> None:
    """Say what the id on alerts and alarms stands for. Raises PreflightError or PostgresqlError where it is refused."""
    started = time.time_ns() // 1_000
    if plan.postgresql is not None:
        write_config(plan.postgresql, config_json(settings, started))
    if "files" in plan.sinks:
        if not FileSystems.exists(plan.output):
            FileSystems.mkdirs(plan.output)
        with FileSystems.create(FileSystems.join(plan.output, f"{CONFIG_TOPIC}.jsonl")) as file:
            file.write(config_json(settings, started) + b"\n")
    if "kafka" not in plan.sinks:
        return
    config = librdkafka(plan.kafka_connection)
    try:
        publish_config(config, plan.output_prefix, settings, started)
    except KafkaException as error:
        raise PreflightError(f"{plan.output_prefix}{CONFIG_TOPIC} cannot be written: {error}") from None


def _stop_on_cluster(cluster: FlinkCluster, how: str) -> None:
    """Raises FlinkError when the job could not be stopped in that way, and runs on."""
    threading.excepthook = _without_lost_connections
    if how == "leave":
        _log.info("Job %s runs on at %s.", cluster.job_name, cluster.rest.master)
    elif how == "cancel":
        cluster.cancel()
        _log.info("Job %s is cancelled.", cluster.job_name)
    else:
        _log.info("Stopping job %s with a savepoint.", cluster.job_name)
        path = cluster.stop()
        _log.info("Savepoint %s is complete; go on from it with --savepoint_path=%s", path, path)


def _without_lost_connections(error: threading.ExceptHookArgs) -> None:
    if not isinstance(error.exc_value, grpc.RpcError):
        threading.__excepthook__(error)


def _report_metrics(result: Any) -> None:
    """Log every counter of ours once, at the end of a bounded run."""
    with contextlib.suppress(NotImplementedError, GoogleAPIError):
        totals: dict[str, int] = {}
        for counter in result.metrics().query()["counters"]:
            if counter.key.metric.namespace == "ami":
                name = counter.key.metric.name
                totals[name] = totals.get(name, 0) + (counter.committed or counter.attempted or 0)
        if totals:
            _log.info("Counters: %s", json.dumps(dict(sorted(totals.items()))))


if __name__ == "__main__":
    leave(main())
