"""Rows of more meters than fit into memory, gathered by meter: parts on disk, each with all rows of its meters."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

MEMORY_ROWS = 2_000_000
"""So many rows are kept before any is written."""
BLOCK_ROWS = 500_000
"""Rows that are divided at once: a block of a part has one for every `PARTS` of them."""
PARTS = 200
"""Also so many files are open at once; some systems allow 256."""
METER = "meter_id"


class PartitionedRows:
    """Takes in batches of one schema, and gives them back in parts; a part's rows have the order they came in.

    Which part a meter is in depends on its name alone, so the same part of two sets of rows has the same meters.
    """

    def __init__(self, folder: Path, name: str, schema: pa.Schema) -> None:
        self._folder = folder
        self._name = name
        self._schema = schema
        self._held: list[pa.RecordBatch] = []
        self._held_rows = 0
        self._writers: list[pa.RecordBatchStreamWriter] = []
        self._files: list[pa.NativeFile] = []
        self.rows = 0
        self.on_disk = False

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in some rows. Raises OSError where they cannot be written."""
        self._held.append(batch)
        self._held_rows += batch.num_rows
        self.rows += batch.num_rows
        if self._held_rows >= (BLOCK_ROWS if self.on_disk else MEMORY_ROWS):
            self.write()

    def write(self) -> None:
        """Put all rows so far on disk: their parts are `PARTS`, and else one."""
        if not self.on_disk:
            self.on_disk = True
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            for part in range(PARTS):
                self._files.append(pa.OSFile(str(self._path(part)), "wb"))
                self._writers.append(pa.ipc.new_stream(self._files[-1], self._schema, options=options))
        table = pa.Table.from_batches(self._held, self._schema)
        self._held, self._held_rows = [], 0
        for begin in range(0, table.num_rows, BLOCK_ROWS):
            block = table.slice(begin, BLOCK_ROWS).combine_chunks()
            parts = _parts(block[METER])
            block = block.take(pa.array(np.argsort(parts, kind="stable")))
            bounds = np.concatenate(([0], np.bincount(parts, minlength=PARTS).cumsum()))
            for part, writer in enumerate(self._writers):
                if bounds[part + 1] > bounds[part]:
                    writer.write_table(block.slice(bounds[part], bounds[part + 1] - bounds[part]))

    def close(self) -> None:
        """No more rows come. Also where taking them in has failed."""
        if self._writers and self._held:
            self.write()
        for each in (*self._writers, *self._files):
            each.close()
        self._writers, self._files = [], []

    def parts(self) -> Iterator[pa.Table]:
        """Each part, after `close`."""
        if not self.on_disk:
            yield pa.Table.from_batches(self._held, self._schema)
            return
        for part in range(PARTS):
            with pa.OSFile(str(self._path(part)), "rb") as file, pa.ipc.open_stream(file) as stream:
                yield stream.read_all()
            self._path(part).unlink()

    def _path(self, part: int) -> Path:
        return self._folder / f"{self._name}-{part}.arrow"


def _parts(meters: pa.ChunkedArray) -> np.ndarray:
    encoded = meters.combine_chunks().dictionary_encode()
    parts = np.fromiter(
        (zlib.crc32(meter.encode()) % PARTS for meter in encoded.dictionary.to_pylist()),
        np.uint8,
        len(encoded.dictionary),
    )
    return parts[encoded.indices.to_numpy()]
