"""When each read reaches the head-end, if at all: collection profiles, estimates, late reads, resends and silence.

`Collection.reads(n)` gives every read whose collection follows the end of interval n; none of them arrives before that
end. Arrivals are a pure function of the seed, so a run can be repeated record by record.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ami_beam.simulator.clock import Clock
from ami_beam.simulator.draws import draw
from ami_beam.simulator.faults import DARK, FaultSchedule
from ami_beam.simulator.network import Network

(
    _S_DELAY,
    _S_ROUTE,
    _S_METER_ROUTE,
    _S_ESTIMATE,
    _S_LATE,
    _S_HOW_LATE,
    _S_RESEND,
    _S_RESEND_DELAY,
    _S_RESEND_NEW,
    _S_NEVER,
    _S_OUT,
    _S_DAILY,
) = range(20, 32)

ACTUAL, ESTIMATE, DAILY = range(3)

# Meters are looked at in blocks, so that a tick of 5 million meters needs megabytes for its intermediate columns.
_BLOCK = 1 << 18
_DAILY_SHARE = 0.02
# Of the meters without power: reporting zero volts while their capacitor lasts, and estimated. The rest are silent.
_ZERO_VOLT_SHARE, _ESTIMATED_SHARE = 0.5, 0.25


class Arrivals(NamedTuple):
    """Reads on their way, as columns; 25 bytes each."""

    time_ms: np.ndarray
    """When the read reaches the head-end: its record time."""
    meter: np.ndarray
    interval: np.ndarray
    kind: np.ndarray
    read_delay_ms: np.ndarray
    """read_ts less the end of the interval."""

    def where(self, chosen: np.ndarray) -> Arrivals:
        return Arrivals(*(column[chosen] for column in self))

    @staticmethod
    def concat(parts: list[Arrivals]) -> Arrivals:
        return Arrivals(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    @staticmethod
    def of(time_ms: np.ndarray, meter: np.ndarray, interval: np.ndarray, kind: int, delay: np.ndarray) -> Arrivals:
        return Arrivals(
            np.floor(time_ms).astype(np.int64),
            meter.astype(np.int32),
            interval.astype(np.int32),
            np.full(len(meter), kind, np.int8),
            np.floor(delay).astype(np.int64),
        )


@dataclass(frozen=True)
class CollectionRates:
    """Per cent of the reads."""

    resend_pct: float = 1.0
    estimate_pct: float = 1.0
    """Estimated first; the actual read follows 1 to 6 intervals later, for one in seven never."""
    late_pct: float = 0.5
    """Up to 6 intervals late; one in fifty of them more than a simulated day."""


class Collection:
    """Where a silent collector or head-end holds something back is not decided here: see `hold_back`."""

    def __init__(
        self, network: Network, clock: Clock, faults: FaultSchedule, rates: CollectionRates, intervals: int | None
    ) -> None:
        self._network = network
        self._clock = clock
        self._faults = faults
        self._rates = rates
        self._intervals = intervals

    @property
    def last_tick(self) -> int | None:
        """After this interval everything measured has been collected. None: the run has no end."""
        return None if self._intervals is None else self._intervals - 1 + int(self._network.cycle.max()) - 1

    def reads(self, interval: int) -> Iterator[Arrivals]:
        """What is collected after the end of `interval`, in parts, unordered."""
        for first in range(0, self._network.meters, _BLOCK):
            meter = np.arange(first, min(first + _BLOCK, self._network.meters))
            transformer = self._network.transformer_of_meter[meter]
            cycle = self._network.cycle[transformer]
            due = interval % cycle == self._network.phase[transformer]
            for length in np.unique(cycle[due]).tolist():
                begin = max(0, interval - length + 1)
                end = interval if self._intervals is None else min(interval, self._intervals - 1)
                if begin <= end:
                    chosen = meter[due & (cycle == length)]
                    numbers = np.arange(begin, end + 1)
                    yield from self._collect(
                        np.repeat(chosen, len(numbers)), np.tile(numbers, len(chosen)), interval, length
                    )
            ended = self._intervals is not None and interval >= self._intervals
            if (interval + 1) % self._clock.intervals_per_day == 0 and not ended:
                yield self._daily(meter, interval)

    def _collect(self, meter: np.ndarray, interval: np.ndarray, tick: int, cycle: int) -> Iterator[Arrivals]:
        clock, rates, seed = self._clock, self._rates, self._network.seed
        length = clock.interval_ms
        end = clock.start_ms + (interval + 1) * length
        if cycle == 1:
            delay = clock.delay_ms * (0.03 + 0.97 * draw(seed, _S_DELAY, meter, interval) ** 2)
            time = end + delay
            read_delay = delay * 0.5
        else:
            transformer = self._network.transformer_of_meter[meter]
            route = 0.05 + 0.45 * draw(seed, _S_ROUTE, transformer, tick) + 0.1 * draw(seed, _S_METER_ROUTE, meter)
            # One batch a meter: its reads follow each other by a millisecond.
            time = clock.end_ms(tick) + length * route + interval - (tick - cycle + 1)
            read_delay = clock.delay_ms * (0.03 + 0.15 * draw(seed, _S_DELAY, meter, interval))

        estimated = draw(seed, _S_ESTIMATE, meter, interval) * 100 < rates.estimate_pct
        late = (draw(seed, _S_LATE, meter, interval) * 100 < rates.late_pct) & ~estimated
        sent = ~(estimated & (draw(seed, _S_NEVER, meter, interval) < 1 / 7))
        first, last = int(end.min()), int(end.max())
        for outage in self._faults.between(first, last, *DARK):
            out = outage.holds(meter, end)
            fate = draw(seed, _S_OUT, meter, outage.number)
            sent &= ~out | (fate < _ZERO_VOLT_SHARE)
            estimated &= ~out
            estimated |= out & (fate >= _ZERO_VOLT_SHARE) & (fate < _ZERO_VOLT_SHARE + _ESTIMATED_SHARE)
            late &= ~out

        if estimated.any():
            e = np.flatnonzero(estimated)
            yield Arrivals.of(time[e], meter[e], interval[e], ESTIMATE, (time - end)[e])
        delayed = np.flatnonzero((estimated | late) & sent)
        if len(delayed):
            how_late = draw(seed, _S_HOW_LATE, meter[delayed], interval[delayed])
            wait = length * np.where(how_late < 0.98, 0.5 + 5.5 * how_late, 110.0)
            time[delayed] += np.where(estimated[delayed], length * (0.5 + 5.5 * how_late), wait)
            # An actual read that replaces an estimate was read after it; a read that is merely late was read in time.
            after = time[delayed] - end[delayed] - 0.02 * clock.delay_ms
            read_delay[delayed] = np.where(estimated[delayed], after, read_delay[delayed])
        s = np.flatnonzero(sent)
        yield Arrivals.of(time[s], meter[s], interval[s], ACTUAL, read_delay[s])

        again = np.flatnonzero(sent & (draw(seed, _S_RESEND, meter, interval) * 100 < rates.resend_pct))
        if len(again):
            m, i = meter[again], interval[again]
            time_again = time[again] + clock.delay_ms * (0.1 + 3 * draw(seed, _S_RESEND_DELAY, m, i))
            # Half of them are the same bytes again, half were read again.
            newer = draw(seed, _S_RESEND_NEW, m, i) < 0.5
            new_delay = np.where(newer, time_again - end[again] - 0.02 * clock.delay_ms, read_delay[again])
            yield Arrivals.of(time_again, m, i, ACTUAL, new_delay)

    def _daily(self, meter: np.ndarray, interval: int) -> Arrivals:
        u = draw(self._network.seed, _S_DAILY, meter, interval)
        chosen = u < _DAILY_SHARE
        meter, u = meter[chosen], u[chosen]
        delay = self._clock.delay_ms * (0.1 + u / _DAILY_SHARE)
        time = self._clock.end_ms(interval) + delay
        return Arrivals.of(time, meter, np.full(len(meter), interval), DAILY, delay * 0.5)


def hold_back(faults: FaultSchedule, time_ms: np.ndarray, meter: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """New record times, and which records arrive at all, given every silence that has begun by these times.

    What a silence held back arrives after it in the same order, in a tenth of the time, or is lost.
    """
    time_ms = time_ms.copy()
    arrives = np.ones(len(meter), bool)
    changed = bool(len(meter))
    while changed:
        # A backlog may run into the next silence; it never falls back into the one that held it.
        changed = False
        first, last = int(time_ms.min()), int(time_ms.max())
        for silence in faults.between(first, last, "SILENT_COLLECTOR", "SILENT_HEAD_END"):
            held = np.flatnonzero(silence.holds(meter, time_ms) & arrives)
            if not len(held):
                continue
            if silence.backlog:
                time_ms[held] = silence.until_ms + (time_ms[held] - silence.since_ms) // 10
                changed = True
            else:
                arrives[held] = False
    return time_ms, arrives
