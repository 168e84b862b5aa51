"""What goes wrong in the grid and in the collection, and when: the truth behind the records.

A `Condition` holds for a range of consecutive meters from `since` up to and excluding `until`. Conditions are drawn one
simulated day ahead from the seed alone; a scenario adds its own at fixed intervals. Conditions are kept for as long as
a read may still be sent that they touched, so memory does not grow with the length of a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ami_beam.instants import MICROS_PER_MILLI, format_instant
from ami_beam.simulator.announcements import Announced, Announcer, Notice, Plan
from ami_beam.simulator.clock import Clock
from ami_beam.simulator.draws import generator
from ami_beam.simulator.network import Network, collector_id, feeder_id, meter_id, transformer_id

Kind = Literal["OUTAGE", "LOW_VOLTAGE", "HIGH_VOLTAGE", "SILENT_COLLECTOR", "SILENT_HEAD_END", "TAMPERING", "WORK"]
DARK: tuple[Kind, ...] = ("OUTAGE", "WORK")
"""Leaves its meters without supply; of work that is one meter."""

_STREAM = 40
# The latest read is sent some 120 intervals after its end (headend), by a collector that may be silent for 112 more.
_KEEP_INTERVALS = 400
_PLANNED_NUMBERS = 1 << 30
_DEMO_PERIOD = 32


@dataclass(frozen=True)
class Condition:
    """Something that is really so. Times are when it is so in the grid; of a SILENT_* condition, in record time."""

    number: int
    """Counts the conditions of a run; what is planned by itself, so that it changes nothing else."""
    kind: Kind
    since_ms: int
    until_ms: int
    first_meter: int
    end_meter: int
    first_transformer: int
    end_transformer: int
    backlog: bool = False
    """Of a SILENT_* condition: whether what was not heard is sent afterwards, or lost."""
    announced: Announced | None = None
    """What the OMS or a crew has said of it."""

    def covers(self, meter: np.ndarray) -> np.ndarray:
        return (meter >= self.first_meter) & (meter < self.end_meter)

    def holds(self, meter: np.ndarray, at_ms: np.ndarray) -> np.ndarray:
        """Whether it holds for each meter at each instant."""
        return self.covers(meter) & (at_ms >= self.since_ms) & (at_ms < self.until_ms)

    def truth(self, network: Network) -> dict[str, object]:
        """A line of `truth.jsonl`."""
        everywhere = self.kind == "SILENT_HEAD_END"
        transformers = range(self.first_transformer, self.end_transformer)
        feeders = [] if everywhere else sorted({int(network.feeder_of_transformer[each]) for each in transformers})
        collector = network.collector_of(self.first_transformer) if self.kind == "SILENT_COLLECTOR" else None
        return {
            "condition": self.kind,
            "since": format_instant(self.since_ms * MICROS_PER_MILLI),
            "until": format_instant(self.until_ms * MICROS_PER_MILLI),
            "feeder_id": feeder_id(feeders[0]) if len(feeders) == 1 else None,
            "feeder_ids": [feeder_id(feeder) for feeder in feeders],
            "transformer_ids": [] if everywhere else [transformer_id(t) for t in transformers],
            "meter_id": meter_id(self.first_meter) if self.kind in ("TAMPERING", "WORK") else None,
            "meters": self.end_meter - self.first_meter,
            "backlog": self.backlog,
            "collection_group": None if collector is None else collector_id(collector),
            "announced": None if self.announced is None else self.announced.truth(),
        }


@dataclass(frozen=True)
class FaultRates:
    """How many of each begin per simulated day (a fraction is a probability), and what is asked for besides."""

    outages: float = 4
    dead_collectors: float = 1
    voltage_faults: float = 2
    """Sagging feeder ends, and as many feeder ends lifted by PV."""
    tampers: float = 2
    silence: tuple[int, int] | None = None
    """When the head-end falls silent, in microseconds after the start, and for how long."""
    demo: bool = False
    planned_outages: float = 0
    """Announced on the day before. Some are cancelled and do not begin."""
    work_orders: float = 0
    """Work at a meter: it is exchanged, disconnected or tested, and has no supply meanwhile."""
    known_pct: float = 0
    """Of the other outages per cent of which the OMS gets to know after they have begun."""


class FaultSchedule:
    """Begins conditions in the order of time: call `begin(n)` for n = 0, 1, 2, … before interval n is read.

    What is announced goes to `notices`, long before it begins where it is planned; whoever publishes it takes it out.
    """

    def __init__(self, network: Network, clock: Clock, rates: FaultRates) -> None:
        self._network = network
        self._clock = clock
        self._rates = rates
        self._coming: list[Condition] = []
        self._known: list[Condition] = []
        self.notices: list[Notice] = []
        self._announcer = Announcer(network, clock)
        self._number = 0
        self._planned = 0
        # A demonstration's targets are feeders whose reads come at once, so that it can be watched.
        cycle = network.cycle[network.first_transformer[:-1]]
        self._by_cycle = np.argsort(cycle, kind="stable")
        if rates.silence is not None:
            begin, length = (micros // MICROS_PER_MILLI for micros in rates.silence)
            since = clock.start_ms + begin
            self._add("SILENT_HEAD_END", since, since + length, 0, network.transformers, backlog=True)

    def begin(self, interval: int) -> list[Condition]:
        """The conditions that begin while interval `interval` is being measured."""
        per_day = self._clock.intervals_per_day
        if interval % per_day == 0:
            self._draw_day(interval)
            self._plan_day(interval + per_day)
            if interval == 0:
                self._plan_day(interval)
        if self._rates.demo and interval % _DEMO_PERIOD == 0:
            self._demo(interval)
        end = self._clock.end_ms(interval)
        begun = sorted((c for c in self._coming if c.since_ms < end), key=lambda c: (c.since_ms, c.number))
        self._coming = [c for c in self._coming if c.since_ms >= end]
        oldest = end - _KEEP_INTERVALS * self._clock.interval_ms
        silent = sum(c.until_ms - c.since_ms for c in self._known if c.kind == "SILENT_HEAD_END")
        self._known = [c for c in self._known if c.until_ms >= oldest - silent] + begun
        return begun

    def between(self, from_ms: int, to_ms: int, *kinds: Kind) -> Iterator[Condition]:
        """The begun conditions of these kinds that hold at some time in [from_ms, to_ms], oldest first."""
        return (c for c in self._known if c.kind in kinds and c.since_ms <= to_ms and c.until_ms > from_ms)

    def dark_besides(self, condition: Condition, at_ms: int) -> list[Condition]:
        """What else leaves meters of this condition without supply at an instant, where one of the two was planned."""
        return [
            each
            for each in (*self._known, *self._coming)
            if each.kind in DARK
            and each.number != condition.number
            and max(each.number, condition.number) >= _PLANNED_NUMBERS
            and each.since_ms <= at_ms < each.until_ms
            and each.first_meter < condition.end_meter
            and condition.first_meter < each.end_meter
        ]

    def _add(self, kind: Kind, since: float, until: float, first: int, end: int, backlog: bool = False) -> None:
        if kind == "TAMPERING":
            end = first + 1
        first_meter, end_meter = self._network.meters_of(first, end)
        if kind == "TAMPERING":
            end_meter = first_meter + 1
        since_ms, until_ms = self._span(since, until)
        announced = None
        if kind == "OUTAGE" and self._announcer.is_known(self._number, self._rates.known_pct):
            announced, notices = self._announcer.known(self._number, since_ms, until_ms, first, end)
            self.notices += notices
        condition = Condition(
            self._number, kind, since_ms, until_ms, first_meter, end_meter, first, end, backlog, announced
        )
        self._coming.append(condition)
        self._number += 1

    def _add_plan(self, plan: Plan) -> None:
        self.notices += plan.notices
        number = _PLANNED_NUMBERS + self._planned
        self._planned += 1
        if plan.cancelled:
            return
        since_ms, until_ms = self._span(plan.since_ms, plan.until_ms)
        first, end = plan.first_transformer, plan.end_transformer
        kind: Kind = "OUTAGE" if plan.meter is None else "WORK"
        meters = self._network.meters_of(first, end) if plan.meter is None else (plan.meter, plan.meter + 1)
        self._coming.append(Condition(number, kind, since_ms, until_ms, *meters, first, end, announced=plan.announced))

    def _span(self, since: float, until: float) -> tuple[int, int]:
        since_ms = self._clock.whole(since)
        return since_ms, max(self._clock.whole(until), since_ms + self._clock.resolution_ms)

    def _end_of_feeder(self, feeder: int, share: float) -> tuple[int, int]:
        """The last transformers of a feeder: `share` of them, at least one."""
        first, end = self._network.transformers_of_feeder(feeder)
        return end - max(1, round((end - first) * share)), end

    def _free_collector(self, place: int, taken: Iterable[tuple[int, int]]) -> tuple[int, int]:
        """The transformers of a collector that hears nothing of what else is demonstrated, where there is one.

        The next from the feeder in this place on, in the order of their cycles.
        """
        network = self._network
        for number in range(network.feeders):
            first, end = network.transformers_of_feeder(int(self._by_cycle[(place + number) % network.feeders]))
            for collector in range(network.collector_of(first), network.collector_of(end - 1) + 1):
                heard = network.transformers_of_collector(collector)
                if heard[1] - heard[0] > 1 and all(heard[1] <= each[0] or each[1] <= heard[0] for each in taken):
                    return heard
        return network.transformers_of_collector(0)

    def _draw_day(self, interval: int) -> None:
        random = generator(self._network.seed, _STREAM, interval)
        length = self._clock.interval_ms
        per_day = self._clock.intervals_per_day
        to_noon = self._clock.until_hour(interval, 11.0)

        def times(shortest: float, longest: float, begin: float | None = None) -> tuple[float, float]:
            start = random.uniform(0, per_day) if begin is None else begin + random.uniform(0, per_day / 24)
            since = self._clock.begin_ms(interval) + start * length
            return since, since + random.uniform(shortest, longest) * length

        def count(rate: float) -> int:
            return int(rate) + int(random.random() < rate % 1)

        for _ in range(count(self._rates.outages)):
            # A fault on the line takes everything behind it; a blown fuse takes one transformer.
            first, end = self._end_of_feeder(int(random.integers(self._network.feeders)), random.uniform(0, 0.6))
            if random.random() < 0.5:
                end = first + 1
            self._add("OUTAGE", *times(2, 10), first, end)
        for _ in range(count(self._rates.dead_collectors)):
            first, end = self._end_of_feeder(int(random.integers(self._network.feeders)), 1.0)
            transformer = int(random.integers(first, end))
            since, until = times(4, 16)
            # Dead for less than it takes to collect once it would be missed by some of its meters only.
            until += (int(self._network.cycle[transformer]) - 1) * length
            heard = self._network.transformers_of_collector(self._network.collector_of(transformer))
            self._add("SILENT_COLLECTOR", since, until, *heard, backlog=bool(random.random() < 0.5))
        for _ in range(count(self._rates.voltage_faults)):
            feeder = int(random.integers(self._network.feeders))
            self._add("LOW_VOLTAGE", *times(2, 8), *self._end_of_feeder(feeder, 0.3))
            feeder = int(random.integers(self._network.feeders))
            self._add("HIGH_VOLTAGE", *times(3, 8, to_noon), *self._end_of_feeder(feeder, 0.2))
        for _ in range(count(self._rates.tampers)):
            transformer = int(random.integers(self._network.transformers))
            self._add("TAMPERING", *times(20, 96), transformer, transformer + 1)

    def _plan_day(self, day: int) -> None:
        """What is planned for the day that begins with interval `day`."""
        # Those of a demonstration stand in its timetable.
        for plan in self._announcer.outages(day, 0 if self._rates.demo else self._rates.planned_outages):
            self._add_plan(plan)
        for plan in self._announcer.work(day, self._rates.work_orders):
            self._add_plan(plan)

    def _demo(self, interval: int) -> None:
        """The timetable of `--scenario=demo`, again every 32 intervals on the next feeders."""
        feeders = self._network.feeders
        turn = interval // _DEMO_PERIOD

        def feeder(place: int) -> int:
            # Only the fast half takes part, unless there are hardly any feeders.
            among = max(5, feeders // 2) if feeders > 5 else feeders
            return int(self._by_cycle[(turn + place) % among])

        def times(begin: float, end: float) -> tuple[float, float]:
            start = self._clock.begin_ms(interval)
            return start + begin * self._clock.interval_ms, start + end * self._clock.interval_ms

        sagging, lifted = self._end_of_feeder(feeder(0), 0.4), self._end_of_feeder(feeder(1), 0.4)
        out, tampered = self._end_of_feeder(feeder(2), 0.6), self._end_of_feeder(feeder(4), 0.5)
        self._add("LOW_VOLTAGE", *times(1, 9), *sagging)
        hour = self._clock.hour_of_slot()[self._clock.slots(np.array([interval]))[0]]
        if 8 <= hour <= 15:
            # PV lifts nothing at night.
            self._add("HIGH_VOLTAGE", *times(1, 10), *lifted)
        self._add("OUTAGE", *times(2.4, 7.4), *out)
        dead = self._free_collector(turn + 3, (sagging, lifted, out, tampered))
        self._add("SILENT_COLLECTOR", *times(3, 9), *dead, backlog=True)
        self._add("TAMPERING", *times(4.5, 20), *tampered)
        if self._rates.planned_outages:
            # At the other end of a feeder on which there is something else.
            first, _ = self._network.transformers_of_feeder(feeder(0))
            said, since = times(0, 3)
            self._add_plan(self._announcer.outage_as_planned(f"OUT-{turn:05d}", first, said, since, times(0, 8)[1]))
