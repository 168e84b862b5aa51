"""One run of one system over a topic of reads: CPU seconds per million reads, reads per second, peak memory, rows.

The system is started on the reads of the warm-up. When it has published their windows, the measured reads are shown to
it all at once, as a backlog, and it is measured until the rows of all their windows are there but the last, which is
due only when its time has come. So everything that the measured reads cost is counted, reading and publishing, and
nothing that a system starts with (JVM, class loading, compilation, the first state).

A system that may not catch up in between (`System.whole_backlog`) finds all reads from the start on, and is measured
between two windows, both with reads to come, so that what it has read ahead is as much at either end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.process_tree import PeakMemory, cpu_by_program
from benchmarks.summary_watch import SummaryWatch
from benchmarks.systems import Place, Running, System
from benchmarks.workload import Arrivals

STALL_SECONDS = 120.0
_START_SECONDS = 420.0
"""Until the first row: JVMs start, and Flink SQL runs two jobs before the measured one."""
_POLL_SECONDS = 0.1
_SETTLE_SECONDS = 3.0
_READ_AHEAD_WINDOWS = 10
"""More than a system that is measured between two windows reads beyond the one that it publishes."""


@dataclass(frozen=True)
class Measured:
    """The figures of one run. `rows` are the last version of every row of the windows that were over."""

    cpu_s_per_million: float
    cpu_by_program: dict[str, float]
    """The same, split into "java" and "python"."""
    reads_per_s: float
    peak_rss_mb: float
    rows: dict[tuple[str, str, str], tuple[Any, ...]]


def run(system: System, place: Place, arrivals: Arrivals, log: Path, progress: Callable[[str], None]) -> Measured:
    """Publish the reads to `place.reads`, which is empty, run the system on them and measure it; then stop it.

    Raises RuntimeError when it ends, or publishes nothing for two minutes (seven at its start), ValueError for too few
    windows.
    """
    workload = arrivals.workload
    wanted = arrivals.transformers_on_time()
    warm_up = range(workload.warmup_windows)
    measured = range(workload.warmup_windows, workload.windows)
    first, last = warm_up[-2], measured[-2]
    if system.whole_backlog:
        last -= _READ_AHEAD_WINDOWS
        if last - first < _READ_AHEAD_WINDOWS:
            raise ValueError(f"{system.name} needs reads of {3 * _READ_AHEAD_WINDOWS} windows at least: more --reads")
    arrivals.publish(place.bootstrap_servers, place.reads, range(workload.windows) if system.whole_backlog else warm_up)
    watch = SummaryWatch(place.bootstrap_servers, system.summaries(place))
    try:
        with Running(system, place, log) as process, PeakMemory(process.pid) as memory:

            def until(window: int) -> tuple[dict[str, float], float]:
                text = workload.window_end_text(window)
                published, moved = -1, time.monotonic()
                while watch.rows[text] < wanted[window]:
                    process.check()
                    watch.collect(_POLL_SECONDS)
                    now = time.monotonic()
                    total = watch.rows.total()
                    if total != published:
                        published, moved = total, now
                        done = sum(watch.rows[workload.window_end_text(w)] >= n for w, n in enumerate(wanted))
                        progress(f"{done}/{workload.windows} windows")
                    elif now - moved > (STALL_SECONDS if published else _START_SECONDS):
                        raise RuntimeError(f"{system.name} published nothing for {now - moved:.0f} s:\n{_tail(log)}")
                return cpu_by_program(process.pid), time.monotonic()

            cpu_before, time_before = until(first)
            if not system.whole_backlog:
                show = arrivals.prepare(place.bootstrap_servers, place.reads, measured)
                cpu_before, time_before = cpu_by_program(process.pid), time.monotonic()
                show()
            cpu_after, time_after = until(last)
            until(measured[-2])
            watch.collect(_SETTLE_SECONDS)
        over = {workload.window_end_text(window) for window in range(workload.windows - 2)}
        rows = {key: row for key, row in watch.newest().items() if key[2] in over}
    finally:
        watch.close()
    reads = arrivals.reads_in(range(first + 1, last + 1) if system.whole_backlog else measured)
    programs = {name: (seconds - cpu_before.get(name, 0.0)) / reads * 1e6 for name, seconds in cpu_after.items()}
    return Measured(sum(programs.values()), programs, reads / (time_after - time_before), memory.peak / 1e6, rows)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]
