"""The grid that is simulated: feeders, their transformers in order along the line, and the meters behind each.

A network is a pure function of (seed, meters, profile). Everything is numbered: the meters of a transformer and the
transformers of a feeder are consecutive, so that a fault is a range of meters and 5 million meters fit in 150 MB.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ami_beam.simulator.clock import Clock
from ami_beam.simulator.draws import draw, generator

PROFILES = ("realtime", "cellular-1h", "mesh-4h", "plc-daily")
"""How a head-end hears its meters: each read as it is measured, or every 1, 4 or 24 hours all reads since."""
_HOURS = (0, 1, 4, 24)
_MIXED_SHARES = (0.5, 0.2, 0.2, 0.1)
NOMINAL_VOLTAGE = 230.0

(
    _S_SIZE,
    _S_FEEDER,
    _S_PROFILE,
    _S_PHASE,
    _S_LOAD,
    _S_PV,
    _S_PV_SIZE,
    _S_NO_VOLTS,
    _S_DROP,
    _S_COLLECTOR,
) = range(10)
_COLLECTOR_METERS = 150, 1_500
"""Fewest and most that a collector hears; in networks of a few thousand meters a twentieth and an eighth of them."""


@dataclass(frozen=True)
class Network:
    """Columns of the registry; `*_of_*` maps one numbering to another."""

    seed: int
    first_meter: np.ndarray
    """Of each transformer, and one past the last meter at the end."""
    first_transformer: np.ndarray
    """Of each feeder, and one past the last transformer at the end."""
    feeder_of_transformer: np.ndarray
    transformer_of_meter: np.ndarray
    first_of_collector: np.ndarray
    """The first transformer that each collector hears, and one past the last transformer at the end."""
    position: np.ndarray
    """Of each transformer along its feeder: near 0 at the substation, 1 at the end."""
    profile: np.ndarray
    """Of each transformer, an index into PROFILES."""
    cycle: np.ndarray
    """Of each transformer, after how many intervals it is collected."""
    phase: np.ndarray
    """Of each transformer: it is collected after interval n where n mod cycle = phase."""
    drop: np.ndarray
    """Of each feeder, volts lost at its end at full load."""
    load_kw: np.ndarray
    """Of each meter, its share of the evening peak."""
    pv_kw: np.ndarray
    """Of each meter, peak output of its PV plant; 0 without. A meter with PV is a net meter."""
    has_voltage: np.ndarray
    """Of each meter, whether it reports voltage at all."""

    @property
    def meters(self) -> int:
        return len(self.transformer_of_meter)

    @property
    def transformers(self) -> int:
        return len(self.position)

    @property
    def feeders(self) -> int:
        return len(self.drop)

    @property
    def collectors(self) -> int:
        return len(self.first_of_collector) - 1

    def meters_of(self, first_transformer: int, end_transformer: int) -> tuple[int, int]:
        """The range of meters behind a range of transformers."""
        return int(self.first_meter[first_transformer]), int(self.first_meter[end_transformer])

    def transformers_of_feeder(self, feeder: int) -> tuple[int, int]:
        return int(self.first_transformer[feeder]), int(self.first_transformer[feeder + 1])

    def transformers_of_collector(self, collector: int) -> tuple[int, int]:
        return int(self.first_of_collector[collector]), int(self.first_of_collector[collector + 1])

    def collector_of(self, transformer: int) -> int:
        return int(np.searchsorted(self.first_of_collector, transformer, side="right")) - 1

    def registry(self) -> Iterator[tuple[str, str, str, str, str, str, str, str]]:
        """The rows of `meter_registry.csv`: the ids of each meter, how and by which collector it is collected, and
        whether it has PV."""
        collectors = np.repeat(np.arange(self.collectors), np.diff(self.first_of_collector))
        for meter in range(self.meters):
            transformer = int(self.transformer_of_meter[meter])
            yield (
                meter_id(meter),
                service_point_id(meter),
                customer_id(meter),
                transformer_id(transformer),
                feeder_id(int(self.feeder_of_transformer[transformer])),
                PROFILES[self.profile[transformer]],
                "1" if self.pv_kw[meter] > 0 else "0",
                collector_id(int(collectors[transformer])),
            )

    def meter_counts(self, clock: Clock) -> Iterator[tuple[str, int, float, int | None, str]]:
        """Rows of `transformer_meter_count`: transformer_id, total_meters, nominal_voltage_v, receipt_delay_minutes,
        collection_group.

        The receipt delay covers one collection cycle and the collection itself; None (the run's default) where every
        read is sent as it is measured.
        """
        sizes = np.diff(self.first_meter)
        for collector in range(self.collectors):
            for transformer in range(*self.transformers_of_collector(collector)):
                cycle = int(self.cycle[transformer])
                collected = (cycle - 1 + 0.75) * clock.interval_ms / 60_000
                delay = math.ceil(collected) if self.profile[transformer] else None
                row = transformer_id(transformer), int(sizes[transformer]), NOMINAL_VOLTAGE, delay
                yield *row, collector_id(collector)


def meter_id(meter: int) -> str:
    return f"MTR-{meter:07d}"


def service_point_id(meter: int) -> str:
    return f"SP-{meter:07d}"


def customer_id(meter: int) -> str:
    return f"CUST-{meter:07d}"


def transformer_id(transformer: int) -> str:
    return f"TR-{transformer:06d}"


def feeder_id(feeder: int) -> str:
    return f"FDR-{feeder:05d}"


def collector_id(collector: int) -> str:
    return f"COL-{collector:05d}"


def _sizes(seed: int, meters: int) -> np.ndarray:
    """Meters of each transformer: a third of them 1 to 3, the others 4 to 60, exactly `meters` in all."""
    # A small network gets smaller transformers, so that it still has several to tell apart.
    largest = int(np.clip(meters // 8, 3, 60))
    sizes: list[np.ndarray] = []
    total = 0
    for step in range(meters):
        random = generator(seed, _S_SIZE, step)
        small = random.random(4096) < 1 / 3
        block = np.where(small, random.integers(1, 4, 4096), random.integers(min(4, largest), largest + 1, 4096))
        sizes.append(block)
        total += int(block.sum())
        if total >= meters:
            break
    size = np.concatenate(sizes)
    last = int(np.searchsorted(np.cumsum(size), meters))
    size = size[: last + 1]
    size[-1] -= int(size.sum()) - meters
    return size


def _collectors(seed: int, first_meter: np.ndarray, profile: np.ndarray) -> np.ndarray:
    """The first transformer that each collector hears, and one past the last transformer at the end.

    A collector hears the meters around it: transformers that follow each other, from a part of a feeder to several, as
    far as they are collected in one way, and two at least where there are.
    """
    transformers = len(profile)
    meters = int(first_meter[-1])
    least, most = (min(meters / part, most) for part, most in zip((20, 8), _COLLECTOR_METERS, strict=True))
    wanted = least * (most / least) ** draw(seed, _S_COLLECTOR, np.arange(transformers))
    ends = [*(np.flatnonzero(np.diff(profile)) + 1).tolist(), transformers]
    bounds = [0]
    for end in ends:
        while bounds[-1] < end:
            first = bounds[-1]
            enough = int(np.searchsorted(first_meter, first_meter[first] + wanted[len(bounds) - 1]))
            next_one = max(enough, first + 2)
            bounds.append(next_one if next_one + 2 <= end else end)
    return np.array(bounds)


def build(seed: int, meters: int, profile: str, clock: Clock) -> Network:
    """The network of a seed. `profile` is one of PROFILES, or `mixed`: every feeder has one of its own."""
    if meters < 1:
        raise ValueError("meters must be at least 1")
    if profile != "mixed" and profile not in PROFILES:
        raise ValueError(f"profile must be mixed or one of {', '.join(PROFILES)}")
    size = _sizes(seed, meters)
    transformers = len(size)
    longest = int(np.clip(transformers // 6, 1, 30))
    random = generator(seed, _S_FEEDER, 0)
    lengths = random.integers((longest + 1) // 2, longest + 1, transformers)
    first = np.concatenate([[0], np.cumsum(lengths)])
    first = np.append(first[first < transformers], transformers)
    feeders = len(first) - 1
    lengths = np.diff(first)
    feeder_of_transformer = np.repeat(np.arange(feeders), lengths)
    within = np.arange(transformers) - first[feeder_of_transformer]

    feeder_numbers = np.arange(feeders)
    if profile == "mixed":
        bounds = np.cumsum(_MIXED_SHARES)[:-1]
        of_feeder = np.searchsorted(bounds, draw(seed, _S_PROFILE, feeder_numbers), side="right")
    else:
        of_feeder = np.full(feeders, PROFILES.index(profile))
    of_transformer = of_feeder[feeder_of_transformer].astype(np.int8)
    cycles = np.array([max(1, clock.intervals_per_day * hours // 24) for hours in _HOURS])
    cycle = cycles[of_transformer]

    numbers = np.arange(meters)
    first_meter = np.concatenate([[0], np.cumsum(size)])
    load_kw = (0.4 + 2.2 * draw(seed, _S_LOAD, numbers) ** 2).astype(np.float32)
    pv = draw(seed, _S_PV, numbers) < 0.12
    # The end of every feeder has PV: that is where it lifts the voltage most.
    pv[first_meter[first[1:] - 1]] = True
    pv_kw = np.where(pv, 3 + 7 * draw(seed, _S_PV_SIZE, numbers), 0).astype(np.float32)
    has_voltage = draw(seed, _S_NO_VOLTS, numbers) >= 0.08
    # Some meters report no voltage, but every transformer has one that does: no voltage fault goes unseen.
    has_voltage[first_meter[:-1]] = True
    return Network(
        seed=seed,
        first_meter=first_meter,
        first_transformer=first,
        feeder_of_transformer=feeder_of_transformer,
        first_of_collector=_collectors(seed, first_meter, of_transformer),
        transformer_of_meter=np.repeat(np.arange(transformers, dtype=np.int32), size),
        position=(within + 1) / lengths[feeder_of_transformer],
        profile=of_transformer,
        cycle=cycle,
        phase=(draw(seed, _S_PHASE, np.arange(transformers)) * cycle).astype(np.int64),
        drop=6 + 8 * draw(seed, _S_DROP, feeder_numbers),
        load_kw=load_kw,
        pv_kw=pv_kw,
        has_voltage=has_voltage,
    )
