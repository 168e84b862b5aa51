"""A day of real-physics reads through the whole product: the expected rows, whatever may not matter to them."""

from __future__ import annotations

import base64
import csv
import json
import random

import pytest

from ami_beam.codecs.json_outputs import OUTPUT_TOPICS, SILENT_METERS_TOPIC
from tests.replays import (
    EVENTS,
    EVENTS_TOPIC,
    READS,
    READS_TOPIC,
    SIMBENCH,
    Row,
    compare,
    default_replay,
    exported,
    needs_simbench,
    replay,
    write_export,
)

pytestmark = needs_simbench


def test_a_replay_gives_the_expected_rows_in_under_three_minutes():
    done = default_replay()
    assert compare(done.output).splitlines()[-1] == "equal"
    assert done.seconds < 180


def test_every_record_is_accepted_or_set_aside():
    done = default_replay()
    counters, set_aside = done.counters(), done.set_aside()
    assert counters["accepted_reads"] + set_aside[READS_TOPIC] == len(exported(READS))
    assert counters["accepted_events"] + set_aside[EVENTS_TOPIC] == len(exported(EVENTS))
    assert set(set_aside) == {READS_TOPIC, EVENTS_TOPIC}


def test_dead_letters_are_counted_by_reason_and_never_written_twice():
    done = default_replay()
    letters = done.rows("ami.deadletter")
    identities = [(row["topic"], row["partition"], row["offset"], row["reason"]) for row in letters]
    assert len(set(identities)) == len(identities)
    counted = {name: count for name, count in done.counters().items() if name.startswith("dead_letter_")}
    assert sum(counted.values()) == len(letters)
    assert {row["reason"] for row in letters if row["used"]} == {"IMPLAUSIBLE_VOLTAGE"}


def test_a_bounded_replay_gives_final_rows_only():
    done = default_replay()
    for topic in OUTPUT_TOPICS[:-1]:
        # Of less than two days nobody is known who was not heard for one.
        expected = set() if topic == SILENT_METERS_TOPIC else {0}
        assert {row["revision"] for row in done.rows(topic)} == expected
    assert {row["status"] for row in done.rows("ami.alerts.grid")} == {"RAISED"}


def test_the_storm_is_one_outage_with_all_its_meters_and_its_end():
    """The truth by another way: who told of a loss and a return, and where the registry has them."""
    with open(SIMBENCH / "meter_registry.csv", newline="") as file:
        transformer_of = {row["meter_id"]: row["transformer_id"] for row in csv.DictReader(file)}
    told: dict[str, dict[int, set[str]]] = {}
    times: dict[str, set[str]] = {}
    for row in exported(EVENTS):
        event = _event(base64.b64decode(row["value_b64"] or ""))
        if event is not None and event["event_code"] in (3840, 3841):
            transformer = transformer_of[event["meter_id"]]
            told.setdefault(transformer, {}).setdefault(event["event_code"], set()).add(event["meter_id"])
            times.setdefault(transformer, set()).add(event["event_ts"])
    storm = max(told, key=lambda transformer: len(told[transformer][3840]))
    found = [row for row in default_replay().rows("ami.alarms") if "OUTAGE" in row["alarm_type"]]
    (alarm,) = found
    assert (alarm["alarm_type"], alarm["entity_id"], alarm["state"]) == ("TRANSFORMER_OUTAGE", storm, "CLEARED")
    assert alarm["meters_in_violation"] == len(told[storm][3840]) == alarm["meters_total"]
    assert {alarm["began_at"], alarm["ended_at"]} <= times[storm]
    # It explains the alerts of its windows, each of which is there once.
    alerts = [row for row in default_replay().rows("ami.alerts.grid") if row["alert_source"] == "COMM"]
    assert len({row["alert_id"] for row in alerts}) == len(alerts)
    explained = {row["window_end"] for row in alerts if row["explained_by"] == alarm["alarm_id"]}
    assert explained == {
        row["window_end"]
        for row in alerts
        if row["entity_id"] == storm and alarm["first_window"] <= row["window_end"] <= alarm["last_window"]
    }
    assert explained
    # While it was out no receipt alarm was raised of it.
    receipt = [row for row in default_replay().rows("ami.alarms") if row["alarm_type"] == "LOW_RECEIPT_RATE"]
    assert not [
        row
        for row in receipt
        if row["entity_id"] == storm and alarm["first_window"] <= row["last_window"] <= alarm["last_window"]
    ]


def _event(value: bytes) -> Row | None:
    try:
        event = json.loads(value)
        good = all(isinstance(event[name], kind) for name, kind in (("event_code", int), ("event_ts", str)))
        return event if good and isinstance(event["meter_id"], str) else None
    except (ValueError, TypeError, LookupError):
        return None


def test_results_name_no_customer():
    customers = {'"CUST-', '"SP-', "customer_id", "service_point_id"}
    for topic in OUTPUT_TOPICS[:-1]:
        for line in default_replay().lines(topic):
            assert not any(word in line for word in customers)


@pytest.mark.parametrize("seed", ["1", "2"])
def test_hash_seeds_change_nothing(seed):
    assert replay(env={"PYTHONHASHSEED": seed}).all_lines() == default_replay().all_lines()


@pytest.mark.parametrize("shards", [1, 7, 1024])
def test_shard_counts_change_nothing(shards):
    assert replay(f"--shards={shards}").all_lines() == default_replay().all_lines()


def test_arrival_in_another_order_changes_no_row(tmp_path):
    """The lines in any order, each with its own record time and offset: what decides is in the records.

    Of a resent event the first to arrive is published, so its as_of and its description follow the order.
    """
    files = {"reads": READS, "events": EVENTS}
    for name, path in files.items():
        rows = [{**row, "partition": 0, "offset": number} for number, row in enumerate(exported(path))]
        random.Random(7).shuffle(rows)
        files[name] = write_export(tmp_path / f"{name}.jsonl.gz", rows)
    shuffled, original = replay(**files), default_replay()
    assert compare(shuffled.output).splitlines()[-1] == "equal"
    for topic in OUTPUT_TOPICS:
        if topic != "ami.alerts.events":
            assert shuffled.lines(topic) == original.lines(topic), topic
    assert _events_as_facts(shuffled.rows("ami.alerts.events")) == _events_as_facts(original.rows("ami.alerts.events"))
    assert shuffled.counters() == original.counters()


def _events_as_facts(rows: list[Row]) -> list[str]:
    return sorted(json.dumps({**row, "as_of": None, "alert_type": None}) for row in rows)
