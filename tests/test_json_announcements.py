"""Announced outages and work at meters: what is accepted, and the reason for the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ami_beam.codecs.dead_letter_reasons import Reason
from ami_beam.codecs.json_announcements import AnnouncementDecoder, Source
from ami_beam.instants import parse_instant
from ami_beam.records import Announcement, DeadLetter, RecordBatch
from ami_beam.settings import Settings

RECORD_TIME = parse_instant("2026-03-02T08:00:00Z")
OUTAGE: dict[str, Any] = {
    "outage_id": "O-17",
    "kind": "PLANNED",
    "status": "ACTIVE",
    "entity_type": "TRANSFORMER",
    "entity_id": "T1",
    "from": "2026-03-03T10:00:00Z",
    "to": "2026-03-03T13:00:00+01:00",
    "reason": "new switchgear",
}
WORK: dict[str, Any] = {
    "work_id": "W-4",
    "kind": "EXCHANGE",
    "status": "CANCELLED",
    "meter_id": "M1",
    "transformer_id": "T1",
    "from": "2026-03-03T10:00:00Z",
    "to": "2026-03-03T10:30:00Z",
}
VALID = {"oms": OUTAGE, "work": WORK}
FROM, TO = parse_instant("2026-03-03T10:00:00Z"), parse_instant("2026-03-03T12:00:00Z")


def batch_of(*values: bytes | None, record_time: int | None = RECORD_TIME) -> RecordBatch:
    count = len(values)
    return RecordBatch("ami.oms.outages", [1] * count, list(range(count)), [record_time] * count, list(values))


def decode(
    source: Source, batch: RecordBatch, settings: Settings | None = None, now: int | None = None
) -> tuple[list[Announcement], list[DeadLetter]]:
    found, letters = AnnouncementDecoder(settings or Settings(), source).decode(batch, now)
    assert sorted(each.offset for each in (*found, *letters)) == batch.offsets
    assert not any(letter.used for letter in letters)
    return found, letters


def record(source: Source, drop: str = "", **changes: Any) -> bytes:
    fields = {**VALID[source], **changes}
    fields.pop(drop, None)
    return json.dumps(fields).encode()


BAD: list[tuple[Source, bytes | None, Reason]] = [
    ("oms", None, Reason.NULL_VALUE),
    ("oms", b"", Reason.EMPTY_VALUE),
    ("oms", b"\xff", Reason.INVALID_UTF8),
    ("work", record("work")[:-5], Reason.INVALID_JSON),
    ("work", b"[1]", Reason.NOT_AN_OBJECT),
    ("oms", record("oms", outage_id=""), Reason.EMPTY_ID),
    ("oms", record("oms", entity_id=None), Reason.WRONG_TYPE),
    ("oms", record("oms", kind="planned"), Reason.UNKNOWN_WORD),
    ("oms", record("oms", status="CLOSED"), Reason.UNKNOWN_WORD),
    ("oms", record("oms", entity_type="METER"), Reason.UNKNOWN_WORD),
    ("oms", record("oms", kind=1), Reason.WRONG_TYPE),
    ("oms", record("oms", reason=5), Reason.WRONG_TYPE),
    ("oms", record("oms", to=OUTAGE["from"]), Reason.INTERVAL_REVERSED),
    ("oms", record("oms", **{"from": "2026-03-03T10:00:00"}), Reason.INVALID_TIMESTAMP),
    ("work", record("work", kind="PLANNED"), Reason.UNKNOWN_WORD),
    ("work", record("work", transformer_id=""), Reason.EMPTY_ID),
    ("work", record("work", to=None), Reason.WRONG_TYPE),
    *(("oms", record("oms", drop=name), Reason.MISSING_FIELD) for name in OUTAGE if name not in ("to", "reason")),
    *(("work", record("work", drop=name), Reason.MISSING_FIELD) for name in WORK if name != "transformer_id"),
]


@pytest.mark.parametrize(("source", "value", "reason"), BAD)
def test_sets_aside(source: Source, value: bytes | None, reason: Reason) -> None:
    good = record(source)
    found, (letter,) = decode(source, batch_of(good, value, good))
    assert [each.offset for each in found] == [0, 2]
    assert (letter.reason, letter.value, letter.offset) == (reason.value, value, 1)
    assert letter.detail.endswith(".")


def test_accepts() -> None:
    ((outage,), _) = decode("oms", batch_of(record("oms")))
    assert outage == Announcement(
        "oms", "O-17", "PLANNED", True, "TRANSFORMER", "T1", None, FROM, TO, RECORD_TIME, 1, 0, RECORD_TIME
    )
    assert (outage.name, outage.subject) == ("oms:O-17", "TRANSFORMER/T1/oms:O-17")
    ((open_ended,), _) = decode("oms", batch_of(record("oms", drop="to", reason=None, entity_type="FEEDER")))
    assert (open_ended.ends, open_ended.entity_type) == (None, "FEEDER")
    ((work,), _) = decode("work", batch_of(record("work")))
    assert (work.name, work.active, work.entity_type, work.entity_id, work.transformer_id) == (
        "work:W-4", False, "METER", "M1", "T1",
    )  # fmt: skip
    ((elsewhere,), _) = decode("work", batch_of(record("work", drop="transformer_id")))
    assert elsewhere.transformer_id is None


def test_the_record_time_must_be_one_that_can_be() -> None:
    settings = Settings(live=True)
    assert decode("oms", batch_of(record("oms")), settings, now=RECORD_TIME)[1] == []
    (letter,) = decode("oms", batch_of(record("oms")), settings, now=RECORD_TIME - settings.clock_skew - 1)[1]
    assert letter.reason == "BAD_RECORD_TIME"
    (letter,) = decode("work", batch_of(record("work"), record_time=None))[1]
    assert letter.reason == "BAD_RECORD_TIME"


@given(st.sampled_from(["oms", "work"]), st.lists(st.none() | st.binary(max_size=40), max_size=4), st.data())
def test_any_bytes_are_accounted_for(source: Source, values: list[bytes | None], data: st.DataObject) -> None:
    good = record(source)
    cut = data.draw(st.integers(0, len(good)))
    decode(source, batch_of(*values, good[:cut] + data.draw(st.binary(max_size=3)) + good[cut:]))
