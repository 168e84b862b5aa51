"""What an export holds, as a file beside its data: it tells a replay and `ami_beam.export --verify` what is missing."""

from __future__ import annotations

import io
import os
from collections.abc import Container
from contextlib import suppress
from typing import Any

import msgspec
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from msgspec import Struct, field

MANIFEST = "_manifest.json"
"""Of a folder. Replays take what begins with an underscore for no data."""
PARTIAL = ".part"
"""At the end of the name of a file that is not complete."""


class FileSpan(Struct):
    """Offsets of a partition that a file holds every record of."""

    partition: int
    first_offset: int
    end_offset: int
    """The one behind the last. Between them some may be missing that Kafka has no record for."""
    records: int


class ExportedFile(Struct):
    """A file that is complete."""

    name: str
    records: int
    spans: list[FileSpan]
    first_ts_ms: int | None
    """The least record time in it; None where no record has one."""
    last_ts_ms: int | None
    bytes: int
    sha256: str
    """Of the file as it is, packed."""


class ExportedPartition(Struct):
    """What is to be exported of a partition, decided when the export began."""

    partition: int
    first_offset: int
    end_offset: int
    """The one behind the last."""


class Request(Struct, frozen=True):
    """What was asked for: an interrupted export goes on only with the same."""

    topic: str
    cluster_id: str
    start: str
    end: str
    file_period: str
    file_size: int
    compression: str


class Manifest(Struct):
    """An export: what was asked for, what that means in offsets, and the files that are complete."""

    request: Request
    started_at: str
    partitions: list[ExportedPartition]
    files: list[ExportedFile] = field(default_factory=list)
    complete: bool = False
    ended_at: str | None = None
    records: int = 0
    """Of all files."""
    bytes: int = 0
    manifest_version: int = 1

    def add(self, file: ExportedFile) -> None:
        """Note a complete file."""
        self.files.append(file)
        self.records += file.records
        self.bytes += file.bytes


class ManifestError(ValueError):
    """A manifest that cannot be used: names it and the fix."""


def manifest_path(output: str) -> str:
    """Where the manifest of an export is: in its folder, or beside its only file."""
    folder, name = FileSystems.split(output)
    return FileSystems.join(output, MANIFEST) if is_folder(output) else FileSystems.join(folder, f"_{name}{MANIFEST}")


def is_folder(output: str) -> bool:
    """Whether an export goes to a folder; else to one file."""
    return not output.endswith((".jsonl", ".jsonl.gz"))


def read_manifest(path: str) -> Manifest | None:
    """None where there is none. Raises ManifestError for one that cannot be read."""
    if not FileSystems.exists(path):
        return None
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        text = file.read()
    try:
        return msgspec.json.decode(text, type=Manifest)
    except msgspec.MsgspecError as error:
        raise ManifestError(f"{path}: no manifest of an export: {error}. Export again with --overwrite") from None


def write_manifest(path: str, manifest: Manifest) -> None:
    """Replace it as a whole: there is always one that can be read."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
    with create(path + PARTIAL) as file:
        file.write(text)
        settle(file)
    FileSystems.rename([path + PARTIAL], [path])


def create(path: str) -> Any:
    """A new file for bytes as they are."""
    return FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED)


def settle(file: Any) -> None:
    """Have it on the disk, so that a complete name never stands for a file that a crash of the machine has cut off."""
    file.flush()
    with suppress(AttributeError, io.UnsupportedOperation):  # what is no file of this machine has no descriptor
        os.fsync(file.fileno())


def incompleteness(folder: str, names: Container[str]) -> str | None:
    """What is missing of the export in a folder, and the fix; None where all is there, or nobody can say.

    Args:
      names: of the files that are there.
    """
    try:
        manifest = read_manifest(FileSystems.join(folder, MANIFEST))
    except ManifestError as error:
        return str(error)
    except Exception:  # each file system has its own exceptions; a folder that cannot be read says so elsewhere
        return None
    if manifest is None:
        return None
    if not manifest.complete:
        return f"{folder}: the export of {manifest.request.topic} is not complete. Run its command again: it goes on"
    missing = [each.name for each in manifest.files if each.name not in names]
    if not missing:
        return None
    others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return f"{folder}: {missing[0]}{others} of its manifest is missing. Copy it, or export again with --overwrite"
