"""`python -m ami_beam.whatif`: what other settings would have done, the same from files and from a topic."""

from __future__ import annotations

import atexit
import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ami_beam import whatif
from ami_beam.alarm_changes import compare
from ami_beam.codecs.json_outputs import ALARMS_TOPIC, parse_alarm
from ami_beam.instants import parse_instant
from ami_beam.local.kafka_broker import KafkaBroker
from ami_beam.records import Alarm
from ami_beam.settings import Settings
from ami_beam.whatif_picture import draw
from ami_beam.whatif_report import Comparison, as_json, as_text
from tests.kafka_replay import EVENTS as EVENTS_TOPIC
from tests.kafka_replay import READS as READS_TOPIC
from tests.kafka_replay import create_topics, publish
from tests.replays import EVENTS, METER_COUNTS, READS, ROOT, default_replay, exported, needs_simbench, replay_with
from tests.test_alarm_changes import DAY, SIZE, alarm

LOWER = "--set=high_voltage_pct=104"
FILES = ("--source=files", f"--reads={READS}", f"--meter_counts={METER_COUNTS}")


def what_if(*options: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own; fails where it does not exit with 0."""
    command = [sys.executable, "-m", "ami_beam.whatif", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def alarms_of(path: Path) -> list[Alarm]:
    found = [replace_revision(parse_alarm(line)) for line in path.read_text().splitlines()]
    return sorted(found, key=lambda each: each.alarm_id)


def replace_revision(found: Alarm) -> Alarm:
    found.revision = 0
    return found


@cache
def lowered() -> tuple[dict, Path]:
    """The answer for the whole data set with a lower limit, and the folder with all alarms, once a session."""
    folder = Path(tempfile.mkdtemp(prefix="ami-beam-whatif-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return json.loads(what_if(*FILES, LOWER, "--json", f"--output={folder}").stdout), folder


@needs_simbench
class TestFiles:
    def test_both_sides_are_what_runs_with_these_settings_give(self):
        answer, folder = lowered()
        for name, done in (("current", default_replay()), ("changed", replay_with("--high_voltage_pct=104"))):
            expected = alarms_of(done.output / f"{ALARMS_TOPIC}.jsonl")
            assert alarms_of(folder / f"{name}.jsonl") == expected
            assert answer["total"][name] == len(expected) > 0

    def test_a_lower_limit_brings_alarms_of_its_kind_only(self):
        answer, _ = lowered()
        assert answer["settings"] == {"high_voltage_pct": {"current": 110.0, "changed": 104.0}}
        types = {row["alarm_type"]: row for row in answer["by_type"]}
        assert types["HIGH_VOLTAGE"]["appear"] > 0
        assert types["HIGH_VOLTAGE"]["vanish"] == 0
        assert {each["changed"]["alarm_type"] for each in answer["changes"]} == {"HIGH_VOLTAGE", "HIGH_VOLTAGE_GROUP"}


@needs_simbench
def test_a_topic_gives_what_its_export_gives():
    expected, _ = lowered()
    with KafkaBroker() as broker:
        create_topics(broker)
        publish(broker, READS_TOPIC, READS, 0)
        publish(broker, EVENTS_TOPIC, EVENTS, 0)
        topic = (f"--bootstrap_servers={broker.bootstrap_servers}", f"--meter_counts={METER_COUNTS}", LOWER)
        found = json.loads(what_if(*topic, "--from=2026-03-03T00:00:00Z", "--json").stdout)
        period = ("--from=2026-03-03T10:00:00Z", "--to=2026-03-03T14:00:00Z", "--wait_for_late=1h")
        part = what_if(*topic, *period, "--json")
        command = [sys.executable, "-m", "ami_beam.whatif", *topic, "--from=2026-06-03T10:00:00Z"]
        empty = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (empty.returncode, "holds no record" in empty.stderr) == (1, True)
    assert found["changes"] == expected["changes"]
    assert found["total"] == expected["total"]
    # From 09:45, which is a window earlier, to 15:05: the end, the collection delay, and what was said to be late.
    records = [line["ts_ms"] * 1000 for line in exported(READS)]
    wanted = parse_instant("2026-03-03T09:45:00Z"), parse_instant("2026-03-03T15:05:00Z")
    inside = sum(wanted[0] <= each < wanted[1] for each in records)
    (read,) = re.findall(r"([\d,]+) records of ami.headend.reads", part.stderr)
    # What arrived out of order is read, too, where Kafka has it between the two.
    assert inside <= int(read.replace(",", "")) < len(records) / 3
    sides = [row for each in json.loads(part.stdout)["changes"] for row in (each["current"], each["changed"]) if row]
    assert sides
    for row in sides:
        assert parse_instant(row["first_window"]) <= parse_instant("2026-03-03T14:00:00Z")
        assert parse_instant(row["last_window"]) > parse_instant("2026-03-03T10:00:00Z")


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--set", "high_voltage_pct"], "--set=high_voltage_pct: changes no setting"),
            (["--set", "shards=7"], "changes no setting. Allowed: window, window_closed, longest_interval"),
            (["--set", "high_voltage_pct=110"], "is what the settings are already"),
            (["--set", "high_voltage_pct=x"], "--high_voltage_pct=x: is not a number in range"),
            (["--set", "high_voltage_pct=111", "--from=yesterday"], "--from=yesterday"),
            (["--set", "high_voltage_pct=111", "--picture=a.txt"], "--picture=a.txt: is no kind of picture"),
            (["--set", "high_voltage_pct=111", "--wait_for_late=soon"], "--wait_for_late=soon"),
            (
                ["--set", "high_voltage_pct=111", "--from=2026-03-03T00:00:00Z", "--to=2026-03-03T00:00:00Z"],
                "is not after --from",
            ),
            ([], "--set"),
        ],
    )
    def test_a_wrong_option_is_named(self, capsys, tmp_path, monkeypatch, arguments, words):
        (tmp_path / "transformer_meter_count.csv").write_text("transformer_id,total_meters\nT1,2\n")
        (tmp_path / "reads.jsonl.gz").write_bytes(b"")
        monkeypatch.chdir(tmp_path)
        assert whatif.main(["--source=files", *arguments]) == 2
        assert words in capsys.readouterr().err

    def test_a_topic_needs_a_beginning(self, capsys, tmp_path, monkeypatch):
        (tmp_path / "transformer_meter_count.csv").write_text("transformer_id,total_meters\nT1,2\n")
        monkeypatch.chdir(tmp_path)
        assert whatif.main(["--bootstrap_servers=localhost:1", "--set=high_voltage_pct=111"]) == 2
        assert "--from: is missing" in capsys.readouterr().err


def comparison(**names: str) -> Comparison:
    current = [alarm(1, 4, **names), alarm(6, 9, "T2"), alarm(3, 3, "T3", kind="HIGH_VOLTAGE")]
    changed = [alarm(2, 4, **names), alarm(6, 9, "T2"), alarm(50, 60, "T5", feeder_id=None)]
    settings = Settings(), replace(Settings(), alarm_on_windows=3)
    return Comparison(DAY, DAY + 96 * SIZE, *settings, ("alarm_on_windows=3",), compare(current, changed))


def test_the_table_counts_and_steers_no_terminal():
    text = as_text(comparison(feeder_id="F\x1b[31m"))
    assert "\x1b" not in text
    lines = [line.split() for line in text.splitlines()]
    assert ["alarms", "3", "3"] in lines
    assert ["LOW_VOLTAGE", "2", "3", "1", "0", "1"] in lines
    assert ["HIGH_VOLTAGE", "1", "0", "0", "1", "0"] in lines
    assert ["all", "3", "3", "1", "1", "1"] in lines
    assert ["12", "0", "1", "1", "0", "0"] in lines
    assert "begin   +15 to +15 minutes, median +15" in text
    assert as_json(comparison())["total"] == {"current": 3, "changed": 3, "appear": 1, "vanish": 1, "move": 1}


def test_no_alarm_at_all_is_said():
    nothing = replace(comparison(), changes=[], begin=None)
    assert "No alarm" in as_text(nothing)


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_picture_shows_both_and_takes_any_name(tmp_path: Path, suffix: str):
    path = tmp_path / f"picture{suffix}"
    draw(comparison(feeder_id="$F_{<1$"), path)
    content = path.read_bytes()
    if suffix == ".png":
        assert content.startswith(b"\x89PNG")
        assert len(content) > 20_000
    else:
        ElementTree.fromstring(content)
    draw(replace(comparison(), changes=[]), path)
