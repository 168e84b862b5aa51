"""A simulated head-end as one iterator of records in arrival order.

Guarantees: the same arguments give the same records, byte for byte, in every process. Records come lazily and with
non-decreasing record times; memory holds one interval's arrivals and what is still on its way, never the run.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import numpy as np

from ami_beam.input_topics import EVENTS_TOPIC, OUTAGES_TOPIC, READS_TOPIC, WORK_TOPIC
from ami_beam.instants import MICROS_PER_MILLI
from ami_beam.simulator import network as networks
from ami_beam.simulator.announcements import Notice
from ami_beam.simulator.clock import QUARTER, Clock
from ami_beam.simulator.draws import draw
from ami_beam.simulator.events import Events, MeterEvent
from ami_beam.simulator.faults import Condition, FaultRates, FaultSchedule
from ami_beam.simulator.headend import Arrivals, Collection, CollectionRates, hold_back
from ami_beam.simulator.physics import Physics
from ami_beam.simulator.records import ReadWriter, corrupt, write_event

DEFAULT_START = 1_772_496_000_000_000
"""2026-03-03T00:00:00Z."""

Record = tuple[str, int, bytes, bytes]
"""(topic, record time in microseconds, key, value)"""

_S_MALFORMED, _S_CORRUPTION, _S_MALFORMED_EVENT = 60, 61, 62
_CHUNK = 8192


class Simulation:
    """A run. Iterate it once for its records; `conditions` grows meanwhile by what really was the case.

    Args:
      seed: everything random follows from it.
      meters: how many meters the network has.
      interval: length of an interval in microseconds; below 15 minutes 96 intervals are a simulated day.
      start: where interval 0 begins, in microseconds since 1970.
      intervals: how many intervals are measured. None: the run has no end.
      profile: one of `network.PROFILES`, or `mixed`.
      collection: shares of resent, estimated and late reads.
      faults: how often things go wrong, what is planned and announced, and the demonstration's timetable.
      malformed_pct: per cent of the reads and events that are followed by a malformed copy.
      first_hour: hour of the simulated day in which the run begins. None: the hour of `start`.
    """

    def __init__(
        self,
        seed: int = 1,
        meters: int = 1_000,
        interval: int = QUARTER,
        start: int = DEFAULT_START,
        intervals: int | None = 96,
        profile: str = "realtime",
        collection: CollectionRates | None = None,
        faults: FaultRates | None = None,
        malformed_pct: float = 0.1,
        first_hour: float | None = None,
        reads_topic: str = READS_TOPIC,
        events_topic: str = EVENTS_TOPIC,
        outages_topic: str = OUTAGES_TOPIC,
        work_topic: str = WORK_TOPIC,
    ) -> None:
        rates = faults or FaultRates()
        self.clock = Clock(start, interval, 11.0 if rates.demo and first_hour is None else first_hour)
        self.network = networks.build(seed, meters, profile, self.clock)
        self.intervals = intervals
        self.conditions: list[Condition] = []
        self._seed = seed
        self._malformed_pct = malformed_pct
        self._reads_topic = reads_topic
        self._events_topic = events_topic
        self._outages_topic = outages_topic
        self._work_topic = work_topic
        self._faults = FaultSchedule(self.network, self.clock, rates)
        self._collection = Collection(
            self.network, self.clock, self._faults, collection or CollectionRates(), intervals
        )
        self._writer = ReadWriter(self.network, self.clock, Physics(self.network, self.clock, self._faults))
        self._event_source = Events(self.network, self.clock, self._faults)
        self._reads_coming: list[Arrivals] = []
        self._events_coming: list[MeterEvent] = []
        self._notices_coming: list[Notice] = []
        self._records = self._run()

    def __iter__(self) -> Iterator[Record]:
        return self._records

    def _run(self) -> Iterator[Record]:
        # Tick n gives the records that arrive while interval n + 1 is being measured. A read of interval n arrives
        # after its end and an event after it happened, so at tick n everything that is due has been made.
        tick = -1
        last = self._collection.last_tick
        while last is None or tick <= last:
            if self.intervals is None or tick + 1 < self.intervals:
                begun = self._faults.begin(tick + 1)
                self.conditions += begun
                for event in self._event_source.of_conditions(begun):
                    heapq.heappush(self._events_coming, event)
                for notice in self._faults.notices:
                    heapq.heappush(self._notices_coming, notice)
                self._faults.notices.clear()
                for event in self._event_source.without_condition(tick + 1):
                    heapq.heappush(self._events_coming, event)
            if tick >= 0:
                self._reads_coming += [part for part in self._collection.reads(tick) if len(part.meter)]
            yield from self._due(self.clock.end_ms(tick + 1))
            tick += 1
        yield from self._due(None)

    def _due(self, until_ms: int | None) -> Iterator[Record]:
        """The records before `until_ms` (None: all that are left), in order."""
        told: list[MeterEvent | Notice] = [*self._due_events(until_ms), *self._due_notices(until_ms)]
        told.sort(key=lambda each: each.time_ms)
        reads = self._due_reads(until_ms)
        order = np.argsort(reads.time_ms, kind="stable") if reads is not None else np.empty(0, np.int64)
        place = 0
        if reads is not None:
            for first in range(0, len(order), _CHUNK):
                chunk = reads.where(order[first : first + _CHUNK])
                keys, values = self._writer.write(chunk)
                times = chunk.time_ms.tolist()
                u = draw(self._seed, _S_MALFORMED, chunk.meter, chunk.interval) * 100
                malformed = set(np.flatnonzero(u < self._malformed_pct).tolist())
                how = draw(self._seed, _S_CORRUPTION, chunk.meter, chunk.interval)
                for i, (time_ms, key, value) in enumerate(zip(times, keys, values, strict=True)):
                    while place < len(told) and told[place].time_ms <= time_ms:
                        yield from self._told_records(told[place])
                        place += 1
                    micros = time_ms * MICROS_PER_MILLI
                    yield self._reads_topic, micros, key, value
                    if i in malformed:
                        yield self._reads_topic, micros, key, corrupt(value, float(how[i]))
        for each in told[place:]:
            yield from self._told_records(each)

    def _due_reads(self, until_ms: int | None) -> Arrivals | None:
        if not self._reads_coming:
            return None
        coming = Arrivals.concat(self._reads_coming)
        self._reads_coming = []
        due = np.ones(len(coming.meter), bool) if until_ms is None else coming.time_ms < until_ms
        arrived, later = coming.where(due), coming.where(~due)
        time_ms, arrives = hold_back(self._faults, arrived.time_ms, arrived.meter)
        arrived = arrived._replace(time_ms=time_ms).where(arrives)
        if until_ms is not None:
            held = arrived.time_ms >= until_ms
            self._reads_coming = [part for part in (later, arrived.where(held)) if len(part.meter)]
            arrived = arrived.where(~held)
        return arrived if len(arrived.meter) else None

    def _due_events(self, until_ms: int | None) -> list[MeterEvent]:
        due: list[MeterEvent] = []
        while self._events_coming and (until_ms is None or self._events_coming[0].time_ms < until_ms):
            due.append(heapq.heappop(self._events_coming))
        times = np.array([event.time_ms for event in due], np.int64)
        times, arrives = hold_back(self._faults, times, np.array([event.meter for event in due], np.int64))
        arrived: list[MeterEvent] = []
        for event, time_ms, heard in zip(due, times.tolist(), arrives.tolist(), strict=True):
            if not heard:
                continue
            event = event._replace(time_ms=time_ms)
            if until_ms is not None and time_ms >= until_ms:
                heapq.heappush(self._events_coming, event)
            else:
                arrived.append(event)
        return sorted(arrived)

    def _due_notices(self, until_ms: int | None) -> Iterator[Notice]:
        """No silence holds them back: the OMS does not speak through the head-end. Behind the end none is awaited."""
        while until_ms is not None and self._notices_coming and self._notices_coming[0].time_ms < until_ms:
            yield heapq.heappop(self._notices_coming)

    def _told_records(self, told: MeterEvent | Notice) -> Iterator[Record]:
        micros = told.time_ms * MICROS_PER_MILLI
        if isinstance(told, Notice):
            yield self._work_topic if told.is_work else self._outages_topic, micros, told.key.encode(), told.value
            return
        key, value = write_event(told, self.clock)
        yield self._events_topic, micros, key, value
        counters = np.array([told.meter]), np.array([told.time_ms])
        u = float(draw(self._seed, _S_MALFORMED_EVENT, *counters)[0]) * 100
        if u < self._malformed_pct:
            yield self._events_topic, micros, key, corrupt(value, u / self._malformed_pct)
