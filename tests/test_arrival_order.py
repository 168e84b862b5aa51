"""Final rows depend on what arrived, never on in which order, in which batches or how often: on the pure functions."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ami_beam.codecs.read_block import PackedRead, pack
from ami_beam.instants import MICROS_PER_MINUTE
from ami_beam.records import FeederStatistics, ReadProgress, TransformerStatistics
from ami_beam.settings import Settings
from transforms import window_statistics
from transforms.due_windows import Covered, arm, extend
from transforms.window_statistics import PublishedWindow, first_publication, revise

WINDOW = 15 * MICROS_PER_MINUTE
WINDOW_END = 1_772_496_900_000_000
assert WINDOW_END % WINDOW == 0

contents = st.builds(
    lambda meter, transformer, feeder, read_ts, actual, kwh, voltage, before, sag: (
        transformer, meter, WINDOW_END - before, WINDOW_END + read_ts, actual, feeder, kwh, voltage, sag
    ),
    meter=st.sampled_from(["M1", "M2"]),
    transformer=st.sampled_from(["T1", "T2"]),
    feeder=st.sampled_from(["F1", "F2"]),
    read_ts=st.sampled_from([0, 1_000_000]),
    actual=st.booleans(),
    kwh=st.sampled_from([0.1, 0.2, 0.3]),
    voltage=st.sampled_from([None, 206.99, 230.0]),
    before=st.sampled_from([0, 1]),
    sag=st.booleans(),
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True, params=[1, 3, window_statistics.LATE_BLOCKS])
def late_blocks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Late blocks are merged after every revision, now and then, and hardly ever."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(window_statistics, "LATE_BLOCKS", request.param)
        yield


@st.composite
def records(draw: st.DrawFn) -> list[PackedRead]:
    """Reads in arrival order. A content may come several times, each time as a record of its own."""
    arrived, record_time = [], WINDOW_END
    for offset, content in enumerate(draw(st.lists(contents, min_size=1, max_size=14))):
        transformer, meter, end, read_ts, actual, feeder, kwh, voltage, sag = content
        record_time += draw(st.sampled_from([0, 1_000, 61_000_000]))
        partition = draw(st.integers(0, 1))
        arrived.append(
            PackedRead(
                transformer, meter, end, read_ts, actual, record_time, partition, offset,
                feeder, kwh, kwh, 0.0, voltage, False, False, sag,
            )
        )  # fmt: skip
    return arrived


def cut(rows: list, rng: random.Random) -> list[list]:
    """The rows in their order as batches of random sizes."""
    places = sorted(rng.choices(range(len(rows) + 1), k=rng.randint(0, 5)))
    edges = [0, *places, len(rows)]
    return [rows[a:b] for a, b in pairwise(edges) if a < b]


def in_any_order(rows: list, rng: random.Random) -> list[list]:
    """The rows shuffled, some of them delivered again, in batches of random sizes."""
    delivered = rows + rng.choices(rows, k=rng.randint(0, len(rows)))
    rng.shuffle(delivered)
    return cut(delivered, rng)


def measured(feeder: FeederStatistics) -> FeederStatistics:
    return msgspec.structs.replace(feeder, revision=0, changed=True)


def but_as_of(feeder: FeederStatistics) -> FeederStatistics:
    return msgspec.structs.replace(measured(feeder), as_of=0)


def published(
    window: PublishedWindow | None, reads: list[PackedRead]
) -> tuple[PublishedWindow, list[TransformerStatistics]]:
    """A publication of a window with these fresh reads, through the bytes of its state."""
    block = pack(WINDOW_END, reads)
    if window is None:
        base, batch = first_publication(WINDOW_END, [block], Settings.window)
        window = PublishedWindow(base, None)
    else:
        window.revised, batch = revise(WINDOW_END, window, [block], Settings.window)
    return msgspec.msgpack.decode(msgspec.msgpack.encode(window), type=PublishedWindow), batch.transformers


class Live:
    """A shard's window as the stateful step runs it; its state is written and read back between publications."""

    def __init__(self) -> None:
        self._window: PublishedWindow | None = None
        self.publications: list[TransformerStatistics] = []

    def receive(self, reads: list[PackedRead]) -> None:
        self._window, changed = published(self._window, reads)
        self.publications += changed

    def final(self) -> dict[str, TransformerStatistics]:
        return {statistics.transformer_id: statistics for statistics in self.publications}

    def final_pairs(self) -> dict[tuple[str, str], FeederStatistics]:
        """Of every pair the row that was published last."""
        return {
            (statistics.transformer_id, feeder.feeder_id): feeder
            for statistics in self.publications
            for feeder in statistics.feeders
            if feeder.changed
        }

    def held(self) -> set[PackedRead]:
        return set(self._window.contenders()) if self._window else set()


def run(batches: list[list[PackedRead]]) -> Live:
    live = Live()
    for batch in batches:
        live.receive(batch)
    return live


class TestStatistics:
    @settings(max_examples=200, deadline=None)
    @given(records(), st.randoms(use_true_random=False))
    def test_final_rows_do_not_depend_on_the_order(self, rows, rng):
        once, live = run([rows]), run(in_any_order(rows, rng))
        expected, final = once.final_pairs(), live.final_pairs()
        assert {pair: but_as_of(row) for pair, row in final.items() if row.meters_reported} == {
            pair: but_as_of(row) for pair, row in expected.items()
        }
        # as_of never goes back, so it may end later than when everything is there at once, and never earlier.
        assert all(final[pair].as_of >= row.as_of for pair, row in expected.items())
        for pair in final.keys() - expected.keys():  # published for a while, until a better read moved the meter
            row = final[pair]
            assert (row.meters_reported, row.total_consumption_kwh, row.avg_voltage_v) == (0, 0.0, None)
        for transformer_id, statistics in once.final().items():
            last = live.final()[transformer_id]
            assert (last.meters_reported, last.actual_meters_reported) == (
                statistics.meters_reported, statistics.actual_meters_reported
            )  # fmt: skip
            assert last.as_of >= statistics.as_of

    @settings(max_examples=100, deadline=None)
    @given(records(), st.randoms(use_true_random=False))
    def test_state_does_not_depend_on_the_order(self, rows, rng):
        """So nothing that comes later can make a difference either."""
        assert run(in_any_order(rows, rng)).held() == run([rows]).held()

    @settings(max_examples=100, deadline=None)
    @given(records(), st.randoms(use_true_random=False))
    def test_a_row_is_published_again_only_with_other_content(self, rows, rng):
        published: dict = {}
        for statistics in run(in_any_order(rows, rng)).publications:
            for feeder in statistics.feeders:
                if feeder.changed:
                    pair = statistics.transformer_id, feeder.feeder_id
                    assert pair not in published or measured(published[pair]) != measured(feeder)
                    assert feeder.revision == (published[pair].revision + 1 if pair in published else 0)
                    published[pair] = feeder

    @settings(max_examples=100, deadline=None)
    @given(records(), st.randoms(use_true_random=False))
    def test_delivering_everything_again_publishes_nothing(self, rows, rng):
        live = run(in_any_order(rows, rng))
        count = len(live.publications)
        for batch in in_any_order(rows, rng):
            live.receive(batch)
        assert len(live.publications) == count

    @settings(max_examples=100, deadline=None)
    @given(records(), st.randoms(use_true_random=False))
    def test_as_of_never_goes_back(self, rows, rng):
        """Consumers keep the row with the greatest as_of, so the truth must always be the most recent."""
        seen: dict = {}
        for statistics in run(in_any_order(rows, rng)).publications:
            for name, as_of in [
                (statistics.transformer_id, statistics.as_of),
                *(((statistics.transformer_id, feeder.feeder_id), feeder.as_of) for feeder in statistics.feeders),
            ]:
                assert as_of >= seen.get(name, 0)
                seen[name] = as_of

    def test_as_of_stays_where_an_older_record_of_the_same_read_comes_later(self):
        """It takes the place of the newer record, and changes no content, so that nothing is published; what was
        published before has to be remembered for what is published next."""

        def read(meter: str, feeder: str, record_time: int) -> PackedRead:
            return PackedRead(
                "T1", meter, WINDOW_END, WINDOW_END, True, record_time, 0, record_time - WINDOW_END, feeder, 0.1, 0.1,
                0.0, None, False, False,
            )  # fmt: skip

        resent, first = read("M1", "F1", WINDOW_END + 1_000), read("M1", "F1", WINDOW_END)
        live = run([[resent], [first], [read("M2", "F2", WINDOW_END)]])
        assert [statistics.as_of for statistics in live.publications] == [WINDOW_END + 1_000] * 2


Arrived = tuple[int, int | None]
"""(record time, end of the interval read's window; None for a record without one)."""

minutes = st.integers(0, 5 * 60).map(lambda count: WINDOW_END + count * MICROS_PER_MINUTE)
arrivals = st.lists(
    st.tuples(
        st.one_of(minutes, minutes.map(lambda time: time + 1)),
        st.one_of(st.none(), st.integers(-8, 24).map(lambda count: WINDOW_END + count * WINDOW)),
    ),
    min_size=1,
    max_size=12,
)


def progress_of(batch: list[Arrived]) -> ReadProgress:
    times = [record_time for record_time, _ in batch]
    ends = [end for _, end in batch if end is not None]
    return ReadProgress(min(times), max(times), min(ends, default=None), max(ends, default=None))


def due_by_contract(rows: list[Arrived], receipt_delay: int, rules: Settings) -> set[int]:
    """The paragraph "Receipt rows" of the contract, word for word, window by window."""
    ends = [end for _, end in rows if end is not None]
    first_read = min(record_time for record_time, _ in rows)
    greatest_read = max(record_time for record_time, _ in rows)
    return {
        window_end
        for window_end in range(min(ends, default=1), max(ends, default=0) + 1, rules.window)
        if not window_end + rules.collection_delay < first_read and not window_end > greatest_read - receipt_delay
    }


class TestDueWindows:
    DELAYS = (0, 5 * MICROS_PER_MINUTE, 60 * MICROS_PER_MINUTE)

    @settings(max_examples=300, deadline=None)
    @given(arrivals, st.sampled_from([0, 5, 7, 15, 40]), st.randoms(use_true_random=False))
    def test_each_window_of_the_contract_is_given_once_in_every_order(self, rows, delay, rng):
        rules = Settings(collection_delay=delay * MICROS_PER_MINUTE)
        covered: Covered | None = None
        given_so_far: dict[int, list[int]] = {receipt_delay: [] for receipt_delay in self.DELAYS}
        arrived: list[Arrived] = []
        for batch in in_any_order(rows, rng):
            arrived += batch
            covered = extend(covered, progress_of(batch))
            for receipt_delay, windows in given_so_far.items():
                windows += arm(covered, receipt_delay, rules)
                assert len(set(windows)) == len(windows)
                assert set(windows) == due_by_contract(arrived, receipt_delay, rules)
            covered = msgspec.msgpack.decode(msgspec.msgpack.encode(covered), type=Covered)
        for receipt_delay, windows in given_so_far.items():
            assert set(windows) == due_by_contract(rows, receipt_delay, rules)

    @settings(max_examples=100, deadline=None)
    @given(arrivals, st.randoms(use_true_random=False))
    def test_a_delay_that_comes_with_a_reload_is_given_all_its_windows(self, rows, rng):
        rules, covered = Settings(), None
        batches = in_any_order(rows, rng)
        known_from = rng.randrange(len(batches))
        windows: list[int] = []
        for number, batch in enumerate(batches):
            covered = extend(covered, progress_of(batch))
            arm(covered, rules.receipt_delay, rules)
            if number >= known_from:
                windows += arm(covered, 60 * MICROS_PER_MINUTE, rules)
        assert len(set(windows)) == len(windows)
        assert set(windows) == due_by_contract(rows, 60 * MICROS_PER_MINUTE, rules)

    def test_records_without_an_interval_read_make_nothing_due(self):
        covered = extend(None, progress_of([(WINDOW_END, None), (WINDOW_END + 600 * MICROS_PER_MINUTE, None)]))
        assert arm(covered, 0, Settings()) == []
        assert due_by_contract([(WINDOW_END, None)], 0, Settings()) == set()
