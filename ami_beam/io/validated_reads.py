"""Published validated reads, from files (JSON lines or Avro) or from their topic, as columns."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import islice

import fastavro
import pyarrow as pa
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from ami_beam.codecs.validated_columns import AVRO_FIELDS, avro_columns, json_columns, wire_columns
from ami_beam.codecs.writer_schemas import WriterSchemas
from ami_beam.consumers import VALIDATED_TOPIC
from ami_beam.io.files import file_lines
from ami_beam.io.kafka_period import read_period
from ami_beam.reconcile_rows import BadRows, Problem, Problems, RowCounts

BLOCK_RECORDS = 50_000
_AVRO = b"Obj\x01"
_SUFFIXES = (".jsonl", ".jsonl.gz", ".avro")


def validated_files(path: str) -> list[str]:
    """A file, those of a pattern, or a folder's with validated reads in them, by name; none where there are none."""
    if not os.path.isdir(path):
        found = sorted(each.path for each in FileSystems.match([path])[0].metadata_list)
        if found:
            return found
    inside = FileSystems.match([FileSystems.join(path, f"*{VALIDATED_TOPIC}*")])[0].metadata_list
    return sorted(each.path for each in inside if each.path.endswith(_SUFFIXES))


def read_files(files: list[str], counts: RowCounts, problems: Problems) -> Iterator[pa.RecordBatch]:
    """The reads of the files, in order. Raises BadRows, and ReplayError for a damaged file."""
    for file in files:
        with FileSystems.open(file, compression_type=CompressionTypes.UNCOMPRESSED) as start:
            is_avro = start.read(len(_AVRO)) == _AVRO
        yield from (_read_avro if is_avro else _read_json)(file, counts, problems)


def _read_json(file: str, counts: RowCounts, problems: Problems) -> Iterator[pa.RecordBatch]:
    numbered = enumerate(file_lines(file), 1)
    while chunk := list(islice(numbered, BLOCK_RECORDS)):
        chunk = [each for each in chunk if not each[1].isspace()]
        found: list[Problem] = []

        def bad(number: int, text: str, chunk: list[tuple[int, bytes]] = chunk, found: list[Problem] = found) -> None:
            found.append(Problem(f"{file}, line {chunk[number][0]}", _no_read(text)))

        batch = json_columns([line for _, line in chunk], bad)
        counts.read += batch.num_rows
        problems.take(found)
        yield batch


def _read_avro(file: str, counts: RowCounts, problems: Problems) -> Iterator[pa.RecordBatch]:
    number = 0
    with FileSystems.open(file, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
        try:
            reader = fastavro.reader(stream)
            schema = reader.writer_schema
            names = {each["name"] for each in schema.get("fields", ())} if isinstance(schema, dict) else set()
            missing = [name for name in AVRO_FIELDS if name not in names]
            if missing:
                raise BadRows(f"{file}: its records have no field {missing[0]}; they are no validated reads")
            while records := list(islice(reader, BLOCK_RECORDS)):
                found: list[Problem] = []

                def bad(place: int, text: str, first: int = number, found: list[Problem] = found) -> None:
                    found.append(Problem(f"{file}, record {first + place + 1}", _no_read(text)))

                batch = avro_columns(records, bad)  # type: ignore[arg-type]
                counts.read += batch.num_rows
                number += len(records)
                problems.take(found)
                yield batch
        except (EOFError, fastavro.schema.SchemaParseException, ValueError, KeyError) as error:
            if isinstance(error, BadRows):
                raise
            raise BadRows(f"{file}: damaged Avro behind record {number}: {error}. Export it again") from None


def read_topic(
    config: Mapping[str, str], topic: str, start: int | None, schemas: WriterSchemas | None, counts: RowCounts,
    problems: Problems,
) -> Iterator[pa.RecordBatch]:  # fmt: skip
    """The reads of the topic up to its end as it is now, in JSON and Avro, of committed transactions only.

    Raises what `read_period` does, BadRows, and RegistryError where nobody says what a schema is.
    """
    messages = read_period({**config, "isolation.level": "read_committed"}, topic, start, None)
    while several := list(islice(messages, BLOCK_RECORDS)):
        several = [message for message in several if message.value() is not None]
        found: list[Problem] = []

        def bad(number: int, text: str, several: list = several, found: list[Problem] = found) -> None:
            message = several[number]
            place = f"{topic}, partition {message.partition()}, offset {message.offset()}"
            found.append(Problem(place, _no_read(text)))

        for batch in wire_columns([message.value() or b"" for message in several], schemas, bad):
            counts.read += batch.num_rows
            yield batch
        problems.take(found)


def _no_read(text: str) -> str:
    return f"no record of {VALIDATED_TOPIC}: {text.replace(' - at `$.', ', field `')}"
