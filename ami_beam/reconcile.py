"""`python -m ami_beam.reconcile`: validated reads against an MDMS export, per meter and interval."""

from __future__ import annotations

import argparse
import heapq
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
from confluent_kafka import KafkaException

from ami_beam import csv_table
from ami_beam.beam_options import OptionError, Parser
from ami_beam.command import Stopped, leave, start_logging, stoppable
from ami_beam.consumers import VALIDATED_TOPIC
from ami_beam.io.files import ReplayError, replay_files
from ami_beam.io.kafka_period import PeriodError
from ami_beam.io.kafka_preflight import PreflightError, inspect
from ami_beam.io.librdkafka import SettingError
from ami_beam.io.mdms_export import COLUMNS, ExportFormat, MdmsExport
from ami_beam.io.schema_registry import RegistryAddress, RegistryError, RegistrySchemas
from ami_beam.io.schema_registry import check as check_registry
from ami_beam.io.validated_reads import read_files, read_topic, validated_files
from ami_beam.kafka_config import kafka_config
from ami_beam.local_days import bounds_of
from ami_beam.mdms_times import TimeRules
from ami_beam.option_checks import (
    bootstrap_servers_of,
    choice,
    duration_of,
    instant_of,
    number_of,
    output_prefix_of,
    time_zone_of,
)
from ami_beam.partitioned_rows import PartitionedRows
from ami_beam.reconcile_report import SUFFIXES, ListFile, Reconciliation, as_json, as_text, difference_of
from ami_beam.reconcile_rows import (
    HERE,
    MICROS_PER_KWH,
    BadRows,
    Period,
    Problem,
    Problems,
    RowCounts,
    select,
)
from ami_beam.reconciliation import (
    Interval,
    MeterTotals,
    Outcome,
    Rules,
    Totals,
    add_up,
    compare,
    intervals,
    meter_totals,
)
from ami_beam.schema_options import registry_of

EQUAL, DIFFERENCES, WRONG, STOPPED = 0, 1, 2, 130
WORST_METERS = 10
"""So many are on the screen and in the JSON."""
_FAILURES = (
    OptionError, BadRows, ReplayError, PreflightError, SettingError, PeriodError, RegistryError, KafkaException,
)  # fmt: skip
_PROGRESS_SECONDS = 10
_DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
_log = logging.getLogger(__name__)

_ABOUT = """Compares a day of validated reads (ami.reads.validated) with an export of the MDMS, per meter and interval:
what is missing there, missing here, or different. Of our versions of an interval the final one counts, with the
greatest as_of. Nothing is published."""
_EXAMPLES = """
the export:
  CSV or JSON lines, plain or .gz, with the columns meter_id, interval_end, and any of consumption_kwh, delivered_kwh
  and received_kwh: those that it has are compared. quality is taken over into the lists. Times have a zone, or are of
  --mdms_time_zone. In the hour that comes twice in autumn, a meter's rows are taken to be in order of time, or the
  column dst says Y (daylight saving time) or N.

exit code:
  0 all equal, 1 something is missing or different, 2 a wrong option or input, 130 stopped

examples:
  Files of a replay, as --sink=files has written them, and an export with names of its own:
    python -m ami_beam.reconcile --validated=output --mdms=export.csv.gz --day=2026-03-08 --time_zone=America/Chicago \\
      --mdms_columns=meter_id=MeterNo,interval_end=EndTime,delivered_kwh=KWH --output=differences.csv

  The live topic, and an export whose times are begins of intervals:
    python -m ami_beam.reconcile --bootstrap_servers=broker1:9092 --kafka_config_file=client.properties \\
      --start=2026-03-08T00:00:00Z --mdms=export.csv --mdms_interval_label=begin --mdms_interval=15m \\
      --day=2026-03-08 --time_zone=America/Chicago --json
"""


@dataclass(frozen=True)
class Question:
    """What is to be compared, and where the answer goes."""

    files: list[str]
    """Of validated reads; none where they come from the topic."""
    topic: str
    connection: dict[str, str]
    registry: RegistryAddress | None
    """Of the schemas of rows in Avro."""
    start: int | None
    mdms: list[str]
    form: ExportFormat
    period: Period
    tolerance: int
    meters: frozenset[str] | None
    skip_bad_lines: bool
    output: Path | None
    meters_output: Path | None
    work_folder: Path | None
    json: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 all equal, 1 differences, 2 wrong options or input, 130 stopped by a signal."""
    start_logging()
    with stoppable():
        try:
            question = question_of(sys.argv[1:] if argv is None else argv)
            found = reconcile(question)
        except _FAILURES as error:
            print(f"ami_beam.reconcile: {error}", file=sys.stderr)
            return WRONG
        except OSError as error:
            print(f"ami_beam.reconcile: {error}; --work_folder names a disk with room", file=sys.stderr)
            return WRONG
        except Stopped:
            _log.info("Stopped before the end: nothing was compared.")
            return STOPPED
    print(json.dumps(as_json(found), indent=1) if question.json else as_text(found))
    return EQUAL if found.totals.equal else DIFFERENCES


def question_of(argv: Sequence[str]) -> Question:
    """The checked command line. Raises OptionError."""
    values = vars(_parser().parse_args(list(argv)))
    if values["mdms"] is None:
        raise OptionError(
            "--mdms", None, "is missing: with what to compare", "a CSV or JSON-lines file", "--mdms=export.csv"
        )
    zone = time_zone_of(values["time_zone"])
    servers = values["bootstrap_servers"]
    if (values["validated"] is None) == (servers is None):
        problem = "say where the validated reads are"
        raise OptionError(
            "--validated", values["validated"], problem, "--validated or --bootstrap_servers", "--validated=output"
        )
    files, connection, registry = [], {}, None
    if servers is None:
        files = _files("--validated", values["validated"], validated_files, "JSON lines or Avro files", "output")
    else:
        bootstrap_servers_of(servers, "kafka", ("files",))
        config = kafka_config(values["kafka_config"] or (), values["kafka_config_file"])
        connection = {**config, "bootstrap.servers": servers}
        if values["schema_registry"] or values["schema_registry_config_file"]:
            registry = registry_of(values["schema_registry"], values["schema_registry_config_file"], "look_up")
    start = None if values["start"] == "earliest" else instant_of("--start", values["start"], "earliest or a time")
    mdms_zone = zone if values["mdms_time_zone"] is None else values["mdms_time_zone"]
    try:
        time_zone_of(mdms_zone)
    except OptionError as error:
        raise OptionError("--mdms_time_zone", mdms_zone, str(error)) from None
    delimiter = choice(values, "mdms_delimiter", tuple(_DELIMITERS))
    times = TimeRules(
        mdms_zone,
        choice(values, "mdms_interval_label", ("end", "begin")),
        duration_of(values, "mdms_interval", "15m"),
    )
    return Question(
        files,
        output_prefix_of(values["output_prefix"]) + VALIDATED_TOPIC,
        connection,
        registry,
        start,
        _files("--mdms", values["mdms"], replay_or_csv, "CSV or JSON lines, plain or .gz", "export.csv"),
        ExportFormat(_names(values["mdms_columns"]), times, _DELIMITERS[delimiter]),
        _period(values, zone),
        round(number_of(values, "tolerance_kwh", 0, 1_000_000, "0.001") * MICROS_PER_KWH),
        _meters(values["meters"]),
        values["skip_bad_lines"],
        _list_file("--output", values["output"]),
        _list_file("--meters_output", values["meters_output"]),
        _folder(values["work_folder"]),
        values["json"],
    )


def _parser() -> Parser:
    parser = Parser(
        prog="python -m ami_beam.reconcile",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument_group("validated reads").add_argument
    add("--validated", metavar="PATH", help="JSON lines (plain or .gz) or Avro: a file, a folder or a pattern")
    add("--bootstrap_servers", metavar="HOST:PORT,…", help=f"or the topic {VALIDATED_TOPIC}, to its end as it is now")
    add("--kafka_config", nargs="+", metavar="KEY=VALUE", help="client settings, as of ami_beam.run")
    add("--kafka_config_file", metavar="FILE", help="the same as a file: secrets belong there")
    add("--output_prefix", default="", metavar="TEXT", help="before the name of the topic")
    add("--schema_registry", metavar="URL", help="where the schemas are of rows in Avro, as of ami_beam.run")
    add("--schema_registry_config_file", metavar="FILE", help="settings of Confluent's Python client for it")
    add("--start", default="earliest", metavar="TIME", help="of the topic: the first record time to read (earliest)")
    add = parser.add_argument_group("MDMS export").add_argument
    add("--mdms", metavar="PATH", help="CSV or JSON lines, plain or .gz: a file, a folder or a pattern")
    add("--mdms_columns", metavar="NAME=THEIRS,…", help=f"what it calls them. Names: {', '.join(COLUMNS)}")
    add("--mdms_time_zone", metavar="ZONE", help="of times without one (that of --time_zone)")
    add("--mdms_interval_label", default="end", metavar="end|begin", help="which end of an interval its time is (end)")
    add("--mdms_interval", default="15m", metavar="DURATION", help="how long intervals are, with begin (15m)")
    add("--mdms_delimiter", default="comma", metavar="|".join(_DELIMITERS), help="of CSV (comma)")
    add = parser.add_argument_group("what is compared").add_argument
    add("--day", metavar="YYYY-MM-DD", help="a day of --time_zone: intervals that end after its midnight, by the next")
    add("--time_zone", default="UTC", metavar="ZONE", help="of the utility, such as America/Chicago (UTC)")
    add("--from", dest="begin", metavar="TIME", help="instead of --day: intervals that end after it …")
    add("--to", dest="end", metavar="TIME", help="… and by it")
    add("--tolerance_kwh", default="0.001", metavar="KWH", help="energies that differ by so much are equal (0.001)")
    add("--meters", metavar="FILE", help="only meters of this CSV file, column meter_id")
    add("--skip_bad_lines", action="store_true", help="pass lines over that cannot be used, and count them")
    add = parser.add_argument_group("results").add_argument
    add("--output", metavar="FILE", help="every interval that is not equal: .csv or .jsonl")
    add("--meters_output", metavar="FILE", help="every meter that has such an interval: .csv or .jsonl")
    add("--json", action="store_true", help="JSON on standard output instead of a table")
    add("--work_folder", metavar="FOLDER", help="for rows beyond 2 million a side (that of temporary files)")
    return parser


def replay_or_csv(path: str) -> list[str]:
    """A file, those of a pattern, or the CSV files or else the JSON lines of a folder, by name."""
    if Path(path).is_dir():
        found = sorted(str(each) for suffix in ("*.csv", "*.csv.gz") for each in Path(path).glob(suffix))
        if found:
            return found
    return replay_files(path)


def _files(option: str, path: str, find: Any, allowed: str, example: str) -> list[str]:
    try:
        found: list[str] = find(path)
        problem = f"no such file, and no folder or pattern with {VALIDATED_TOPIC} files"
    except Exception as error:  # each file system has its own exceptions
        found, problem = (
            [],
            "no such file, folder or pattern" if isinstance(error, ReplayError) else f"cannot be read: {error}",
        )
    if not found:
        raise OptionError(option, path, problem, allowed, f"{option}={example}")
    return found


def _names(text: str | None) -> dict[str, str]:
    names = {name: name for name in COLUMNS}
    for word in filter(None, (text or "").split(",")):
        ours, equals, theirs = word.partition("=")
        if not equals or ours.strip() not in names or not theirs.strip():
            example = "--mdms_columns=meter_id=MeterNo,delivered_kwh=KWH"
            raise OptionError(
                "--mdms_columns", text, f"{word!r} names no column", f"NAME=THEIRS of {', '.join(COLUMNS)}", example
            )
        names[ours.strip()] = theirs.strip()
    return names


def _period(values: dict[str, Any], zone: str) -> Period:
    day, begin, end = values["day"], values["begin"], values["end"]
    example = "--day=2026-03-08 --time_zone=America/Chicago"
    if (day is None) == (begin is None) or (begin is None) != (end is None):
        raise OptionError(
            "--day", day, "say which intervals: a day, or both --from and --to", "one of the two", example
        )
    if day is None:
        period = Period(instant_of("--from", begin), instant_of("--to", end))
        if period.begin >= period.end:
            raise OptionError("--to", end, f"is not after --from={begin}", "a later time")
        return period
    try:
        parsed = date.fromisoformat(day)
        if not (1970 < parsed.year < 2100 and day == parsed.isoformat()):
            raise ValueError
    except ValueError:
        raise OptionError("--day", day, "is no day", "YYYY-MM-DD", example) from None
    return Period(*bounds_of(parsed.isoformat(), zone))


def _meters(path: str | None) -> frozenset[str] | None:
    if path is None:
        return None
    meters: set[str] = set()

    def take(fields: dict[str, str]) -> str | None:
        if not fields.get("meter_id"):
            return "meter_id is empty; name a meter, or remove the line"
        meters.add(fields["meter_id"])
        return None

    try:
        content = csv_table.read(path)
        csv_table.take_rows(content, path, "file of meters", (["meter_id"], ["meter_id"]), take, "there is no meter")
    except csv_table.TableError as error:
        raise OptionError(
            "--meters", path, str(error), "a CSV file with the column meter_id", "--meters=m.csv"
        ) from None
    return frozenset(meters)


def _list_file(option: str, text: str | None) -> Path | None:
    if text is None:
        return None
    path = Path(text)
    if path.suffix not in SUFFIXES:
        raise OptionError(option, text, "is no kind of list", " or ".join(SUFFIXES), f"{option}=differences.csv")
    if not path.absolute().parent.is_dir() or path.is_dir():
        raise OptionError(
            option, text, "cannot be written there", "a file in a folder that exists", f"{option}=list.csv"
        )
    return path


def _folder(text: str | None) -> Path | None:
    if text is not None and not Path(text).is_dir():
        raise OptionError("--work_folder", text, "is no folder", "a folder with room", "--work_folder=/var/tmp")
    return None if text is None else Path(text)


def reconcile(question: Question) -> Reconciliation:
    """Compare, and write the lists. Raises BadRows and what reading and writing raise."""
    counts = RowCounts(), RowCounts()
    export = MdmsExport(question.mdms, question.form)
    rules = Rules(export.energies, question.tolerance, question.period)
    problems = Problems(counts[1], question.skip_bad_lines, "MDMS export")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory("", "ami-beam-reconcile-", question.work_folder)))
        mdms = PartitionedRows(folder, "mdms", export.schema)
        stack.callback(mdms.close)
        _fill(mdms, export.batches(question.period, question.meters, counts[1], problems), counts[1], "the MDMS export")
        mdms.close()
        here = PartitionedRows(folder, "here", HERE)
        stack.callback(here.close)
        reads_problems = Problems(counts[0], question.skip_bad_lines, "validated reads")
        _fill(here, _reads(question, counts[0], reads_problems), counts[0], "validated reads")
        spilled = mdms.on_disk or here.on_disk
        # One side after the other: each has a file for every part open.
        for rows in (here, mdms):
            if spilled:
                rows.write()
            rows.close()
        totals, worst = _compare(question, here, mdms, rules, counts, export, problems)
    first = [*reads_problems.first, *problems.first]
    if not any(totals.tallies[each].intervals for each in (Outcome.EQUAL, Outcome.DIFFERENT)):
        _log.warning(
            "No interval is on both sides. Do the meters have the same names? Are --day, --mdms_time_zone and"
            " --mdms_interval_label right?"
        )
    source = ", ".join(question.files) or question.topic
    return Reconciliation(
        source,
        ", ".join(question.mdms),
        question.period,
        question.tolerance,
        counts,
        totals,
        worst,
        list(map(str, first)),
    )


def _reads(question: Question, counts: RowCounts, problems: Problems) -> Iterator[pa.RecordBatch]:
    if question.files:
        batches = read_files(question.files, counts, problems)
    else:
        servers = question.connection["bootstrap.servers"]
        inspect(servers, question.connection, [question.topic], [], native=True)
        schemas = None
        if question.registry is not None:
            # Now, and not when it has been waited for as long as a job does.
            check_registry(question.registry)
            schemas = RegistrySchemas(question.registry)
        batches = read_topic(question.connection, question.topic, question.start, schemas, counts, problems)
    for batch in batches:
        yield select(batch, question.period, question.meters, counts)


def _fill(rows: PartitionedRows, batches: Iterator[pa.RecordBatch], counts: RowCounts, what: str) -> None:
    told = time.monotonic()
    for batch in batches:
        rows.add(batch)
        if time.monotonic() > told + _PROGRESS_SECONDS:
            told = time.monotonic()
            _log.info("%s rows of %s read.", f"{counts.read:,}", what)


def _compare(
    question: Question,
    here: PartitionedRows,
    mdms: PartitionedRows,
    rules: Rules,
    counts: tuple[RowCounts, RowCounts],
    export: MdmsExport,
    problems: Problems,
) -> tuple[Totals, list[MeterTotals]]:
    totals = Totals(rules.energies)
    worst: list[MeterTotals] = []
    told = time.monotonic()
    with ExitStack() as stack:
        output = question.output and stack.enter_context(ListFile(question.output, Interval))
        meters_output = question.meters_output and stack.enter_context(ListFile(question.meters_output, MeterTotals))
        for number, (ours, theirs) in enumerate(zip(here.parts(), mdms.parts(), strict=True), 1):
            copies: list[Problem] = []
            part = compare(ours, theirs, rules, counts, export.place, copies)
            problems.take(copies)
            add_up(part, totals)
            if output:
                output.write(intervals(part, rules, export.place))
            meters = meter_totals(part, rules)
            if meters_output:
                meters_output.write(meters)
            worst = heapq.nlargest(WORST_METERS, [*worst, *meters], lambda each: _badness(each, rules))
            if time.monotonic() > told + _PROGRESS_SECONDS:
                told = time.monotonic()
                _log.info("Compared part %d: %s meters.", number, f"{totals.meters:,}")
    return totals, worst


def _badness(meter: MeterTotals, rules: Rules) -> tuple[int, int]:
    most = max(abs(difference_of(meter, name)) for name in rules.energies)
    return most, meter.different + meter.missing_in_mdms + meter.missing_here


if __name__ == "__main__":
    leave(main())
