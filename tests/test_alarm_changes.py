"""Which alarms appear, vanish and move between two settings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ami_beam.alarm_changes import (
    Tally,
    alarm_type,
    compare,
    feeder,
    hour_of_day,
    most_at_once,
    tallies,
    within,
)  # fmt: skip
from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MINUTE, parse_instant
from ami_beam.records import Alarm

DAY = parse_instant("2026-03-03T00:00:00Z")
SIZE = 15 * MICROS_PER_MINUTE


def alarm(first: int, last: int, entity: str = "T1", kind: str = "LOW_VOLTAGE", **fields) -> Alarm:
    """From window number `first` to `last`."""
    begin, end = DAY + first * SIZE, DAY + last * SIZE
    values = {
        "alarm_id": f"{kind}{entity}{first}", "alarm_type": kind, "entity_id": entity, "feeder_id": "F1",
        "state": "CLEARED", "severity": "WARNING", "first_window": begin, "last_window": end, "worst_value": 200.0,
        "windows_in_violation": last - first + 1, "meters_in_violation": 1, "worst_meter_id": "M1", "meters_missing": 0,
        "cause": None, "revision": 0, "as_of": end,
    }  # fmt: skip
    return Alarm(**{**values, **fields})


def kinds(current: list[Alarm], changed: list[Alarm]) -> list[str]:
    return [change.kind for change in compare(current, changed)]


def test_the_same_episode_stays_whatever_its_evidence():
    assert kinds([alarm(1, 3)], [alarm(1, 3, worst_value=190.0, alarm_id="other")]) == ["stays"]


def test_an_overlapping_episode_moves_and_says_how():
    (change,) = compare([alarm(1, 4)], [alarm(3, 8)])
    assert (change.kind, change.begins_later, change.lasts_longer) == ("moves", 2 * SIZE, 2 * SIZE)
    assert kinds([alarm(1, 4)], [alarm(1, 4, state="ACTIVE")]) == ["moves"]


def test_what_does_not_overlap_vanishes_and_appears():
    assert kinds([alarm(1, 2)], [alarm(3, 4)]) == ["vanishes", "appears"]
    assert kinds([alarm(1, 2)], [alarm(1, 2, kind="HIGH_VOLTAGE")]) == ["appears", "vanishes"]
    assert kinds([alarm(1, 2)], [alarm(1, 2, entity="T2")]) == ["vanishes", "appears"]


def test_of_one_that_becomes_two_one_moves_and_one_appears():
    assert kinds([alarm(1, 9)], [alarm(1, 3), alarm(7, 9)]) == ["moves", "appears"]
    assert kinds([alarm(1, 3), alarm(7, 9)], [alarm(1, 9)]) == ["moves", "vanishes"]


def test_the_period_takes_what_holds_in_it_and_nothing_that_was_taken_back():
    alarms = [alarm(1, 2), alarm(2, 5), alarm(6, 9), alarm(10, 12), alarm(7, 7, windows_in_violation=0)]
    assert within(alarms, DAY + 2 * SIZE, DAY + 9 * SIZE) == [alarms[1], alarms[2]]
    assert within(alarms, None, None) == alarms[:4]


def test_tallies_by_type_feeder_and_hour():
    current = [alarm(1, 2), alarm(1, 2, "T2", feeder_id="F2"), alarm(5, 6, "T3", kind="HIGH_VOLTAGE")]
    changed = [alarm(1, 3), alarm(1, 2, "T2", feeder_id="F2"), alarm(4, 5, "T4", feeder_id=None)]
    changes = compare(current, changed)
    assert tallies(changes, alarm_type) == {
        "LOW_VOLTAGE": Tally(2, 3, appear=1, move=1), "HIGH_VOLTAGE": Tally(1, 0, vanish=1)
    }  # fmt: skip
    assert list(tallies(changes, feeder)) == ["F1", None, "F2"]
    # The window that ends at 01:00 lies in hour 0.
    assert set(tallies(changes, hour_of_day)) == {0, 1}
    assert hour_of_day(alarm(4, 5)) == 0
    assert hour_of_day(alarm(5, 5, first_window=DAY + MICROS_PER_HOUR + 1)) == 1


def test_most_at_once_counts_both_ends():
    assert most_at_once([alarm(1, 3), alarm(3, 4, "T2"), alarm(4, 5, "T3")]) == 2
    assert most_at_once([]) == 0


@st.composite
def episodes(draw: st.DrawFn) -> list[Alarm]:
    """Of two transformers, that do not overlap."""
    found = []
    for entity in ("T1", "T2"):
        edges = sorted(draw(st.sets(st.integers(0, 30), max_size=8)))
        found += [alarm(a, b, entity) for a, b in zip(edges[::2], edges[1::2], strict=False)]
    return found


@given(episodes(), episodes())
def test_every_alarm_is_there_once_and_the_other_way_round_is_the_other_way_round(current, changed):
    def key(each: Alarm) -> tuple[str, int]:
        return each.entity_id, each.first_window

    changes = compare(current, changed)
    assert sorted((c.current for c in changes if c.current), key=key) == sorted(current, key=key)
    assert sorted((c.changed for c in changes if c.changed), key=key) == sorted(changed, key=key)
    back = compare(changed, current)
    opposite = {"appears": "vanishes", "vanishes": "appears", "moves": "moves", "stays": "stays"}
    assert sorted(opposite[c.kind] for c in changes) == sorted(c.kind for c in back)
    assert {c.kind for c in compare(current, current)} <= {"stays"}
