"""How the pipeline and the page's own reading stand, in numbers and in a sentence for people."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ami_beam.dashboard.feed import FeedState
from ami_beam.dashboard.hub import Hub
from ami_beam.dashboard.map_views import newest_judged
from ami_beam.flink_rest import FlinkError, FlinkRest
from ami_beam.instants import MICROS_PER_SECOND, format_duration, format_instant

_DELAY_CLASSES = 30
_LEAST_STALE = 60 * MICROS_PER_SECOND
_FLINK_SECONDS = 10.0
Document = dict[str, Any]
_log = logging.getLogger(__name__)


class FlinkWatch:
    """Asks a JobManager now and then how the job is; the newest answer is in `found`."""

    def __init__(self, master: str, job_name: str) -> None:
        self.found: Document = {"job": job_name, "state": "UNKNOWN", "checkpoint_age_seconds": None}
        self._rest = FlinkRest(master)
        self._name = job_name
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="flink", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(_FLINK_SECONDS)

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                self.found = self.look()
            except (FlinkError, OSError, ValueError, LookupError) as error:
                if self.found["state"] != "UNREACHABLE":
                    _log.warning("Flink does not say how the job is: %s", error)
                self.found = {"job": self._name, "state": "UNREACHABLE", "checkpoint_age_seconds": None}
            self._stop.wait(_FLINK_SECONDS)

    def look(self) -> Document:
        """How the job is now. Raises FlinkError where nobody says."""
        jobs = [job for job in self._rest.jobs() if job.name == self._name]
        # One that has ended is remembered beside the one that was started after it.
        job = next((job for job in jobs if not job.ended), jobs[-1] if jobs else None)
        if job is None:
            return {"job": self._name, "state": "MISSING", "checkpoint_age_seconds": None}
        completed = (self._rest.checkpoints(job.id).get("latest") or {}).get("completed") or {}
        at = completed.get("latest_ack_timestamp")
        age = None if at is None else max(time.time() - at / 1000, 0.0)
        return {"job": job.name, "state": job.state, "checkpoint_age_seconds": age}


class Health:
    """Puts together how all stands. Any thread may ask.

    Args:
      stale_after: microseconds without a newer window after which results are called stale; None: a window, the
        collection delay, and as long as a window again, but at least a minute.
    """

    def __init__(
        self,
        hub: Hub,
        feed: FeedState,
        flink: FlinkWatch | None = None,
        stale_after: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._hub = hub
        self._feed = feed
        self._flink = flink
        self._stale_after = stale_after
        self._clock = clock

    def document(self, delays: bool = True) -> Document:
        """As the page has it, with or without how long reads take."""
        hub, feed, now = self._hub, self._feed, self._clock()
        micros = int(now * MICROS_PER_SECOND)
        with hub.lock:
            grid = hub.grid
            newest = max(grid.windows, default=None)
            window = None if newest is None else grid.windows[newest]
            published = [] if window is None else list(window.delays)
            as_of = grid.newest_as_of or None
            told: Document = {
                "transformers": len(grid.transformers),
                "feeders": len(grid.feeders),
                "windows": len(grid.windows),
                "memory_mb": round(grid.nbytes / 1e6, 1),
            }
            length = hub.window or grid.window_length or hub.settings.window
            collection_delay = hub.settings.collection_delay if hub.collection_delay is None else hub.collection_delay
            arrivals = self._delays() if delays else None
        status, message, since = self._status(micros, newest, length, collection_delay)
        told |= {
            "now": format_instant(micros // 1000 * 1000),
            "status": status,
            "message": message,
            "since": since,
            "newest_window_end": None if newest is None else format_instant(newest),
            "window_age_seconds": None if newest is None else round((micros - newest) / MICROS_PER_SECOND, 1),
            "result_delay_seconds": round(float(np.median(published)) / MICROS_PER_SECOND, 1) if published else None,
            "as_of": None if as_of is None else format_instant(as_of),
            "watermark_lag_seconds": None if as_of is None else round((micros - as_of) / MICROS_PER_SECOND, 1),
            "reads_per_second": None if feed.reads_per_second is None else round(feed.reads_per_second, 1),
            "rows_per_second": round(hub.rows.per_second(), 1),
            "topics": [
                {
                    "topic": topic,
                    "partitions": state.partitions,
                    "behind": state.behind,
                    "problem": state.problem or self._unreadable(topic),
                }
                for topic, state in sorted(dict(feed.topics).items())
            ],
            "flink": None if self._flink is None else self._flink.found,
        }
        return told | {"delays": arrivals} if delays else told

    def _unreadable(self, topic: str) -> str | None:
        count = self._hub.unreadable[topic]
        return f"{count:,} records could not be read" if count else None

    def _status(self, now: int, newest: int | None, length: int, collection_delay: int) -> tuple[str, str, str | None]:
        feed = self._feed
        since = int(feed.since * MICROS_PER_SECOND) // 1000 * 1000
        if not feed.connected and (feed.caught_up or feed.problem is not None):
            text = format_instant(since)
            return "disconnected", f"Kafka does not answer since {text[11:19]}Z; shown is what was known", text
        missing = sorted(topic for topic, state in dict(feed.topics).items() if state.problem)
        if missing:
            return "starting", f"Topic {', '.join(missing)} is missing, or may not be read", None
        if not feed.caught_up:
            behind = sum(state.behind for state in dict(feed.topics).values())
            return "starting", f"Reading what was published before: {behind:,} records are left", None
        if newest is None:
            return "starting", "No window has been published yet", None
        after = self._stale_after
        if after is None:
            after = length + collection_delay + max(length, _LEAST_STALE)
        if now - newest > after:
            age = (now - newest) // MICROS_PER_SECOND * MICROS_PER_SECOND
            text = f"No new results: the newest window ended {format_duration(age)} ago, at {format_instant(newest)}"
            return "stale", text, format_instant(newest)
        return "ok", f"The newest window ended at {format_instant(newest)[11:19]}Z", None

    def _delays(self) -> Document:
        grid = self._hub.grid
        end = newest_judged(grid)
        seconds = np.empty(0) if end is None else grid.delays_of(grid.windows[end])
        if not len(seconds):
            return {"bounds_seconds": [], "counts": [], "p50": None, "p90": None, "p99": None}
        top = float(np.percentile(seconds, 99))
        bounds = np.linspace(0, max(top, 1.0), _DELAY_CLASSES + 1)
        counts, _ = np.histogram(np.minimum(seconds, bounds[-1]), bounds)
        p50, p90, p99 = (round(float(each), 2) for each in np.percentile(seconds, [50, 90, 99]))
        return {
            "bounds_seconds": [round(float(each), 3) for each in bounds],
            "counts": counts.tolist(),
            "p50": p50,
            "p90": p90,
            "p99": p99,
        }
