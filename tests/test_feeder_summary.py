"""Feeder summaries: what the transformers' results add up to, when, and how late reads revise it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ami_beam.instants import MICROS_PER_MILLI, MICROS_PER_MINUTE
from ami_beam.records import FeederInput, MeterCount, PairTotals, ReceiptBatch, ReceiptRow, ReceiptStanding
from ami_beam.settings import Settings
from tests.stream import HeadEnd, at, read_json
from transforms.feeder_contributions import heard_on
from transforms.feeder_summary import KeptWindow
from transforms.feeder_summary import update as update_window
from transforms.place_silent_transformers import KeptShard
from transforms.place_silent_transformers import update as update_places

COUNTS = [MeterCount("T1", 2), MeterCount("T2", 1), MeterCount("T9", 3)]


def head_end(**settings) -> HeadEnd:
    # Long ago, a live source is behind by so much that it gathers late reads for half of the disorder.
    return HeadEnd(COUNTS, also_publish=("feeder_summary",), live=True, max_disorder="1h", **settings)


def go_on(head_end: HeadEnd, clock: str) -> HeadEnd:
    """The head-end is heard at `clock`, which makes windows due that ended well before."""
    head_end.backlog_of_reads(clock, read_json(read_type="DAILY"))
    return until(head_end, clock)


def until(head_end: HeadEnd, clock: str) -> HeadEnd:
    """Time passes in steps: this runner fires the timers of what it jumps over in any order, also across steps."""
    for step in range(at("10:15"), at(clock), MICROS_PER_MINUTE):
        for millis in range(4):
            head_end.until(step + millis * MICROS_PER_MILLI)
    return head_end


def window(head_end: HeadEnd, clock: str, end: str) -> HeadEnd:
    """All three meters of feeder F1, which have reads."""
    return until(head_end, clock).reads(
        clock,
        read_json(end=end, consumption_kwh=0.1, delivered_kwh=0.3, received_kwh=0.2, voltage_v=229.0),
        read_json(end=end, meter_id="M2", consumption_kwh=0.2, delivered_kwh=0.2, voltage_v=None),
        read_json(end=end, meter_id="M3", transformer_id="T2", voltage_v=232.0),
    )


class TestRows:
    def test_a_feeder_is_what_its_transformers_add_up_to(self):
        published = go_on(window(head_end(), "10:16", "10:15"), "10:40").run()
        (row,) = published.feeder("10:15")
        assert (row.segment, row.window_start, row.window_end) == ("FEEDER", at("10:00"), at("10:15"))
        assert (row.total_consumption_kwh, row.total_delivered_kwh, row.total_received_kwh) == (1.3, 1.5, 0.2)
        assert (row.meters_reported, row.meters_expected, row.receipt_rate_pct) == (3, 3, 100.0)
        assert (row.min_voltage_v, row.avg_voltage_v, row.max_voltage_v) == (229.0, 230.5, 232.0)
        assert (row.transformers_reported, row.transformers_expected, row.transformers_in_violation) == (2, 2, 0)
        assert (row.as_of, row.revision) == (at("10:16"), 0)

    def test_the_system_also_expects_who_was_never_heard(self):
        stream = go_on(window(head_end(), "10:16", "10:15"), "10:30")
        (row,) = go_on(stream, "10:40").run().feeder("10:15", None)
        assert (row.segment, row.feeder_id) == ("SYSTEM", None)
        assert (row.meters_reported, row.meters_expected, row.receipt_rate_pct) == (3, 6, 50.0)
        assert (row.transformers_reported, row.transformers_expected, row.transformers_in_violation) == (2, 3, 1)

    def test_a_transformer_that_falls_silent_is_still_expected_on_its_feeder(self):
        stream = go_on(window(head_end(), "10:16", "10:15"), "10:30")
        stream.reads("10:31", read_json(end="10:30"), read_json(end="10:30", meter_id="M2"))
        (row,) = go_on(stream, "11:00").run().feeder("10:30")
        assert (row.meters_reported, row.meters_expected, row.receipt_rate_pct) == (2, 3, 66.7)
        assert (row.transformers_reported, row.transformers_expected, row.transformers_in_violation) == (1, 2, 1)

    def test_who_was_heard_later_only_is_expected_where_that_was(self):
        stream = go_on(head_end().reads("10:16", read_json(), read_json(meter_id="M2")), "10:30")
        published = go_on(window(stream, "10:31", "10:30"), "11:30").run()
        before, after = published.feeder("10:15")
        assert (before.meters_expected, after.meters_expected, after.transformers_in_violation) == (2, 3, 1)
        assert [row.meters_expected for row in published.feeder("10:15", None)] == [6]

    def test_both_kinds_of_alerts_are_violations_and_a_transformer_is_one(self):
        stream = head_end().reads(
            "10:16", read_json(voltage_v=190.0), read_json(meter_id="M3", transformer_id="T2", voltage_v=260.0)
        )
        (row,) = go_on(stream, "10:40").run().feeder("10:15")
        assert (row.receipt_rate_pct, row.transformers_in_violation) == (66.7, 2)

    def test_reads_without_a_voltage_have_none(self):
        (row,) = go_on(head_end().reads("10:16", read_json(voltage_v=None)), "10:40").run().feeder("10:15")
        assert (row.min_voltage_v, row.avg_voltage_v, row.max_voltage_v) == (None, None, None)

    def test_transformers_that_are_not_in_the_counts_are_not_expected(self):
        published = go_on(head_end().reads("10:16", read_json(transformer_id="T5")), "10:40").run()
        (row,) = published.feeder("10:15")
        assert (row.meters_reported, row.meters_expected, row.receipt_rate_pct) == (1, 0, None)


class TestRevisions:
    def test_a_late_read_revises_the_feeder_and_the_system_once(self):
        stream = go_on(window(head_end(), "10:16", "10:15"), "10:30")
        stream.reads("10:40", read_json(meter_id="M7", transformer_id="T2", consumption_kwh=2.0, voltage_v=200.0))
        published = go_on(stream, "11:30").run()
        first, second = published.feeder("10:15")
        assert (first.total_consumption_kwh, second.total_consumption_kwh) == (1.3, 3.3)
        assert (first.min_voltage_v, second.min_voltage_v, second.revision) == (229.0, 200.0, 1)
        assert (second.meters_reported, second.receipt_rate_pct, second.transformers_in_violation) == (4, 133.3, 1)
        assert [row.total_consumption_kwh for row in published.feeder("10:15", None)] == [1.3, 3.3]

    def test_what_changes_nothing_is_not_published(self):
        stream = go_on(window(head_end(), "10:16", "10:15"), "10:30")
        published = go_on(window(stream, "10:40", "10:15"), "11:30").run()
        assert [row.revision for row in published.feeder("10:15")] == [0]
        assert [row.revision for row in published.feeder("10:15", None)] == [0]

    def test_a_transformer_is_not_silent_where_it_was_when_it_turns_out_to_be_elsewhere(self):
        stream = go_on(window(head_end(), "10:16", "10:15"), "10:30")
        stream = go_on(stream.reads("10:31", read_json(end="10:30")), "10:45")
        stream.reads("10:50", read_json(end="10:30", meter_id="M3", transformer_id="T2", feeder_id="F2"))
        published = go_on(stream, "11:30").run()
        assert [row.meters_expected for row in published.feeder("10:30")] == [3, 2]
        assert published.feeder("10:30", "F2")[-1].meters_expected == 1
        (*_, system) = published.feeder("10:30", None)
        assert (system.meters_reported, system.meters_expected) == (2, 6)

    def test_a_meter_that_moves_to_another_feeder_is_taken_away(self):
        stream = go_on(window(head_end(), "10:16", "10:15"), "10:30")
        stream.reads(
            "10:40",
            read_json(meter_id="M3", transformer_id="T2", feeder_id="F2", read_ts="2026-03-03T10:30:00Z"),
        )
        published = go_on(stream, "11:30").run()
        last, moved = published.feeder("10:15")[-1], published.feeder("10:15", "F2")[-1]
        assert (last.total_consumption_kwh, last.meters_reported, last.meters_expected) == (0.3, 2, 2)
        assert (moved.total_consumption_kwh, moved.meters_reported, moved.meters_expected) == (1.0, 1, 1)
        (*_, system) = published.feeder("10:15", None)
        assert (system.meters_reported, system.transformers_reported) == (3, 2)

    def test_nobody_asked(self):
        published = go_on(window(HeadEnd(COUNTS, live=True), "10:16", "10:15"), "10:40").run()
        assert published.feeders == []


pairs = st.builds(
    lambda transformer, feeder, kwh, meters, voltage: (transformer, feeder, kwh, meters, voltage),
    transformer=st.sampled_from(["T1", "T2", "T3"]),
    feeder=st.sampled_from(["F1", "F2"]),
    kwh=st.integers(0, 3_000_000),
    meters=st.integers(0, 3),
    voltage=st.sampled_from([None, 180.0, 229.99, 230.0]),
)
WINDOWS = [at("10:15"), at("10:30"), at("10:45")]


@st.composite
def receipts(draw: st.DrawFn) -> list[ReceiptBatch]:
    """Receipt rows of one shard: who was silent at first may turn out to have been heard, here or there."""
    batches = []
    for window_end in WINDOWS:
        first: list[ReceiptRow] = []
        batches.append(ReceiptBatch(first))
        for transformer_id in ("T1", "T2"):
            feeders = draw(st.lists(st.sampled_from([None, "F1", "F2"]), min_size=1, max_size=3))
            heard = [each for each in feeders if each is not None]
            standing = [None, *heard] if None in feeders else heard
            for revision, feeder_id in enumerate(standing):
                row = _receipt(transformer_id, window_end, feeder_id, revision)
                if revision:
                    batches.append(ReceiptBatch([row]))
                else:
                    first.append(row)
    return batches


def _receipt(transformer_id: str, window_end: int, feeder_id: str | None, revision: int) -> ReceiptRow:
    heard = 0 if feeder_id is None else 2
    rate = 50.0 * heard
    return ReceiptRow(
        transformer_id, feeder_id, window_end - 1, window_end, heard, 2, rate, heard, rate, window_end, revision
    )


@given(receipts(), st.randoms(use_true_random=False))
def test_where_the_silent_are_does_not_depend_on_the_order(batches: list[ReceiptBatch], rng: random.Random):
    def run(shuffled: bool) -> dict[tuple[int, str], str | None]:
        news = [heard_on(batch, Settings(shards=1))[1] for batch in batches]
        kept, known = KeptShard(), dict[tuple[int, str, str | None], ReceiptStanding]()
        if shuffled:
            # Rows of one transformer and window come in their order.
            order = list(range(len(news)))
            rng.shuffle(order)
            news = sorted((news[i] for i in order), key=lambda each: not each.first)
        while news:
            some = [news.pop(0) for _ in range(rng.randint(1, len(news)) if shuffled else 1)]
            for window_end, standing in update_places(kept, some):
                known[window_end, standing.transformer_id, standing.feeder_id] = standing
        here = [(key, standing) for key, standing in known.items() if not standing.gone]
        assert len({key[:2] for key, _ in here}) == len(here), "a transformer is on two feeders at once"
        return {key[:2]: standing.feeder_id for key, standing in here}

    assert run(shuffled=True) == run(shuffled=False)


@given(st.lists(pairs, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_what_pairs_add_up_to_does_not_depend_on_the_order(found: list, rng: random.Random):
    """The newest of each counts; what is compared with is added up from these alone."""
    news, last = [], {}
    for revision, (transformer_id, feeder_id, kwh, meters, voltage) in enumerate(found):
        count = 0 if voltage is None else meters
        pair = PairTotals(
            transformer_id, feeder_id, revision, meters > 0, kwh, kwh, 0, meters,
            round((voltage or 0) * 1e6) * count, count, voltage, voltage, WINDOWS[0] + revision,
        )  # fmt: skip
        last[transformer_id, feeder_id] = pair
        news.append(FeederInput(pairs=[pair]))
    rng.shuffle(news)
    kept, rows = KeptWindow(), {}
    while news:
        some = [news.pop() for _ in range(rng.randint(1, len(news)))]
        published, _ = update_window(kept, some, WINDOWS[0] - 1, WINDOWS[0])
        for row in published:
            assert row.revision == (rows[row.feeder_id].revision + 1 if row.feeder_id in rows else 0)
            rows[row.feeder_id] = row
    for feeder_id, row in rows.items():
        of_feeder = [pair for (_, feeder), pair in last.items() if feeder == feeder_id]
        volts = [pair.min_voltage_v for pair in of_feeder if pair.min_voltage_v is not None]
        assert row.total_consumption_kwh == sum(pair.consumption for pair in of_feeder) / 1e6
        assert row.meters_reported == sum(pair.meters_reported for pair in of_feeder)
        assert (row.min_voltage_v, row.max_voltage_v) == (min(volts, default=None), max(volts, default=None))
        weight = sum(pair.voltage_count for pair in of_feeder)
        assert (row.avg_voltage_v is None) == (weight == 0)
        if weight:
            mean = sum((pair.min_voltage_v or 0) * pair.voltage_count for pair in of_feeder) / weight
            assert row.avg_voltage_v == pytest.approx(mean, abs=1e-6)
