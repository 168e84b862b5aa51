"""What one window says of a transformer's alarms: in violation, clear, in the deadband between, or nothing."""

from __future__ import annotations

from ami_beam.records import Level, MetersBeyond, Verdict
from ami_beam.settings import Settings
from transforms.comm_alerts import LOW_RECEIPT_RATE
from transforms.receipt_rate import PublishedReceipt, receipt_rate_pct
from transforms.voltage_alerts import HIGH_VOLTAGE, LOW_VOLTAGE, Extreme


def low_voltage_level(volts: float | None, nominal_voltage_v: float, settings: Settings) -> Level:
    """VIOLATION where LOW_VOLTAGE holds; CLEAR from the deadband above the limit on."""
    if volts is None:
        return Level.UNKNOWN
    if volts < nominal_voltage_v * settings.low_voltage_pct / 100:
        return Level.VIOLATION
    clear = nominal_voltage_v * (settings.low_voltage_pct + settings.alarm_deadband_voltage_pct) / 100
    return Level.CLEAR if volts >= clear else Level.BAND


def high_voltage_level(volts: float | None, nominal_voltage_v: float, settings: Settings) -> Level:
    """VIOLATION where HIGH_VOLTAGE holds; CLEAR up to the deadband below the limit."""
    if volts is None:
        return Level.UNKNOWN
    if volts > nominal_voltage_v * settings.high_voltage_pct / 100:
        return Level.VIOLATION
    clear = nominal_voltage_v * (settings.high_voltage_pct - settings.alarm_deadband_voltage_pct) / 100
    return Level.CLEAR if volts <= clear else Level.BAND


def receipt_level(actual_meters: int, total_meters: int, settings: Settings) -> Level:
    """Of the meters that were actually heard: an estimate is what the head-end sends when it did not hear the meter.

    CLEAR where too few are silent for an alarm, whatever their share.
    """
    if total_meters - actual_meters < settings.min_missing_meters:
        return Level.CLEAR
    rate = receipt_rate_pct(actual_meters, total_meters)
    if rate < settings.min_receipt_rate_pct:
        return Level.VIOLATION
    return Level.CLEAR if rate >= settings.min_receipt_rate_pct + settings.alarm_deadband_receipt_pct else Level.BAND


def voltage_verdicts(
    transformer_id: str,
    lowest: Extreme | None,
    highest: Extreme | None,
    low: MetersBeyond | None,
    high: MetersBeyond | None,
    nominal_voltage_v: float,
    as_of: int,
    settings: Settings,
) -> tuple[Verdict, Verdict]:
    """Of a window's extreme voltages (volts and feeder) and the meters that are beyond the limits."""

    def verdict(alarm_type: str, level: Level, extreme: Extreme | None, beyond: MetersBeyond | None) -> Verdict:
        if level != Level.VIOLATION or extreme is None:
            return Verdict(transformer_id, alarm_type, level)
        volts, feeder_id = extreme
        meters, worst = (beyond.meters, beyond.worst_meter_id) if beyond is not None else (0, None)
        return Verdict(transformer_id, alarm_type, level, volts, meters, worst, 0, feeder_id, as_of)

    low_level = low_voltage_level(lowest[0] if lowest else None, nominal_voltage_v, settings)
    high_level = high_voltage_level(highest[0] if highest else None, nominal_voltage_v, settings)
    return verdict(LOW_VOLTAGE, low_level, lowest, low), verdict(HIGH_VOLTAGE, high_level, highest, high)


def receipt_verdict(transformer_id: str, published: PublishedReceipt, settings: Settings) -> Verdict:
    """Of the receipt row as it was published last."""
    actual, total = published.heard.actual_meters_reported, published.total_meters
    level = receipt_level(actual, total, settings)
    if level != Level.VIOLATION:
        return Verdict(transformer_id, LOW_RECEIPT_RATE, level)
    missing = total - actual
    return Verdict(
        transformer_id,
        LOW_RECEIPT_RATE,
        level,
        receipt_rate_pct(actual, total),
        missing,
        None,
        missing,
        published.heard.feeder_id,
        published.as_of,
    )
