"""The meter counts as a side input that follows its file while a job runs, and what stands in for it on Flink."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from threading import Lock
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.periodicsequence import PeriodicImpulse
from apache_beam.transforms.trigger import AccumulationMode, AfterCount, Repeatedly
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.timestamp import Timestamp

from ami_beam import meter_counts
from ami_beam.csv_table import TableError
from ami_beam.instants import MICROS_PER_SECOND
from ami_beam.io.meter_registry_source import FollowedRegistry
from ami_beam.meter_counts import MeterCountsError, MeterCountsVersion
from ami_beam.meter_registry import MeterRegistry
from ami_beam.records import MeterCount
from ami_beam.registry_counts import ReceiptDelays, merged, meter_counts_of

_MAX_EMBEDDED = 1_000_000
_log = logging.getLogger(__name__)


def load_version(path: str, max_receipt_delay: int | None = None) -> MeterCountsVersion:
    """The file as it is now. Raises MeterCountsError."""
    return FollowedFile(path, 0, max_receipt_delay).load()


@dataclass(frozen=True)
class FollowedFile:
    """Meter counts that are looked at every `refresh` microseconds: a file of them, a meter registry, or both.

    `max_receipt_delay` as `meter_counts.load` has it. With both, see `registry_counts.merged`.
    """

    path: str | None
    refresh: int
    max_receipt_delay: int | None = None
    registry: FollowedRegistry | None = None
    delays: ReceiptDelays | None = None
    """By which the registry's intervals become receipt delays; needed with a registry."""

    def load(self) -> MeterCountsVersion:
        """The files as they are now. Raises MeterCountsError and TableError."""
        content = None if self.path is None else meter_counts.read(self.path)
        return self.version(content, None if self.registry is None else self.registry.current())

    def version(self, content: bytes | None, registry: MeterRegistry | None) -> MeterCountsVersion:
        """The table that both give: the content of the file, and the registry. Raises MeterCountsError."""
        rows: list[MeterCount] = []
        if content is not None:
            assert self.path is not None
            rows = meter_counts.parse(content, self.path, self.max_receipt_delay)
        if registry is not None:
            assert self.delays is not None
            rows = merged(meter_counts_of(registry.changes, self.delays), rows)
        return meter_counts.pack(rows, time.time_ns() // 1_000)


class LoadMeterCounts(beam.DoFn):
    """On every impulse, the table if its content changed; never fails a running job.

    A file that is missing, bad or empty leaves the last good table in use, is logged and counted. A worker that has
    not loaded any yet falls back on `initial`, the one loaded when the graph was built.
    """

    def __init__(self, file: FollowedFile, initial: MeterCountsVersion | None = None) -> None:
        self._file = file
        self._initial = initial
        self._last_content = b""
        self._last_registry: MeterRegistry | None = None
        self._last_version = ""
        self._loaded = Metrics.counter("ami", "meter_counts_loaded")
        self._failed = Metrics.counter("ami", "meter_counts_load_failed")

    def process(self, element: Any) -> Iterator[MeterCountsVersion]:
        version = self._load()
        if version is not None and version.version_id != self._last_version:
            self._last_version = version.version_id
            self._loaded.inc()
            yield version

    def _load(self) -> MeterCountsVersion | None:
        file = self._file
        try:
            registry = None if file.registry is None else file.registry.current()
            content = None if file.path is None else meter_counts.read(file.path)
            digest = sha256(content or b"").digest()
            if digest == self._last_content and registry is self._last_registry:
                return None
            version = file.version(content, registry)
            self._last_content, self._last_registry = digest, registry
            return version
        except (MeterCountsError, TableError) as error:
            self._failed.inc()
            _log.error(
                "Meter counts not loaded, the last good ones stay in use (workers must reach the file): %s", error
            )
            return None if self._last_version else self._initial


class ReadMeterCounts(beam.PTransform):
    """PCollection[MeterCountsVersion] in the global window; its last element is the current table.

    Bounded (without `follow`): `initial`, which was loaded before the run, so that a bad file stops it there.
    Unbounded: the versions of the file that is followed; `initial` stands in where a worker cannot load it.
    """

    def __init__(self, initial: MeterCountsVersion, follow: FollowedFile | None) -> None:
        super().__init__()
        self._initial = initial
        self._follow = follow

    def expand(self, pbegin: Any) -> beam.PCollection[MeterCountsVersion]:
        if self._follow is None:
            return pbegin | beam.Create([self._initial], reshuffle=False).with_output_types(MeterCountsVersion)
        # a large table would make the job graph too large for its runner
        embedded = self._initial if len(self._initial.payload) <= _MAX_EMBEDDED else None
        load = LoadMeterCounts(self._follow, embedded)
        seconds = self._follow.refresh / MICROS_PER_SECOND
        return (
            pbegin
            | PeriodicImpulse(start_timestamp=Timestamp.now(), fire_interval=seconds)
            | "Load" >> beam.ParDo(load).with_output_types(MeterCountsVersion)
            | beam.WindowInto(
                GlobalWindows(), trigger=Repeatedly(AfterCount(1)), accumulation_mode=AccumulationMode.DISCARDING
            )
        )


class PolledMeterCounts:
    """The current table, looked up by each worker from the file: iterating gives a list's worth of one version.

    Stands in for the side input in streaming jobs on Flink, whose portable runner cannot checkpoint a job that has
    one: it stores the values under the coder of windowed values, and the first checkpoint fails with "[B cannot be cast
    to WindowedValue" (seen with 2.70). The file is looked at when an element asks and the refresh time has passed by
    the wall clock, once for all steps of a process. The rules are those of `LoadMeterCounts`: a bad file leaves the
    last good table in use.
    """

    def __init__(self, initial: MeterCountsVersion, follow: FollowedFile) -> None:
        self._file = follow
        # Each worker loads a large table by itself; it would make the job graph too large for its runner.
        self._initial = initial if len(initial.payload) <= _MAX_EMBEDDED else None

    def __iter__(self) -> Iterator[MeterCountsVersion]:
        with _followers_lock:
            follower = _followers.get(self._file)
            if follower is None:
                follower = _followers[self._file] = _Follower(self._file, self._initial)
            version = follower.current(self._initial)
        yield version


class _Follower:
    """The newest good version of a file."""

    def __init__(self, file: FollowedFile, initial: MeterCountsVersion | None) -> None:
        self._refresh = file.refresh / MICROS_PER_SECOND
        self._version = initial or file.load()
        self._load = LoadMeterCounts(file)
        # The version may be as old as the job: look at the first chance.
        self._looked = -float("inf")

    def current(self, initial: MeterCountsVersion | None) -> MeterCountsVersion:
        if initial is not None and initial.loaded_at > self._version.loaded_at:
            # A later job of this process.
            self._version = initial
        if time.monotonic() - self._looked >= self._refresh:
            self._looked = time.monotonic()
            for version in self._load.process(None):
                self._version = version
        return self._version


_followers: dict[FollowedFile, _Follower] = {}
_followers_lock = Lock()
