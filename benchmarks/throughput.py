"""One run of one system over a topic of reads: CPU seconds per million reads, reads per second, peak memory, rows.

The points between which is measured are windows: a window is complete when all its transformers have a row. What a
system starts with (JVM, class loading, compilation, the first state) lies before the first point.
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
_POLL_SECONDS = 0.1
_SETTLE_SECONDS = 3.0


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
    """Start the system, measure it between two windows, let it finish, stop it.

    Raises RuntimeError when it ends, or publishes nothing for two minutes.
    """
    workload = arrivals.workload
    wanted = arrivals.transformers_on_time()
    # Window w is due when a read of window w + 1 is there: the windows before a position are complete when it begins.
    first = workload.warmup_windows - 1
    last = first + workload.measured_windows
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
                    elif now - moved > STALL_SECONDS:
                        raise RuntimeError(f"{system.name} published nothing for {STALL_SECONDS:g} s:\n{_tail(log)}")
                return cpu_by_program(process.pid), time.monotonic()

            cpu_before, time_before = until(first)
            cpu_after, time_after = until(last)
            # The last window is due only when its collection delay has passed on the wall clock.
            until(workload.windows - 2)
            watch.collect(_SETTLE_SECONDS)
        over = {workload.window_end_text(window) for window in range(workload.windows - 2)}
        rows = {key: row for key, row in watch.newest().items() if key[2] in over}
    finally:
        watch.close()
    reads = arrivals.measured_reads()
    programs = {name: (seconds - cpu_before.get(name, 0.0)) / reads * 1e6 for name, seconds in cpu_after.items()}
    return Measured(sum(programs.values()), programs, reads / (time_after - time_before), memory.peak / 1e6, rows)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]
