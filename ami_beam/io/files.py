"""Replays of exported Kafka records, and results as JSON lines: `--source=files` and `--sink=files`.

Bounded, for tests, backfills and what-if runs. Paths go through Beam's file systems, so `gs://…` works as a local path.
"""

from __future__ import annotations

import gzip
import os
import shutil
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import apache_beam as beam
import msgspec
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.pvalue import AsDict
from apache_beam.transforms.window import GlobalWindow, GlobalWindows, TimestampedValue
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from ami_beam.codecs.replay_lines import ReadLine, read_line
from ami_beam.instants import MAX_INSTANT, MICROS_PER_MILLI, MIN_INSTANT
from ami_beam.io.export_manifest import incompleteness
from ami_beam.records import KeyedRecords, RecordBatch

BATCH_RECORDS = 2_000
PART_BYTES = 64 << 20
_COPIED_BYTES = 1 << 20
WHOLE = -1
Part = tuple[int, str, int, int]
"""Number of the file, the file, first byte and the one behind the last, or `WHOLE`."""
_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".json", ".json.gz")


class ReplayError(ValueError):
    """A replay that cannot be read: names the file, the line and the fix."""


def replay_files(path: str) -> list[str]:
    """The files of a replay: one file, a glob, or a folder's JSON-lines files, by name; or several of these, in their
    order, with commas between them. Each file once.

    Raises ReplayError when there is none, and where a folder's manifest says that one is missing.
    """
    several = [path] if "," not in path or _is_there(path) else [each.strip() for each in path.split(",")]
    found: dict[str, None] = {}
    for each in several:
        files = _files_of(each)
        found.update(dict.fromkeys(files))
        # A pattern or a single file may be meant as a part.
        names = {FileSystems.split(file)[1] for file in files}
        problem = incompleteness(each, names) if each not in files and not _is_pattern(each) else None
        if problem is not None:
            raise ReplayError(problem)
    return list(found)


def _is_pattern(path: str) -> bool:
    return any(character in path for character in "*?[")


def _is_there(path: str) -> bool:
    try:
        return FileSystems.exists(path)
    except Exception:  # each file system has its own exceptions; those of the parts are raised
        return False


def _files_of(path: str) -> list[str]:
    files = [] if os.path.isdir(path) else [found.path for found in FileSystems.match([path])[0].metadata_list]
    if not files:
        inside = FileSystems.match([FileSystems.join(path, "*")])[0].metadata_list
        files = [found.path for found in inside if found.path.endswith(_SUFFIXES)]
    # As Hadoop has it: what begins so is no data.
    files = [file for file in files if file == path or not FileSystems.split(file)[1].startswith(("_", "."))]
    if not files:
        raise ReplayError(f"{path}: no such file, and no folder or pattern with {', '.join(_SUFFIXES)} files")
    return sorted(files)


def read_batches(
    files: Iterable[str], topic: str, batch_records: int = BATCH_RECORDS, first: int = 0
) -> Iterator[RecordBatch]:
    """The records of the files, in order, as batches of one topic each.

    A record without an offset gets its line number, from `first` and counted on over all files, so that provenance
    stays unique. Raises ReplayError for the first line that is not an exported record.
    """
    return _batches(_numbered(files, first), topic, batch_records)


def _numbered(files: Iterable[str], first: int) -> Iterator[tuple[str, int, bytes]]:
    """A line's file, where it is there, and its number over all files."""
    number = first
    for file in files:
        begin = number
        for text in file_lines(file):
            yield f"{file}, line {number - begin + 1}", number, text
            number += 1


def _batches(
    lines: Iterable[tuple[str, int | None, bytes]], topic: str, batch_records: int = BATCH_RECORDS
) -> Iterator[RecordBatch]:
    batch = RecordBatch(topic, [], [], [], [])
    for place, number, text in lines:
        if text.isspace():
            continue
        line = _line(place, text)
        offset = number if line.offset is None else line.offset
        if offset is None:
            raise ReplayError(
                f"{place}: has no offset, and the first line has one. Give one to all records, or to none"
            )
        record_topic = line.topic or topic
        if len(batch.offsets) >= batch_records or batch.topic != record_topic:
            if batch.offsets:
                yield batch
            batch = RecordBatch(record_topic, [], [], [], [])
        batch.partitions.append(line.partition or 0)
        batch.offsets.append(offset)
        # Kafka says -1 for "no timestamp"
        batch.record_times.append(None if line.ts_ms is None or line.ts_ms < 0 else line.ts_ms * MICROS_PER_MILLI)
        batch.values.append(line.value_b64)
    if batch.offsets:
        yield batch


def _line(place: str, text: bytes) -> ReadLine:
    try:
        return read_line(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ReplayError(
            f"{place}: not an exported Kafka record: {error}. Expected"
            ' {"ts_ms": 1782260966813, "value_b64": "e30="}, optionally topic, partition, offset'
        ) from None


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


def parts_of(files: Iterable[str], part_bytes: int = PART_BYTES) -> list[Part]:
    """What can be read by itself: a .gz as a whole, a plain file in pieces of about `part_bytes`."""
    parts: list[Part] = []
    for number, file in enumerate(files):
        size = FileSystems.match([file])[0].metadata_list[0].size_in_bytes
        if file.endswith(".gz") or size <= part_bytes:
            parts.append((number, file, 0, WHOLE))
        else:
            begins = range(0, size, part_bytes)
            parts += [(number, file, begin, begin + part_bytes) for begin in begins]
    return parts


def lines_within(file: str, begin: int, end: int) -> Iterator[tuple[str, int | None, bytes]]:
    """The lines of a plain file that begin in [begin, end), each with its place; their numbers are not known."""
    with open_plain_or_gz(file) as content:
        position = begin
        if begin:
            # From the byte before: a line that begins right here is of this piece.
            content.seek(begin - 1)
            position += len(content.readline()) - 1
        while position < end:
            text = content.readline()
            if not text:
                return
            yield f"{file}, byte {position}", None, text
            position += len(text)


class _CountLinesWithoutOffsets(beam.DoFn):
    """(number of the file, its lines), where its records have no offsets, which line numbers then stand for."""

    def process(self, part: Part) -> Iterator[tuple[int, int]]:
        number, file, begin, _ = part
        if begin:
            return
        lines = file_lines(file)
        for at, text in enumerate(lines):
            if not text.isspace():
                if _line(f"{file}, line {at + 1}", text).offset is None:
                    yield number, at + 1 + sum(1 for _ in lines)
                return


class _ReadPart(beam.DoFn):
    def __init__(self, topic: str) -> None:
        self._topic = topic

    def process(self, part: Part, unnumbered: dict[int, int]) -> Iterator[Any]:
        number, file, begin, end = part
        if number in unnumbered:
            if begin:
                return
            first = sum(count for other, count in unnumbered.items() if other < number)
            batches = read_batches([file], self._topic, first=first)
        elif end == WHOLE:
            places = ((place, None, text) for place, _, text in _numbered([file], 0))
            batches = _batches(places, self._topic)
        else:
            batches = _batches(lines_within(file, begin, end), self._topic)
        for batch in batches:
            yield TimestampedValue(batch, batch_timestamp(batch))


class _ReadFile(beam.DoFn):
    def __init__(self, file: str, topic: str) -> None:
        self._file = file
        self._topic = topic

    def process(self, element: bytes) -> Iterator[Any]:
        for batch in read_batches([self._file], self._topic):
            yield TimestampedValue(batch, batch_timestamp(batch))


class ReadReplay(beam.PTransform):
    """PCollection[RecordBatch] of a replay: every record once, none skipped, those of a file in their order.

    Files, and pieces of large plain ones, are spread over the workers and read in any order: no step behind this one
    depends on it (`tests/test_parallel_replay.py`). A bad line fails the run with its file and line.

    Records without an offset get their line's number, counted on over all files, which takes a look at each file
    before; a replay of one file needs none.
    """

    def __init__(self, path: str, topic: str, part_bytes: int = PART_BYTES) -> None:
        super().__init__()
        self._parts = parts_of(replay_files(path), part_bytes)
        self._topic = topic

    def expand(self, pbegin: Any) -> beam.PCollection[RecordBatch]:
        if len(self._parts) == 1:
            alone = beam.ParDo(_ReadFile(self._parts[0][1], self._topic)).with_output_types(RecordBatch)
            return pbegin | beam.Impulse() | "Read file" >> alone
        # Without the shuffle the parts would be read by the one worker that lists them.
        parts = pbegin | beam.Create(self._parts).with_output_types(Part) | beam.Reshuffle()
        counted = parts | "Lines without offsets" >> beam.ParDo(_CountLinesWithoutOffsets()).with_output_types(
            tuple[int, int]
        )
        read = beam.ParDo(_ReadPart(self._topic), AsDict(counted)).with_output_types(RecordBatch)
        return parts | "Read files" >> read


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
            | f"Write {topic}" >> _WriteLines(FileSystems.join(self._directory, f"{topic}.jsonl"))
            for topic, parts in outputs.items()
        }


class _WriteLines(beam.PTransform):
    """One file, in pieces that are joined at the end.

    Beam's WriteToText with one shard gathers all lines in one element: a month of them fits into no memory.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def expand(self, records: beam.PCollection[KeyedRecords]) -> beam.PCollection[str]:
        run = uuid.uuid4().hex
        # Without the shuffle every key of the step before would make a piece of its own.
        pieces = (
            records
            | "Once over all windows" >> beam.WindowInto(GlobalWindows())
            | beam.Reshuffle()
            | "Write pieces" >> beam.ParDo(_WritePiece(self._path, run)).with_output_types(tuple[int, str])
        )
        # So that there is a file also where there is no line.
        empty = records.pipeline | beam.Impulse() | beam.Map(_no_piece).with_output_types(tuple[int, str])
        gathered = (pieces, empty) | beam.Flatten() | "All pieces" >> beam.GroupByKey()
        joined = gathered | "Join" >> beam.ParDo(_JoinPieces(self._path, run)).with_output_types(str)
        # Behind a shuffle: they are needed while joining may be tried again.
        removed = beam.ParDo(_RemovePieces(self._path, run)).with_output_types(str)
        return joined | "Joined" >> beam.Reshuffle() | "Remove pieces" >> removed


class _WritePiece(beam.DoFn):
    """(0, path) of a file with the lines of a bundle."""

    def __init__(self, path: str, run: str) -> None:
        self._prefix = _piece(path, run)
        self._path = ""
        self._file: Any = None

    def start_bundle(self) -> None:
        self._file = None

    def process(self, records: KeyedRecords) -> None:
        if self._file is None:
            self._path = f"{self._prefix}{uuid.uuid4().hex}"
            self._file = FileSystems.create(self._path, compression_type=CompressionTypes.UNCOMPRESSED)
        for value in records.values:
            self._file.write(value + b"\n")

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._file is not None:
            self._file.close()
            yield WindowedValue((0, self._path), MIN_TIMESTAMP, (GlobalWindow(),))


class _JoinPieces(beam.DoFn):
    def __init__(self, path: str, run: str) -> None:
        self._path = path
        self._prefix = _piece(path, run)

    def process(self, pieces: tuple[int, Iterable[str]]) -> Iterator[str]:
        whole = f"{self._prefix}whole"
        with FileSystems.create(whole, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            for piece in sorted(pieces[1]):
                if piece:
                    with FileSystems.open(piece, compression_type=CompressionTypes.UNCOMPRESSED) as content:
                        shutil.copyfileobj(content, file, _COPIED_BYTES)
        FileSystems.rename([whole], [self._path])
        yield self._path


class _RemovePieces(beam.DoFn):
    """Also those of attempts that failed."""

    def __init__(self, path: str, run: str) -> None:
        self._prefix = _piece(path, run)

    def process(self, path: str) -> Iterator[str]:
        left = [found.path for found in FileSystems.match([f"{self._prefix}*"])[0].metadata_list]
        if left:
            FileSystems.delete(left)
        yield path


def _piece(path: str, run: str) -> str:
    folder, name = FileSystems.split(path)
    return FileSystems.join(folder, f".{name}-{run}-")


def _no_piece(_: bytes) -> tuple[int, str]:
    return 0, ""
