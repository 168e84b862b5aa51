"""The score of alarms: what it counts as told, missed, needed and false."""

from __future__ import annotations

from ami_beam.instants import format_instant
from ami_beam.records import Alarm
from benchmarks.alarm_score import WINDOW, Truth, needs_alarm, score
from tests.test_group_causes import alarm, outage

T0 = 1_772_496_000_000_000


def at(window: int) -> int:
    return T0 + window * WINDOW


def of(kind: str, since: int, until: int, *transformers: str) -> Truth:
    return Truth(kind, at(since), at(until), frozenset(transformers), "F1")


def told(transformer: str, first: int, last: int, kind: str, **fields) -> tuple[int, Alarm]:
    made = alarm(transformer, 0, last - first, kind, **fields)
    made.alarm_id += f"/{first}"
    made.first_window, made.last_window = at(first), at(last)
    return at(last), made


def alert(transformer: str, window: int, kind: str = "LOW_VOLTAGE", status: str = "RAISED") -> dict[str, str]:
    name = f"{transformer}/{window}/{kind}"
    end = format_instant(at(window))
    return {"alert_id": name, "alert_type": kind, "entity_id": transformer, "window_end": end, "status": status}


SIZES = {"T0": 10, "T1": 10, "T2": 1}


def test_a_condition_is_told_by_an_alarm_of_its_kind_place_and_time():
    sag = of("LOW_VOLTAGE", 10, 14, "T0")
    alerts = [alert("T0", 11), alert("T0", 12)]
    assert not score([sag], [told("T0", 11, 12, "LOW_VOLTAGE")], alerts, SIZES).missed
    for wrong in (
        told("T1", 11, 12, "LOW_VOLTAGE"),
        told("T0", 11, 12, "HIGH_VOLTAGE"),
        told("T0", 3, 9, "LOW_VOLTAGE"),
        told("T0", 20, 22, "LOW_VOLTAGE"),
    ):
        found = score([of("LOW_VOLTAGE", 10, 14, "T0")], [wrong], alerts, SIZES)
        assert (len(found.missed), len(found.false)) == (1, 1)


def test_what_was_taken_back_tells_nothing_and_what_is_explained_counts_once():
    sag = of("LOW_VOLTAGE", 10, 14, "T0", "T1")
    alerts = [alert("T0", 11), alert("T0", 12)]
    taken_back = told("T0", 11, 12, "LOW_VOLTAGE", windows_in_violation=0, revision=1)
    assert len(score([sag], [taken_back], alerts, SIZES).missed) == 1
    sag = of("LOW_VOLTAGE", 10, 14, "T0", "T1")
    group = told("F1", 11, 12, "LOW_VOLTAGE_GROUP")
    children = [told(name, 11, 12, "LOW_VOLTAGE", cause=group[1].alarm_id) for name in ("T0", "T1")]
    found = score([sag], [group, *children], alerts, SIZES)
    assert (found.per_condition, found.explained, len(sag.alarms)) == (1.0, 2, 3)


def test_a_condition_needs_an_alarm_when_it_lasts_two_windows():
    def violations(*windows: int) -> dict[str, dict[str, set[int]]]:
        return {"LOW_VOLTAGE": {"T0": {at(window) for window in windows}}}

    sag = of("LOW_VOLTAGE", 10, 14, "T0")
    assert needs_alarm(sag, violations(11, 12), SIZES)
    assert not needs_alarm(sag, violations(11, 13), SIZES)
    assert not needs_alarm(sag, violations(3, 4), SIZES)
    assert needs_alarm(of("OUTAGE", 10, 14, "T0"), {}, SIZES)
    # One silent meter is no alarm.
    silent = {"LOW_RECEIPT_RATE": {"T2": {at(11), at(12)}}}
    assert not needs_alarm(of("SILENT_COLLECTOR", 10, 14, "T2"), silent, SIZES)


def test_the_delay_is_until_the_first_word():
    out = of("OUTAGE", 10, 14, "T0")
    gone = outage("T0", 0, None)
    gone.began_at, gone.first_window, gone.last_window = at(10), at(11), at(11)
    found = score([out], [(at(10) + 3_000_000, gone), (at(12), gone)], [], SIZES, live=True)
    assert found.delays == {"OUTAGE": [3.0]}
