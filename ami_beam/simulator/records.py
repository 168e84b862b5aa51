"""Reads and events as the JSON bytes that a head-end publishes, and the ways in which such bytes come out wrong."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from ami_beam.simulator.clock import Clock, format_ms
from ami_beam.simulator.events import DESCRIPTIONS, MeterEvent
from ami_beam.simulator.headend import DAILY, ESTIMATE, Arrivals
from ami_beam.simulator.network import Network, meter_id
from ami_beam.simulator.physics import Physics

_READ = (
    '{"meter_id":"MTR-%07d","service_point_id":"SP-%07d","customer_id":"CUST-%07d","transformer_id":"TR-%06d",'
    '"feeder_id":"FDR-%05d","read_type":"%s","interval_start":"%s","interval_end":"%s","consumption_kwh":%.4f,'
    '"delivered_kwh":%.4f,"received_kwh":%.4f,"voltage_v":%s,"power_quality_code":%d,"estimated_flag":%s,"read_ts":"%s"}'
)


class ReadWriter:
    """Turns arrivals into JSON, with the measurements they carry."""

    def __init__(self, network: Network, clock: Clock, physics: Physics) -> None:
        self._network = network
        self._clock = clock
        self._physics = physics

    def write(self, arrivals: Arrivals) -> tuple[list[bytes], list[bytes]]:
        """Keys and values, in the order of the arrivals."""
        clock, network = self._clock, self._network
        meter = arrivals.meter.astype(np.int64)
        interval = arrivals.interval.astype(np.int64)
        measured = self._physics.measure(meter, interval)
        estimate = arrivals.kind == ESTIMATE
        daily = arrivals.kind == DAILY
        delivered, received = measured.delivered, measured.received
        voltage, quality = measured.voltage, measured.quality
        # Neither an estimate nor a daily register read carries a voltage.
        for chosen, energy in ((estimate, self._physics.typical), (daily, lambda m, _: self._physics.daily(m))):
            at = np.flatnonzero(chosen)
            if len(at):
                delivered[at] = energy(meter[at], interval[at])
                received[at] = 0
                voltage[at] = np.nan
                quality[at] = 0
        end = clock.start_ms + (interval + 1) * clock.interval_ms
        start = end - clock.interval_ms * np.where(daily, clock.intervals_per_day, 1)
        read_ts = (end + arrivals.read_delay_ms) // clock.resolution_ms * clock.resolution_ms
        transformer = network.transformer_of_meter[meter]
        # Millisecond intervals need millisecond texts.
        grid = 1 if clock.start_ms % 1_000 or clock.interval_ms % 1_000 else 1_000
        meters = meter.tolist()
        volts = [f"{v:.2f}" if v == v else "null" for v in voltage.tolist()]
        columns = zip(
            meters,
            meters,
            meters,
            transformer.tolist(),
            network.feeder_of_transformer[transformer].tolist(),
            ["DAILY" if d else "INTERVAL" for d in daily.tolist()],
            format_ms(start, grid),
            format_ms(end, grid),
            ((delivered - received) / 10_000).tolist(),
            (delivered / 10_000).tolist(),
            (received / 10_000).tolist(),
            volts,
            quality.tolist(),
            ["true" if e else "false" for e in estimate.tolist()],
            format_ms(read_ts, clock.resolution_ms),
            strict=True,
        )
        values = [(_READ % row).encode() for row in columns]
        return [b"MTR-%07d" % m for m in meters], values


def write_event(event: MeterEvent, clock: Clock) -> tuple[bytes, bytes]:
    """Key and value of an event; `event_desc` is left out where the head-end sent none."""
    meter = meter_id(event.meter)
    (event_ts,) = format_ms(np.array([event.event_ms]), clock.resolution_ms)
    described = f'"event_desc":"{DESCRIPTIONS[event.code]}",' if event.described else ""
    return (
        meter.encode(),
        f'{{"meter_id":"{meter}","event_code":{event.code},{described}"event_ts":"{event_ts}"}}'.encode(),
    )


def _replace(pattern: bytes, by: bytes) -> Callable[[bytes], bytes]:
    compiled = re.compile(pattern)
    return lambda value: compiled.sub(by, value)


CORRUPTIONS: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
    ("truncated", lambda value: value[: len(value) // 2]),
    ("empty", lambda value: b""),
    ("not UTF-8", _replace(rb'"meter_id":"', b'"meter_id":"\xff')),
    ("byte order mark", lambda value: b"\xef\xbb\xbf" + value),
    ("not an object", lambda value: b"[" + value + b"]"),
    ("two documents", lambda value: value + value),
    ("missing field", _replace(rb'"meter_id"', b'"meter"')),
    ("null id", _replace(rb'"meter_id":"[^"]*"', b'"meter_id":null')),
    ("no zone", _replace(rb'Z"', b'"')),
    ("unknown read type", _replace(rb'"INTERVAL"', b'"interval"')),
    ("not a number", _replace(rb'"(consumption_kwh|event_code)":[^,]+', rb'"\1":NaN')),
    ("number as text", _replace(rb'"(delivered_kwh|event_code)":([^,]+)', rb'"\1":"\2"')),
    ("flag as text", _replace(rb'"estimated_flag":(true|false)', rb'"estimated_flag":"\1"')),
    ("implausible voltage", _replace(rb'"voltage_v":[^,]+', b'"voltage_v":6553.50')),
    ("implausible consumption", _replace(rb'"consumption_kwh":[^,]+', b'"consumption_kwh":-4096.0000')),
    ("future", _replace(rb'"(interval_end|event_ts)":"\d{4}', rb'"\1":"2099')),
)
"""What malformed records look like. A corrupted copy follows the good record, so nothing good is lost by it."""


def corrupt(value: bytes, choice: float) -> bytes:
    """A malformed copy; `choice` in [0, 1) picks how. Never equal to `value`."""
    _, corruption = CORRUPTIONS[int(choice * len(CORRUPTIONS))]
    corrupted = corruption(value)
    return corrupted if corrupted != value else value[: len(value) // 2]
