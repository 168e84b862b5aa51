"""Dataflow's at-least-once mode: whatever comes to a stateful step twice, what is published in the end is the same.

There every message may be handed to a step again, on state that it has changed already. Here every stateful step gets
every element twice. Rows may then be published twice, word for word, which consumers of Kafka must bear anyway.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.transforms.userstate import is_stateful_dofn

from ami_beam.instants import format_instant
from ami_beam.records import MeterCount
from ami_beam.results import RESULTS
from tests.stream import HeadEnd, Published, at, read_json

COUNTS = [MeterCount("T1", 4), MeterCount("T2", 2)]
METERS = ["M1", "M2", "M3", "M4"]
LAST_GASP, TAMPER = 3840, 2048


@pytest.fixture
def doubled(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Every stateful step gets every element twice. Holds the names of their classes."""
    steps: dict[type, str] = {}
    before = beam.ParDo.__init__

    def make(self: beam.ParDo, fn: Any, *arguments: Any, **named: Any) -> None:
        kind = type(fn)
        if isinstance(fn, beam.DoFn) and is_stateful_dofn(fn) and kind not in steps:
            steps[kind] = kind.__name__
            monkeypatch.setattr(kind, "process", twice(kind.process))
            names.add(kind.__name__)
        before(self, fn, *arguments, **named)

    names: set[str] = set()
    monkeypatch.setattr(beam.ParDo, "__init__", make)
    return names


def twice(process: Any) -> Any:
    @functools.wraps(process)
    def doubled(*arguments: Any, **named: Any) -> Iterator[Any]:
        for _ in range(2):
            yield from process(*arguments, **named) or ()

    return doubled


def event(meter: str, clock: str, code: int) -> bytes:
    return json.dumps({"meter_id": meter, "event_code": code, "event_ts": format_instant(at(clock))}).encode()


def morning() -> Published:
    """Reads, some late, some wrong; voltages and receipt rates that come and go; an outage; tampering."""
    head_end = HeadEnd(
        COUNTS, also_publish=("feeder_summary", "validated_reads", "voltage_heatmap"), customer_id="drop"
    )
    for end in ("10:15", "10:30", "10:45", "11:00", "11:15", "11:30"):
        low = {"voltage_v": 200.0} if end in ("10:30", "10:45") else {}
        heard = METERS[:2] if end in ("10:45", "11:00") else METERS
        values = [read_json(meter_id=each, end=end, **low) for each in heard]
        clock = format_instant(at(end) + 60_000_000)[11:19]
        head_end.reads(clock, *values, values[0], b"{}", read_json(meter_id="M9", transformer_id="T2", end=end))
        if end == "10:30":
            head_end.events("10:32", *(event(each, "10:31", LAST_GASP) for each in METERS))
            head_end.events("10:33", *(event("M1", f"10:32:{second}", TAMPER) for second in (10, 20, 30)))
            head_end.events("10:34", event("M1", "10:32:10", TAMPER))
    head_end.reads("11:40", *(read_json(meter_id=each, end="10:45") for each in METERS))
    head_end.reads("11:41", read_json(meter_id="M1", end="10:15", consumption_kwh=2.0, delivered_kwh=2.0))
    return head_end.until("12:00").run()


def in_the_end(rows: Iterable[Any]) -> dict[Any, Any]:
    """Of every identity the row that a consumer keeps; `revision` counts publications and may differ."""
    identities = {result.row_type: result.identity for result in RESULTS}
    kept: dict[Any, Any] = {}
    for row in rows:
        fields = {name: getattr(row, name) for name in row.__struct_fields__ if name != "revision"}
        key = (type(row).__name__, *(fields[name] for name in identities[type(row)]))
        if key not in kept or kept[key].get("as_of", 0) <= fields.get("as_of", 0):
            kept[key] = fields
    return kept


def test_what_is_published_in_the_end_is_the_same(doubled: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    again = morning()
    assert len(doubled) >= 15
    monkeypatch.undo()
    once = morning()
    kinds = ("summaries", "receipts", "alerts", "alarms", "silent_meters", "feeders", "heatmap", "validated")
    for kind in (*kinds, "dead_letters"):
        assert in_the_end(getattr(again, kind)) == in_the_end(getattr(once, kind)), kind
        assert len(getattr(again, kind)) >= len(getattr(once, kind))
    for kind in ("summaries", "receipts", "alerts", "alarms", "dead_letters", "validated"):
        assert getattr(once, kind), kind
