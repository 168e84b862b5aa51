"""VOLTAGE alerts: a transformer at one of whose meters the voltage left the permitted band."""

from __future__ import annotations

from msgspec import Struct

from ami_beam.alert_ids import alert_id
from ami_beam.records import Alert, Observation
from ami_beam.settings import Settings
from transforms.alert_lifecycle import AlertState, advance
from transforms.count_alerts import count_alert

LOW_VOLTAGE = "LOW_VOLTAGE"
HIGH_VOLTAGE = "HIGH_VOLTAGE"


class VoltageState(Struct, array_like=True, gc=False):
    """One transformer's alerts in one window, None where there was none."""

    low: AlertState | None = None
    high: AlertState | None = None


def within_limits(observation: Observation, nominal_voltage_v: float, settings: Settings) -> bool:
    """Whether neither alert holds. Most windows of most transformers are so."""
    lowest, highest = observation.lowest, observation.highest
    return (lowest is None or lowest[0] >= nominal_voltage_v * settings.low_voltage_pct / 100) and (
        highest is None or highest[0] <= nominal_voltage_v * settings.high_voltage_pct / 100
    )


def voltage_alerts(
    observation: Observation, window_end: int, nominal_voltage_v: float, state: VoltageState, settings: Settings
) -> list[Alert]:
    """What follows from an observation; notes it in `state`.

    LOW_VOLTAGE and HIGH_VOLTAGE hold while the window's extreme voltage is beyond its per cent of nominal. One alert id
    per (type, transformer, window): reads of several feeders are judged together, and the alert names the feeder of
    the extreme read. Both types may hold in one window. Every alert is counted.
    """
    alerts: list[Alert] = []

    def judge(
        alert_type: str, before: AlertState | None, extreme: tuple[float, str] | None, holds: bool
    ) -> AlertState | None:
        value, feeder_id = extreme or (None, None)
        after = advance(before, holds, value)
        if after is None:
            return before
        count_alert(alert_type, after.status)
        alerts.append(
            Alert(
                alert_id=alert_id("VOLTAGE", alert_type, observation.transformer_id, window_end),
                alert_source="VOLTAGE",
                entity_id=observation.transformer_id,
                alert_time=window_end,
                alert_type=alert_type,
                detail_value=after.value,
                severity="WARNING",
                status=after.status,
                revision=after.revision,
                as_of=observation.as_of,
                window_start=window_end - settings.window,
                window_end=window_end,
                feeder_id=feeder_id,
            )
        )
        return after

    lowest, highest = observation.lowest, observation.highest
    is_low = lowest is not None and lowest[0] < nominal_voltage_v * settings.low_voltage_pct / 100
    is_high = highest is not None and highest[0] > nominal_voltage_v * settings.high_voltage_pct / 100
    state.low = judge(LOW_VOLTAGE, state.low, lowest, is_low)
    state.high = judge(HIGH_VOLTAGE, state.high, highest, is_high)
    return alerts
