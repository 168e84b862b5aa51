"""The receipt rate: how many of a transformer's meters were heard in a window."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct

from ami_beam.coders import MsgspecCoder
from ami_beam.records import CountedStatistics, MeterCount, ReceiptDue, ReceiptInput, ReceiptRow, TransformerStatistics
from ami_beam.settings import Settings
from ami_beam.shards import ShardWindow
from transforms.window_expiry import expiry


def receipt_rate_pct(meters: int, total_meters: int) -> float:
    """Per cent of `total_meters`, one decimal, half away from zero, in integer arithmetic."""
    return (meters * 2_000 + total_meters) // (2 * total_meters) / 10


class TransformerReceipt(Struct, array_like=True, gc=False):
    """What is known of one transformer in one window."""

    meters_reported: int = 0
    actual_meters_reported: int = 0
    feeder_id: str | None = None
    as_of: int | None = None
    statistics_revision: int = -1
    """Of the statistics that the fields above come from; older ones that arrive later are passed over."""
    count: MeterCount | None = None
    """The row of the meter counts that this window keeps. None until the window is due for the transformer."""
    published: ReceiptRow | None = None


class WindowReceipts(Struct, array_like=True, gc=False):
    """The state of one (shard, window)."""

    transformers: dict[str, TransformerReceipt]


@beam.typehints.with_output_types(ReceiptRow)
class ReceiptRate(beam.PTransform):
    """One row per transformer of the meter counts and due window, and again whenever its content changed.

    Takes a tuple of the due windows (`ExpandDueWindows`) and the counted statistics (`JoinMeterCounts`), both keyed by
    (shard, window_end) in the global window. A transformer is judged when the watermark of both inputs has passed
    window_end + its receipt delay, so that reads that were in time are never missing from its first row. A transformer
    of which nothing was heard has 0.0 and the window's end as as_of. Rates above 100 are published as they are.

    The window keeps the row of the meter counts that was current when it was judged; where rows have effective_from
    a revision looks the valid one up again. A reload alone publishes nothing.

    State per (shard, window): about 60 bytes a transformer, until the window's reads are too late.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, inputs: tuple[beam.PCollection, beam.PCollection]) -> beam.PCollection[ReceiptRow]:
        due, statistics = inputs
        keyed = tuple[tuple[int, int], ReceiptInput]
        return (
            (
                due | "Due" >> beam.MapTuple(_from_due).with_output_types(keyed),
                statistics | "Statistics" >> beam.MapTuple(_from_statistics).with_output_types(keyed),
            )
            | "Both" >> beam.Flatten()
            | f"Judge {self._settings.state_label()}" >> beam.ParDo(_ReceiptRateDoFn(self._settings))
        )


def _from_due(key: ShardWindow, due: ReceiptDue) -> tuple[ShardWindow, ReceiptInput]:
    return key, ReceiptInput(None, due)


def _from_statistics(key: ShardWindow, statistics: CountedStatistics) -> tuple[ShardWindow, ReceiptInput]:
    return key, ReceiptInput(statistics, None)


@beam.typehints.with_input_types(tuple[tuple[int, int], ReceiptInput])
@beam.typehints.with_output_types(ReceiptRow)
class _ReceiptRateDoFn(beam.DoFn):
    RECEIPTS = ReadModifyWriteStateSpec("receipts", MsgspecCoder(WindowReceipts))
    JUDGE = TimerSpec("receipt_judge", TimeDomain.WATERMARK)
    EXPIRE = TimerSpec("receipt_expire", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings

    def process(
        self,
        element: tuple[ShardWindow, ReceiptInput],
        receipts_state: Any = beam.DoFn.StateParam(RECEIPTS),
        judge: Any = beam.DoFn.TimerParam(JUDGE),
        expire: Any = beam.DoFn.TimerParam(EXPIRE),
    ) -> Iterator[ReceiptRow]:
        (_, window_end), update = element
        held = receipts_state.read()
        receipts = held or WindowReceipts({})
        if held is None or update.due is not None:
            expire.set(Timestamp(micros=expiry(self._settings, window_end)))
        if update.due is not None:
            due_at = window_end + update.due.receipt_delay
            for due_count in update.due.counts:
                receipt = receipts.transformers.setdefault(due_count.transformer_id, TransformerReceipt())
                if receipt.published is None:
                    receipt.count = due_count
            judge.set(Timestamp(micros=due_at), dynamic_timer_tag=str(update.due.receipt_delay))
        if update.statistics is not None:
            for transformer, count in zip(update.statistics.transformers, update.statistics.counts, strict=True):
                receipt = receipts.transformers.setdefault(transformer.transformer_id, TransformerReceipt())
                if transformer.revision <= receipt.statistics_revision:
                    continue
                _take(receipt, transformer)
                if receipt.published is None:
                    continue
                if count is not None and count.effective_from is not None:
                    receipt.count = count
                row = self._row(window_end, receipt)
                if row is not None:
                    yield row
        receipts_state.write(receipts)

    @on_timer(JUDGE)
    def on_judge(
        self,
        key: Any = beam.DoFn.KeyParam,
        tag: Any = beam.DoFn.DynamicTimerTagParam,
        receipts_state: Any = beam.DoFn.StateParam(RECEIPTS),
    ) -> Iterator[ReceiptRow]:
        receipts = receipts_state.read()
        if receipts is None:
            return
        for receipt in receipts.transformers.values():
            if receipt.count is None or receipt.published is not None or self._delay(receipt.count) != int(tag):
                continue
            row = self._row(key[1], receipt)
            if row is not None:
                yield row
        receipts_state.write(receipts)

    @on_timer(EXPIRE)
    def on_expire(self, receipts_state: Any = beam.DoFn.StateParam(RECEIPTS)) -> None:
        receipts = receipts_state.read()
        # Nothing judged yet: the head-end has been silent since, and the rows come when its reads resume.
        if receipts is not None and any(r.published is not None for r in receipts.transformers.values()):
            receipts_state.clear()

    def _delay(self, count: MeterCount) -> int:
        return self._settings.receipt_delay if count.receipt_delay is None else count.receipt_delay

    def _row(self, window_end: int, receipt: TransformerReceipt) -> ReceiptRow | None:
        """The row to publish now, noted as published; None where its content is what was published before."""
        count, before = receipt.count, receipt.published
        assert count is not None
        row = ReceiptRow(
            transformer_id=count.transformer_id,
            feeder_id=receipt.feeder_id,
            window_start=window_end - self._settings.window,
            window_end=window_end,
            meters_reported=receipt.meters_reported,
            total_meters=count.total_meters,
            receipt_rate_pct=receipt_rate_pct(receipt.meters_reported, count.total_meters),
            actual_meters_reported=receipt.actual_meters_reported,
            actual_rate_pct=receipt_rate_pct(receipt.actual_meters_reported, count.total_meters),
            # It never goes back: a consumer keeps the row with the greatest as_of.
            as_of=max(window_end if receipt.as_of is None else receipt.as_of, before.as_of if before else 0),
            revision=before.revision if before else 0,
            previous_rate_pct=before.previous_rate_pct if before else None,
        )
        if row == before:
            return None
        if before is not None:
            row.revision += 1
            row.previous_rate_pct = before.receipt_rate_pct
        receipt.published = row
        return row


def _take(receipt: TransformerReceipt, statistics: TransformerStatistics) -> None:
    """Note newer statistics. The feeder is the one with most meters, the first by name among equals."""
    present = [feeder for feeder in statistics.feeders if feeder.meters_reported]
    receipt.feeder_id = min(present, key=lambda feeder: (-feeder.meters_reported, feeder.feeder_id)).feeder_id
    receipt.meters_reported = statistics.meters_reported
    receipt.actual_meters_reported = statistics.actual_meters_reported
    receipt.as_of = statistics.as_of
    receipt.statistics_revision = statistics.revision
