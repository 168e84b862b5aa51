"""Interval reads of the head-end: JSON records in, accepted reads and dead letters out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct
from msgspec.structs import astuple

from ami_beam.codecs import checks
from ami_beam.codecs.dead_letter_reasons import Reason, Rejection
from ami_beam.codecs.strict_json import MAX_DEPTH, may_be_too_deep
from ami_beam.instants import MICROS_PER_MINUTE, window_end_left_closed, window_end_right_closed
from ami_beam.read_columns import Flags, Floats, Ints, ReadColumns, from_reads, joined
from ami_beam.records import DeadLetter, Read, RecordBatch
from ami_beam.settings import Settings

READ_TYPES = ("INTERVAL", "DAILY", "EVENT")
REQUIRED = (
    "meter_id",
    "service_point_id",
    "customer_id",
    "transformer_id",
    "feeder_id",
    "read_type",
    "interval_start",
    "interval_end",
    "consumption_kwh",
    "delivered_kwh",
    "received_kwh",
    "power_quality_code",
    "estimated_flag",
    "read_ts",
)
"""Every field but voltage_v, which many meters do not report."""
_NUMBERS = ("consumption_kwh", "delivered_kwh", "received_kwh", "voltage_v", "power_quality_code")

BALANCE_TOLERANCE_KWH = 0.001 + 1e-9
"""How far a negative consumption may be from delivered − received: the contract's 0.001, as decimals. Floats miss it
by their noise in either direction (−0.501 and 0 − 0.5), which the small change on top forgives."""
ZERO_BELOW_V = 10
"""From 0 V to below this a meter has no supply and still communicates, whether or not that is plausible."""
_LIMIT_INTERVAL = 15 * MICROS_PER_MINUTE
"""The interval length that `max_interval_kwh` is for."""

_OPENING, _CLOSING = b"{}"

CHUNK = 250
"""Records that are looked at one by one where one among them needs it, so that a bad record costs a chunk its speed
and not its whole batch."""

_Id = Annotated[str, Meta(min_length=1)]
_Int64 = Annotated[int, Meta(ge=checks.MIN_INT64, le=checks.MAX_INT64)]


class _WireRead(Struct, gc=False):
    """A read as msgspec may decode it. Timestamps stay texts: msgspec would accept more than the contract does."""

    meter_id: _Id
    service_point_id: _Id
    customer_id: _Id
    transformer_id: _Id
    feeder_id: _Id
    read_type: Literal["INTERVAL", "DAILY", "EVENT"]
    interval_start: str
    interval_end: str
    consumption_kwh: float
    delivered_kwh: float
    received_kwh: float
    power_quality_code: _Int64
    estimated_flag: bool
    read_ts: str
    voltage_v: float | None = None


_FIELDS = len(_WireRead.__struct_fields__)


def one_text(values: Sequence[bytes]) -> bytes | None:
    """Values as lines of one text, each of them whole documents. None where that is not certain.

    Many records are decoded as one text, which is only the same thing if each stays a document of its own. Every value
    begins with an opening and ends with a closing brace, and the two with a line break between them occur within no
    document: a comma is missing, or a text has a line break in it. So a value holds whole documents, and where there
    are as many documents as values it is one.
    """
    count = len(values)
    lengths = np.fromiter(map(len, values), np.int64, count)
    if not lengths.all() or (lengths.max() > 2 * MAX_DEPTH and any(map(may_be_too_deep, values))):
        return None
    lines = b"\n".join(values)
    octets = np.frombuffer(lines, np.uint8)
    behind = np.cumsum(lengths + 1) - 1
    if not ((octets[behind - lengths] == _OPENING).all() and (octets[behind - 1] == _CLOSING).all()):
        return None
    if not lines.isascii():
        lines.decode("utf-8")
    return lines


class _Candidates:
    """Reads that msgspec has decoded, as columns. Raises OverflowError for a record time beyond 64 bits."""

    def __init__(
        self,
        wires: list[_WireRead],
        instants: checks.InstantCache,
        record_times: Sequence[int | None],
        partitions: list[int],
        offsets: list[int],
    ) -> None:
        flat = list(chain.from_iterable(map(astuple, wires)))
        (
            self.meter_ids, self.service_point_ids, self.customer_ids, self.transformer_ids, self.feeder_ids,
            self.read_types, starts, ends, consumed, deliveries, receipts, self.quality_codes, self.estimated, stamps,
            voltages,
        ) = [flat[place::_FIELDS] for place in range(_FIELDS)]  # fmt: skip
        instant = instants.__getitem__
        self.start: Ints = np.array(list(map(instant, starts)), np.int64)
        self.end: Ints = np.array(list(map(instant, ends)), np.int64)
        self.read_ts: Ints = np.array(list(map(instant, stamps)), np.int64)
        self.record_time: Ints = np.array(record_times, np.int64)
        self.consumption: Floats = np.array(consumed, np.float64)
        self.delivered: Floats = np.array(deliveries, np.float64)
        self.received: Floats = np.array(receipts, np.float64)
        self.voltage: Floats = np.array(voltages, np.float64)  # None becomes NaN
        self.window_end: Ints = self.end
        self.partitions = partitions
        self.offsets = offsets


class ReadDecoder:
    """Every record becomes exactly one accepted read or exactly one dead letter with `used=False`.

    A read whose voltage is implausible is accepted without it and is copied to a dead letter with `used=True` as well.
    Reads and letters are in the order of their records. The result depends on the records, the settings and, when
    live, `now`; never on how records are grouped into batches.

    `decode_carefully` is the definition, one check after the other. `decode` gives the same result at a tenth of the
    cost: it takes msgspec's word for a record only where that is known to be right, and asks the definition otherwise.
    Records with something wrong cost a few times what the others do, and the others among them about twice as much.
    What msgspec is trusted with: the grammar of RFC 8259 in known and in skipped fields, the last of duplicate names,
    JSON types, signed 64-bit integers and correctly rounded floats below 2**53. What it is not: UTF-8 in fields it
    skips, depth, timestamps, greater numbers, and every reason for not accepting a record.

    Args:
      settings: the rules of the run.
      keep_customers: whether reads have the customer, as sent; else they have none.
    """

    def __init__(self, settings: Settings, keep_customers: bool = False) -> None:
        self._settings = settings
        self._keep_customers = keep_customers
        self._window_end = window_end_right_closed if settings.window_closed == "right" else window_end_left_closed
        decoder = msgspec.json.Decoder(_WireRead)
        self._decode_wire = decoder.decode
        self._decode_lines = decoder.decode_lines
        self._decode_any = msgspec.json.Decoder().decode
        self._instants = checks.InstantCache()

    def __reduce__(self) -> tuple[type[ReadDecoder], tuple[Settings, bool]]:
        return ReadDecoder, (self._settings, self._keep_customers)

    def decode(self, batch: RecordBatch, now: int | None) -> tuple[ReadColumns, list[DeadLetter]]:
        """The accepted reads of `batch` and its dead letters. `now`: wall clock in microseconds, needed when live."""
        if not len(batch.partitions) == len(batch.offsets) == len(batch.record_times) == len(batch.values):
            raise ValueError("The columns of a batch of records are of different lengths.")
        greatest = checks.greatest_record_time(self._settings, now)
        columns = self._clean_columns(batch, greatest)
        if columns is not None:
            return columns, []
        parts: list[ReadColumns] = []
        letters: list[DeadLetter] = []
        for start in range(0, len(batch.values), CHUNK):
            cut = slice(start, start + CHUNK)
            chunk = RecordBatch(
                batch.topic, batch.partitions[cut], batch.offsets[cut], batch.record_times[cut], batch.values[cut]
            )
            columns = self._clean_columns(chunk, greatest)
            parts.append(self._sorted_out(chunk, greatest, letters) if columns is None else columns)
        return (joined(parts) if parts else from_reads([])), letters

    def _clean_columns(self, batch: RecordBatch, greatest: int) -> ReadColumns | None:
        """The reads of a batch of which every record is accepted as it is. None where that is not certain."""
        values = batch.values
        if not values or None in values or None in batch.record_times:
            return None
        try:
            wires = self._wires(values)  # type: ignore[arg-type]
            if wires is None or len(wires) != len(values):
                return None
            found = _Candidates(wires, self._instants, batch.record_times, batch.partitions, batch.offsets)
        except (msgspec.DecodeError, ValueError, OverflowError, RecursionError):
            return None
        return self._columns(found) if self._acceptable(found, greatest).all() else None

    def _wires(self, values: list[bytes]) -> list[_WireRead] | None:
        """The reads of these values, if there are as many; None where that is not certain. Raises as msgspec does."""
        lines = one_text(values)
        return None if lines is None else self._decode_lines(lines)

    def _wire(self, value: bytes) -> _WireRead:
        """The read that a value is. Raises as msgspec does: ValidationError only for what is JSON, and ValueError."""
        if may_be_too_deep(value):
            raise ValueError("perhaps too deep")
        if not value.isascii():
            value.decode("utf-8")
        return self._decode_wire(value)

    def _sorted_out(self, batch: RecordBatch, greatest: int, letters: list[DeadLetter]) -> ReadColumns:
        """The accepted reads of a batch in which something is wrong. What is not accepted is added to `letters`."""
        decode_wire = self._wire
        wires: list[_WireRead] = []
        places: list[int] = []
        doubtful: list[tuple[int, bool]] = []
        for place, (record_time, value) in enumerate(zip(batch.record_times, batch.values, strict=True)):
            is_json = False
            if value:
                try:
                    wire = decode_wire(value)
                    is_json = True
                    if record_time is not None and 0 <= record_time <= greatest:
                        wires.append(wire)
                        places.append(place)
                        continue
                except msgspec.ValidationError:
                    is_json = True
                except (msgspec.DecodeError, ValueError, RecursionError):
                    pass  # the definition says what is wrong, if anything is
            doubtful.append((place, is_json))
        parts: list[ReadColumns] = []
        if wires:
            found = _Candidates(
                wires, self._instants, [batch.record_times[place] for place in places],
                [batch.partitions[place] for place in places], [batch.offsets[place] for place in places],
            )  # fmt: skip
            acceptable = self._acceptable(found, greatest)
            columns = self._columns(found)
            if not acceptable.all():
                doubtful += [(places[i], True) for i in np.flatnonzero(~acceptable).tolist()]
                doubtful.sort()
                chosen = np.flatnonzero(acceptable)
                columns, places = columns.take(chosen), [places[i] for i in chosen.tolist()]
            parts.append(columns)
        reads: list[Read] = []
        for place, is_json in doubtful:
            before = len(reads)
            self._decode_one(
                batch.topic, batch.partitions[place], batch.offsets[place], batch.record_times[place],
                batch.values[place], greatest, reads, letters, self._fields_quickly if is_json else self._fields_of,
                self._instants,
            )  # fmt: skip
            if len(reads) > before:
                places.append(place)
        if not reads:
            return parts[0] if parts else from_reads([])
        return joined([*parts, from_reads(reads)]).take(np.argsort(np.array(places, np.int64)))

    def _fields_quickly(self, value: bytes | None) -> checks.Fields:
        """What `checks.fields_of` gives, of a value that is UTF-8 and probably JSON."""
        assert value is not None
        try:
            document = self._decode_any(value)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return checks.fields_of(value)
        if type(document) is not dict:
            return checks.fields_of(value)
        for name in _NUMBERS:
            number: Any = document.get(name)
            # A greater number may be another one than was sent.
            if type(number) in (int, float) and not -checks.EXACT_FLOAT < number < checks.EXACT_FLOAT:
                return checks.fields_of(value)
        return document

    def _acceptable(self, found: _Candidates, greatest: int) -> Flags:
        """Which of the reads are certainly accepted as they are."""
        settings = self._settings
        exact = checks.EXACT_FLOAT
        lowest = max(settings.plausible_voltage[0], -exact)
        highest = min(settings.plausible_voltage[1], exact)
        consumption, delivered, received = found.consumption, found.delivered, found.received
        start, end, record_time = found.start, found.end, found.record_time
        found.window_end = np.asarray(self._window_end(end, settings.window))  # type: ignore[arg-type]
        magnitude = np.abs(consumption)
        # A product that overflows is greater than any limit.
        with np.errstate(over="ignore"):
            acceptable: Flags = (
                (start >= 0)
                & (end >= 0)
                & (found.read_ts >= 0)
                & (record_time >= 0)
                & (record_time <= greatest)
                & ~((found.voltage < lowest) | (found.voltage > highest))
                & (np.maximum(np.maximum(magnitude, np.abs(delivered)), np.abs(received)) < exact)
                & (start < end)
                & (magnitude * _LIMIT_INTERVAL <= settings.max_interval_kwh * (end - start))
                & ((consumption >= 0) | (np.abs(consumption - (delivered - received)) <= BALANCE_TOLERANCE_KWH))
                & (end - record_time <= settings.future_limit)
                & (record_time - found.window_end <= settings.allowed_lateness)
            )
        return acceptable

    def _columns(self, found: _Candidates) -> ReadColumns:
        """The reads as the columns that are handed on. Only after `_acceptable`."""
        return ReadColumns(
            found.meter_ids,
            found.service_point_ids,
            found.transformer_ids,
            found.feeder_ids,
            found.read_types,
            found.start.tobytes(),
            found.end.tobytes(),
            found.consumption.tobytes(),
            found.delivered.tobytes(),
            found.received.tobytes(),
            found.voltage.tobytes(),
            np.array(found.quality_codes, np.int64).tobytes(),
            np.array(found.estimated, np.bool_).tobytes(),
            found.read_ts.tobytes(),
            found.window_end.tobytes(),
            bytes(len(found.start)),
            ((found.voltage >= 0) & (found.voltage < ZERO_BELOW_V)).tobytes(),
            found.record_time.tobytes(),
            np.array(found.partitions, np.int64).tobytes(),
            np.array(found.offsets, np.int64).tobytes(),
            found.customer_ids if self._keep_customers else [],
        )

    def decode_carefully(self, batch: RecordBatch, now: int | None) -> tuple[list[Read], list[DeadLetter]]:
        """What `decode` gives, by definition, as reads one by one."""
        greatest = checks.greatest_record_time(self._settings, now)
        reads: list[Read] = []
        letters: list[DeadLetter] = []
        for partition, offset, record_time, value in zip(
            batch.partitions, batch.offsets, batch.record_times, batch.values, strict=True
        ):
            self._decode_one(
                batch.topic, partition, offset, record_time, value, greatest, reads, letters, self._fields_of, None
            )
        return reads, letters

    def _fields_of(self, value: bytes | None) -> checks.Fields:
        """A record's fields, by definition."""
        return checks.fields_of(value)

    def _decode_one(
        self,
        topic: str,
        partition: int,
        offset: int,
        record_time: int | None,
        value: bytes | None,
        greatest: int,
        reads: list[Read],
        letters: list[DeadLetter],
        fields_of: Callable[[bytes | None], checks.Fields],
        instants: checks.InstantCache | None,
    ) -> None:
        """Adds the record to `reads` or to `letters`, and its copy to `letters` where its voltage is implausible."""
        try:
            read = self._read(partition, offset, record_time, fields_of(value), greatest, instants)
        except Rejection as rejection:
            letters.append(
                checks.dead_letter(rejection.reason, rejection.detail, topic, partition, offset, record_time, value)
            )
            return
        reads.append(read)
        if read.voltage_rejected:
            low, high = self._settings.plausible_voltage
            detail = f"voltage_v must lie between {low:g} and {high:g} V; the read is used without it."
            reason = Reason.IMPLAUSIBLE_VOLTAGE
            letters.append(checks.dead_letter(reason, detail, topic, partition, offset, record_time, value, used=True))

    def _read(
        self,
        partition: int,
        offset: int,
        record_time: int | None,
        fields: checks.Fields,
        greatest: int,
        instants: checks.InstantCache | None,
    ) -> Read:
        """The accepted read. The first rule that is broken, in this order, is the reason of its Rejection."""
        settings = self._settings
        checks.check_present(fields, REQUIRED)
        meter_id = checks.identifier(fields, "meter_id")
        service_point_id = checks.identifier(fields, "service_point_id")
        # Checked and mostly dropped: the operational steps do not need to know whose read it is.
        customer_id = checks.identifier(fields, "customer_id")
        transformer_id = checks.identifier(fields, "transformer_id")
        feeder_id = checks.identifier(fields, "feeder_id")
        read_type = checks.identifier(fields, "read_type")
        if read_type not in READ_TYPES:
            raise Rejection(Reason.UNKNOWN_READ_TYPE, f"read_type must be one of {', '.join(READ_TYPES)}.")
        start = checks.instant(fields, "interval_start", instants)
        end = checks.instant(fields, "interval_end", instants)
        consumption = checks.number(fields, "consumption_kwh")
        delivered = checks.number(fields, "delivered_kwh")
        received = checks.number(fields, "received_kwh")
        voltage = checks.optional_number(fields, "voltage_v")
        power_quality_code = checks.integer(fields, "power_quality_code")
        estimated = checks.boolean(fields, "estimated_flag")
        read_ts = checks.instant(fields, "read_ts", instants)
        if start >= end:
            raise Rejection(Reason.INTERVAL_REVERSED, "interval_start must be before interval_end.")
        if not self._is_plausible(consumption, delivered, received, end - start):
            raise Rejection(
                Reason.IMPLAUSIBLE_CONSUMPTION,
                f"consumption_kwh must be at most ±{settings.max_interval_kwh:g} per 15 minutes of the interval, and"
                " negative only as delivered_kwh − received_kwh.",
            )
        record_time = checks.check_record_time(record_time, greatest)
        if end - record_time > settings.future_limit:
            raise Rejection(Reason.FUTURE_TIMESTAMP, "interval_end is too far after the record time.")
        window_end = self._window_end(end, settings.window)
        if record_time - window_end > settings.allowed_lateness:
            raise Rejection(Reason.TOO_LATE, "The record time is beyond the allowed lateness of the read's window.")
        low, high = settings.plausible_voltage
        voltage_rejected = voltage is not None and not low <= voltage <= high
        return Read(
            meter_id,
            service_point_id,
            transformer_id,
            feeder_id,
            read_type,
            start,
            end,
            consumption,
            delivered,
            received,
            None if voltage_rejected else voltage,
            power_quality_code,
            estimated,
            read_ts,
            window_end,
            voltage_rejected,
            voltage is not None and 0 <= voltage < ZERO_BELOW_V,
            record_time,
            partition,
            offset,
            customer_id if self._keep_customers else None,
        )

    def _is_plausible(self, consumption: float, delivered: float, received: float, length: int) -> bool:
        """Whether an interval of `length` microseconds can have this consumption."""
        # Multiplied, not divided: 1000 kWh in 15 minutes is compared without rounding.
        return abs(consumption) * _LIMIT_INTERVAL <= self._settings.max_interval_kwh * length and (
            consumption >= 0 or abs(consumption - (delivered - received)) <= BALANCE_TOLERANCE_KWH
        )
