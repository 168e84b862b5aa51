"""Validated reads and days of meters as Avro object container files, by day and hour.

Beam's `fileio.WriteToFiles` closes a file for every pane of a window; rows of the global window would come in one file
a bundle, thousands an hour. So rows are gathered in state, and a file is written of many.
"""

from __future__ import annotations

import json
import time
import uuid
from binascii import crc32
from collections.abc import Iterable, Iterator
from datetime import timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Any

import apache_beam as beam
import fastavro
import msgspec
import pytz
from apache_beam.coders import VarIntCoder
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import GlobalWindow, GlobalWindows
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct, field
from msgspec.structs import asdict

from ami_beam.codecs.billing_batches import reads_of
from ami_beam.coders import MsgspecCoder, carries
from ami_beam.local_days import EPOCH
from ami_beam.records import MeterDay, ValidatedBatch, ValidatedRead
from ami_beam.schemas import schema_text
from transforms.decode_reads import METRICS

MOST_ROWS = 100_000
"""Of a file; a few megabytes."""
WRITERS = 4
"""Files of one hour that may be written at a time."""
READS, METER_DAYS = "reads", "meter_days"
_TABLES = {READS: "validated_read", METER_DAYS: "meter_day"}


class FileRows(Struct, array_like=True, gc=False):
    """Rows that get into one file."""

    reads: list[ValidatedRead] = field(default_factory=list)
    days: list[MeterDay] = field(default_factory=list)


carries(FileRows)


class WriteAvroFiles(beam.PTransform):
    """Every row gets into at least one file, which is there as a whole or not at all.

    `FOLDER/reads/day=2026-03-03/hour=14/….avro` has reads by the day and hour at which their interval begins,
    `FOLDER/meter_days/day=2026-03-03/….avro` days of meters. Of the rows of one identity the one with the greatest
    as_of counts, as on the topic. A file is written under a name that begins with a dot and then renamed. Its name is
    made of its rows: the same rows written again after a failure are the same file, others may be in two.

    A live run writes what it has gathered for a while, or 100,000 rows; a replay when it ends. What has been
    gathered so far is state: a job that goes on from a savepoint writes it.

    Args:
      folder: where; made if it is not there. Any of Beam's file systems.
      zone: whose days and hours.
      gather_seconds: how long a live run gathers rows; None where they end.
    """

    def __init__(self, folder: str, zone: str, gather_seconds: float | None) -> None:
        super().__init__()
        self._folder = folder
        self._zone = zone
        self._gather = _GatherDoFn(gather_seconds)

    def expand(self, batches: beam.PCollection[ValidatedBatch]) -> beam.PCollection[str]:
        keyed = beam.FlatMap(by_file, self._zone).with_output_types(tuple[str, FileRows])
        gathered = beam.ParDo(self._gather).with_output_types(tuple[str, FileRows])
        return (
            batches
            | "Files own no window" >> beam.WindowInto(GlobalWindows())
            | "By file" >> keyed
            | "Gather" >> gathered
            | "Write" >> beam.ParDo(_WriteDoFn(self._folder)).with_output_types(str)
        )


def by_file(batch: ValidatedBatch, zone: str) -> Iterator[tuple[str, FileRows]]:
    """The rows of a batch by the folder that they belong into and the one of its writers."""
    found: dict[str, FileRows] = {}
    for read in reads_of(batch):
        folder = f"{READS}/{hour_folder(read.interval_start, zone)}"
        found.setdefault(f"{folder}/{crc32(read.meter_id.encode()) % WRITERS}", FileRows()).reads.append(read)
    for row in batch.days:
        key = f"{METER_DAYS}/day={row.day}/{crc32(row.meter_id.encode()) % WRITERS}"
        found.setdefault(key, FileRows()).days.append(row)
    yield from found.items()


@lru_cache(maxsize=1 << 12)
def hour_folder(instant: int, zone: str) -> str:
    """The day and hour that a clock in `zone` shows at an instant."""
    return f"{(EPOCH + timedelta(microseconds=instant)).astimezone(pytz.timezone(zone)):day=%Y-%m-%d/hour=%H}"


class _GatherDoFn(beam.DoFn):
    HELD = BagStateSpec("held", MsgspecCoder(FileRows))
    COUNT = ReadModifyWriteStateSpec("count", VarIntCoder())
    DUE = TimerSpec("due", TimeDomain.REAL_TIME)
    END = TimerSpec("end", TimeDomain.WATERMARK)

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds

    def process(
        self,
        element: tuple[str, FileRows],
        held: Any = beam.DoFn.StateParam(HELD),
        count: Any = beam.DoFn.StateParam(COUNT),
        due: Any = beam.DoFn.TimerParam(DUE),
        end: Any = beam.DoFn.TimerParam(END),
    ) -> Iterator[tuple[str, FileRows]]:
        key, rows = element
        before = count.read() or 0
        after = before + len(rows.reads) + len(rows.days)
        if after >= MOST_ROWS:
            yield key, _joined([*held.read(), rows])
            held.clear()
            count.clear()
            return
        held.add(rows)
        count.write(after)
        if before == 0:
            # A live run comes to its end, too, when it is drained.
            end.set(GlobalWindow().max_timestamp())
            if self._seconds is not None:
                due.set(Timestamp(time.time() + self._seconds))

    @on_timer(DUE)
    def on_due(
        self,
        key: str = beam.DoFn.KeyParam,  # type: ignore[assignment]
        held: Any = beam.DoFn.StateParam(HELD),
        count: Any = beam.DoFn.StateParam(COUNT),
    ) -> Iterator[tuple[str, FileRows]]:
        return self._given(key, held, count)

    @on_timer(END)
    def on_end(
        self,
        key: str = beam.DoFn.KeyParam,  # type: ignore[assignment]
        held: Any = beam.DoFn.StateParam(HELD),
        count: Any = beam.DoFn.StateParam(COUNT),
    ) -> Iterator[tuple[str, FileRows]]:
        return self._given(key, held, count)

    def _given(self, key: str, held: Any, count: Any) -> Iterator[tuple[str, FileRows]]:
        rows = _joined(held.read())
        held.clear()
        count.clear()
        if rows.reads or rows.days:
            yield key, rows


def _joined(parts: Iterable[FileRows]) -> FileRows:
    joined = FileRows()
    for part in parts:
        joined.reads += part.reads
        joined.days += part.days
    return joined


class _WriteDoFn(beam.DoFn):
    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._schemas: dict[str, Any] = {}
        self._files = Metrics.counter(METRICS, "avro_files")
        self._rows = Metrics.counter(METRICS, "avro_file_rows")

    def setup(self) -> None:
        self._schemas = {table: fastavro.parse_schema(json.loads(schema_text(name))) for table, name in _TABLES.items()}

    def process(self, element: tuple[str, FileRows]) -> Iterator[str]:
        place, batch = element
        table, *folders = place.split("/")[:-1]
        rows: list[Any] = sorted(batch.reads, key=_read_order) + sorted(batch.days, key=_day_order)
        folder = FileSystems.join(self._folder, table, *folders)
        _make(folder)
        path = write_file(folder, rows, self._schemas[table])
        self._files.inc()
        self._rows.inc(len(rows))
        yield path


def write_file(folder: str, rows: list[Any], schema: Any) -> str:
    """A complete file of these rows. Returns its path."""
    digest = sha256(msgspec.msgpack.encode(rows)).digest()
    path = FileSystems.join(folder, f"{digest[:12].hex()}.avro")
    part = FileSystems.join(folder, f".{digest[:12].hex()}.{uuid.uuid4().hex[:8]}.part")
    with FileSystems.create(part, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
        # A marker made of the rows makes the same file of the same rows.
        fastavro.writer(stream, schema, map(asdict, rows), codec="deflate", sync_marker=digest[:16])
    if FileSystems.exists(path):
        FileSystems.delete([part])
    else:
        FileSystems.rename([part], [path])
    return path


def _make(folder: str) -> None:
    if not FileSystems.exists(folder):
        try:
            FileSystems.mkdirs(folder)
        except OSError:
            # Another writer was faster.
            if not FileSystems.exists(folder):
                raise


def _read_order(row: ValidatedRead) -> tuple[str, int, int, int]:
    return row.meter_id, row.interval_end, row.as_of, row.revision


def _day_order(row: MeterDay) -> tuple[str, str, int, int]:
    return row.meter_id, row.day, row.as_of, row.revision
