"""The command line: our options beside Beam's, and their check before any graph is built.

`validate` turns a command line into values, or raises `OptionError`, which names the option, its value, what is
allowed and an example. After it nothing in the product looks at an option again.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from apache_beam.options.pipeline_options import PipelineOptions

from ami_beam import beam_options
from ami_beam.beam_options import OptionError, Parser
from ami_beam.bigquery_tables import Dataset
from ami_beam.counts_shrink import ShrinkRule
from ami_beam.dataflow_checks import check_dataflow, launched, on_dataflow
from ami_beam.input_topics import (
    EVENTS_FILE,
    EVENTS_TOPIC,
    OUTAGES_FILE,
    OUTAGES_TOPIC,
    READS_FILE,
    READS_TOPIC,
    WORK_FILE,
    WORK_TOPIC,
)
from ami_beam.instants import (
    MICROS_PER_MINUTE,
    MICROS_PER_SECOND,
    format_duration,
    format_instant,
)
from ami_beam.io.meter_counts_topic import CountsFormat
from ami_beam.kafka_config import config_warnings, for_graph, kafka_config, pairs, redacted
from ami_beam.option_checks import (
    bigquery_of,
    bootstrap_servers_of,
    choice,
    duration_of,
    input_of,
    kind_of_counts,
    meter_counts_format_of,
    meter_counts_of,
    meter_registry_of,
    optional_input_of,
    output_of,
    output_prefix_of,
    period_of,
    producers_of,
    runner_of,
    settings_of,
    shrink_of,
    sinks_of,
    start_of,
    warnings_of,
    without_runner,
)
from ami_beam.postgresql.connection import DEFAULT_SCHEMA, Database, database_of
from ami_beam.postgresql.options import add_options as add_postgresql_options
from ami_beam.published_period import PublishedPeriod
from ami_beam.schema_options import JSON, Formats, add_schema_options, formats_of, validated_files_of
from ami_beam.settings import Settings

__all__ = ["AmiOptions", "OptionError", "RunPlan", "help_text", "rule_options", "validate"]


_USAGE = "python -m ami_beam.run --runner=FlinkRunner --bootstrap_servers=HOST:PORT [our options] [Beam's options]"
_ABOUT = """Real-time smart-meter statistics and alerts: reads and events of a head-end in, per-transformer summaries,
receipt rates, alerts and dead letters out. Durations are a whole number with ms, s, m, h or d: 90s, 15m, 24h."""


class AmiOptions(PipelineOptions):
    """Our options as Beam options. Values are the texts of the command line; `validate` makes values of them."""

    @classmethod
    def _add_argparse_args(cls, parser: Any) -> None:
        _add_where(parser.add_argument_group("Where records come from and results go"))
        add_schema_options(parser.add_argument_group("Avro"))
        _add_time(parser.add_argument_group("Windows and time"))
        _add_rules(parser.add_argument_group("Thresholds and quality filters"))
        _add_running(parser.add_argument_group("Running"))


def _add_where(group: Any) -> None:
    add = group.add_argument
    # Beam has an option of this name too (for a runner it does not release). One parser takes only one of them.
    if "--bootstrap_servers" not in group._option_string_actions:
        add(
            "--bootstrap_servers",
            metavar="HOST:PORT,…",
            help="Kafka brokers; needed when the source or a sink is kafka. Example: broker1:9092,broker2:9092",
        )
    add("--source", default="kafka", metavar="kafka|files", help="live topics, or a replay of exported records (kafka)")
    add(
        "--sink",
        default="kafka",
        metavar="NAME,…",
        help="kafka: result topics; files: JSON lines in --output, of a replay; postgresql: tables in --postgresql,"
        " which python -m ami_beam.postgresql makes; bigquery: tables in --bigquery_dataset, of"
        " python -m ami_beam.bigquery_tables sql. Several with commas between them: kafka,postgresql (kafka)",
    )
    add_postgresql_options(group)
    add(
        "--bigquery_dataset",
        metavar="PROJECT:DATASET",
        help="of --sink=bigquery, by Beam's connector with the Storage Write API (not tried with BigQuery itself)",
    )
    add(
        "--reads",
        metavar="TOPIC|PATH",
        help=f"topic of reads ({READS_TOPIC}); with --source=files a file, folder or pattern ({READS_FILE})",
    )
    add(
        "--events",
        metavar="TOPIC|PATH",
        help=f"topic of meter events ({EVENTS_TOPIC}); with --source=files a file, folder or pattern ({EVENTS_FILE})",
    )
    add(
        "--oms_outages",
        metavar="TOPIC|PATH",
        help=f"topic of outages that the OMS plans or knows, such as {OUTAGES_TOPIC}: they are the cause of alarms that"
        " begin in them, and planned ones hold these. Always read from its oldest record on; with --source=files a"
        " file, folder or a pattern (none)",
    )
    add(
        "--work",
        metavar="TOPIC|PATH",
        help=f"likewise of work at meters, such as {WORK_TOPIC}: exchange, disconnection, test. What a meter says of"
        " its supply meanwhile makes no outage (none)",
    )
    add(
        "--meter_counts",
        default="transformer_meter_count.csv",
        metavar="PATH|kafka:TOPIC|postgresql:TABLE",
        help="how many meters each transformer has: a CSV, JSON-lines or Avro file, plain or .gz; a compacted topic, as"
        " kafka:ami.meter.counts; or a table or view of --postgresql, as postgresql:gis.meter_counts. Columns are"
        " transformer_id, total_meters and optionally nominal_voltage_v, receipt_delay_minutes, effective_from,"
        " collection_group (transformer_meter_count.csv; none where --meter_registry is given)",
    )
    add(
        "--meter_counts_format",
        default="json",
        metavar="json|debezium",
        help="of a topic's records: a row as JSON, or Debezium's envelope around one (json)",
    )
    add(
        "--meter_registry",
        metavar="PATH",
        help="CSV, plain or .gz: meter_id, service_point_id, transformer_id, feeder_id and optionally"
        " nominal_voltage_v, interval_minutes, status, effective_from. It decides on which transformer and feeder reads"
        " count, and how many meters are expected there, so that --meter_counts is not needed (none: reads decide)",
    )
    add(
        "--meter_counts_refresh",
        default="60s",
        metavar="DURATION",
        help="how often a live run looks for changed meter counts, meter registry and producers; at least 1s (60s)",
    )
    add(
        "--meter_counts_max_shrink_pct",
        default="20",
        metavar="PCT",
        help="meter counts or a registry with fewer transformers, meters, nominal voltages, receipt delays or"
        " collection groups than that leaves of the table in use, or of a mark that is kept for a day, are refused"
        " while a job runs; 100 takes all (20)",
    )
    add(
        "--meter_counts_accepted",
        metavar="PATH",
        help="text file that every process of the job looks into when it refuses a table: the ids in it, as the"
        " warnings have them, are taken all the same. It need not exist (none)",
    )
    add(
        "--event_map",
        metavar="PATH",
        help="CSV of source, code, event_type, severity: which event codes give alerts, texts or numbers. Examples in"
        " templates/event_maps (the six codes of templates/event_maps/article.csv, as numbers)",
    )
    add(
        "--quality_map",
        metavar="PATH",
        help="CSV of source, code, quality: which power_quality_code of a read is a SAG or a SWELL, for sag_count and"
        " swell_count of the summaries. Examples in templates/quality_maps (none: both are 0)",
    )
    add(
        "--producers",
        metavar="PATH",
        help="CSV, plain or .gz, whose column meter_id has every meter that is registered to feed in: reverse energy at"
        " another one is the alarm REVERSE_ENERGY_UNREGISTERED (none: nobody knows who is a producer, and there is no"
        " such alarm)",
    )
    add(
        "--output_prefix",
        default="",
        metavar="TEXT",
        help="before the name of every result topic: shadow. writes to shadow.ami.alerts.grid and so on, so that a new"
        " version can run beside the old one and be compared (none)",
    )
    add(
        "--also_publish",
        metavar="NAME,…",
        help="results beside those of every run, each to a topic of its own. feeder_summary: what every feeder's"
        " transformers add up to, and the whole system, to ami.feeder.summary. voltage_heatmap: the voltage band of"
        " every transformer and window, histograms of feeders, minutes outside a day, to ami.voltage.heatmap."
        " validated_reads: the version of every meter's interval that counts, and checks of its days, for billing, to"
        " ami.reads.validated. customer_consumption: what every customer used in the last interval, its day and its"
        " month, to ami.customer.consumption (none)",
    )
    add(
        "--customer_id",
        default="hmac",
        metavar="hmac|keep|drop",
        help="what validated_reads and customer_consumption name customers by: a keyed hash, the ids as they were sent,"
        " or nothing. No other result has them (hmac)",
    )
    add(
        "--customer_key_file",
        metavar="PATH",
        help="the key of that hash, 16 bytes or more, which every worker must be able to read: openssl rand -hex 32",
    )
    add("--output", default="output", metavar="FOLDER", help="where --sink=files writes (output)")
    add(
        "--kafka_io",
        default="auto",
        choices=("auto", "beam", "native"),
        help="beam: Beam's own Kafka connector, in a JVM that knows it; native: ami-beam's in Python, which needs"
        " none and costs a fraction; auto: native on Flink, beam elsewhere (auto)",
    )
    add(
        "--start",
        default="latest",
        metavar="latest|earliest|TIME",
        help="where a live run starts reading: new records, the oldest ones, or the first with this record time, for"
        " example 2026-03-03T00:00:00Z; a restored savepoint goes on where it was (latest)",
    )
    add(
        "--publish_from",
        metavar="TIME",
        help="of a replay: publish only windows that end after it, alerts and alarms of later times, whole days. Reads"
        " and events of a day before belong into the replay (all)",
    )
    add(
        "--publish_until",
        metavar="TIME",
        help="likewise windows that end by it, and so on. Reads and events of the allowed lateness after it belong into"
        " the replay (all)",
    )
    add(
        "--kafka_config",
        nargs="+",
        action="extend",
        metavar="KEY=VALUE",
        help="Kafka client settings for SASL and TLS. Example: --kafka_config security.protocol=SASL_SSL"
        " sasl.mechanism=PLAIN 'sasl.jaas.config=…'. Other users see a command line: put secrets into the file below",
    )
    add(
        "--kafka_config_file",
        metavar="PATH",
        help="the same as a Java properties or JSON file; --kafka_config goes before it. Secrets are never logged",
    )


def _add_time(group: Any) -> None:
    add = group.add_argument
    add("--window", default="15m", metavar="DURATION", help="window length; divides a day: 15m, 30m, 1h, 15s (15m)")
    add(
        "--window_closed",
        default="right",
        metavar="right|left",
        help="which end of a window belongs to it. right: a read that ends at 10:15:00 belongs to 10:00-10:15, which it"
        " measured. left: to 10:15-10:30, as SQL's TUMBLE has it (right)",
    )
    add(
        "--longest_interval",
        metavar="DURATION",
        help="where some meters have longer intervals than the window, such as 30m or 60m: reads up to this long count"
        " in every window that they overlap, with that share of their energy. Longer ones count where they end (none"
        " is split)",
    )
    add(
        "--collection_delay",
        default="5m",
        metavar="DURATION",
        help="how long after its end a window waits for reads before its first result, in record time; later reads"
        " revise it. Real-time networks 5m, cellular 1h (5m)",
    )
    add(
        "--receipt_delay",
        metavar="DURATION",
        help="how long after its end a window's missing reads are held against a transformer; 4h to 8h where meters are"
        " collected every few hours; per transformer in the meter counts (the collection delay, and what the longest"
        " interval is longer than the window)",
    )
    add(
        "--time_zone",
        default="UTC",
        metavar="ZONE",
        help="of the utility, such as America/Chicago: whose days are counted in results a day (UTC)",
    )
    add(
        "--source_silent",
        metavar="DURATION",
        help="so long without a record on the reads topic is one critical alarm, and receipt rates wait until reads"
        " have come again; more where meters are collected every few hours (15m, or the window and the collection delay"
        " where that is longer)",
    )
    add(
        "--allowed_lateness",
        default="24h",
        metavar="DURATION",
        help="how long after its end a window takes reads; later ones go to the dead letters as TOO_LATE (24h)",
    )
    add(
        "--billing_lateness",
        default="45d",
        metavar="DURATION",
        help="how long after the end of its window a read is still taken for validated_reads and customer_consumption;"
        " their state is kept so long (45d)",
    )
    add(
        "--max_disorder",
        default="24h",
        metavar="DURATION",
        help="how far a record's time may lie behind the watermark when it is read: state is kept so much longer than"
        " the allowed lateness. 2h suits topics whose record times are in order, and halves the state (24h)",
    )
    add(
        "--late_gather",
        default="10s",
        metavar="DURATION",
        help="how long late reads are gathered before their window is revised; below 30m. More saves work, less is"
        " sooner. While a backlog is caught up it is longer, up to half of how far reading is behind the clock (10s)",
    )


def _add_rules(group: Any) -> None:
    add = group.add_argument
    add("--min_receipt_rate_pct", default="80", metavar="PERCENT", help="LOW_RECEIPT_RATE below this; 0 to 100 (80)")
    add(
        "--nominal_voltage",
        default="230",
        metavar="VOLTS",
        help="where the meter counts give a transformer none; 120 in North America (230)",
    )
    add("--low_voltage_pct", default="90", metavar="PERCENT", help="LOW_VOLTAGE below this part of nominal (90)")
    add("--high_voltage_pct", default="110", metavar="PERCENT", help="HIGH_VOLTAGE above this part of nominal (110)")
    add(
        "--plausible_voltage",
        default="100:400",
        metavar="LOW:HIGH",
        help="volts a meter can measure; others count as null and go to the dead letters. 120 V networks: 50:300"
        " (100:400)",
    )
    add(
        "--max_interval_kwh",
        default="1000",
        metavar="KWH",
        help="greatest plausible consumption per 15 minutes of a read, in either direction (1000)",
    )

    add(
        "--alarm_on_windows",
        default="2",
        metavar="N",
        help="windows in violation in a row that open an alarm; alerts are for single windows (2)",
    )
    add(
        "--alarm_off_windows",
        default="2",
        metavar="N",
        help="windows in a row that end it: voltages 1 %% of nominal inside the limit, 5 points more receipt rate (2)",
    )
    add(
        "--min_missing_meters",
        default="2",
        metavar="N",
        help="fewer silent meters are no receipt alarm, whatever their share (2)",
    )
    add(
        "--tamper_events",
        default="3",
        metavar="N",
        help="so many tamper events of one meter within 24h are the alarm TAMPER_REPEATED (3)",
    )
    add(
        "--silent_after",
        default="24h",
        metavar="DURATION",
        help="so long without an actual read at the end of a UTC day, a meter is on that day's list of silent meters;"
        " time in which the whole head-end was silent does not count. A window to 14d (24h)",
    )


def _add_running(group: Any) -> None:
    add = group.add_argument
    add(
        "--shards",
        default="auto",
        metavar="N",
        help="into how many parts transformers are spread; 1 to 65536. Results do not depend on it; a savepoint does:"
        " name the logged number where the network may grow (auto: from the meter counts, 20,000 meters each at most)",
    )
    add(
        "--on_stop",
        default="savepoint",
        metavar="savepoint|cancel|leave",
        help="what SIGTERM and Ctrl-C do to a job on a Flink cluster: end it with a savepoint, whose path is logged,"
        " end it at once, or let it run on (savepoint; on Dataflow, which has none, leave)",
    )
    add(
        "--return_when",
        default="ended",
        metavar="ended|checkpointed",
        help="when a run on a Flink cluster returns: at the end of the job, or when its first checkpoint is complete;"
        " the job then runs on by itself (ended)",
    )
    add(
        "--pass_to_runner",
        nargs="+",
        action="extend",
        metavar="NAME=VALUE",
        help="options that only your runner knows. Beam's and Flink's own need no help: --checkpointing_interval=10000",
    )


@dataclass(frozen=True)
class RunPlan:
    """Where a run reads and writes, and what it hands to Beam. Valid as a whole: `validate` made it."""

    runner: str
    source: Literal["kafka", "files"]
    sinks: tuple[str, ...]
    """Of kafka, files, postgresql and bigquery at least one."""
    reads: str
    """A topic or a path, as `source` says."""
    events: str
    oms_outages: str | None
    """Likewise; None where nobody tells of outages."""
    work: str | None
    meter_counts: str | None
    """A path, kafka:TOPIC or postgresql:TABLE; None where the meter registry alone says how many there are."""
    meter_counts_format: CountsFormat
    """Of a topic of them."""
    meter_counts_database: Database | None
    """Of a table of them; it holds no secret."""
    meter_counts_client: Mapping[str, str] = field(repr=False)
    """Settings of the client that reads a topic of them, brokers included, as the job's graph may hold them."""
    meter_counts_shrink: ShrinkRule
    """Which of them may follow those in use."""
    meter_registry: str | None
    meter_counts_refresh: int
    """How often a live run looks at both and at `producers`, in microseconds."""
    producers: str | None
    """A file that can be used; None where nobody knows who is a producer."""
    output: str
    output_prefix: str
    bigquery: Dataset | None
    """Of the sink of that name."""
    postgresql: Database | None
    """Of the sink of that name; it holds no secret."""
    start: Literal["latest", "earliest"] | int
    """Where a live run starts; a number is a record time in microseconds."""
    kafka_io: Literal["beam", "native"]
    on_stop: Literal["savepoint", "cancel", "leave"]
    return_when: Literal["ended", "checkpointed"]
    choose_shards: bool
    """Whether `Settings.shards` is still to be chosen from the meter counts."""
    bootstrap_servers: str | None
    kafka_config: Mapping[str, str] = field(repr=False)
    """Client settings without bootstrap.servers. Holds secrets: log `redacted()` only."""
    kafka_client: Mapping[str, str] = field(repr=False)
    """The same as the job's graph may hold them: references instead of what `--kafka_config_file` has."""
    pipeline_args: tuple[str, ...] = field(repr=False)
    """For `PipelineOptions`: Beam's options and ours, but never --kafka_config, which runners would show and log."""
    formats: Formats = JSON
    """JSON or Avro."""
    period: PublishedPeriod | None = None
    """What of a replay is published; None: all."""
    validated_files: str | None = None
    """The folder of Avro files of validated reads; None where there are none."""
    validated_files_every: int = 15 * MICROS_PER_MINUTE
    """How long a live run gathers rows for them, in microseconds."""
    warnings: tuple[str, ...] = ()
    """What is allowed but hardly meant; to be logged at start."""

    @property
    def bounded(self) -> bool:
        """Whether the run ends by itself."""
        return self.source == "files"

    @property
    def reads_topic(self) -> str:
        """The topic of reads: of a replay, what records that name no topic are counted to."""
        return READS_TOPIC if self.bounded else self.reads

    @property
    def events_topic(self) -> str:
        """The topic of events, as `reads_topic`."""
        return EVENTS_TOPIC if self.bounded else self.events

    @property
    def outages_topic(self) -> str | None:
        """The topic of announced outages, as `reads_topic`; None where none is read."""
        return OUTAGES_TOPIC if self.bounded and self.oms_outages is not None else self.oms_outages

    @property
    def work_topic(self) -> str | None:
        """The topic of work at meters, likewise."""
        return WORK_TOPIC if self.bounded and self.work is not None else self.work

    @property
    def announced_topics(self) -> dict[str, str]:
        """Those of both that are read, each with the topic or path it is read from."""
        named = ((self.outages_topic, self.oms_outages), (self.work_topic, self.work))
        return {topic: given for topic, given in named if topic is not None and given is not None}

    @property
    def kafka_connection(self) -> dict[str, str]:
        """Client settings with bootstrap.servers, for a run that has brokers. Holds secrets, like `kafka_config`."""
        assert self.bootstrap_servers is not None
        return {**self.kafka_config, "bootstrap.servers": self.bootstrap_servers}

    def redacted(self) -> dict[str, Any]:
        """The plan as it may be logged: of secrets only the keys."""
        plan = asdict(self)
        del plan["pipeline_args"], plan["kafka_client"], plan["meter_counts_client"]
        plan["kafka_config"] = redacted(self.kafka_config)
        plan["meter_counts_refresh"] = format_duration(self.meter_counts_refresh)
        plan["validated_files_every"] = format_duration(self.validated_files_every)
        if self.period is not None:
            plan["period"] = [None if at is None else format_instant(at) for at in (self.period.begin, self.period.end)]
        plan["start"] = self.start if isinstance(self.start, str) else format_instant(self.start)
        return plan


def help_text() -> str:
    """What `--help` prints: ours with an explanation each, then the names of Beam's."""
    ours = _parser().format_help()
    lines = [ours, "Beam's options (explained in Beam's documentation), by its classes:"]
    for cls in beam_options.beam_classes(without=AmiOptions):
        parser = Parser(add_help=False, conflict_handler="resolve")
        cls._add_argparse_args(parser)  # type: ignore[arg-type]
        names = [name for name in beam_options.option_names(parser) if name != "--bootstrap_servers"]
        lines.append(f"  {cls.__name__}: {' '.join(names)}")
    lines.append(f"  Java runners: {' '.join('--' + name for name in beam_options.JAVA_OPTIONS)}")
    return "\n".join(lines) + "\n"


def _parser() -> Parser:
    parser = Parser(prog="python -m ami_beam.run", usage=_USAGE, description=_ABOUT, add_help=False)
    AmiOptions._add_argparse_args(parser)
    return parser


def rule_options() -> list[str]:
    """The names, without dashes, of the options that decide what is published of the same reads."""
    parser = Parser(add_help=False)
    _add_time(parser)
    _add_rules(parser)
    names = [name.removeprefix("--") for name in beam_options.option_names(parser)]
    return [name for name in names if name not in ("max_disorder", "late_gather")]


def kafka_io_of(given: Literal["auto", "beam", "native"], runner: str) -> Literal["beam", "native"]:
    """Which Kafka I/O: as given, else the one that is known to work and cheaper with this runner."""
    if given == "auto":
        return "native" if runner == "FlinkRunner" else "beam"
    return given


def _divide_words(values: dict[str, Any]) -> None:
    """Options that take several words: a launcher gives them as one, in which they stand as on a command line."""
    for name in ("kafka_config", "pass_to_runner"):
        if values[name] is None:
            continue
        try:
            values[name] = [word for text in values[name] for word in shlex.split(text)]
        except ValueError:
            problem = "has a quotation mark without its second (the text is not shown, it may hold a secret)"
            raise OptionError(
                f"--{name}", None, problem, "words with spaces between them, quoted as in a shell"
            ) from None


def _database(values: Mapping[str, Any]) -> Database:
    return database_of(values["postgresql"], values["postgresql_config_file"], values["postgresql_schema"])


def _counts_database(values: Mapping[str, Any]) -> Database:
    # The schema is that of results.
    return database_of(values["postgresql"], values["postgresql_config_file"], DEFAULT_SCHEMA)


def validate(argv: Sequence[str]) -> tuple[Settings, RunPlan]:
    """The rules and the plan of a command line (without the program's name). Raises OptionError.

    `--help` prints and ends the process. Looks at files and folders that are named, and at nothing else outside.
    """
    if "-h" in argv or "--help" in argv:
        print(help_text(), end="")
        raise SystemExit(0)
    parser = _parser()
    given, rest = parser.parse_known_args(list(argv))
    names = beam_options.option_names(parser)
    by_launcher = launched(rest)
    beam_parser = beam_options.beam_parser(without=AmiOptions)
    beam_values, passed_on = beam_options.check_known(rest, beam_parser, names, by_launcher)
    values = vars(given)
    if by_launcher:
        _divide_words(values)
    explicit = {name for name in names if any(word == name or word.startswith(f"{name}=") for word in argv)}

    source = choice(values, "source", ("kafka", "files"))
    sinks = sinks_of(values["sink"])
    runner = runner_of(getattr(beam_values, "runner", None), source, sinks)
    kafka_io = kafka_io_of(values["kafka_io"], runner)
    dataflow_warnings = [f"{name} is passed on: neither ami-beam nor this Beam knows it" for name in passed_on]
    if on_dataflow(runner):
        dataflow_warnings += check_dataflow(values, explicit, rest, source, sinks, kafka_io)
        if "--on_stop" not in explicit:
            values["on_stop"] = "leave"
    settings = settings_of(values, live=source == "kafka")
    config = kafka_config(values["kafka_config"] or (), values["kafka_config_file"])
    meter_registry = meter_registry_of(values["meter_registry"])
    by_registry = meter_registry is not None and "--meter_counts" not in explicit
    counts = None if by_registry else meter_counts_of(values["meter_counts"])
    counts_kind = kind_of_counts(counts)
    servers = values["bootstrap_servers"] or config.pop("bootstrap.servers", None)
    servers = bootstrap_servers_of(servers, source, sinks, counts if counts_kind == "kafka" else None)
    config.pop("bootstrap.servers", None)
    given_config = pairs("--kafka_config", values["kafka_config"] or ())
    client = for_graph(given_config, values["kafka_config_file"], kafka_io) | {"bootstrap.servers": servers or ""}
    counts_client: dict[str, str] = {}
    if counts_kind == "kafka":
        counts_client = for_graph(given_config, values["kafka_config_file"], "native")
        counts_client |= {"bootstrap.servers": servers or ""}
    passed = pairs("--pass_to_runner", values["pass_to_runner"] or (), "--pass_to_runner max_bundle_size=5000")
    oms_outages = optional_input_of(values, "oms_outages", source, OUTAGES_TOPIC, OUTAGES_FILE)
    work = optional_input_of(values, "work", source, WORK_TOPIC, WORK_FILE)
    if oms_outages is not None and oms_outages == work:
        raise OptionError(
            "--work", work, "is what --oms_outages reads, and the formats differ", "another one", f"--work={WORK_TOPIC}"
        )
    formats = formats_of(values, sinks)
    validated_files = validated_files_of(values, settings.also_publish)
    if source == "kafka":
        days = [settings.time_zone] if settings.also_publish and settings.time_zone != "UTC" else []
        # They add steps to the graph, and Flink knows state by a step's place in it.
        named = (("oms_outages", oms_outages), ("work", work), ("meter_registry", meter_registry))
        announced = [name for name, given in named if given is not None]
        files = ["validated_files"] if validated_files is not None else []
        others = [] if sinks == ("kafka",) else ["+".join(sinks)]
        settings = replace(settings, source=",".join([*announced, *settings.also_publish, *days, *files, *others]))
    rest = [f"--runner={runner}", *without_runner(beam_options.java_spelling(rest))]
    own = [
        f"{name}={values[name[2:]]}" for name in names if name in explicit and not isinstance(values[name[2:]], list)
    ]
    plan = RunPlan(
        runner=runner,
        source=source,
        sinks=sinks,
        reads=input_of(values, "reads", source, READS_TOPIC, READS_FILE),
        events=input_of(values, "events", source, EVENTS_TOPIC, EVENTS_FILE),
        oms_outages=oms_outages,
        work=work,
        meter_counts=counts,
        meter_counts_format=meter_counts_format_of(values, counts),
        meter_counts_database=_counts_database(values) if counts_kind == "postgresql" else None,
        meter_counts_client=counts_client,
        meter_counts_shrink=shrink_of(values),
        meter_registry=meter_registry,
        meter_counts_refresh=duration_of(values, "meter_counts_refresh", "60s", least=MICROS_PER_SECOND),
        producers=producers_of(values["producers"]),
        output=output_of(values["output"]) if "files" in sinks else values["output"],
        output_prefix=output_prefix_of(values["output_prefix"]),
        bigquery=bigquery_of(values["bigquery_dataset"], sinks),
        postgresql=_database(values) if "postgresql" in sinks else None,
        start=start_of(values["start"], source, "--start" in explicit),
        kafka_io=kafka_io,
        on_stop=choice(values, "on_stop", ("savepoint", "cancel", "leave")),
        return_when=choice(values, "return_when", ("ended", "checkpointed")),
        choose_shards=values["shards"] == "auto",
        bootstrap_servers=servers,
        kafka_config=config,
        kafka_client=client,
        pipeline_args=(*rest, *(f"--{key}={value}" for key, value in passed.items()), *own),
        formats=formats,
        period=period_of(values, source),
        validated_files=validated_files,
        validated_files_every=duration_of(values, "validated_files_every", "15m", least=MICROS_PER_SECOND),
        warnings=(
            *dataflow_warnings,
            *warnings_of(settings, source, sinks, explicit, counts_kind),
            *(config_warnings(given_config, config, kafka_io) if "kafka" in (source, *sinks, counts_kind) else ()),
        ),
    )
    return settings, plan
