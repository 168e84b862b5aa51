"""A head-end's records as ours: every record of an answer becomes one of our records, or is set aside with a reason.

What is mapped is held against the decoder that the pipeline uses, so that nothing is published that it cannot read.
What the pipeline decides by its options (plausible energies and voltages, lateness) is left to it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from ami_beam.codecs.json_events import EventDecoder
from ami_beam.codecs.json_reads import ReadDecoder
from ami_beam.headend.clocks import Clock, Series, candidates, in_daylight_time
from ami_beam.headend.json_paths import Place, value_at
from ami_beam.headend.source_file import FieldRule, Source
from ami_beam.instants import format_instant
from ami_beam.records import DeadLetter, RecordBatch
from ami_beam.settings import Settings

DIGEST_BYTES = 16
LARGEST = 512 * 1024
"""Bytes of one of our records; Kafka's own default is twice as much."""
_TEXTS = ("meter_id", "service_point_id", "customer_id", "transformer_id", "feeder_id", "read_type", "event_desc")
_ENERGIES = ("consumption_kwh", "delivered_kwh", "received_kwh")
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,2})?")
_encode = msgspec.json.Encoder(decimal_format="number").encode


class Mapped(NamedTuple):
    """One of our records."""

    key: bytes
    value: bytes
    digest: bytes
    """Of all but the time at which it was collected."""


class Refused(NamedTuple):
    """A record that cannot be one of ours."""

    reason: str
    detail: str
    original: bytes
    digest: bytes


class FieldError(ValueError):
    """A field without a value that it can have."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Mapper:
    """Maps the records of one source.

    Args:
      source: its description.
      lookup: rows of the lookup file by the value of its key.
    """

    def __init__(self, source: Source, lookup: Mapping[str, Mapping[str, str]] | None = None) -> None:
        self._source = source
        self.lookup = lookup or {}
        self._fields = source.fields
        self._clock = Clock(source.times.time_zone, source.times.dst)
        self._collected = tuple(name for name, rule in source.fields.items() if rule.collected)
        # How much energy is plausible, and how late is late, are options of the pipeline.
        settings = Settings(max_interval_kwh=math.inf, plausible_voltage=(0.0, math.inf), future_limit=1 << 62)
        self._decoder: ReadDecoder | EventDecoder = (
            ReadDecoder(settings) if source.kind == "reads" else EventDecoder(settings)
        )

    def map(self, places: list[Place], series: Series, collected: int) -> list[Mapped | Refused]:
        """One of the two for each record, in order. `collected`: when the answer came, in microseconds."""
        done: list[Mapped | Refused] = []
        values: list[bytes | None] = []
        for place in places:
            original = _encode(place.value)
            digest = digest_of(original)
            try:
                fields = self._record(place, series, digest, collected)
            except FieldError as error:
                done.append(Refused(error.reason, str(error), original, digest))
                continue
            value = _encode(fields)
            if len(value) > LARGEST:
                done.append(Refused("TOO_LONG", f"the record would have more than {LARGEST:,} bytes", original, digest))
                continue
            ours = value if not self._collected else _encode({**fields, **dict.fromkeys(self._collected)})
            done.append(Mapped(str(fields["meter_id"]).encode(), value, digest_of(ours)))
            values.append(value)
        if values:
            self._check(done, values, places)
        return done

    def _check(self, done: list[Mapped | Refused], values: list[bytes | None], places: list[Place]) -> None:
        """Set aside what the decoder refuses."""
        spots = [spot for spot, each in enumerate(done) if isinstance(each, Mapped)]
        # A record time at which nothing is too late: that is decided when the record is read.
        batch = RecordBatch("", [0] * len(spots), list(range(len(spots))), [0] * len(spots), values)
        letters: list[DeadLetter] = self._decoder.decode(batch, None)[1]
        for letter in letters:
            if not letter.used:
                spot = spots[letter.offset]
                original = _encode(places[spot].value)
                done[spot] = Refused(letter.reason, letter.detail, original, digest_of(original))

    def _record(self, place: Place, series: Series, digest: bytes, collected: int) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        meter = self._value(place, "meter_id", fields)
        fields["meter_id"] = meter
        for name in self._fields:
            if name not in fields and not name.endswith(("_ts", "_start", "_end")):
                fields[name] = self._value(place, name, fields)
        if self._source.kind == "events":
            fields["event_ts"] = self._event_time(place, str(meter), series, digest, collected)
            return fields
        self._energies(fields)
        self._times(place, str(meter), fields, series, digest, collected)
        fields.setdefault("read_type", "INTERVAL")
        fields.setdefault("power_quality_code", 0)
        fields.setdefault("estimated_flag", False)
        return fields

    def _value(self, place: Place, name: str, fields: Mapping[str, Any]) -> Any:
        """The value of a field that is no time. Raises FieldError."""
        rule = self._fields[name]
        found = rule.constant
        if rule.path is not None:
            found = value_at(place, rule.path)
        elif rule.lookup is not None:
            found = self._looked_up(place, name, rule, fields)
        if rule.values is not None and found is not None:
            word = str(found).lower() if isinstance(found, bool) else str(found)
            if word not in rule.values and rule.default is None:
                raise FieldError("UNKNOWN_VALUE", f"{name}: its value is none of those in `values`, and has no default")
            found = rule.values.get(word)
        if found is None:
            found = rule.default
        if found is None:
            if name in ("voltage_v", "event_desc"):
                return None
            where = f"there is nothing at {rule.path}" if rule.path is not None else "there is no value"
            raise FieldError("MISSING_FIELD", f"{name}: {where}")
        if name in _TEXTS:
            return rule.prefix + (found if isinstance(found, str) else _text(found, name))
        if name in (*_ENERGIES, "voltage_v"):
            return _energy(found, name, rule)
        if isinstance(found, str) and re.fullmatch(r"-?[0-9]{1,18}", found) and name.endswith("_code"):
            return int(found)
        return found

    def _looked_up(self, place: Place, name: str, rule: FieldRule, fields: Mapping[str, Any]) -> str | None:
        assert self._source.lookup is not None
        assert rule.lookup is not None
        key = self._source.lookup.key
        wanted = fields[key] if key in fields else self._value(place, key, fields)
        row = self.lookup.get(str(wanted))
        if row is None and rule.default is None:
            raise FieldError("NOT_IN_LOOKUP", f"{name}: {self._source.lookup.file} has no row of this {key}")
        return None if row is None else row.get(rule.lookup) or None

    def _energies(self, fields: dict[str, Any]) -> None:
        """One of the three is enough: consumption is what was delivered less what was received."""
        zero = Decimal(0)
        if "delivered_kwh" not in fields:
            fields["delivered_kwh"] = max(fields["consumption_kwh"], zero)
            fields.setdefault("received_kwh", max(-fields["consumption_kwh"], zero))
        fields.setdefault("received_kwh", zero)
        if "consumption_kwh" not in fields:
            fields["consumption_kwh"] = fields["delivered_kwh"] - fields["received_kwh"]

    def _times(
        self, place: Place, meter: str, fields: dict[str, Any], series: Series, digest: bytes, collected: int
    ) -> None:
        source, interval = self._source, self._source.interval
        begins = source.times.interval_label == "begin"
        named, other = ("interval_start", "interval_end") if begins else ("interval_end", "interval_start")
        found = self._candidates(place, named, collected)
        known = f"{meter}\0{fields.get('read_type', '')}"
        chosen = series.choose(
            known, [each + interval for each in found] if begins else found, interval, digest, self._daylight(place)
        )
        start, end = chosen - interval, chosen
        if other in self._fields:
            others = self._candidates(place, other, collected)
            if begins:
                end = min(others, key=lambda each: (each <= start, abs(each - start - interval)))
            else:
                start = min(others, key=lambda each: (each >= end, abs(end - each - interval)))
        fields["interval_start"], fields["interval_end"] = format_instant(start), format_instant(end)
        if "read_ts" in self._fields:
            # A read is not there before its interval is over.
            reads = self._candidates(place, "read_ts", collected)
            read_ts = next((each for each in reads if each >= end), reads[-1])
        else:
            read_ts = end
        fields["read_ts"] = format_instant(read_ts)

    def _event_time(self, place: Place, meter: str, series: Series, digest: bytes, collected: int) -> str:
        found = self._candidates(place, "event_ts", collected)
        return format_instant(series.choose(meter, found, 0, digest, self._daylight(place)))

    def _daylight(self, place: Place) -> bool | None:
        path = self._source.times.dst_flag
        flag = None if path is None else value_at(place, path)
        if flag is None:
            return None
        try:
            return in_daylight_time(flag)
        except ValueError as error:
            raise FieldError("INVALID_TIMESTAMP", f"dst_flag: {error}") from None

    def _candidates(self, place: Place, name: str, collected: int) -> tuple[int, ...]:
        rule = self._fields[name]
        if rule.collected:
            return (collected,)
        value = rule.constant if rule.path is None else value_at(place, rule.path)
        if value is None:
            raise FieldError("MISSING_FIELD", f"{name}: there is nothing at {rule.path}")
        try:
            return candidates(value, rule.format or self._source.times.format, self._clock, name == "interval_end")
        except (ValueError, OverflowError) as error:
            raise FieldError("INVALID_TIMESTAMP", f"{name}: {error}") from None


def _text(found: Any, name: str) -> str:
    if isinstance(found, bool) or not isinstance(found, int):
        raise FieldError("WRONG_TYPE", f"{name}: is neither a text nor a whole number")
    return str(found)


def _energy(found: Any, name: str, rule: FieldRule) -> Decimal:
    """A number, or a text that is one, times the rule's factor: exactly, as decimals."""
    if isinstance(found, str) and not _NUMBER.fullmatch(found.strip()):
        raise FieldError("WRONG_TYPE", f"{name}: is a text that is no number")
    if isinstance(found, bool) or not isinstance(found, int | float | Decimal | str):
        raise FieldError("WRONG_TYPE", f"{name}: is no number")
    try:
        number = Decimal(str(found).strip())
        return number if rule.factor is None else number * Decimal(str(rule.factor))
    except (InvalidOperation, ArithmeticError):
        raise FieldError("NUMBER_OUT_OF_RANGE", f"{name}: is out of range") from None


def digest_of(value: bytes) -> bytes:
    """What a record is known by."""
    return blake2b(value, digest_size=DIGEST_BYTES).digest()
