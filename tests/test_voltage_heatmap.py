"""The voltage heat map: bands, histograms and minutes outside, and how late reads revise them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ami_beam.instants import parse_instant
from ami_beam.local_days import local_day
from ami_beam.records import (
    DayHeat,
    FeederHeat,
    FeederLevels,
    HistogramInput,
    MeterCount,
    OutsideBands,
    TransformerHeat,
)
from tests.stream import HeadEnd, Published, at, read_json
from tests.test_feeder_summary import go_on
from transforms.feeder_histograms import update as update_histograms
from transforms.outside_minutes import KeptDay, history, needs_history
from transforms.outside_minutes import update as update_days
from transforms.voltage_bands import ansi_c84_1, en_50160, outside, per_cent

COUNTS = [MeterCount("T1", 2), MeterCount("T2", 1, nominal_voltage_v=120.0)]


def head_end(**settings) -> HeadEnd:
    return HeadEnd(COUNTS, also_publish=("voltage_heatmap",), live=True, max_disorder="1h", **settings)


def transformer(published: Published, clock: str, name: str = "T1") -> list[TransformerHeat]:
    rows = [row for row in published.heatmap if isinstance(row, TransformerHeat)]
    found = [row for row in rows if (row.transformer_id, row.window_end) == (name, at(clock))]
    return sorted(found, key=lambda row: row.revision)


def feeder(published: Published, clock: str, name: str = "F1") -> list[FeederHeat]:
    rows = [row for row in published.heatmap if isinstance(row, FeederHeat)]
    return sorted((r for r in rows if (r.feeder_id, r.window_end) == (name, at(clock))), key=lambda row: row.revision)


def days(published: Published, name: str = "T1") -> list[DayHeat]:
    rows = [row for row in published.heatmap if isinstance(row, DayHeat)]
    return sorted((row for row in rows if row.transformer_id == name), key=lambda row: (row.day, row.revision))


@pytest.mark.parametrize(
    ("low", "high", "ansi", "en", "bits"),
    [
        (114.0, 126.0, "A", "NORMAL", 0),
        (113.9, 126.0, "B", "NORMAL", 1),
        (110.0, 127.0, "B", "NORMAL", 1),
        (109.9, 126.0, "OUTSIDE", "NORMAL", 3),
        (114.0, 127.1, "OUTSIDE", "NORMAL", 3),
        (108.0, 132.0, "OUTSIDE", "NORMAL", 3),
        (107.9, 126.0, "OUTSIDE", "EXTENDED", 7),
        (102.0, 126.0, "OUTSIDE", "EXTENDED", 7),
        (101.9, 126.0, "OUTSIDE", "OUTSIDE", 7),
        (114.0, 132.1, "OUTSIDE", "OUTSIDE", 7),
    ],
)
def test_bands_of_the_standards(low: float, high: float, ansi: str, en: str, bits: int):
    assert (ansi_c84_1(low, high, 120.0), en_50160(low, high, 120.0), outside(low, high, 120.0)) == (ansi, en, bits)
    # In other networks they are the same shares.
    assert (ansi_c84_1(low * 2, high * 2, 240.0), en_50160(low * 2, high * 2, 240.0)) == (ansi, en)


@pytest.mark.parametrize(("volts", "nominal", "expected"), [(207.0, 230.0, 90.0), (248.4, 240.0, 103.5), (1, 3, 33.33)])
def test_per_cent(volts: float, nominal: float, expected: float):
    assert per_cent(volts, nominal) == expected


class TestRows:
    def test_a_transformer_has_its_bands_by_its_own_nominal_voltage(self):
        stream = head_end().reads(
            "10:16",
            read_json(voltage_v=218.5),
            read_json(meter_id="M2", voltage_v=235.0),
            read_json(meter_id="M3", transformer_id="T2", voltage_v=127.5),
        )
        published = go_on(stream, "10:30").run()
        (row,) = transformer(published, "10:15")
        assert (row.min_pct, row.avg_pct, row.max_pct) == (95.0, 98.59, 102.17)
        assert (row.ansi_c84_1, row.en_50160, row.nominal_voltage_v) == ("A", "NORMAL", 230.0)
        (other,) = transformer(published, "10:15", "T2")
        assert (other.max_pct, other.ansi_c84_1, other.nominal_voltage_v) == (106.25, "OUTSIDE", 120.0)

    def test_a_feeder_has_a_histogram_of_reads(self):
        stream = head_end().reads(
            "10:16",
            read_json(voltage_v=230.0),
            read_json(meter_id="M2", voltage_v=190.0),
            read_json(meter_id="M3", voltage_v=None),
            read_json(meter_id="M4", transformer_id="T2", voltage_v=120.5),
            read_json(meter_id="M5", transformer_id="T2", voltage_v=138.0),
        )
        (row,) = feeder(go_on(stream, "10:30").run(), "10:15")
        assert (row.reads, row.below, row.above, row.from_pct, len(row.histogram)) == (4, 1, 1, 85, 30)
        assert {85 + which: count for which, count in enumerate(row.histogram) if count} == {100: 2}
        assert (row.window_start, row.as_of, row.revision) == (at("10:00"), at("10:16"), 0)

    def test_who_measures_no_voltage_has_no_row(self):
        published = go_on(head_end().reads("10:16", read_json(voltage_v=None)), "10:30").run()
        assert published.heatmap == []

    def test_minutes_add_up_over_the_day_of_the_utility(self):
        # 23:00 in Chicago on the day before is 05:00 here; the window that begins at 05:45 is the last of that day.
        stream = head_end(time_zone="America/Chicago")
        for end, volts in [("05:45", 200.0), ("06:00", 215.0), ("06:15", 200.0), ("06:30", 230.0)]:
            stream.reads(f"{end[:3]}{int(end[3:]) + 1:02d}", read_json(end=end, voltage_v=volts))
        found = days(stream.until("09:00").run())
        last = {row.day: row for row in found}
        minutes = {
            day: (row.outside_ansi_a_minutes, row.outside_ansi_b_minutes, row.outside_en_50160_minutes)
            for day, row in last.items()
        }
        assert minutes == {"2026-03-02": (30.0, 15.0, 15.0), "2026-03-03": (15.0, 15.0, 15.0)}


class TestRevisions:
    def test_a_late_read_revises_band_histogram_and_minutes(self):
        stream = go_on(head_end().reads("10:16", read_json(voltage_v=230.0)), "10:30")
        stream.reads("10:40", read_json(meter_id="M2", voltage_v=190.0))
        published = go_on(stream, "11:30").run()
        assert [(row.ansi_c84_1, row.revision) for row in transformer(published, "10:15")] == [("A", 0), ("OUTSIDE", 1)]
        assert [(row.reads, row.below) for row in feeder(published, "10:15")] == [(1, 0), (2, 1)]
        assert [(row.outside_en_50160_minutes, row.revision) for row in days(published)] == [(15.0, 0)]

    def test_what_was_outside_until_a_better_read_came_is_none_any_more(self):
        stream = go_on(head_end().reads("10:16", read_json(voltage_v=190.0, estimated_flag=True)), "10:30")
        stream.reads("10:40", read_json(voltage_v=231.0))
        published = go_on(stream, "11:30").run()
        assert [row.outside_ansi_a_minutes for row in days(published)] == [15.0, 0.0]
        assert [row.below for row in feeder(published, "10:15")] == [1, 0]

    def test_a_transformer_that_is_elsewhere_leaves_the_histogram(self):
        stream = go_on(head_end().reads("10:16", read_json(voltage_v=230.0)), "10:30")
        later = "2026-03-03T10:30:00Z"
        stream.reads("10:40", read_json(feeder_id="F2", voltage_v=231.0, read_ts=later))
        published = go_on(stream, "11:30").run()
        assert [row.reads for row in feeder(published, "10:15")] == [1, 0]
        assert [row.reads for row in feeder(published, "10:15", "F2")] == [1]


levels = st.lists(
    st.tuples(st.sampled_from(["T1", "T2"]), st.sampled_from(["F1", "F2"]), st.integers(84, 115), st.integers(0, 3)),
    min_size=1,
    max_size=10,
)


@given(levels, st.randoms(use_true_random=False))
def test_histograms_do_not_depend_on_the_order(found: list, rng: random.Random):
    news, last = [], {}
    for revision, (transformer_id, feeder_id, which, count) in enumerate(found):
        each = FeederLevels(transformer_id, feeder_id, revision, [which, count] if count else [], revision)
        last[transformer_id, feeder_id] = each
        news.append(HistogramInput([each]))
    rng.shuffle(news)
    kept, rows = {}, {}
    while news:
        for row in update_histograms(kept, [news.pop() for _ in range(rng.randint(1, len(news)))], 0, 1):
            assert row.revision == (rows[row.feeder_id].revision + 1 if row.feeder_id in rows else 0)
            rows[row.feeder_id] = row
    for feeder_id in ("F1", "F2"):
        expected = [0] * 32
        for (_, feeder), each in last.items():
            if feeder == feeder_id and each.classes:
                expected[each.classes[0] - 84] += each.classes[1]
        row = rows.get(feeder_id)
        assert ([row.below, *row.histogram, row.above] if row else [0] * 32) == expected


@given(
    st.lists(st.tuples(st.sampled_from(["T1", "T2"]), st.integers(1, 3), st.integers(0, 7)), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
def test_minutes_do_not_depend_on_the_order(found: list, rng: random.Random):
    news, last = [], {}
    for revision, (transformer_id, window, bits) in enumerate(found):
        last[transformer_id, window] = bits
        news.append(OutsideBands(window, [transformer_id], ["F1"], [revision], [bits], [revision]))
    rng.shuffle(news)
    kept, counted, rows = KeptDay(), [], {}
    while news:
        some = [news.pop() for _ in range(rng.randint(1, len(news)))]
        known = history(counted) if needs_history(kept, some) else {}
        for row in update_days(kept, some, known, "2026-03-03", 15 * 60_000_000):
            assert row.revision == (rows[row.transformer_id].revision + 1 if row.transformer_id in rows else 0)
            rows[row.transformer_id] = row
        counted += some
    for transformer_id in ("T1", "T2"):
        bits = [each for (name, _), each in last.items() if name == transformer_id]
        row = rows.get(transformer_id)
        minutes = (
            [row.outside_ansi_a_minutes, row.outside_ansi_b_minutes, row.outside_en_50160_minutes] if row else [0] * 3
        )
        assert minutes == [15 * sum(bool(each & bit) for each in bits) for bit in (1, 2, 4)]


@pytest.mark.parametrize(
    ("instant", "zone", "day"),
    [
        ("2026-03-08T05:59:59Z", "America/Chicago", "2026-03-07"),
        ("2026-03-08T06:00:00Z", "America/Chicago", "2026-03-08"),
        ("2026-03-09T04:59:59Z", "America/Chicago", "2026-03-08"),  # a day of 23 hours
        ("2026-03-09T05:00:00Z", "America/Chicago", "2026-03-09"),
        ("2026-10-25T22:59:59Z", "Europe/Berlin", "2026-10-25"),  # a day of 25 hours
        ("2026-10-25T23:00:00Z", "Europe/Berlin", "2026-10-26"),
        ("2026-03-03T23:59:59Z", "UTC", "2026-03-03"),
    ],
)
def test_local_days(instant: str, zone: str, day: str):
    assert local_day(parse_instant(instant), zone) == day
