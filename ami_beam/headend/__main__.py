"""`python -m ami_beam.headend`: polls head-ends' HTTP APIs and publishes reads and events to Kafka, each once."""

from __future__ import annotations

import argparse
import logging
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from confluent_kafka import KafkaException

from ami_beam.beam_options import OptionError, Parser
from ami_beam.command import Stopped, leave, start_logging, stoppable
from ami_beam.csv_table import TableError
from ami_beam.headend.authentication import AuthenticationError, check_secrets
from ami_beam.headend.health import HealthServer, SourceHealth
from ami_beam.headend.json_paths import PathError
from ami_beam.headend.poll import BackfillRange
from ami_beam.headend.sample import mapped_sample
from ami_beam.headend.source_file import Source, SourceError, load_source
from ami_beam.headend.topics import CURSORS_TOPIC, SET_ASIDE_TOPIC, check_compacted, make_missing
from ami_beam.headend.worker import Job, SourceWorker
from ami_beam.input_topics import EVENTS_TOPIC, READS_TOPIC
from ami_beam.instants import MICROS_PER_SECOND
from ami_beam.io.kafka_preflight import PreflightError, inspect
from ami_beam.io.librdkafka import SettingError
from ami_beam.kafka_config import kafka_config
from ami_beam.option_checks import bootstrap_servers_of, duration_of, input_of, instant_of, number_of

DONE, FAILED, WRONG = 0, 1, 2
_STOP_SECONDS = 15.0
_REQUEST_SECONDS = 3.0
"""How long a request in flight is waited for at the end."""
_log = logging.getLogger(__name__)

_ABOUT = """Polls the HTTP API of head-ends and publishes their reads and events to Kafka. Each SOURCE is a TOML file:
address, login, paging, and which of the head-end's fields is which of ours. A record and the position behind it are in
one transaction: after a crash nothing is lost, and a consumer with isolation.level=read_committed sees nothing twice.
What cannot be mapped goes to ami.headend.setaside, with its bytes and the reason."""
_EXAMPLES = """
examples:
  Is the file right, and what becomes of an answer that was saved with curl:
    python -m ami_beam.headend north.toml --check --sample=answer.json

  Once, with the topics made where they are missing:
    python -m ami_beam.headend north.toml --bootstrap_servers=localhost:9092 --create_topics --once

  For good, two head-ends, with health and metrics for the machine's own Prometheus:
    python -m ami_beam.headend north.toml south.toml --bootstrap_servers=broker1:9092 \\
      --kafka_config_file=client.properties --health=127.0.0.1:9464

  February again, while the live poll goes on:
    python -m ami_beam.headend north.toml --bootstrap_servers=broker1:9092 \\
      --backfill=2026-02-01T00:00:00Z/2026-03-01T00:00:00Z

exit code:
  0 stopped by a signal, or --once, --check or --backfill is complete; 1 failed; 2 a wrong option or source

The file, key by key, and examples of known APIs: docs/ingestion.md, templates/headend/.
"""


@dataclass(frozen=True)
class Plan:
    """The checked command line."""

    jobs: list[Job]
    connection: dict[str, str]
    create_topics: bool
    partitions: int
    health: tuple[str, int] | None
    unhealthy_after: float


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 in order, 1 failed, 2 wrong options or sources."""
    start_logging()
    given = sys.argv[1:] if argv is None else list(argv)
    with stoppable():
        try:
            values = vars(_parser().parse_args(given))
            sources = _sources(values["source"])
            if values["check"]:
                return _check(sources, values["sample"])
            plan = _plan(values, sources)
            _prepare(plan)
            return _run(plan)
        except (OptionError, SourceError, SettingError) as error:
            print(f"ami_beam.headend: {error}", file=sys.stderr)
            return WRONG
        except PreflightError as error:
            hint = " Or let --create_topics make them." if "has no topic" in str(error) else ""
            print(f"ami_beam.headend: {error}{hint}", file=sys.stderr)
            return WRONG
        except KafkaException as error:
            print(f"ami_beam.headend: Kafka: {error.args[0].str()}", file=sys.stderr)
            return FAILED
        except Stopped:
            return DONE


def _parser() -> Parser:
    parser = Parser(
        prog="python -m ami_beam.headend",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", nargs="+", metavar="SOURCE.toml", help="a head-end each")
    add = parser.add_argument_group("Kafka").add_argument
    add("--bootstrap_servers", metavar="HOST:PORT,…", help="brokers to publish to")
    add("--kafka_config", nargs="+", metavar="KEY=VALUE", help="client settings, as of ami_beam.run")
    add("--kafka_config_file", metavar="FILE", help="the same as a file: secrets belong there")
    add(
        "--reads",
        default=READS_TOPIC,
        metavar="TOPIC",
        help=f"for reads, unless a source names another ({READS_TOPIC})",
    )
    add("--events", default=EVENTS_TOPIC, metavar="TOPIC", help=f"for events, likewise ({EVENTS_TOPIC})")
    add("--create_topics", action="store_true", help="make the topics that are missing")
    add("--partitions", default="8", metavar="N", help="of the topics for reads and events that are made (8)")
    add = parser.add_argument_group("what is done").add_argument
    add("--check", action="store_true", help="only say whether the sources can be used")
    add(
        "--sample",
        metavar="FILE",
        help="with --check: a saved answer, whose records are printed as they would be published",
    )
    add("--once", action="store_true", help="one round of each source, then end")
    add(
        "--backfill",
        metavar="START/END",
        help="ask for a past range instead, in chunks; goes on where it was when started again",
    )
    add = parser.add_argument_group("watching").add_argument
    add("--health", metavar="HOST:PORT", help="answer /healthz and /metrics there, such as 127.0.0.1:9464; no default")
    add(
        "--unhealthy_after",
        default="15m",
        metavar="DURATION",
        help="so long without progress is unhealthy (15m; twice `every` where that is longer)",
    )
    return parser


def _sources(paths: Sequence[str]) -> list[Source]:
    sources = [load_source(path) for path in paths]
    names = [source.name for source in sources]
    for source in sources:
        if names.count(source.name) > 1:
            raise SourceError(
                f"{source.path}: name = {source.name!r}: another source has it, and its position. Rename one."
            )
    return sources


def _check(sources: Sequence[Source], sample: str | None) -> int:
    try:
        for source in sources:
            check_secrets(source)
            if sample is None:
                print(f"{source.path}: {source.kind} from {source.url} can be used.")
                continue
            for line in mapped_sample(source, Path(sample).read_bytes()):
                print(line)
    except AuthenticationError as error:
        raise SourceError(f"{source.path}: {error}") from None
    except (OSError, PathError, TableError, msgspec.DecodeError) as error:
        raise OptionError(
            "--sample", sample, str(error), "a saved answer of the source", "--sample=answer.json"
        ) from None
    return DONE


def _plan(values: dict[str, str | None], sources: Sequence[Source]) -> Plan:
    servers = bootstrap_servers_of(values["bootstrap_servers"], "kafka", ())
    assert servers is not None
    config = kafka_config(values["kafka_config"] or (), values["kafka_config_file"])
    topics = {
        "reads": input_of(values, "reads", "kafka", READS_TOPIC, ""),
        "events": input_of(values, "events", "kafka", EVENTS_TOPIC, ""),
    }
    backfill = None
    if values["backfill"] is not None:
        backfill = _backfill(values["backfill"])
        for source in sources:
            if source.period is None:
                problem = f"{source.path} has no [period]: it cannot be asked for a range of time"
                raise OptionError("--backfill", values["backfill"], problem, "sources with [period]")
    jobs = [
        Job(msgspec.structs.replace(source, topic=topic), topic, bool(values["once"]), backfill)
        for source in sources
        for topic in (source.topic or topics[source.kind],)
    ]
    return Plan(
        jobs,
        {**config, "bootstrap.servers": servers},
        bool(values["create_topics"]),
        int(number_of(values, "partitions", 1, 10_000, "8", whole=True)),
        _address(values["health"]),
        duration_of(values, "unhealthy_after", "15m", least=MICROS_PER_SECOND) / MICROS_PER_SECOND,
    )


def _backfill(text: str) -> BackfillRange:
    begin, slash, end = text.partition("/")
    example = "--backfill=2026-02-01T00:00:00Z/2026-03-01T00:00:00Z"
    allowed = "two times with a zone and / between them"
    if not slash:
        raise OptionError("--backfill", text, "is no range", allowed, example)
    found = BackfillRange(*(instant_of("--backfill", word, allowed, example) for word in (begin, end)))
    if found.begin >= found.end:
        raise OptionError("--backfill", text, "ends before it begins", allowed, example)
    return found


def _address(text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise OptionError("--health", text, "is no HOST:PORT", "an address of this machine", "--health=127.0.0.1:9464")
    return host.strip("[]"), int(port)


def _prepare(plan: Plan) -> None:
    """The broker answers, and has the topics. Raises PreflightError."""
    servers = plan.connection["bootstrap.servers"]
    topics = {job.topic: plan.partitions for job in plan.jobs} | {CURSORS_TOPIC: 1, SET_ASIDE_TOPIC: 1}
    if plan.create_topics:
        made = make_missing(plan.connection, topics)
        if made:
            _log.info("Made %s.", ", ".join(made))
    inspect(servers, plan.connection, [], topics, native=True, read_back=topics)
    check_compacted(plan.connection, servers)


def _run(plan: Plan) -> int:
    stop = threading.Event()
    healths = [
        SourceHealth(job.source.name, max(plan.unhealthy_after, 2 * job.source.every / MICROS_PER_SECOND))
        for job in plan.jobs
    ]
    workers = [SourceWorker(job, plan.connection, health, stop) for job, health in zip(plan.jobs, healths, strict=True)]
    server = None
    if plan.health is not None:
        try:
            server = HealthServer(*plan.health, healths)
        except OSError as error:
            address = f"{plan.health[0]}:{plan.health[1]}"
            raise OptionError("--health", address, f"cannot be listened on: {error.strerror}", "a free port") from None
        _log.info("Health and metrics: http://%s:%d/healthz and /metrics", plan.health[0], server.port)
    try:
        for worker in workers:
            worker.start()
        # As long as all go on or are done: one that cannot go on ends the others, and whoever watches starts anew.
        while any(worker.is_alive() for worker in workers) and not any(worker.failure for worker in workers):
            for worker in workers:
                worker.join(0.2)
    except Stopped:
        _log.info("Asked to end: what is in flight is committed or given up.")
    finally:
        stop.set()
        _wait_for(workers)
        if server is not None:
            server.close()
    failures = [worker.failure for worker in workers if worker.failure]
    for failure in failures:
        print(f"ami_beam.headend: {failure}", file=sys.stderr)
    for health in healths:
        counts = health.counts()
        published, repeated = counts.get(("published_total", ""), 0), counts.get(("repeated_total", ""), 0)
        aside = sum(count for (name, _), count in counts.items() if name == "setaside_total")
        _log.info(
            "%s: %s published, %s repeated, %s set aside.", health.name, f"{published:,}", f"{repeated:,}", f"{aside:,}"
        )
    return FAILED if failures else DONE


def _wait_for(workers: Sequence[SourceWorker]) -> None:
    """Until all have ended, or those that have not are only waiting for a head-end."""
    began = time.monotonic()
    while any(worker.is_alive() for worker in workers) and time.monotonic() < began + _STOP_SECONDS:
        if time.monotonic() > began + _REQUEST_SECONDS and not any(worker.must_be_waited_for for worker in workers):
            break
        time.sleep(0.05)


if __name__ == "__main__":
    leave(main())
