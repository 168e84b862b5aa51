"""`python -m ami_beam.explain ID`: the reads, offsets, thresholds and revisions behind an alert or an alarm."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import msgspec
from apache_beam.io.filesystems import FileSystems
from confluent_kafka import KafkaException

from ami_beam.beam_options import OptionError, Parser
from ami_beam.codecs.avro_outputs import RowParser
from ami_beam.codecs.input_decoders import announcement_decoder, event_decoder, read_decoder
from ami_beam.codecs.json_outputs import (
    ALARMS_TOPIC,
    CONFIG_TOPIC,
    EVENT_ALERTS_TOPIC,
    GRID_ALERTS_TOPIC,
    parse_alarm,
    parse_alert,
)
from ami_beam.command import Stopped, leave, start_logging, stoppable
from ami_beam.csv_table import TableError
from ami_beam.event_map import EventType
from ami_beam.explanation import (
    NO_TRANSFORMER,
    Announced,
    Explanation,
    Judged,
    WindowEvidence,
    announced_names,
    as_json,
    as_text,
    evidence,
    judged,
    reads_until,
    source_of,
)
from ami_beam.instants import MICROS_PER_MILLI, parse_duration
from ami_beam.io.files import file_lines, read_batches, replay_files
from ami_beam.io.kafka_period import PeriodError, period_batches, read_period
from ami_beam.io.kafka_preflight import PreflightError, inspect
from ami_beam.io.librdkafka import SettingError
from ami_beam.io.schema_registry import RegistryError
from ami_beam.meter_counts import VERSION_DIGITS, MeterCountsError, counts_of
from ami_beam.named_records import that_name
from ami_beam.options import RunPlan, validate
from ami_beam.read_columns import from_reads
from ami_beam.records import Alarm, Alert, Announcement, Event, Read
from ami_beam.replay_arguments import replay_arguments, replays_events
from ami_beam.run import followed_counts, registry_of
from ami_beam.settings import Settings
from transforms.alarm_episodes import OUTAGES
from transforms.locate_events import LOST, RESTORED
from transforms.loss_events import LOSS_CONTROL
from transforms.place_reads import place
from transforms.published_rows import readable

_ALERT_TOPICS = (ALARMS_TOPIC, GRID_ALERTS_TOPIC, EVENT_ALERTS_TOPIC)

_ABOUT = """Shows what is behind an alert or an alarm: how it changed, by which rules and meter counts it was judged,
and of each of its windows the reads with their topic, partition and offset. Of an announced outage, or of work, that is
its cause all records, where --oms_outages and --work say where they are. Reads the result topics from their beginning
to find it."""
_EXAMPLES = """
All options of python -m ami_beam.run that say where records are may be given too, and mean the same.

examples:
  From the live topics:
    python -m ami_beam.explain 3f0c… --bootstrap_servers=broker1:9092 --meter_counts=counts.csv

  From a replay's files and its results in the folder output:
    python -m ami_beam.explain 3f0c… --source=files --reads=reads.jsonl.gz --output=output --meter_counts=counts.csv
"""


class NotFoundError(RuntimeError):
    """There is no such alert or alarm; the message says where it was looked for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 explained, 1 not found or not readable, 2 a wrong option."""
    start_logging()
    parser = Parser(
        prog="python -m ami_beam.explain",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("id", metavar="ID", help="alarm_id or alert_id")
    parser.add_argument("--json", action="store_true", help="JSON on standard output, with every read")
    with stoppable():
        try:
            given, rest = parser.parse_known_args(sys.argv[1:] if argv is None else list(argv))
            explanation = explain(given.id, *_plan(rest))
        except (OptionError, PreflightError, MeterCountsError, TableError, SettingError, RegistryError) as error:
            print(f"ami_beam.explain: {error}", file=sys.stderr)
            return 2
        except (NotFoundError, PeriodError, KafkaException, ValueError) as error:
            print(f"ami_beam.explain: {error}", file=sys.stderr)
            return 1
        except Stopped:
            return 0
    print(json.dumps(as_json(explanation), indent=1) if given.json else as_text(explanation))
    return 0


def _plan(rest: list[str]) -> tuple[Settings, RunPlan]:
    settings, plan = validate(replay_arguments(rest).arguments)
    return replace(settings, live=False), plan


def explain(identity: str, settings: Settings, plan: RunPlan) -> Explanation:
    """All that topics or files hold of it. `settings` are used where the rules it was judged by are not to be found.

    Raises NotFoundError, ValueError for an alert about an event, PeriodError and KafkaException.
    """
    counts = followed_counts(settings, plan).load()
    if plan.source == "kafka":
        assert plan.bootstrap_servers is not None
        topics = [plan.reads, plan.events, *plan.announced_topics]
        topics += [plan.output_prefix + topic for topic in (*_ALERT_TOPICS, CONFIG_TOPIC)]
        inspect(plan.bootstrap_servers, plan.kafka_config, topics, [], native=True)
    found = _find(identity, plan)
    config = _config(found.last.config_id, plan)
    if config is not None:
        settings = with_rules(settings, config["rules"])
    windows: list[WindowEvidence] = []
    events: list[Event] = []
    if found.type not in NO_TRANSFORMER:
        by_transformer = counts_of(counts)
        reads = list(_reads(found, reads_until(found, by_transformer, settings), settings, plan))
        windows = evidence(found, reads, by_transformer, settings)
        if found.type in OUTAGES:
            events = _events(found, {read.meter_id for read in reads}, LOST + RESTORED, settings, plan)
    elif found.type in LOSS_CONTROL:
        events = _events(found, {found.transformer_id}, (LOSS_CONTROL[found.type],), settings, plan)
    alarms = _last_alarms(plan)
    return Explanation(
        found,
        plan.reads_topic,
        config,
        settings,
        counts.version_id[:VERSION_DIGITS],
        windows,
        events,
        [alarm for alarm in alarms if alarm.cause == identity],
        [_announced(name, identity, alarms, settings, plan) for name in announced_names(found)],
    )


def with_rules(settings: Settings, rules: Mapping[str, Any]) -> Settings:
    """The settings with what a record of `ami.config` says; names that this version does not know are passed over."""
    known = {field.name: getattr(settings, field.name) for field in fields(Settings)}
    changes: dict[str, Any] = {}
    for name, value in rules.items():
        if name in known and name not in ("event_map", "quality_map"):
            same = known[name]
            if isinstance(same, int) and isinstance(value, str):
                value = parse_duration(value)
            changes[name] = tuple(value) if isinstance(same, tuple) else value
    return replace(settings, **changes)


def _find(identity: str, plan: RunPlan) -> Judged:
    schemas = plan.formats.schemas()
    for topic in _ALERT_TOPICS:
        parse: Callable[[bytes | str], Alert | Alarm] = RowParser(parse_alert, Alert, schemas)
        if topic == ALARMS_TOPIC:
            parse = RowParser(parse_alarm, Alarm, schemas)
        values = (value for value in _results(topic, plan) if identity.encode() in value)
        rows = judged(row for row in readable(values, parse) if _id(row) == identity)
        if rows is not None:
            return rows
    where = plan.output if plan.source == "files" else ", ".join(plan.output_prefix + topic for topic in _ALERT_TOPICS)
    raise NotFoundError(f"no alert or alarm {identity} in {where}; the topics may have forgotten it")


def _id(row: Alert | Alarm) -> str:
    return row.alarm_id if isinstance(row, Alarm) else row.alert_id


def _config(config_id: str | None, plan: RunPlan) -> Mapping[str, Any] | None:
    """The last record of the id."""
    found = None
    for value in _results(CONFIG_TOPIC, plan):
        try:
            record = msgspec.json.decode(value)
        except msgspec.MsgspecError:
            continue
        if isinstance(record, dict) and record.get("config_id") == config_id and isinstance(record.get("rules"), dict):
            found = record
    return found


def _results(topic: str, plan: RunPlan) -> Iterator[bytes]:
    """The values of a result topic, or the lines of its file."""
    if plan.source == "files":
        path = FileSystems.join(plan.output, f"{topic}.jsonl")
        yield from file_lines(path) if FileSystems.exists(path) else ()
        return
    for message in read_period(plan.kafka_connection, plan.output_prefix + topic, None, None):
        yield message.value() or b""


def _reads(found: Judged, until: int, settings: Settings, plan: RunPlan) -> Iterator[Read]:
    """The transformer's reads with record times up to `until`, and perhaps others."""
    decoder = read_decoder(settings, plan.formats.inputs().reads)
    name, registry = found.transformer_id.encode(), registry_of(plan)
    if plan.source == "files":
        batches = read_batches(replay_files(plan.reads), plan.reads_topic)
    else:
        # Records of a fast clock are older than their interval's end.
        begin = found.first_window - 2 * settings.window
        batches = period_batches(plan.kafka_connection, plan.reads, begin, until + MICROS_PER_MILLI)
    for batch in batches:
        if registry is None:
            reads = decoder.decode_carefully(that_name(batch, name), None)[0]
        else:
            # A read may say another transformer than its meter hangs on.
            reads = place(from_reads(decoder.decode_carefully(batch, None)[0]), registry.current()).reads.reads()
        for read in reads:
            if read.record_time <= until:
                yield read


def _events(
    found: Judged, meters: set[str], types: tuple[EventType, ...], settings: Settings, plan: RunPlan
) -> list[Event]:
    """The events of these types that these meters sent around the alarm, and had arrived when it was published last."""
    if not replays_events(plan):
        return []
    decoder = event_decoder(settings, plan.formats.inputs().events)
    kinds = {code for code, kind in settings.event_map.kinds if kind.event_type in types}
    begin, end = found.first_window - 2 * settings.window, found.last_window + settings.window
    if plan.source == "files":
        batches = read_batches(replay_files(plan.events), plan.events_topic)
    else:
        batches = period_batches(plan.kafka_connection, plan.events, begin, found.last.as_of + MICROS_PER_MILLI)
    said: dict[tuple[int, str, str], Event] = {}
    for batch in batches:
        for event in decoder.decode_carefully(batch, None)[0]:
            told = event.meter_id in meters and str(event.event_code) in kinds
            if told and begin <= event.event_ts <= end and event.record_time <= found.last.as_of:
                said.setdefault((event.event_ts, event.meter_id, str(event.event_code)), event)
    return [said[key] for key in sorted(said)]


def _last_alarms(plan: RunPlan) -> list[Alarm]:
    """All alarms as they were published last."""
    last: dict[str, Alarm] = {}
    for alarm in readable(_results(ALARMS_TOPIC, plan), RowParser(parse_alarm, Alarm, plan.formats.schemas())):
        known = last.get(alarm.alarm_id)
        if known is None or alarm.as_of >= known.as_of:
            last[alarm.alarm_id] = alarm
    return list(last.values())


def _announced(name: str, identity: str, alarms: Iterable[Alarm], settings: Settings, plan: RunPlan) -> Announced:
    """What was announced under this name, in the topic that the plan has for it, whenever it was."""
    others = [alarm for alarm in alarms if alarm.cause == name and alarm.alarm_id != identity]
    source = source_of(name)
    topic = plan.outages_topic if source == "oms" else plan.work_topic
    if topic is None:
        return Announced(name, None, [], others)
    if plan.source == "files":
        batches = read_batches(replay_files(plan.announced_topics[topic]), topic)
    else:
        batches = period_batches(plan.kafka_connection, topic, None, None)
    schemas = plan.formats.inputs()
    decoder = announcement_decoder(settings, source, schemas.outages if source == "oms" else schemas.work)
    records = [each for batch in batches for each in decoder.decode(batch, None)[0] if each.name == name]
    return Announced(name, topic, sorted(records, key=_version), others)


def _version(announced: Announcement) -> tuple[int, int, int, int]:
    return announced.version


if __name__ == "__main__":
    leave(main())
