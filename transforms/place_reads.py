"""Puts reads where the meter registry says that their meters hang, whatever the head-end says."""

from __future__ import annotations

from collections.abc import Iterator
from operator import ne
from typing import NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics
from msgspec import structs

from ami_beam.meter_registry import CurrentRegistry, MeterRegistry
from ami_beam.read_columns import ReadColumns, ints
from transforms.decode_reads import METRICS


class PlaceReads(beam.PTransform):
    """Every read comes out once, on the transformer and feeder that the registry has for its meter at interval_end.

    A read of a meter that is not registered, or not yet at that instant, is left as it is. Where a service point had
    several meters, `counts_as` names the one that all of them count as.

    Args:
      registry: where the newest good registry is.
      counted: whether to count; False where the same reads go through a second one.

    Counters: topology_mismatches, reads that said another transformer or feeder; unregistered_meters, reads that were
    left as they are; inactive_meter_reads, reads of meters that are INACTIVE, which are used all the same.
    """

    def __init__(self, registry: CurrentRegistry, counted: bool = True):
        super().__init__()
        self._registry = registry
        self._counted = counted

    def expand(self, reads: beam.PCollection[ReadColumns]) -> beam.PCollection[ReadColumns]:
        step = beam.ParDo(_PlaceDoFn(self._registry, self._counted)).with_output_types(ReadColumns)
        return reads | "Place" >> step


class _PlaceDoFn(beam.DoFn):
    def __init__(self, registry: CurrentRegistry, counted: bool):
        self._registry = registry
        self._counted = counted
        self._mismatches = Metrics.counter(METRICS, "topology_mismatches")
        self._unregistered = Metrics.counter(METRICS, "unregistered_meters")
        self._inactive = Metrics.counter(METRICS, "inactive_meter_reads")

    def process(self, reads: ReadColumns) -> Iterator[ReadColumns]:
        placed = place(reads, self._registry.current())
        if self._counted:
            self._mismatches.inc(placed.mismatches)
            self._unregistered.inc(placed.unregistered)
            self._inactive.inc(placed.inactive)
        yield placed.reads


class Placed(NamedTuple):
    """Reads on their transformers, and how many were not there before, are not registered, or of inactive meters."""

    reads: ReadColumns
    mismatches: int
    unregistered: int
    inactive: int


def place(reads: ReadColumns, registry: MeterRegistry) -> Placed:
    """The reads where the registry has their meters; the same object where all were there already."""
    rows, registered = registry.at(reads.meter_id, ints(reads.interval_end))
    unregistered = len(reads) - int(np.count_nonzero(registered))
    places = registry.place[rows]
    transformers = registry.transformers[places].tolist()
    feeders = registry.feeders[places].tolist()
    if unregistered:
        for read in np.flatnonzero(~registered).tolist():
            transformers[read], feeders[read] = reads.transformer_id[read], reads.feeder_id[read]
    inactive = int(np.count_nonzero(registry.inactive[rows] & registered))
    mismatches = 0
    changes: dict[str, list[str]] = {}
    if transformers != reads.transformer_id or feeders != reads.feeder_id:
        moved = map(ne, transformers, reads.transformer_id)
        fed_otherwise = map(ne, feeders, reads.feeder_id)
        mismatches = sum(map(bool.__or__, moved, fed_otherwise))
        changes = {"transformer_id": transformers, "feeder_id": feeders}
    if registry.counts_as is not None:
        others = np.where(registered, registry.counts_as[rows], -1)
        exchanged = np.flatnonzero(others >= 0)
        if len(exchanged):
            counts_as = list(reads.meter_id)
            for read, name in zip(exchanged.tolist(), registry.meters[others[exchanged]].tolist(), strict=True):
                counts_as[read] = name
            changes["counts_as"] = counts_as
    return Placed(structs.replace(reads, **changes) if changes else reads, mismatches, unregistered, inactive)
