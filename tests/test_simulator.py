"""The simulated head-end: repeatable, physically plausible, and honest about what it does to its meters."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Consumer, Producer

from ami_beam import simulate
from ami_beam.codecs.json_announcements import AnnouncementDecoder
from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND, parse_instant
from ami_beam.records import RecordBatch
from ami_beam.settings import Settings
from ami_beam.simulator import CollectionRates, FaultRates, Record, Simulation
from ami_beam.simulator.announcements import Announcer
from ami_beam.simulator.network import build, collector_id, feeder_id, meter_id, transformer_id
from ami_beam.simulator.records import CORRUPTIONS, corrupt
from tests.replays import exported

READS, EVENTS = "ami.headend.reads", "ami.headend.events"
OUTAGES, WORK = "ami.oms.outages", "ami.work"
QUIET = FaultRates(outages=0, dead_collectors=0, voltage_faults=0, tampers=0)
CLEAN = CollectionRates(resend_pct=0, estimate_pct=0, late_pct=0)
FIELDS = [
    "meter_id",
    "service_point_id",
    "customer_id",
    "transformer_id",
    "feeder_id",
    "read_type",
    "interval_start",
    "interval_end",
    "consumption_kwh",
    "delivered_kwh",
    "received_kwh",
    "voltage_v",
    "power_quality_code",
    "estimated_flag",
    "read_ts",
]


def digest(records: Iterable[Record]) -> str:
    sha = hashlib.sha256()
    for record in records:
        sha.update(repr(record).encode())
    return sha.hexdigest()


def reads_of(records: Iterable[Record]) -> list[tuple[int, dict[str, Any]]]:
    """(record time, interval read) of a run without malformed records, instants parsed."""
    found = []
    for topic, record_time, _, value in records:
        if topic == READS:
            read = json.loads(value)
            for field in ("interval_start", "interval_end", "read_ts"):
                read[field] = parse_instant(read[field])
            if read["read_type"] == "INTERVAL":
                found.append((record_time, read))
    return found


def events_of(records: Iterable[Record]) -> list[dict[str, Any]]:
    return [json.loads(value) for topic, _, _, value in records if topic == EVENTS]


def demo(**changed: Any) -> Simulation:
    rates = FaultRates(outages=0, dead_collectors=0, voltage_faults=0, tampers=0, demo=True)
    arguments: dict[str, Any] = {
        "seed": 7,
        "meters": 500,
        "interval": 15 * MICROS_PER_SECOND,
        "intervals": 24,
        "faults": rates,
        "malformed_pct": 0,
    }
    return Simulation(**{**arguments, **changed})


@pytest.fixture(scope="module")
def demo_run() -> tuple[Simulation, list[Record]]:
    simulation = demo()
    return simulation, list(simulation)


@pytest.fixture(scope="module")
def day() -> tuple[Simulation, list[dict[str, Any]]]:
    """A day of 600 meters in which nothing goes wrong."""
    simulation = Simulation(meters=600, faults=QUIET, collection=CLEAN, malformed_pct=0)
    return simulation, [read for _, read in reads_of(simulation)]


class TestRepeatable:
    def test_same_arguments_same_bytes(self) -> None:
        runs = [digest(Simulation(seed=3, meters=200, intervals=40, profile="mixed")) for _ in range(2)]
        assert runs[0] == runs[1]
        assert runs[0] != digest(Simulation(seed=4, meters=200, intervals=40, profile="mixed"))

    def test_does_not_depend_on_pythonhashseed(self, tmp_path: Path) -> None:
        contents = []
        for hash_seed in ("1", "2"):
            directory = tmp_path / hash_seed
            command = [sys.executable, "-m", "ami_beam.simulate", f"--output={directory}", "--meters=100", "--quiet"]
            subprocess.run(
                [*command, "--intervals=8", "--profile=mixed", "--malformed_pct=3", "--scenario=demo"],
                check=True,
                env={**os.environ, "PYTHONHASHSEED": hash_seed},
                cwd=Path(__file__).parent.parent,
            )
            contents.append({path.name: path.read_bytes() for path in directory.iterdir()})
        assert len(contents[0]) == 5
        assert contents[0] == contents[1]

    def test_length_of_the_run_does_not_change_its_beginning(self) -> None:
        short = list(Simulation(meters=50, intervals=4))
        long = itertools.islice(Simulation(meters=50, intervals=None), 150)
        assert short[:150] == list(long)


class TestNetwork:
    def test_a_third_of_the_transformers_are_small(self) -> None:
        network = Simulation(seed=1, meters=100_000).network
        sizes = np.diff(network.first_meter)
        assert sizes.sum() == network.meters == 100_000
        assert sizes.min() == 1
        assert sizes.max() == 60
        assert (sizes <= 3).mean() == pytest.approx(1 / 3, abs=0.03)

    @pytest.mark.parametrize("meters", [1, 2, 10, 61, 1000])
    def test_any_number_of_meters(self, meters: int) -> None:
        simulation = Simulation(meters=meters, intervals=2, faults=QUIET, collection=CLEAN, malformed_pct=0)
        assert simulation.network.meters == meters
        assert sum(row[1] for row in simulation.network.meter_counts(simulation.clock)) == meters
        assert len(reads_of(simulation)) == 2 * meters

    def test_ends_of_feeders_have_pv(self) -> None:
        network = Simulation(meters=5_000).network
        last = network.first_meter[network.first_transformer[1:] - 1]
        assert (network.pv_kw[last] > 0).all()

    def test_rejects_what_cannot_be(self) -> None:
        clock = Simulation().clock
        with pytest.raises(ValueError, match="meters"):
            build(1, 0, "realtime", clock)
        with pytest.raises(ValueError, match="profile"):
            build(1, 5, "pigeon", clock)
        with pytest.raises(ValueError, match="interval"):
            Simulation(interval=0)


class TestCollectors:
    @pytest.mark.parametrize("profile", ["realtime", "mixed"])
    def test_every_transformer_has_one_of_its_own_kind(self, profile: str) -> None:
        network = Simulation(meters=42_000, profile=profile).network
        bounds = network.first_of_collector
        assert (bounds[0], bounds[-1]) == (0, network.transformers)
        assert np.diff(bounds).min() >= 1
        of = [network.collector_of(transformer) for transformer in range(network.transformers)]
        for collector in range(network.collectors):
            first, end = network.transformers_of_collector(collector)
            assert of[first:end] == [collector] * (end - first)
            assert len(set(network.profile[first:end].tolist())) == 1
        meters = np.diff(network.first_meter[bounds])
        if profile == "realtime":
            assert np.diff(bounds).min() >= 2
            assert 200 < np.median(meters) < 1_200
            assert meters.max() <= 1_620

    def test_some_hear_a_part_of_a_feeder_and_some_parts_of_several(self) -> None:
        network = Simulation(meters=42_000).network
        feeders = [
            len(set(network.feeder_of_transformer[slice(*network.transformers_of_collector(collector))].tolist()))
            for collector in range(network.collectors)
        ]
        assert feeders.count(1) > len(feeders) / 8
        assert max(feeders) >= 3

    @pytest.mark.parametrize("meters", [1, 2, 10, 61, 300])
    def test_small_networks_have_collectors_too(self, meters: int) -> None:
        simulation = Simulation(meters=meters)
        collectors = {row[4] for row in simulation.network.meter_counts(simulation.clock)}
        assert collectors == {collector_id(number) for number in range(simulation.network.collectors)}
        assert len(collectors) >= (4 if meters == 300 else 1)

    @pytest.mark.parametrize("profile", ["cellular-1h", "mesh-4h", "plc-daily"])
    def test_a_dead_one_misses_a_collection_of_each_of_its_meters(self, profile: str) -> None:
        faults = FaultRates(outages=0, dead_collectors=2, voltage_faults=0, tampers=0)
        simulation = Simulation(seed=9, meters=300, intervals=200, profile=profile, faults=faults, malformed_pct=0)
        records = list(simulation)
        for dead in simulation.conditions:
            assert dead.until_ms - dead.since_ms > int(simulation.network.cycle[0] - 1) * simulation.clock.interval_ms
            silent = {meter_id(m).encode() for m in range(dead.first_meter, dead.end_meter)}
            times = [record[1] // 1_000 for record in records if record[2] in silent]
            assert not [t for t in times if dead.since_ms <= t < dead.until_ms]


class TestArrival:
    @pytest.mark.parametrize("profile", ["realtime", "cellular-1h", "mesh-4h", "plc-daily", "mixed"])
    def test_record_times_never_fall_and_follow_the_interval(self, profile: str) -> None:
        records = list(Simulation(meters=60, intervals=100, profile=profile, malformed_pct=0))
        times = [record[1] for record in records]
        assert times == sorted(times)
        for record_time, read in reads_of(records):
            assert read["interval_end"] <= read["read_ts"] <= record_time
        for topic, record_time, key, value in records:
            body = json.loads(value)
            assert key.decode() == body["meter_id"]
            if topic == EVENTS:
                assert parse_instant(body["event_ts"]) < record_time

    def test_every_read_arrives_once_when_nothing_goes_wrong(self) -> None:
        simulation = Simulation(
            meters=80, intervals=200, profile="mixed", faults=QUIET, collection=CLEAN, malformed_pct=0
        )
        seen = Counter((read["meter_id"], read["interval_end"]) for _, read in reads_of(simulation))
        assert len(seen) == 80 * 200
        assert set(seen.values()) == {1}

    def test_realtime_reads_come_within_three_minutes_or_a_quarter_interval(self) -> None:
        for interval, limit in ((15 * MICROS_PER_MINUTE, 180), (20 * MICROS_PER_SECOND, 5)):
            simulation = Simulation(
                meters=80, interval=interval, intervals=4, faults=QUIET, collection=CLEAN, malformed_pct=0
            )
            delays = [record_time - read["interval_end"] for record_time, read in reads_of(simulation)]
            assert min(delays) > 0
            assert max(delays) <= limit * MICROS_PER_SECOND

    @pytest.mark.parametrize(("profile", "hours"), [("cellular-1h", 1), ("mesh-4h", 4), ("plc-daily", 24)])
    def test_collected_profiles_arrive_in_batches(self, profile: str, hours: int) -> None:
        simulation = Simulation(
            meters=40, intervals=300, profile=profile, faults=QUIET, collection=CLEAN, malformed_pct=0
        )
        arrivals: dict[str, list[int]] = defaultdict(list)
        for record_time, read in reads_of(simulation):
            arrivals[read["meter_id"]].append(record_time)
            assert record_time - read["interval_end"] < hours * MICROS_PER_HOUR
        for times in arrivals.values():
            gaps = np.diff(times)
            batches = np.split(np.array(times), np.flatnonzero(gaps > MICROS_PER_SECOND) + 1)
            # The first and the last batch may be cut by the run's own ends.
            assert {len(batch) for batch in batches[1:-1]} <= {hours * 4}
            assert len(batches) == pytest.approx(300 / (hours * 4), abs=2)

    def test_estimate_comes_first_and_the_actual_replaces_it(self) -> None:
        collection = CollectionRates(estimate_pct=20, resend_pct=20, late_pct=10)
        simulation = Simulation(meters=100, intervals=20, faults=QUIET, collection=collection, malformed_pct=0)
        versions: dict[tuple[str, int], list[tuple[int, dict[str, Any]]]] = defaultdict(list)
        for record_time, read in reads_of(simulation):
            versions[read["meter_id"], read["interval_end"]].append((record_time, read))
        assert len(versions) == 2_000
        estimated = [found for found in versions.values() if found[0][1]["estimated_flag"]]
        assert len(estimated) == pytest.approx(400, rel=0.25)
        replaced = [found for found in estimated if len(found) > 1]
        assert 0.75 < len(replaced) / len(estimated) < 0.95
        for found in replaced:
            assert found[0][1]["voltage_v"] is None
            assert not any(read["estimated_flag"] for _, read in found[1:])
            assert all(read["read_ts"] > found[0][1]["read_ts"] for _, read in found[1:])
        resent = [found for found in versions.values() if len(found) > 1 and not found[0][1]["estimated_flag"]]
        identical = [found for found in resent if found[0][1] == found[1][1]]
        assert 0.3 < len(identical) / len(resent) < 0.7

    def test_silent_head_end_sends_nothing_and_catches_up(self) -> None:
        silence = (MICROS_PER_HOUR, 2 * MICROS_PER_HOUR)
        faults = FaultRates(0, 0, 0, 0, silence=silence)
        simulation = Simulation(meters=50, intervals=24, faults=faults, collection=CLEAN, malformed_pct=0)
        begin = simulation.clock.start + silence[0]
        end = begin + silence[1]
        records = list(simulation)
        assert not [record for record in records if begin <= record[1] < end]
        catching_up = [record for record in records if end <= record[1] < end + silence[1] // 10]
        assert len(catching_up) >= 50 * 8
        assert len(reads_of(records)) == 50 * 24
        assert [c.kind for c in simulation.conditions] == ["SILENT_HEAD_END"]

    def test_is_lazy(self) -> None:
        simulation = Simulation(meters=50_000, intervals=None)
        began = time.process_time()
        first = list(itertools.islice(simulation, 1_000))
        assert len(first) == 1_000
        # One interval's arrivals, of a run without end.
        assert sum(len(part.meter) for part in simulation._reads_coming) < 50_000 * 0.2
        assert time.process_time() - began < 5


class TestPhysics:
    def test_reads_have_every_field_in_order(self, day: tuple[Simulation, list[dict[str, Any]]]) -> None:
        for read in day[1]:
            assert list(read) == FIELDS
            assert read["interval_end"] - read["interval_start"] == 15 * MICROS_PER_MINUTE

    def test_net_meters(self, day: tuple[Simulation, list[dict[str, Any]]]) -> None:
        for read in day[1]:
            net = read["delivered_kwh"] - read["received_kwh"]
            assert read["consumption_kwh"] == pytest.approx(net, abs=1e-9)
            assert min(read["delivered_kwh"], read["received_kwh"]) >= 0
        exporting = {read["meter_id"] for read in day[1] if read["received_kwh"] > 0}
        network = day[0].network
        assert exporting == {meter_id(m) for m in np.flatnonzero(network.pv_kw > 0).tolist()}
        assert any(read["consumption_kwh"] < 0 for read in day[1])

    def test_load_and_sun_follow_the_day(self, day: tuple[Simulation, list[dict[str, Any]]]) -> None:
        by_hour: Counter[int] = Counter()
        exported: Counter[int] = Counter()
        for read in day[1]:
            hour = (read["interval_start"] // MICROS_PER_HOUR) % 24
            by_hour[hour] += read["delivered_kwh"]
            exported[hour] += read["received_kwh"]
        assert by_hour[19] > 2 * by_hour[3]
        assert exported[12] > 0
        assert sum(exported[hour] for hour in (*range(6), *range(20, 24))) == 0

    def test_voltage_falls_along_the_feeder_and_stays_in_band(
        self, day: tuple[Simulation, list[dict[str, Any]]]
    ) -> None:
        simulation, reads = day
        network = simulation.network
        evening: dict[str, list[float]] = defaultdict(list)
        for read in reads:
            if read["voltage_v"] is None:
                continue
            assert 207 <= read["voltage_v"] <= 253
            if (read["interval_start"] // MICROS_PER_HOUR) % 24 in (19, 20):
                evening[read["transformer_id"]].append(read["voltage_v"])
        compared = 0
        for feeder in range(network.feeders):
            first, end = network.transformers_of_feeder(feeder)
            if end - first >= 2:
                near, far = (float(np.mean(evening[transformer_id(t)])) for t in (first, end - 1))
                assert near > far
                compared += 1
        assert compared >= 3

    def test_no_condition_never_means_a_violation_at_large(self) -> None:
        simulation = Simulation(meters=20_000, intervals=1, faults=QUIET, collection=CLEAN, malformed_pct=0)
        physics = simulation._writer._physics
        meters = np.arange(20_000)
        for interval in range(0, 96, 6):
            voltage = physics.measure(meters, np.full(20_000, interval)).voltage
            assert np.nanmin(voltage) > 207
            assert np.nanmax(voltage) < 253

    def test_short_intervals_compress_the_day(self) -> None:
        simulation = Simulation(interval=15 * MICROS_PER_SECOND, first_hour=0)
        assert simulation.clock.intervals_per_day == 96
        assert simulation.clock.hour_of_slot()[simulation.clock.slots(np.array([48]))[0]] == pytest.approx(12, abs=0.2)


class TestConditions:
    def test_demo_has_everything_within_ten_intervals(self, demo_run: tuple[Simulation, list[Record]]) -> None:
        simulation, records = demo_run
        until = simulation.clock.start + 11 * simulation.clock.interval
        early = [record for record in records if record[1] < until]
        assert {event["event_code"] for event in events_of(early)} >= {3840, 3841, 3842, 2048, 2049, 1024}
        volts = [read["voltage_v"] for _, read in reads_of(early) if read["voltage_v"] is not None]
        assert 100 < min(v for v in volts if v) < 207
        assert max(volts) > 253
        assert 0.0 in volts
        assert {c.kind for c in simulation.conditions} == {
            "LOW_VOLTAGE",
            "HIGH_VOLTAGE",
            "OUTAGE",
            "SILENT_COLLECTOR",
            "TAMPERING",
        }

    @pytest.mark.parametrize("meters", [10, 40, 3_000])
    def test_demo_works_at_other_sizes(self, meters: int) -> None:
        records = list(demo(meters=meters, intervals=12, profile="mixed" if meters > 1_000 else "realtime"))
        assert {event["event_code"] for event in events_of(records)} >= {3840, 3841, 3842, 2048, 2049, 1024}

    def test_truth_of_voltage_faults(self, demo_run: tuple[Simulation, list[Record]]) -> None:
        simulation, records = demo_run
        sick: dict[str, set[tuple[str, int]]] = {"LOW_VOLTAGE": set(), "HIGH_VOLTAGE": set()}
        for condition in simulation.conditions:
            if condition.kind in sick:
                for number in range(simulation.intervals or 0):
                    end_ms = simulation.clock.end_ms(number)
                    if condition.since_ms <= end_ms < condition.until_ms:
                        transformers = range(condition.first_transformer, condition.end_transformer)
                        sick[condition.kind] |= {(transformer_id(t), end_ms * 1_000) for t in transformers}
        seen: dict[str, set[tuple[str, int]]] = {"LOW_VOLTAGE": set(), "HIGH_VOLTAGE": set()}
        for _, read in reads_of(records):
            volts = read["voltage_v"]
            place = read["transformer_id"], read["interval_end"]
            if volts is not None and 100 < volts < 207:
                seen["LOW_VOLTAGE"].add(place)
            elif volts is not None and volts > 253:
                seen["HIGH_VOLTAGE"].add(place)
        assert seen == sick

    def test_truth_of_outages(self) -> None:
        faults = FaultRates(outages=12, dead_collectors=0, voltage_faults=0, tampers=0)
        simulation = Simulation(seed=5, meters=800, faults=faults, malformed_pct=0)
        records = list(simulation)
        reads = reads_of(records)
        outages = simulation.conditions
        assert len(outages) == 12
        dark = zero = 0
        for outage in outages:
            out = {meter_id(m) for m in range(outage.first_meter, outage.end_meter)}
            for _, read in reads:
                at_ms = read["interval_end"] // 1_000
                if read["meter_id"] in out and outage.since_ms <= at_ms < outage.until_ms:
                    dark += 1
                    if not read["estimated_flag"]:
                        assert read["voltage_v"] in (0.0, None)
                        zero += read["voltage_v"] == 0.0
            codes = Counter(event["event_code"] for event in events_of(records) if event["meter_id"] in out)
            assert min(codes[3840], codes[3841], codes[3842]) >= 1
        assert dark > zero > 20

    def test_zero_volts_only_in_outages(self, demo_run: tuple[Simulation, list[Record]]) -> None:
        simulation, records = demo_run
        (outage,) = [c for c in simulation.conditions if c.kind == "OUTAGE"]
        out = {meter_id(m) for m in range(outage.first_meter, outage.end_meter)}
        zero = [read for _, read in reads_of(records) if read["voltage_v"] == 0]
        assert zero
        for read in zero:
            assert read["meter_id"] in out
            assert outage.since_ms <= read["interval_end"] // 1_000 < outage.until_ms

    def test_dead_collector_is_silent_then_sends_its_backlog(self, demo_run: tuple[Simulation, list[Record]]) -> None:
        simulation, records = demo_run
        (dead,) = [c for c in simulation.conditions if c.kind == "SILENT_COLLECTOR"]
        silent = {meter_id(m).encode() for m in range(dead.first_meter, dead.end_meter)}
        times = [record[1] // 1_000 for record in records if record[2] in silent and record[0] == READS]
        assert not [t for t in times if dead.since_ms <= t < dead.until_ms]
        backlog = [t for t in times if dead.until_ms <= t < dead.until_ms + simulation.clock.interval_ms]
        assert len(backlog) >= 5 * len(silent)

    def test_lost_backlog(self) -> None:
        faults = FaultRates(outages=0, dead_collectors=8, voltage_faults=0, tampers=0)
        simulation = Simulation(seed=2, meters=300, faults=faults, collection=CLEAN, malformed_pct=0)
        reads = reads_of(simulation)
        assert {c.backlog for c in simulation.conditions} == {True, False}
        assert len(reads) < 300 * 96

    def test_tampered_meter_measures_less(self) -> None:
        honest = {
            (r["meter_id"], r["interval_end"]): r["delivered_kwh"]
            for _, r in reads_of(Simulation(meters=200, faults=QUIET, collection=CLEAN, malformed_pct=0))
        }
        faults = FaultRates(outages=0, dead_collectors=0, voltage_faults=0, tampers=1)
        simulation = Simulation(meters=200, faults=faults, collection=CLEAN, malformed_pct=0)
        changed = {
            r["meter_id"]
            for _, r in reads_of(simulation)
            if r["delivered_kwh"] < honest[r["meter_id"], r["interval_end"]]
        }
        assert changed == {meter_id(simulation.conditions[0].first_meter)}

    def test_events_have_their_quirks(self) -> None:
        faults = FaultRates(outages=20, voltage_faults=10, tampers=10)
        simulation = Simulation(meters=2_000, faults=faults, intervals=192, malformed_pct=0)
        events = events_of(simulation)
        assert {event["event_code"] for event in events} == {3840, 3841, 3842, 2048, 2049, 1024, 512}
        assert 0.05 < sum("event_desc" not in event for event in events) / len(events) < 0.2
        distinct = {(event["meter_id"], event["event_code"], event["event_ts"]) for event in events}
        assert 0.9 < len(distinct) / len(events) < 0.99


def announced_run(**changed: Any) -> tuple[Simulation, list[Record]]:
    """Two days of 500 meters with much that is announced, and nothing else."""
    rates = {"outages": 8, "planned_outages": 20, "work_orders": 30, "known_pct": 50, **changed}
    faults = FaultRates(dead_collectors=0, voltage_faults=0, tampers=0, **rates)
    simulation = Simulation(seed=4, meters=500, intervals=192, faults=faults, collection=CLEAN, malformed_pct=0)
    return simulation, list(simulation)


def said_in(records: Iterable[Record], topic: str, name: str) -> dict[str, list[dict[str, Any]]]:
    """By id what was said of it, in order, with the record time as `at`."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for of, record_time, key, value in records:
        if of == topic:
            body = json.loads(value)
            assert key.decode() == body[name]
            for field in ("from", "to"):
                body[field] = None if body[field] is None else parse_instant(body[field])
            found[body[name]].append({**body, "at": record_time})
    return found


class TestAnnouncements:
    @pytest.fixture(scope="class")
    def run(self) -> tuple[Simulation, list[Record]]:
        return announced_run()

    def test_every_record_is_accepted(self, run: tuple[Simulation, list[Record]]) -> None:
        for topic, source in ((OUTAGES, "oms"), (WORK, "work")):
            of = [record for record in run[1] if record[0] == topic]
            times, values = [record[1] for record in of], [record[3] for record in of]
            batch = RecordBatch(topic, [0] * len(of), list(range(len(of))), times, values)
            announced, letters = AnnouncementDecoder(Settings(), source).decode(batch, None)
            assert (len(announced), letters) == (len(of), [])

    def test_without_them_all_else_is_the_same(self, run: tuple[Simulation, list[Record]]) -> None:
        quiet, silent = announced_run(planned_outages=0, work_orders=0, known_pct=0)
        assert {record[0] for record in silent} == {READS, EVENTS}
        dark = [c for c in run[0].conditions if c.number >= 1 << 30]
        unplanned = [c for c in run[0].conditions if c.number < 1 << 30]
        assert [replace(c, announced=None) for c in unplanned] == quiet.conditions
        first = min(c.since_ms for c in dark) * 1_000
        before = [record for record in run[1] if record[1] < first and record[0] in (READS, EVENTS)]
        assert before == [record for record in silent if record[1] < first] != []
        # What the OMS gets to know changes no record of the head-end.
        known = announced_run(planned_outages=0, work_orders=0)[1]
        assert [record for record in known if record[0] != OUTAGES] == silent

    def test_planned_outages_are_announced_before_and_most_last_no_longer(
        self, run: tuple[Simulation, list[Record]]
    ) -> None:
        simulation, records = run
        said = said_in(records, OUTAGES, "outage_id")
        planned = [c for c in simulation.conditions if c.announced is not None and c.announced.kind == "PLANNED"]
        # Each of the eight feeders on both days, but for what was cancelled.
        assert simulation.network.feeders == 8
        assert 10 <= len(planned) <= 16
        entities, outlasted, moved = Counter[str](), 0, 0
        for outage in planned:
            assert outage.announced is not None
            transformers = [transformer_id(t) for t in range(outage.first_transformer, outage.end_transformer)]
            for name in outage.announced.ids:
                first, last = said[name][0], said[name][-1]
                assert all(each["kind"] == "PLANNED" and each["status"] == "ACTIVE" for each in said[name])
                assert last["at"] // 1_000 < outage.since_ms
                assert first["at"] // 1_000 == outage.announced.at_ms
                assert (last["from"] // 1_000, last["to"] // 1_000) == (
                    outage.announced.from_ms,
                    outage.announced.to_ms,
                )
                entities[last["entity_type"]] += 1
            if last["entity_type"] == "FEEDER":
                assert last["entity_id"] == feeder_id(
                    int(simulation.network.feeder_of_transformer[outage.first_transformer])
                )
            else:
                assert [said[name][-1]["entity_id"] for name in outage.announced.ids] == transformers
            outlasted += outage.until_ms > outage.announced.to_ms
            moved += len(said[outage.announced.ids[0]]) > 1
            assert abs(outage.since_ms - outage.announced.from_ms) < 10 * 60_000
        assert min(entities["FEEDER"], entities["TRANSFORMER"]) >= 3
        assert 1 <= outlasted <= 8
        assert moved >= 1
        happened = {name for outage in planned for name in outage.announced.ids if outage.announced}
        cancelled = [each[-1] for name, each in said.items() if each[-1]["status"] == "CANCELLED"]
        assert cancelled
        assert not happened & {each["outage_id"] for each in cancelled}
        assert all(each["at"] < each["from"] for each in cancelled)

    def test_known_outages_are_announced_once_they_have_begun(self, run: tuple[Simulation, list[Record]]) -> None:
        said = said_in(run[1], OUTAGES, "outage_id")
        known = [c for c in run[0].conditions if c.announced is not None and c.announced.kind == "KNOWN"]
        assert len(known) >= 4
        for outage in known:
            assert outage.announced is not None
            records = said[outage.announced.ids[0]]
            assert all(each["at"] // 1_000 > outage.since_ms for each in records)
            assert all(each["from"] // 1_000 <= outage.since_ms for each in records)
            assert [each["to"] is None for each in records] in ([True, False], [False])
            assert records[-1]["to"] // 1_000 >= outage.until_ms

    def test_work_leaves_one_meter_without_supply_while_it_lasts(self, run: tuple[Simulation, list[Record]]) -> None:
        simulation, records = run
        said = said_in(records, WORK, "work_id")
        work = [c for c in simulation.conditions if c.kind == "WORK"]
        assert len(work) == 60
        assert {c.announced.kind for c in work if c.announced} == {"EXCHANGE", "DISCONNECT", "TEST"}
        assert {each["transformer_id"] is None for several in said.values() for each in several} == {True, False}
        outages = [c for c in simulation.conditions if c.kind == "OUTAGE"]
        events = events_of(records)
        ends_at_zero: dict[str, list[int]] = defaultdict(list)
        for _, read in reads_of(records):
            if read["voltage_v"] == 0:
                ends_at_zero[read["meter_id"]].append(read["interval_end"] // 1_000)
        zero = 0
        for each in work:
            assert each.announced is not None
            (record,) = said[each.announced.ids[0]]
            assert record["at"] // 1_000 < each.since_ms
            assert record["from"] // 1_000 <= each.since_ms < each.until_ms <= record["to"] // 1_000
            meter = meter_id(each.first_meter)
            assert record["meter_id"] == meter
            said_by_it = [event["event_code"] for event in events if event["meter_id"] == meter]
            if not any(c.first_meter <= each.first_meter < c.end_meter for c in outages):
                assert {3840, 3841} <= set(said_by_it)
                assert 3842 not in said_by_it
            zero += sum(each.since_ms <= end < each.until_ms for end in ends_at_zero[meter])
        assert zero > 10

    def test_a_run_awaits_nothing_that_is_announced_for_later(self) -> None:
        faults = FaultRates(0, 0, 0, 0, planned_outages=50, work_orders=50)
        simulation = Simulation(meters=100, intervals=4, faults=faults, collection=CLEAN, malformed_pct=0)
        assert max(record[1] for record in simulation) < simulation.clock.start + 5 * simulation.clock.interval

    def test_a_short_day_has_its_working_hours(self) -> None:
        simulation = Simulation(meters=500, interval=15 * MICROS_PER_SECOND, first_hour=7, intervals=40)
        plans = list(Announcer(simulation.network, simulation.clock).outages(0, 20))
        intervals = [(plan.since_ms - simulation.clock.start_ms) / simulation.clock.interval_ms for plan in plans]
        assert min(intervals) >= 1
        assert sum(interval < 40 for interval in intervals) >= 7


class TestMalformed:
    def test_a_corrupted_copy_is_never_the_original(self) -> None:
        values = [next(r[3] for r in demo() if r[0] == topic) for topic in (READS, EVENTS)]
        for value in values:
            copies = [corrupt(value, i / len(CORRUPTIONS)) for i in range(len(CORRUPTIONS))]
            assert value not in copies
            assert len(set(copies)) >= 9

    def test_share(self) -> None:
        good = list(Simulation(meters=200, intervals=20, malformed_pct=0))
        mixed = list(Simulation(meters=200, intervals=20, malformed_pct=5))
        assert len(mixed) / len(good) == pytest.approx(1.05, abs=0.015)
        remaining = iter(mixed)
        assert all(record in remaining for record in good)


class TestCommandLine:
    def test_replay_files(self, tmp_path: Path) -> None:
        assert (
            simulate.main([f"--output={tmp_path}", "--meters=120", "--intervals=30", "--profile=mixed", "--quiet"]) == 0
        )
        written = []
        for name, topic in (("reads", READS), ("events", EVENTS)):
            last = 0
            with gzip.open(tmp_path / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
                for line in lines:
                    entry = json.loads(line)
                    assert list(entry) == ["ts_ms", "key", "value_b64"]
                    assert entry["ts_ms"] >= last
                    last = entry["ts_ms"]
                    value = base64.b64decode(entry["value_b64"], validate=True)
                    written.append((topic, last * 1_000, entry["key"].encode(), value))
        expected = list(Simulation(meters=120, intervals=30, profile="mixed"))
        assert sorted(written) == sorted(expected)

        with open(tmp_path / "transformer_meter_count.csv", newline="", encoding="utf-8") as file:
            counts = {row["transformer_id"]: row for row in csv.DictReader(file)}
        with open(tmp_path / "meter_registry.csv", newline="", encoding="utf-8") as file:
            registry = list(csv.DictReader(file))
        sizes = Counter(row["transformer_id"] for row in registry)
        assert {transformer: int(row["total_meters"]) for transformer, row in counts.items()} == sizes
        assert {row["transformer_id"]: row["collection_group"] for row in registry} == {
            transformer: row["collection_group"] for transformer, row in counts.items()
        }
        for row in registry:
            assert bool(counts[row["transformer_id"]]["receipt_delay_minutes"]) == (row["profile"] != "realtime")
        truth = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text(encoding="utf-8").splitlines()]
        for line in truth:
            assert parse_instant(line["since"]) < parse_instant(line["until"])

    def test_what_is_announced_has_files_of_its_own(self, tmp_path: Path) -> None:
        options = [f"--output={tmp_path}", "--meters=100", "--intervals=8", "--quiet"]
        assert simulate.main([*options, "--planned_outages=5", "--work_orders=5"]) == 0
        for name, topic, field in (("outages", OUTAGES, "outage_id"), ("work", WORK, "work_id")):
            found = list(exported(tmp_path / f"{name}.jsonl.gz"))
            faults = FaultRates(planned_outages=5, work_orders=5)
            expected = [r for r in Simulation(meters=100, intervals=8, faults=faults) if r[0] == topic]
            assert [base64.b64decode(row["value_b64"]) for row in found] == [record[3] for record in expected]
            assert [row["key"] for row in found] == [json.loads(record[3])[field] for record in expected]
            assert expected

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["--output=x", "--meters=0"],
            ["--output=x", "--window=15"],
            ["--output=x", "--silence=2h"],
            ["--output=x", "--malformed_pct=101"],
            ["--output=x", "--known_pct=101"],
            ["--output=x", "--planned_outages=-1"],
            ["--output=x", "--work_orders=many"],
            ["--output=x", "--intervals=3", "--duration=1h"],
            ["--output=x", "--start=yesterday"],
        ],
    )
    def test_refuses_nonsense(self, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit, match="2"):
            simulate.main(arguments)
        assert not list(tmp_path.iterdir())

    def test_realtime_stops_cleanly_on_sigterm(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "ami_beam.simulate", f"--output={tmp_path}", "--realtime", "--interval=1s"]
        process = subprocess.Popen([*command, "--meters=50"], stderr=subprocess.PIPE, cwd=Path(__file__).parent.parent)
        time.sleep(3.5)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
        assert process.returncode == 0, errors
        with gzip.open(tmp_path / "reads.jsonl.gz", "rt", encoding="utf-8") as lines:
            times = [json.loads(line)["ts_ms"] for line in lines]
        assert times
        assert times[-1] <= time.time() * 1_000

    def test_publishes_with_record_times(self) -> None:
        # librdkafka's own broker, over TCP; it lives as long as this producer. It creates topics when asked for them.
        broker = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "unused"})
        for topic in (READS, EVENTS, "transformer_meter_count"):
            broker.produce(topic, b"before")
        broker.flush(10)
        (address,) = [f"{b.host}:{b.port}" for b in broker.list_topics(timeout=10).brokers.values()]
        start = "--start=2026-03-03T00:00:00Z"
        assert simulate.main([f"--bootstrap_servers={address}", "--meters=30", "--intervals=3", start, "--quiet"]) == 0

        expected = Counter(record for record in Simulation(meters=30, intervals=3) if record[0] == READS)
        consumer = Consumer({"bootstrap.servers": address, "group.id": "test", "auto.offset.reset": "earliest"})
        consumer.subscribe([READS])
        got: Counter[Record] = Counter()
        deadline = time.monotonic() + 15
        while got.total() < expected.total() and time.monotonic() < deadline:
            message = consumer.poll(0.5)
            if message is not None and message.error() is None and message.value() != b"before":
                got[READS, message.timestamp()[1] * 1_000, message.key(), message.value()] += 1
        consumer.close()
        assert got == expected
