"""What a meter measures in an interval: load, PV, and the voltage that remains at its place on the feeder.

A measurement is a pure function of (network, clock, conditions, meter, interval). Without a condition every voltage
stays within 207..253 V, so a voltage alert is always the work of a condition. Voltage falls from the substation to the
end of a feeder with its load, and rises there with its PV.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ami_beam.simulator.clock import Clock
from ami_beam.simulator.draws import draw
from ami_beam.simulator.faults import DARK, FaultSchedule
from ami_beam.simulator.network import NOMINAL_VOLTAGE, Network

_S_USE, _S_CLOUD, _S_SOURCE, _S_NOISE = range(10, 14)
# Volts per kW in the service line of one customer.
_SERVICE_DROP = 0.25
_SUBSTATION_VOLTAGE = NOMINAL_VOLTAGE * 1.025
QUALITY_NORMAL, QUALITY_SAG, QUALITY_SWELL, QUALITY_OUTAGE = range(4)


class Measurements(NamedTuple):
    """Columns. Energies in whole 0.0001 kWh: consumption = delivered - received holds exactly."""

    consumption: np.ndarray
    delivered: np.ndarray
    received: np.ndarray
    voltage: np.ndarray
    """At the end of the interval; NaN where the meter reports none."""
    quality: np.ndarray


def load_shape(hour: np.ndarray) -> np.ndarray:
    """Share of the evening peak that a household uses at each hour of the day."""

    def bump(at: float, width: float) -> np.ndarray:
        distance = (hour - at + 12) % 24 - 12
        return np.exp(-0.5 * (distance / width) ** 2)

    return 0.22 + 0.35 * bump(7.5, 1.3) + 0.2 * bump(12.5, 1.8) + 0.75 * bump(19.5, 2.0)


def sun_shape(hour: np.ndarray) -> np.ndarray:
    """Share of the peak output that PV gives at each hour of a clear day."""
    return np.clip(np.sin(np.pi * (hour - 6) / 13), 0, 1) * ((hour > 6) & (hour < 19))


class Physics:
    """Measures reads of any meters and intervals, in any order."""

    def __init__(self, network: Network, clock: Clock, faults: FaultSchedule) -> None:
        self._network = network
        self._clock = clock
        self._faults = faults
        hour = clock.hour_of_slot()
        self.load = load_shape(hour)
        self.sun = sun_shape(hour)

    def typical(self, meter: np.ndarray, interval: np.ndarray) -> np.ndarray:
        """What the head-end estimates when it did not hear a meter: the customer's ordinary use, 0.0001 kWh."""
        kw = self._network.load_kw[meter] * self.load[self._clock.slots(interval)]
        return np.rint(kw * self._clock.interval_ms / 360).astype(np.int64)

    def daily(self, meter: np.ndarray) -> np.ndarray:
        """The register's advance over a simulated day, 0.0001 kWh."""
        kw = self._network.load_kw[meter] * self.load.mean()
        return np.rint(kw * self._clock.interval_ms * self._clock.intervals_per_day / 360).astype(np.int64)

    def measure(self, meter: np.ndarray, interval: np.ndarray) -> Measurements:
        network, clock = self._network, self._clock
        seed = network.seed
        transformer = network.transformer_of_meter[meter]
        feeder = network.feeder_of_transformer[transformer]
        slot = clock.slots(interval)
        load, sun = self.load[slot], self.sun[slot]
        noise = draw(seed, _S_USE, meter, interval)
        use = network.load_kw[meter] * load * (0.4 + 1.2 * noise)
        cloud = 0.55 + 0.45 * draw(seed, _S_CLOUD, feeder, interval)
        pv = network.pv_kw[meter] * sun * cloud

        reach = network.position[transformer]
        reach = reach * (2 - reach)
        drop = network.drop[feeder]
        source = _SUBSTATION_VOLTAGE + 1.5 * (draw(seed, _S_SOURCE, feeder, interval) - 0.5)
        # The feeder's PV lifts at most 45 % of what its full load drops.
        voltage = source - drop * reach * (load / 1.0 - 0.45 * sun * cloud) - _SERVICE_DROP * (use - pv * 0.5)
        voltage += 0.6 * (draw(seed, _S_NOISE, meter, interval) - 0.5)

        end = clock.start_ms + (interval.astype(np.int64) + 1) * clock.interval_ms
        powered = np.ones(len(meter))
        metered = np.ones(len(meter))
        quality = np.zeros(len(meter), np.int64)
        if len(meter):
            first, last = int(end.min()) - clock.interval_ms, int(end.max())
            found = self._faults.between(first, last, "LOW_VOLTAGE", "HIGH_VOLTAGE", "TAMPERING", *DARK)
            # Outages last: whatever else held, an outage leaves nothing to measure.
            for condition in sorted(found, key=lambda condition: condition.kind in DARK):
                at = np.flatnonzero(condition.holds(meter, end))
                if condition.kind == "LOW_VOLTAGE":
                    voltage[at] = 190 + 12 * noise[at]
                    quality[at] = QUALITY_SAG
                elif condition.kind == "HIGH_VOLTAGE":
                    voltage[at] = 254.5 + 6 * noise[at]
                    quality[at] = QUALITY_SWELL
                elif condition.kind == "TAMPERING":
                    metered[at] = 0.15
                else:
                    lost = np.minimum(end, condition.until_ms) - np.maximum(end - clock.interval_ms, condition.since_ms)
                    powered -= np.where(condition.covers(meter), np.clip(lost, 0, None) / clock.interval_ms, 0)
                    voltage[at] = 0
                    quality[at] = QUALITY_OUTAGE
        powered = np.clip(powered, 0, 1)
        # kW for milliseconds to 0.0001 kWh. Use and PV overlap within an interval, so both registers move.
        scale = powered * (clock.interval_ms / 360)
        both = np.where(pv > 0, 0.05 * np.minimum(use, pv), 0)
        delivered = np.rint((np.maximum(use - pv, 0) + both) * metered * scale).astype(np.int64)
        received = np.rint((np.maximum(pv - use, 0) + both) * scale).astype(np.int64)
        voltage[~network.has_voltage[meter]] = np.nan
        return Measurements(delivered - received, delivered, received, np.round(voltage, 2), quality)
