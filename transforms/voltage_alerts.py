"""VOLTAGE alerts: a transformer at one of whose meters the voltage left the permitted band."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct

from ami_beam.alert_ids import alert_id
from ami_beam.coders import MsgspecCoder
from ami_beam.records import Alert, CountedStatistics, FeederStatistics, MeterCount
from ami_beam.settings import Settings
from ami_beam.shards import ShardWindow
from transforms.alert_lifecycle import AlertState, advance
from transforms.count_alerts import count_alert
from transforms.window_expiry import expiry

LOW_VOLTAGE = "LOW_VOLTAGE"
HIGH_VOLTAGE = "HIGH_VOLTAGE"


class TransformerVoltage(Struct, array_like=True, gc=False):
    """One transformer's alerts in one window, and the nominal voltage (volts) that the window keeps."""

    nominal_voltage_v: float
    statistics_revision: int
    low: AlertState | None = None
    high: AlertState | None = None


class WindowVoltages(Struct, array_like=True, gc=False):
    """The state of one (shard, window)."""

    transformers: dict[str, TransformerVoltage]


@beam.typehints.with_output_types(Alert)
class VoltageAlerts(beam.PTransform):
    """LOW_VOLTAGE and HIGH_VOLTAGE while a window's extreme voltage is beyond its per cent of nominal.

    Takes counted statistics keyed by (shard, window_end) in the global window; gives an alert at every change of its
    life. One alert id per (type, transformer, window): reads of several feeders are judged together, and the alert
    names the feeder of the extreme read. Both types may hold in one window. Nominal is the transformer's own from the
    meter counts, or the run's; the window keeps the one of its first publication, unless rows have effective_from.

    State per (shard, window): about 30 bytes a transformer, until the window's reads are too late.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, statistics: beam.PCollection[tuple[ShardWindow, CountedStatistics]]) -> beam.PCollection[Alert]:
        return statistics | f"Lifecycle {self._settings.state_label()}" >> beam.ParDo(
            _VoltageLifecycleDoFn(self._settings)
        )


@beam.typehints.with_input_types(tuple[tuple[int, int], CountedStatistics])
@beam.typehints.with_output_types(Alert)
class _VoltageLifecycleDoFn(beam.DoFn):
    VOLTAGES = ReadModifyWriteStateSpec("voltages", MsgspecCoder(WindowVoltages))
    EXPIRE = TimerSpec("voltage_expire", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings

    def process(
        self,
        element: tuple[ShardWindow, CountedStatistics],
        voltages_state: Any = beam.DoFn.StateParam(VOLTAGES),
        expire: Any = beam.DoFn.TimerParam(EXPIRE),
    ) -> Iterator[Alert]:
        (_, window_end), batch = element
        held = voltages_state.read()
        voltages = held or WindowVoltages({})
        if held is None:
            expire.set(Timestamp(micros=expiry(self._settings, window_end)))
        for statistics, count in zip(batch.transformers, batch.counts, strict=True):
            transformer_id = statistics.transformer_id
            voltage = voltages.transformers.get(transformer_id)
            if voltage is None:
                voltage = voltages.transformers[transformer_id] = TransformerVoltage(self._nominal(count), -1)
            elif count is not None and count.effective_from is not None:
                voltage.nominal_voltage_v = self._nominal(count)
            if statistics.revision <= voltage.statistics_revision:
                continue
            voltage.statistics_revision = statistics.revision
            yield from self._judge(window_end, transformer_id, statistics.feeders, statistics.as_of, voltage)
        voltages_state.write(voltages)

    @on_timer(EXPIRE)
    def on_expire(self, voltages_state: Any = beam.DoFn.StateParam(VOLTAGES)) -> None:
        voltages_state.clear()

    def _nominal(self, count: MeterCount | None) -> float:
        if count is None or count.nominal_voltage_v is None:
            return self._settings.nominal_voltage
        return count.nominal_voltage_v

    def _judge(
        self,
        window_end: int,
        transformer_id: str,
        feeders: list[FeederStatistics],
        as_of: int,
        voltage: TransformerVoltage,
    ) -> Iterator[Alert]:
        measured = [feeder for feeder in feeders if feeder.min_voltage_v is not None]
        lowest = min(measured, key=_minimum, default=None)
        highest = max(measured, key=_maximum, default=None)
        low_limit = voltage.nominal_voltage_v * self._settings.low_voltage_pct / 100
        high_limit = voltage.nominal_voltage_v * self._settings.high_voltage_pct / 100

        def alert(alert_type: str, state: AlertState, feeder: FeederStatistics | None) -> Alert:
            count_alert(alert_type, state.status)
            return Alert(
                alert_id=alert_id("VOLTAGE", alert_type, transformer_id, window_end),
                alert_source="VOLTAGE",
                entity_id=transformer_id,
                alert_time=window_end,
                alert_type=alert_type,
                detail_value=state.value,
                severity="WARNING",
                status=state.status,
                revision=state.revision,
                as_of=as_of,
                window_start=window_end - self._settings.window,
                window_end=window_end,
                feeder_id=feeder.feeder_id if feeder else None,
            )

        value = lowest.min_voltage_v if lowest else None
        low = advance(voltage.low, value is not None and value < low_limit, value)
        if low is not None:
            voltage.low = low
            yield alert(LOW_VOLTAGE, low, lowest)
        value = highest.max_voltage_v if highest else None
        high = advance(voltage.high, value is not None and value > high_limit, value)
        if high is not None:
            voltage.high = high
            yield alert(HIGH_VOLTAGE, high, highest)


def _minimum(feeder: FeederStatistics) -> tuple[float, str]:
    assert feeder.min_voltage_v is not None
    return feeder.min_voltage_v, feeder.feeder_id


def _maximum(feeder: FeederStatistics) -> tuple[float, str]:
    assert feeder.max_voltage_v is not None
    return feeder.max_voltage_v, feeder.feeder_id
