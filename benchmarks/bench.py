"""Compares ami-beam with its alternatives on the same topic: `make bench`, or `python -m benchmarks.bench`.

All systems read the same records from the same local broker, one after another and in turn, each from a topic of its
own, and publish summary rows, which must be the same. CPU seconds are those of all processes that a system needs,
without the broker's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from ami_beam.codecs.json_outputs import RESULT_TOPICS
from ami_beam.consumers import OPTIONAL_TOPICS
from ami_beam.local.kafka_broker import KafkaBroker
from benchmarks import consume_only, systems, throughput
from benchmarks.ending import leave_with
from benchmarks.systems import Place
from benchmarks.throughput import Measured
from benchmarks.workload import PARTITIONS, Arrivals, Workload

CONSUME_ONLY = "consume-only"
REFERENCE = "flink-sql"
PROGRESS_SECONDS = 10.0


def main(argv: list[str] | None = None) -> int:
    """Run the comparison. Returns 0, or 1 when two systems' rows differ."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    add = parser.add_argument
    # The small ones first: meanwhile the broker's JVM compiles.
    known = [CONSUME_ONLY, *systems.SYSTEMS]
    usual = [name for name in known if name != systems.ALL_CONSUMERS]
    add("--systems", default=",".join(usual), help=f"which, of {', '.join(known)} (all but the one of all consumers)")
    add("--consumers", action="store_true", help=f"also {systems.ALL_CONSUMERS}: with all that --also_publish names")
    add("--reads", type=int, default=2_000_000, help="measured reads, at least (2,000,000)")
    add("--meters", type=int, default=20_000, help="meters; ten each have a transformer (20,000)")
    add("--late", default="0,6", help="per cent of the reads that are late, a run for each (0,6)")
    add("--rounds", type=int, default=3, help="how often each system runs, in turn; the median is reported (3)")
    add("--quick", action="store_true", help="one round without late reads: under 15 minutes")
    add("--json", action="store_true", help="results as JSON on standard output; progress stays on standard error")
    add("--logs", type=Path, help="folder that keeps the systems' logs")
    options = parser.parse_args(argv)
    if options.quick:
        options.rounds, options.late = 1, "0"
    chosen = [name.strip() for name in options.systems.split(",")]
    if options.consumers and systems.ALL_CONSUMERS not in chosen:
        chosen.append(systems.ALL_CONSUMERS)
    if unknown := set(chosen) - set(known):
        parser.error(f"--systems: {', '.join(sorted(unknown))} is not one of {', '.join(known)}")

    for name in chosen:
        if name != CONSUME_ONLY and (prepare := systems.SYSTEMS[name].prepare):
            prepare()
    os.sync()  # a disk that is still busy with what set-up has written costs whoever is measured first
    results, same = [], True
    with tempfile.TemporaryDirectory(prefix="ami-beam-bench-") as folder:
        logs = options.logs or Path(folder)
        logs.mkdir(parents=True, exist_ok=True)
        for late in (float(each) for each in options.late.split(",")):
            found, agree = _compare(chosen, options, late, Path(folder), logs)
            results += found
            same &= agree
    if options.json:
        print(json.dumps({"systems": results}))
    else:
        _print_table(results)
    return 0 if same else 1


def _compare(
    chosen: list[str], options: argparse.Namespace, late: float, folder: Path, logs: Path
) -> tuple[list[dict], bool]:
    workload = Workload.of(options.reads, options.meters, late)
    arrivals = workload.arrivals()
    counts = folder / "counts.csv"
    arrivals.write_meter_counts(str(counts))
    measured: dict[str, list[Measured]] = {}
    with KafkaBroker(heap="1g") as broker:
        broker.create_topic(systems.EVENTS)
        broker.create_topic(systems.ALERTS, partitions=PARTITIONS)
        for topic in (*RESULT_TOPICS, *OPTIONAL_TOPICS.values()):
            broker.create_topic(topic, partitions=PARTITIONS)
        for number in range(options.rounds):
            for name in chosen:
                own = f"bench.{name.replace(' ', '.')}.{number}"
                reads = f"{own}.reads"
                system = None if name == CONSUME_ONLY else systems.SYSTEMS[name]
                if late and system is not None and not system.takes_late_reads:
                    continue
                _say(f"{late:g} % late, round {number + 1} of {options.rounds}: {name}, {workload.reads:,} reads")
                broker.create_topic(reads, partitions=PARTITIONS)
                if system is None:
                    measured.setdefault(name, []).append(_consume(broker.bootstrap_servers, reads, arrivals))
                    continue
                if system.own_topic:
                    broker.create_topic(own, partitions=PARTITIONS)
                place = Place(broker.bootstrap_servers, counts, own, reads)
                log = logs / f"{name.replace(' ', '-')}-{late:g}-{number}.log"
                result = throughput.run(system, place, arrivals, log, _Progress())
                _say(
                    f"{name}: {result.cpu_s_per_million:.2f} CPU-s per million ({_programs(result)}),"
                    f" {result.reads_per_s:,.0f} reads/s, {result.peak_rss_mb:,.0f} MB, {len(result.rows):,} rows"
                )
                measured.setdefault(name, []).append(result)
    same = _same_rows(measured)
    results = []
    reference = measured.get(REFERENCE)
    base = median(each.cpu_s_per_million for each in reference) if reference else None
    for name, runs in measured.items():
        cpu = median(each.cpu_s_per_million for each in runs)
        results.append(
            {
                "system": name,
                "late_pct": late,
                "cpu_s_per_million": round(cpu, 2),
                "reads_per_s": round(median(each.reads_per_s for each in runs)),
                "peak_rss_mb": round(max(each.peak_rss_mb for each in runs)),
                "cpu_ratio_to_flink_sql": round(cpu / base, 2) if base else None,
                "cpu_by_program": {
                    name: round(median(each.cpu_by_program[name] for each in runs), 2)
                    for name in sorted(runs[0].cpu_by_program)
                },
                "runs": [round(each.cpu_s_per_million, 2) for each in runs],
            }
        )
    return results, same


def _same_rows(measured: dict[str, list[Measured]]) -> bool:
    """Whether all runs that publish rows published the same; says which differ."""
    runs = [(name, each.rows) for name, results in measured.items() for each in results if each.rows]
    if not runs:
        return True
    first_name, first = runs[0]
    same = True
    for name, rows in runs[1:]:
        if rows != first:
            same = False
            differing = sorted(key for key in rows.keys() | first.keys() if rows.get(key) != first.get(key))
            key = differing[0]
            _say(f"DIFFERENT ROWS: {name} and {first_name} in {len(differing)} rows of {len(first)}, the first {key}:")
            _say(f"  {name}: {rows.get(key)}")
            _say(f"  {first_name}: {first.get(key)}")
    if same:
        _say(f"all {len(runs)} runs published the same {len(first):,} rows")
    return same


def _consume(bootstrap_servers: str, topic: str, arrivals: Arrivals) -> Measured:
    arrivals.publish(bootstrap_servers, topic, range(arrivals.workload.windows))
    points = [arrivals.workload.reads // 5, arrivals.workload.reads]
    command = [sys.executable, consume_only.__file__, bootstrap_servers, topic, *map(str, points)]
    before, after = (json.loads(line) for line in subprocess.check_output(command, text=True).splitlines())
    reads = after["reads"] - before["reads"]
    cpu = (after["cpu_s"] - before["cpu_s"]) / reads * 1e6
    return Measured(
        cpu,
        {"python": cpu},
        reads / (after["wall_s"] - before["wall_s"]),
        after["rss_mb"],
        {},
    )


def _print_table(results: list[dict]) -> None:
    print(f"{'system':<20} {'late':>5} {'CPU-s/million':>14} {'reads/s':>10} {'peak MB':>8} {'to Flink SQL':>13}")
    for each in results:
        ratio = each["cpu_ratio_to_flink_sql"]
        print(
            f"{each['system']:<20} {each['late_pct']:>4g}% {each['cpu_s_per_million']:>14.2f}"
            f" {each['reads_per_s']:>10,} {each['peak_rss_mb']:>8,} {f'{ratio:.2f}' if ratio else '':>13}"
        )


def _programs(result: Measured) -> str:
    return ", ".join(f"{name} {seconds:.2f}" for name, seconds in sorted(result.cpu_by_program.items()))


def _say(text: str) -> None:
    print(f"\r{time.strftime('%H:%M:%S')} {text}{' ' * 20}", file=sys.stderr, flush=True)


class _Progress:
    """A line that is rewritten on a terminal; elsewhere a line every ten seconds."""

    def __init__(self) -> None:
        self._said = 0.0

    def __call__(self, text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r  {text}   ", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self._said >= PROGRESS_SECONDS:
            self._said = time.monotonic()
            _say(f"  {text}")


if __name__ == "__main__":
    leave_with(main)
