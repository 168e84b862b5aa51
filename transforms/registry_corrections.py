"""Says which windows a correction of the meter registry touches, so that what was published of them is revised."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec
from msgspec import Struct, field

from ami_beam.codecs.read_block import ReadBlock, correction
from ami_beam.coders import MsgspecCoder
from ami_beam.instants import MICROS_PER_HOUR
from ami_beam.long_reads import window_ends
from ami_beam.meter_registry import CurrentRegistry
from ami_beam.records import ReadProgress
from ami_beam.registry_changes import Moved, moved
from ami_beam.settings import Settings
from ami_beam.shards import ShardWindow, shard_of
from transforms.decode_reads import METRICS

AHEAD = MICROS_PER_HOUR
"""So far beyond now windows are told, too: until then all workers have the new version."""
_log = logging.getLogger(__name__)


class SeenRegistry(Struct, array_like=True, gc=False):
    """The version that was compared last, and what was corrected in the time of which reads may still come."""

    version: str
    corrections: list[tuple[int, list[str]]] = field(default_factory=list)
    """(end of its last window, transformers)."""


class RegistryCorrections(beam.PTransform):
    """For every window and shard that a correction of the registry touches, a block that names its transformers.

    Two versions are compared whenever the registry has changed: a meter that was on another transformer or feeder than
    it should have been, at an instant of which reads may still be revised (the allowed lateness), touches both of them.
    Transformers of an earlier correction are touched again by a later one of the same: their reads may have to go on.

    A correction that was made while the job was down, or before a worker was lost, is not seen as such: then the
    counter registry_corrections_missed grows, and reads count where they were put. Counter: registry_corrections,
    windows of transformers that were touched.

    Args:
      settings: windows, lateness and shards.
      registry: where the newest good registry is.
    """

    def __init__(self, settings: Settings, registry: CurrentRegistry):
        super().__init__()
        self._settings = settings
        self._registry = registry

    def expand(self, progress: beam.PCollection[ReadProgress]) -> beam.PCollection[tuple[ShardWindow, ReadBlock]]:
        return (
            progress
            | "Together" >> beam.Map(lambda each: (0, each)).with_output_types(tuple[int, ReadProgress])
            | f"Compare {self._settings.state_label()}"
            >> beam.ParDo(_CompareDoFn(self._settings, self._registry)).with_output_types(
                tuple[tuple[int, int], ReadBlock]
            )
        )


class _CompareDoFn(beam.DoFn):
    SEEN = ReadModifyWriteStateSpec("seen_registry", MsgspecCoder(SeenRegistry))

    def __init__(self, settings: Settings, registry: CurrentRegistry):
        self._settings = settings
        self._registry = registry
        self._compared = ""
        self._touched = Metrics.counter(METRICS, "registry_corrections")
        self._missed = Metrics.counter(METRICS, "registry_corrections_missed")

    def process(
        self, element: tuple[int, ReadProgress], seen_state: Any = beam.DoFn.StateParam(SEEN)
    ) -> Iterator[tuple[ShardWindow, ReadBlock]]:
        registry = self._registry.current()
        if registry.version == self._compared:
            return
        self._compared = registry.version
        seen: SeenRegistry | None = seen_state.read()
        if seen is None or seen.version == registry.version:
            self._registry.hold(registry)
            if seen is None:
                seen_state.write(SeenRegistry(registry.version))
            return
        before = self._registry.held(seen.version)
        self._registry.hold(registry)
        if before is None:
            self._missed.inc()
            _log.warning(
                "The meter registry was changed while nobody looked at it: what it corrects of the past is not revised."
                " Reads count where they were put when they came"
            )
            seen_state.write(SeenRegistry(registry.version, seen.corrections))
            return
        now = element[1].greatest_record_time
        settings = self._settings
        ahead = max(now, time.time_ns() // 1_000 if settings.live else 0) + AHEAD
        behind = now - settings.allowed_lateness - settings.behind_windows
        windows = touched(moved(before, registry, behind, ahead), seen.corrections, settings)
        for (shard, window_end), transformers in sorted(windows.items()):
            self._touched.inc(len(transformers))
            yield (shard, window_end), correction(window_end, sorted(transformers), registry.version)
        corrections = [each for each in seen.corrections if each[0] > behind]
        together = sorted({name for names in windows.values() for name in names})
        if together:
            corrections.append((max(window_end for _, window_end in windows), together))
        seen_state.write(SeenRegistry(registry.version, corrections))


def touched(
    changes: Iterable[Moved], earlier: list[tuple[int, list[str]]], settings: Settings
) -> dict[ShardWindow, set[str]]:
    """The transformers of each shard and window that changes touch, and those that earlier ones touched with them."""
    window, shards = settings.window, settings.shards
    found: dict[ShardWindow, set[str]] = {}
    for change in changes:
        names = set(change.transformers)
        for _, together in earlier:
            if names.intersection(together):
                names.update(together)
        first, last = window_ends(np.array([change.first, change.end - 1]), settings).tolist()
        for window_end in range(first, last + 1, window):
            for name in names:
                found.setdefault((shard_of(name, shards), window_end), set()).add(name)
    return found
