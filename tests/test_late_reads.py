"""How long late reads are gathered, and that none is lost or moved to another window by it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import apache_beam as beam
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that

from ami_beam.codecs.pack_columns import PendingReads
from ami_beam.codecs.read_block import ReadBlock, unpack
from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND, window_end_right_closed
from ami_beam.meter_counts import pack
from ami_beam.read_columns import from_reads
from ami_beam.records import MeterCount, Read
from ami_beam.settings import Settings
from tests.test_state_access import Bag, Timers
from transforms.late_reads import GatherLateReads, _GatherLateDoFn, _with_judgement, gathering

NOON = 1_795_521_600_000_000
DELAY = 5 * MICROS_PER_MINUTE


@pytest.mark.parametrize(
    ("behind", "seconds"),
    [(-1, 10), (0, 10), (39, 10), (40, 20), (79, 20), (80, 40), (3_600, 1_280), (86_400, 40_960), (10**7, 40_960)],
)
def test_a_backlog_is_gathered_longer_and_never_longer_than_half_of_it(behind: int, seconds: int) -> None:
    assert gathering(Settings(), behind * MICROS_PER_SECOND) == seconds * MICROS_PER_SECOND


def test_a_gathering_ends_before_the_window_is_forgotten() -> None:
    short = Settings(max_disorder=2 * MICROS_PER_HOUR)
    assert gathering(short, 1_000 * MICROS_PER_HOUR) <= MICROS_PER_HOUR


def read(meter: int, window_end: int, record_time: int) -> Read:
    return Read(
        f"M{meter}", "S", f"T{meter % 7}", "F1", "INTERVAL", window_end - 15 * MICROS_PER_MINUTE, window_end,
        0.25, 0.25, 0.0, 230.1, 0, False, window_end, window_end, False, False, record_time, 0, meter,
    )  # fmt: skip


def late_reads() -> list[Read]:
    return [
        read(n, NOON + n % 5 * 15 * MICROS_PER_MINUTE, NOON + 3 * MICROS_PER_HOUR + n * MICROS_PER_SECOND)
        for n in range(60)
    ]


def packed_blocks(reads: list[Read], shards: int) -> Iterator[tuple[int, bool, ReadBlock]]:
    pending = PendingReads(Settings.window)
    pending.add(from_reads(reads))
    return pending.blocks(shards, DELAY)


def test_reads_are_apart_from_the_moment_at_which_their_window_is_due() -> None:
    reads = [read(1, NOON, NOON + DELAY - 1), read(1, NOON, NOON + DELAY)]
    packed = [(late, [each.record_time for each in unpack(block)]) for _, late, block in
              packed_blocks(reads, 4)]  # fmt: skip
    assert packed == [(False, [NOON + DELAY - 1]), (True, [NOON + DELAY])]


HOUR = MICROS_PER_HOUR


@pytest.mark.parametrize(
    ("came", "released"),
    [
        # Of a backlog, which is gathered for hours: before the transformers with 4 h are judged, then those with 6 h.
        (NOON + HOUR, NOON + 4 * HOUR - 1_000),
        (NOON + 4 * HOUR - 2_000, NOON + 4 * HOUR - 1_000),
        (NOON + 4 * HOUR, NOON + 6 * HOUR - 1_000),
        (NOON + 6 * HOUR, None),
    ],
)
def test_a_gathering_ends_before_a_transformer_is_judged_with_its_reads(came: int, released: int | None) -> None:
    """With receipt delays of 4 and 6 hours; a read that came in time is never missing from the judgement."""
    counts = [pack([MeterCount("T1", 2), MeterCount("T2", 2, receipt_delay=6 * HOUR)], 0)]
    settings = Settings(receipt_delay=4 * HOUR, live=True)
    ((_, late, block),) = packed_blocks([read(1, NOON, came)], 1)
    assert late
    timers = Timers()
    _GatherLateDoFn(settings).process(_with_judgement((0, block), settings, counts), Bag(), timers)
    (over,) = timers.due.values()
    length = gathering(settings, 10**6 * HOUR)
    assert over == (released or (came // length + 1) * length)


def test_every_late_read_comes_out_once_in_its_window() -> None:
    reads = late_reads()
    blocks = [(shard, block) for part in (reads[:25], reads[25:])
              for shard, late, block in packed_blocks(part, 3) if late]  # fmt: skip
    # One block a shard and part, whatever the windows.
    assert len(blocks) == 6

    def check(elements: list[tuple[tuple[int, int], ReadBlock]]) -> None:
        found = []
        for (_, window_end), block in elements:
            assert block.window_end == window_end
            for each in unpack(block):
                assert window_end_right_closed(each.interval_end, 15 * MICROS_PER_MINUTE) == window_end
                found.append((each.meter_id, each.record_time, each.voltage_v))
        assert sorted(found) == sorted((each.meter_id, each.record_time, each.voltage_v) for each in reads)
        # At the end of a bounded source all that waits is one gathering.
        keys = sorted(key for key, _ in elements)
        assert all(len(list(same)) == 1 for _, same in groupby(keys))

    with TestPipeline("FnApiRunner") as pipeline:
        made = pipeline | beam.Create(blocks).with_output_types(tuple[int, ReadBlock])
        assert_that(made | GatherLateReads(Settings(shards=3), [pack([], 0)]), check)
