"""What the operators' screen keeps of the grid, and what it shows of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ami_beam.codecs.json_outputs import (
    RECEIPT_TOPIC,
    SUMMARY_TOPIC,
    parse_receipt,
    parse_summary,
    receipt_json,
    summary_json,
)
from ami_beam.dashboard import map_views
from ami_beam.dashboard.grid import UNKNOWN_FEEDER, Grid
from ami_beam.dashboard.hub import Hub, Record, Topics
from ami_beam.dashboard.map_views import MapViews
from ami_beam.dashboard.name_index import NameIndex
from ami_beam.instants import MICROS_PER_DAY, format_instant
from ami_beam.records import ReceiptRow
from ami_beam.settings import Settings
from ami_beam.voltage_codes import Thresholds
from tests.dashboard_rows import ARRIVED, WINDOW, end_of, receipt, summary


def grid_of(*rows, nominal=None, history=MICROS_PER_DAY):
    grid = Grid(history, Thresholds(), nominal)
    for row in rows:
        take = grid.take_receipt if isinstance(row, ReceiptRow) else grid.take_summary
        take(row, row.window_end + ARRIVED)
    return grid


def columns(grid, metric="voltage", feeder=None):
    for end in grid.ends:
        grid.digest(end)
    document = MapViews(grid).map(metric, feeder, None, None)
    names = [row["id"] for row in document["rows"]]
    return {time[11:16]: dict(zip(names, codes, strict=True)) for time, codes in document["columns"].items()}


def test_a_feeder_shows_the_worst_of_its_transformers():
    grid = grid_of(
        summary("T1", "F1", 1, 225, 232),
        summary("T2", "F1", 1, 206.99, 232),
        summary("T3", "F2", 1, 207.0, 253.0),
        summary("T4", "F3", 1, 225, 253.01),
        summary("T5", "F4", 1, 206, 254),
        summary("T6", "F5", 1, 230, 244),
        receipt("T7", None, 1, 0, 4),
    )
    assert columns(grid)["00:15"] == {
        "F1": "1", "F2": "2", "F3": "5", "F4": "6", "F5": "4", UNKNOWN_FEEDER: "0",
    }  # fmt: skip
    assert columns(grid, feeder="F1")["00:15"] == {"T1": "3", "T2": "1"}


def test_a_transformer_that_was_heard_without_a_voltage_is_not_silent():
    grid = grid_of(summary("T1", "F1", 1, None, None), receipt("T1", "F1", 1, 3, 3))
    assert columns(grid)["00:15"] == {"F1": "."}
    assert columns(grid, "receipt")["00:15"] == {"F1": "3"}


def test_meters_that_say_0_v_are_as_silent_as_those_that_say_nothing():
    """Of an outage: they have no supply, and still communicate."""
    dark = summary("T1", "F1", 1, None, None, zero_voltage_count=3)
    grid = grid_of(receipt("T1", "F1", 1, 3, 3), dark)
    assert columns(grid)["00:15"] == {"F1": "0"}
    assert columns(grid, feeder="F1")["00:15"] == {"T1": "0"}
    grid.take_summary(summary("T1", "F1", 1, 225, 230, as_of=1_000, revision=1))
    assert columns(grid)["00:15"] == {"F1": "3"}


def test_receipt_of_a_feeder_is_that_of_its_meters():
    grid = grid_of(receipt("T1", "F1", 1, 9, 10), receipt("T2", "F1", 1, 0, 2), receipt("T3", "F2", 1, 19, 20))
    # 9 of 12 meters is 75 %, below 80.
    assert columns(grid, "receipt")["00:15"] == {"F1": "1", "F2": "3"}
    assert map_views.cell(grid, end_of(1), "F1", None)["receipt_rate_pct"] == 75.0


def test_a_transformers_own_nominal_voltage_decides():
    grid = grid_of(summary("T1", "F1", 1, 215, 245), summary("T2", "F1", 1, 215, 245), nominal={"T2": 240.0})
    # 215 V are 93.5 % of 230 and 89.6 % of 240; 245 V are 106.5 % and 102.1 %.
    assert columns(grid, feeder="F1")["00:15"] == {"T1": "2", "T2": "1"}
    assert map_views.transformer(grid, "T2")["low_voltage_v"] == 216.0


def test_a_high_nominal_voltage_is_kept_as_finely_as_is_shown():
    grid = grid_of(summary("T1", "F1", 1, 7_012.3, 7_498.7), nominal={"T1": 7_200.0})
    cell = map_views.cell(grid, end_of(1), None, "T1")
    assert cell["min_voltage_v"] == pytest.approx(7_012.3, abs=0.2)
    assert cell["max_pct"] == pytest.approx(7_498.7 / 72, abs=0.01)


def test_a_smaller_as_of_never_overwrites():
    grid = grid_of(summary("T1", "F1", 1, 200, 230, as_of=60_000_000), summary("T1", "F1", 1, 225, 230))
    assert columns(grid)["00:15"] == {"F1": "1"}
    grid.take_summary(summary("T1", "F1", 1, 226, 230, as_of=60_000_000, revision=1))
    assert columns(grid)["00:15"] == {"F1": "3"}


def test_a_row_that_comes_again_is_a_revision_only_if_it_says_something_else():
    grid = grid_of(summary("T1", "F1", 1, 225, 230), summary("T1", "F1", 1, 225, 230))
    assert not map_views.cell(grid, end_of(1), None, "T1")["revised"]
    grid.take_summary(summary("T1", "F1", 1, 224, 230, as_of=1_000))
    assert map_views.cell(grid, end_of(1), None, "T1")["revised"]
    assert MapViews(grid).map("voltage", None, None, None)["revised"][format_instant(end_of(1))] == [0]


def test_a_silent_transformer_belongs_to_its_feeder_once_that_is_known():
    grid = grid_of(receipt("T1", None, 1, 0, 3))
    assert columns(grid)["00:15"] == {UNKNOWN_FEEDER: "0"}
    grid.take_summary(summary("T1", "F1", 2, 225, 230))
    grid.take_receipt(receipt("T1", None, 3, 0, 3))
    assert columns(grid, feeder="F1") == {"00:15": {"T1": "0"}, "00:30": {"T1": "3"}, "00:45": {"T1": "0"}}
    assert columns(grid, feeder=UNKNOWN_FEEDER) == {"00:15": {}, "00:30": {}, "00:45": {}}


def test_a_receipt_that_moves_to_another_feeder_counts_once():
    grid = grid_of(
        summary("T1", "F1", 1, 225, 230),
        summary("T1", "F2", 1, 225, 230),
        receipt("T1", "F1", 1, 2, 4),
        receipt("T1", "F2", 1, 3, 4, as_of=1_000, revision=1),
    )
    series = map_views.series(grid, None)
    assert series["receipt_pct"] == [75.0]
    assert map_views.series(grid, "F1")["receipt_pct"] == [None]
    told = map_views.transformer(grid, "T1")
    assert (told["feeders"], told["meters_reported"], told["total_meters"]) == (["F1", "F2"], [3], [4])


def test_a_pair_that_lost_its_reads_is_no_row_any_more():
    lost = summary("T1", "F1", 1, None, None, meters_reported=0, total_consumption_kwh=0.0, as_of=1_000, revision=1)
    grid = grid_of(summary("T1", "F1", 1, 200, 230), lost)
    assert columns(grid)["00:15"] == {"F1": "."}
    assert map_views.series(grid, "F1")["consumption_kwh"] == [None]


def test_only_the_history_is_kept():
    grid = grid_of(*(summary("T1", "F1", number, 225, 230) for number in (1, 5, 2)), history=4 * WINDOW)
    assert grid.ends == [end_of(2), end_of(5)]
    grid.take_summary(summary("T1", "F1", 1, 225, 230, as_of=5))
    assert grid.ends == [end_of(2), end_of(5)]


def test_more_transformers_than_there_was_room_for():
    """Windows that were there before the room grew are grown, too."""
    grid = grid_of(summary("T0", "F0", 1, 200, 230))
    for number in range(300):
        grid.take_summary(summary(f"T{number}", f"F{number % 7}", 2, 225, 230))
    found = columns(grid)
    assert found["00:15"]["F0"] == "1"
    assert set(found["00:30"].values()) == {"3"}
    assert sum(map_views.series(grid, f"F{number}")["transformers"][1] for number in range(7)) == 300
    assert columns(grid, feeder="F3")["00:15"] == {f"T{number}": "." for number in range(3, 300, 7)}


def test_a_page_is_told_what_has_changed_and_no_more():
    grid = grid_of(*(summary("T1", "F1", number, 225, 230) for number in (1, 2, 3)))
    views = MapViews(grid)
    first = views.map("voltage", None, None, None)
    assert first["full"]
    assert len(first["columns"]) == 3
    grid.take_summary(summary("T1", "F1", 2, 200, 230, as_of=1, revision=1))
    grid.digest(end_of(2))
    second = views.map("voltage", None, first["rows_version"], first["version"])
    assert not second["full"]
    assert second["columns"] == {format_instant(end_of(2)): "1"}
    third = views.map("voltage", None, second["rows_version"], second["version"])
    assert third["columns"] == {}
    grid.take_summary(summary("T2", "F2", 3, 225, 230))
    fourth = views.map("voltage", None, third["rows_version"], third["version"])
    assert fourth["full"]
    assert [row["id"] for row in fourth["rows"]] == ["F1", "F2"]


def test_of_very_many_feeders_the_worst_are_shown(monkeypatch):
    monkeypatch.setattr(map_views, "MOST_ROWS", 3)
    rows = [summary(f"T{number}", f"F{number}", 1, 200 if number in (4, 7) else 225, 230) for number in range(9)]
    document = MapViews(grid_of(*rows)).map("voltage", None, None, None)
    assert {"F4", "F7"} < {row["id"] for row in document["rows"]}
    assert (len(document["rows"]), document["omitted"]) == (3, 6)


def test_other_limits_change_what_is_shown():
    grid = grid_of(summary("T1", "F1", 1, 212, 230))
    assert columns(grid)["00:15"] == {"F1": "2"}
    grid.set_thresholds(Thresholds(low_voltage_pct=93))
    assert columns(grid)["00:15"] == {"F1": "1"}


def test_a_window_that_is_just_being_published_is_not_yet_what_holds_now():
    rows = [summary(f"T{number}", "F1", 1, 225, 230) for number in range(10)]
    grid = grid_of(*rows, summary("T1", "F1", 2, 225, 230))
    assert map_views.newest_judged(grid) == end_of(1)
    for number in range(10):
        grid.take_summary(summary(f"T{number}", "F1", 2, 225, 230))
    grid.digest(end_of(2))
    assert map_views.newest_judged(grid) == end_of(2)


def test_how_long_reads_took():
    grid = grid_of(summary("T1", "F1", 1, 225, 230), summary("T2", "F1", 1, 225, 230, as_of=30_000_000))
    assert sorted(grid.delays_of(grid.windows[end_of(1)]).tolist()) == [300.0, 330.0]


versions = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(0, 5), st.integers(195, 260)), min_size=1, max_size=20
)


@given(versions, st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter(rows, random):
    """Of versions with different as_of the greatest counts, whichever comes last."""
    distinct = {(transformer, number, as_of): low for transformer, number, as_of, low in rows}
    made = [
        summary(f"T{transformer}", f"F{transformer % 2}", number, low, max(low, 230), as_of=as_of * 1_000)
        for (transformer, number, as_of), low in distinct.items()
    ]
    expected: dict[tuple[str, int], tuple[int, float]] = {}
    for row in made:
        key = row.transformer_id, row.window_end
        expected[key] = max(expected.get(key, (0, 0.0)), (row.as_of, row.min_voltage_v))
    random.shuffle(made)
    grid = grid_of(*made)
    for (transformer, end), (_, low) in expected.items():
        assert map_views.cell(grid, end, None, transformer)["min_voltage_v"] == low


@given(st.lists(st.text(max_size=6), max_size=30, unique=True), st.text(max_size=3), st.integers(1, 5))
def test_names_are_found_by_any_part(names, text, most):
    wanted = text.casefold().replace("\n", " ")
    found = NameIndex(names).find(text, most)
    holding = [name for name in names if wanted and wanted in name.casefold().replace("\n", " ")]
    first = [name for name in holding if name.casefold().replace("\n", " ").startswith(wanted)]
    expected = [*first, *(name for name in holding if name not in first)]
    assert found == expected[:most]


def test_a_window_that_is_far_ahead_pushes_nothing_out():
    grid = grid_of(summary("T1", "F1", 1, 225, 230))
    far = summary("T1", "F1", 1_000, 225, 230)
    assert not grid.take_summary(far, end_of(1))
    assert grid.ends == [end_of(1)]
    assert grid.refused == 1


cells = st.tuples(
    st.sampled_from(["T1", "T2", "T3"]), st.sampled_from(["F1", "F2", None]), st.integers(1, 3), st.integers(-2, 3),
    st.integers(0, 2),
)  # fmt: skip
volts = st.none() | st.floats(-5, 700, allow_nan=False)


@given(
    st.lists(st.tuples(cells, volts, volts, st.integers(0, 3), st.floats(-1e3, 1e3), st.booleans()), max_size=25),
    st.integers(1, 9),
)
def test_many_rows_at_once_are_taken_as_one_by_one(drawn, at_once):
    """Whatever the batches, and whether transformers are new, on several feeders, or there in several versions."""
    records = []
    for (transformer, feeder, number, as_of, revision), low, high, meters, kwh, is_summary in drawn:
        usual = {"as_of": as_of * 1_000, "revision": revision}
        if is_summary:
            row = summary(
                transformer, feeder or "F1", number, low, high, **usual, meters_reported=meters,
                total_consumption_kwh=kwh, total_received_kwh=-kwh, zero_voltage_count=meters % 2,
            )  # fmt: skip
            records.append((SUMMARY_TOPIC, summary_json(row)))
        else:
            row = receipt(transformer, feeder, number, meters, 3, **usual)
            records.append((RECEIPT_TOPIC, receipt_json(row)))
    hub, grid = Hub(Settings(), Topics("", None, None, None), MICROS_PER_DAY), Grid(MICROS_PER_DAY, Thresholds())
    for begin in range(0, len(records), at_once):
        batch = records[begin : begin + at_once]
        for topic in (SUMMARY_TOPIC, RECEIPT_TOPIC):
            hub.take(topic, [Record(value, 0, 0, end_of(9)) for name, value in batch if name == topic])
            for name, value in batch:
                if name == topic == SUMMARY_TOPIC:
                    grid.take_summary(parse_summary(value), end_of(9))
                elif name == topic:
                    grid.take_receipt(parse_receipt(value), end_of(9))
    assert not hub.unreadable
    together = hub.grid
    assert (together.transformers, together.feeders, together.ends) == (grid.transformers, grid.feeders, grid.ends)
    assert together.newest_as_of == grid.newest_as_of
    for end in grid.ends:
        one, other = grid.windows[end], together.windows[end]
        assert sorted(one.delays) == sorted(other.delays)
        for name in (
            "min",
            "avg",
            "max",
            "kwh",
            "received",
            "heard",
            "total",
            "summary_as_of",
            "receipt_as_of",
            "flags",
        ):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)


def test_values_that_are_no_plain_lines_are_looked_at_one_by_one():
    rows = [summary_json(summary("T1", "F1", 1, 200, 230)), b"no row", summary_json(summary("T2", "F1", 1, 225, 230))]
    hub = Hub(Settings(), Topics("", None, None, None), MICROS_PER_DAY)
    spread = json.dumps(json.loads(rows[2]), indent=1).encode().replace(b"T2", b"T3")
    hub.take(SUMMARY_TOPIC, [Record(value, 0, 0, end_of(1)) for value in (*rows, None, spread)])
    assert hub.grid.transformers == ["T1", "T2", "T3"]
    assert hub.unreadable == {SUMMARY_TOPIC: 2}
