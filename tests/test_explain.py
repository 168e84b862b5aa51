"""`python -m ami_beam.explain`: an alert or alarm is shown with exactly the reads that make it true."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Producer

from ami_beam.codecs.json_outputs import ALARMS_TOPIC, CONFIG_TOPIC, EVENT_ALERTS_TOPIC, GRID_ALERTS_TOPIC
from ami_beam.effective_config import config_id, config_json, publish_config, rules
from ami_beam.explain import with_rules
from ami_beam.instants import MICROS_PER_HOUR, parse_instant
from ami_beam.local.kafka_broker import KafkaBroker
from ami_beam.settings import Settings
from tests.kafka_replay import READS as READS_TOPIC
from tests.kafka_replay import create_topics, publish
from tests.replays import METER_COUNTS, READS, ROOT, Replay, Row, default_replay, needs_simbench, replay_with


def explain(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ami_beam.explain", *arguments, f"--meter_counts={METER_COUNTS}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stderr[-4000:]
    return done


def files(output: Path) -> tuple[str, ...]:
    return ("--source=files", f"--reads={READS}", f"--output={output}")


def sagging() -> Replay:
    """With a limit that some transformers are below for hours."""
    return replay_with("--low_voltage_pct=98")


def one(rows: list[Row], **wanted: str) -> Row:
    """The first by id that has these values, with the most windows."""
    chosen = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    return max(chosen, key=lambda row: (row.get("windows_in_violation", 0), row.get("alarm_id") or row["alert_id"]))


def counted(window: Row) -> list[Row]:
    return [read for read in window["reads"] if read["counts"]]


@needs_simbench
class TestFiles:
    def test_a_voltage_alarm_has_its_windows_meters_and_worst_read(self):
        done = sagging()
        alarm = one(done.rows(ALARMS_TOPIC), alarm_type="LOW_VOLTAGE")
        told = json.loads(explain(alarm["alarm_id"], *files(done.output), "--json").stdout)
        assert told["revisions"] == [alarm]
        inside = [w for w in told["windows"] if alarm["first_window"] <= w["window_end"] <= alarm["last_window"]]
        beyond = [{read["meter_id"] for read in w["reads"] if read["beyond_limit"]} for w in inside]
        assert sum(map(bool, beyond)) == alarm["windows_in_violation"]
        assert max(map(len, beyond)) == alarm["meters_in_violation"]
        reads = [read for w in inside for read in counted(w) if read["voltage_v"] is not None]
        worst = min(reads, key=lambda read: (read["voltage_v"], read["meter_id"]))
        assert (worst["voltage_v"], worst["meter_id"]) == (alarm["worst_value"], alarm["worst_meter_id"])
        # The window before and the one after are shown, too, and are not in violation.
        assert len(told["windows"]) == len(inside) + 2
        assert not any(read["beyond_limit"] for read in told["windows"][0]["reads"])
        text = explain(alarm["alarm_id"], *files(done.output)).stdout
        assert f"LOW_VOLTAGE on transformer {alarm['entity_id']}" in text
        assert f"{worst['topic']}/{worst['partition']}/{worst['offset']}" in text
        assert "below 98 % of the nominal voltage" in text

    def test_an_outage_has_what_its_meters_said(self):
        done = default_replay()
        alarm = one(done.rows(ALARMS_TOPIC), alarm_type="TRANSFORMER_OUTAGE")
        told = json.loads(explain(alarm["alarm_id"], *files(done.output), "--json").stdout)
        lost = {event["meter_id"] for event in told["events"] if event["event_code"] in (3840, 3842)}
        back = {event["meter_id"] for event in told["events"] if event["event_code"] == 3841}
        assert len(lost | back) <= alarm["meters_total"]
        assert min(event["event_ts"] for event in told["events"]) == alarm["began_at"]
        assert len(lost) >= 0.3 * alarm["meters_total"]
        text = explain(alarm["alarm_id"], *files(done.output)).stdout
        assert "36 of 118 meters without supply within 5m" in text
        assert f"from {alarm['began_at']} to {alarm['ended_at']}" in text

    def test_silence_is_no_transformer_s(self):
        done = default_replay()
        alarm = one(done.rows(ALARMS_TOPIC), alarm_type="SOURCE_SILENT")
        text = explain(alarm["alarm_id"], *files(done.output)).stdout
        assert "SOURCE_SILENT on reads" in text
        assert "no record for 20m" in text

    def test_a_receipt_alarm_counts_who_was_heard(self):
        done = default_replay()
        alarm = one(done.rows(ALARMS_TOPIC), alarm_type="LOW_RECEIPT_RATE")
        told = json.loads(explain(alarm["alarm_id"], *files(done.output), "--json").stdout)
        rates = []
        for window in told["windows"]:
            if alarm["first_window"] <= window["window_end"] <= alarm["last_window"]:
                heard = {read["meter_id"] for read in counted(window) if not read["estimated"]}
                rates.append(100 * len(heard) / window["total_meters"])
        assert min(rates) == pytest.approx(alarm["worst_value"])

    def test_an_alert_has_one_window_and_the_rules_it_was_judged_by(self):
        done = replay_with("--high_voltage_pct=104")
        alert = one(done.rows(GRID_ALERTS_TOPIC), alert_type="HIGH_VOLTAGE")
        told = json.loads(explain(alert["alert_id"], *files(done.output), "--json").stdout)
        (window,) = told["windows"]
        assert max(read["voltage_v"] or 0 for read in counted(window)) == alert["detail_value"]
        # Not this command's own options.
        assert told["config"]["rules"]["high_voltage_pct"] == 104
        assert told["config"]["config_id"] == alert["config_id"]
        assert window["limit_v"] == pytest.approx(230 * 1.04)
        assert alert["meter_counts_version"] == told["meter_counts_version"]

    def test_resends_and_what_a_newer_read_replaces_do_not_count(self):
        done = default_replay()
        alarm = one(done.rows(ALARMS_TOPIC), alarm_type="LOW_RECEIPT_RATE")
        told = json.loads(explain(alarm["alarm_id"], *files(done.output), "--json").stdout)
        for window in told["windows"]:
            meters = [read["meter_id"] for read in counted(window)]
            assert len(meters) == len(set(meters))

    def test_what_is_not_there_and_what_has_nothing_behind_it_is_said(self):
        done = default_replay()
        assert "no alert or alarm 0123" in explain("0123", *files(done.output), code=1).stderr
        event = done.rows(EVENT_ALERTS_TOPIC)[0]
        said = explain(event["alert_id"], *files(done.output), code=1).stderr
        assert "is about an event" in said
        assert event["entity_id"] in said


@needs_simbench
def test_topics_give_what_files_give(tmp_path: Path):
    done = sagging()
    alarm = one(done.rows(ALARMS_TOPIC), alarm_type="LOW_VOLTAGE")
    expected = json.loads(explain(alarm["alarm_id"], *files(done.output), "--json").stdout)
    with KafkaBroker() as broker:
        create_topics(broker)
        publish(broker, READS_TOPIC, READS, 0)
        producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
        for topic in (ALARMS_TOPIC, GRID_ALERTS_TOPIC, EVENT_ALERTS_TOPIC, CONFIG_TOPIC):
            for line in done.lines(topic) if topic != CONFIG_TOPIC else ():
                producer.produce(topic, line.encode())
        assert producer.flush(30) == 0
        publish_config(
            {"bootstrap.servers": broker.bootstrap_servers}, "", replace(Settings(), low_voltage_pct=98.0), 0
        )
        servers = f"--bootstrap_servers={broker.bootstrap_servers}"
        found = json.loads(explain(alarm["alarm_id"], servers, "--json").stdout)

    def without_place(told: Row) -> Row:
        told["config"].pop("started")
        for window in told["windows"]:
            for read in window["reads"]:
                del read["partition"], read["offset"]
            window["reads"].sort(key=json.dumps)
        return told

    assert without_place(found) == without_place(expected)


class TestConfigId:
    def test_rules_decide_it_and_nothing_else_does(self):
        here = config_id(Settings())
        assert config_id(replace(Settings(), shards=4, live=True, source="beam", late_gather=1)) == here
        assert config_id(replace(Settings(), low_voltage_pct=91.0)) != here
        assert config_id(replace(Settings(), plausible_voltage=(50.0, 300.0))) != here

    def test_the_record_says_what_it_stands_for(self):
        settings = replace(Settings(), window=MICROS_PER_HOUR, plausible_voltage=(50.0, 300.0), alarm_on_windows=3)
        record = json.loads(config_json(settings, parse_instant("2026-03-03T00:00:00Z")))
        assert record["config_id"] == config_id(settings)
        assert record["started"] == "2026-03-03T00:00:00Z"
        assert record["rules"]["window"] == "1h"
        assert with_rules(Settings(), {**record["rules"], "of_another_version": 1}) == settings
        assert set(rules(Settings())) >= {"low_voltage_pct", "min_missing_meters", "collection_delay"}


@needs_simbench
def test_every_alert_and_alarm_names_its_rules_and_the_meter_counts():
    done = default_replay()
    (config,) = map(json.loads, (done.output / f"{CONFIG_TOPIC}.jsonl").read_text().splitlines())
    for topic in (ALARMS_TOPIC, GRID_ALERTS_TOPIC, EVENT_ALERTS_TOPIC):
        assert {row["config_id"] for row in done.rows(topic)} == {config["config_id"]}
    versions = {
        row["meter_counts_version"]
        for topic in (ALARMS_TOPIC, GRID_ALERTS_TOPIC)
        for row in done.rows(topic)
        if row.get("alarm_type") != "SOURCE_SILENT"  # which no meter count says anything about
    }
    assert len(versions) == 1
    assert len(versions.pop()) == 16
    assert {row["meter_counts_version"] for row in done.rows(EVENT_ALERTS_TOPIC)} == {None}
