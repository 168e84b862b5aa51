"""What the OMS and the crews announce: outages that are planned or known (`ami.oms.outages`), and work at meters
(`ami.work`).

A planned outage is announced on the day before, as is work; what is to happen on the first day is known when it begins.
Most of what is planned is done within its time. Some of it is cancelled or moved before it begins, and some outlasts
what was announced. An outage that nobody has planned may become known to the OMS while it lasts, without an end, and
again with its end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from ami_beam.instants import MICROS_PER_MILLI, format_instant
from ami_beam.simulator.clock import Clock
from ami_beam.simulator.draws import draw, generator
from ami_beam.simulator.network import Network, feeder_id, meter_id, transformer_id

Kind = Literal["PLANNED", "KNOWN", "EXCHANGE", "DISCONNECT", "TEST"]

_S_PLANNED, _S_WORK, _S_KNOWN, _S_WHAT_IS_KNOWN = range(70, 74)
# Of what is planned.
_CANCELLED_SHARE, _MOVED_SHARE, _OUTLASTING_SHARE = 0.1, 0.15, 0.25
_WHOLE_FEEDER_SHARE, _SECTION_SHARE = 0.2, 0.3
_WORKING_HOURS = 8.0, 15.0
"""Between these hours of the day crews begin something."""
_REASONS = ("new switchgear", "cable joint", "tree cutting", "transformer inspection")
_WORK_SHARES: tuple[tuple[Kind, float], ...] = (("EXCHANGE", 0.5), ("TEST", 0.3), ("DISCONNECT", 0.2))


class Notice(NamedTuple):
    """A record of one of the two topics, ordered by when it is published."""

    time_ms: int
    key: str
    """Its id: what is said under one keeps its order."""
    is_work: bool
    value: bytes


@dataclass(frozen=True)
class Announced:
    """What was said of a condition, as the truth has it."""

    kind: Kind
    ids: tuple[str, ...]
    at_ms: int
    """When it was announced first."""
    from_ms: int
    to_ms: int
    """Beginning and end as the last record has them."""

    def truth(self) -> dict[str, object]:
        times = {"at": self.at_ms, "from": self.from_ms, "to": self.to_ms}
        return {"kind": self.kind, "ids": [*self.ids], **{name: _instant(ms) for name, ms in times.items()}}


@dataclass(frozen=True)
class Plan:
    """Something that leaves meters without supply, as it is done, and what is said of it beforehand."""

    announced: Announced
    notices: tuple[Notice, ...]
    cancelled: bool
    since_ms: float
    until_ms: float
    first_transformer: int
    end_transformer: int
    meter: int | None = None
    """Of work, where."""


class Announcer:
    """Plans days ahead, and says what the OMS gets to know. A pure function of the network's seed and the arguments."""

    def __init__(self, network: Network, clock: Clock) -> None:
        self._network = network
        self._clock = clock

    def outages(self, day: int, rate: float) -> Iterator[Plan]:
        """The planned outages of the day that begins with interval `day`: `rate` of them on average, one a feeder."""
        random = generator(self._network.seed, _S_PLANNED, day)
        network, length = self._network, self._clock.interval_ms
        # At most one a feeder and day.
        feeders = random.permutation(network.feeders)[: _count(random, rate)]
        for number, feeder in enumerate(feeders.tolist()):
            first, end = network.transformers_of_feeder(feeder)
            extent = random.random()
            transformers: Sequence[int] = ()
            if extent >= _WHOLE_FEEDER_SHARE:
                alone = extent >= _WHOLE_FEEDER_SHARE + _SECTION_SHARE
                share = random.uniform(0.1, 0.6)
                first = int(random.integers(first, end)) if alone else end - max(1, round((end - first) * share))
                end = first + 1 if alone else end
                transformers = range(first, end)
            begin = self._begin(random, day)
            from_ms = self._rounded(begin)
            to_ms = self._rounded(begin + random.uniform(4, 12) * length)
            said_ms = self._said(random, day)
            fate, reason = random.random(), _REASONS[int(random.integers(len(_REASONS)))]
            name = f"OUT-{day:05d}-{number:02d}"
            entities = {name: ("FEEDER", feeder_id(int(network.feeder_of_transformer[first])))}
            if transformers:
                # Of a section every transformer is announced.
                entities = {
                    f"{name}-{place:02d}": ("TRANSFORMER", transformer_id(each))
                    for place, each in enumerate(transformers)
                }
            notices = _outage_notices(said_ms, entities, "ACTIVE", from_ms, to_ms, reason)
            cancelled = fate < _CANCELLED_SHARE
            moved = not cancelled and fate < _CANCELLED_SHARE + _MOVED_SHARE
            if cancelled or moved:
                again_ms = int(said_ms + (from_ms - said_ms) * random.uniform(0.3, 0.9))
                if moved:
                    shift = self._rounded(begin + random.uniform(6, 16) * length) - from_ms
                    from_ms, to_ms = from_ms + shift, to_ms + shift
                status = "CANCELLED" if cancelled else "ACTIVE"
                notices += _outage_notices(again_ms, entities, status, from_ms, to_ms, reason)
            outlasting = fate >= 1 - _OUTLASTING_SHARE
            yield Plan(
                Announced("PLANNED", tuple(entities), said_ms, from_ms, to_ms),
                tuple(notices),
                cancelled,
                from_ms + random.uniform(-0.3, 0.5) * length,
                to_ms + (random.uniform(3, 16) if outlasting else random.uniform(-1.5, -0.1)) * length,
                first,
                end,
            )

    def outage_as_planned(self, name: str, transformer: int, said: float, since: float, until: float) -> Plan:
        """A planned outage of one transformer that is done as it is announced. Times in milliseconds."""
        said_ms, from_ms, to_ms = (self._clock.whole(ms) for ms in (said, since, until))
        entities = {name: ("TRANSFORMER", transformer_id(transformer))}
        notices = _outage_notices(said_ms, entities, "ACTIVE", from_ms, to_ms, _REASONS[0])
        announced = Announced("PLANNED", (name,), said_ms, from_ms, to_ms)
        return Plan(announced, tuple(notices), False, from_ms, to_ms, transformer, transformer + 1)

    def work(self, day: int, rate: float) -> Iterator[Plan]:
        """The work at meters of the day that begins with interval `day`: `rate` pieces of it on average."""
        random = generator(self._network.seed, _S_WORK, day)
        network, length = self._network, self._clock.interval_ms
        for number in range(_count(random, rate)):
            # By transformer, and not by meter: on the small ones a meter without supply is an outage.
            transformer = int(random.integers(network.transformers))
            meter = int(random.integers(*network.meters_of(transformer, transformer + 1)))
            kinds, shares = zip(*_WORK_SHARES, strict=True)
            kind: Kind = kinds[int(random.choice(len(kinds), p=shares))]
            begin = self._begin(random, day)
            from_ms = self._rounded(begin)
            lasts = random.uniform(8, 32) if kind == "DISCONNECT" else random.uniform(2, 6)
            to_ms = self._rounded(begin + lasts * length)
            since_ms = from_ms + random.uniform(0, 1) * length
            most = (to_ms - since_ms) / length
            dark = most - random.uniform(0, 0.5) if kind == "DISCONNECT" else min(most, random.uniform(0.3, 1.5))
            said_ms = self._said(random, day)
            name = f"WRK-{day:05d}-{number:03d}"
            fields = {
                "work_id": name,
                "kind": kind,
                "status": "ACTIVE",
                "meter_id": meter_id(meter),
                "transformer_id": transformer_id(transformer) if random.random() < 0.5 else None,
                "from": _instant(from_ms),
                "to": _instant(to_ms),
            }
            yield Plan(
                Announced(kind, (name,), said_ms, from_ms, to_ms),
                (Notice(said_ms, name, True, _json(fields)),),
                False,
                since_ms,
                since_ms + dark * length,
                transformer,
                transformer + 1,
                meter,
            )

    def is_known(self, number: int, pct: float) -> bool:
        """Whether the OMS gets to know of the outage with this number, of which nothing was announced."""
        return float(draw(self._network.seed, _S_KNOWN, np.array([number]))[0]) * 100 < pct

    def known(
        self, number: int, since_ms: int, until_ms: int, first_transformer: int, end_transformer: int
    ) -> tuple[Announced, tuple[Notice, ...]]:
        """What the OMS says of an outage with this number after it has begun."""
        random = generator(self._network.seed, _S_WHAT_IS_KNOWN, number)
        length = self._clock.interval_ms
        of = "TRANSFORMER", transformer_id(first_transformer)
        if end_transformer - first_transformer > 1:
            of = "FEEDER", feeder_id(int(self._network.feeder_of_transformer[first_transformer]))
        name = f"OUT-{number:08d}"
        said_ms = since_ms + int(random.uniform(0.5, 4) * length)
        over_ms = until_ms + int(random.uniform(0.2, 2) * length)
        from_ms, to_ms = self._rounded(since_ms), self._rounded(until_ms) + self._grid_ms
        notices = [_outage_notice(over_ms, name, "KNOWN", "ACTIVE", *of, from_ms, to_ms, None)]
        if said_ms < until_ms:
            notices.insert(0, _outage_notice(said_ms, name, "KNOWN", "ACTIVE", *of, from_ms, None, None))
        return Announced("KNOWN", (name,), notices[0].time_ms, from_ms, to_ms), tuple(notices)

    @property
    def _grid_ms(self) -> int:
        """What people say is a multiple of five minutes, a third of an interval."""
        return max(1, self._clock.interval_ms // 3)

    def _rounded(self, ms: float) -> int:
        return int(ms // self._grid_ms) * self._grid_ms

    def _begin(self, random: np.random.Generator, day: int) -> float:
        hour = self._clock.intervals_per_day / 24
        earliest, latest = _WORKING_HOURS
        begin = self._clock.until_hour(day, earliest) + random.uniform(0, (latest - earliest) * hour)
        # What is done on the first day is announced when it begins.
        return self._clock.begin_ms(day) + max(begin, 2) * self._clock.interval_ms

    def _said(self, random: np.random.Generator, day: int) -> int:
        begin = self._clock.until_hour(day, _WORKING_HOURS[0]) + random.uniform(0, self._clock.intervals_per_day / 3)
        if day == 0:
            return self._clock.start_ms
        before = day - self._clock.intervals_per_day
        return int(self._clock.begin_ms(before) + begin * self._clock.interval_ms)


def _count(random: np.random.Generator, rate: float) -> int:
    return int(rate) + int(random.random() < rate % 1)


def _outage_notices(
    time_ms: int, entities: Mapping[str, tuple[str, str]], status: str, from_ms: int, to_ms: int, reason: str
) -> list[Notice]:
    """Of a planned outage, one for each entity, by its id."""
    return [
        _outage_notice(time_ms, name, "PLANNED", status, *of, from_ms, to_ms, reason) for name, of in entities.items()
    ]


def _outage_notice(
    time_ms: int,
    name: str,
    kind: Kind,
    status: str,
    entity_type: str,
    entity_id: str,
    from_ms: int,
    to_ms: int | None,
    reason: str | None,
) -> Notice:
    fields = {
        "outage_id": name,
        "kind": kind,
        "status": status,
        "entity_type": entity_type,
        "entity_id": entity_id,
        "from": _instant(from_ms),
        "to": None if to_ms is None else _instant(to_ms),
        "reason": reason,
    }
    return Notice(time_ms, name, False, _json(fields))


def _instant(ms: int) -> str:
    return format_instant(ms * MICROS_PER_MILLI)


def _json(fields: dict[str, str | None]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()
