"""`make chaos`: faults on real processes, and a proof that nothing was lost and nothing invented.

Every scenario has processes of its own: Kafka, a Flink cluster, a worker pool, ami_beam.run, and a head-end that
publishes for a minute while they fail at seeded random instants. Afterwards the final rows, the final state of every
alert and the dead letters must be those that the same records give without a fault, and after every fault the job must
run again, take checkpoints and move its watermark within a minute.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from tests.chaos.run_scenario import run_scenario
from tests.chaos.scenarios import SCENARIOS


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the faults' instants and of the records (1)")
    parser.add_argument("--rounds", type=int, default=1, help="how often, each with the next seed (1)")
    parser.add_argument(
        "--scenarios",
        default=",".join(each.name for each in SCENARIOS),
        help="which, of %(default)s (all)",
    )
    parser.add_argument("--meters", type=int, default=300, help="of the simulated head-end (300)")
    parser.add_argument(
        "--jobs", type=int, default=1, help="how many scenarios run at the same time; each has some ten processes (1)"
    )
    parser.add_argument("--logs", type=Path, help="folder that keeps the logs and results of failed scenarios")
    options = parser.parse_args()
    by_name = {each.name: each for each in SCENARIOS}
    unknown = [name for name in options.scenarios.split(",") if name not in by_name]
    if unknown:
        parser.error(f"no scenario {unknown[0]}; there are {', '.join(by_name)}")
    chosen = [by_name[name] for name in options.scenarios.split(",")]
    for scenario in [each for each in chosen if each.needs_root and os.geteuid() != 0]:
        print(f"{scenario.name} is left out: it mounts a small file system, which only root may")
        chosen.remove(scenario)
    faults = lost = invented = failed = 0
    recoveries: list[float] = []
    runs = [(each, seed) for seed in range(options.seed, options.seed + options.rounds) for each in chosen]
    # A process for each, because the children of a process are its main thread's.
    pool = ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        futures = [pool.submit(run_scenario, each, seed, options.meters, options.logs) for each, seed in runs]
        for future in as_completed(futures):
            result = future.result()
            print(result.line, flush=True)
            faults += result.faults
            lost += result.lost
            invented += result.invented
            failed += bool(result.problem)
            recoveries += result.recoveries
    finally:
        pool.shutdown(cancel_futures=True)
    if recoveries:
        recoveries.sort()
        print(f"recovery p50 {recoveries[len(recoveries) // 2]:.1f} s, worst {recoveries[-1]:.1f} s")
    if failed:
        print(f"{failed} scenarios FAILED")
    print(f"{faults} faults, {len(chosen) * options.rounds} scenarios, {lost} rows lost, {invented} invented")
    return 1 if failed or lost or invented else 0


def _interrupt(*_: object) -> None:
    """As Ctrl-C in a terminal does, which reaches the scenarios, too: each of them stops what it has started."""
    for child in multiprocessing.active_children():
        if child.pid is not None:
            os.kill(child.pid, signal.SIGINT)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
