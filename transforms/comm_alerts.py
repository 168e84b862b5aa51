"""COMM alerts: a transformer from whose meters too few reads were received."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp

from ami_beam.alert_ids import alert_id
from ami_beam.coders import MsgspecCoder
from ami_beam.records import Alert, ReceiptRow
from ami_beam.settings import Settings
from transforms.alert_lifecycle import AlertState, advance
from transforms.count_alerts import count_alert
from transforms.window_expiry import expiry

LOW_RECEIPT_RATE = "LOW_RECEIPT_RATE"


@beam.typehints.with_output_types(Alert)
class CommAlerts(beam.PTransform):
    """LOW_RECEIPT_RATE while a window's receipt_rate_pct, as published, is below `min_receipt_rate_pct`.

    Takes receipt rows in the global window; gives an alert at every change of its life. One alert id per
    (transformer, window). Rows that neither violate nor end a violation go no further: most revisions are of
    transformers that always had enough reads, and a look at state for each would cost much.

    State: one alert, for windows that have been in violation, until the window's reads are too late.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, rows: beam.PCollection[ReceiptRow]) -> beam.PCollection[Alert]:
        settings = self._settings
        return (
            rows
            | "Relevant" >> beam.Filter(_relevant, settings.min_receipt_rate_pct).with_output_types(ReceiptRow)
            | "ByAlert" >> beam.Map(_by_alert).with_output_types(tuple[str, ReceiptRow])
            | f"Lifecycle {settings.state_label()}" >> beam.ParDo(_CommLifecycleDoFn(settings))
        )


def _relevant(row: ReceiptRow, limit: float) -> bool:
    return row.receipt_rate_pct < limit or (row.previous_rate_pct is not None and row.previous_rate_pct < limit)


def _by_alert(row: ReceiptRow) -> tuple[str, ReceiptRow]:
    return alert_id("COMM", LOW_RECEIPT_RATE, row.transformer_id, row.window_end), row


@beam.typehints.with_input_types(tuple[str, ReceiptRow])
@beam.typehints.with_output_types(Alert)
class _CommLifecycleDoFn(beam.DoFn):
    ALERT = ReadModifyWriteStateSpec("alert", MsgspecCoder(AlertState))
    EXPIRE = TimerSpec("comm_expire", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings

    def process(
        self,
        element: tuple[str, ReceiptRow],
        alert_state: Any = beam.DoFn.StateParam(ALERT),
        expire: Any = beam.DoFn.TimerParam(EXPIRE),
    ) -> Iterator[Alert]:
        identity, row = element
        holds = row.receipt_rate_pct < self._settings.min_receipt_rate_pct
        after = advance(alert_state.read(), holds, row.receipt_rate_pct)
        if after is None:
            return
        alert_state.write(after)
        expire.set(Timestamp(micros=expiry(self._settings, row.window_end)))
        count_alert(LOW_RECEIPT_RATE, after.status)
        yield Alert(
            alert_id=identity,
            alert_source="COMM",
            entity_id=row.transformer_id,
            alert_time=row.window_end,
            alert_type=LOW_RECEIPT_RATE,
            detail_value=row.receipt_rate_pct,
            severity="WARNING",
            status=after.status,
            revision=after.revision,
            as_of=row.as_of,
            window_start=row.window_start,
            window_end=row.window_end,
            feeder_id=row.feeder_id,
        )

    @on_timer(EXPIRE)
    def on_expire(self, alert_state: Any = beam.DoFn.StateParam(ALERT)) -> None:
        alert_state.clear()
