"""The winner rule as a merge: any order, any batching, any repetition gives the same winners and statistics."""

from __future__ import annotations

from math import fsum

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ami_beam.codecs.read_block import PackedRead, ReadBlock, columns_of, pack, unpack
from tests.test_arrival_order import published
from transforms.statistics import measure, measure_columns
from transforms.window_statistics import PublishedWindow
from transforms.winners import Winners

WINDOW_END = 1_772_496_900_000_000
WINDOW = 900_000_000


def packed(
    meter: str = "M1",
    transformer: str = "T1",
    feeder: str = "F1",
    read_ts: int = 0,
    actual: bool = True,
    arrival: tuple[int, int, int] = (0, 0, 0),
    kwh: float = 1.0,
    voltage: float | None = 230.0,
    end: int = WINDOW_END,
    sag: bool = False,
    swell: bool = False,
    apportioned: bool = False,
    missing: int = 0,
    counts_as: str = "",
) -> PackedRead:
    return PackedRead(
        transformer, meter, end, WINDOW_END + read_ts, actual, WINDOW_END + arrival[0], arrival[1], arrival[2],
        feeder, kwh, kwh, 0.0, voltage, False, False, sag, swell, apportioned, missing,
        "" if counts_as == meter else counts_as,
    )  # fmt: skip


reads = st.builds(
    packed,
    meter=st.sampled_from(["M1", "M2", "M3"]),
    transformer=st.sampled_from(["T1", "T2"]),
    feeder=st.sampled_from(["F1", "F2"]),
    read_ts=st.sampled_from([0, 1_000_000, 1_500_001]),
    actual=st.booleans(),
    arrival=st.tuples(st.integers(0, 3).map(lambda n: n * 999), st.integers(0, 1), st.integers(0, 5)),
    kwh=st.sampled_from([0.0, 0.1, 0.0197, 1 / 3, 1e16]),
    voltage=st.sampled_from([None, 229.99, 206.5, 207.0, 230.123456789]),
    end=st.sampled_from([WINDOW_END, WINDOW_END - 1, WINDOW_END - 300_000_000]),
    sag=st.booleans(),
    swell=st.booleans(),
    apportioned=st.booleans(),
    missing=st.sampled_from([0, 0, 600_000_000]),
    counts_as=st.sampled_from(["", "", "M1"]),
)


def distinct(rows: list[PackedRead]) -> list[PackedRead]:
    """Records of their own: no two of them share an offset, as in Kafka."""
    return [read._replace(offset=read.offset * len(rows) + number) for number, read in enumerate(rows)]


def winners_of(*parts: list[PackedRead]) -> set[PackedRead]:
    accumulator = Winners()
    for part in parts:
        accumulator.add(part)
    return set(accumulator.winners())


def oracle(rows: list[PackedRead]) -> set[PackedRead]:
    """The rule in the contract's words, over the whole set at once."""
    keys: dict[tuple, list[PackedRead]] = {}
    for read in rows:
        keys.setdefault((read.transformer_id, read.meter_id, read.interval_end), []).append(read)
    result = set()
    for held in keys.values():
        first_of_content: dict[tuple, PackedRead] = {}
        for read in sorted(held, key=lambda r: (r.record_time, r.partition, r.offset)):
            first_of_content.setdefault((read.read_ts, read.actual, *read[8:]), read)
        result.add(
            max(first_of_content.values(), key=lambda r: (r.read_ts, r.actual, r.record_time, r.partition, r.offset))
        )
    return result


class TestRule:
    def test_greatest_read_ts_wins_whatever_came_later(self):
        stale = packed(read_ts=0, arrival=(9, 0, 9))
        fresh = packed(read_ts=1, arrival=(1, 0, 1), kwh=2.0)
        assert winners_of([fresh, stale]) == {fresh}

    def test_actual_beats_estimate_on_a_tie(self):
        actual = packed(actual=True, arrival=(1, 0, 1))
        estimate = packed(actual=False, arrival=(2, 0, 2))
        assert winners_of([actual, estimate]) == winners_of([estimate, actual]) == {actual}

    def test_later_arrival_beats_on_a_full_tie(self):
        first, second = packed(arrival=(1, 0, 9)), packed(arrival=(1, 1, 0), kwh=2.0)
        assert winners_of([second, first]) == {second}

    def test_of_identical_content_the_first_is_kept(self):
        first, again = packed(arrival=(1, 0, 1)), packed(arrival=(5, 0, 5))
        assert winners_of([again, first]) == winners_of([first], [again]) == {first}

    def test_a_duplicate_of_an_older_content_does_not_win(self):
        old, new, old_again = packed(arrival=(1, 0, 1)), packed(arrival=(2, 0, 2), kwh=2.0), packed(arrival=(3, 0, 3))
        assert winners_of([new, old_again], [old]) == winners_of([old, new, old_again]) == {new}


@given(st.lists(reads, max_size=30).map(distinct), st.randoms(use_true_random=False), st.integers(1, 5))
def test_any_order_batching_and_repetition_gives_the_oracles_winners(rows, random, parts):
    expected = oracle(rows)
    shuffled = rows + random.choices(rows, k=len(rows)) if rows else []
    random.shuffle(shuffled)
    pieces = [shuffled[part::parts] for part in range(parts)]
    assert winners_of(*pieces) == expected
    merged = Winners()
    for piece in pieces:
        other = Winners()
        other.add(piece)
        merged.merge(other)
    assert set(merged.winners()) == expected


@given(st.lists(reads, min_size=1, max_size=30))
def test_packing_loses_nothing(rows):
    block = msgspec.msgpack.decode(msgspec.msgpack.encode(pack(WINDOW_END, rows)), type=ReadBlock)
    assert list(unpack(block)) == rows


@given(
    st.lists(st.lists(reads, min_size=1, max_size=8), min_size=1, max_size=3),
    st.sets(st.sampled_from(["T1", "T2", "T3"])),
)
def test_reads_of_some_transformers_are_those_of_all_filtered(blocks, transformers):
    packed_blocks = [pack(WINDOW_END, rows) for rows in blocks]
    every = columns_of(packed_blocks).reads()
    chosen = columns_of(packed_blocks, transformers).reads()
    assert chosen == [read for read in every if read.transformer_id in transformers]


def test_a_packed_read_costs_at_most_40_bytes():
    rows = [
        packed(meter=f"MTR-{n:06d}", transformer=f"TR-{n % 10}", arrival=(n * 37_000, n % 8, n * 13),
               read_ts=(n % 60) * 1_000_000, kwh=round(n * 0.0013, 4), voltage=round(228 + n % 700 / 100, 2))
        for n in range(1000)
    ]  # fmt: skip
    assert len(msgspec.msgpack.encode(pack(WINDOW_END, rows))) / len(rows) <= 40


@settings(max_examples=60)
@given(st.lists(reads, min_size=1, max_size=25).map(distinct), st.integers(1, 6))
def test_revisions_end_where_one_publication_does(rows, parts):
    """However reads are split over publications, the last content of every pair with reads is the same."""
    final: dict = {}
    window: PublishedWindow | None = None
    for part in range(parts):
        piece = rows[part::parts]
        if not piece:
            continue
        window, changed = published(window, piece)
        for transformer in changed:
            for feeder in transformer.feeders:
                pair = transformer.transformer_id, feeder.feeder_id
                if feeder.changed:
                    before = final.get(pair)
                    assert feeder.revision == (before.revision + 1 if before else 0)
                    assert before is None or (content(before), before.as_of) != (content(feeder), feeder.as_of)
                    assert before is None or feeder.as_of >= before.as_of
                    final[pair] = feeder
    _, once = published(None, rows)
    expected = {(t.transformer_id, f.feeder_id): content(f) for t in once for f in t.feeders}
    assert {pair: content(feeder) for pair, feeder in final.items() if feeder.meters_reported} == expected
    for pair, feeder in final.items():
        if pair not in expected:
            assert feeder.meters_reported == 0
            assert feeder.total_consumption_kwh == 0.0
            assert feeder.avg_voltage_v is feeder.min_voltage_v is feeder.max_voltage_v is None


def content(feeder):
    """All but as_of, which never goes back and so may be later after revisions than after one publication."""
    return msgspec.structs.replace(feeder, revision=0, changed=True, as_of=0)


def test_a_meter_that_moves_between_feeders_empties_the_old_pair():
    window, _ = published(None, [packed(feeder="F1", arrival=(5_000, 0, 0))])
    _, changed = published(window, [packed(feeder="F2", read_ts=1, arrival=(1_000, 0, 1))])
    pairs = {feeder.feeder_id: feeder for feeder in changed[0].feeders}
    assert pairs["F2"].meters_reported == 1
    assert pairs["F1"].meters_reported == 0
    assert pairs["F1"].revision == 1
    assert pairs["F1"].changed
    # A sink that lets no smaller as_of overwrite must still take the emptied row.
    assert pairs["F1"].as_of >= WINDOW_END + 5_000


@given(st.lists(reads, min_size=1, max_size=25).map(distinct))
def test_columns_measure_as_reads_do(rows):
    by_columns = measure_columns(columns_of([pack(WINDOW_END, rows)]), WINDOW)
    winners = Winners()
    winners.add(rows)
    winning = list(winners.winners())
    names = {row.transformer_id for row in rows}
    assert by_columns == {
        name: measure([row for row in winning if row.transformer_id == name], WINDOW) for name in names
    }


class TestMeasure:
    def test_counts_meters_once_and_reads_every_time(self):
        rows = [packed(end=WINDOW_END, kwh=1.0), packed(end=WINDOW_END - 1, kwh=2.0), packed(meter="M2", actual=False)]
        measured = measure(rows, WINDOW)
        (feeder,) = measured.feeders
        assert (feeder.meters_reported, feeder.total_consumption_kwh, feeder.estimated_count) == (2, 4.0, 1)
        assert (measured.meters_reported, measured.actual_meters_reported) == (2, 1)

    def test_sums_are_exact(self):
        values = [1e16, 1.0, -1e16]
        rows = [packed(meter=f"M{n}", kwh=value) for n, value in enumerate(values)]
        assert measure(rows, WINDOW).feeders[0].total_consumption_kwh == fsum(values) == 1.0

    def test_no_voltage_is_none(self):
        feeder = measure([packed(voltage=None)], WINDOW).feeders[0]
        assert feeder.avg_voltage_v is feeder.min_voltage_v is feeder.max_voltage_v is None


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.integers(-2_000_000, 2_000_000),
            st.one_of(st.none(), st.integers(0, 40_000)),
            st.sampled_from(["T1", "T2", "T3"]),
        ),
        min_size=1,
        max_size=130,
    )
)
def test_integers_sum_as_exact_floats_do(values):
    """Metered values are decimals: their sums and means must be those of `fsum`, ties of the rounding included."""
    rows = [
        packed(meter=f"M{n}", transformer=name, kwh=micro / 1e6, voltage=None if centi is None else centi / 100)
        for n, (micro, centi, name) in enumerate(values)
    ]
    by_columns = measure_columns(columns_of([pack(WINDOW_END, rows)]), WINDOW)
    assert by_columns == {
        name: measure([row for row in rows if row.transformer_id == name], WINDOW)
        for name in {row.transformer_id for row in rows}
    }


def test_a_mean_that_is_a_tie_is_rounded_as_the_floats_are():
    # 230.02 and 63 times 230.00: 230.0003125, which both neighbours with 6 decimals are equally far from.
    for count, odd in ((64, 230.02), (128, 230.04)):
        rows = [packed(meter=f"M{n}", voltage=230.0 if n else odd) for n in range(count)]
        (measured,) = measure_columns(columns_of([pack(WINDOW_END, rows)]), WINDOW).values()
        assert measured.feeders[0].avg_voltage_v == round(fsum([odd, *[230.0] * (count - 1)]) / count, 6)
