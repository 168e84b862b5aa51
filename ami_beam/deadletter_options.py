"""The command line of `ami_beam.deadletter`: its help and its checks."""

from __future__ import annotations

import argparse
import getpass
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from apache_beam.io.filesystems import FileSystems

from ami_beam import beam_options, repair
from ami_beam.beam_options import OptionError, Parser
from ami_beam.codecs.dead_letter_reasons import Reason
from ami_beam.codecs.json_outputs import DEAD_LETTER_TOPIC
from ami_beam.codecs.stored_letters import REPLAYED_TOPIC, RecordId, parse_record_id
from ami_beam.codecs.writer_schemas import schemas_of
from ami_beam.input_topics import EVENTS_TOPIC, OUTAGES_TOPIC, READS_TOPIC, WORK_TOPIC
from ami_beam.kafka_config import kafka_config
from ami_beam.letter_acceptance import InputTopics, written_by_topic
from ami_beam.letter_replay import Selection
from ami_beam.option_checks import (
    bootstrap_servers_of,
    choice,
    input_of,
    instant_of,
    number_of,
    output_prefix_of,
    settings_of,
)
from ami_beam.options import AmiOptions
from ami_beam.reconcile_report import SUFFIXES
from ami_beam.schema_options import Formats, formats_of
from ami_beam.settings import Settings

Action = Literal["list", "show", "replay"]
REPLAY_SUFFIXES = (".jsonl", ".jsonl.gz")
_RUN_OPTIONS = """
All options of python -m ami_beam.run may be given too, and mean the same: give those that your run has, so that its
topics (--reads, --events, --oms_outages, --work), formats (--reads_format, --schema_registry) and rules
(--max_interval_kwh, --allowed_lateness, --also_publish …) are known here. What does not matter is passed over."""
_FILES = "Files of a replay, as --sink=files has written them"

_ABOUT = """Looks at what the pipeline has set aside (ami.deadletter), and publishes it again, as it was or repaired.
See docs/ingestion.md."""
_LIST_ABOUT = """Counts letters by topic and reason: how many can be replayed, and how many were. Shows nothing of the
records."""
_LIST_EXAMPLES = f"""{_RUN_OPTIONS}

examples:
  What has been set aside since yesterday:
    python -m ami_beam.deadletter list --bootstrap_servers=broker1:9092 --set_aside_since=2026-03-03T00:00:00Z

  {_FILES}:
    python -m ami_beam.deadletter list --source=files --output=output
"""
_SHOW_ABOUT = """Shows a letter: its reason, and the original record, WHICH HOLDS CUSTOMER DATA."""
_SHOW_EXAMPLES = f"""{_RUN_OPTIONS}

examples:
    python -m ami_beam.deadletter show ami.headend.reads:3:58123 --bootstrap_servers=broker1:9092

  The original's bytes and nothing else:
    python -m ami_beam.deadletter show ami.headend.reads:3:58123 --bootstrap_servers=broker1:9092 --raw > record.json
"""
_REPLAY_ABOUT = """Publishes the originals again to the topics that they came from, as they were or repaired. Without
--yes it only says what it would do. Every record goes once, also when it is killed and run again: what was replayed is
in ami.deadletter.replayed. Before, each is looked at by the rules of the run, and one that would be set aside again
stays. Its record time is the moment of the replay: it counts as a record that has come late. With --to a file is
written instead, which a run of files can read."""
_REPLAY_EXAMPLES = f"""{_RUN_OPTIONS}

a repair (--repair):
  A Python expression over record, a dict, and letter (reason, detail, topic, partition, offset, record_time). Its
  result is published instead; None leaves a letter where it is. It can call
    renamed(record, "old", "new", …)     fields under other names
    without(record, "name", …)           without fields
    number(value)                        the number of a text, "19.7" or "19,7"
    with_zone(text, "Europe/Berlin")     a time without a zone as an instant; a time that comes twice is refused
  and abs all any bool dict float int isinstance len list max min round sorted str sum. A file of --repair_file has
  def repair(record, letter), and may be any Python: record is None where the original is no JSON object, letter.value
  has its bytes. The code runs as you.

exit code:
  0 all that was selected was replayed, or with no --yes would be; 1 some stays, and says why; 2 a wrong option or
  input; 130 stopped, run it again to go on

examples:
  What would happen:
    python -m ami_beam.deadletter replay --bootstrap_servers=broker1:9092 --reason=TOO_LATE --allowed_lateness=48h

  Ten of them first, then all: reads of a head-end whose new release sent Wh instead of kWh:
    python -m ami_beam.deadletter replay --bootstrap_servers=broker1:9092 --reason=IMPLAUSIBLE_CONSUMPTION \\
      --since=2026-03-03T06:00:00Z --until=2026-03-03T08:00:00Z --yes --limit=10 \\
      --repair='record | {{name: record[name] / 1000 for name in record if name.endswith("_kwh")}}'

  {_FILES}, into a file for a new run beside the original:
    python -m ami_beam.deadletter replay --source=files --output=output --repair_file=repair.py \\
      --to=replay/reads-repaired.jsonl.gz --yes
"""


@dataclass(frozen=True)
class Question:
    """A checked command line."""

    action: Action
    selection: Selection
    settings: Settings
    inputs: InputTopics
    formats: Formats
    source: Literal["kafka", "files"]
    file: str
    """Of letters, with files."""
    servers: str
    config: Mapping[str, str] = field(repr=False)
    """Client settings without bootstrap.servers; holds secrets."""
    topic: str
    marks_topic: str
    set_aside: tuple[int | None, int | None]
    json: bool
    show: RecordId | None
    raw: bool
    full: bool
    replay: ReplayQuestion | None

    @property
    def connection(self) -> dict[str, str]:
        """Client settings with bootstrap.servers."""
        return {**self.config, "bootstrap.servers": self.servers}

    @property
    def where(self) -> str:
        """Where the letters are, for people."""
        return self.topic if self.source == "kafka" else self.file


@dataclass(frozen=True)
class ReplayQuestion:
    """What `replay` alone is asked."""

    repair: repair.Repair | None
    yes: bool
    again: bool
    force: bool
    limit: int | None
    max_rate: float
    operator: str
    to: Path | None
    record_time: int | None
    samples: int
    left: Path | None


def question_of(argv: Sequence[str]) -> Question:
    """The checked command line. Raises OptionError."""
    parser, names = _parser()
    given, rest = parser.parse_known_args(list(argv))
    values = vars(given)
    known = _run_values(rest, names[values["action"]])
    values = known | {name: value for name, value in values.items() if value is not None or name not in known}
    source = choice(values, "source", ("kafka", "files"))
    config = kafka_config(values["kafka_config"] or (), values["kafka_config_file"])
    servers = values["bootstrap_servers"] or config.pop("bootstrap.servers", None)
    config.pop("bootstrap.servers", None)
    servers = bootstrap_servers_of(servers, source, ())
    action: Action = values["action"]
    replay = _replay(values, source) if action == "replay" else None
    prefix = output_prefix_of(values["output_prefix"])
    inputs = _inputs(values, source)
    formats = formats_of(values, ("kafka",))
    selection = _selection(values)
    if replay is not None:
        _check_formats(values, inputs, formats, selection)
    return Question(
        action,
        selection,
        settings_of(values, live=replay is not None and replay.to is None),
        inputs,
        formats,
        source,
        _file(values["output"]) if source == "files" else "",
        servers or "",
        config,
        prefix + DEAD_LETTER_TOPIC,
        prefix + REPLAYED_TOPIC,
        _set_aside(values, source),
        values["json"],
        _record_id(values["id"]) if action == "show" else None,
        values.get("raw", False),
        values.get("full", False),
        replay,
    )


def _parser() -> tuple[Parser, dict[str, list[str]]]:
    """It, and the names of each action's own options."""
    names: dict[str, list[str]] = {}
    parser = Parser(prog="python -m ami_beam.deadletter", description=_ABOUT)
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|replay")
    texts = {
        "list": ("count letters by topic and reason", _LIST_ABOUT, _LIST_EXAMPLES),
        "show": ("show a letter with its record", _SHOW_ABOUT, _SHOW_EXAMPLES),
        "replay": ("publish records again", _REPLAY_ABOUT, _REPLAY_EXAMPLES),
    }
    for name, (short, about, examples) in texts.items():
        each = actions.add_parser(
            name,
            help=short,
            description=about,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == "show":
            each.add_argument("id", metavar="TOPIC:PARTITION:OFFSET", help="of the record, as list and replay name it")
        _add_where(each)
        _add_filters(each, all_of_them=name != "show")
        if name == "replay":
            _add_replay(each)
        add = each.add_argument_group("result").add_argument
        if name == "replay":
            add("--left", metavar="FILE", help="every letter that stays, and why: .csv or .jsonl")
        if name == "show":
            add("--raw", action="store_true", help="the original's bytes, and nothing else")
            add("--full", action="store_true", help="all of the original (the beginning of a long one)")
        add("--json", action="store_true", help="JSON on standard output")
        names[name] = beam_options.option_names(each)
    return parser, names


def _add_where(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("where the letters are").add_argument
    add("--bootstrap_servers", metavar="HOST:PORT,…", help=f"brokers of the topic {DEAD_LETTER_TOPIC}")
    add("--kafka_config", nargs="+", metavar="KEY=VALUE", help="client settings, as of ami_beam.run")
    add("--kafka_config_file", metavar="FILE", help="the same as a file: secrets belong there")
    add("--output_prefix", metavar="TEXT", help="before the name of the topic, as of ami_beam.run")
    add("--source", metavar="kafka|files", help="kafka, or files: those of --sink=files (kafka)")
    add("--output", metavar="FOLDER", help="with files: the folder of results (output)")


def _add_filters(parser: argparse.ArgumentParser, all_of_them: bool) -> None:
    add = parser.add_argument_group("which letters (all)").add_argument
    if all_of_them:
        add("--reason", metavar="CODE,…", help="of these reasons, such as WRONG_TYPE,MISSING_FIELD")
        add("--topic", metavar="NAME,…", help="whose records were in these topics")
        add("--since", metavar="TIME", help="whose records had this record time or a later one")
        add("--until", metavar="TIME", help="whose records had an earlier record time")
        add("--meter", metavar="ID", help="whose records have this meter id in them")
    add("--set_aside_since", metavar="TIME", help="of a topic: set aside then or later; the rest is not read")
    add("--set_aside_until", metavar="TIME", help="of a topic: set aside before")


def _add_replay(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is published").add_argument
    add("--yes", action="store_true", help="publish; without it nothing is, and what would be is shown")
    add("--dry_run", action="store_true", help="say so: publish nothing")
    add("--repair", metavar="EXPRESSION", help="a Python expression over record, see below")
    add("--repair_file", metavar="FILE", help="a Python file with def repair(record, letter)")
    add("--limit", metavar="N", help="so many records at most (all)")
    add("--again", action="store_true", help="also what was replayed already")
    add("--force", action="store_true", help="also what would be set aside again")
    add("--max_rate", default="1000", metavar="N", help="so many records a second (1000)")
    add("--operator", metavar="NAME", help="who does it, for the record's headers (the name of your login)")
    add(
        "--to",
        metavar="FILE",
        help="a new file for --source=files instead of topics: .jsonl or .jsonl.gz, of one topic",
    )
    add("--record_time", metavar="TIME", help="with --to: of all its records (that which each original had)")
    add(
        "--samples",
        default="5",
        metavar="N",
        help="so many repairs are shown, one a topic and reason, by the fields that they change (5)",
    )


def _run_values(rest: list[str], own: list[str]) -> dict[str, Any]:
    """The values of what is left, which are options of a run, with their defaults."""
    parser = Parser(add_help=False)
    AmiOptions._add_argparse_args(parser)
    given, others = parser.parse_known_args(rest)
    names = [*own, *beam_options.option_names(parser)]
    beam_options.check_known(others, beam_options.beam_parser(without=AmiOptions), names)
    return vars(given)


def _inputs(values: Mapping[str, Any], source: str) -> InputTopics:
    if source == "files":
        return InputTopics(READS_TOPIC, EVENTS_TOPIC, OUTAGES_TOPIC, WORK_TOPIC)
    defaults = {"reads": READS_TOPIC, "events": EVENTS_TOPIC, "oms_outages": OUTAGES_TOPIC, "work": WORK_TOPIC}
    return InputTopics(*(input_of(values, name, source, topic, "") for name, topic in defaults.items()))


def _selection(values: Mapping[str, Any]) -> Selection:
    if values["action"] == "show":
        return Selection()
    reasons = None if values["reason"] is None else frozenset(_words(values["reason"].upper()))
    known = [each.value for each in Reason]
    for name in sorted(reasons or ()):
        if name not in known:
            near = get_close_matches(name, known, 1, 0.5)
            problem = "names no reason" + (f"; did you mean {near[0]}" if near else "")
            raise OptionError("--reason", values["reason"], problem, ", ".join(known), "--reason=WRONG_TYPE")
    topics = None if values["topic"] is None else frozenset(_words(values["topic"]))
    since, until = _times(values, "since", "until")
    if values["meter"] == "":
        raise OptionError("--meter", "", "is empty", "the id of a meter", "--meter=MTR-154570")
    return Selection(reasons, topics, since, until, values["meter"])


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _times(values: Mapping[str, Any], begin: str, end: str) -> tuple[int | None, int | None]:
    first, last = (None if values[name] is None else instant_of(f"--{name}", values[name]) for name in (begin, end))
    if first is not None and last is not None and first >= last:
        raise OptionError(f"--{end}", values[end], f"is not after --{begin}={values[begin]}", "a later time")
    return first, last


def _set_aside(values: Mapping[str, Any], source: str) -> tuple[int | None, int | None]:
    times = _times(values, "set_aside_since", "set_aside_until")
    if source == "files" and times != (None, None):
        name = "--set_aside_since" if times[0] is not None else "--set_aside_until"
        problem = "a file does not say when a letter was set aside"
        raise OptionError(
            name, None, problem, "--since and --until, the record's own time", "--since=2026-03-03T00:00:00Z"
        )
    return times


def _record_id(text: str) -> RecordId:
    try:
        return parse_record_id(text)
    except ValueError as error:
        example = "ami_beam.deadletter show ami.headend.reads:3:58123"
        raise OptionError("TOPIC:PARTITION:OFFSET", text, str(error), "the id of a record", example) from None


def _file(folder: str) -> str:
    """The letters of a result folder, or a file of letters itself."""
    path = (
        folder if folder.endswith((".jsonl", ".jsonl.gz")) else FileSystems.join(folder, f"{DEAD_LETTER_TOPIC}.jsonl")
    )
    try:
        found, problem = FileSystems.exists(path), f"has no {DEAD_LETTER_TOPIC}.jsonl"
    except Exception as error:  # each file system has its own exceptions
        found, problem = False, f"cannot be read: {error}"
    if not found:
        raise OptionError("--output", folder, problem, "the folder of a run's results", "--output=output")
    return path


def _replay(values: Mapping[str, Any], source: str) -> ReplayQuestion:
    if values["yes"] and values["dry_run"]:
        raise OptionError("--dry_run", None, "says the contrary of --yes", "one of the two", "--yes")
    if values["repair"] is not None and values["repair_file"] is not None:
        raise OptionError("--repair_file", values["repair_file"], "--repair is given, too", "one of the two")
    mending = None
    if values["repair"] is not None:
        mending = repair.expression(values["repair"])
    elif values["repair_file"] is not None:
        mending = repair.from_file(values["repair_file"])
    to = None if values["to"] is None else _to(values["to"])
    if source == "files" and to is None:
        problem = "is missing: letters of files go into a file"
        raise OptionError("--to", None, problem, " or ".join(REPLAY_SUFFIXES), "--to=replay/repaired.jsonl.gz")
    if to is None and values["record_time"] is not None:
        problem = "a topic's record has the time of its publication"
        raise OptionError("--record_time", values["record_time"], problem, "with --to only", "--to=repaired.jsonl.gz")
    limit = None
    if values["limit"] is not None:
        limit = int(number_of(values, "limit", 1, 999_999_999, "10", whole=True))
    operator = values["operator"] if values["operator"] is not None else _login()
    if not operator or len(operator) > 200 or not operator.isprintable():
        raise OptionError("--operator", None, "is no name", "1 to 200 printable characters", "--operator=jane.doe")
    return ReplayQuestion(
        mending,
        values["yes"],
        values["again"],
        values["force"],
        limit,
        number_of(values, "max_rate", 0.1, 10_000_000, "1000"),
        operator,
        to,
        None if values["record_time"] is None else instant_of("--record_time", values["record_time"]),
        int(number_of(values, "samples", 0, 1000, "5", whole=True)),
        None if values["left"] is None else _list_file(values["left"]),
    )


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return "unknown"


def _to(text: str) -> Path:
    path = Path(text)
    example = "--to=replay/repaired.jsonl.gz"
    if not text.endswith(REPLAY_SUFFIXES):
        raise OptionError("--to", text, "is no replay file", " or ".join(REPLAY_SUFFIXES), example)
    if path.exists():
        raise OptionError("--to", text, "is there already, and is not overwritten", "a new file", example)
    if not path.absolute().parent.is_dir():
        raise OptionError("--to", text, "its folder is not there", "a file in a folder that exists", example)
    return path


def _list_file(text: str) -> Path:
    path = Path(text)
    if path.suffix not in SUFFIXES or path.is_dir() or not path.absolute().parent.is_dir():
        allowed = f"{' or '.join(SUFFIXES)} in a folder that exists"
        raise OptionError("--left", text, "is no list that can be written", allowed, "--left=left.csv")
    return path


def _check_formats(values: Mapping[str, Any], inputs: InputTopics, formats: Formats, selection: Selection) -> None:
    """A repair is of JSON: refused where only Avro could be meant, or nothing says that it is not."""
    option = next((name for name in ("repair", "repair_file") if values[name] is not None), None)
    written = written_by_topic(inputs, formats.inputs())
    avro = {topic for topic, its in written.items() if schemas_of(its) is not None}
    if option is None or not avro:
        return
    meant = avro if selection.topics is None else avro & selection.topics
    if meant:
        problem = f"{', '.join(sorted(meant))} is Avro, whose records are replayed as they are, without repair"
        raise OptionError(f"--{option}", None, problem, "--topic with topics of JSON", f"--topic={inputs.events}")
