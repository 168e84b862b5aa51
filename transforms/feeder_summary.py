"""The summary of every feeder and window, rolled up from the results of its transformers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct, field

from ami_beam.coders import MsgspecCoder
from ami_beam.records import (
    FeederBatch,
    FeederInput,
    FeederRow,
    GroupTotals,
    PairTotals,
    ReceiptStanding,
    SegmentTotals,
    VoltageStanding,
)
from ami_beam.settings import Settings
from transforms.end_of_replay import PUBLISHED_AT_END
from transforms.feeder_contributions import GroupWindow
from transforms.gathering import EXPIRE, KEPT_LONGER, forgotten_at, gathered_until
from transforms.segment_totals import add, add_pair, revised, row_of
from transforms.state_log import read_log

ROWS, TOTALS = "rows", "totals"


class Summaries(NamedTuple):
    """What `FeederSummary` gives."""

    rows: beam.PCollection[FeederBatch]
    totals: beam.PCollection[tuple[int, GroupTotals]]
    """Keyed by window_end: what the whole system is made of."""


class KeptTransformer(Struct, array_like=True, gc=False):
    """What is known of a transformer on one feeder; each the newest that came."""

    pair: PairTotals | None = None
    voltage: VoltageStanding | None = None
    heard: ReceiptStanding | None = None
    silent: ReceiptStanding | None = None


class KeptFeeder(Struct, array_like=True, gc=False):
    """A feeder's window."""

    transformers: dict[str, KeptTransformer] = field(default_factory=dict)
    told: FeederRow | None = None
    """What was published last."""
    totals: SegmentTotals = field(default_factory=SegmentTotals)


class KeptWindow(Struct, array_like=True, gc=False):
    """The feeders of a group in one window."""

    feeders: dict[str, KeptFeeder] = field(default_factory=dict)
    nowhere: KeptFeeder = field(default_factory=KeptFeeder)
    """Transformers that never were heard."""
    number: int = 0
    """Of what was said of all of them last."""
    totals: SegmentTotals | None = None


class LogEntry(Struct, array_like=True, gc=False):
    """An element of a window's log: something that has come, or what was known when it was read."""

    news: FeederInput | None
    kept: KeptWindow | None


@beam.typehints.with_input_types(tuple[tuple[int, int], FeederInput])
class FeederSummary(beam.PTransform):
    """One row for every feeder and window, published again only when its content changed; the sums are exact.

    Takes contributions keyed by (group of feeders, window_end). The first row comes with the window's on-time result,
    with the receipt of the transformers that are due by then. Later results are gathered: for a minute of record time,
    and for a quarter of an hour where the window ended more than an hour ago.

    A transformer counts, with its receipt and its alerts, on the feeder of most of its meters; its energies and
    voltages where they were measured. A bounded run publishes the final rows only.

    State per (group, window): about 150 bytes a transformer, until no read of the window can come any more.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, inputs: beam.PCollection[tuple[GroupWindow, FeederInput]]) -> Summaries:
        summarise = beam.ParDo(_SummariseDoFn(self._settings)).with_output_types(
            FeederBatch, totals=tuple[int, GroupTotals]
        )
        label = f"Feeders {self._settings.state_label()}"
        found = inputs | label >> summarise.with_outputs(TOTALS, main=ROWS)
        return Summaries(found[ROWS], found[TOTALS])


class _SummariseDoFn(beam.DoFn):
    LOG = BagStateSpec("feeder_log", MsgspecCoder(LogEntry))
    SUMMARISE = TimerSpec("feeder_summarise", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings

    def process(
        self,
        element: tuple[GroupWindow, FeederInput],
        at: Any = beam.DoFn.TimestampParam,
        log: Any = beam.DoFn.StateParam(LOG),
        summarise: Any = beam.DoFn.TimerParam(SUMMARISE),
    ) -> None:
        (_, window_end), news = element
        log.add(LogEntry(news, None))
        if not self._settings.live:
            summarise.set(Timestamp(micros=PUBLISHED_AT_END), dynamic_timer_tag="end")
            return
        times = [at.micros, *(each.as_of for each in news.pairs), *(each.as_of for each in news.receipts)]
        times += [each.as_of for each in news.voltages]
        when = gathered_until(max(times), window_end, self._settings)
        summarise.set(Timestamp(micros=when), dynamic_timer_tag=str(when))
        # Where the head-end was silent for days, receipt is judged when the rest has been forgotten else.
        forgotten = max(forgotten_at(self._settings, window_end), at.micros + KEPT_LONGER)
        summarise.set(Timestamp(micros=forgotten), dynamic_timer_tag=EXPIRE)

    @on_timer(SUMMARISE)
    def on_summarise(
        self,
        key: Any = beam.DoFn.KeyParam,
        tag: Any = beam.DoFn.DynamicTimerTagParam,
        log: Any = beam.DoFn.StateParam(LOG),
    ) -> Iterator[Any]:
        news, kept = read_log(log)
        group, window_end = key
        if news:
            kept = kept or KeptWindow()
            rows, totals = update(kept, news, window_end - self._settings.window, window_end)
            if rows:
                yield FeederBatch(rows)
            if totals is not None:
                yield TaggedOutput(TOTALS, (window_end, GroupTotals(group, kept.number, totals)))
        if tag == EXPIRE and not (kept is not None and _waits(kept)):
            log.clear()
        elif news:
            log.clear()
            log.add(LogEntry(None, kept))


def _waits(kept: KeptWindow) -> bool:
    """Whether no transformer's receipt was judged yet: the head-end has been silent since, and it will be."""
    known = [each for feeder in kept.feeders.values() for each in feeder.transformers.values()]
    return bool(known) and not any(each.heard is not None or each.silent is not None for each in known)


def update(
    kept: KeptWindow, news: Iterable[FeederInput], window_start: int, window_end: int
) -> tuple[list[FeederRow], SegmentTotals | None]:
    """Take news in: the rows to publish, noted as told, and all feeders together; None where they are as before."""
    touched: set[str] = set()
    for each in news:
        for pair in each.pairs:
            touched.add(pair.feeder_id)
            known = _of(kept, pair.feeder_id, pair.transformer_id)
            if known.pair is None or pair.revision > known.pair.revision:
                known.pair = pair
        for voltage in each.voltages:
            touched.add(voltage.feeder_id)
            known = _of(kept, voltage.feeder_id, voltage.transformer_id)
            if known.voltage is None or voltage.revision > known.voltage.revision:
                known.voltage = voltage
        for receipt in each.receipts:
            if receipt.feeder_id is not None:
                touched.add(receipt.feeder_id)
            known = _of(kept, receipt.feeder_id, receipt.transformer_id)
            if receipt.placed is None:
                if known.heard is None or receipt.revision > known.heard.revision:
                    known.heard = receipt
            elif known.silent is None or receipt.placed > (known.silent.placed or 0):
                known.silent = receipt
    rows = []
    for feeder_id in sorted(touched):
        feeder = kept.feeders[feeder_id]
        feeder.totals = totals_of(feeder)
        row = revised(row_of(feeder_id, window_start, window_end, feeder.totals), feeder.told)
        if row is not None:
            feeder.told = row
            rows.append(row)
    kept.nowhere.totals = totals_of(kept.nowhere)
    together = SegmentTotals()
    for feeder in (kept.nowhere, *kept.feeders.values()):
        add(together, feeder.totals)
    if together == kept.totals:
        return rows, None
    kept.totals = together
    kept.number += 1
    return rows, together


def _of(kept: KeptWindow, feeder_id: str | None, transformer_id: str) -> KeptTransformer:
    feeder = kept.nowhere if feeder_id is None else kept.feeders.get(feeder_id)
    if feeder is None:
        assert feeder_id is not None
        feeder = kept.feeders[feeder_id] = KeptFeeder()
    known = feeder.transformers.get(transformer_id)
    if known is None:
        known = feeder.transformers[transformer_id] = KeptTransformer()
    return known


def totals_of(feeder: KeptFeeder) -> SegmentTotals:
    """What the feeder's transformers add up to."""
    totals = SegmentTotals()
    for each in feeder.transformers.values():
        pair, receipt = each.pair, None
        if pair is not None:
            add_pair(totals, pair)
        if pair is not None and pair.meters_reported:
            receipt = each.heard if pair.main else None
        elif each.silent is not None and not each.silent.gone:
            receipt = each.silent
        if receipt is not None:
            totals.meters_judged += receipt.meters_reported
            totals.meters_expected += receipt.total_meters
            totals.transformers_expected += 1
            totals.as_of = max(totals.as_of, receipt.as_of)
        beyond = pair is not None and pair.main and each.voltage is not None and each.voltage.violated
        totals.transformers_in_violation += beyond or (receipt is not None and receipt.low)
    return totals
