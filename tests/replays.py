"""Replays of the data set simbench-small through `python -m ami_beam.run`, shared by the tests that look at its rows.

The data set lies beside the checkout; AMI_BEAM_SIMBENCH names another folder of the same shape.
"""

from __future__ import annotations

import atexit
import base64
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from ami_beam.codecs.json_outputs import OUTPUT_TOPICS
from ami_beam.consumers import OPTIONAL_TOPICS
from ami_beam.instants import MICROS_PER_MILLI
from ami_beam.records import RecordBatch

ROOT = Path(__file__).parents[1]
SIMBENCH = Path(os.environ.get("AMI_BEAM_SIMBENCH") or ROOT.parent / "shared" / "data" / "simbench-small")
READS = SIMBENCH / "reads.jsonl.gz"
EVENTS = SIMBENCH / "events.jsonl.gz"
METER_COUNTS = SIMBENCH / "transformer_meter_count.csv"
READS_TOPIC = "ami.headend.reads"
EVENTS_TOPIC = "ami.headend.events"

needs_simbench = pytest.mark.skipif(
    not (SIMBENCH / "compare.py").is_file(),
    reason=f"needs the data set simbench-small at {SIMBENCH} (AMI_BEAM_SIMBENCH names another place)",
)

Row = dict[str, Any]


@dataclass(frozen=True)
class Replay:
    """A replay that has ended well: its output folder, its log, and how long it took."""

    output: Path
    log: str
    seconds: float

    def lines(self, topic: str) -> list[str]:
        """The records of an output topic as they were written, sorted: files say nothing about order between keys."""
        return sorted((self.output / f"{topic}.jsonl").read_text(encoding="utf-8").splitlines())

    def rows(self, topic: str) -> list[Row]:
        return [json.loads(line) for line in self.lines(topic)]

    def all_lines(self) -> dict[str, list[str]]:
        return {topic: self.lines(topic) for topic in OUTPUT_TOPICS}

    def counters(self) -> dict[str, int]:
        (found,) = re.findall(r"Counters: (\{.*\})", self.log)
        return json.loads(found)

    def set_aside(self) -> Counter[str]:
        """Distinct records set aside (`used: false`), by topic."""
        letters = {
            (row["topic"], row["partition"], row["offset"])
            for row in self.rows("ami.deadletter")
            if row["used"] is False
        }
        return Counter(topic for topic, _, _ in letters)


def replay(
    *options: str,
    reads: Path = READS,
    events: Path = EVENTS,
    meter_counts: Path | None = METER_COUNTS,
    env: Mapping[str, str] | None = None,
    seconds: float = 300,
) -> Replay:
    """Run the product over exported records in a process of its own. Fails where it does not exit with 0."""
    output = Path(tempfile.mkdtemp(prefix="ami-beam-replay-"))
    atexit.register(shutil.rmtree, output, ignore_errors=True)
    command = [
        sys.executable, "-m", "ami_beam.run", "--runner=DirectRunner", "--source=files", "--sink=files",
        f"--reads={reads}", f"--events={events}", f"--output={output}", *options,
    ]  # fmt: skip
    if meter_counts is not None:
        command.append(f"--meter_counts={meter_counts}")
    begin = time.monotonic()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return Replay(output, done.stderr, time.monotonic() - begin)


@cache
def default_replay() -> Replay:
    """The whole data set with default options, once a session."""
    return replay()


@cache
def replay_with(*options: str) -> Replay:
    """The whole data set with these options, once a session."""
    return replay(*options)


@cache
def everything() -> Replay:
    """The whole data set with all that --also_publish can name, once a session."""
    return replay(f"--also_publish={','.join(OPTIONAL_TOPICS)}", "--customer_id=keep")


@cache
def left_closed_replay() -> Replay:
    """The whole data set with the windows of the article, once a session."""
    return replay("--window_closed=left")


def compare(output: Path) -> str:
    """What the data set's own compare.py says about an output folder; its last line is the verdict."""
    command = [sys.executable, str(SIMBENCH / "compare.py"), str(SIMBENCH), str(output)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout.strip()


def exported(path: Path) -> list[Row]:
    """The lines of an export, in arrival order."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write_export(path: Path, rows: Iterable[Row]) -> Path:
    """Write lines of an export, gzipped where the name says so."""
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text, compresslevel=1) if path.suffix == ".gz" else text)
    return path


def batches(path: Path, topic: str, size: int = 2_000) -> Iterator[RecordBatch]:
    """An export as the pipeline's sources give it; the offset of a record is its line, from 0."""
    numbered = enumerate(exported(path))
    while held := list(islice(numbered, size)):
        yield RecordBatch(
            topic,
            [0] * len(held),
            [number for number, _ in held],
            [row["ts_ms"] * MICROS_PER_MILLI for _, row in held],
            [None if row["value_b64"] is None else base64.b64decode(row["value_b64"]) for _, row in held],
        )
