"""Writes a topic's range to replay files: every record once, and never half a file under its own name."""

from __future__ import annotations

import hashlib
import logging
import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from apache_beam.io.filesystems import FileSystems
from confluent_kafka import Message

from ami_beam.codecs.replay_lines import lines_of, size_of, ts_ms_of
from ami_beam.instants import MICROS_PER_MILLI, format_instant
from ami_beam.io.export_manifest import (
    PARTIAL,
    ExportedFile,
    ExportedPartition,
    FileSpan,
    Manifest,
    Request,
    create,
    is_folder,
    manifest_path,
    read_manifest,
    settle,
    write_manifest,
)
from ami_beam.io.kafka_period import Place, Span, read_spans, spans_of

_LINES = 2_000
"""Written together."""
_MANIFEST_SECONDS = 5.0
"""Between writes of the manifest: what was written since is done again after a crash."""
_log = logging.getLogger(__name__)


class OtherExportError(ValueError):
    """The place holds another export than the one that was asked for; says in what they differ."""


@dataclass(frozen=True)
class Cut:
    """Where a new file begins."""

    period_ms: int
    """Of record time: of a partition no file has records of two of them, but for records that came out of order."""
    size: int
    """About so many bytes of lines."""


class TopicExport:
    """An export to one place: goes on with what an interrupted one has left there.

    Which records a file holds depends on the topic and the request alone, so a file that is written again is the same.

    Args:
      config: client settings with bootstrap.servers, as the Kafka client of Java has them. Read committed.
      output: a folder; or a file, which then holds all partitions one after the other as they were read.
    """

    def __init__(self, config: Mapping[str, str], output: str, cut: Cut) -> None:
        self._config = config
        self._output = output
        self._cut = cut
        self._manifest_path = manifest_path(output)
        self._written_at = 0.0

    def plan(self, request: Request, begin: Place, end: Place, overwrite: bool) -> Manifest:
        """What is to be done, and what of it an earlier attempt has done.

        Raises OtherExportError, ManifestError, PeriodError, and KafkaException where the broker refuses.
        """
        folder = self._output if is_folder(self._output) else FileSystems.split(self._output)[0]
        if folder and not FileSystems.exists(folder):
            with suppress(OSError):  # a bucket has no folders
                FileSystems.mkdirs(folder)
        known = read_manifest(self._manifest_path)
        if known is not None and overwrite:
            gone = [
                path
                for path in (FileSystems.join(folder, file.name) for file in known.files)
                if FileSystems.exists(path)
            ]
            FileSystems.delete([self._manifest_path, *gone])
            known = None
        if known is not None:
            _check_same(known.request, request, self._output)
            _log.info("Going on with the export of %s: %s records are there.", self._output, f"{known.records:,}")
            return known
        spans = spans_of(self._config, request.topic, begin, end)
        if isinstance(begin, Mapping):
            for partition, offset in begin.items():
                if partition in spans and spans[partition][0] > offset:
                    first = spans[partition][0]
                    _log.warning("Partition %d begins with offset %d: those before are deleted.", partition, first)
        manifest = Manifest(request, _now(), [ExportedPartition(each, *span) for each, span in spans.items()])
        write_manifest(self._manifest_path, manifest)
        return manifest

    def run(self, manifest: Manifest) -> None:
        """Write what is missing. Whatever ends it, files that are not complete are removed again."""
        self._remove_partial()
        done = {span.partition: span.end_offset for file in manifest.files for span in file.spans}
        unread = {
            each.partition: (done.get(each.partition, each.first_offset), each.end_offset)
            for each in manifest.partitions
        }
        files = _OneFile if not is_folder(self._output) else _FilesOfPartitions
        writing = files(self._output, manifest, self._cut, unread)
        progress = _Progress(manifest, unread)
        try:
            for messages in read_spans(self._config, manifest.request.topic, unread, progress.tell):
                writing.write(messages)
                progress.seen(messages[-1])
                if time.monotonic() > self._written_at + _MANIFEST_SECONDS:
                    self._save(manifest)
            writing.end()
            manifest.complete, manifest.ended_at = True, _now()
        finally:
            writing.abandon()
            self._save(manifest)

    def _save(self, manifest: Manifest) -> None:
        write_manifest(self._manifest_path, manifest)
        self._written_at = time.monotonic()

    def _remove_partial(self) -> None:
        """What a killed attempt has left."""
        pattern = FileSystems.join(self._output, f"*{PARTIAL}") if is_folder(self._output) else self._output + PARTIAL
        left = [found.path for found in FileSystems.match([pattern])[0].metadata_list]
        if left:
            FileSystems.delete(left)


class _FileWriter:
    """A file in the making. Under its own name it is complete."""

    def __init__(self, path: str, period: int) -> None:
        self.period = period
        self.size = 0
        self._path = path
        self._file = create(path + PARTIAL)
        self._packer = zlib.compressobj(1, wbits=31) if path.endswith(".gz") else None
        self._hash = hashlib.sha256()
        self._bytes = 0
        self._waiting: list[Message] = []
        self._records: Counter[int] = Counter()
        self._first_ts: int | None = None
        self._last_ts: int | None = None

    def add(self, message: Message, ts_ms: int | None) -> None:
        self.size += size_of(message)
        self._records[message.partition() or 0] += 1
        if ts_ms is not None:
            self._first_ts = ts_ms if self._first_ts is None else min(self._first_ts, ts_ms)
            self._last_ts = ts_ms if self._last_ts is None else max(self._last_ts, ts_ms)
        self._waiting.append(message)
        if len(self._waiting) >= _LINES:
            self._flush()

    def close(self, spans: Mapping[int, Span]) -> ExportedFile:
        """Give the file its name. `spans`: the offsets of which it holds all records."""
        self._flush()
        if self._packer is not None:
            self._put(self._packer.flush())
        settle(self._file)
        self._file.close()
        FileSystems.rename([self._path + PARTIAL], [self._path])
        held = [FileSpan(partition, *span, self._records[partition]) for partition, span in sorted(spans.items())]
        name = FileSystems.split(self._path)[1]
        return ExportedFile(
            name, self._records.total(), held, self._first_ts, self._last_ts, self._bytes, self._hash.hexdigest()
        )

    def abandon(self) -> None:
        with suppress(Exception):  # each file system has its own exceptions; the next attempt removes it
            self._file.close()
            FileSystems.delete([self._path + PARTIAL])

    def _flush(self) -> None:
        lines = lines_of(self._waiting)
        self._waiting = []
        self._put(lines if self._packer is None else self._packer.compress(lines))

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._bytes += len(data)


class _Files(Protocol):
    """The files that are written at a time."""

    def __init__(self, output: str, manifest: Manifest, cut: Cut, unread: Mapping[int, Span]) -> None: ...

    def write(self, messages: Sequence[Message]) -> None: ...

    def end(self) -> None:
        """All records were written."""

    def abandon(self) -> None:
        """Remove what is not complete."""


class _FilesOfPartitions(_Files):
    def __init__(self, output: str, manifest: Manifest, cut: Cut, unread: Mapping[int, Span]) -> None:
        self._output = output
        self._manifest = manifest
        self._cut = cut
        self._end = ".jsonl.gz" if manifest.request.compression == "gz" else ".jsonl"
        self._unread = unread
        self._first = {partition: first for partition, (first, _) in unread.items()}
        """Offsets with which the files that are open, or the next ones, begin."""
        self._writers: dict[int, _FileWriter] = {}

    def write(self, messages: Sequence[Message]) -> None:
        for message in messages:
            partition, ts_ms = message.partition() or 0, ts_ms_of(message)
            writer = self._writers.get(partition)
            period = (ts_ms or 0) // self._cut.period_ms
            if writer is not None and (writer.size >= self._cut.size or period > writer.period):
                self._close(partition, message.offset() or 0)
                writer = None
            if writer is None:
                writer = self._writers[partition] = _FileWriter(self._path(message, period), period)
            writer.add(message, ts_ms)

    def end(self) -> None:
        for partition in sorted(self._writers):
            self._close(partition, self._unread[partition][1])

    def abandon(self) -> None:
        for writer in self._writers.values():
            writer.abandon()

    def _close(self, partition: int, end: int) -> None:
        first, self._first[partition] = self._first[partition], end
        self._manifest.add(self._writers[partition].close({partition: (first, end)}))
        del self._writers[partition]

    def _path(self, message: Message, period: int) -> str:
        began = datetime.fromtimestamp(period * self._cut.period_ms / 1000, UTC)
        first = self._first[message.partition() or 0]
        name = f"{message.topic()}-{began:%Y%m%dT%H%M%SZ}-p{message.partition():05d}-o{first:020d}{self._end}"
        return FileSystems.join(self._output, name)


class _OneFile(_Files):
    def __init__(self, output: str, manifest: Manifest, cut: Cut, unread: Mapping[int, Span]) -> None:
        self._manifest = manifest
        self._unread = unread
        # An empty topic has a file, too.
        self._writer: _FileWriter | None = None if manifest.files else _FileWriter(output, 0)

    def write(self, messages: Sequence[Message]) -> None:
        assert self._writer is not None
        for message in messages:
            self._writer.add(message, ts_ms_of(message))

    def end(self) -> None:
        if self._writer is not None:
            self._manifest.add(self._writer.close(self._unread))
            self._writer = None

    def abandon(self) -> None:
        if self._writer is not None:
            self._writer.abandon()


class _Progress:
    """Says now and then how far it is, and how long the rest takes."""

    def __init__(self, manifest: Manifest, unread: Mapping[int, Span]) -> None:
        self._manifest = manifest
        self._before = sum(
            max(first - each.first_offset, 0) for each in manifest.partitions for first, _ in [unread[each.partition]]
        )
        self._began = time.monotonic()
        self._last: Message | None = None

    def seen(self, message: Message) -> None:
        self._last = message

    def tell(self, count: int, total: int) -> None:
        """Args: records of this attempt so far, and at most."""
        took = time.monotonic() - self._began
        rate = count / max(took, 0.001)
        ts_ms = None if self._last is None else ts_ms_of(self._last)
        _log.info(
            "%.0f%%: %s of up to %s records, %s/s, %d files%s, %s to go.",
            100 * (self._before + count) / max(self._before + total, 1),
            f"{self._before + count:,}",
            f"{self._before + total:,}",
            f"{rate:,.0f}",
            len(self._manifest.files),
            "" if ts_ms is None else f", record time {format_instant(ts_ms * MICROS_PER_MILLI)}",
            f"{(total - count) / rate:,.0f} s" if count else "unknown",
        )


def _check_same(known: Request, request: Request, output: str) -> None:
    for name in Request.__struct_fields__:
        was, now = getattr(known, name), getattr(request, name)
        if was != now:
            raise OtherExportError(f"{output} holds an export with {name}={was}, and now it is {name}={now}")


def _now() -> str:
    return format_instant(time.time_ns() // 1_000)
