"""A head-end with an HTTP API that misbehaves on purpose, on loopback, for tests of the adapter.

What it knows is a list of readings, in order of time. It is asked for ranges with pages, or as a feed with cursors, and
its faults are drawn from a seed, so that a run of a test can be repeated.
"""

from __future__ import annotations

import base64
import contextlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

INTERVAL = timedelta(minutes=15)


@dataclass
class Faults:
    """How likely each is to meet a request; `slow` is how many seconds it takes."""

    throttled: float = 0.0
    failing: float = 0.0
    cut_off: float = 0.0
    half: float = 0.0
    """JSON that ends in the middle."""
    repeated: float = 0.0
    """A page that begins with records of the page before it."""
    slow: float = 0.0
    slow_seconds: float = 0.0
    skew_seconds: float = 0.0
    """Of its clock."""


@dataclass
class Poison:
    """Which requests are answered with what, always."""

    matches: Callable[[dict[str, str]], bool] = lambda query: False
    status: int = 200
    body: bytes = b"<html>maintenance</html>"


@dataclass
class HeadEndServer:
    """`with HeadEndServer(readings) as server:` answers at `server.url` until the block is left.

    Args:
      readings: JSON objects; `end` is their time, ISO 8601 with a zone.
    """

    readings: list[dict[str, Any]]
    faults: Faults = field(default_factory=Faults)
    poison: Poison = field(default_factory=Poison)
    page_size: int = 50
    seed: int = 1
    secret: str | None = None
    """Of OAuth 2 client credentials (client "adapter"), of the basic login "adapter", or the token itself."""
    token_life: float = 3600.0
    counts: Counter[str] = field(default_factory=Counter)
    queries: list[dict[str, str]] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()
        self._tokens: dict[str, float] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Head and body in one piece: else each answer waits for the other side's delayed acknowledgement.
            wbufsize = -1

            def do_GET(self) -> None:
                server._answer(self, b"")

            def do_POST(self) -> None:
                server._answer(self, self.rfile.read(int(self.headers.get("Content-Length", "0"))))

            def date_time_string(self, timestamp: float | None = None) -> str:
                return formatdate(time.time() + server.faults.skew_seconds, usegmt=True)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def wait_for(self, what: str, count: int, seconds: float = 60.0) -> None:
        """Until so many requests of a kind have been answered."""
        until = time.monotonic() + seconds
        while self.counts[what] < count:
            assert time.monotonic() < until, f"{what}: {self.counts[what]} of {count} after {seconds:g} s"
            time.sleep(0.005)

    def _answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        parts = urlsplit(handler.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/token":
            self._grant(handler, body)
            return
        if handler.command == "POST":
            query |= {name: str(value) for name, value in json.loads(body).items()}
        with self._lock:
            self.counts["requests"] += 1
            self.queries.append(query)
            draw = self._random.random
            throttled, failing, slow = (
                draw() < self.faults.throttled, draw() < self.faults.failing, draw() < self.faults.slow,
            )  # fmt: skip
            cut_off, half, repeated = (
                draw() < self.faults.cut_off, draw() < self.faults.half, draw() < self.faults.repeated,
            )  # fmt: skip
        if not self._let_in(handler, query):
            self._send(handler, 401, b'{"error":"unauthorized"}')
            return
        if slow:
            self.counts["slow"] += 1
            time.sleep(self.faults.slow_seconds)
        if throttled:
            self.counts["throttled"] += 1
            self._send(handler, 429, b"{}", {"Retry-After": "0"})
            return
        if failing:
            self.counts["failing"] += 1
            self._send(handler, 500, b"oops")
            return
        if self.poison.matches(query):
            self.counts["poison"] += 1
            self._send(handler, self.poison.status, self.poison.body)
            return
        document, headers = self._document(parts.path, query, repeated)
        content = json.dumps(document).encode()
        if half:
            self.counts["half"] += 1
            content = content[: len(content) // 2]
        self._send(handler, 200, content, headers, cut_off)
        self.counts["pages"] += 1

    def _document(self, path: str, query: dict[str, str], repeated: bool) -> tuple[Any, dict[str, str]]:
        found = self.readings
        if "from" in query:
            begin, end = _time(query["from"]), _time(query["to"])
            found = [each for each in found if begin <= _time(each["end"]) < end]
        size = min(int(query.get("limit", self.page_size)), self.page_size)
        if path == "/feed":
            start = int(query.get("cursor", 0))
            behind = min(start + size, len(found))
            records = found[max(0, start - 3) if repeated else start : behind]
            return {"data": records, "next": str(behind) if behind < len(found) else None}, {}
        if path == "/links":
            start = int(query.get("at", 0))
            behind = start + size
            link = {"Link": f'</links?at={behind}>; rel="next"'} if behind < len(found) else {}
            return found[start:behind], link
        if path == "/offsets":
            start = int(query["offset"])
            return {"data": found[start : start + size]}, {}
        start = (int(query.get("page", 1)) - 1) * size
        if repeated and 0 < start < len(found):
            self.counts["repeated"] += 1
            # Records of the page before, as when something was inserted meanwhile.
            return {"data": found[start - min(start, size // 2) : start + size]}, {}
        return {"data": found[start : start + size]}, {}

    def _let_in(self, handler: BaseHTTPRequestHandler, query: dict[str, str]) -> bool:
        if self.secret is None or query.get("k") == self.secret:
            return True
        scheme, _, word = handler.headers.get("Authorization", "").partition(" ")
        if scheme == "Basic":
            return word == base64.b64encode(f"adapter:{self.secret}".encode()).decode()
        return word == self.secret or self._tokens.get(word, 0.0) > time.monotonic()

    def _grant(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        wanted = base64.b64encode(f"adapter:{self.secret}".encode()).decode()
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        self.counts["tokens"] += 1
        if handler.headers.get("Authorization") != f"Basic {wanted}" or form["grant_type"] != "client_credentials":
            self._send(handler, 401, b'{"error":"invalid_client"}')
            return
        token = f"token-{self.counts['tokens']}"
        self._tokens[token] = time.monotonic() + self.token_life
        self._send(handler, 200, json.dumps({"access_token": token, "expires_in": 3600}).encode())

    def _send(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        content: bytes,
        headers: dict[str, str] | None = None,
        cut_off: bool = False,
    ) -> None:
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content)))
        if cut_off:
            self.counts["cut_off"] += 1
            handler.send_header("Connection", "close")
            handler.close_connection = True
        handler.end_headers()
        # Whoever asked may have been killed.
        with contextlib.suppress(OSError):
            handler.wfile.write(content[: len(content) // 2] if cut_off else content)


def readings(meters: int, begin: datetime, intervals: int) -> list[dict[str, Any]]:
    """So many intervals of so many meters, in the order of their ends; all of them different."""
    return [
        {
            "meter": f"M-{meter:04}",
            "end": (begin + INTERVAL * (number + 1)).astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "wh": 100 + (meter * 7919 + number * 31) % 900,
            "volts": 230.1,
        }
        for number in range(intervals)
        for meter in range(meters)
    ]


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
