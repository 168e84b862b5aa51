"""What every customer uses on each day, of the utility's time zone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct

from ami_beam.codecs.number_columns import MICRO_KWH, decoded, encoded
from ami_beam.coders import MsgspecCoder
from ami_beam.instants import MICROS_PER_MILLI
from ami_beam.local_days import bounds_of
from ami_beam.read_columns import Flags, Floats, Ints
from ami_beam.records import CustomerBatch, CustomerChanges, CustomerDay, CustomerDayChanges
from ami_beam.settings import Settings
from transforms.customer_columns import CustomerColumns
from transforms.end_of_replay import PUBLISHED_AT_END
from transforms.gathering import KEPT_LONGER, gathered_until
from transforms.pack_meter_reads import ShardDay
from transforms.read_checks import NANO_PER_MICRO
from transforms.state_log import read_log
from transforms.window_expiry import billing_expiry

ROWS, CHANGES = "rows", "changes"
OVER, EXPIRE = "over", "expire"
COLUMNS = (
    "delivered", "received", "reads", "estimated", "as_of", "starts", "ends", "interval_delivered",
    "interval_received", "revision",
)  # fmt: skip
"""Of a customer's day: sums in billionths of a kWh; the last interval and its sums; of the day's row."""

ShardMonth = tuple[int, str]


class KeptCustomers(Struct, array_like=True, gc=False):
    """A shard's customers on one day."""

    customers: list[str]
    columns: list[bytes]
    """As `COLUMNS`."""
    over: bool = False
    """Whether the day is over, and its rows are published."""


class LogEntry(Struct, array_like=True, gc=False):
    """An element of a day's log: something that has come, or what was known when it was read."""

    news: CustomerChanges | None
    kept: KeptCustomers | None


class CustomersOfDays(NamedTuple):
    """What `CustomerDays` gives."""

    rows: beam.PCollection[CustomerBatch]
    changes: beam.PCollection[tuple[ShardMonth, CustomerDayChanges]]


@beam.typehints.with_input_types(tuple[tuple[int, str], CustomerChanges])
class CustomerDays(beam.PTransform):
    """One row for every customer and day that is over, and again when its content has changed; the sums are exact.

    Takes what changes keyed by (shard of customers, day). Gives months what has changed with every window; what comes
    late is gathered, as with feeders. A bounded run publishes the final rows only.

    State per (shard, day): about 110 bytes a customer, until no read of the day can come any more.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, changes: beam.PCollection[tuple[ShardDay, CustomerChanges]]) -> CustomersOfDays:
        add_up = beam.ParDo(_DayDoFn(self._settings)).with_output_types(
            CustomerBatch, changes=tuple[tuple[int, str], CustomerDayChanges]
        )
        label = f"CustomerDays {self._settings.state_label()}"
        found = changes | label >> add_up.with_outputs(CHANGES, main=ROWS)
        return CustomersOfDays(found[ROWS], found[CHANGES])


class _DayDoFn(beam.DoFn):
    LOG = BagStateSpec("customer_day_log", MsgspecCoder(LogEntry))
    ADD_UP = TimerSpec("customer_day_add_up", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings

    def process(
        self,
        element: tuple[ShardDay, CustomerChanges],
        at: Any = beam.DoFn.TimestampParam,
        log: Any = beam.DoFn.StateParam(LOG),
        add_up: Any = beam.DoFn.TimerParam(ADD_UP),
    ) -> None:
        (_, day), news = element
        log.add(LogEntry(news, None))
        settings = self._settings
        if not settings.live:
            add_up.set(Timestamp(micros=PUBLISHED_AT_END), dynamic_timer_tag=OVER)
            return
        count = len(news.customers)
        latest = max(at.micros, int(decoded(news.record_times, count).max()))
        when = gathered_until(latest, int(decoded(news.ends, count).max()), settings)
        last_window = bounds_of(day, settings.time_zone)[1] + settings.window
        over = last_window + settings.collection_delay + 3 * MICROS_PER_MILLI
        if when < over:
            add_up.set(Timestamp(micros=when), dynamic_timer_tag=str(when))
            add_up.set(Timestamp(micros=over), dynamic_timer_tag=OVER)
        else:
            add_up.set(Timestamp(micros=when), dynamic_timer_tag=f"{OVER}/{when}")
        expires = billing_expiry(settings, last_window) + KEPT_LONGER
        add_up.set(Timestamp(micros=expires), dynamic_timer_tag=EXPIRE)

    @on_timer(ADD_UP)
    def on_add_up(
        self,
        key: Any = beam.DoFn.KeyParam,
        tag: Any = beam.DoFn.DynamicTimerTagParam,
        log: Any = beam.DoFn.StateParam(LOG),
    ) -> Iterator[Any]:
        news, kept = read_log(log)
        shard, day = key
        is_over = tag.startswith(OVER)
        if news or (kept is not None and is_over and not kept.over):
            customers = Customers(kept)
            touched = customers.add(news)
            if len(touched):
                yield TaggedOutput(CHANGES, ((shard, day[:7]), customers.changes(day, touched)))
            first = is_over and not customers.over
            customers.over |= is_over
            if customers.over:
                rows = customers.rows(day, np.arange(len(customers)) if first else touched)
                if rows:
                    yield CustomerBatch(days=rows)
            log.clear()
            log.add(LogEntry(None, customers.kept()))
        if tag == EXPIRE:
            log.clear()


class Customers(CustomerColumns):
    """A shard's customers on one day, as arrays."""

    NAMES = COLUMNS

    def __init__(self, kept: KeptCustomers | None):
        super().__init__(*(([], []) if kept is None else (kept.customers, kept.columns)))
        self.over = kept is not None and kept.over
        self._added: dict[str, Ints] = {}

    def add(self, news: list[CustomerChanges]) -> Ints:
        """Take changes in: which customers have changed."""
        if not news:
            return np.zeros(0, np.int64)
        place = self._placed([name for each in news for name in each.customers])
        column = {
            name: np.concatenate([decoded(getattr(each, name), len(each.customers)) for each in news])
            for name in CustomerChanges.__struct_fields__[1:]
        }
        mine = self._columns
        added = {name: np.zeros(len(self), np.int64) for name in COLUMNS[:4]}
        for name, total in added.items():
            np.add.at(total, place, column[name])
            mine[name] += total
        before, last_before = mine["as_of"].copy(), mine["ends"].copy()
        np.maximum.at(mine["as_of"], place, np.where(column["reads"] > 0, column["record_times"], 0))
        sums_before = mine["interval_delivered"].copy(), mine["interval_received"].copy()
        self._add_to_last(place, column)
        changed: Flags = (mine["as_of"] != before) | (mine["ends"] != last_before)
        changed |= (mine["interval_delivered"] != sums_before[0]) | (mine["interval_received"] != sums_before[1])
        for total in added.values():
            changed |= total != 0
        self._added = added
        return np.flatnonzero(changed)

    def _add_to_last(self, place: Ints, column: dict[str, Ints]) -> None:
        """The sums of each customer's last interval: of a later one they begin anew."""
        mine = self._columns
        last = mine["ends"].copy()
        np.maximum.at(last, place, np.where(column["reads"] > 0, column["ends"], 0))
        newer = last > mine["ends"]
        mine["interval_delivered"][newer] = mine["interval_received"][newer] = 0
        mine["ends"] = last
        mine["starts"][newer] = 0
        of_last = column["ends"] == last[place]
        here = place[of_last]
        np.add.at(mine["interval_delivered"], here, column["delivered"][of_last])
        np.add.at(mine["interval_received"], here, column["received"][of_last])
        # Several meters may have intervals of several lengths: the longest one says when it began.
        starts = mine["starts"]
        starts[starts == 0] = np.iinfo(np.int64).max
        added = column["reads"][of_last] > 0
        np.minimum.at(starts, here[added], column["starts"][of_last][added])

    def changes(self, day: str, touched: Ints) -> CustomerDayChanges:
        """What the month has to know."""
        mine = self._columns
        added = {name: encoded(total[touched]) for name, total in self._added.items()}
        now = {name: encoded(mine[name][touched]) for name in COLUMNS}
        return CustomerDayChanges(
            day=day,
            customers=self._named(touched),
            delivered=added["delivered"],
            received=added["received"],
            reads=added["reads"],
            estimated=added["estimated"],
            day_delivered=now["delivered"],
            day_received=now["received"],
            starts=now["starts"],
            ends=now["ends"],
            interval_delivered=now["interval_delivered"],
            interval_received=now["interval_received"],
            as_of=now["as_of"],
        )

    def rows(self, day: str, touched: Ints) -> list[CustomerDay]:
        """The rows to publish, noted as told."""
        names, now = self._told(touched)
        return list(
            map(
                CustomerDay,
                names,
                repeat(day),
                kwh(now["delivered"]).tolist(),
                kwh(now["received"]).tolist(),
                kwh(now["delivered"] - now["received"]).tolist(),
                now["reads"].tolist(),
                now["estimated"].tolist(),
                now["as_of"].tolist(),
                now["revision"].tolist(),
            )
        )

    def kept(self) -> KeptCustomers:
        """All of it for the state."""
        return KeptCustomers(self.names, self.packed(), self.over)


def kwh(nano: Ints) -> Floats:
    """Of billionths, rounded to millionths as all rows are: half away from zero."""
    return np.sign(nano) * ((np.abs(nano) + NANO_PER_MICRO // 2) // NANO_PER_MICRO) / MICRO_KWH
