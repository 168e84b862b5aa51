"""`python -m ami_beam.explain` of what an announced outage explains: the announcement, and reads that show supply."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from ami_beam.codecs.json_outputs import ALARMS_TOPIC, GRID_ALERTS_TOPIC, alarm_json, alert_json
from ami_beam.explain import main
from ami_beam.instants import MICROS_PER_MILLI, format_instant
from ami_beam.records import Alarm
from tests.replays import Row, write_export
from tests.stream import at, read_json
from transforms.window_alert import alert_of

METERS = [f"M{number}" for number in range(5)]


def alarm(alarm_id: str, transformer: str, cause: str | None, **fields: Any) -> Alarm:
    """An outage from 10:32 on, over with the reads of the interval that ends at 11:30."""
    made = {
        "alarm_type": "TRANSFORMER_OUTAGE", "feeder_id": "F1", "state": "CLEARED", "severity": "CRITICAL",
        "first_window": at("10:45"), "last_window": at("11:30"), "worst_value": 100.0, "windows_in_violation": 4,
        "meters_in_violation": 5, "worst_meter_id": "M0", "meters_missing": 0, "revision": 0, "as_of": at("11:30"),
        "began_at": at("10:32"), "ended_at": at("11:30"), "meters_total": 5, "momentary": False,
    }  # fmt: skip
    return Alarm(alarm_id=alarm_id, entity_id=transformer, cause=cause, **{**made, **fields})


ALARMS = [
    alarm("a1", "T1", None, as_of=at("10:33"), state="ACTIVE", ended_at=None, last_window=at("10:45")),
    alarm("a1", "T1", "oms:O1", revision=1),
    alarm("a2", "T2", "oms:O1"),
    alarm("a3", "T3", "a1"),
    alarm("a4", "T4", "work:W1"),
]


def record(clock: str, value: bytes, offset: int | None = None) -> Row:
    line: Row = {"ts_ms": at(clock) // MICROS_PER_MILLI, "value_b64": base64.b64encode(value).decode()}
    return line if offset is None else {**line, "partition": 1, "offset": offset}


def outage(name: str, until: str, status: str = "ACTIVE", **fields: str) -> bytes:
    told = {
        "outage_id": name, "kind": "PLANNED", "status": status, "entity_type": "FEEDER", "entity_id": "F1",
        "from": format_instant(at("10:30")), "to": format_instant(at(until)), **fields,
    }  # fmt: skip
    return json.dumps(told).encode()


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Options that name a replay and its results."""
    reads = [
        record(arrives, read_json(end=end, meter_id=meter))
        for end, arrives in (("10:30", "10:31"), ("11:30", "11:31"), ("11:45", "11:46"))
        for meter in METERS
    ]
    # One is very late.
    reads.append(record("11:58", read_json(end="11:45", meter_id="M9")))
    write_export(tmp_path / "reads.jsonl.gz", reads)
    announced = [
        record("10:20", outage("O1", "11:15", "CANCELLED"), 7), record("08:00", outage("O1", "11:00"), 4),
        record("09:00", outage("O2", "11:00"), 5), record("09:30", outage("O1", "11:00", kind="PERHAPS"), 6),
    ]  # fmt: skip
    write_export(tmp_path / "outages.jsonl", announced)
    (tmp_path / "counts.csv").write_text("transformer_id,total_meters\nT1,5\n")
    (tmp_path / f"{ALARMS_TOPIC}.jsonl").write_bytes(b"\n".join(map(alarm_json, ALARMS)))
    alert = alert_of("COMM", "LOW_RECEIPT_RATE", "T1", "F1", at("10:45"), at("11:00"), "RAISED", 0.0, 0, at("11:00"))
    alert.explained_by = "oms:O2"
    (tmp_path / f"{GRID_ALERTS_TOPIC}.jsonl").write_bytes(alert_json(alert))
    return [
        "--source=files", f"--reads={tmp_path / 'reads.jsonl.gz'}", f"--output={tmp_path}",
        f"--meter_counts={tmp_path / 'counts.csv'}", alert.alert_id,
    ]  # fmt: skip


def explained(identity: str, arguments: list[str], capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert main([identity, *arguments[:-1], *more]) == 0
    return capsys.readouterr().out


def oms(arguments: list[str]) -> str:
    return f"--oms_outages={Path(arguments[1].removeprefix('--reads=')).parent / 'outages.jsonl'}"


def test_all_records_of_the_id_and_what_it_explains_too(arguments, capsys):
    told = json.loads(explained("a1", arguments, capsys, oms(arguments), "--json"))
    first, last = told["announcements"]
    assert (first["offset"], first["status"], first["counts"]) == (4, "ACTIVE", False)
    assert last == {
        "name": "oms:O1", "kind": "PLANNED", "status": "CANCELLED", "entity_type": "FEEDER", "entity_id": "F1",
        "from": "2026-03-03T10:30:00Z", "to": "2026-03-03T11:15:00Z", "record_time": "2026-03-03T10:20:00Z",
        "topic": "ami.oms.outages", "partition": 1, "offset": 7, "counts": True,
    }  # fmt: skip
    assert [each["alarm_id"] for each in told["same_cause"]] == ["a2"]
    assert [each["alarm_id"] for each in told["explains"]] == ["a3"]
    text = explained("a1", arguments, capsys, oms(arguments))
    assert text.index("ami.oms.outages/1/4") < text.index("ami.oms.outages/1/7")
    assert "PLANNED CANCELLED, FEEDER F1, 2026-03-03T10:30:00Z to 2026-03-03T11:15:00Z" in text
    assert "TRANSFORMER_OUTAGE T2, CLEARED, a2" in text


def test_of_an_alert_and_of_what_is_not_to_be_found(arguments, capsys):
    told = json.loads(explained(arguments[-1], arguments, capsys, oms(arguments), "--json"))
    assert [each["offset"] for each in told["announcements"]] == [5]
    assert "oms:O1 was announced; --oms_outages says where" in explained("a1", arguments, capsys)
    assert "work:W1 was announced; --work says where" in explained("a4", arguments, capsys, oms(arguments))
    assert "was announced" not in explained("a3", arguments, capsys, oms(arguments))
    without = oms(arguments).replace("outages.jsonl", "others.jsonl")
    path = Path(without.removeprefix("--oms_outages="))
    write_export(path, [record("09:00", outage("O2", "11:00"), 5)])
    assert "oms:O1 was announced, and is not in ami.oms.outages any more" in explained("a1", arguments, capsys, without)


def test_an_outage_that_reads_have_ended_shows_them(arguments, capsys):
    """Its as_of is the end of their interval: they came later."""
    told = json.loads(explained("a1", arguments, capsys, "--json"))
    heard = {
        window["window_end"][11:16]: sorted(read["meter_id"] for read in window["reads"]) for window in told["windows"]
    }
    assert heard == {
        "10:30": METERS, "10:45": [], "11:00": [], "11:15": [], "11:30": METERS, "11:45": METERS,
    }  # fmt: skip
