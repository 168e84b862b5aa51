"""Splits reads of longer intervals than a window among the windows that they cover."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam
from apache_beam.metrics import Metrics

from ami_beam.long_reads import apportioned, is_long
from ami_beam.read_columns import ReadColumns
from ami_beam.settings import Settings
from transforms.decode_reads import METRICS


class ApportionReads(beam.PTransform):
    """Every read comes out once; an INTERVAL read longer than the window, as a part for every window it overlaps.

    A part has the interval in which both overlap, that share of the read's energies, and `apportioned`; all else is the
    read's. So a part counts, wins and loses in its window as a read of that interval does, also against reads of
    another length: nothing is counted twice where a meter sends both.

    A read longer than `longest_interval` stays as it is, and belongs to the window of its interval_end.

    Counter: apportioned_reads, reads that were split.

    Args:
      settings: window and longest interval.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, reads: beam.PCollection[ReadColumns]) -> beam.PCollection[ReadColumns]:
        return reads | "Split" >> beam.ParDo(_ApportionDoFn(self._settings)).with_output_types(ReadColumns)


class _ApportionDoFn(beam.DoFn):
    def __init__(self, settings: Settings):
        self._settings = settings
        self._apportioned = Metrics.counter(METRICS, "apportioned_reads")

    def process(self, reads: ReadColumns) -> Iterator[ReadColumns]:
        self._apportioned.inc(int(is_long(reads, self._settings).sum()))
        yield apportioned(reads, self._settings)
