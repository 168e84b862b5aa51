"""An hour of simbench-small with its own oracle, damaged as head-ends damage records, and the repair of that."""

from __future__ import annotations

import base64
import csv
import json
import random
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from ami_beam.codecs.json_events import EventDecoder
from ami_beam.codecs.json_reads import ReadDecoder
from ami_beam.instants import MICROS_PER_MINUTE, parse_instant
from ami_beam.settings import Settings
from tests.replays import EVENTS, EVENTS_TOPIC, READS, READS_TOPIC, SIMBENCH, Row, batches, exported

BEGIN, END = parse_instant("2026-03-03T17:00:00Z"), parse_instant("2026-03-03T18:00:00Z")
ZONE = "Asia/Kolkata"
"""No hour comes twice there, whenever the test runs."""
TIMES = ("interval_start", "interval_end", "read_ts")
ENERGIES = ("consumption_kwh", "delivered_kwh", "received_kwh")
GUARD = b")]}'\n"
"""What web servers put before JSON so that no browser runs it."""

REPAIR = f"""
ENERGIES = {ENERGIES}
TIMES = {TIMES}

def repair(record, letter):
    if record is None:
        return letter.value.removeprefix({GUARD}) if letter.value.startswith({GUARD}) else None
    if "meterId" in record:
        return renamed(record, "meterId", "meter_id")
    if str(record.get("event_code")).startswith("0x"):
        return record | {{"event_code": int(record["event_code"], 16)}}
    if letter.reason == "INVALID_TIMESTAMP" and all(record[name].endswith(".000") for name in TIMES):
        return record | {{name: with_zone(record[name], "{ZONE}") for name in TIMES}}
    if letter.reason == "WRONG_TYPE" and all(isinstance(record[name], str) for name in ENERGIES):
        return record | {{name: number(record[name]) for name in ENERGIES}}
    consumed, delivered, received = (record[name] for name in ENERGIES)
    if letter.reason == "IMPLAUSIBLE_CONSUMPTION" and abs(consumed - (delivered - received)) < 1:
        return record | {{name: round(record[name] / 1000, 6) for name in ENERGIES}}
    return None
"""


@dataclass(frozen=True)
class Hour:
    """The hour's records as exports have them, each with whether it is accepted; a folder of its oracle's rows."""

    reads: list[Row]
    events: list[Row]
    oracle: Path


def hour(folder: Path) -> Hour:
    """What the hour's windows are made of, with what else could not be read in that hour."""
    places: dict[str, dict[int, bool]] = {READS_TOPIC: {}, EVENTS_TOPIC: {}}
    reads, events = ReadDecoder(Settings()), EventDecoder(Settings())
    for batch in batches(READS, READS_TOPIC):
        taken, letters = reads.decode_carefully(batch, None)
        places[READS_TOPIC] |= {read.offset: True for read in taken if BEGIN < read.window_end <= END}
        places[READS_TOPIC] |= {each.offset: False for each in letters if not each.used and _near(each.record_time)}
    for batch in batches(EVENTS, EVENTS_TOPIC):
        told, letters = events.decode_carefully(batch, None)
        places[EVENTS_TOPIC] |= {event.offset: True for event in told if BEGIN < event.event_ts <= END}
        places[EVENTS_TOPIC] |= {each.offset: False for each in letters if _near(each.record_time)}
    oracle = folder / "oracle"
    oracle.mkdir()
    for path in SIMBENCH.glob("expected_*.csv"):
        column = "event_ts" if path.stem == "expected_events" else "window_end"
        with path.open(newline="") as file, (oracle / path.name).open("w", newline="") as kept:
            table = csv.DictReader(file)
            writer = csv.DictWriter(kept, table.fieldnames or [])
            writer.writeheader()
            writer.writerows(row for row in table if BEGIN < parse_instant(row[column]) <= END)
    shutil.copy(SIMBENCH / "compare.py", oracle)
    return Hour(_rows(READS, places[READS_TOPIC]), _rows(EVENTS, places[EVENTS_TOPIC]), oracle)


def _near(record_time: int | None) -> bool:
    return record_time is not None and BEGIN < record_time <= END + 10 * MICROS_PER_MINUTE


def _rows(path: Path, places: dict[int, bool]) -> list[Row]:
    return [row | {"accepted": places[place]} for place, row in enumerate(exported(path)) if place in places]


def damaged(value: bytes, draw: random.Random, kinds: Counter[str], share: float = 0.2) -> bytes:
    """An accepted value, or with that probability one that is damaged in one of several ways; `kinds` counts them."""
    if draw.random() >= share:
        return value
    record = json.loads(value)
    if "event_ts" in record:
        kind = draw.choice(("code as hex", "other name", "guarded"))
    elif record["consumption_kwh"] > 1:
        kind = "unit"
    else:
        kind = draw.choice(("text", "other name", "no zone", "guarded"))
    kinds[kind] += 1
    if kind == "guarded":
        return GUARD + value
    return json.dumps(_damage(kind, record), separators=(",", ":")).encode()


def _damage(kind: str, record: Row) -> Row:
    if kind == "unit":
        return record | {name: record[name] * 1000 for name in ENERGIES}
    if kind == "text":
        return record | {name: f"{float(record[name])!r}".replace(".", ",") for name in ENERGIES}
    if kind == "other name":
        return {("meterId" if name == "meter_id" else name): value for name, value in record.items()}
    if kind == "code as hex":
        return record | {"event_code": hex(record["event_code"])}
    return record | {name: _wall(record[name]) for name in TIMES}


def _wall(text: str) -> str:
    return (
        datetime.fromisoformat(text).astimezone(ZoneInfo(ZONE)).replace(tzinfo=None).isoformat(timespec="milliseconds")
    )


def damaged_rows(rows: Iterable[Row], draw: random.Random, kinds: Counter[str], share: float = 0.2) -> list[Row]:
    """Rows of an export with some of their values damaged."""
    made = []
    for row in rows:
        if row["accepted"]:
            spoilt = damaged(base64.b64decode(row["value_b64"]), draw, kinds, share)
            row = row | {"value_b64": base64.b64encode(spoilt).decode()}
        made.append(row)
    return made
