"""`python -m benchmarks.alarm_score`: alarms of a simulated week held against what was really the case.

A head-end with storms, dead collectors, a silent hour, batch collection and hot feeders goes through a real broker and
the pipeline on Flink, from the beginning of the topic on, with what an OMS and crews announce. The simulator's
`truth.jsonl` says what was out, sagging and silent; every such condition must have its alarm, and no more alarms than
needed. What was planned must have none while it lasts as announced, and work at a meter must be no outage.

Says how many conditions were missed, how many alarms without a cause there are for one condition, and how many
per-window alerts the same week gave; of dead collectors, how many are one alarm of their collection group; and what
became of what was announced.

With --live the same happens as it does to an operator, in windows of 15 seconds that stand for a quarter of an hour:
how long after its beginning the first alarm of each condition was in its topic. The leeway of announcements, a quarter
of an hour, is 60 such windows: no planned outage outlasts it, and one that is still to come when the run ends may hold
what begins on its transformers.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from ami_beam.codecs.json_outputs import ALARMS_TOPIC, GRID_ALERTS_TOPIC, RECEIPT_TOPIC, RESULT_TOPICS, parse_alarm
from ami_beam.input_topics import OUTAGES_TOPIC, WORK_TOPIC
from ami_beam.instants import MICROS_PER_MILLI, MICROS_PER_MINUTE, MICROS_PER_SECOND, parse_instant
from ami_beam.io.kafka_period import read_period
from ami_beam.local.kafka_broker import KafkaBroker
from ami_beam.records import Alarm
from ami_beam.simulate import main as simulate
from benchmarks.ending import leave_with
from benchmarks.systems import EVENTS, READS, Place, Running, ami_beam
from transforms.announcements import LEEWAY
from transforms.group_causes import COMM_GROUP
from transforms.outages import needed
from transforms.supply import LATE_AFTER

PARTITIONS = 4
WINDOW = 15 * MICROS_PER_MINUTE
LIVE_WINDOW = 15 * MICROS_PER_SECOND
COLLECTION_DELAY, LIVE_COLLECTION_DELAY = 5 * MICROS_PER_MINUTE, 5 * MICROS_PER_SECOND
OUTAGE_ALARMS = ("TRANSFORMER_OUTAGE", "SINGLE_OUTAGE", "FEEDER_OUTAGE", "SECTION_OUTAGE")
EXPECTED = {
    "OUTAGE": OUTAGE_ALARMS,
    "WORK": OUTAGE_ALARMS,
    "SILENT_COLLECTOR": ("LOW_RECEIPT_RATE", "COMM_GROUP"),
    "LOW_VOLTAGE": ("LOW_VOLTAGE", "LOW_VOLTAGE_GROUP"),
    "HIGH_VOLTAGE": ("HIGH_VOLTAGE", "HIGH_VOLTAGE_GROUP"),
    "SILENT_HEAD_END": ("SOURCE_SILENT",),
}
"""By condition of the simulator the alarms that tell of it."""
ANNOUNCEMENTS = (OUTAGES_TOPIC, WORK_TOPIC)
ANNOUNCED = (f"--oms_outages={OUTAGES_TOPIC}", f"--work={WORK_TOPIC}")
TRUTH_FILE, COUNTS_FILE = "truth.jsonl", "transformer_meter_count.csv"
ALARMS_FILE, ALERTS_FILE = "alarms.jsonl", "alerts.jsonl"
"""Each line the millisecond in which it was published, and what."""
MARGIN_WINDOWS = 4
"""How long after a condition's end an alarm may begin that tells of it: what was collected late."""


@dataclass(frozen=True)
class Announced:
    """What the OMS or a crew has said of a condition, in microseconds."""

    kind: str
    names: frozenset[str]
    """As alarms name it where it is their cause."""
    begins: int
    ends: int


@dataclass
class Truth:
    """A condition and the alarms that tell of it."""

    kind: str
    since: int
    until: int
    transformers: frozenset[str]
    feeders: frozenset[str]
    collector: str | None = None
    """Of a dead collector, which."""
    announced: Announced | None = None
    is_lost: bool = False
    """Of a dead collector, whether what was not heard is lost and does not come afterwards."""
    delay: int = 0
    """Of a dead collector, how long after a window what it hears is judged: it may lose windows of before it died."""
    is_whole: bool = True
    """Whether the run went on long enough for an alarm of it. One that is not may have one, and need not."""
    alarms: list[Alarm] = field(default_factory=list)

    @property
    def is_planned(self) -> bool:
        """Whether it is to have no alarm, as long as it is as it was announced."""
        return self.kind == "WORK" or (self.announced is not None and self.announced.kind == "PLANNED")

    @property
    def is_known(self) -> bool:
        """Whether the OMS has said so once it had begun."""
        return self.announced is not None and self.announced.kind == "KNOWN"

    def is_cause_of(self, alarm: Alarm) -> bool:
        """Whether the alarm names what was announced as its cause."""
        return self.announced is not None and alarm.cause in self.announced.names

    def is_told_by(self, alarm: Alarm, window: int = WINDOW) -> bool:
        """Whether the alarm is of its kind, place and time."""
        # A planned outage is to have no alarm of any kind.
        of_plan = self.is_planned and self.kind == "OUTAGE" and alarm.alarm_type in EXPECTED["SILENT_COLLECTOR"]
        if alarm.alarm_type not in EXPECTED[self.kind] and not of_plan:
            return False
        first = alarm.began_at if alarm.began_at is not None else alarm.first_window - window
        last = alarm.ended_at or alarm.last_window
        if first > self.until + MARGIN_WINDOWS * window or last < self.since - self.delay:
            return False
        places = self.transformers | self.feeders | {self.collector}
        return self.kind == "SILENT_HEAD_END" or alarm.entity_id in places


def truths(path: Path) -> list[Truth]:
    """The conditions of which there should be alarms, and those of which there should be none."""
    found = []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if row["condition"] in EXPECTED:
            said = row["announced"]
            found.append(
                Truth(
                    row["condition"],
                    parse_instant(row["since"]),
                    parse_instant(row["until"]),
                    frozenset(row["transformer_ids"]),
                    # A meter at work is no outage of its feeder.
                    frozenset(() if row["condition"] == "WORK" else row["feeder_ids"]),
                    row["collection_group"],
                    None if said is None else _announced_as(row["condition"], said),
                    row["condition"] == "SILENT_COLLECTOR" and not row["backlog"],
                )
            )
    return found


def _announced_as(condition: str, said: Mapping[str, Any]) -> Announced:
    source = "work" if condition == "WORK" else "oms"
    names = frozenset(f"{source}:{each}" for each in said["ids"])
    return Announced(said["kind"], names, parse_instant(said["from"]), parse_instant(said["to"]))


def needs_alarm(
    truth: Truth,
    violations: Mapping[str, Mapping[str, set[int]]],
    sizes: Mapping[str, int],
    window: int = WINDOW,
    held: Collection[str] = (),
) -> bool:
    """Whether it lasted: two windows in a row that the head-end's own reads show to be in violation.

    A voltage that no limit is crossed by, and a collector whose reads all came in time, are nothing to tell. Of an
    outage there is always something to tell. `held`: transformers of which there is nothing to tell (`untold`).
    """
    if truth.kind == "SILENT_HEAD_END":
        return True
    if truth.kind == "OUTAGE":
        return not truth.transformers.issubset(held)
    kind = "LOW_RECEIPT_RATE" if truth.kind == "SILENT_COLLECTOR" else truth.kind
    for transformer in truth.transformers.difference(held):
        if kind == "LOW_RECEIPT_RATE" and sizes[transformer] < 2:
            continue
        ends = violations.get(kind, {}).get(transformer, set())
        since, until = truth.since - truth.delay, truth.until + MARGIN_WINDOWS * window
        if any(end + window in ends for end in ends if since < end <= until):
            return True
    return False


def untold(truth: Truth, conditions: Iterable[Truth], sizes: Mapping[str, int], window: int = WINDOW) -> set[str]:
    """The transformers of which no alarm need tell, since others of the conditions stand before the condition.

    An outage is planned there when it begins: it is put down to that. So many meters are at work that too few are left
    for an outage. Or all that would tell of the outage was sent to a collector that was dead, and is lost, or comes so
    late that it opens no alarm.
    """
    found: set[str] = set()
    at_work: Counter[str] = Counter()
    for other in conditions:
        said = other.announced
        if other.kind == "SILENT_COLLECTOR" and truth.kind == "OUTAGE":
            late = other.is_lost or other.until - truth.since > LATE_AFTER
            if late and other.since <= truth.since and truth.until <= other.until:
                found |= other.transformers
        elif other is truth or not other.is_planned or said is None:
            continue
        elif said.begins - LEEWAY <= truth.since + 2 * window:
            if other.kind == "WORK" and truth.since <= said.ends + LEEWAY:
                at_work.update(other.transformers)
            # No lack of supply explains a high voltage.
            is_explained = other.kind == "OUTAGE" and truth.kind != "HIGH_VOLTAGE" and not truth.is_planned
            if is_explained and truth.since < said.ends + window:
                found |= other.transformers
    if truth.kind == "OUTAGE":
        found |= {name for name, meters in at_work.items() if sizes[name] - meters < needed(sizes[name])}
    return found


@dataclass
class Announcements:
    """What became of the conditions that were announced."""

    held: int = 0
    """Planned outages that lasted as announced, or little longer, and of which there is no alarm."""
    outlasted: list[Truth] = field(default_factory=list)
    """Planned outages that lasted longer, and of which there is an alarm, with them as its cause."""
    wrong: list[Alarm] = field(default_factory=list)
    """Alarms of planned outages that should have been held, or are without their cause."""
    known: int = 0
    """Outages of which the OMS has said so once they had begun."""
    known_explained: int = 0
    """Of these those whose alarms have it as their cause."""
    work: int = 0
    outages_of_work: list[Alarm] = field(default_factory=list)
    """Alarms that take work at a meter for an outage."""


@dataclass(frozen=True)
class Score:
    """What the week gave."""

    conditions: Counter[str]
    """That needed an alarm; not those that were planned."""
    missed: list[Truth]
    """Without an alarm; planned outages that lasted longer than announced among them."""
    alarms: Counter[str]
    """Without a cause, by type."""
    explained: int
    false: list[Alarm]
    """Without a cause, of which no condition tells."""
    delays: dict[str, list[float]]
    """By kind of condition, seconds until its first alarm was published; of a live run only."""
    alerts: int
    announced: Announcements
    told_by_collector: int
    """Dead collectors that are one COMM_GROUP of their own collection group."""

    @property
    def per_condition(self) -> float:
        """Alarms without a cause, for each condition that nobody has announced."""
        return sum(self.alarms.values()) / max(sum(self.conditions.values()) - self.announced.known_explained, 1)


def score(
    conditions: Sequence[Truth],
    revisions: Iterable[tuple[int, Alarm]],
    alerts: Sequence[Mapping[str, Any]],
    sizes: Mapping[str, int],
    window: int = WINDOW,
    live: bool = False,
    delays_of: Mapping[str, int] | None = None,
) -> Score:
    """Hold the alarms against the conditions.

    Args:
      conditions: all that was so.
      revisions: all alarms that were published, in topic order, and when.
      alerts: likewise of the grid.
      sizes: meters by transformer.
      window: length in microseconds.
      live: whether record times are those of the clock.
      delays_of: by transformer how long after a window it is judged; 0 where there is none.
    """
    first: dict[str, int] = {}
    last: dict[str, Alarm] = {}
    for published, alarm in revisions:
        first.setdefault(alarm.alarm_id, published)
        last[alarm.alarm_id] = alarm
    holding = [alarm for alarm in last.values() if alarm.windows_in_violation]
    violations: dict[str, dict[str, set[int]]] = {}
    status = {}
    for alert in alerts:
        status[alert["alert_id"]] = alert
    for alert in status.values():
        if alert["status"] != "CLEARED":
            by_entity = violations.setdefault(alert["alert_type"], {})
            by_entity.setdefault(alert["entity_id"], set()).add(parse_instant(alert["window_end"]))
    planned = [truth for truth in conditions if truth.is_planned]
    others = [truth for truth in conditions if not truth.is_planned]
    for truth in conditions:
        if truth.kind == "OUTAGE":
            # What is silent for want of supply is silent for no other reason.
            for transformer in truth.transformers:
                silent = violations.get("LOW_RECEIPT_RATE", {}).get(transformer, set())
                silent -= {end for end in silent if truth.since < end and end - window < truth.until}
    wanted = [
        truth
        for truth in others
        if truth.is_whole and needs_alarm(truth, violations, sizes, window, untold(truth, conditions, sizes, window))
    ]
    false = []
    for alarm in last.values():
        told = [truth for truth in others if truth.is_told_by(alarm, window)]
        # Of what is planned there should not even have been one that was taken back.
        told += [
            truth for truth in planned if truth.is_cause_of(alarm) or (not told and truth.is_told_by(alarm, window))
        ]
        for truth in told:
            if alarm.windows_in_violation or truth.is_planned:
                truth.alarms.append(alarm)
        if not told and alarm.cause is None and alarm.windows_in_violation:
            false.append(alarm)
    announced, missed = _announced(planned, others, window, delays_of or {})
    missed = [truth for truth in missed if not truth.transformers <= untold(truth, conditions, sizes, window)]
    for truth in wanted:
        if truth.is_known:
            announced.known += 1
            announced.known_explained += any(truth.is_cause_of(alarm) for alarm in truth.alarms)
    delays: dict[str, list[float]] = {}
    for truth in wanted if live else ():
        if truth.alarms:
            known = min(first[alarm.alarm_id] for alarm in truth.alarms)
            delays.setdefault(truth.kind, []).append(max(known - truth.since, 0) / MICROS_PER_SECOND)
    uncaused = [alarm for alarm in holding if alarm.cause is None]
    return Score(
        Counter(truth.kind for truth in wanted),
        [truth for truth in wanted if not truth.alarms] + missed,
        Counter(alarm.alarm_type for alarm in uncaused),
        len(holding) - len(uncaused),
        false,
        delays,
        len(status),
        announced,
        sum(
            any((alarm.alarm_type, alarm.entity_id) == (COMM_GROUP, truth.collector) for alarm in truth.alarms)
            for truth in wanted
            if truth.collector is not None
        ),
    )


def _announced(
    planned: Iterable[Truth], others: Sequence[Truth], window: int, delays_of: Mapping[str, int]
) -> tuple[Announcements, list[Truth]]:
    """What became of what was planned, and the outages that should have had an alarm and have none.

    An alarm is due when an outage lasts longer than the leeway, a window and the delay of reads behind the announced
    end. That it is over is known up to two windows after its end, by the reads: in between either is right. Where
    nobody hears its meters then, because their collector or the whole head-end is silent, until somebody does.
    """
    found, missed = Announcements(), []
    told_by_others = {alarm.alarm_id for truth in others for alarm in truth.alarms}
    of_plans = {alarm.alarm_id for truth in planned if truth.kind == "OUTAGE" for alarm in truth.alarms}
    for truth in planned:
        if not truth.is_whole:
            continue
        alarms = [alarm for alarm in truth.alarms if alarm.alarm_id not in told_by_others]
        if truth.kind == "WORK":
            found.work += 1
            found.outages_of_work += [alarm for alarm in alarms if alarm.alarm_id not in of_plans]
            continue
        assert truth.announced is not None
        delay = max(delays_of.get(transformer, 0) for transformer in truth.transformers)
        due = truth.announced.ends + LEEWAY + window + delay
        if _heard_to_be_over(truth, others) + 2 * window <= due:
            found.wrong += alarms
            found.held += not alarms
        elif any(truth.is_cause_of(alarm) for alarm in truth.alarms):
            found.wrong += [alarm for alarm in alarms if alarm.cause is None and alarm.windows_in_violation]
            found.outlasted.append(truth)
        elif truth.until <= due:
            found.held += 1
        else:
            missed.append(truth)
    return found, missed


def _heard_to_be_over(truth: Truth, others: Iterable[Truth]) -> int:
    """When meters can be heard that have supply again, microseconds."""
    over = truth.until
    silences = [other for other in others if other.kind in ("SILENT_COLLECTOR", "SILENT_HEAD_END")]
    for silence in sorted(silences, key=lambda each: each.since):
        hides = silence.kind == "SILENT_HEAD_END" or silence.transformers & truth.transformers
        if hides and silence.since <= over < silence.until:
            over = silence.until
    return over


def report(found: Score) -> Iterator[str]:
    """For people."""
    total = sum(found.conditions.values())
    yield f"{total} conditions: " + ", ".join(f"{count} {kind}" for kind, count in sorted(found.conditions.items()))
    yield f"{len(found.missed)} missed" + "".join(
        f"\n  {each.kind} {sorted(each.transformers)}" for each in found.missed
    )
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.alarms.items()))
    yield f"{sum(found.alarms.values())} alarms without a cause, {found.per_condition:.2f} a condition: {kinds}"
    yield f"{found.explained} alarms with a cause"
    dead = found.conditions["SILENT_COLLECTOR"]
    yield f"{found.told_by_collector} of {dead} dead collectors are a COMM_GROUP of their own collection group"
    said = found.announced
    planned = f"{said.held} planned outages held, {len(said.outlasted)} came because they outlasted the announcement"
    yield f"{planned}; {len(said.wrong)} alarms of planned outages that should not have come"
    yield f"{said.known_explained} of {said.known} outages that became known are the cause of their alarms"
    yield f"{len(said.outages_of_work)} of {said.work} pieces of work at meters taken for an outage"
    false = Counter(alarm.alarm_type for alarm in found.false)
    yield f"{len(found.false)} of no condition: " + ", ".join(
        f"{count} {kind}" for kind, count in sorted(false.items())
    )
    for kind, seconds_each in sorted(found.delays.items()):
        ordered = sorted(seconds_each)
        p50, p99 = (ordered[min(int(len(ordered) * share), len(ordered) - 1)] for share in (0.5, 0.99))
        yield f"{kind}: published after {p50:.1f} s (p50), {p99:.1f} s (p99)"
    yield f"{found.alerts:,} per-window alerts on the grid"


def week(arguments: argparse.Namespace, folder: Path) -> tuple[Score, int, float]:
    """Simulate, run, and hold one against the other."""
    options = [
        *(f"--output={folder}", f"--meters={arguments.meters}", f"--seed={arguments.seed}"),
        *(f"--profile={arguments.profile}", "--quiet", "--malformed_pct=0.01"),
        *(f"--outages={arguments.outages}", f"--dead_collectors={arguments.dead_collectors}"),
        *(f"--voltage_faults={arguments.voltage_faults}", f"--planned_outages={arguments.planned_outages}"),
        *(f"--known_pct={arguments.known_pct}", f"--work_orders={arguments.work_orders}"),
    ]
    counts = folder / COUNTS_FILE
    with KafkaBroker() as broker:
        servers = broker.bootstrap_servers
        for topic in RESULT_TOPICS:
            broker.create_topic(topic, partitions=PARTITIONS)
        for topic in ANNOUNCEMENTS:
            broker.create_topic(topic)
        place = Place(servers, counts, "unused")
        options.append(f"--bootstrap_servers={servers}")
        begun = time.monotonic()
        if arguments.live:
            for topic in (READS, EVENTS):
                broker.create_topic(topic, partitions=PARTITIONS)
            reads = _live(options, place, folder, arguments.intervals)
        else:
            if simulate([*options, f"--duration={arguments.days}d", "--silence=60h,2h"]) != 0:
                raise RuntimeError("the simulation failed")
            _say(f"simulated in {time.monotonic() - begun:.0f} s")
            begun = time.monotonic()
            with Running(
                ami_beam("alarm-score", "--kafka_io=native", *ANNOUNCED), place, folder / "run.log"
            ) as process:
                reads = _wait(servers, process)
        seconds = time.monotonic() - begun
        config = {"bootstrap.servers": servers}
        for topic, name in ((ALARMS_TOPIC, ALARMS_FILE), (GRID_ALERTS_TOPIC, ALERTS_FILE)):
            with (folder / name).open("wb") as file:
                for message in read_period(config, topic, None, None):
                    file.write(b"%d %b\n" % (message.timestamp()[1], message.value() or b""))
    return scored(folder, arguments.live), reads, seconds


def scored(folder: Path, live: bool) -> Score:
    """Hold what was published against what was so; both are in the folder."""
    alarms = [(int(at) * MICROS_PER_MILLI, parse_alarm(value)) for at, value in _published(folder / ALARMS_FILE)]
    alerts = [json.loads(value) for _, value in _published(folder / ALERTS_FILE)]
    sizes, delays = {}, {}
    delay = LIVE_COLLECTION_DELAY if live else COLLECTION_DELAY
    with (folder / COUNTS_FILE).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            sizes[row["transformer_id"]] = int(row["total_meters"])
            minutes = int(row["receipt_delay_minutes"] or 0)
            delays[row["transformer_id"]] = max(delay, minutes * MICROS_PER_MINUTE)
    known = truths(folder / TRUTH_FILE)
    for truth in known:
        truth.is_whole = not live or _is_whole(truth, alarms)
        if truth.kind == "SILENT_COLLECTOR":
            truth.delay = max(delays[transformer] for transformer in truth.transformers)
    return score(known, alarms, alerts, sizes, LIVE_WINDOW if live else WINDOW, live, delays)


def _keep(found: Score, folder: Path, target: Path) -> None:
    """What it takes to find out why something was missed."""
    target.mkdir(parents=True, exist_ok=True)
    wrong: dict[str, Sequence[object]] = {
        "false": found.false,
        "wrong": found.announced.wrong,
        "outages of work": found.announced.outages_of_work,
        "missed": found.missed,
    }
    lines = [f"{kind}: {each}" for kind, several in wrong.items() for each in several]
    (target / "wrong.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in (TRUTH_FILE, COUNTS_FILE, ALARMS_FILE, ALERTS_FILE, "run.log"):
        shutil.copy(folder / name, target)


def _published(path: Path) -> Iterator[tuple[bytes, bytes]]:
    with path.open("rb") as file:
        for line in file:
            at, _, value = line.rstrip().partition(b" ")
            yield at, value


def _is_whole(truth: Truth, alarms: Sequence[tuple[int, Alarm]]) -> bool:
    """Whether the run went on long enough after its beginning for an alarm: four windows."""
    return truth.since + MARGIN_WINDOWS * LIVE_WINDOW <= max((published for published, _ in alarms), default=0)


def _live(options: list[str], place: Place, folder: Path, intervals: int) -> int:
    """Start the pipeline, then the head-end at its own pace; the number of reads."""
    # What the pipeline needs to know of the network is written by a simulation that ends at once.
    if simulate([*options[:-1], "--intervals=1"]) != 0:
        raise RuntimeError("the simulation failed")
    system = ami_beam("alarm-score", "--kafka_io=native", "--window=15s", "--collection_delay=5s", *ANNOUNCED)
    with Running(system, place, folder / "run.log") as process:
        for _ in range(30):
            time.sleep(1)
            process.check()
        _say(f"live for {intervals * 15} s")
        # In the morning of the simulated day: planned outages and work begin in working hours.
        live = [*options, "--realtime", "--window=15s", f"--intervals={intervals}", "--first_hour=7"]
        head_end = subprocess.Popen([sys.executable, "-m", "ami_beam.simulate", *live])
        try:
            head_end.wait((intervals + 1) * 15)
        except subprocess.TimeoutExpired:
            head_end.terminate()  # what is late comes for another half hour
        if head_end.wait(60) != 0:
            raise RuntimeError("the simulation failed")
        time.sleep(30)
        process.check()
    return _written(place.bootstrap_servers, READS)


def _wait(servers: str, process: Running, patience: float = 45.0) -> int:
    """Until no receipt row has come for a while; the number of reads."""
    published, moved = -1, time.monotonic() + 240
    while time.monotonic() - moved < patience:
        process.check()
        time.sleep(2)
        rows = _written(servers, RECEIPT_TOPIC)
        if rows != published:
            if rows > 0:
                moved = time.monotonic()
            published = rows
            _say(f"{rows:,} receipt rows")
    return _written(servers, READS)


def _written(servers: str, topic: str) -> int:
    """How many records the topic has."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "alarm-score", "enable.auto.commit": False})
    try:
        return sum(
            consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)[1]
            for partition in range(PARTITIONS)
        )
    finally:
        consumer.close()


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 1 when a condition was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.alarm_score",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--meters", type=int, default=42_000, help="2,000 transformers (42000)")
    add("--live", action="store_true", help="in windows of 15 seconds, as an operator sees it")
    add("--intervals", type=int, default=48, help="with --live (48, 12 minutes)")
    add("--days", type=int, default=7, help="simulated (7)")
    add("--seed", type=int, default=1)
    add("--profile", default="mixed", help="of collection (mixed)")
    add("--outages", type=float, default=12, help="a day (12)")
    add("--dead_collectors", type=float, default=6, help="a day (6)")
    add("--voltage_faults", type=float, default=6, help="a day, sags and as many rises (6)")
    add("--planned_outages", type=float, default=6, help="a day, besides (6)")
    add("--known_pct", type=float, default=25, help="of the other outages the OMS gets to know (25)")
    add("--work_orders", type=float, default=24, help="a day, work at meters (24)")
    add("--json", action="store_true", help="JSON on standard output")
    add("--again", type=Path, help="such a folder that --keep has left: score it, and run nothing")
    add("--keep", type=Path, help="a folder for the truth, the alarms, the pipeline's log and what was wrong")
    arguments = parser.parse_args(argv)
    run: dict[str, float] = {}
    if arguments.again is not None:
        found = scored(arguments.again, arguments.live)
    else:
        with tempfile.TemporaryDirectory(prefix="ami-beam-score-") as folder:
            try:
                found, reads, seconds = week(arguments, Path(folder))
            except RuntimeError as error:
                print(error, file=sys.stderr)
                return 1
            run = {"reads": reads, "seconds": round(seconds, 1)}
            if arguments.keep is not None:
                _keep(found, Path(folder), arguments.keep)
    if arguments.json:
        print(
            json.dumps(
                {
                    **run,
                    "conditions": dict(found.conditions),
                    "missed": len(found.missed),
                    "alarms": dict(found.alarms),
                    "explained": found.explained,
                    "alarms_per_condition": round(found.per_condition, 3),
                    "false": len(found.false),
                    "delays_s": {kind: sorted(round(each, 2) for each in s) for kind, s in found.delays.items()},
                    "alerts": found.alerts,
                    "told_by_collector": found.told_by_collector,
                    "planned": {
                        "held": found.announced.held,
                        "outlasted": len(found.announced.outlasted),
                        "wrong": len(found.announced.wrong),
                    },
                    "known": {"outages": found.announced.known, "explained": found.announced.known_explained},
                    "work": {"pieces": found.announced.work, "outages": len(found.announced.outages_of_work)},
                },
                indent=1,
            )
        )
    else:
        print("\n".join([*(f"{name}: {value:,}" for name, value in run.items()), *report(found)]))
    return 1 if found.missed else 0


if __name__ == "__main__":
    leave_with(main)
