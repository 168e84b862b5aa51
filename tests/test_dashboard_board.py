"""Alarms, alerts and dead letters as the operators' screen keeps them."""

from __future__ import annotations

import pytest

from ami_beam.dashboard import alarm_board, alarm_views, letter_counts
from ami_beam.dashboard.alarm_board import Acknowledgement, AlarmBoard
from ami_beam.dashboard.letter_counts import OTHER, LetterCounts, Place
from ami_beam.instants import MICROS_PER_DAY, MICROS_PER_MINUTE
from ami_beam.records import Announcement
from tests.dashboard_rows import ARRIVED, START, alarm, alert, end_of


def board_of(*alarms):
    board = AlarmBoard(MICROS_PER_DAY)
    for each in alarms:
        board.take_alarm(each)
    return board


def planned(name, record_time=START, **others):
    fields = {
        "source": "oms", "announcement_id": name, "kind": "PLANNED", "active": True, "entity_type": "TRANSFORMER",
        "entity_id": "TR-1", "transformer_id": None, "begins": START, "ends": START + 3_600_000_000,
        "record_time": record_time, "partition": 0, "offset": 0, "announced_at": START,
    }  # fmt: skip
    return Announcement(**(fields | others))


def test_the_greatest_as_of_counts_and_of_equal_ones_the_last():
    board = board_of(alarm("A", as_of=20), alarm("A", as_of=10, state="CLEARED"))
    assert board.get("A").alarm.state == "ACTIVE"
    board.take_alarm(alarm("A", as_of=20, state="CLEARED", revision=1))
    assert board.get("A").alarm.state == "CLEARED"
    assert alarm_views.alarm_document(board.get("A"), board)["revised"]


def test_what_explains_and_what_is_explained():
    board = board_of(alarm("CHILD", cause="CAUSE"), alarm("CAUSE", "F1", alarm_type="LOW_VOLTAGE_GROUP"))
    detail = alarm_views.detail_document(board, "CHILD")
    assert detail["caused_by"]["id"] == "CAUSE"
    assert detail["caused_by"]["entity_kind"] == "feeder"
    assert alarm_views.detail_document(board, "CAUSE")["alarm"]["explains"] == 1
    version = board.version
    board.take_alarm(alarm("CHILD", cause="oms:O-1", as_of=end_of(9)))
    assert alarm_views.detail_document(board, "CAUSE")["alarm"]["explains"] == 0
    # The page is told of the cause, too: what it shows of it has changed.
    assert {kept.alarm.alarm_id for kept in board.changes(version)[0]} == {"CHILD", "CAUSE"}
    board.take_announcement(planned("O-1"))
    assert alarm_views.detail_document(board, "CHILD")["announcement"]["name"] == "oms:O-1"


def test_the_alerts_behind_an_alarm():
    board = board_of(alarm("A"), alarm("G", "F1", alarm_type="LOW_VOLTAGE_GROUP"))
    for each in (
        *(alert(f"own-{number}", "TR-1", number) for number in (1, 2, 3)),
        alert("other type", "TR-1", 2, alert_type="HIGH_VOLTAGE"),
        alert("other place", "TR-2", 2, explained_by="G"),
    ):
        board.take_alert(each)
    assert [each.alert_id for each in board.alerts_behind(board.get("A").alarm)] == ["own-1", "own-2"]
    assert [each.alert_id for each in board.alerts_behind(board.get("G").alarm)] == ["other place"]
    board.take_alert(alert("other place", "TR-2", 2, explained_by=None, as_of=end_of(5)))
    assert board.alerts_behind(board.get("G").alarm) == []


def test_an_alarm_that_was_over_for_long_goes_and_an_active_one_stays():
    old = {"as_of": end_of(1), "last_window": end_of(1)}
    board = board_of(alarm("ACTIVE", **old), alarm("OVER", state="CLEARED", **old), alarm("NEW", as_of=end_of(99)))
    version = board.version
    board.forget(end_of(1) + MICROS_PER_DAY + 1)
    assert {kept.alarm.alarm_id for kept in board.alarms()} == {"ACTIVE", "NEW"}
    assert board.changes(version) == ([], ["OVER"])
    assert alarm_views.stream_document(board, version)["removed"] == ["OVER"]


def test_an_acknowledgement_may_come_before_its_alarm_and_the_last_one_counts():
    board = AlarmBoard(MICROS_PER_DAY)
    board.acknowledge(Acknowledgement("A", "ada", 5, "seen"))
    board.take_alarm(alarm("A"))
    board.acknowledge(Acknowledgement("A", "bob", 4, "older"))
    assert alarm_views.alarm_document(board.get("A"), board)["ack"]["user"] == "ada"
    board.acknowledge(Acknowledgement("A", "bob", 6, "crew is there"))
    assert alarm_views.alarm_document(board.get("A"), board)["ack"]["comment"] == "crew is there"
    board.take_alarm(alarm("A", as_of=end_of(9), state="CLEARED"))
    assert board.get("A").acknowledged.user == "bob"


def test_an_announcement_that_was_cancelled_is_not_shown_and_an_older_one_changes_nothing():
    board = AlarmBoard(MICROS_PER_DAY)
    board.take_announcement(planned("O-1", 10))
    board.take_announcement(planned("O-1", 20, active=False))
    board.take_announcement(planned("O-1", 15))
    assert board.announcements() == []


def test_nothing_grows_without_an_end(monkeypatch):
    for name, most in (("MOST_ALARMS", 5), ("MOST_ALERTS", 7), ("MOST_VERSIONS", 4), ("MOST_ANNOUNCEMENTS", 3)):
        monkeypatch.setattr(alarm_board, name, most)
    board = AlarmBoard(MICROS_PER_DAY)
    for number in range(50):
        board.take_alarm(alarm(f"A{number}", state="CLEARED" if number < 48 else "ACTIVE", as_of=end_of(number)))
        board.take_alarm(alarm("LAST", as_of=end_of(number), revision=number))
        board.take_alert(alert(f"L{number}", f"TR-{number}", number))
        board.take_announcement(planned(f"O-{number}"))
        board.acknowledge(Acknowledgement(f"unknown {number}", "ada", 1, ""))
    names = {kept.alarm.alarm_id for kept in board.alarms()}
    assert len(names) == 5
    assert {"A48", "A49", "LAST"} <= names
    versions = board.get("LAST").versions
    assert (len(versions), versions[0].revision, versions[-1].revision) == (4, 0, 49)
    assert len(board.announcements()) == 3
    assert sum(len(board.alerts_of(f"TR-{number}")) for number in range(50)) == 7
    # A page that saw the board before all of this is told everything again.
    assert board.changes(1) is None


@pytest.mark.parametrize(
    ("fields", "kind", "unit"),
    [
        ({"alarm_type": "COMM_GROUP", "entity_id": "F1"}, "feeder", "%"),
        ({"alarm_type": "COMM_GROUP", "entity_id": "C-7"}, "collector", "%"),
        ({"alarm_type": "COMM_GROUP", "entity_id": "C-7", "feeder_id": None}, "collector", "%"),
        ({"alarm_type": "FEEDER_OUTAGE", "entity_id": "F1"}, "feeder", "%"),
        ({"alarm_type": "TAMPER_REPEATED"}, "meter", ""),
        ({"alarm_type": "SOURCE_SILENT"}, "topic", ""),
        ({"alarm_type": "HIGH_VOLTAGE"}, "transformer", "V"),
        ({"alarm_type": "TRANSFORMER_OUTAGE"}, "transformer", "%"),
    ],
)
def test_what_an_alarm_is_about(fields, kind, unit):
    document = alarm_views.version_document(alarm("A", **fields))
    assert (document["entity_kind"], document["unit"]) == (kind, unit)
    assert document["type"] in alarm_views.WORDS


def place(offset, topic="reads"):
    return Place(topic, 0, offset, None, "no JSON")


def test_a_letter_counts_once_however_often_it_is_delivered():
    letters = LetterCounts(MICROS_PER_DAY)
    for _ in range(2):
        for offset in range(3):
            letters.take("NOT_JSON", False, place(offset), START)
        letters.take("IMPLAUSIBLE_VOLTAGE", True, place(0), START + MICROS_PER_MINUTE)
    found = {each.name: (each.total, each.used) for each in letters.reasons()}
    assert found == {"NOT_JSON": (3, 0), "IMPLAUSIBLE_VOLTAGE": (1, 1)}
    assert letters.total == 4


def test_letters_of_long_ago_are_dropped():
    letters = LetterCounts(MICROS_PER_DAY)
    letters.take("NOT_JSON", True, place(1), START)
    letters.take("NOT_JSON", False, place(2), START + MICROS_PER_DAY)
    (found,) = letters.reasons()
    assert (found.total, found.used) == (2, 1)
    letters.take("TOO_LATE", False, place(3), START + 2 * MICROS_PER_DAY)
    found = {each.name: (each.total, each.used) for each in letters.reasons()}
    assert found == {"NOT_JSON": (1, 0), "TOO_LATE": (1, 0)}


def test_letters_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(letter_counts, "_MOST_REASONS", 2)
    monkeypatch.setattr(letter_counts, "_REMEMBERED", 10)
    letters = LetterCounts(MICROS_PER_DAY)
    for number in range(40):
        letters.take(f"R{number}", False, place(number), START + ARRIVED)
    assert {each.name: each.total for each in letters.reasons()} == {OTHER: 38, "R0": 1, "R1": 1}
    assert len(letters._known) == 10
