"""Interval reads of one shard and one window as columns: the form in which reads cross a shuffle and wait in state.

A read costs about 35 bytes here against 423 as JSON, because names stand once, numbers are small differences in as few
bytes as they need, and a column whose values are all equal keeps one. Nothing is lost: `unpack(pack(reads))` gives the
same numbers back, and `columns_of` the same numbers as numpy arrays, without an object a read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct, field

from ami_beam.codecs.number_columns import FLOAT, MICRO_KWH, Scaled, decoded, encoded, encoded_floats, renumbered
from ami_beam.coders import carries
from ami_beam.instants import MICROS_PER_MILLI, MICROS_PER_SECOND
from ami_beam.read_columns import Flags, Floats, Ints

CENTIVOLT = 100

ESTIMATED = 1
VOLTAGE_REJECTED = 2
ZERO_VOLTAGE = 4
SAG = 8
SWELL = 16
APPORTIONED = 32

_NO_VOLTAGE = -1
_NOTHING_MISSING = bytes(2)
"""Encoded 0 for all."""


class PackedRead(NamedTuple):
    """What the statistics need of a read; equal tuples from `content` on are the same content."""

    transformer_id: str
    meter_id: str
    interval_end: int
    read_ts: int
    actual: bool
    record_time: int
    partition: int
    offset: int
    feeder_id: str
    consumption_kwh: float
    delivered_kwh: float
    received_kwh: float
    voltage_v: float | None
    voltage_rejected: bool
    zero_voltage: bool
    sag: bool = False
    """By the quality map."""
    swell: bool = False
    apportioned: bool = False
    """Whether it is the part of a longer read that falls into the window."""
    missing: int = 0
    """Microseconds by which its interval is shorter than the window."""
    counts_as: str = ""
    """The meter of its service point that it is counted as; empty: itself."""


class ReadBlock(Struct, array_like=True, gc=False):
    """Columns of reads that share a window.

    A column of bytes is a byte that names its kind and then little-endian values, one a read, or one for all.
    """

    window_end: int
    first_record_time: int
    last_record_time: int
    time_unit: int
    """Microseconds of one step in `record_times`."""
    read_ts_unit: int
    first_offset: int
    names: list[str]
    """Transformers and feeders, each once."""
    meters: list[str]
    transformers: bytes
    feeders: bytes
    interval_ends: bytes
    """Before window_end, microseconds."""
    read_ts: bytes
    """After window_end, in read_ts_unit."""
    record_times: bytes
    """After first_record_time, in time_unit."""
    partitions: bytes
    offsets: bytes
    """After first_offset."""
    consumption: bytes
    """Integers are micro-kWh, floats kWh; a column with a value that no whole number of micro-kWh equals is floats."""
    received: bytes
    delivered: bytes
    """Integers are the difference to consumption + received in micro-kWh."""
    voltages: bytes
    """Integers are hundredths of a volt, -1 where there is none; floats, NaN where there is none."""
    flags: bytes
    missing: bytes = b""
    """Microseconds; empty where every interval is as long as the window, or longer."""
    counts_as: list[str] = field(default_factory=list)
    """Empty where every meter counts as itself."""
    moved: list[str] = field(default_factory=list)
    """Of a block without reads, which says that the registry was corrected: transformers that lose or gain meters."""
    registry_version: str = ""
    """Of the registry that says so."""

    def __len__(self) -> int:
        return len(self.meters)


carries(ReadBlock)
_COLUMNS = (
    "transformers", "feeders", "interval_ends", "read_ts", "record_times", "partitions", "offsets", "consumption",
    "received", "delivered", "voltages", "flags",
)  # fmt: skip


@dataclass(slots=True)
class BlockColumns:
    """Reads of blocks as arrays, value i of each belongs to read i. Names and units as in `PackedRead`."""

    names: list[str]
    """What the numbers in `transformer` and `feeder` stand for."""
    meter_id: list[str]
    transformer: Ints
    feeder: Ints
    interval_end: Ints
    read_ts: Ints
    record_time: Ints
    partition: Ints
    offset: Ints
    consumption_kwh: Floats
    delivered_kwh: Floats
    received_kwh: Floats
    voltage_v: Floats
    """NaN where there is none."""
    flags: Ints
    missing: Ints | None = None
    """None where it is 0 for all."""
    counts_as: list[str] | None = None
    """None where every meter counts as itself; else as which."""

    def __len__(self) -> int:
        return len(self.meter_id)

    @property
    def counted(self) -> list[str]:
        """As what the meter of every read is counted."""
        return self.meter_id if self.counts_as is None else self.counts_as

    def reads(self) -> list[PackedRead]:
        """The reads one by one."""
        names, flags = self.names, self.flags.tolist()
        # Without a quality map there are none, and nothing is made of them.
        marks: list[list[Any]] = []
        unusual = self.missing is not None or self.counts_as is not None
        if unusual or max(flags, default=0) >= SAG:
            marks = [[bool(flag & which) for flag in flags] for which in (SAG, SWELL, APPORTIONED)]
        if unusual:
            others = self.counts_as or []
            marks.append([0] * len(self) if self.missing is None else self.missing.tolist())
            marks.append(
                ["" if other == own else other for other, own in zip(others, self.meter_id, strict=True)]
                if others
                else [""] * len(self)
            )
        return list(
            map(
                PackedRead,
                [names[number] for number in self.transformer.tolist()],
                self.meter_id,
                self.interval_end.tolist(),
                self.read_ts.tolist(),
                [not flag & ESTIMATED for flag in flags],
                self.record_time.tolist(),
                self.partition.tolist(),
                self.offset.tolist(),
                [names[number] for number in self.feeder.tolist()],
                self.consumption_kwh.tolist(),
                self.delivered_kwh.tolist(),
                self.received_kwh.tolist(),
                [None if voltage != voltage else voltage for voltage in self.voltage_v.tolist()],
                [bool(flag & VOLTAGE_REJECTED) for flag in flags],
                [bool(flag & ZERO_VOLTAGE) for flag in flags],
                *marks,
            )
        )

    def take(self, positions: Ints) -> BlockColumns:
        """The reads at `positions`."""
        return BlockColumns(
            self.names, [self.meter_id[i] for i in positions.tolist()], self.transformer[positions],
            self.feeder[positions], self.interval_end[positions], self.read_ts[positions], self.record_time[positions],
            self.partition[positions], self.offset[positions], self.consumption_kwh[positions],
            self.delivered_kwh[positions], self.received_kwh[positions], self.voltage_v[positions],
            self.flags[positions], None if self.missing is None else self.missing[positions],
            None if self.counts_as is None else [self.counts_as[i] for i in positions.tolist()],
        )  # fmt: skip

    def of(self, transformers: Collection[str]) -> list[PackedRead]:
        """The reads of these transformers."""
        wanted = np.array([name in transformers for name in self.names], np.bool_)
        return self.take(np.flatnonzero(wanted[self.transformer])).reads()

    def block(self, window_end: int) -> ReadBlock:
        """The block of these reads. There must be at least one."""
        return encode_block(
            window_end, self.names, self.transformer, self.feeder, self.meter_id, self.interval_end, self.read_ts,
            self.record_time, self.partition, self.offset, Scaled(self.consumption_kwh, MICRO_KWH),
            Scaled(self.delivered_kwh, MICRO_KWH), Scaled(self.received_kwh, MICRO_KWH),
            Scaled(self.voltage_v, CENTIVOLT), self.flags, slice(None), self.missing, self.counts_as,
        )  # fmt: skip


def encode_block(
    window_end: int,
    names: Sequence[str],
    transformers: Ints,
    feeders: Ints,
    meters: list[str],
    interval_ends: Ints,
    read_ts: Ints,
    record_times: Ints,
    partitions: Ints,
    offsets: Ints,
    consumption: Scaled,
    delivered: Scaled,
    received: Scaled,
    voltages: Scaled,
    flags: Ints,
    cut: slice,
    missing: Ints | None = None,
    counts_as: list[str] | None = None,
) -> ReadBlock:
    """The block of the reads that `cut` takes of every column; at least one. Instants are as in `PackedRead`.

    `transformers` and `feeders` are places in `names`, of which the block keeps those that it needs.
    """
    times, places = record_times[cut], offsets[cut]
    first_time, first_offset = int(times.min()), int(places.min())
    ages, stamps = times - first_time, read_ts[cut] - window_end
    time_unit = 1 if (ages % MICROS_PER_MILLI).any() else MICROS_PER_MILLI
    stamp_unit = 1 if (stamps % MICROS_PER_SECOND).any() else MICROS_PER_SECOND
    used, numbers = renumbered(np.concatenate((transformers[cut], feeders[cut])), len(names))
    if delivered.exact[cut].all() and consumption.exact[cut].all() and received.exact[cut].all():
        coded = encoded(delivered.whole[cut] - consumption.whole[cut] - received.whole[cut])
    else:
        coded = encoded_floats(delivered.column[cut])
    return ReadBlock(
        window_end=window_end,
        first_record_time=first_time,
        last_record_time=int(times.max()),
        time_unit=time_unit,
        read_ts_unit=stamp_unit,
        first_offset=first_offset,
        names=[names[place] for place in used.tolist()],
        meters=meters[cut],
        transformers=encoded(numbers[: len(times)]),
        feeders=encoded(numbers[len(times) :]),
        interval_ends=encoded(window_end - interval_ends[cut]),
        read_ts=encoded(stamps // stamp_unit),
        record_times=encoded(ages // time_unit),
        partitions=encoded(partitions[cut]),
        offsets=encoded(places - first_offset),
        consumption=consumption.encoded(cut),
        received=received.encoded(cut),
        delivered=coded,
        voltages=_encoded_voltages(voltages, cut),
        flags=encoded(flags[cut]),
        missing=encoded(missing[cut]) if missing is not None and missing[cut].any() else b"",
        counts_as=counts_as[cut] if counts_as is not None and counts_as[cut] != meters[cut] else [],
    )


def correction(window_end: int, transformers: list[str], registry_version: str) -> ReadBlock:
    """A block without reads: the registry has put meters of these transformers elsewhere, or on them."""
    columns = dict.fromkeys(_COLUMNS, b"")
    return ReadBlock(
        window_end=window_end, first_record_time=0, last_record_time=0, time_unit=1, read_ts_unit=1, first_offset=0,
        names=[], meters=[], moved=transformers, registry_version=registry_version, **columns,  # type: ignore[arg-type]
    )  # fmt: skip


def pack(window_end: int, reads: Iterable[PackedRead]) -> ReadBlock:
    """The block that holds exactly `reads`, in their order. There must be at least one."""
    (
        transformers, meters, interval_ends, read_ts, actual, record_times, partitions, offsets,
        feeders, consumption, delivered, received, voltages, rejected, zero, sag, swell, apportioned, missing,
        counts_as,
    ) = zip(*reads, strict=True)  # fmt: skip
    flags = (
        ~np.array(actual, np.bool_) * np.int64(ESTIMATED)
        + np.array(rejected, np.bool_) * np.int64(VOLTAGE_REJECTED)
        + np.array(zero, np.bool_) * np.int64(ZERO_VOLTAGE)
        + np.array(sag, np.bool_) * np.int64(SAG)
        + np.array(swell, np.bool_) * np.int64(SWELL)
        + np.array(apportioned, np.bool_) * np.int64(APPORTIONED)
    )
    interval_end, stamp, record_time, partition, offset = (
        np.array(column, np.int64) for column in (interval_ends, read_ts, record_times, partitions, offsets)
    )
    names: dict[str, int] = {}
    numbers = [
        np.array([names.setdefault(name, len(names)) for name in column], np.int64)
        for column in (transformers, feeders)
    ]
    kwh = [Scaled(np.array(column, np.float64), MICRO_KWH) for column in (consumption, delivered, received)]
    return encode_block(
        window_end, list(names), numbers[0], numbers[1], list(meters), interval_end, stamp, record_time, partition,
        offset, kwh[0], kwh[1], kwh[2], Scaled(np.array(voltages, np.float64), CENTIVOLT), flags, slice(None),
        np.array(missing, np.int64),
        [other or own for other, own in zip(counts_as, meters, strict=True)] if any(counts_as) else None,
    )  # fmt: skip


def unpack(block: ReadBlock) -> Iterator[PackedRead]:
    """The reads of `block`, with the numbers that were packed."""
    return iter(columns_of([block]).reads())


def columns_of(blocks: Sequence[ReadBlock], transformers: Collection[str] | None = None) -> BlockColumns:
    """The reads of the blocks, in order, with the numbers that were packed. There must be at least one block.

    Args:
      blocks: they may be of different windows.
      transformers: whose reads; None for all. The other reads are not decoded, but for the names of their meters.
    """
    names: dict[str, int] = {}
    transformers_of, feeders_of, columns = [], [], []
    meters: list[list[str]] = []
    # Nearly no block has them.
    unusual = any(block.missing or block.counts_as for block in blocks)
    missing: list[Ints] = []
    counts_as: list[list[str]] = []
    for block in blocks:
        places = None if transformers is None else _places(block, transformers)
        count = len(block.meters)
        numbers = np.array([names.setdefault(name, len(names)) for name in block.names], np.int64)
        transformers_of.append(numbers[decoded(block.transformers, count, places)])
        feeders_of.append(numbers[decoded(block.feeders, count, places)])
        meters.append(block.meters if places is None else [block.meters[place] for place in places.tolist()])
        if unusual:
            missing.append(decoded(block.missing or _NOTHING_MISSING, count, places))
            others = block.counts_as or block.meters
            counts_as.append(others if places is None else [others[place] for place in places.tolist()])
        consumption = decoded(block.consumption, count, places)
        received = decoded(block.received, count, places)
        delivered = decoded(block.delivered, count, places)
        if block.delivered[0] != FLOAT:
            delivered = (delivered + consumption + received) / MICRO_KWH
        columns.append(
            (
                block.window_end - decoded(block.interval_ends, count, places),
                block.window_end + decoded(block.read_ts, count, places) * block.read_ts_unit,
                block.first_record_time + decoded(block.record_times, count, places) * block.time_unit,
                decoded(block.partitions, count, places),
                block.first_offset + decoded(block.offsets, count, places),
                consumption if block.consumption[0] == FLOAT else consumption / MICRO_KWH,
                delivered,
                received if block.received[0] == FLOAT else received / MICRO_KWH,
                _voltages(block.voltages, count, places),
                decoded(block.flags, count, places),
            )
        )
    if len(blocks) == 1:
        joined = BlockColumns(list(names), meters[0], transformers_of[0], feeders_of[0], *columns[0])
    else:
        joined = BlockColumns(
            list(names),
            list(chain.from_iterable(meters)),
            np.concatenate(transformers_of),
            np.concatenate(feeders_of),
            *(np.concatenate(parts) for parts in zip(*columns, strict=True)),  # type: ignore[arg-type]
        )
    if any(block.missing for block in blocks):
        joined.missing = np.concatenate(missing)
    if any(block.counts_as for block in blocks):
        joined.counts_as = list(chain.from_iterable(counts_as))
    return joined


def times_of(block: ReadBlock) -> tuple[Ints, Ints]:
    """(interval_end, record_time) of every read in the block."""
    count = len(block.meters)
    return (
        block.window_end - decoded(block.interval_ends, count),
        block.first_record_time + decoded(block.record_times, count) * block.time_unit,
    )


def _places(block: ReadBlock, transformers: Collection[str]) -> Ints:
    """Where in the block the reads of these transformers are."""
    wanted: Flags = np.array([name in transformers for name in block.names], np.bool_)
    return np.flatnonzero(wanted[decoded(block.transformers, len(block.meters))])


def _encoded_voltages(voltages: Scaled, cut: slice) -> bytes:
    missing = np.isnan(voltages.column[cut])
    whole = np.where(missing, _NO_VOLTAGE, voltages.whole[cut])
    if (voltages.exact[cut] == missing).any() or ((whole == _NO_VOLTAGE) != missing).any():
        return encoded_floats(voltages.column[cut])
    return encoded(whole)


def _voltages(column: bytes, count: int, places: Ints | None = None) -> Floats:
    values = decoded(column, count, places)
    return values if column[0] == FLOAT else np.where(values == _NO_VOLTAGE, np.nan, values / CENTIVOLT)
