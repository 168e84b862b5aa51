"""The score of alarms: what it counts as told, missed, needed and false."""

from __future__ import annotations

import csv

from ami_beam.codecs.json_outputs import parse_alarm
from ami_beam.instants import format_instant
from ami_beam.records import Alarm
from ami_beam.simulate import main as simulate
from benchmarks.alarm_score import (
    COLLECTION_DELAY,
    WINDOW,
    Announced,
    Announcements,
    Truth,
    needs_alarm,
    score,
    truths,
)
from tests.replays import exported, replay
from tests.test_group_causes import alarm, outage

T0 = 1_772_496_000_000_000


def at(window: int) -> int:
    return T0 + window * WINDOW


def of(kind: str, since: int, until: int, *transformers: str, **fields) -> Truth:
    return Truth(kind, at(since), at(until), frozenset(transformers), frozenset({"F1"}), **fields)


def planned(since: int, until: int, ends: int, *transformers: str) -> Truth:
    """An outage that was announced from `since` to `ends`."""
    said = Announced("PLANNED", frozenset({"oms:O1"}), at(since), at(ends))
    return of("OUTAGE", since, until, *transformers, announced=said)


def out(transformer: str, since: int, until: int, **fields) -> tuple[int, Alarm]:
    """The alarm of an outage, windows by number."""
    made = outage(transformer, 0, 1)
    made.alarm_id += f"/{since}"
    made.began_at, made.ended_at, made.first_window, made.last_window = at(since), at(until), at(since + 1), at(until)
    for name, value in fields.items():
        setattr(made, name, value)
    return at(until), made


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


def test_a_condition_that_the_run_has_cut_short_may_have_an_alarm():
    alerts = [alert("T0", 11), alert("T0", 12)]
    for alarms in ([], [told("T0", 11, 12, "LOW_VOLTAGE")]):
        found = score([of("LOW_VOLTAGE", 10, 14, "T0", is_whole=False)], alarms, alerts, SIZES)
        assert (found.missed, found.false, found.conditions.total()) == ([], [], 0)


def test_the_delay_is_until_the_first_word():
    out = of("OUTAGE", 10, 14, "T0")
    gone = outage("T0", 0, None)
    gone.began_at, gone.first_window, gone.last_window = at(10), at(11), at(11)
    found = score([out], [(at(10) + 3_000_000, gone), (at(12), gone)], [], SIZES, live=True)
    assert found.delays == {"OUTAGE": [3.0]}


def test_a_dead_collector_is_told_by_its_own_collection_group():
    dead = of("SILENT_COLLECTOR", 10, 14, "T0", "T1", collector="C1")
    alerts = [alert(name, window, "LOW_RECEIPT_RATE") for name in ("T0", "T1") for window in (11, 12)]
    group = told("C1", 11, 12, "COMM_GROUP")
    children = [told(name, 11, 12, "LOW_RECEIPT_RATE", cause=group[1].alarm_id) for name in ("T0", "T1")]
    found = score([dead], [group, *children], alerts, SIZES)
    assert (found.told_by_collector, found.per_condition, found.missed, found.false) == (1, 1.0, [], [])
    dead = of("SILENT_COLLECTOR", 10, 14, "T0", "T1", collector="C1")
    found = score([dead], [told("F1", 11, 12, "COMM_GROUP")], alerts, SIZES)
    assert (found.told_by_collector, found.missed, found.false) == (0, [], [])
    assert score([dead], [told("C2", 11, 12, "COMM_GROUP")], alerts, SIZES).false


class TestAnnouncements:
    def test_a_planned_outage_has_no_alarm_while_it_lasts_as_announced(self):
        found = score([planned(10, 14, 15, "T0")], [], [], SIZES)
        assert (found.announced.held, found.missed, found.conditions.total()) == (1, [], 0)
        # One that was taken back was one.
        for published in (
            out("T0", 10, 14), out("T0", 10, 14, cause="oms:O1"), out("T0", 10, 14, windows_in_violation=0),
            told("T0", 11, 12, "LOW_RECEIPT_RATE"), out("F1", 10, 14),
        ):  # fmt: skip
            found = score([planned(10, 14, 15, "T0")], [published], [], SIZES)
            assert (found.announced.held, len(found.announced.wrong)) == (0, 1)

    def test_an_alarm_of_something_else_is_not_its_own(self):
        sag, other = of("LOW_VOLTAGE", 10, 14, "T0"), of("OUTAGE", 11, 14, "T1")
        alarms = [told("T0", 11, 12, "LOW_VOLTAGE"), out("F1", 11, 14)]
        found = score([planned(10, 14, 15, "T0"), sag, other], alarms, [], SIZES)
        assert (found.announced.held, found.announced.wrong, found.false) == (1, [], [])

    def test_one_whose_end_nobody_could_hear_may_have_one(self):
        """Its collector was dead by then: by what is known it outlasts the announcement."""
        late = out("T0", 10, 25, cause="oms:O1")

        def judged(silent: str, *alarms: tuple[int, Alarm]) -> Announcements:
            silence = of("SILENT_COLLECTOR", 12, 25, silent)
            return score([planned(10, 14, 15, "T0"), silence], list(alarms), [], SIZES).announced

        assert (judged("T0", late).wrong, len(judged("T0", late).outlasted)) == ([], 1)
        assert judged("T1", late).wrong == [late[1]]
        assert judged("T0").held == 1

    def test_one_that_outlasts_its_announcement_must_have_one(self):
        late = out("T0", 10, 25, cause="oms:O1")
        found = score([planned(10, 25, 15, "T0")], [late], [], SIZES)
        assert (len(found.announced.outlasted), found.announced.wrong, found.missed) == (1, [], [])
        assert len(score([planned(10, 25, 15, "T0")], [], [], SIZES).missed) == 1
        # Its reads are collected once a day: until then nobody knows.
        delays = {"T0": 96 * WINDOW}
        found = score([planned(10, 25, 15, "T0")], [], [], SIZES, delays_of=delays)
        assert (found.announced.held, found.missed) == (1, [])
        found = score([planned(10, 25, 15, "T0")], [out("T0", 10, 25)], [], SIZES)
        assert len(found.missed) == 1

    def test_by_up_to_two_windows_either_is_right(self):
        for alarms in ([], [out("T0", 10, 17, cause="oms:O1")]):
            found = score([planned(10, 17, 15, "T0")], alarms, [], SIZES, delays_of={"T0": COLLECTION_DELAY})
            assert (found.missed, found.announced.wrong) == ([], [])

    def test_what_begins_in_it_is_put_down_to_it(self):
        def found(since: int) -> int:
            return len(score([planned(10, 14, 15, "T0"), of("OUTAGE", since, since + 3, "T0")], [], [], SIZES).missed)

        assert [found(since) for since in (5, 12, 20)] == [1, 0, 1]

    def test_nobody_can_tell_of_an_outage_whose_every_word_is_lost(self):
        dead = of("SILENT_COLLECTOR", 8, 20, "T0", "T1", collector="C1")
        # What comes more than an hour late opens no alarm.
        for since, missed in ((16, 1), (15, 0), (10, 0)):
            assert len(score([of("OUTAGE", since, 19, "T0"), dead], [], [], SIZES).missed) == missed
        dead.is_lost = True
        for since, until, missed in ((10, 14, 0), (7, 14, 1), (10, 21, 1)):
            assert len(score([of("OUTAGE", since, until, "T0"), dead], [], [], SIZES).missed) == missed

    def test_a_dead_collector_takes_the_batch_with_windows_of_before_it_died(self):
        dead = of("SILENT_COLLECTOR", 8, 20, "T0", "T1", collector="C1")
        for delay, false in ((0, 1), (3 * WINDOW, 0)):
            dead.alarms, dead.delay = [], delay
            assert len(score([dead], [told("T0", 3, 6, "LOW_RECEIPT_RATE")], [], SIZES).false) == false

    def test_meters_at_work_are_missing_for_an_outage(self):
        said = Announced("TEST", frozenset({"work:W1"}), at(10), at(16))
        for meters, missed in ((3, 0), (4, 1)):
            work = of("WORK", 10, 15, "T0", announced=said)
            assert len(score([of("OUTAGE", 11, 14, "T0"), work], [], [], {"T0": meters}).missed) == missed
            assert len(score([planned(10, 25, 15, "T0"), work], [], [], {"T0": meters}).missed) == missed

    def test_what_the_oms_gets_to_know_needs_an_alarm_and_is_its_cause(self):
        def known() -> Truth:
            said = Announced("KNOWN", frozenset({"oms:O1"}), at(10), at(15))
            return of("OUTAGE", 10, 14, "T0", announced=said)

        assert len(score([known()], [], [], SIZES).missed) == 1
        found = score([known()], [out("T0", 10, 14)], [], SIZES)
        assert (found.announced.known, found.announced.known_explained, found.per_condition) == (1, 0, 1.0)
        found = score([known()], [out("T0", 10, 14, cause="oms:O1")], [], SIZES)
        assert (found.announced.known_explained, found.missed, found.per_condition) == (1, [], 0.0)

    def test_work_at_a_meter_is_no_outage(self):
        def work() -> Truth:
            return of("WORK", 10, 12, "T2", announced=Announced("TEST", frozenset({"work:W1"}), at(10), at(12)))

        found = score([work()], [], [], SIZES)
        assert (found.announced.work, found.announced.outages_of_work, found.missed) == (1, [], [])
        assert len(score([work()], [out("T2", 10, 12)], [], SIZES).announced.outages_of_work) == 1


def test_announcements_of_a_simulated_morning(tmp_path):
    """Planned outages are held, but for those that outlast what was announced; work is no outage; all by replay."""
    options = [f"--output={tmp_path}", "--meters=300", "--intervals=96", "--seed=3", "--quiet", "--malformed_pct=0"]
    faults = ["--outages=6", "--dead_collectors=0", "--voltage_faults=0", "--tampers=0"]
    assert simulate([*options, *faults, "--planned_outages=7", "--known_pct=50", "--work_orders=40"]) == 0
    files = {name: tmp_path / f"{name}.jsonl.gz" for name in ("reads", "events", "outages", "work")}
    counts = tmp_path / "transformer_meter_count.csv"
    done = replay(
        f"--oms_outages={files['outages']}", f"--work={files['work']}",
        reads=files["reads"], events=files["events"], meter_counts=counts,
    )  # fmt: skip
    assert done.counters()["accepted_outages"] == len(exported(files["outages"])) > 7
    assert done.counters()["accepted_work"] == 80  # that of the day after, too
    alarms = [(0, parse_alarm(line.encode())) for line in done.lines("ami.alarms")]
    with counts.open(encoding="utf-8") as file:
        sizes = {row["transformer_id"]: int(row["total_meters"]) for row in csv.DictReader(file)}
    delays = dict.fromkeys(sizes, COLLECTION_DELAY)
    known = truths(tmp_path / "truth.jsonl")
    found = score(known, alarms, done.rows("ami.alerts.grid"), sizes, delays_of=delays)
    said = found.announced
    # The run ends with a few late reads, and silence between them.
    false = [alarm for alarm in found.false if alarm.alarm_type != "SOURCE_SILENT"]
    assert (found.missed, false, said.wrong, said.outages_of_work) == ([], [], [], [])
    assert said.held >= 4
    assert said.outlasted
    assert said.known == said.known_explained >= 1
    # There is work where a meter without supply is an outage, unless it is known of.
    assert any(truth.kind == "WORK" and min(sizes[name] for name in truth.transformers) <= 2 for truth in known)
