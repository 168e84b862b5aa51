"""The meter events that conditions cause, and the few that come without one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from ami_beam.simulator.clock import Clock
from ami_beam.simulator.draws import generator
from ami_beam.simulator.faults import DARK, Condition, FaultSchedule
from ami_beam.simulator.network import Network
from ami_beam.simulator.physics import sun_shape

LAST_GASP, POWER_RESTORE, OUTAGE_DETECTED = 3840, 3841, 3842
TAMPER_DETECTED, REVERSE_ENERGY, POWER_QUALITY = 2048, 2049, 1024
VENDOR = 512
"""A code that no contract names; head-ends send such now and then."""
DESCRIPTIONS = {
    LAST_GASP: "LAST_GASP",
    POWER_RESTORE: "POWER_RESTORE",
    OUTAGE_DETECTED: "OUTAGE_DETECTED",
    TAMPER_DETECTED: "TAMPER_DETECTED",
    REVERSE_ENERGY: "REVERSE_ENERGY",
    POWER_QUALITY: "POWER_QUALITY",
    VENDOR: "VENDOR_512",
}

_STREAM, _CONDITION_STREAM = 50, 51
_RESENT_SHARE = 0.05
_NO_DESCRIPTION_SHARE = 0.1
# Not every meter's last message gets through before its capacitor is empty.
_LAST_GASP_SHARE, _RESTORE_SHARE = 0.7, 0.9
_REPORTERS = 5
# Events without a condition, per meter and simulated day.
_POWER_QUALITY_RATE, _VENDOR_RATE, _REVERSE_RATE = 0.001, 0.0005, 0.002


class MeterEvent(NamedTuple):
    """Ordered by arrival."""

    time_ms: int
    meter: int
    code: int
    event_ms: int
    described: bool


class Events:
    def __init__(self, network: Network, clock: Clock, faults: FaultSchedule) -> None:
        self._network = network
        self._clock = clock
        self._faults = faults
        self._pv_meters = np.flatnonzero(network.pv_kw > 0)

    def of_conditions(self, conditions: Iterable[Condition]) -> Iterator[MeterEvent]:
        """Everything these conditions will ever cause, their ends included."""
        for condition in conditions:
            random = generator(self._network.seed, _CONDITION_STREAM, condition.number)
            meters = np.arange(condition.first_meter, condition.end_meter)
            if condition.kind in DARK:
                yield from self._dark(random, condition, meters)
            elif condition.kind == "TAMPERING":
                yield from self._sent(random, condition.first_meter, TAMPER_DETECTED, condition.since_ms)
            elif condition.kind in ("LOW_VOLTAGE", "HIGH_VOLTAGE"):
                yield from self._some(random, meters, POWER_QUALITY, condition)
                if condition.kind == "HIGH_VOLTAGE":
                    exporting = meters[self._network.pv_kw[meters] > 0]
                    yield from self._some(random, exporting, REVERSE_ENERGY, condition)

    def without_condition(self, interval: int) -> Iterator[MeterEvent]:
        """What meters send during an interval for reasons of their own."""
        random = generator(self._network.seed, _STREAM, interval)
        slot = self._clock.slots(np.array([interval]))
        sun = float(sun_shape(self._clock.hour_of_slot()[slot])[0])
        everyone = self._network.meters
        for code, rate, among in (
            (POWER_QUALITY, _POWER_QUALITY_RATE, None),
            (VENDOR, _VENDOR_RATE, None),
            (REVERSE_ENERGY, _REVERSE_RATE if sun > 0.5 else 0.0, self._pv_meters),
        ):
            population = everyone if among is None else len(among)
            for _ in range(random.poisson(population * rate / self._clock.intervals_per_day)):
                place = int(random.integers(population))
                at = self._clock.begin_ms(interval) + random.random() * self._clock.interval_ms
                yield from self._sent(random, place if among is None else int(among[place]), code, at)

    def _dark(self, random: np.random.Generator, outage: Condition, meters: np.ndarray) -> Iterator[MeterEvent]:
        gasp = random.random(len(meters)) < _LAST_GASP_SHARE
        restore = random.random(len(meters)) < _RESTORE_SHARE
        gasp[0] = restore[0] = True
        for meter in self._with_supply(outage, outage.since_ms, meters[gasp]):
            yield from self._sent(random, meter, LAST_GASP, outage.since_ms)
        # Of one meter nobody concludes that its transformer is out.
        out = range(outage.first_transformer, outage.end_transformer) if outage.kind == "OUTAGE" else ()
        for transformer in out:
            first = int(self._network.first_meter[transformer])
            detected = outage.since_ms + 0.3 * self._clock.delay_ms
            yield from self._sent(random, first, OUTAGE_DETECTED, min(detected, outage.until_ms))
        for meter in self._with_supply(outage, outage.until_ms, meters[restore]):
            yield from self._sent(random, meter, POWER_RESTORE, outage.until_ms)

    def _with_supply(self, outage: Condition, at_ms: int, meters: np.ndarray) -> list[int]:
        """Those that nothing else leaves without supply: they have none to lose, and none comes back to them."""
        for other in self._faults.dark_besides(outage, at_ms):
            meters = meters[~other.covers(meters)]
        return meters.tolist()

    def _some(
        self, random: np.random.Generator, meters: np.ndarray, code: int, condition: Condition
    ) -> Iterator[MeterEvent]:
        """From at most five of the meters, soon after the condition began."""
        for meter in sorted(random.choice(meters, min(len(meters), _REPORTERS), replace=False).tolist()):
            wait = random.random() * min(self._clock.interval_ms, condition.until_ms - condition.since_ms)
            yield from self._sent(random, meter, code, condition.since_ms + wait)

    def _sent(self, random: np.random.Generator, meter: int, code: int, at: float) -> Iterator[MeterEvent]:
        event_ms = self._clock.whole(at)
        time_ms = int(at + self._clock.delay_ms * random.uniform(0.02, 0.3)) + 1
        described = bool(random.random() >= _NO_DESCRIPTION_SHARE)
        yield MeterEvent(time_ms, meter, code, event_ms, described)
        if random.random() < _RESENT_SHARE:
            again = time_ms + int(self._clock.interval_ms * random.uniform(0.05, 2)) + 1
            yield MeterEvent(again, meter, code, event_ms, described)
