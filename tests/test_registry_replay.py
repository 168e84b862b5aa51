"""Runs with a meter registry: simbench-small whose reads say wrong transformers, and a fleet that moves against SQL."""

from __future__ import annotations

import atexit
import base64
import csv
import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ami_beam.instants import format_instant
from tests.article_sql import Article, Row, read_meter_counts
from tests.replays import (
    METER_COUNTS,
    READS,
    READS_TOPIC,
    ROOT,
    SIMBENCH,
    Replay,
    compare,
    default_replay,
    exported,
    needs_simbench,
    replay,
    write_export,
)
from tests.test_article_sql import accepted, by

COLUMNS = ("meter_id", "service_point_id", "transformer_id", "feeder_id", "status", "effective_from")
SUMMARY, RECEIPT = "ami.transformer.summary", "ami.transformer.receipt"


def write_registry(path: Path, rows: Iterable[Row]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)
    return path


# --- a day whose reads say wrong transformers ----------------------------------------------------------------------


def _simbench_registry() -> list[Row]:
    """The meters of the data set; of those that its meter counts have beside them, which never talk, made-up ones."""
    with (SIMBENCH / "meter_registry.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    known = Counter(row["transformer_id"] for row in rows)
    for transformer, total in read_meter_counts(METER_COUNTS):
        for number in range(total - known[transformer]):
            name = f"{transformer}-{number}"
            rows.append(
                {"meter_id": f"MUTE-{name}", "service_point_id": f"SP-{name}", "transformer_id": transformer,
                 "feeder_id": "MUTE"}
            )  # fmt: skip
    return rows


@dataclass(frozen=True)
class Garbled:
    replay: Replay
    moved: int
    """Accepted reads of registered meters that say another transformer or feeder than the registry."""


@cache
def garbled() -> Garbled:
    """Of every third read of a registered meter the transformer is a wrong one, or the feeder, or both."""
    registry = _simbench_registry()
    registered = {row["meter_id"] for row in registry}
    moved = set()
    lines = exported(READS)
    wrong = [{"transformer_id": "TR-LV2.101"}, {"feeder_id": "?"}, {"transformer_id": "?", "feeder_id": "?"}]
    for offset, line in enumerate(lines[::3]):
        value = base64.b64decode(line["value_b64"] or "")
        found = dict(re.findall(rb'"(meter_id|transformer_id|feeder_id)":"([^"]*)"', value))
        if found.get(b"meter_id", b"").decode("utf-8", "replace") not in registered or len(found) < 3:
            continue
        changed = value
        for name, said in wrong[offset % 3].items():
            # As bytes: what is wrong with a record otherwise is to stay so.
            changed = changed.replace(
                b'"%b":"%b"' % (name.encode(), found[name.encode()]), f'"{name}":"{said}"'.encode()
            )
        if changed != value:
            moved.add(3 * offset)
        line["value_b64"] = base64.b64encode(changed).decode()
    with TemporaryDirectory(prefix="ami-beam-garbled-") as folder:
        export = write_export(Path(folder) / "reads.jsonl.gz", lines)
        path = write_registry(Path(folder) / "registry.csv", registry)
        done = replay(f"--meter_registry={path}", reads=export, meter_counts=None)
    letters = {row["offset"] for row in done.rows("ami.deadletter") if row["topic"] == READS_TOPIC and not row["used"]}
    return Garbled(done, len(moved - letters))


@needs_simbench
def test_the_expected_rows_without_meter_counts_whatever_transformers_the_reads_say() -> None:
    assert compare(garbled().replay.output).splitlines()[-1] == "equal"
    assert garbled().replay.lines(SUMMARY) == default_replay().lines(SUMMARY)


@needs_simbench
def test_what_the_registry_has_set_right_is_counted() -> None:
    ours, usual = garbled().replay.counters(), default_replay().counters()
    assert garbled().moved > 10_000
    assert ours["topology_mismatches"] == garbled().moved
    assert ours["accepted_reads"] == usual["accepted_reads"]
    # A transformer that neither file has; its meters are not registered, either.
    assert ours["unregistered_transformers"] == usual["unregistered_transformers"] > 0
    assert ours["unregistered_meters"] > 0


# --- a fleet that moves, against SQL -------------------------------------------------------------------------------

PLACED = """
WITH placed AS (
  SELECT r.* REPLACE (coalesce(g.transformer_id, r.transformer_id) AS transformer_id,
                      coalesce(g.feeder_id, r.feeder_id) AS feeder_id),
         coalesce(g.service_point_id, r.meter_id) AS counted, g.meter_id IS NOT NULL AS registered,
         coalesce(g.transformer_id <> r.transformer_id OR g.feeder_id <> r.feeder_id, false) AS mismatch,
         coalesce(g.status = 'INACTIVE', false) AS inactive,
         time_bucket(INTERVAL '15' MINUTE, r.interval_end - INTERVAL 1 MICROSECOND) + INTERVAL '15' MINUTE AS window_end
  FROM sent_reads r ASOF LEFT JOIN registry g ON r.meter_id = g.meter_id AND r.interval_end >= g.effective_from
), winners AS (
  SELECT * FROM placed
  QUALIFY row_number() OVER (
    PARTITION BY transformer_id, meter_id, interval_end
    ORDER BY read_ts DESC, estimated_flag, record_time DESC, record_offset DESC) = 1
)
"""
SUMMARIES = (
    PLACED
    + """
SELECT transformer_id, feeder_id, window_end, round(sum(consumption_kwh), 6) AS total_consumption_kwh,
       count(DISTINCT counted) AS meters_reported, min(voltage_v) AS min_voltage_v, max(voltage_v) AS max_voltage_v,
       count(*) FILTER (estimated_flag) AS estimated_count
FROM winners GROUP BY ALL
"""
)
RECEIPTS = (
    PLACED
    + """, windows AS (
  SELECT DISTINCT window_end FROM placed
), expected AS (
  SELECT transformer_id, window_end, count(DISTINCT service_point_id) AS total_meters FROM (
    SELECT g.*, w.window_end FROM windows w JOIN registry g ON g.effective_from <= w.window_end
    QUALIFY row_number() OVER (PARTITION BY g.meter_id, w.window_end ORDER BY g.effective_from DESC) = 1
  ) WHERE status <> 'INACTIVE' GROUP BY ALL
)
SELECT transformer_id, window_end, total_meters, coalesce(n, 0) AS meters_reported,
       round(coalesce(n, 0)::DECIMAL / total_meters * 100, 1)::DOUBLE AS receipt_rate_pct
FROM expected LEFT JOIN (
  SELECT transformer_id, window_end, count(DISTINCT counted) AS n FROM winners GROUP BY ALL
) USING (transformer_id, window_end)
"""
)
COUNTED = f"""{PLACED}
SELECT count(*) FILTER (mismatch) AS topology_mismatches, count(*) FILTER (NOT registered) AS unregistered_meters,
       count(*) FILTER (inactive) AS inactive_meter_reads
FROM placed"""
BEGIN = datetime(2026, 3, 3, 6, tzinfo=UTC)
METERS, TRANSFORMERS, WINDOWS = 60, 5, 28
BEYOND_TRANSFORMER = "T-BEYOND"


def _text(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


class Fleet:
    """Meters of which every fourth is exchanged in the day, every seventh moves, some end, begin, or are not known."""

    def __init__(self) -> None:
        self.registry: list[Row] = []
        self.sent: list[tuple[datetime, Row]] = []
        self._random = random.Random(7)
        for number in range(METERS):
            self._meter(number)
        # What lets all windows be judged.
        end = BEGIN + timedelta(hours=20)
        self._read("BEYOND", "S-BEYOND", BEYOND_TRANSFORMER, end - timedelta(minutes=15), end)
        self.sent.sort(key=lambda each: each[0])

    def _meter(self, number: int) -> None:
        meter, point, transformer = f"M{number:02}", f"S{number:02}", f"T{number % TRANSFORMERS}"
        # Within a window, so that both meters of an exchange have reads in it.
        change = BEGIN + timedelta(minutes=15 * self._random.randint(4, WINDOWS - 4) + 7)
        kind = "unknown" if number % 13 == 12 else "exchanged" if number % 4 == 0 else ""
        kind = kind or (
            "moves" if number % 7 == 0 else "ends" if number % 11 == 1 else "begins" if number % 11 == 2 else ""
        )
        if kind != "unknown":
            self._row(meter, point, transformer, "ACTIVE", change if kind == "begins" else None)
        if kind in ("exchanged", "ends"):
            self._row(meter, point, transformer, "INACTIVE", change)
        successor = f"A{number:02}" if number % 8 else f"Z{number:02}"
        if kind == "exchanged":
            self._row(successor, point, transformer, "ACTIVE", change)
        if kind == "moves":
            self._row(meter, point, f"T{(number + 1) % TRANSFORMERS}", "ACTIVE", change)
        for window in range(WINDOWS):
            start, end = (BEGIN + timedelta(minutes=15 * (window + each)) for each in (0, 1))
            if kind != "exchanged" or end < change:
                self._read(meter, point, transformer, start, end)
            elif start > change:
                self._read(successor, point, transformer, start, end)
            else:
                self._read(meter, point, transformer, start, change)
                self._read(successor, point, transformer, change, end)

    def _row(self, meter: str, point: str, transformer: str, status: str, since: datetime | None) -> None:
        self.registry.append(
            {"meter_id": meter, "service_point_id": point, "transformer_id": transformer,
             "feeder_id": f"F{int(transformer[1:]) % 2}", "status": status,
             "effective_from": "" if since is None else _text(since)}
        )  # fmt: skip

    def _read(self, meter: str, point: str, transformer: str, start: datetime, end: datetime) -> None:
        randomly = self._random
        if randomly.random() < 0.08 and transformer != BEYOND_TRANSFORMER:
            return
        said = f"T{randomly.randrange(TRANSFORMERS)}" if randomly.random() < 0.1 else transformer
        came = end + timedelta(seconds=randomly.randint(20, 200))
        if randomly.random() < 0.1:
            came += timedelta(minutes=randomly.randint(1, 300))
        kwh = round(randomly.random(), 4)
        row = {
            "meter_id": meter, "service_point_id": point, "customer_id": "C1", "transformer_id": said,
            "feeder_id": f"F{randomly.randrange(2)}", "read_type": "INTERVAL", "interval_start": _text(start),
            "interval_end": _text(end), "consumption_kwh": kwh, "delivered_kwh": kwh, "received_kwh": 0.0,
            "voltage_v": randomly.choice([None, round(randomly.gauss(230, 9), 2)]), "power_quality_code": 0,
            "estimated_flag": randomly.random() < 0.1, "read_ts": _text(end + timedelta(seconds=10)),
        }  # fmt: skip
        self.sent.append((came, row))
        if randomly.random() < 0.08:
            again = came + timedelta(minutes=randomly.randint(1, 90))
            self.sent.append((again, {**row, "read_ts": _text(again), "transformer_id": "T-NOWHERE"}))


@dataclass(frozen=True)
class Judged:
    """The fleet as we judge it, and in SQL."""

    replay: Replay
    sql: Article
    options: tuple[str, ...]
    """Of the run."""


@cache
def fleet() -> Judged:
    made = Fleet()
    folder = TemporaryDirectory(prefix="ami-beam-fleet-")
    atexit.register(folder.cleanup)
    lines = [
        {"ts_ms": round(came.timestamp() * 1000), "value_b64": base64.b64encode(json.dumps(row).encode()).decode()}
        for came, row in made.sent
    ]
    export = write_export(Path(folder.name) / "reads.jsonl.gz", lines)
    events = write_export(Path(folder.name) / "events.jsonl", [])
    registry = write_registry(Path(folder.name) / "registry.csv", made.registry)
    # What is billed is placed, too, and not counted twice.
    billing = ("--also_publish=validated_reads,customer_consumption", "--customer_id=keep")
    done = replay(f"--meter_registry={registry}", *billing, reads=export, events=events, meter_counts=None)
    sql = Article(accepted(done, READS_TOPIC, export), right_closed=True)
    columns = ", ".join(f"{name} {'TIMESTAMP' if name == 'effective_from' else 'VARCHAR'}" for name in COLUMNS)
    sql.execute(f"CREATE TABLE registry ({columns})")
    for row in made.registry:
        since = (row["effective_from"] or "1970-01-01T00:00:00Z").removesuffix("Z")
        sql.execute(f"INSERT INTO registry VALUES {(*(row[name] for name in COLUMNS[:-1]), since)}")
    return Judged(done, sql, (f"--reads={export}", f"--events={events}", f"--meter_registry={registry}"))


def test_summaries_are_what_sql_gives() -> None:
    done, sql = fleet().replay, fleet().sql
    identity = ("transformer_id", "feeder_id", "window_end")
    theirs, ours = by(sql.query(SUMMARIES), *identity), by(done.rows(SUMMARY), *identity)
    assert ours.keys() == theirs.keys()
    for key, expected in theirs.items():
        # DuckDB adds doubles one after the other: a last digit can fall on the other side.
        assert ours[key]["total_consumption_kwh"] == pytest.approx(expected.pop("total_consumption_kwh"), abs=1.1e-6)
        assert {name: ours[key][name] for name in expected} == expected


def test_receipts_are_what_sql_gives() -> None:
    done, sql = fleet().replay, fleet().sql
    theirs = by(sql.query(RECEIPTS), "transformer_id", "window_end")
    ours = by(done.rows(RECEIPT), "transformer_id", "window_end")
    day = {format_instant(round(BEGIN.timestamp() + 900 * each) * 1_000_000) for each in range(1, WINDOWS + 1)}
    assert {end for _, end in ours} > day
    for key, row in ours.items():
        if key[1] in day:
            expected = theirs.pop(key)
            assert {name: row[name] for name in expected} == expected
    assert not {end for _, end in theirs} & day
    # Meters came and went.
    assert len({row["total_meters"] for row in ours.values()}) > 3
    assert {row["receipt_rate_pct"] for row in ours.values()} > {100.0, 0.0}


def test_an_exchange_counts_once_in_its_window() -> None:
    both = fleet().sql.query(
        f"{PLACED} SELECT window_end, counted FROM winners GROUP BY ALL HAVING count(DISTINCT meter_id) = 2"
    )
    assert len(both) > 5


def test_counters_are_what_sql_gives() -> None:
    done, sql = fleet().replay, fleet().sql
    (expected,) = sql.query(COUNTED)
    counters = done.counters()
    assert {name: counters[name] for name in expected} == expected
    assert min(expected.values()) > 10


def told(module: str, *arguments: str) -> Row:
    """What a command of ours says of the fleet as JSON."""
    command = [sys.executable, "-m", module, *arguments, "--source=files", *fleet().options, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def test_an_alert_is_explained_by_reads_that_said_another_transformer() -> None:
    alerts = [row for row in fleet().replay.rows("ami.alerts.grid") if row["alert_type"] == "HIGH_VOLTAGE"]
    beyond = fleet().sql.query(f"{PLACED} SELECT * FROM winners WHERE voltage_v > 253 AND mismatch")
    (alert, read), *_ = (
        (alert, read)
        for alert in alerts
        for read in beyond
        if (alert["entity_id"], alert["window_end"]) == (read["transformer_id"], read["window_end"])
    )
    explained = told("ami_beam.explain", alert["alert_id"], f"--output={fleet().replay.output}")
    (window,) = explained["windows"]
    assert read["meter_id"] in {each["meter_id"] for each in window["reads"] if each["beyond_limit"]}
    summaries = by(fleet().replay.rows(RECEIPT), "transformer_id", "window_end")
    assert window["total_meters"] == summaries[alert["entity_id"], alert["window_end"]]["total_meters"]


def test_what_if_puts_reads_where_the_run_did() -> None:
    answer = told("ami_beam.whatif", "--set=high_voltage_pct=107")
    assert answer["total"]["current"] == len(fleet().replay.rows("ami.alarms")) < answer["total"]["changed"]
