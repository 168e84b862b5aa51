"""What a window's reads say of supply: notes of the transformers where they do not show it at every meter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from ami_beam.codecs.read_block import ESTIMATED, VOLTAGE_REJECTED, ZERO_VOLTAGE
from ami_beam.read_columns import Bytes, Floats
from ami_beam.records import MeterCount, Observation, PackedNotes, StatisticsBatch, SupplyNote, TransformerStatistics

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[SupplyNote]).decode

SUPPLIED = 0.8
"""A read of at least this share of nominal shows that its meter has supply."""


def supply_notes(
    batch: StatisticsBatch, observations: Sequence[Observation], counts: Sequence[MeterCount | None]
) -> list[SupplyNote]:
    """Notes of those transformers of which a meter is missing, estimated, dead or far below nominal.

    A transformer of which nothing is said has supply at every meter of its count. What was said once is said anew with
    every later publication, so that a note is taken back by one that names no meter. `batch`, `observations` and
    `counts` belong together place by place.
    """
    voltages = batch.voltages
    if voltages is None:
        return []
    found = []
    volts, flags = np.frombuffer(voltages.voltages, np.float64), np.frombuffer(voltages.flags, np.uint8)
    for place, (statistics, seen, count) in enumerate(zip(batch.transformers, observations, counts, strict=True)):
        total = statistics.meters_reported if count is None else count.total_meters
        if statistics.revision == 0 and statistics.actual_meters_reported >= total and not _weak(statistics, seen):
            continue  # nearly always
        begin, end = voltages.ends[place - 1] if place else 0, voltages.ends[place]
        names, own, bits = voltages.meters[begin:end], volts[begin:end], flags[begin:end]
        supplied = set(_named(names, _supplied(own, bits, seen.nominal_voltage_v * SUPPLIED)))
        dead = set(_named(names, (bits & ZERO_VOLTAGE) != 0)) - supplied
        complete = statistics.meters_reported >= total
        told = sorted(set(names) - supplied if complete else supplied)
        found.append(SupplyNote(statistics.transformer_id, complete, told, sorted(dead), statistics.as_of))
    return found


def pack_notes(notes: list[SupplyNote]) -> PackedNotes | None:
    """As they travel and are kept: to take one apart costs 2 µs, and nearly all are never looked at. None of none."""
    if not notes:
        return None
    dead = [note.transformer_id for note in notes if note.dead]
    return PackedNotes([note.transformer_id for note in notes], dead, _encode(notes))


def unpack_notes(notes: PackedNotes) -> list[SupplyNote]:
    """What was packed."""
    return _decode(notes.packed)


def _weak(statistics: TransformerStatistics, seen: Observation) -> bool:
    """Whether any of its meters is dead, or far below nominal, or sent what is no voltage."""
    if seen.lowest is not None and seen.lowest[0] < seen.nominal_voltage_v * SUPPLIED:
        return True
    return any(feeder.zero_voltage_count or feeder.voltage_rejected_count for feeder in statistics.feeders)


def _supplied(volts: Floats, flags: Bytes, least: float) -> np.ndarray:
    # A meter that measures no voltage and sends an actual read of a whole interval had supply in it.
    measured = np.isnan(volts) | (volts >= least)
    return measured & ((flags & (ESTIMATED | VOLTAGE_REJECTED | ZERO_VOLTAGE)) == 0)


def _named(names: Sequence[str], which: np.ndarray) -> Iterator[str]:
    return (names[place] for place in np.flatnonzero(which).tolist())
