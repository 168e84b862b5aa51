"""Replays of exported Kafka records, and results as JSON lines: `--source=files` and `--sink=files`.

Bounded, for tests, backfills and what-if runs. Paths go through Beam's file systems, so `gs://…` works as a local path.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import apache_beam as beam
import msgspec
from apache_beam.coders import BytesCoder
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.transforms.window import GlobalWindows, TimestampedValue
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Timestamp

from ami_beam.instants import MAX_INSTANT, MICROS_PER_MILLI, MIN_INSTANT
from ami_beam.records import KeyedRecords, RecordBatch

BATCH_RECORDS = 2_000
_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".json", ".json.gz")


class ReplayError(ValueError):
    """A replay that cannot be read: names the file, the line and the fix."""


class _Line(msgspec.Struct):
    """One exported record. `key` and unknown fields are ignored."""

    ts_ms: int | None
    value_b64: bytes | None
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None


def replay_files(path: str) -> list[str]:
    """The files of a replay in reading order: one file, a glob, or a folder's JSON-lines files, by name.

    Raises ReplayError when there is none.
    """
    files = [] if os.path.isdir(path) else [found.path for found in FileSystems.match([path])[0].metadata_list]
    if not files:
        inside = FileSystems.match([FileSystems.join(path, "*")])[0].metadata_list
        files = [found.path for found in inside if found.path.endswith(_SUFFIXES)]
    if not files:
        raise ReplayError(f"{path}: no such file, and no folder or pattern with {', '.join(_SUFFIXES)} files")
    return sorted(files)


def read_batches(files: Iterable[str], topic: str, batch_records: int = BATCH_RECORDS) -> Iterator[RecordBatch]:
    """The records of the files, in order, as batches of one topic each.

    A record without an offset gets its line number, from 0 and counted on over all files, so that provenance stays
    unique. Raises ReplayError for the first line that is not an exported record.
    """
    decode = msgspec.json.Decoder(_Line).decode
    number = 0
    batch = RecordBatch(topic, [], [], [], [])
    for file in files:
        first = number
        for text in file_lines(file):
            here, number = number, number + 1
            if text.isspace():
                continue
            try:
                line = decode(text)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise ReplayError(
                    f"{file}, line {here - first + 1}: not an exported Kafka record: {error}. Expected"
                    ' {"ts_ms": 1782260966813, "value_b64": "e30="}, optionally topic, partition, offset'
                ) from None
            record_topic = line.topic or topic
            if len(batch.offsets) >= batch_records or batch.topic != record_topic:
                if batch.offsets:
                    yield batch
                batch = RecordBatch(record_topic, [], [], [], [])
            batch.partitions.append(line.partition or 0)
            batch.offsets.append(here if line.offset is None else line.offset)
            # Kafka says -1 for "no timestamp"
            batch.record_times.append(None if line.ts_ms is None or line.ts_ms < 0 else line.ts_ms * MICROS_PER_MILLI)
            batch.values.append(line.value_b64)
    if batch.offsets:
        yield batch


def file_lines(file: str) -> Iterator[bytes]:
    """The lines of a file, plain or .gz, with their ends. Raises ReplayError for a damaged .gz."""
    with open_plain_or_gz(file) as content:
        yield from content


@contextmanager
def open_plain_or_gz(file: str) -> Iterator[BinaryIO]:
    """The content of a file, plain or .gz. Raises ReplayError for a damaged .gz when that is read."""
    # Not Beam's own decompression: it takes a truncated .gz for a shorter one, and records would be lost silently.
    try:
        with FileSystems.open(file, compression_type=CompressionTypes.UNCOMPRESSED) as raw:
            if file.endswith(".gz"):
                with gzip.GzipFile(fileobj=raw) as unpacked:
                    yield cast(BinaryIO, unpacked)
            else:
                yield raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ReplayError(f"{file}: damaged or truncated .gz: {error}. Export it again") from None


def batch_timestamp(batch: RecordBatch) -> Timestamp:
    """The event time of a batch: its smallest record time; the beginning of time when it has none."""
    known = [time for time in batch.record_times if time is not None]
    if not known:
        return MIN_TIMESTAMP
    return Timestamp(micros=min(max(min(known), MIN_INSTANT), MAX_INSTANT))


class _ReadFiles(beam.DoFn):
    def __init__(self, files: list[str], topic: str) -> None:
        self._files = files
        self._topic = topic

    def process(self, element: bytes) -> Iterator[Any]:
        for batch in read_batches(self._files, self._topic):
            yield TimestampedValue(batch, batch_timestamp(batch))


class ReadReplay(beam.PTransform):
    """PCollection[RecordBatch] of a replay: every record once, in file order, none skipped.

    One DoFn call streams all files from the first line to the last, without splitting, because arrival order is part
    of the data; the price is that reading does not run in parallel. A bad line fails the run with its file and line.
    """

    def __init__(self, path: str, topic: str) -> None:
        super().__init__()
        self._files = replay_files(path)
        self._topic = topic

    def expand(self, pbegin: Any) -> beam.PCollection[RecordBatch]:
        read = beam.ParDo(_ReadFiles(self._files, self._topic)).with_output_types(RecordBatch)
        return pbegin | beam.Impulse() | "Read files" >> read


class WriteOutputs(beam.PTransform):
    """`{topic: parts} | WriteOutputs(directory)`: one file `<topic>.jsonl` each, of PCollections of KeyedRecords.

    A file holds exactly the values that would go to Kafka, one a line, and exists also when there is none; files of
    an earlier run are replaced. For bounded sources only: a file is complete when the pipeline is.
    """

    def __init__(self, directory: str) -> None:
        super().__init__()
        self._directory = directory

    def expand(self, outputs: Mapping[str, tuple[beam.PCollection[KeyedRecords], ...]]) -> dict[str, Any]:
        return {
            topic: (parts[0] if len(parts) == 1 else parts | f"Parts of {topic}" >> beam.Flatten())
            | f"Values of {topic}" >> beam.FlatMap(_values).with_output_types(bytes)
            | f"Once over all windows of {topic}" >> beam.WindowInto(GlobalWindows())
            | f"Write {topic}"
            >> beam.io.WriteToText(
                FileSystems.join(self._directory, f"{topic}.jsonl"),
                num_shards=1,
                shard_name_template="",
                coder=BytesCoder(),
            )
            for topic, parts in outputs.items()
        }


def _values(records: KeyedRecords) -> list[bytes]:
    return records.values
