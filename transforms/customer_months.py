"""What every customer has used so far: the last interval, its day and its month, of the utility's time zone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct

from ami_beam.codecs.billing_batches import MONTH_NUMBERS, packed
from ami_beam.codecs.number_columns import decoded
from ami_beam.coders import MsgspecCoder
from ami_beam.local_days import end_of_month
from ami_beam.read_columns import Ints
from ami_beam.records import CustomerBatch, CustomerDayChanges
from ami_beam.settings import Settings
from transforms.customer_columns import CustomerColumns
from transforms.customer_days import ShardMonth, kwh
from transforms.end_of_replay import EXPLAINED_AT_END
from transforms.gathering import AFTER, KEPT_LONGER
from transforms.state_log import read_log
from transforms.window_expiry import billing_expiry

EXPIRE = "expire"
COLUMNS = (
    "delivered", "received", "reads", "estimated", "as_of", "day", "day_delivered", "day_received", "starts", "ends",
    "interval_delivered", "interval_received", "revision",
)  # fmt: skip
"""Of a customer's month: sums; the last day, as its number in the month, and its sums; the last interval, likewise."""
_OF_LAST_DAY = ("day_delivered", "day_received", "starts", "ends", "interval_delivered", "interval_received")


class KeptMonth(Struct, array_like=True, gc=False):
    """A shard's customers in one month."""

    customers: list[str]
    columns: list[bytes]
    """As `COLUMNS`."""


class LogEntry(Struct, array_like=True, gc=False):
    """An element of a month's log: something that has come, or what was known when it was read."""

    news: CustomerDayChanges | None
    kept: KeptMonth | None


@beam.typehints.with_input_types(tuple[tuple[int, str], CustomerDayChanges])
@beam.typehints.with_output_types(CustomerBatch)
class CustomerMonths(beam.PTransform):
    """One row for every customer and month, published again with every interval and whenever its content has changed.

    Takes what days have changed by, keyed by (shard of customers, month). The sums are exact. A bounded run publishes
    the final rows only. State per (shard, month): about 140 bytes a customer, until no read of it can come any more.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(
        self, changes: beam.PCollection[tuple[ShardMonth, CustomerDayChanges]]
    ) -> beam.PCollection[CustomerBatch]:
        label = f"CustomerMonths {self._settings.state_label()}"
        return changes | label >> beam.ParDo(_MonthDoFn(self._settings))


class _MonthDoFn(beam.DoFn):
    LOG = BagStateSpec("customer_month_log", MsgspecCoder(LogEntry))
    ADD_UP = TimerSpec("customer_month_add_up", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings

    def process(
        self,
        element: tuple[ShardMonth, CustomerDayChanges],
        at: Any = beam.DoFn.TimestampParam,
        log: Any = beam.DoFn.StateParam(LOG),
        add_up: Any = beam.DoFn.TimerParam(ADD_UP),
    ) -> None:
        (_, month), news = element
        log.add(LogEntry(news, None))
        if not self._settings.live:
            add_up.set(Timestamp(micros=EXPLAINED_AT_END), dynamic_timer_tag="end")
            return
        # What several days say at the same instant is one row.
        add_up.set(Timestamp(micros=at.micros + AFTER), dynamic_timer_tag=str(at.micros))
        over = end_of_month(month, self._settings.time_zone) + self._settings.window
        expires = billing_expiry(self._settings, over) + 2 * KEPT_LONGER
        add_up.set(Timestamp(micros=expires), dynamic_timer_tag=EXPIRE)

    @on_timer(ADD_UP)
    def on_add_up(
        self,
        key: Any = beam.DoFn.KeyParam,
        tag: Any = beam.DoFn.DynamicTimerTagParam,
        log: Any = beam.DoFn.StateParam(LOG),
    ) -> Iterator[CustomerBatch]:
        news, kept = read_log(log)
        if news:
            months = Months(kept)
            rows = months.told(key[1], months.add(news))
            if rows is not None:
                yield rows
            log.clear()
            log.add(LogEntry(None, months.kept()))
        if tag == EXPIRE:
            log.clear()


class Months(CustomerColumns):
    """A shard's customers in one month, as arrays."""

    NAMES = COLUMNS

    def __init__(self, kept: KeptMonth | None):
        super().__init__(*(([], []) if kept is None else (kept.customers, kept.columns)))

    def add(self, news: list[CustomerDayChanges]) -> Ints:
        """Take changes in: which customers have changed."""
        mine = self._columns
        touched = []
        for each in news:
            place = self._placed(each.customers)
            column = {
                name: decoded(getattr(each, name), len(each.customers))
                for name in CustomerDayChanges.__struct_fields__[2:]
            }
            # A customer is in a day's changes once.
            for name in COLUMNS[:4]:
                mine[name][place] += column[name]
            mine["as_of"][place] = np.maximum(mine["as_of"][place], column["as_of"])
            day = int(each.day[8:])
            last = mine["day"][place] <= day
            here = place[last]
            mine["day"][here] = day
            for name in _OF_LAST_DAY:
                mine[name][here] = column[name][last]
            touched.append(place)
        return np.unique(np.concatenate(touched))

    def told(self, month: str, touched: Ints) -> CustomerBatch | None:
        """The rows to publish, noted as told; None where there are none."""
        names, now = self._told(touched)
        if not names:
            return None
        numbers: dict[str, np.ndarray] = {
            "interval_start": now["starts"],
            "interval_end": now["ends"],
            "day": now["day"],
            "intervals": now["reads"],
            "estimated_intervals": now["estimated"],
            "as_of": now["as_of"],
            "revision": now["revision"],
        }
        for of, prefix in (("interval", "interval_"), ("day", "day_"), ("month", "")):
            delivered, received = now[f"{prefix}delivered"], now[f"{prefix}received"]
            numbers[f"{of}_delivered_kwh"] = kwh(delivered)
            numbers[f"{of}_received_kwh"] = kwh(received)
            numbers[f"{of}_net_kwh"] = kwh(delivered - received)
        return CustomerBatch(names, month, packed(numbers, MONTH_NUMBERS))

    def kept(self) -> KeptMonth:
        """All of it for the state."""
        return KeptMonth(self.names, self.packed())
