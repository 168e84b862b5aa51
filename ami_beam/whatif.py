"""`python -m ami_beam.whatif`: which alarms a period would have given under other settings."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from confluent_kafka import KafkaException

from ami_beam.alarm_changes import compare, within
from ami_beam.beam_options import OptionError, Parser
from ami_beam.codecs.json_outputs import alarm_records, parse_alarm
from ami_beam.command import Stopped, leave, start_logging, stoppable
from ami_beam.csv_table import TableError
from ami_beam.effective_config import config_id
from ami_beam.flink_rest import FlinkError
from ami_beam.instants import format_instant
from ami_beam.io.files import ReadReplay, WriteOutputs
from ami_beam.io.kafka_period import PeriodError, export_period
from ami_beam.io.kafka_preflight import PreflightError, inspect
from ami_beam.io.librdkafka import SettingError
from ami_beam.io.meter_counts_source import ReadMeterCounts
from ami_beam.local.process import StartError
from ami_beam.meter_counts import MeterCountsError, MeterCountsVersion
from ami_beam.option_checks import duration_of, instant_of, without_runner
from ami_beam.options import RunPlan, rule_options, validate
from ami_beam.records import Alarm, KeyedRecords, RecordBatch
from ami_beam.replay_arguments import replay_arguments, replays_events
from ami_beam.run import followed_counts, new_pipeline, open_runner, producers_of, registry_of, with_shards
from ami_beam.settings import Settings
from ami_beam.whatif_picture import FORMATS, PictureError, check_library, draw
from ami_beam.whatif_report import Comparison, as_json, as_text
from pipelines.what_if import alarms_of

CURRENT, CHANGED = "current", "changed"
_HEARTBEAT_SECONDS = 15
_log = logging.getLogger(__name__)

_ABOUT = """Replays a period under the settings you run with and under changed ones, and shows which alarms appear,
vanish or move: by type, feeder and hour of the day. Nothing is published."""
_EXAMPLES = """
All options of python -m ami_beam.run that say where records are and what the settings are now may be given too, and
mean the same: --source, --reads, --events, --meter_counts, --meter_registry, --producers, --bootstrap_servers,
--kafka_config_file, --low_voltage_pct and so on.

examples:
  A week of the live topic with another limit, as a table and a picture:
    python -m ami_beam.whatif --bootstrap_servers=broker1:9092 --meter_counts=counts.csv \\
      --from=2026-03-01T00:00:00Z --to=2026-03-08T00:00:00Z --set high_voltage_pct=111 --picture=whatif.png

  Exported files, all of them, two changes at once, for a program:
    python -m ami_beam.whatif --source=files --reads=replay/reads.jsonl.gz --meter_counts=replay/counts.csv \\
      --set alarm_on_windows=3 --set min_receipt_rate_pct=70 --json
"""


@dataclass(frozen=True)
class Question:
    """What is to be compared, and where the answer goes."""

    begin: int | None
    end: int | None
    sets: tuple[str, ...]
    wait_for_late: int | None
    json: bool
    picture: Path | None
    output: Path | None


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 compared, 1 it could not be read or run, 2 a wrong option."""
    start_logging()
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    with stoppable():
        try:
            question, rest = _question(sys.argv[1:] if argv is None else argv)
            current, changed, plan = _settings(question, rest)
            comparison = _compare(question, current, changed, plan)
        except (OptionError, PreflightError, MeterCountsError, TableError, SettingError, PictureError) as error:
            print(f"ami_beam.whatif: {error}", file=sys.stderr)
            return 2
        except (StartError, FlinkError, PeriodError, KafkaException) as error:
            print(f"ami_beam.whatif: {error}", file=sys.stderr)
            return 1
        except Stopped:
            _log.info("Stopped.")
            return 0
    print(json.dumps(as_json(comparison), indent=1) if question.json else as_text(comparison))
    return 0


def _question(argv: Sequence[str]) -> tuple[Question, list[str]]:
    parser = Parser(
        prog="python -m ami_beam.whatif",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--from", dest="begin", metavar="TIME", help="windows that end after it (files: the first; needed with kafka)")
    add("--to", dest="end", metavar="TIME", help="windows that end by it (files: the last; kafka: now)")
    add(
        "--set",
        dest="sets",
        action="append",
        required=True,
        metavar="NAME=VALUE",
        help=f"a setting to change, any number of times. Names: {', '.join(rule_options())}",
    )
    add(
        "--wait_for_late",
        metavar="DURATION",
        help="with kafka, how long after --to records are still read, for reads that come late (the allowed lateness)",
    )
    add("--json", action="store_true", help="JSON on standard output, with every alarm that differs")
    add("--picture", type=Path, metavar="FILE", help=f"a picture: {', '.join(FORMATS)}; needs matplotlib")
    add("--output", type=Path, metavar="FOLDER", help=f"keep all alarms there: {CURRENT}.jsonl and {CHANGED}.jsonl")
    given, rest = parser.parse_known_args(list(argv))
    begin = None if given.begin is None else instant_of("--from", given.begin)
    end = None if given.end is None else instant_of("--to", given.end)
    if begin is not None and end is not None and begin >= end:
        raise OptionError("--to", given.end, f"is not after --from={given.begin}", "a later time")
    if given.picture is not None and given.picture.suffix not in FORMATS:
        raise OptionError(
            "--picture", str(given.picture), "is no kind of picture", ", ".join(FORMATS), "--picture=a.png"
        )
    wait = None if given.wait_for_late is None else duration_of(vars(given), "wait_for_late", "1h", least=0)
    return Question(begin, end, tuple(given.sets), wait, given.json, given.picture, given.output), rest


def _settings(question: Question, rest: list[str]) -> tuple[Settings, Settings, RunPlan]:
    """The settings as they are and as they would be, for a run that ends, and where the records are."""
    names = rule_options()
    changes = []
    for text in question.sets:
        name, equals, _ = text.removeprefix("--").partition("=")
        if not equals or name not in names:
            raise OptionError("--set", text, "changes no setting", ", ".join(names), "--set high_voltage_pct=111")
        changes.append(f"--{text.removeprefix('--')}")
    arguments, runner = replay_arguments(rest)
    current, plan = validate(arguments)
    changed, _ = validate([*arguments, *changes])
    if changed == current:
        raise OptionError("--set", " ".join(question.sets), "is what the settings are already", "another value")
    if plan.source == "kafka" and question.begin is None:
        example = "--from=2026-03-01T00:00:00Z"
        raise OptionError("--from", None, "is missing: a topic may hold months", "a time with a zone", example)
    pipeline_args = (f"--runner={runner}", *without_runner(plan.pipeline_args))
    plan = replace(plan, runner=runner, pipeline_args=pipeline_args)
    return replace(current, live=False), replace(changed, live=False), plan


def _compare(question: Question, current: Settings, changed: Settings, plan: RunPlan) -> Comparison:
    # A registry's receipt delays depend on the settings.
    tables = [followed_counts(settings, plan).load() for settings in (current, changed)]
    current, changed = (
        with_shards(settings, plan, counts) for settings, counts in zip((current, changed), tables, strict=True)
    )
    if question.picture is not None:
        check_library()
    folder = Path(tempfile.mkdtemp(prefix="ami-beam-whatif-"))
    try:
        if plan.source == "kafka":
            plan = _exported(question, current, plan, folder)
        output = question.output or folder / "alarms"
        for name, settings, counts in zip((CURRENT, CHANGED), (current, changed), tables, strict=True):
            _replay(name, settings, plan, counts, output)
        alarms = {name: _alarms(output / f"{name}.jsonl", question) for name in (CURRENT, CHANGED)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    comparison = Comparison(
        question.begin, question.end, current, changed, question.sets, compare(alarms[CURRENT], alarms[CHANGED])
    )
    if question.picture is not None:
        draw(comparison, question.picture)
        _log.info("Picture: %s", question.picture)
    return comparison


def _exported(question: Question, settings: Settings, plan: RunPlan, folder: Path) -> RunPlan:
    """The same plan with the period as a file."""
    assert question.begin is not None
    assert plan.bootstrap_servers is not None
    topics = [plan.reads, plan.events, *plan.announced_topics]
    inspect(plan.bootstrap_servers, plan.kafka_config, topics, [], native=True)
    now = time.time_ns() // 1_000
    wait = settings.allowed_lateness if question.wait_for_late is None else question.wait_for_late
    end = now if question.end is None else min(question.end + settings.collection_delay + wait, now)
    reads, events = folder / "reads.jsonl.gz", folder / "events.jsonl.gz"
    # Of the first window some records are older than it: those with a fast clock.
    begin = question.begin - settings.window
    count = export_period(plan.kafka_connection, plan.reads, begin, end, reads)
    if count == 0:
        raise PeriodError(
            f"Topic {plan.reads} holds no record between {format_instant(question.begin)} and {format_instant(end)}"
        )
    _log.info("%s records of %s.", f"{count:,}", plan.reads)
    count = export_period(plan.kafka_connection, plan.events, begin, end, events)
    _log.info("%s records of %s.", f"{count:,}", plan.events)
    outages, work = [
        # What was announced long before the period may be about it.
        topic and _exported_up_to(end, topic, folder / f"{name}.jsonl.gz", plan)
        for name, topic in (("outages", plan.outages_topic), ("work", plan.work_topic))
    ]
    return replace(
        plan, source="files", sinks=("files",), reads=str(reads), events=str(events), oms_outages=outages, work=work
    )


def _exported_up_to(end: int, topic: str, path: Path, plan: RunPlan) -> str:
    count = export_period(plan.kafka_connection, topic, None, end, path)
    _log.info("%s records of %s.", f"{count:,}", topic)
    return str(path)


def _replay(name: str, settings: Settings, plan: RunPlan, counts: MeterCountsVersion, output: Path) -> None:
    with open_runner(plan) as runner, _heartbeat(f"{plan.reads}, {name} settings"):
        pipeline = new_pipeline(plan, PipelineOptions(list(runner.pipeline_args)))
        table = pipeline | "MeterCounts" >> ReadMeterCounts(counts, None)
        reads = pipeline | "Reads" >> ReadReplay(plan.reads, plan.reads_topic)
        if replays_events(plan):
            events = pipeline | "Events" >> ReadReplay(plan.events, plan.events_topic)
        else:
            events = pipeline | "Events" >> beam.Create([], reshuffle=False).with_output_types(RecordBatch)
        outages, work = [
            pipeline | label >> ReadReplay(plan.announced_topics[topic], topic) if topic is not None else None
            for label, topic in (("Outages", plan.outages_topic), ("Work", plan.work_topic))
        ]
        alarms = alarms_of(
            reads, events, table, settings, producers_of(plan), outages, work, plan.formats.inputs(), registry_of(plan)
        )  # fmt: skip
        records = alarms | "AlarmJson" >> beam.Map(alarm_records, config_id(settings)).with_output_types(KeyedRecords)
        _ = {name: (records,)} | "Files" >> WriteOutputs(str(output))
        pipeline.run().wait_until_finish()


@contextmanager
def _heartbeat(what: str) -> Iterator[None]:
    """Tell that it goes on: the runner itself says nothing until its end."""
    begun = time.monotonic()
    done = threading.Event()

    def tell() -> None:
        while not done.wait(_HEARTBEAT_SECONDS):
            cpu = os.times()
            _log.info("Replaying for %d s, %d s of CPU.", time.monotonic() - begun, cpu.user + cpu.children_user)

    _log.info("Replaying %s.", what)

    thread = threading.Thread(target=tell, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        _log.info("Replayed in %.0f s.", time.monotonic() - begun)


def _alarms(path: Path, question: Question) -> list[Alarm]:
    with path.open("rb") as lines:
        return within(map(parse_alarm, lines), question.begin, question.end)


if __name__ == "__main__":
    leave(main())
