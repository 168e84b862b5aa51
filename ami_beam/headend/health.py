"""What the adapter tells of itself: `/healthz` with reasons, and `/metrics` as Prometheus reads them."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PREFIX = "ami_headend_"
_SKEW_SECONDS = 60.0
_log = logging.getLogger(__name__)

METRICS = {
    "requests_total": ("counter", "Requests sent to the head-end"),
    "request_failures_total": ("counter", "Requests without an answer that could be used, by reason"),
    "throttled_total": ("counter", "Answers 429: too many requests"),
    "published_total": ("counter", "Records published"),
    "repeated_total": ("counter", "Records that the head-end gave again, and that were published already"),
    "setaside_total": ("counter", "Records and pages set aside, by reason"),
    "aborted_transactions_total": ("counter", "Transactions that were given up and done again"),
    "last_success_timestamp_seconds": ("gauge", "When a round, or a range or page of it, was last complete"),
    "position_timestamp_seconds": (
        "gauge",
        "Up to when the head-end has been asked, where it is asked for ranges of time",
    ),
    "clock_skew_seconds": ("gauge", "The head-end's clock less ours"),
    "remembered_records": ("gauge", "Digests of published records that are held, to know repeats"),
    "healthy": ("gauge", "1 where /healthz has no reason against this source"),
}
"""By the name behind the prefix: type and help. All have the label `source`."""


class SourceHealth:
    """How one source is doing. Its own thread writes, and the server's read."""

    def __init__(self, name: str, unhealthy_after: float) -> None:
        self.name = name
        self._after = unhealthy_after
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._gauges: dict[str, float] = {}
        self._problems: dict[str, str] = {}
        self._since = time.time()
        self._skew_told = False

    def requested(self) -> None:
        self._count("requests_total")

    def failed_request(self, reason: str) -> None:
        self._count("request_failures_total", reason)

    def throttled(self) -> None:
        self._count("throttled_total")

    def aborted(self) -> None:
        self._count("aborted_transactions_total")

    def committed(self, published: int, repeated: int, set_aside: Iterable[str], remembered: int) -> None:
        """A transaction is complete."""
        with self._lock:
            self._counts["published_total", ""] += published
            self._counts["repeated_total", ""] += repeated
            for reason in set_aside:
                self._counts["setaside_total", reason] += 1
            self._gauges["remembered_records"] = remembered

    def position(self, until: int) -> None:
        self._gauge("position_timestamp_seconds", until / 1e6)

    def clock_skew(self, seconds: float) -> None:
        self._gauge("clock_skew_seconds", seconds)
        if abs(seconds) > _SKEW_SECONDS and not self._skew_told:
            self._skew_told = True
            _log.warning("%s: the head-end's clock is %+.0f s from ours; is NTP on at both?", self.name, seconds)

    def succeeded(self) -> None:
        """A round is complete, or a part of it that need not be asked for again."""
        self._gauge("last_success_timestamp_seconds", time.time())

    def problem(self, kind: str, sentence: str) -> None:
        """Something stands against the source until `solved`. It is logged when it is new."""
        with self._lock:
            new = self._problems.get(kind) != sentence
            self._problems[kind] = sentence
        if new:
            _log.warning("%s: %s", self.name, sentence)

    def solved(self, kind: str) -> None:
        with self._lock:
            gone = self._problems.pop(kind, None)
        if gone is not None:
            _log.info("%s: over: %s", self.name, gone)

    def reasons(self) -> list[str]:
        """What stands against the source; nothing where it is healthy."""
        with self._lock:
            found = [f"{kind}: {sentence}" for kind, sentence in sorted(self._problems.items())]
            last = self._gauges.get("last_success_timestamp_seconds")
        age = time.time() - (self._since if last is None else last)
        if age > self._after:
            found.append(f"stale: nothing has been complete for {age:.0f} s")
        return found

    def counts(self) -> dict[tuple[str, str], int]:
        with self._lock:
            return dict(self._counts)

    def samples(self) -> list[tuple[str, str, float]]:
        """Name, reason or "", and value of every metric."""
        healthy = 0.0 if self.reasons() else 1.0
        with self._lock:
            found = [(name, reason, float(count)) for (name, reason), count in sorted(self._counts.items())]
            found += [(name, "", value) for name, value in sorted(self._gauges.items())]
        return [*found, ("healthy", "", healthy)]

    def _count(self, name: str, reason: str = "") -> None:
        with self._lock:
            self._counts[name, reason] += 1

    def _gauge(self, name: str, value: float) -> None:
        with self._lock:
            self._gauges[name] = value


def as_prometheus(sources: Sequence[SourceHealth]) -> str:
    """All metrics in Prometheus' text format 0.0.4."""
    samples = [(source.name, *sample) for source in sources for sample in source.samples()]
    lines = []
    for name, (kind, about) in METRICS.items():
        of_it = [sample for sample in samples if sample[1] == name]
        if not of_it:
            continue
        lines += [f"# HELP {PREFIX}{name} {about}.", f"# TYPE {PREFIX}{name} {kind}"]
        for source, _, reason, value in of_it:
            labels = f'source="{source}"' + (f',reason="{reason}"' if reason else "")
            lines.append(f"{PREFIX}{name}{{{labels}}} {value:.17g}")
    return "\n".join(lines) + "\n"


def as_health(sources: Sequence[SourceHealth]) -> tuple[int, str]:
    """Status and text of `/healthz`: 200, or 503 with a line for each reason."""
    lines = [f"{source.name}: {reason}" for source in sources for reason in source.reasons()]
    return (503, "\n".join(lines) + "\n") if lines else (200, "ok\n")


class HealthServer:
    """Answers on one address until `close`. Nothing that it says holds a secret or a record."""

    def __init__(self, host: str, port: int, sources: Sequence[SourceHealth]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/healthz":
                    status, text, kind = *as_health(sources), "text/plain; charset=utf-8"
                elif self.path == "/metrics":
                    status, text, kind = 200, as_prometheus(sources), "text/plain; version=0.0.4; charset=utf-8"
                else:
                    status, text, kind = 404, "/healthz or /metrics\n", "text/plain; charset=utf-8"
                content = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
