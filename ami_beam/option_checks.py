"""The checks of our options, one function an option or kind of option. Each returns a value or raises `OptionError`."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, TypeVar

from apache_beam.io.filesystems import FileSystems

from ami_beam import beam_options
from ami_beam.beam_options import OptionError
from ami_beam.bigquery_tables import Dataset, dataset_of
from ami_beam.consumers import CUSTOMER_CONSUMPTION, OPTIONAL_TOPICS, VALIDATED_READS
from ami_beam.counts_shrink import ShrinkRule
from ami_beam.csv_table import TableError
from ami_beam.customer_ids import LEAST_KEY_BYTES, POLICIES, CustomerKeyError, Policy, load_key
from ami_beam.event_map import ARTICLE, EventMap
from ami_beam.event_map import COLUMNS as EVENT_MAP_COLUMNS
from ami_beam.event_map import load as load_event_map
from ami_beam.instants import (
    MICROS_PER_DAY,
    MICROS_PER_HOUR,
    MICROS_PER_MILLI,
    MICROS_PER_MINUTE,
    format_duration,
    parse_duration,
    parse_instant,
)
from ami_beam.io.files import ReplayError, replay_files
from ami_beam.io.meter_counts_table import name_parts
from ami_beam.io.meter_counts_topic import CountsFormat
from ami_beam.local_days import all_zones, is_zone
from ami_beam.meter_registry import COLUMNS as REGISTRY_COLUMNS
from ami_beam.producers import COLUMN as PRODUCERS_COLUMN
from ami_beam.producers import load as load_producers
from ami_beam.published_period import PublishedPeriod
from ami_beam.quality_map import COLUMNS as QUALITY_MAP_COLUMNS
from ami_beam.quality_map import QualityMap
from ami_beam.quality_map import load as load_quality_map
from ami_beam.settings import Settings

Table = TypeVar("Table")
LONGEST_SILENT_AFTER = 14 * MICROS_PER_DAY
"""Meters that were silent for 30 days are forgotten: they must have been on the list by then."""


def settings_of(values: Mapping[str, Any], live: bool) -> Settings:
    """The rules of a run."""
    window = duration_of(values, "window", "15m")
    if MICROS_PER_DAY % window:
        raise OptionError(
            "--window", values["window"], "does not divide a day", "15s, 1m, 15m, 30m, 1h …", "--window=15m"
        )
    allowed_lateness = duration_of(values, "allowed_lateness", "24h")
    collection_delay = duration_of(
        values, "collection_delay", "5m", least=0, most=("allowed_lateness", allowed_lateness)
    )
    # A head-end may send all reads of a window at once: between two windows it is silent for as long as one takes.
    source_silent = max(15 * MICROS_PER_MINUTE, window + collection_delay)
    if values["source_silent"] is not None:
        source_silent = duration_of(values, "source_silent", "1h")
    longest_interval = None
    if values["longest_interval"] is not None:
        longest_interval = duration_of(values, "longest_interval", "60m", most=("allowed_lateness", allowed_lateness))
    # The read of a long interval cannot be there before the interval is over.
    receipt_delay = collection_delay + max((longest_interval or 0) - window, 0)
    if values["receipt_delay"] is not None:
        receipt_delay = duration_of(values, "receipt_delay", "4h", least=0, most=("allowed_lateness", allowed_lateness))
    max_disorder = duration_of(values, "max_disorder", "2h", least=MICROS_PER_HOUR)
    late_gather = duration_of(values, "late_gather", "10s")
    if late_gather >= 30 * MICROS_PER_MINUTE:
        raise OptionError(
            "--late_gather", values["late_gather"], "is too long", "1ms to below 30m", "--late_gather=10s"
        )
    low, high = (
        number_of(values, "low_voltage_pct", 0, 1000, "90"),
        number_of(values, "high_voltage_pct", 0, 1000, "110"),
    )
    if low >= high:
        raise OptionError(
            "--low_voltage_pct",
            values["low_voltage_pct"],
            f"is not below --high_voltage_pct={values['high_voltage_pct']}",
            "a low percentage below the high one",
            "--low_voltage_pct=90 --high_voltage_pct=110",
        )
    silent_after = duration_of(values, "silent_after", "24h", least=window)
    also_publish = also_publish_of(values["also_publish"])
    customer_id = choice(values, "customer_id", POLICIES)
    if silent_after > LONGEST_SILENT_AFTER:
        allowed = f"{format_duration(window)}, the window, to {format_duration(LONGEST_SILENT_AFTER)}"
        raise OptionError("--silent_after", values["silent_after"], "is too long", allowed, "--silent_after=24h")
    return Settings(
        window=window,
        window_closed=choice(values, "window_closed", ("right", "left")),
        collection_delay=collection_delay,
        longest_interval=longest_interval,
        receipt_delay=receipt_delay,
        source_silent=source_silent,
        allowed_lateness=allowed_lateness,
        max_disorder=max_disorder,
        late_gather=late_gather,
        shards=shards_of(values),
        min_receipt_rate_pct=number_of(values, "min_receipt_rate_pct", 0, 100, "80"),
        nominal_voltage=number_of(values, "nominal_voltage", 1, 1_000_000, "230"),
        low_voltage_pct=low,
        high_voltage_pct=high,
        plausible_voltage=plausible_voltage(values["plausible_voltage"]),
        max_interval_kwh=number_of(values, "max_interval_kwh", 0.001, 1e9, "1000"),
        alarm_on_windows=int(number_of(values, "alarm_on_windows", 1, 1_000, "2", whole=True)),
        alarm_off_windows=int(number_of(values, "alarm_off_windows", 1, 1_000, "2", whole=True)),
        min_missing_meters=int(number_of(values, "min_missing_meters", 1, 1_000_000, "2", whole=True)),
        tamper_events=int(number_of(values, "tamper_events", 1, 1_000, "3", whole=True)),
        silent_after=silent_after,
        event_map=event_map_of(values["event_map"]),
        quality_map=quality_map_of(values["quality_map"]),
        also_publish=also_publish,
        billing_lateness=duration_of(values, "billing_lateness", "45d"),
        customer_id=customer_id,
        customer_key_file=customer_key_file_of(values["customer_key_file"], customer_id, also_publish),
        time_zone=time_zone_of(values["time_zone"]),
        live=live,
    )


def time_zone_of(text: str) -> str:
    """The name of a zone in the IANA data base."""
    if not is_zone(text):
        near = get_close_matches(text, all_zones(), 1)
        hint = f"; did you mean {near[0]}" if near else ""
        allowed = "a name of the IANA data base, with upper and lower case as it has them"
        raise OptionError("--time_zone", text, f"is no time zone{hint}", allowed, "--time_zone=America/Chicago")
    return text


def also_publish_of(text: str | None) -> tuple[str, ...]:
    """The names, sorted; each once."""
    names = {name.strip() for name in (text or "").split(",")} - {""}
    unknown = sorted(names - OPTIONAL_TOPICS.keys())
    if unknown:
        allowed, example = ", ".join(OPTIONAL_TOPICS), f"--also_publish={next(iter(OPTIONAL_TOPICS))}"
        raise OptionError("--also_publish", text, f"has {unknown[0]}, which there is not", allowed, example)
    return tuple(sorted(names))


def customer_key_file_of(path: str | None, policy: Policy, also_publish: Sequence[str]) -> str | None:
    """The file of the key, where one is needed; it can be used."""
    if CUSTOMER_CONSUMPTION in also_publish and policy == "drop":
        raise OptionError(
            "--customer_id", policy, "leaves nothing to add up by, which --also_publish=customer_consumption does",
            "hmac, keep", "--customer_id=hmac",
        )  # fmt: skip
    if policy != "hmac" or not {CUSTOMER_CONSUMPTION, VALIDATED_READS} & set(also_publish):
        return None
    allowed, example = f"a file with {LEAST_KEY_BYTES} bytes or more", "--customer_key_file=/etc/ami-beam/customer.key"
    if path is None:
        missing = "is missing, and --customer_id=hmac needs it (--customer_id=keep shows customers' ids as they are)"
        raise OptionError("--customer_key_file", path, missing, allowed, example)
    try:
        load_key(path)
    except CustomerKeyError as error:
        raise OptionError("--customer_key_file", path, str(error), allowed, example) from None
    return path


def event_map_of(path: str | None) -> EventMap:
    """The file's map, or the article's codes."""
    if path is None:
        return ARTICLE
    allowed = f"a CSV file with the columns {', '.join(EVENT_MAP_COLUMNS)}"
    return _loaded("--event_map", path, load_event_map, allowed, "--event_map=templates/event_maps/article.csv")


def quality_map_of(path: str | None) -> QualityMap | None:
    """The file's map; None where none is given."""
    if path is None:
        return None
    allowed = f"a CSV file with the columns {', '.join(QUALITY_MAP_COLUMNS)}"
    return _loaded(
        "--quality_map", path, load_quality_map, allowed, "--quality_map=templates/quality_maps/simulator.csv"
    )


def producers_of(path: str | None) -> str | None:
    """A file of producers that can be used; None where none is given."""
    if path is not None:
        allowed = f"a CSV file with the column {PRODUCERS_COLUMN}, plain or .gz"
        _loaded("--producers", path, load_producers, allowed, "--producers=producers.csv.gz")
    return path


def _loaded(option: str, path: str, load: Callable[[str], Table], allowed: str, example: str) -> Table:
    """What the file holds; its problems are those of the option."""
    try:
        return load(path)
    except TableError as error:
        raise OptionError(option, path, str(error), allowed, example) from None


def shards_of(values: Mapping[str, Any]) -> int:
    """The number of shards; for `auto` the default, until the meter counts are read."""
    if values["shards"] == "auto":
        return Settings.shards
    return int(number_of(values, "shards", 1, 65_536, "1024", whole=True, also=", or auto"))


SINKS = ("kafka", "files", "postgresql", "bigquery")


def bigquery_of(text: str | None, sinks: tuple[str, ...]) -> Dataset | None:
    """The dataset of that sink; None where it is none."""
    if "bigquery" not in sinks:
        return None
    if text is None:
        missing = "is missing, and --sink=bigquery needs it"
        raise OptionError("--bigquery_dataset", None, missing, "PROJECT:DATASET", "--bigquery_dataset=my-project:ami")
    return dataset_of("--bigquery_dataset", text)


def sinks_of(text: str) -> tuple[str, ...]:
    """Where results go, each once, in our order."""
    names = [name.strip() for name in text.split(",")]
    if not all(name in SINKS for name in names):
        allowed = f"{', '.join(SINKS)}, or several with commas between them"
        raise OptionError("--sink", text, "has a name that is neither of them", allowed, "--sink=kafka,postgresql")
    return tuple(name for name in SINKS if name in names)


def choice(values: Mapping[str, Any], name: str, allowed: tuple[str, ...]) -> Any:
    """One of the allowed words; the first is the example."""
    if values[name] not in allowed:
        raise OptionError(f"--{name}", values[name], "is neither", " or ".join(allowed), f"--{name}={allowed[0]}")
    return values[name]


def duration_of(
    values: Mapping[str, Any],
    name: str,
    example: str,
    least: int = MICROS_PER_MILLI,
    most: tuple[str, int] | None = None,
) -> int:
    """A duration in microseconds, between `least` and the option and value in `most`."""
    option, text = f"--{name}", values[name]
    allowed = f"a duration from {format_duration(least)}" + (f" to --{most[0]}" if most else "")
    example = f"{option}={example}"
    try:
        duration = parse_duration(text)
    except ValueError:
        problem = "is not a duration: a whole number and one of ms, s, m, h, d"
        raise OptionError(option, text, problem, allowed, example) from None
    if duration < least:
        raise OptionError(option, text, "is too short", allowed, example)
    if most and duration > most[1]:
        problem = f"is longer than --{most[0]}={format_duration(most[1])}"
        raise OptionError(option, text, problem, allowed, example)
    # a century: beyond it, times no longer fit Beam's and the product's range
    if duration > 36_500 * MICROS_PER_DAY:
        raise OptionError(option, text, "is longer than a century", allowed, example)
    return duration


def number_of(
    values: Mapping[str, Any], name: str, least: float, most: float, example: str, whole: bool = False, also: str = ""
) -> float:
    """A plain decimal number within range; never NaN, infinite or in another script. `also`: what else is allowed."""
    text = values[name]
    kind = "a whole number" if whole else "a number"
    pattern = r"[0-9]{1,9}" if whole else r"[0-9]{1,12}(\.[0-9]{1,12})?"
    if not re.fullmatch(pattern, text) or not least <= float(text) <= most:
        problem = f"is not {kind} in range"
        raise OptionError(
            f"--{name}", text, problem, f"{kind} from {least:g} to {most:.12g}{also}", f"--{name}={example}"
        )
    return float(text)


def plausible_voltage(text: str) -> tuple[float, float]:
    """Both ends of the range."""
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        low = high = math.nan
    if not 0 <= low < high < math.inf:
        problem = "is not a range of volts"
        raise OptionError(
            "--plausible_voltage", text, problem, "LOW:HIGH, 0 ≤ LOW < HIGH", "--plausible_voltage=100:400"
        )
    return low, high


def runner_of(text: str | None, source: str, sinks: tuple[str, ...]) -> str:
    """The runner, where it can read that source and end for those sinks."""
    # Live runs need a runner that can read Kafka, and a replay needs nothing but Python.
    runner = beam_options.runner_name(text or ("FlinkRunner" if "kafka" in (source, *sinks) else "DirectRunner"))
    if source == "kafka" and "files" in sinks:
        raise OptionError(
            "--sink",
            ",".join(sinks),
            "a file is complete when its source ends, and a topic never ends",
            "--sink=kafka or postgresql, or --source=files",
            "--source=files --sink=files --reads=reads.jsonl.gz --output=output",
        )
    if "bigquery" in sinks and beam_options.runs_in_process(runner):
        raise OptionError(
            "--runner", runner, "Beam's connector for BigQuery is Java's, which DirectRunner cannot run",
            "DataflowRunner, or FlinkRunner with a cluster whose workers have Java", "--runner=DataflowRunner",
        )  # fmt: skip
    if "kafka" in (source, *sinks) and beam_options.runs_in_process(runner):
        raise OptionError(
            "--runner",
            runner,
            "Beam's DirectRunner cannot run KafkaIO here, so it can neither read nor write topics",
            "FlinkRunner or DataflowRunner with kafka; DirectRunner for --source=files with other sinks",
            "--runner=FlinkRunner",
        )
    return runner


def without_runner(arguments: Sequence[str]) -> list[str]:
    """The arguments without any --runner, in both spellings."""
    kept = []
    words = iter(arguments)
    for word in words:
        if word == "--runner":
            next(words, None)
        elif not word.startswith("--runner="):
            kept.append(word)
    return kept


def bootstrap_servers_of(
    text: str | None, source: str, sinks: tuple[str, ...], counts_topic: str | None = None
) -> str | None:
    """The brokers; None where none is needed and none given."""
    example = "--bootstrap_servers=localhost:9092"
    if text is None:
        needed = [f"--{name}=kafka" for name, used in (("source", (source,)), ("sink", sinks)) if "kafka" in used]
        if counts_topic is not None:
            needed.append(f"--meter_counts={counts_topic}")
        if not needed:
            return None
        which = " and ".join(needed)
        raise OptionError(
            "--bootstrap_servers", None, f"is missing; a broker is needed for {which}", "HOST:PORT,…", example
        )
    for server in text.split(","):
        match = re.fullmatch(r"\s*(?:[A-Za-z_]+://)?(?:\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})\s*", server)
        if match is None or not 1 <= int(match[1]) <= 65_535:
            raise OptionError("--bootstrap_servers", text, f"{server!r} is not HOST:PORT", "HOST:PORT,…", example)
    return text


def input_of(values: Mapping[str, Any], name: str, source: str, topic: str, file: str) -> str:
    """A topic, or with files a path that has records."""
    option = f"--{name}"
    value: str = values[name] or (topic if source == "kafka" else file)
    if source == "kafka":
        if not _is_topic(value):
            allowed = "letters, digits, '.', '_' and '-'; a path only with --source=files"
            raise OptionError(option, value, "is not a topic name", allowed, f"{option}={topic}")
        return value
    try:
        replay_files(value)
    except Exception as error:  # each file system has its own exceptions
        problem = "no such file, folder or pattern" if isinstance(error, ReplayError) else f"cannot be read: {error}"
        allowed = "JSON lines of Kafka records, plain or .gz"
        raise OptionError(option, value, problem, allowed, f"{option}=export/{file}") from None
    return value


def _is_topic(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9._-]{1,249}", name) is not None and name not in (".", "..")


def optional_input_of(values: Mapping[str, Any], name: str, source: str, topic: str, file: str) -> str | None:
    """The same of an input that there need not be; None where it is not named."""
    return None if values[name] is None else input_of(values, name, source, topic, file)


CountsKind = Literal["file", "kafka", "postgresql"]


def kind_of_counts(text: str | None) -> CountsKind | None:
    """What --meter_counts names; a file whose name begins like another kind is written as ./NAME."""
    if text is None:
        return None
    kind = text.partition(":")[0]
    return kind if kind in ("kafka", "postgresql") else "file"  # type: ignore[return-value]


def meter_counts_of(text: str) -> str:
    """A path that exists, kafka:TOPIC or postgresql:TABLE. What is there is checked when it is loaded."""
    option, name = "--meter_counts", text.partition(":")[2]
    kind = kind_of_counts(text)
    if kind == "kafka":
        if not _is_topic(name):
            allowed = "kafka: and the name of a topic: letters, digits, '.', '_' and '-'"
            raise OptionError(option, text, "names no topic", allowed, f"{option}=kafka:ami.meter.counts")
        return text
    if kind == "postgresql":
        if name_parts(name) is None:
            allowed = "postgresql: and TABLE or SCHEMA.TABLE, in double quotes what has a dot in it"
            raise OptionError(option, text, "names no table", allowed, f"{option}=postgresql:gis.meter_counts")
        return text
    allowed = "a CSV, JSON-lines or Avro file with transformer_id and total_meters, kafka:TOPIC or postgresql:TABLE"
    return _existing(option, text, allowed, f"{option}=transformer_meter_count.csv")


def meter_counts_format_of(values: Mapping[str, Any], counts: str | None) -> CountsFormat:
    """How a topic has its rows."""
    form: CountsFormat = choice(values, "meter_counts_format", ("json", "debezium"))
    if form != "json" and kind_of_counts(counts) != "kafka":
        problem = f"is of a topic, and --meter_counts={counts} is none; what a file is, its content says"
        allowed = "debezium only with --meter_counts=kafka:TOPIC"
        example = "--meter_counts=kafka:gis.public.meter_counts --meter_counts_format=debezium"
        raise OptionError("--meter_counts_format", form, problem, allowed, example)
    return form


def shrink_of(values: Mapping[str, Any]) -> ShrinkRule:
    """Which meter counts may follow those in use."""
    most = number_of(values, "meter_counts_max_shrink_pct", 0, 100, "20")
    accepted = values["meter_counts_accepted"]
    if accepted is not None and "://" not in accepted:
        accepted = os.path.abspath(accepted)
    return ShrinkRule(most, accepted)


def meter_registry_of(path: str | None) -> str | None:
    """The same of a meter registry; None where none is given."""
    if path is None:
        return None
    allowed = f"a CSV file, plain or .gz, with the columns {', '.join(REGISTRY_COLUMNS)}, of which the first four"
    return _existing("--meter_registry", path, f"{allowed} are needed", "--meter_registry=meter_registry.csv.gz")


def _existing(option: str, path: str, allowed: str, example: str) -> str:
    try:
        found = FileSystems.exists(path) and not os.path.isdir(path)
        problem = "no such file"
    except Exception as error:  # each file system has its own exceptions
        found, problem = False, f"cannot be read: {error}"
    if not found:
        raise OptionError(option, path, problem, allowed, example)
    return path


def output_of(path: str, option: str = "--output") -> str:
    """A folder that can be written to, or made."""
    if "://" in path:
        return path
    parent = os.path.abspath(path)
    while not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK | os.X_OK):
        allowed = "a folder that exists or can be made, and be written to"
        raise OptionError(option, path, f"{parent} is not a folder to write to", allowed, f"{option}=output")
    return path


def output_prefix_of(text: str) -> str:
    """The beginning of topic names."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{0,200}", text):
        allowed = "letters, digits, '.', '_' and '-'"
        raise OptionError("--output_prefix", text, "cannot begin a topic name", allowed, "--output_prefix=shadow.")
    return text


def start_of(text: str, source: str, explicit: bool) -> Any:
    """latest, earliest, or a record time in microseconds."""
    allowed, example = "latest, earliest or a time with a zone", "--start=2026-03-03T00:00:00Z"
    if source == "files" and explicit and text != "earliest":
        problem = "a replay of files always starts with its first record"
        raise OptionError("--start", text, problem, "no --start with --source=files", "--source=files")
    if text in ("latest", "earliest"):
        return text
    return instant_of("--start", text, allowed, example)


def period_of(values: Mapping[str, Any], source: str) -> PublishedPeriod | None:
    """What of a replay is published; None: all of it."""
    begin, end = (
        None if values[name] is None else instant_of(f"--{name}", values[name])
        for name in ("publish_from", "publish_until")
    )
    if begin is None and end is None:
        return None
    if source == "kafka":
        name = "publish_from" if begin is not None else "publish_until"
        problem = "is of a replay: a live run publishes everything"
        example = "--source=files --publish_from=2026-03-03T00:00:00Z"
        raise OptionError(f"--{name}", values[name], problem, "with --source=files", example)
    if begin is not None and end is not None and begin >= end:
        problem = f"is not after --publish_from={values['publish_from']}"
        raise OptionError("--publish_until", values["publish_until"], problem, "a later time")
    return PublishedPeriod(begin, end, time_zone_of(values["time_zone"]))


def instant_of(option: str, text: str, allowed: str = "a time with a zone", example: str = "") -> int:
    """A time, in microseconds."""
    try:
        return parse_instant(text)
    except ValueError as error:
        example = example or f"{option}=2026-03-01T00:00:00Z"
        raise OptionError(option, text, str(error), allowed, example) from None


def warnings_of(
    settings: Settings,
    source: str,
    sinks: tuple[str, ...],
    explicit: set[str],
    counts_kind: CountsKind | None = None,
) -> list[str]:
    """What is allowed but hardly meant."""
    warnings = []
    low, high = settings.plausible_voltage
    low_alert = settings.nominal_voltage * settings.low_voltage_pct / 100
    high_alert = settings.nominal_voltage * settings.high_voltage_pct / 100
    if low_alert <= low:
        warnings.append(
            f"LOW_VOLTAGE below {low_alert:g} V cannot come: --plausible_voltage sets aside what is below {low:g} V"
        )
    if high_alert >= high:
        warnings.append(
            f"HIGH_VOLTAGE above {high_alert:g} V cannot come: --plausible_voltage sets aside what is above {high:g} V"
        )
    if settings.receipt_delay < settings.collection_delay:
        warnings.append(
            "--receipt_delay is shorter than --collection_delay: transformers are judged before their reads are in"
        )
    elif settings.receipt_delay < settings.collection_delay + settings.behind_windows:
        least = format_duration(settings.collection_delay + settings.behind_windows)
        warnings.append(
            "--receipt_delay is shorter than --collection_delay and what --longest_interval is longer than the window:"
            f" transformers are judged before their long reads are in ({least} is enough)"
        )
    if "kafka" not in (source, *sinks, counts_kind):
        ignored = {"--bootstrap_servers", "--kafka_config", "--kafka_config_file"} & explicit
        warnings.extend(f"{name} has no effect: neither source nor sink is kafka" for name in sorted(ignored))
    if "files" not in sinks and "--output" in explicit:
        warnings.append(f"--output has no effect with --sink={','.join(sinks)}")
    if "kafka" not in sinks and "--output_prefix" in explicit:
        warnings.append("--output_prefix has no effect: it is of topics. For tables there is --postgresql_schema")
    if "postgresql" not in sinks:
        ignored = {"--postgresql", "--postgresql_config_file", "--postgresql_schema"} & explicit
        if counts_kind == "postgresql":
            ignored &= {"--postgresql_schema"}
        warnings.extend(f"{name} has no effect without --sink=postgresql" for name in sorted(ignored))
    if "bigquery" not in sinks and "--bigquery_dataset" in explicit:
        warnings.append("--bigquery_dataset has no effect without --sink=bigquery")
    if source == "kafka" and "kafka" not in sinks:
        warnings.append(
            "Alerts that a failed attempt has published are found in their topics only, and set right:"
            " --sink=kafka,postgresql. With tables alone such an alert may stay RAISED"
        )
    if source == "files" and "--meter_counts_refresh" in explicit:
        warnings.append("--meter_counts_refresh has no effect: a replay reads the meter counts once")
    ignored = {"--meter_counts_max_shrink_pct", "--meter_counts_accepted"} & explicit if source == "files" else set()
    warnings.extend(f"{name} has no effect: a replay compares with nothing of before" for name in sorted(ignored))
    return warnings
