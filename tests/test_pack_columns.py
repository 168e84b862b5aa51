"""Packing columns gives the blocks that packing one read after the other gives."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ami_beam.codecs.pack_columns import PendingReads
from ami_beam.codecs.read_block import PackedRead, pack, unpack
from ami_beam.instants import MICROS_PER_MINUTE
from ami_beam.quality_map import QualityMap
from ami_beam.read_columns import from_reads, joined
from ami_beam.records import Read
from ami_beam.shards import shard_of

WINDOW = 15 * MICROS_PER_MINUTE
NOON = 1_795_521_600_000_000
kwh = st.one_of(
    st.integers(-2_000_000, 2_000_000).map(lambda micro: micro / 1_000_000),
    st.floats(-1e15, 1e15),
    st.sampled_from([0.0, -0.0, 0.1 + 0.2, 1e-9, 9e12, -9e12]),
)
codes = st.one_of(st.sampled_from([1, 2, 7]), st.integers(-(2**63), 2**63 - 1))
voltages = st.one_of(st.none(), st.integers(0, 40_000).map(lambda centi: centi / 100), st.floats(-1e9, 1e9))


@st.composite
def reads(draw: st.DrawFn) -> Read:
    window_end = NOON + draw(st.integers(0, 3)) * WINDOW
    end = window_end - draw(st.sampled_from([0, 0, 1, 420_000_000]))
    length = draw(st.sampled_from([WINDOW, WINDOW, 2 * WINDOW, 300_000_000, 1]))
    return Read(
        draw(st.sampled_from(["M1", "M2", "Zähler"])), "S", draw(st.sampled_from(["T1", "T2", "T3", "F1"])),
        draw(st.sampled_from(["F1", "F2", "T1"])), draw(st.sampled_from(["INTERVAL", "INTERVAL", "DAILY"])),
        end - length, end, draw(kwh), draw(kwh), draw(kwh), draw(voltages), draw(codes),
        draw(st.booleans()), end + draw(st.sampled_from([0, 1, 90_000_000])), window_end, draw(st.booleans()),
        draw(st.booleans()), window_end + draw(st.sampled_from([1_000, 1_001, 5_000_000])), draw(st.integers(0, 2)),
        draw(st.integers(0, 2**40)), apportioned=draw(st.sampled_from([False, False, True])),
        counts_as=draw(st.sampled_from([None, None, None, "M1"])),
    )  # fmt: skip


MAP = QualityMap(((-(2**63), "SWELL"), (0, "OK"), (1, "SAG"), (2, "SWELL"), (7, "SAG")))


@settings(deadline=None)
@given(st.lists(reads(), max_size=30), st.integers(1, 4), st.integers(0, 30), st.sampled_from([None, MAP]))
def test_equals_packing_one_by_one(given: list[Read], shards: int, cut: int, quality_map: QualityMap | None) -> None:
    qualities = {} if quality_map is None else dict(quality_map.qualities)
    columns = joined([from_reads(given[:cut]), from_reads(given[cut:])])
    if any(read.counts_as for read in given):
        # The names are there for all reads or for none.
        given = [replace(read, counts_as=read.counts_as or read.meter_id) for read in given]
    assert columns.reads() == given
    expected: dict[tuple[int, int], list[PackedRead]] = {}
    for r in given:
        if r.read_type == "INTERVAL":
            expected.setdefault((shard_of(r.transformer_id, shards), r.window_end), []).append(
                PackedRead(
                    r.transformer_id, r.meter_id, r.interval_end, r.read_ts, not r.estimated_flag, r.record_time,
                    r.partition, r.offset, r.feeder_id, r.consumption_kwh, r.delivered_kwh, r.received_kwh, r.voltage_v,
                    r.voltage_rejected, r.zero_voltage, qualities.get(r.power_quality_code) == "SAG",
                    qualities.get(r.power_quality_code) == "SWELL", r.apportioned,
                    max(WINDOW - (r.interval_end - r.interval_start), 0),
                    "" if r.counts_as in (None, r.meter_id) else r.counts_as or "",
                )
            )  # fmt: skip
    pending = PendingReads(WINDOW, quality_map)
    for part in (given[:cut], given[cut:]):
        pending.add(from_reads(part))
    packed = {(shard, block.window_end): block for shard, _, block in pending.blocks(shards)}
    assert packed.keys() == expected.keys()
    for place, block in packed.items():
        assert list(unpack(block)) == expected[place]
        assert list(unpack(pack(place[1], expected[place]))) == expected[place]
