"""VOLTAGE alerts: a transformer at one of whose meters the voltage left the permitted band."""

from __future__ import annotations

from msgspec import Struct

from ami_beam.records import Alert
from ami_beam.settings import Settings
from transforms.alert_lifecycle import AlertState
from transforms.window_alert import window_alert

LOW_VOLTAGE = "LOW_VOLTAGE"
HIGH_VOLTAGE = "HIGH_VOLTAGE"


class VoltageState(Struct, array_like=True, gc=False):
    """One transformer's alerts in one window, None where there was none."""

    low: AlertState | None = None
    high: AlertState | None = None


Extreme = tuple[float, str]
"""A voltage (volts) and the feeder of the read that has it."""


def voltage_alerts(
    transformer_id: str,
    lowest: Extreme | None,
    highest: Extreme | None,
    as_of: int,
    window_end: int,
    nominal_voltage_v: float,
    before: VoltageState | None,
    settings: Settings,
) -> tuple[VoltageState | None, list[Alert]]:
    """What follows from a window's extreme voltages: the state to remember, None if no alert ever was, and alerts.

    LOW_VOLTAGE and HIGH_VOLTAGE hold while the window's extreme voltage is beyond its per cent of nominal. Reads of
    several feeders are judged together, and the alert names the feeder of the extreme read. Both types may hold in one
    window.
    """
    is_low = lowest is not None and lowest[0] < nominal_voltage_v * settings.low_voltage_pct / 100
    is_high = highest is not None and highest[0] > nominal_voltage_v * settings.high_voltage_pct / 100
    if before is None and not is_low and not is_high:
        return None, []
    alerts: list[Alert] = []

    def judge(alert_type: str, known: AlertState | None, extreme: Extreme | None, holds: bool) -> AlertState | None:
        value, feeder_id = extreme or (None, None)
        result = window_alert(
            "VOLTAGE", alert_type, transformer_id, feeder_id, window_end - settings.window, window_end,
            as_of, known, holds, value,
        )  # fmt: skip
        if result is None:
            return known
        after, alert = result
        alerts.append(alert)
        return after

    state = before or VoltageState()
    low = judge(LOW_VOLTAGE, state.low, lowest, is_low)
    high = judge(HIGH_VOLTAGE, state.high, highest, is_high)
    return VoltageState(low, high), alerts
