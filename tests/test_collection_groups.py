"""Collection groups from alarms and reads to one alarm of a dead collector."""

from __future__ import annotations

import csv
import json

from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MINUTE
from ami_beam.records import Alarm, AlarmInput, Level, MeterCount, TransformerPlace, Verdict
from ami_beam.settings import Settings
from ami_beam.simulate import main as simulate
from tests.replays import replay
from tests.shard import Shard, final
from tests.stream import HeadEnd, at, read_json
from tests.test_alarms_stream import WINDOWS, clock_after

SETTINGS = Settings(live=True)
BEGIN = 1_772_496_900_000_000
SIZE = SETTINGS.window
FEEDERS = {"T1": "F1", "T2": "F2", "T3": "F1", "T4": "F2"}


def end_of(number: int) -> int:
    return BEGIN + number * SIZE


def place(transformer: str, collector: str | None, feeder: str | None = None, number: int = 0) -> AlarmInput:
    where = feeder or FEEDERS[transformer]
    known = TransformerPlace(transformer, where, 10, SETTINGS.receipt_delay, end_of(number), collector)
    return AlarmInput(end_of(number), [], places=[known])


def window(number: int, *silent: str) -> AlarmInput:
    """All are judged, and of these half of the meters are missing."""
    verdicts = [
        Verdict(name, "LOW_RECEIPT_RATE", Level.VIOLATION, 50.0, 5, None, 5, None, end_of(number)) for name in silent
    ]
    return AlarmInput(end_of(number), verdicts, settled=SETTINGS.receipt_delay)


def shard_of_four(collectors: dict[str, str | None]) -> Shard:
    shard = Shard(SETTINGS)
    shard.take(*(place(name, collectors.get(name)) for name in FEEDERS))
    return shard


def comm_groups(alarms: list[Alarm]) -> dict[str, tuple[str, str | None, list[str]]]:
    """By entity its state, its feeder and the transformers that it explains, in the end."""
    last = final(alarms)
    return {
        alarm.entity_id: (
            alarm.state, alarm.feeder_id, sorted(each.entity_id for each in last.values() if each.cause == name)
        )
        for name, alarm in last.items()
        if alarm.alarm_type == "COMM_GROUP"
    }  # fmt: skip


class TestAlarms:
    def test_transformers_on_two_feeders(self):
        shard = shard_of_four({"T1": "C1", "T2": "C1"})
        shard.take(window(1, "T1", "T2"))
        shard.take(window(2, "T1", "T2"))
        assert comm_groups(shard.alarms) == {"C1": ("ACTIVE", None, ["T1", "T2"])}
        for number in (3, 4):
            shard.take(window(number))
        assert comm_groups(shard.alarms) == {"C1": ("CLEARED", None, ["T1", "T2"])}
        # Late reads: T2 was heard.
        well = Verdict("T2", "LOW_RECEIPT_RATE", Level.CLEAR)
        shard.take(AlarmInput(end_of(1), [well]), AlarmInput(end_of(2), [well]))
        assert comm_groups(shard.alarms) == {}
        assert [alarm.entity_id for alarm in final(shard.alarms).values()] == ["T1"]

    def test_transformers_on_one_feeder(self):
        shard = shard_of_four({"T1": "C1", "T3": "C1"})
        for number in (1, 2):
            shard.take(window(number, "T1", "T3"))
        assert comm_groups(shard.alarms) == {"C1": ("ACTIVE", "F1", ["T1", "T3"])}

    def test_a_collector_that_is_known_later_and_one_that_changes(self):
        shard = shard_of_four({})
        for number in (1, 2):
            shard.take(window(number, "T1", "T2"))
        assert comm_groups(shard.alarms) == {}
        shard.take(place("T1", "C1", number=1), place("T2", "C1", number=1))
        assert comm_groups(shard.alarms) == {"C1": ("ACTIVE", None, ["T1", "T2"])}
        shard.take(place("T2", "C2", number=2))
        assert comm_groups(shard.alarms) == {}
        shard.take(place("T1", "C2", number=2))
        assert comm_groups(shard.alarms) == {"C2": ("ACTIVE", None, ["T1", "T2"])}
        # One moves to the other's feeder: it is the feeder's now, which counts its revisions anew.
        before = len(shard.alarms)
        shard.take(place("T2", "C2", "F1", number=3))
        assert comm_groups(shard.alarms[before:]) == {"C2": ("ACTIVE", "F1", ["T1", "T2"])}

    def test_what_is_long_over_is_forgotten_and_not_taken_back(self):
        shard = shard_of_four({"T1": "C1", "T2": "C1"})
        for number in (1, 2):
            shard.take(window(number, "T1", "T2"))
        for number in (3, 4):
            shard.take(window(number))
        published = len(shard.alarms)
        for number in range(5, 800):
            shard.take(window(number), watermark=end_of(number))
        shard.take(window(800, "T1", "T2"), watermark=end_of(800))
        shard.take(window(801, "T1", "T2"), watermark=end_of(801))
        assert {alarm.state for alarm in shard.alarms[published:]} == {"ACTIVE"}
        known = [alarm for several in shard.collectors["collector/C1"].found.values() for alarm in several]
        assert {alarm.first_window for alarm in known} == {end_of(800)}


def test_a_dead_collector_of_two_feeders_on_a_stream():
    counts = [
        MeterCount("T1", 3, collection_group="C1"), MeterCount("T2", 3, collection_group="C1"),
        MeterCount("T3", 3, collection_group="C2"), MeterCount("T4", 3, collection_group="C2"),
    ]  # fmt: skip
    silent = ("10:45", "11:00", "11:15")
    head_end = HeadEnd(counts, live=True)
    for end in WINDOWS:
        heard = [name for name in FEEDERS if end not in silent or name in ("T3", "T4")]
        reads = [
            read_json(end=end, meter_id=f"{name}{number}", transformer_id=name, feeder_id=FEEDERS[name])
            for name in heard
            for number in range(3)
        ]
        head_end.reads(clock_after(end), *reads)
    published = head_end.until(at("13:00") + 14 * MICROS_PER_HOUR).run()
    (opened, *_, closed) = [alarm for alarm in published.alarms if alarm.alarm_type == "COMM_GROUP"]
    assert (opened.state, opened.entity_id, opened.feeder_id) == ("ACTIVE", "C1", None)
    assert (closed.state, closed.first_window, closed.last_window) == ("CLEARED", at("10:45"), at("11:15"))
    assert closed.meters_missing == 6
    for transformer in ("T1", "T2"):
        mine = [alarm for alarm in published.alarms if alarm.entity_id == transformer]
        assert {alarm.cause for alarm in mine} == {closed.alarm_id}
        for end in silent:
            said = [alert.explained_by for alert in published.copies("LOW_RECEIPT_RATE", end, transformer)]
            assert said == [None, closed.alarm_id]
    assert {alarm.entity_id for alarm in published.alarms} == {"C1", "T1", "T2"}
    # The alarm of the group and those that it explains come at one time.
    assert opened.as_of >= at("11:00") - MICROS_PER_MINUTE


def test_dead_collectors_of_a_simulated_morning(tmp_path):
    """The simulator's truth says which collector has died, and which transformers it has taken with it."""
    faults = ["--outages=0", "--voltage_faults=0", "--tampers=0", "--dead_collectors=16", "--malformed_pct=0"]
    options = [f"--output={tmp_path}", "--meters=300", "--intervals=40", "--seed=6", "--quiet"]
    assert simulate([*options, *faults]) == 0
    truth = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    # What comes afterwards is no alarm in the end; the reads end at ten.
    dead = [row for row in truth if row["condition"] == "SILENT_COLLECTOR" and not row["backlog"]]
    dead = [row for row in dead if row["since"] < "2026-03-03T09:30"]
    counts = tmp_path / "transformer_meter_count.csv"
    with counts.open(encoding="utf-8") as file:
        meters = {row["transformer_id"]: int(row["total_meters"]) for row in csv.DictReader(file)}
    done = replay(reads=tmp_path / "reads.jsonl.gz", events=tmp_path / "events.jsonl.gz", meter_counts=counts)
    alarms = {row["alarm_id"]: row for row in done.rows("ami.alarms")}
    alerts = done.rows("ami.alerts.grid")
    groups = {row["entity_id"]: row for row in alarms.values() if row["alarm_type"] == "COMM_GROUP"}
    # Those of two transformers whose meters are enough for an alarm; others explain themselves.
    taken = {
        row["collection_group"]: names
        for row in dead
        if len(names := [name for name in row["transformer_ids"] if meters[name] >= SETTINGS.min_missing_meters]) >= 2
    }
    assert len(taken) >= 2
    assert groups.keys() == taken.keys()
    for collector, names in taken.items():
        cause = groups[collector]["alarm_id"]
        children = [row for row in alarms.values() if row["cause"] == cause]
        assert {row["entity_id"] for row in children} == set(names)
        for child in children:
            windows = {
                row["window_end"]: row["explained_by"]
                for row in alerts
                if (row["entity_id"], row["alert_type"]) == (child["entity_id"], "LOW_RECEIPT_RATE")
                and child["first_window"] <= row["window_end"] <= child["last_window"]
            }
            assert len(windows) >= child["windows_in_violation"]
            assert set(windows.values()) == {cause}
