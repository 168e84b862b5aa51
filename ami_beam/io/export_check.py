"""Holds the files of an export against its manifest."""

from __future__ import annotations

import hashlib
import io
import logging
import time
import zlib
from collections.abc import Iterator
from itertools import pairwise
from typing import BinaryIO, NamedTuple

import msgspec
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from ami_beam.codecs.replay_lines import read_line
from ami_beam.io.export_manifest import ExportedFile, Manifest, is_folder, manifest_path, read_manifest

_PROGRESS_SECONDS = 10
_log = logging.getLogger(__name__)


class Checked(NamedTuple):
    """What an export has, and what is wrong with it."""

    manifest: Manifest | None
    problems: list[str]


def check_export(output: str) -> Checked:
    """Read every file. No problem means: all records of the range are there, each once, as they were written.

    Raises ManifestError, and what reading raises.
    """
    path = manifest_path(output)
    manifest = read_manifest(path)
    if manifest is None:
        return Checked(None, [f"{path}: no manifest, so nobody can say what should be there"])
    problems = [] if manifest.complete else [f"{path}: the export was not brought to its end; run its command again"]
    folder = output if is_folder(output) else FileSystems.split(output)[0]
    told, read = time.monotonic(), 0
    for number, file in enumerate(manifest.files, 1):
        problems += _problems_of_file(FileSystems.join(folder, file.name), file, manifest.request.topic)
        read += file.records
        if time.monotonic() > told + _PROGRESS_SECONDS:
            told = time.monotonic()
            _log.info("Checked %d of %d files, %s records.", number, len(manifest.files), f"{read:,}")
    return Checked(manifest, problems + list(_gaps(manifest)))


def _gaps(manifest: Manifest) -> Iterator[str]:
    """Offsets of the range that no file has, or two have."""
    for each in manifest.partitions:
        spans = [span for file in manifest.files for span in file.spans if span.partition == each.partition]
        reached = each.first_offset
        for span in sorted(spans, key=lambda span: span.first_offset):
            if span.first_offset != reached:
                what = "are in no file" if span.first_offset > reached else "are in two files"
                between = f"{min(reached, span.first_offset)} to {max(reached, span.first_offset) - 1}"
                yield f"partition {each.partition}: offsets {between} {what}"
            reached = span.end_offset
        # A range without any record, such as the marks of transactions, has no file.
        if spans and manifest.complete and reached != each.end_offset:
            yield f"partition {each.partition}: offsets {reached} to {each.end_offset - 1} are in no file"


def _problems_of_file(path: str, file: ExportedFile, topic: str) -> list[str]:
    if not FileSystems.exists(path):
        return [f"{path}: missing, with {file.records:,} records"]
    try:
        with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as raw:
            content = _Hashing(raw)
            found = _offsets(_lines(content, path.endswith(".gz")), topic)
            content.rest()
    except (zlib.error, msgspec.MsgspecError, UnicodeDecodeError, _Damage) as error:
        return [f"{path}: damaged: {error}"]
    if content.hash.hexdigest() != file.sha256:
        return [f"{path}: {content.bytes:,} bytes that are not the {file.bytes:,} that were written (SHA-256 differs)"]
    problems = []
    for span in file.spans:
        offsets = found.pop(span.partition, [])
        ascending = all(one < other for one, other in pairwise(offsets))
        inside = not offsets or (span.first_offset <= offsets[0] and offsets[-1] < span.end_offset)
        if len(offsets) != span.records or not ascending or not inside:
            problems.append(
                f"{path}: {len(offsets):,} records of partition {span.partition}, and the manifest has"
                f" {span.records:,} in offsets {span.first_offset} to {span.end_offset - 1}"
            )
    problems += [f"{path}: records of partition {partition}, which should not be in it" for partition in sorted(found)]
    return problems


class _Damage(ValueError):
    """What is wrong with a file."""


class _Hashing:
    """A file as it is read, and the hash of that."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self.hash = hashlib.sha256()
        self.bytes = 0

    def read(self) -> bytes:
        data = self._raw.read(1 << 20)
        self.hash.update(data)
        self.bytes += len(data)
        return data

    def rest(self) -> None:
        while self.read():
            pass


def _lines(content: _Hashing, packed: bool) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(wbits=31) if packed else None
    left = b""
    while data := content.read():
        text = data if unpacker is None else unpacker.decompress(data)
        several = io.BytesIO(left + text).readlines()
        left = several.pop() if several and not several[-1].endswith(b"\n") else b""
        yield from several
    if left or (unpacker is not None and not unpacker.eof):
        raise _Damage("it ends in the middle")


def _offsets(lines: Iterator[bytes], topic: str) -> dict[int, list[int]]:
    """By partition, in the order of the file."""
    found: dict[int, list[int]] = {}
    for number, text in enumerate(lines, 1):
        line = read_line(text)
        if line.topic != topic or line.partition is None or line.offset is None:
            raise _Damage(f"line {number} is no record of {topic}")
        found.setdefault(line.partition, []).append(line.offset)
    return found
