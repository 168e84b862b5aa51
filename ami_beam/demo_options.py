"""The command line of the demonstration: `python -m ami_beam.demo --help`."""

from __future__ import annotations

import argparse

from ami_beam.dashboard import DEFAULT_PORT
from ami_beam.instants import MICROS_PER_DAY, MICROS_PER_SECOND, parse_duration

_EXAMPLES = """
what happens:
  1. A Kafka broker starts on a free port of this machine, with the product's topics.
  2. A simulated head-end publishes reads and events with real record times. The interval is 15 seconds instead of 15
     minutes, so that 24 minutes are a day. Voltage sags, solar power lifts it, an outage comes and goes, a collector
     dies and somebody tampers with a meter: python -m ami_beam.simulate --help has the timetable.
  3. The pipeline, python -m ami_beam.run, computes windows and alerts on a Flink of its own and publishes them.
     An outage that the OMS has announced beforehand has no alarm; what a dead collector makes silent is one alarm.
  4. The operators' screen, a page for the browser, shows the same live: its address is printed at the start.
  5. Every alert is printed as it comes out of ami.alerts.grid and ami.alerts.events: time (UTC), severity, type, status
     (RAISED, UPDATED as the value changes, CLEARED), entity and value. The last line counts.

  The first start downloads the jars of Kafka and Flink. Later the first alerts come within a minute, and each of the
  nine types has been there after about two and a half.

examples:
  Until Ctrl-C, which stops everything (a second one does not wait for it):
    make demo

  Until each alert type was seen, for a check by a machine: exit code 0, or 1 and what is missing after 10 minutes:
    make demo ARGS=--once

  A bigger network, and the log of every part to look at afterwards:
    make demo ARGS="--meters=5000 --keep"
"""


def _duration(text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _window(text: str) -> int:
    window = _duration(text)
    if not MICROS_PER_SECOND <= window <= 900 * MICROS_PER_SECOND or MICROS_PER_DAY % window:
        raise argparse.ArgumentTypeError(f"{text} must divide a day and lie between 1s and 15m, for example 15s or 1m")
    return window


def _meters(text: str) -> int:
    # Fewer have no feeder long enough for a voltage problem at its end.
    if not text.isdecimal() or int(text) < 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 100")
    return int(text)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, 0 to 65535")
    return int(text)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m ami_beam.demo",
        description="Alerts of a smart-meter network from a real Kafka and a real Flink, on this machine alone:"
        " starts a broker, a simulated head-end and the pipeline, prints alerts, and leaves nothing behind.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument("--once", action="store_true", help="end by itself once each of the nine alert types was seen")
    p.add_argument(
        "--timeout",
        type=_duration,
        default="10m",
        metavar="DURATION",
        help="how long --once waits for them; default 10m",
    )
    p.add_argument("--meters", type=_meters, default=500, metavar="N", help="size of the network; default 500")
    p.add_argument(
        "--window", type=_window, default="15s", metavar="DURATION", help="length of an interval; default 15s"
    )
    p.add_argument(
        "--dashboard_port",
        type=_port,
        default=DEFAULT_PORT,
        metavar="N",
        help=f"of the operators' screen; default {DEFAULT_PORT}, or one that is free where that is taken",
    )
    p.add_argument("--keep", action="store_true", help="keep the logs, and say where they are")
    return p
