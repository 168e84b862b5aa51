"""How the operators' screen bears a big grid: memory, what taking rows costs, how fast questions and the page answer.

python -m benchmarks.dashboard --transformers=500000 --windows=96 --rows_per_second=15000

A server of its own has so many windows of so many transformers, and takes rows of the newest window at that rate while
it is asked, as when a window is published. With Chromium (apt install chromium) the page is used, too: each number is
from the input to the frame in which its effect is seen.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web
from confluent_kafka import Producer
from playwright.sync_api import Browser

from ami_beam.codecs.json_outputs import RECEIPT_TOPIC, RESULT_TOPICS, SUMMARY_TOPIC, receipt_json, summary_json
from ami_beam.dashboard.feed import FeedState
from ami_beam.dashboard.grid import WindowColumns
from ami_beam.dashboard.health import Health
from ami_beam.dashboard.hub import Hub, Record, Topics
from ami_beam.dashboard.identity import Identity
from ami_beam.dashboard.server import Site, application
from ami_beam.instants import MICROS_PER_DAY, MICROS_PER_MINUTE
from ami_beam.local import process
from ami_beam.local.kafka_broker import KafkaBroker
from ami_beam.records import ReceiptRow, SummaryRow
from ami_beam.settings import Settings
from benchmarks.process_tree import cpu_seconds, rss_bytes
from tools.chromium import browser, wait_until

WINDOW = 15 * MICROS_PER_MINUTE
A_FEEDER = 250
"""Transformers."""
_BATCH = 500
_TIMES = 7


def names(number: int) -> tuple[str, str]:
    """Of a transformer and its feeder."""
    return f"TRF-{number:07}", f"FDR-{number // A_FEEDER:05}"


def values(number: int, end: int, revision: int = 0) -> Iterator[tuple[str, bytes]]:
    """The rows of a transformer in a window."""
    transformer, feeder = names(number)
    low = 204.0 if number % 9_973 == 0 else 226.0 + number % 7
    as_of = end + 5 * MICROS_PER_MINUTE + revision
    row = SummaryRow(
        transformer, feeder, end - WINDOW, end, 12.345678, 12.5, 0.154322, 10, low + 3.123456, low, low + 9, 2, 0, 0,
        as_of, revision, 0, 0, 10,
    )  # fmt: skip
    yield SUMMARY_TOPIC, summary_json(row)
    yield (
        RECEIPT_TOPIC,
        receipt_json(ReceiptRow(transformer, feeder, end - WINDOW, end, 10, 10, 100.0, 10, 100.0, as_of, 0)),
    )


def filled(transformers: int, windows: int) -> tuple[Hub, int, float]:
    """A hub with so many, the end of its newest window, and the CPU seconds of taking a million rows of JSON."""
    hub = Hub(Settings(), Topics("", None, None, None), MICROS_PER_DAY)
    newest = time.time_ns() // 1_000 // WINDOW * WINDOW
    spent = 0.0
    for begin in range(0, transformers, _BATCH):
        made = [each for number in range(begin, min(begin + _BATCH, transformers)) for each in values(number, newest)]
        began = time.thread_time()
        for topic in (SUMMARY_TOPIC, RECEIPT_TOPIC):
            hub.take(topic, [Record(value, 0, 0, newest) for name, value in made if name == topic])
        spent += time.thread_time() - began
    rng, grid = np.random.default_rng(1), hub.grid
    last = grid.windows[newest]
    for number in range(1, windows):
        end = newest - number * WINDOW
        columns = WindowColumns(end - WINDOW, end, len(last.flags))
        # A window as the newest one is, with other voltages: what is kept of it costs the same.
        for name in ("avg", "max", "kwh", "received", "heard", "total", "summary_as_of", "receipt_as_of", "flags"):
            setattr(columns, name, getattr(last, name).copy())
        columns.min = (last.min - rng.integers(0, 900, len(last.min)) * (last.min > 0)).astype(np.uint16)
        columns.version = last.version
        grid.windows[end] = columns
    return hub, newest, spent / (2 * transformers) * 1e6


async def serve(port: int, transformers: int, windows: int, rows_per_second: int) -> None:
    """Until it is ended. Says on standard output what filling cost, and then that it is there."""
    hub, newest, cost = await asyncio.to_thread(filled, transformers, windows)
    began = time.thread_time()
    while hub.make_digests():
        pass
    print(json.dumps({"take": cost, "digest": (time.thread_time() - began) / windows}), flush=True)
    site = Site(hub, Health(hub, FeedState(connected=True, caught_up=True)), Identity(None))
    runner = web.AppRunner(application(site), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    threading.Thread(target=_publish, args=(hub, newest, transformers, rows_per_second), daemon=True).start()
    threading.Thread(target=_keep, args=(hub,), daemon=True).start()
    await asyncio.Event().wait()


def _publish(hub: Hub, newest: int, transformers: int, rows_per_second: int) -> None:
    """Rows of the newest window again and again, as late reads revise them."""
    number, revision, due = 0, 0, time.monotonic()
    while rows_per_second:
        made = []
        for _ in range(_BATCH // 2):
            number = (number + 1) % transformers
            revision += number == 0
            made += values(number, newest, revision)
        for topic in (SUMMARY_TOPIC, RECEIPT_TOPIC):
            hub.take(topic, [Record(value, 0, 0, newest) for name, value in made if name == topic])
        due += _BATCH / rows_per_second
        time.sleep(max(due - time.monotonic(), 0))


def _keep(hub: Hub) -> None:
    while True:
        hub.make_digests()
        time.sleep(0.5)


@dataclass(frozen=True)
class Running:
    """A server with a big grid."""

    url: str
    pid: int
    cost: dict[str, float]
    """CPU seconds: `take` a million rows; `digest` a window."""


@contextmanager
def running(transformers: int, windows: int, rows_per_second: int) -> Iterator[Running]:
    """A server of its own process, which is there when this returns, and ended at the end."""
    (port,) = process.free_ports(1)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        command = [
            *(sys.executable, "-m", "benchmarks.dashboard", f"--serve={port}", f"--windows={windows}"),
            *(f"--transformers={transformers}", f"--rows_per_second={rows_per_second}"),
        ]
        child = process.ChildProcess("the server", command, log)
        try:
            child.wait_until(lambda: process.is_listening(port), 1_800)
            yield Running(f"http://127.0.0.1:{port}/", child.pid, json.loads(log.read_text().splitlines()[0]))
        finally:
            child.stop()


def timed(ask: Callable[[], Any], times: int = _TIMES) -> tuple[float, float]:
    """Median and greatest milliseconds."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        ask()
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took), max(took)


def questions(url: str, transformers: int) -> Iterator[tuple[str, tuple[float, float], int]]:
    """What each question took, and the bytes of its answer."""
    size = 0

    def get(path: str) -> Any:
        nonlocal size
        with urllib.request.urlopen(url + path, timeout=60) as response:
            body = response.read()
        size = len(body)
        return json.loads(body)

    whole = get("api/map")
    window = urllib.parse.quote(whole["windows"][-1])
    transformer, feeder = names(transformers // 2)
    for name, path in (
        ("map of all feeders", "api/map"),
        ("what has changed of it", f"api/map?rows={whole['rows_version']}&since={whole['version']}"),
        ("map of a feeder", f"api/map?feeder={feeder}"),
        ("cell of a feeder", f"api/cell?window={window}&feeder={feeder}"),
        ("cell of a transformer", f"api/cell?window={window}&transformer={transformer}"),
        ("series of the system", "api/series"),
        ("a transformer", f"api/transformers/{transformer}"),
        ("search", f"api/search?q={transformer[-6:]}"),
        ("health", "api/health"),
    ):
        yield name, timed(lambda path=path: get(path)), size  # type: ignore[misc]


_PAGE = """() => {
  const frame = () => new Promise(requestAnimationFrame);
  const find = (query) => document.querySelector(query);
  const input = (box, text) => { box.value = text; box.dispatchEvent(new Event("input", {bubbles: true})); };
  const rows = () => amiBeam.map.rows().length;
  const title = () => find("h1")?.textContent;
  const filterBox = () => [...document.querySelectorAll("input")].find((each) => /^part of/.test(each.placeholder));
  const acts = {
    key: (key) => find(".map-scroll").dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true})),
    filter: (text) => input(filterBox(), text),
    go: (hash) => { location.hash = hash; },
    search: (text) => { find("#search-input").focus(); input(find("#search-input"), text); },
  };
  const seen = {
    told: (before) => find("#map-live").textContent !== before,
    rows: (count) => rows() === count,
    map: ([words, count]) => title() === words && rows() === count,
    charts: () => document.querySelectorAll(".uplot").length >= 3,
    noMap: () => !find("#map"),
    found: (any) => (document.querySelectorAll("[role=option]").length > 0) === any,
  };
  window.measured = async (act, given, done, expected) => {
    await frame(); await frame();
    const wanted = done === "told" ? find("#map-live").textContent : expected;
    const began = performance.now();
    acts[act](given);
    while (!seen[done](wanted)) {
      await frame();
      if (performance.now() - began > 20000) throw new Error(`never seen: ${done} ${expected}`);
    }
    await frame();
    return performance.now() - began;
  };
}"""
"""In the page: `measured(act, given, done, expected)` does it, and gives the milliseconds until that is seen."""
Step = tuple[str, Any, str, Any]


def interactions(made: Browser, url: str, transformers: int) -> Iterator[tuple[str, tuple[float, float]]]:
    """What each use of the page took, in milliseconds."""
    feeders = min(-(-transformers // A_FEEDER), 5_000)
    transformer, feeder = names(transformers // 2)
    page = made.new_page(viewport={"width": 1600, "height": 1000})

    def each(step: Step, back: Step | None = None) -> tuple[float, float]:
        took = []
        for _ in range(_TIMES):
            took.append(page.evaluate("(step) => measured(...step)", list(step)))
            if back is not None:
                page.evaluate("(step) => measured(...step)", list(back))
        return statistics.median(took), max(took)

    began = time.perf_counter()
    page.goto(url + "#/map")
    wait_until(page, f"amiBeam.map.rows().length === {feeders}")
    load = (time.perf_counter() - began) * 1000
    yield "load the page with its map", (load, load)
    page.evaluate(_PAGE)
    page.evaluate("document.querySelector('.map-scroll').focus()")
    yield "move the cursor down", each(("key", "ArrowDown", "told", None), ("key", "ArrowUp", "told", None))
    yield "move it a page down", each(("key", "PageDown", "told", None), ("key", "PageUp", "told", None))
    yield "filter rows", each(("filter", feeder, "rows", 1), ("filter", "", "rows", feeders))
    back: Step = ("go", "#/map", "map", ["Voltage map", feeders])
    inside = min(A_FEEDER, transformers)
    yield "open a feeder", each(("go", f"#/feeder/{feeder}", "map", [f"Feeder {feeder}", inside]), back)
    yield "open a transformer", each(("go", f"#/transformer/{transformer}", "charts", None), back)
    yield "go back to the map", each(back, ("go", "#/health", "noMap", None))
    searched: Step = ("search", transformer[-5:], "found", True)
    yield "search, which waits 150 ms for more", each(searched, ("search", "", "found", False))
    each(back)
    yield "drawing of the map alone", timed_render(page)
    page.close()


def timed_render(page: Any) -> tuple[float, float]:
    """By the page's own clock, while it is scrolled."""
    took = []
    for place in range(_TIMES):
        page.evaluate(f"document.querySelector('.map-scroll').scrollTop = {place * 400}")
        page.wait_for_timeout(100)
        took.append(page.evaluate("amiBeam.lastRender"))
    return statistics.median(took), max(took)


def start_up(rows: int) -> tuple[float, float]:
    """Seconds, and CPU seconds of the server, until it has read so many rows that were published before it started."""
    with KafkaBroker() as broker, tempfile.TemporaryDirectory() as folder:
        broker.create_topics(RESULT_TOPICS)
        producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "linger.ms": 50, "log_level": 0})
        newest = time.time_ns() // 1_000 // WINDOW * WINDOW
        transformers = max(rows // 2 // 4, 1)
        for number in range(rows // 2):
            for topic, value in values(number % transformers, newest - number // transformers * WINDOW):
                producer.produce(topic, value)
            if number % 10_000 == 0:
                producer.flush()
        producer.flush()
        (port,) = process.free_ports(1)
        command = [
            *(sys.executable, "-m", "ami_beam.dashboard", f"--bootstrap_servers={broker.bootstrap_servers}"),
            *(f"--port={port}", "--no_reads"),
        ]
        child = process.ChildProcess("the server", command, Path(folder) / "log")
        try:
            child.wait_until(lambda: process.is_listening(port), 60)
            began, used = time.monotonic(), cpu_seconds(child.pid)
            until_read = f"http://127.0.0.1:{port}/api/health"

            def is_read() -> bool:
                with urllib.request.urlopen(until_read, timeout=60) as response:
                    told = json.load(response)
                return told["status"] != "starting" and not sum(each["behind"] for each in told["topics"])

            child.wait_until(is_read, 1_800)
            return time.monotonic() - began, cpu_seconds(child.pid) - used
        finally:
            child.stop()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dashboard", description=__doc__)
    parser.add_argument("--transformers", type=int, default=500_000)
    parser.add_argument("--windows", type=int, default=96, help="of a quarter of an hour (96)")
    parser.add_argument("--rows_per_second", type=int, default=15_000, help="that come meanwhile (15000)")
    parser.add_argument("--no_browser", action="store_true", help="ask the server only")
    parser.add_argument(
        "--kafka_rows",
        type=int,
        default=0,
        metavar="N",
        help="measure a start with so many rows instead",
    )
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve, options.transformers, options.windows, options.rows_per_second))
        return 0
    if options.kafka_rows:
        seconds, cpu = start_up(options.kafka_rows)
        print(f"{options.kafka_rows:,} rows read from Kafka within {seconds:.1f} s, {cpu:.1f} CPU-s")
        return 0
    with running(options.transformers, options.windows, options.rows_per_second) as server:
        cost = server.cost
        print(f"{options.transformers:,} transformers, {options.windows} windows, {options.rows_per_second:,} rows/s")
        print(f"rows taken: {cost['take']:.1f} CPU-s per million; a window's digest: {cost['digest'] * 1000:.0f} ms")
        print(f"resident memory: {rss_bytes(server.pid) / 1e9:.2f} GB")
        for name, (median, worst), size in questions(server.url, options.transformers):
            print(f"  {name}: {median:.1f} ms, worst {worst:.1f}; {size:,} bytes", flush=True)
        if not options.no_browser:
            with browser() as made:
                for name, (median, worst) in interactions(made, server.url, options.transformers):
                    print(f"  page: {name}: {median:.0f} ms, worst {worst:.0f}", flush=True)
        print(f"server: {cpu_seconds(server.pid):.0f} CPU-s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
