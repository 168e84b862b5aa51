"""What the contract says of one record, written a second time: json.loads, datetime and plain conditions.

Shares no line with the decoders. Every rule is judged and not only the first that is broken, so that it proves that a
letter's reason is one of those that hold, whatever order the decoder looks in.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from ami_beam.settings import Settings

LAST = 4_133_980_799_999_999  # the last microsecond of 2100
DEEPEST = 256
IDS = ("meter_id", "service_point_id", "customer_id", "transformer_id", "feeder_id")
TIMES = ("interval_start", "interval_end", "read_ts")
ENERGIES = ("consumption_kwh", "delivered_kwh", "received_kwh")
TYPES = {"INTERVAL", "DAILY", "EVENT"}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Verdict = tuple[dict[str, Any] | None, set[str]]
"""The values of an accepted record, or None; and the reasons that hold against it."""


def judge_read(value: bytes | None, record_time: int | None, settings: Settings, now: int | None) -> Verdict:
    """Whether a record of the reads topic is accepted, as what, or why not."""
    document, reasons = _document(value)
    if document is None:
        return None, reasons
    reasons |= _missing(document, (*IDS, "read_type", *TIMES, *ENERGIES, "power_quality_code", "estimated_flag"))
    found: dict[str, Any] = {}
    for name in (*IDS, "read_type"):
        found[name] = _id(document, name, reasons)
    if isinstance(found["read_type"], str) and found["read_type"] and found["read_type"] not in TYPES:
        reasons.add("UNKNOWN_READ_TYPE")
    for name in TIMES:
        found[name] = _time(document, name, reasons)
    for name in ENERGIES:
        found[name] = _energy(document, name, reasons)
    found["voltage_v"] = _voltage(document, reasons)
    found["power_quality_code"] = _code(document, "power_quality_code", reasons)
    flag = found["estimated_flag"] = document.get("estimated_flag")
    if "estimated_flag" in document and flag is not True and flag is not False:
        reasons.add("WRONG_TYPE")
    _record_time(record_time, settings, now, reasons)
    start, end = found["interval_start"], found["interval_end"]
    if start is not None and end is not None:
        if not start < end:
            reasons.add("INTERVAL_REVERSED")
        used, plus, minus = (found[name] for name in ENERGIES)
        if (
            None not in (used, plus, minus)
            and math.isfinite(used)
            and (
                abs(used) * 900_000_000 > settings.max_interval_kwh * (end - start)
                or (used < 0 and abs(used - (plus - minus)) > 0.001 + 1e-9)
            )
        ):
            reasons.add("IMPLAUSIBLE_CONSUMPTION")
    if end is not None and record_time is not None:
        size = settings.window
        found["window_end"] = end + (-end % size if settings.window_closed == "right" else size - end % size)
        if end - record_time > settings.future_limit:
            reasons.add("FUTURE_TIMESTAMP")
        if record_time - found["window_end"] > settings.allowed_lateness:
            reasons.add("TOO_LATE")
    if reasons:
        return None, reasons
    volts = found["voltage_v"]
    found["zero_voltage"] = volts is not None and 0 <= volts < 10
    found["voltage_rejected"] = volts is not None and not (
        settings.plausible_voltage[0] <= volts <= settings.plausible_voltage[1]
    )
    if found["voltage_rejected"]:
        found["voltage_v"] = None
    return found, set()


def judge_event(value: bytes | None, record_time: int | None, settings: Settings, now: int | None) -> Verdict:
    """The same for the events topic."""
    document, reasons = _document(value)
    if document is None:
        return None, reasons
    reasons |= _missing(document, ("meter_id", "event_code", "event_ts"))
    text = document.get("event_desc")
    if text is not None and (not isinstance(text, str) or isinstance(text, Digits)):
        reasons.add("WRONG_TYPE")
    elif text is not None and not _writable(text):
        reasons.add("INVALID_UTF8")
    found = {
        "meter_id": _id(document, "meter_id", reasons),
        "event_code": _code(document, "event_code", reasons),
        "event_ts": _time(document, "event_ts", reasons),
        "event_desc": text,
    }
    _record_time(record_time, settings, now, reasons)
    return (None if reasons else found), reasons


def _document(value: bytes | None) -> tuple[dict[str, Any] | None, set[str]]:
    if value is None:
        return None, {"NULL_VALUE"}
    if value == b"":
        return None, {"EMPTY_VALUE"}
    try:
        text = str(value, "utf-8", "strict")
    except UnicodeError:
        return None, {"INVALID_UTF8"}

    def refuse(_: str) -> None:
        raise ValueError

    # An integer's digits are looked at where a field holds one, because int() refuses very long ones.
    try:
        document = json.loads(text, parse_constant=refuse, parse_int=Digits, object_pairs_hook=Object)
    except (ValueError, RecursionError):
        return None, {"INVALID_JSON"}
    if _depth(document) > DEEPEST:
        return None, {"INVALID_JSON"}
    if not isinstance(document, dict):
        return None, {"NOT_AN_OBJECT"}
    return document, set()


class Digits(str):
    """An integer as it was written."""

    __slots__ = ()

    def in_64_bits(self) -> bool:
        return len(self) <= 25 and -(2**63) <= int(self) < 2**63


class Object(dict[str, Any]):
    """An object, which of duplicate names has the last, and everything that was in it."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.every = [value for _, value in pairs]


def _depth(document: Any) -> int:
    deepest, waiting = 0, [(document, 1)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, dict | list):
            deepest = max(deepest, depth)
            waiting += [(each, depth + 1) for each in (value.every if isinstance(value, Object) else value)]
    return deepest


def _missing(document: dict[str, Any], names: tuple[str, ...]) -> set[str]:
    return {"MISSING_FIELD"} if any(name not in document for name in names) else set()


def _writable(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _text(document: dict[str, Any], name: str, reasons: set[str]) -> str | None:
    value = document.get(name)
    if isinstance(value, str) and not isinstance(value, Digits):
        return value
    if name in document:
        reasons.add("WRONG_TYPE")
    return None


def _id(document: dict[str, Any], name: str, reasons: set[str]) -> str | None:
    text = _text(document, name, reasons)
    if text == "":
        reasons.add("EMPTY_ID")
    elif text is not None and not _writable(text):
        reasons.add("INVALID_UTF8")
    return text


def _time(document: dict[str, Any], name: str, reasons: set[str]) -> int | None:
    text = _text(document, name, reasons)
    if text is None:
        return None
    form = r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,6})?(Z|[+-]\d\d:\d\d)"
    match = re.match(form + r"\Z", text, re.ASCII)
    try:
        if match is None:
            raise ValueError
        moment = datetime.strptime(match[1], "%Y-%m-%dT%H:%M:%S")
        zone = UTC if match[3] == "Z" else _zone(match[3])
        micros = (moment.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
        micros += round(float(match[2] or 0) * 1_000_000)
        micros -= (zone.utcoffset(None) or timedelta()) // timedelta(microseconds=1)
        if not 0 <= micros <= LAST:
            raise ValueError
    except (ValueError, OverflowError):
        reasons.add("INVALID_TIMESTAMP")
        return None
    return micros


def _zone(text: str) -> timezone:
    hours, minutes = int(text[1:3]), int(text[4:6])
    if hours > 23 or minutes > 59:
        raise ValueError(text)
    return timezone((-1 if text[0] == "-" else 1) * timedelta(hours=hours, minutes=minutes))


def _float(value: Any) -> float | None:
    if isinstance(value, Digits):
        return float(value)  # infinite where it is too great
    return value if isinstance(value, float) else None


def _energy(document: dict[str, Any], name: str, reasons: set[str]) -> float | None:
    value = _float(document.get(name))
    if value is None:
        if name in document:
            reasons.add("WRONG_TYPE")
    elif not -(2.0**63) <= value <= 2.0**63:
        reasons.add("NUMBER_OUT_OF_RANGE")
    return value


def _voltage(document: dict[str, Any], reasons: set[str]) -> float | None:
    if document.get("voltage_v") is None:
        return None
    value = _float(document["voltage_v"])
    if value is None:
        reasons.add("WRONG_TYPE")
    elif not math.isfinite(value):
        reasons.add("NUMBER_OUT_OF_RANGE")
    return value


def _code(document: dict[str, Any], name: str, reasons: set[str]) -> int | None:
    value = document.get(name)
    if isinstance(value, Digits):
        if value.in_64_bits():
            return int(value)
        reasons.add("NUMBER_OUT_OF_RANGE")
    elif name in document:
        reasons.add("WRONG_TYPE")
    return None


def _record_time(record_time: int | None, settings: Settings, now: int | None, reasons: set[str]) -> None:
    latest = LAST if now is None else min(LAST, now + settings.clock_skew)
    if record_time is None or not 0 <= record_time <= (latest if settings.live else LAST):
        reasons.add("BAD_RECORD_TIME")
