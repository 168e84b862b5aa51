"""The meter counts as a side input that follows where they are while a job runs, and what stands in for it on Flink."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.periodicsequence import PeriodicImpulse
from apache_beam.transforms.trigger import AccumulationMode, AfterCount, Repeatedly
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.timestamp import Timestamp

from ami_beam import meter_counts
from ami_beam.counts_shrink import ANY_TABLE, ShrinkGuard, ShrinkRule, Size, size_of
from ami_beam.csv_table import TableError
from ami_beam.instants import MICROS_PER_SECOND
from ami_beam.io.followed import Background, Refresh
from ami_beam.io.meter_counts_file import CountsFile
from ami_beam.io.meter_registry_source import FollowedRegistry
from ami_beam.meter_counts import VERSION_DIGITS, MeterCountsError, MeterCountsVersion
from ami_beam.meter_counts_origin import Origin, Reader
from ami_beam.meter_registry import MeterRegistry
from ami_beam.records import MeterCount
from ami_beam.registry_counts import ReceiptDelays, merged, meter_counts_of

_MAX_EMBEDDED = 1_000_000
_log = logging.getLogger(__name__)


def load_version(path: str, max_receipt_delay: int | None = None) -> MeterCountsVersion:
    """The file as it is now. Raises MeterCountsError."""
    return FollowedCounts(CountsFile(path), 0, max_receipt_delay).load()


@dataclass(frozen=True)
class FollowedCounts:
    """Meter counts that are looked at every `refresh` microseconds: where they are, a meter registry, or both.

    `max_receipt_delay` as `Origin.open` has it. With both, see `registry_counts.merged`.
    """

    origin: Origin | None
    refresh: int
    max_receipt_delay: int | None = None
    registry: FollowedRegistry | None = None
    delays: ReceiptDelays | None = None
    """By which the registry's intervals become receipt delays; needed with a registry."""
    shrink: ShrinkRule = ANY_TABLE
    """Which tables may follow the one in use; the registry has its own."""

    def load(self) -> MeterCountsVersion:
        """What is there now, whatever was before. Raises MeterCountsError and TableError."""
        registry = None if self.registry is None else self.registry.current()
        given: list[MeterCount] = []
        if self.origin is not None:
            reader = self.origin.open(self.max_receipt_delay)
            try:
                given = reader.read().rows()
            finally:
                reader.close()
        return self.version(given, registry)

    def version(self, given: list[MeterCount], registry: MeterRegistry | None) -> MeterCountsVersion:
        """The table of both: rows that were given, and the registry."""
        if registry is not None:
            assert self.delays is not None
            given = merged(meter_counts_of(registry.changes, self.delays), given)
        return meter_counts.pack(given, _now())


class Look(NamedTuple):
    """What came of a look at where the meter counts are. It may have been made in any thread."""

    version: MeterCountsVersion | None = None
    """The table, where it is another one."""
    size: Size | None = None
    problem: str | None = None
    """Why there is none."""
    lost: str | None = None
    """What it has lost, where that is too much."""
    bad_rows: int = 0


class _Keeper:
    """Looks at where the meter counts are, and says which table is to be used; what it found is counted by `told`.

    Args:
      initial: the table that is in use before the first look, where it is known here.
      begin: its size, where it is not.
    """

    def __init__(self, follow: FollowedCounts, initial: MeterCountsVersion | None, begin: Size | None) -> None:
        self._follow = follow
        self._reader: Reader | None = None
        self._guard = ShrinkGuard[MeterCountsVersion](follow.shrink, _size, begin)
        if initial is not None and follow.registry is None:
            self._guard.take(initial)
        self._mark: bytes | None = None
        self._registry: MeterRegistry | None = None
        self._given_id = ""
        self._loaded = Metrics.counter("ami", "meter_counts_loaded")
        self._failed = Metrics.counter("ami", "meter_counts_load_failed")
        self._refused = Metrics.counter("ami", "meter_counts_refused")
        self._bad_rows = Metrics.counter("ami", "meter_counts_bad_rows")
        self._transformers = Metrics.gauge("ami", "meter_counts_transformers")
        self._meters = Metrics.gauge("ami", "meter_counts_meters")

    def look(self, registry: MeterRegistry | None) -> Look:
        """Look now. Takes as long as the place takes to answer."""
        follow, bad_rows = self._follow, 0
        try:
            mark, given = b"", list[MeterCount]()
            table: MeterCountsVersion | None = None
            if follow.origin is not None:
                if self._reader is None:
                    self._reader = follow.origin.open(follow.max_receipt_delay)
                reading = self._reader.read()
                mark, bad_rows = reading.mark, reading.bad_rows
                if mark == self._mark and registry is self._registry:
                    return Look(bad_rows=bad_rows)
                given = reading.rows()
                table = meter_counts.pack(given, _now())
                if table.version_id != self._given_id:
                    lost = self._guard.refusal(table, table.version_id, _now())
                    if lost is not None:
                        shown = table.version_id[:VERSION_DIGITS]
                        return Look(lost=f"{follow.origin.name} has lost {lost}. Its id is {shown}", bad_rows=bad_rows)
                    self._given_id = table.version_id
            elif registry is self._registry:
                return Look()
            # Without a registry it is packed already.
            version = table if table is not None and registry is None else follow.version(given, registry)
            self._mark, self._registry = mark, registry
            return Look(version, _size(version, _now()), bad_rows=bad_rows)
        except (MeterCountsError, TableError) as error:
            return Look(problem=str(error), bad_rows=bad_rows)
        except Exception as error:
            # A thread that ends without a word would look like a table that never changes.
            _log.exception("Looking at the meter counts failed")
            return Look(problem=f"{type(error).__name__}: {error}", bad_rows=bad_rows)

    def told(self, look: Look) -> None:
        """Count and log what was found; where a bundle is processed, or it is not counted."""
        if look.bad_rows:
            self._bad_rows.inc(look.bad_rows)
        if look.problem is not None:
            self._failed.inc()
            _log.error(
                "Meter counts not loaded, the last good ones stay in use (workers must reach them): %s", look.problem
            )
        if look.lost is not None:
            self._refused.inc()
            _log.warning(
                "Meter counts refused, the last good ones stay in use: %s. Where that is right, write the id into the"
                " file of --meter_counts_accepted, or start the job again",
                look.lost,
            )
        if look.size is not None:
            self._loaded.inc()
            self._transformers.set(look.size.transformers)
            self._meters.set(look.size.meters)

    def close(self) -> None:
        """End the connections."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


class _Start(NamedTuple):
    """What the job's graph says of the table with which it was made."""

    initial: MeterCountsVersion | None
    """None where it would make the graph too large for its runner."""
    begin: Size | None
    loaded_at: int

    @classmethod
    def of(cls, initial: MeterCountsVersion, follow: FollowedCounts) -> _Start:
        if len(initial.payload) <= _MAX_EMBEDDED:
            return cls(initial, None, initial.loaded_at)
        # Beside a registry only a part of the table is compared, and how large that was is not in it.
        begin = None if follow.registry is not None else _size(initial, _now())
        return cls(None, begin, initial.loaded_at)


class LoadMeterCounts(beam.DoFn):
    """On every impulse, the table if its content changed; never fails a running job.

    A table that cannot be read, is bad or empty, or has lost too much (`FollowedCounts.shrink`) leaves the last good
    one in use, is logged and counted. A worker that has not loaded any yet falls back on `initial`, the one loaded when
    the graph was built; where it has only its size, `begin`, the first table must not be much smaller.
    """

    def __init__(
        self, follow: FollowedCounts, initial: MeterCountsVersion | None = None, begin: Size | None = None
    ) -> None:
        self._registry = follow.registry
        self._initial = initial
        self._keeper = _Keeper(follow, initial, begin)
        self._last_version = ""

    def process(self, element: Any) -> Iterator[MeterCountsVersion]:
        try:
            look = self._keeper.look(None if self._registry is None else self._registry.current())
        except TableError as error:
            look = Look(problem=str(error))
        self._keeper.told(look)
        version = look.version
        if version is None and not self._last_version:
            version = self._initial
        if version is not None and version.version_id != self._last_version:
            self._last_version = version.version_id
            yield version

    def teardown(self) -> None:
        self._keeper.close()


class ReadMeterCounts(beam.PTransform):
    """PCollection[MeterCountsVersion] in the global window; its last element is the current table.

    Bounded (without `follow`): `initial`, which was loaded before the run, so that a bad table stops it there.
    Unbounded: the versions of what is followed; `initial` stands in where a worker cannot load it.
    """

    def __init__(self, initial: MeterCountsVersion, follow: FollowedCounts | None) -> None:
        super().__init__()
        self._initial = initial
        self._follow = follow

    def expand(self, pbegin: Any) -> beam.PCollection[MeterCountsVersion]:
        if self._follow is None:
            return pbegin | beam.Create([self._initial], reshuffle=False).with_output_types(MeterCountsVersion)
        start = _Start.of(self._initial, self._follow)
        load = LoadMeterCounts(self._follow, start.initial, start.begin)
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
    """The current table, looked up by each worker where it is: iterating gives a list's worth of one version.

    Stands in for the side input in streaming jobs on Flink, whose portable runner cannot checkpoint a job that has
    one: it stores the values under the coder of windowed values, and the first checkpoint fails with "[B cannot be cast
    to WindowedValue" (seen with 2.70). A look begins when an element asks and the refresh time has passed by the wall
    clock, once for all steps of a process, and in a thread of its own: elements go on with the table there is, however
    long a store, a broker or a database takes to answer. The rules are those of `LoadMeterCounts`. A worker that has no
    table at all waits for its first, and fails where there is none.
    """

    def __init__(self, initial: MeterCountsVersion, follow: FollowedCounts) -> None:
        self._follow = follow
        self._start = _Start.of(initial, follow)

    def __iter__(self) -> Iterator[MeterCountsVersion]:
        with _followers_lock:
            follower = _followers.get(self._follow)
            if follower is None or follower.start.loaded_at < self._start.loaded_at:
                # None yet, or a later job of this process: whoever started it has seen its table.
                if follower is not None:
                    follower.end()
                follower = _followers[self._follow] = _Follower(self._follow, self._start)
            version = follower.current()
        yield version


class _Follower:
    """The newest good version of what is followed."""

    def __init__(self, follow: FollowedCounts, start: _Start) -> None:
        self.start = start
        self._follow = follow
        self._keeper = _Keeper(follow, start.initial, start.begin)
        # The version may be as old as the job: look at the first chance.
        self._refresh = Refresh(follow.refresh)
        self._look: Background[Look] | None = None
        if start.initial is None:
            self._refresh.looked()
            look = self._keeper.look(self._registry())
            if look.version is None:
                raise MeterCountsError(look.problem or look.lost or "no meter counts")
            self._version = look.version
        else:
            self._version = start.initial

    def current(self) -> MeterCountsVersion:
        if self._look is not None:
            self._take(self._look.result())
        if self._look is None and self._refresh.due():
            self._refresh.looked()
            self._begin()
        return self._version

    def end(self) -> None:
        if self._look is None:
            self._keeper.close()

    def _begin(self) -> None:
        try:
            # Here, because it counts what it finds; all other steps look at it, too.
            registry = self._registry()
        except TableError as error:
            self._keeper.told(Look(problem=str(error)))
            return
        if self._follow.origin is None:
            self._take(self._keeper.look(registry))
        else:
            self._look = Background(lambda: self._keeper.look(registry))

    def _take(self, look: Look | None) -> None:
        if look is not None:
            self._look = None
            self._keeper.told(look)
            self._version = look.version or self._version

    def _registry(self) -> MeterRegistry | None:
        return None if self._follow.registry is None else self._follow.registry.current()


def _size(version: MeterCountsVersion, now: int) -> Size:
    return size_of(meter_counts.unpack(version), now)


def _now() -> int:
    return time.time_ns() // 1_000


_followers: dict[FollowedCounts, _Follower] = {}
_followers_lock = Lock()
