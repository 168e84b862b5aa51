"""`python -m ami_beam.export`: a topic's range as files that `--source=files` replays."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from apache_beam.io.filesystem import BeamIOError
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from ami_beam.beam_options import OptionError, Parser
from ami_beam.command import Stopped, leave, start_logging, stoppable
from ami_beam.input_topics import READS_TOPIC
from ami_beam.instants import MICROS_PER_MILLI, MICROS_PER_SECOND, format_duration
from ami_beam.io.export_check import check_export
from ami_beam.io.export_manifest import Manifest, ManifestError, Request, is_folder
from ami_beam.io.kafka_period import PeriodError, Place
from ami_beam.io.kafka_preflight import TIMEOUT_SECONDS, PreflightError, inspect
from ami_beam.io.librdkafka import SettingError, librdkafka
from ami_beam.io.topic_export import Cut, OtherExportError, TopicExport
from ami_beam.kafka_config import kafka_config
from ami_beam.option_checks import bootstrap_servers_of, choice, duration_of, instant_of, output_of

DONE, INCOMPLETE, WRONG, STOPPED = 0, 1, 2, 130
_SIZES = {"KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}
_log = logging.getLogger(__name__)

_ABOUT = """Writes a range of a topic to files that python -m ami_beam.run --source=files replays: every record with its
record time, key, value, headers, partition and offset, those of committed transactions only. Interrupted, it goes on
where it stopped when the same command is given again. Nothing is published, and no offset is committed."""
_EXAMPLES = """
the files:
  JSON lines, one record a line: ts_ms, key, value_b64, topic, partition, offset; key_b64 where a key is no text,
  headers_b64 where there are any. A tombstone has the value null. In a folder each file is of one partition and one
  --file_period of record time, and their names sort by time. _manifest.json there says what is in which file; a replay
  of the folder refuses to start while a file of it is missing.

exit code:
  0 complete, 1 not complete, or --verify found something missing, 2 a wrong option, topic or broker, 130 stopped

examples:
  A day of reads, into files of an hour and partition each, and their check:
    python -m ami_beam.export --bootstrap_servers=broker1:9092 --kafka_config_file=client.properties \\
      --topic=ami.headend.reads --start=2026-03-03T00:00:00Z --end=2026-03-04T00:00:00Z --output=history/reads
    python -m ami_beam.export --verify --output=history/reads

  All events there are now, in one file:
    python -m ami_beam.export --bootstrap_servers=broker1:9092 --topic=ami.headend.events --output=events.jsonl.gz

  By offsets, of two partitions, to Google Cloud Storage:
    python -m ami_beam.export --bootstrap_servers=broker1:9092 --topic=ami.headend.reads --start=0:1200,1:900 \\
      --end=0:5000,1:5000 --output=gs://utility/history/reads
"""


@dataclass(frozen=True)
class Task:
    """What is to be exported, and how."""

    topic: str
    begin: Place
    end: Place
    start_text: str
    end_text: str
    output: str
    file_period: int
    file_size: int
    compression: str
    overwrite: bool
    json: bool
    servers: str
    config: dict[str, str]
    """Client settings without bootstrap.servers. Holds secrets."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes as `--help` says."""
    start_logging()
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    words = list(sys.argv[1:] if argv is None else argv)
    with stoppable():
        try:
            values = vars(_parser().parse_args(words))
            if values["verify"]:
                return _verify(_output(values["output"]), values["json"])
            task = task_of(values)
            _tell(_export(task), task)
            return DONE
        except (OptionError, PreflightError, SettingError, ManifestError) as error:
            print(f"ami_beam.export: {error}", file=sys.stderr)
            return WRONG
        except OtherExportError as error:
            example = "another --output, the options of then, or --overwrite"
            print(f"ami_beam.export: --output: {error}. Allowed: {example}.", file=sys.stderr)
            return WRONG
        except (PeriodError, KafkaException, BeamIOError, OSError) as error:
            print(f"ami_beam.export: {error}. The same command goes on from there.", file=sys.stderr)
            return INCOMPLETE
        except Stopped:
            _log.info("Stopped. The same command goes on from here.")
            return STOPPED


def _parser() -> Parser:
    parser = Parser(
        prog="python -m ami_beam.export",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument_group("what is exported").add_argument
    add("--bootstrap_servers", metavar="HOST:PORT,…", help="Kafka brokers")
    add("--kafka_config", nargs="+", metavar="KEY=VALUE", help="client settings, as of ami_beam.run")
    add("--kafka_config_file", metavar="FILE", help="the same as a file: secrets belong there")
    add("--topic", metavar="NAME", help=f"such as {READS_TOPIC}")
    add(
        "--start",
        default="earliest",
        metavar="earliest|TIME|P:OFFSET,…",
        help="first record: the oldest, the first of each partition with this record time, or offsets of partitions, of"
        " which then no others are read (earliest)",
    )
    add(
        "--end",
        default="latest",
        metavar="latest|TIME|P:OFFSET,…",
        help="the record behind the last: the topic's end when the export began, or as for --start (latest)",
    )
    add = parser.add_argument_group("files").add_argument
    add("--output", metavar="FOLDER|FILE", help="a folder, or a file with a name that ends in .jsonl or .jsonl.gz")
    add("--file_period", default="1h", metavar="DURATION", help="record time that a file in a folder holds (1h)")
    add("--file_size", default="256MB", metavar="SIZE", help="of lines, after which another file begins (256MB)")
    add("--compression", default="gz", metavar="gz|none", help="of files in a folder (gz)")
    add("--overwrite", action="store_true", help="begin anew where the output holds an export already")
    add = parser.add_argument_group("result").add_argument
    add("--verify", action="store_true", help="read the files in --output instead, and say what is missing or damaged")
    add("--json", action="store_true", help="JSON on standard output instead of a sentence")
    return parser


def task_of(values: dict[str, str]) -> Task:
    """The checked command line. Raises OptionError."""
    topic = values["topic"] or ""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", topic):
        problem = "is not a topic name" if topic else "is missing"
        raise OptionError(
            "--topic", values["topic"], problem, "letters, digits, '.', '_' and '-'", f"--topic={READS_TOPIC}"
        )
    config = kafka_config(values["kafka_config"] or (), values["kafka_config_file"])
    servers = bootstrap_servers_of(
        values["bootstrap_servers"] or config.pop("bootstrap.servers", None), "kafka", ("files",)
    )
    assert servers is not None
    config.pop("bootstrap.servers", None)
    begin, end = _place("--start", values["start"], "earliest"), _place("--end", values["end"], "latest")
    _check_order(begin, end, values)
    return Task(
        topic,
        begin,
        end,
        values["start"],
        values["end"],
        _output(values["output"]),
        duration_of(values, "file_period", "1h", least=MICROS_PER_SECOND),
        _size(values["file_size"]),
        choice(values, "compression", ("gz", "none")),
        bool(values["overwrite"]),
        bool(values["json"]),
        servers,
        config,
    )


def _place(option: str, text: str, whole: str) -> Place:
    if text == whole:
        return None
    if re.fullmatch(r"\d{1,6}:\d{1,18}(,\d{1,6}:\d{1,18})*", text):
        pairs = [each.split(":") for each in text.split(",")]
        offsets = {int(partition): int(offset) for partition, offset in pairs}
        if len(offsets) < len(pairs):
            raise OptionError(option, text, "names a partition twice", "each once", f"{option}=0:1200,1:900")
        return offsets
    return instant_of(option, text, f"{whole}, a time with a zone, or offsets such as 0:1200,1:900")


def _check_order(begin: Place, end: Place, values: dict[str, str]) -> None:
    wrong = False
    if isinstance(begin, int) and isinstance(end, int):
        wrong = begin >= end
    elif isinstance(begin, dict) and isinstance(end, dict):
        if begin.keys() != end.keys():
            problem = f"does not name the partitions of --start={values['start']}"
            raise OptionError("--end", values["end"], problem, "an end for each of them", "--end=0:5000,1:5000")
        wrong = any(begin[partition] >= end[partition] for partition in begin)
    if wrong:
        raise OptionError("--end", values["end"], f"is not after --start={values['start']}", "a later end")


def _output(path: str | None) -> str:
    if path is None:
        allowed = "a folder, or a file whose name ends in .jsonl or .jsonl.gz"
        raise OptionError("--output", None, "is missing: where the files are", allowed, "--output=history/reads")
    if not is_folder(path):
        if os.path.isdir(path):
            raise OptionError("--output", path, "is a folder", "a name without .jsonl", "--output=history/reads")
        output_of(os.path.dirname(path) or ".")
        return path
    return output_of(path)


def _size(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,6})(KB|MB|GB)", text)
    if match is None or int(match[1]) == 0:
        raise OptionError("--file_size", text, "is not a size", "a whole number with KB, MB or GB", "--file_size=256MB")
    return int(match[1]) * _SIZES[match[2]]


def _export(task: Task) -> Manifest:
    inspect(task.servers, task.config, [task.topic], [], native=True)
    connection = {**task.config, "bootstrap.servers": task.servers}
    cluster = AdminClient(librdkafka(connection)).list_topics(task.topic, timeout=TIMEOUT_SECONDS).cluster_id
    request = Request(
        task.topic,
        cluster or "",
        task.start_text,
        task.end_text,
        format_duration(task.file_period),
        task.file_size,
        task.compression,
    )
    export = TopicExport(connection, task.output, Cut(task.file_period // MICROS_PER_MILLI, task.file_size))
    manifest = export.plan(request, task.begin, task.end, task.overwrite)
    if manifest.complete:
        _log.info("The export is complete already; --overwrite begins anew.")
    else:
        export.run(manifest)
    return manifest


def _tell(manifest: Manifest, task: Task) -> None:
    if task.json:
        print(json.dumps(_summary(manifest, task.output, [])))
        return
    print(
        f"{task.output}: {manifest.records:,} records of {manifest.request.topic} in {len(manifest.files):,} files,"
        f" {manifest.bytes / 1e6:,.1f} MB."
    )


def _verify(output: str, as_json: bool) -> int:
    manifest, problems = check_export(output)
    if as_json:
        print(json.dumps(_summary(manifest, output, problems)))
    elif problems:
        print("\n".join(problems))
    else:
        assert manifest is not None
        print(
            f"{output}: complete. {manifest.records:,} records of {manifest.request.topic} in"
            f" {len(manifest.files):,} files; every offset of the range is accounted for."
        )
    return INCOMPLETE if problems else DONE


def _summary(manifest: Manifest | None, output: str, problems: list[str]) -> dict[str, object]:
    return {
        "output": output,
        "complete": manifest is not None and manifest.complete and not problems,
        "records": 0 if manifest is None else manifest.records,
        "files": 0 if manifest is None else len(manifest.files),
        "bytes": 0 if manifest is None else manifest.bytes,
        "problems": problems,
    }


if __name__ == "__main__":
    leave(main())
