"""`python -m ami_beam.simulate`: a simulated head-end that writes replay files or publishes to Kafka."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from confluent_kafka import KafkaException

from ami_beam.input_topics import (
    EVENTS_FILE,
    EVENTS_TOPIC,
    OUTAGES_FILE,
    OUTAGES_TOPIC,
    READS_FILE,
    READS_TOPIC,
    WORK_FILE,
    WORK_TOPIC,
)
from ami_beam.instants import (
    MICROS_PER_DAY,
    MICROS_PER_MILLI,
    MICROS_PER_SECOND,
    format_instant,
    parse_duration,
    parse_instant,
)
from ami_beam.simulator.faults import FaultRates
from ami_beam.simulator.headend import CollectionRates
from ami_beam.simulator.network import PROFILES
from ami_beam.simulator.outputs import (
    KafkaTopics,
    RecordSink,
    ReplayFiles,
    Truth,
    meter_count_rows,
    write_registry,
)
from ami_beam.simulator.simulation import DEFAULT_START, Record, Simulation

_EXAMPLES = """
examples:
  A day of 1,000 meters as replay files (reads.jsonl.gz, events.jsonl.gz), with the meter counts, the registry and the
  truth beside them:
    python -m ami_beam.simulate --output=replay

  The same day collected in four ways, with an hour in which the head-end is silent and catches up:
    python -m ami_beam.simulate --output=replay --profile=mixed --silence=10h,1h

  The same with outages and work at meters that are announced (outages.jsonl.gz, work.jsonl.gz):
    python -m ami_beam.simulate --output=replay --planned_outages=4 --known_pct=50 --work_orders=10

  A live demonstration: 500 meters that send every 15 seconds, every kind of alert within 10 intervals:
    python -m ami_beam.simulate --bootstrap_servers=localhost:9092 --realtime --window=15s --meters=500 --scenario=demo

  A load test: 4 intervals of a million meters, as fast as the broker takes them, or 5,600 records a second:
    python -m ami_beam.simulate --bootstrap_servers=localhost:9092 --meters=1000000 --intervals=4
    python -m ami_beam.simulate --bootstrap_servers=localhost:9092 --meters=1000000 --intervals=4 --rate=5600

the demonstration (--scenario=demo), counted in intervals from 0; it begins at 11:00 of the simulated day, comes again
every 32 intervals on the next feeders, and nothing else goes wrong unless it is asked for:
  1 to 9      LOW_VOLTAGE: a feeder's end sags; POWER_QUALITY (1024)
  1 to 10     HIGH_VOLTAGE: PV lifts a feeder's end; REVERSE_ENERGY (2049), POWER_QUALITY (only at midday)
  2.4 to 7.4  an outage: LAST_GASP (3840) and OUTAGE_DETECTED (3842), zero-volt reads of intervals 2 to 6,
              POWER_RESTORE (3841)
  3 to 8      with --planned_outages: an outage as it was announced at 0
  3 to 9      a dead collector: LOW_RECEIPT_RATE, then its backlog
  4.5 to 20   TAMPER_DETECTED (2048): a meter that measures a seventh
"""


def _duration(text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _instant(text: str) -> int:
    try:
        return parse_instant(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _silence(text: str) -> tuple[int, int]:
    begin, comma, length = text.partition(",")
    if not comma:
        raise argparse.ArgumentTypeError(f"{text!r} is not FROM,DURATION, for example 2h,30m")
    return _duration(begin), _duration(length)


def _at_least(least: float, kind: type[int] | type[float] = float) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not least <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is below {least:g}")
        return value

    return number


def _percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not a percentage, 0 to 100")
    return value


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m ami_beam.simulate",
        description="Simulates a head-end: feeders, transformers and meters, and everything that goes wrong between"
        " them and the Kafka topics. The same options give the same records, byte for byte.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    where = p.add_argument_group("where the records go (one of two; with both, DIR holds only registry and truth)")
    where.add_argument("--output", type=Path, metavar="DIR", help="directory for replay files, registry and truth")
    where.add_argument("--bootstrap_servers", metavar="HOST:PORT", help="Kafka brokers to publish to")
    where.add_argument("--kafka_config", nargs="+", default=[], metavar="KEY=VALUE", help="further producer settings")
    where.add_argument("--reads", default=READS_TOPIC, metavar="TOPIC", help="default %(default)s")
    where.add_argument("--events", default=EVENTS_TOPIC, metavar="TOPIC", help="default %(default)s")
    where.add_argument(
        "--meter_counts",
        default="transformer_meter_count",
        metavar="TOPIC",
        help="topic for the meter counts, published once at the beginning; '' for none; default %(default)s",
    )
    where.add_argument(
        "--oms_outages",
        default=OUTAGES_TOPIC,
        metavar="TOPIC",
        help="for --planned_outages and --known_pct; default %(default)s",
    )
    where.add_argument("--work", default=WORK_TOPIC, metavar="TOPIC", help="for --work_orders; default %(default)s")
    where.add_argument(
        "--partitions", type=_at_least(1, int), default=4, metavar="N", help="of topics that must be created; default 4"
    )

    what = p.add_argument_group("what is simulated")
    what.add_argument("--seed", type=int, default=1, help="everything random follows from it; default 1")
    what.add_argument("--meters", type=_at_least(1, int), default=1_000, metavar="N", help="default 1000")
    what.add_argument(
        "--interval",
        "--window",
        type=_duration,
        default="15m",
        metavar="DURATION",
        help="length of an interval; below 15m, 96 intervals are one simulated day while times stay real; default 15m",
    )
    what.add_argument("--intervals", type=_at_least(1, int), metavar="N", help="how many; default 96, without end live")
    what.add_argument("--duration", type=_duration, help="instead of --intervals, for example 24h")
    what.add_argument(
        "--start",
        type=_instant,
        metavar="TIME",
        help="when interval 0 begins; default 2026-03-03T00:00:00Z for files; for Kafka such that"
        " the run ends now, and what would arrive later than now is not sent",
    )
    what.add_argument("--first_hour", type=float, metavar="HOUR", help="hour of the simulated day to begin in")
    what.add_argument(
        "--profile",
        choices=[*PROFILES, "mixed"],
        default="realtime",
        help="how the meters are collected: at once, or every 1, 4 or 24 (simulated) hours; mixed: feeder by feeder",
    )

    wrong = p.add_argument_group("what goes wrong (per simulated day; conditions 0 in a scenario)")
    wrong.add_argument("--scenario", choices=["demo"], help="a fixed timetable of conditions, see below")
    wrong.add_argument("--outages", type=_at_least(0), metavar="N", help="default 4")
    wrong.add_argument("--dead_collectors", type=_at_least(0), metavar="N", help="default 1")
    wrong.add_argument("--voltage_faults", type=_at_least(0), metavar="N", help="sags, and as many rises; default 2")
    wrong.add_argument("--tampers", type=_at_least(0), metavar="N", help="default 2")
    wrong.add_argument(
        "--planned_outages",
        type=_at_least(0),
        default=0,
        metavar="N",
        help="besides, announced on the day before; of these 10%% are cancelled, 15%% moved, and 25%% last longer than"
        " announced; default 0",
    )
    wrong.add_argument(
        "--known_pct",
        type=_percent,
        default=0,
        metavar="PCT",
        help="of --outages, announced once they have begun; default 0",
    )
    wrong.add_argument(
        "--work_orders",
        type=_at_least(0),
        default=0,
        metavar="N",
        help="announced work at a meter, which is exchanged, disconnected or tested; default 0",
    )
    wrong.add_argument("--silence", type=_silence, metavar="FROM,DURATION", help="the head-end falls silent: 2h,30m")
    wrong.add_argument("--malformed_pct", type=_percent, default=0.1, metavar="PCT", help="default 0.1")
    wrong.add_argument("--resend_pct", type=_percent, default=1.0, metavar="PCT", help="default 1")
    wrong.add_argument("--estimate_pct", type=_percent, default=1.0, metavar="PCT", help="default 1")
    wrong.add_argument("--late_pct", type=_percent, default=0.5, metavar="PCT", help="default 0.5")

    pace = p.add_argument_group("how fast")
    pace.add_argument(
        "--realtime",
        action="store_true",
        help="wait for the wall clock; starts now unless --start; ends when the last late read was sent",
    )
    pace.add_argument("--rate", type=_at_least(0.001), metavar="N", help="at most this many records per second")
    pace.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return p


class Run:
    """Carries records from a simulation to a sink until they end or a signal asks to stop."""

    def __init__(self, realtime: bool, rate: float | None, quiet: bool) -> None:
        self._realtime = realtime
        self._rate = rate
        self._quiet = quiet
        self._stop = False
        self.records = 0

    def stop(self, signum: int, frame: FrameType | None) -> None:
        # A second signal finds the ordinary handler again, so that a stuck run can still be ended.
        self._stop = True
        signal.signal(signum, signal.SIG_DFL)

    def carry(self, records: Iterator[Record], sink: RecordSink, truth: Truth | None, until: int | None = None) -> None:
        """Writes the records up to record time `until`, all of them without it."""
        began = reported = time.monotonic()
        record_time = 0
        for record in records:
            if until is not None and record[1] > until:
                break
            record_time = record[1]
            if self._realtime and not self._wait_until(record_time / MICROS_PER_SECOND, time.time, sink, truth):
                break
            if self._rate and not self._wait_until(began + self.records / self._rate, time.monotonic, sink, truth):
                break
            if self._stop:
                break
            sink.write(record)
            self.records += 1
            if self.records % 1_000 == 0 or self._realtime:
                now = time.monotonic()
                if now - reported >= 5:
                    reported = now
                    self._report(record_time, now - began)
                    if truth:
                        truth.update()
        self._report(record_time, time.monotonic() - began)

    def _wait_until(self, due: float, clock: Callable[[], float], sink: RecordSink, truth: Truth | None) -> bool:
        """Waits in short steps; False when the run was asked to stop."""
        while not self._stop:
            left = due - clock()
            if left <= 0:
                return True
            if left > 0.05:
                sink.idle()
                if truth:
                    truth.update()
            # A few milliseconds at least: thousands of records a second must not mean thousands of sleeps.
            time.sleep(min(max(left, 0.005), 0.2))
        return False

    def _report(self, record_time: int, seconds: float) -> None:
        if not self._quiet and self.records:
            rate = self.records / max(seconds, 1e-3)
            at = format_instant(record_time)
            print(f"{self.records:,} records, {rate:,.0f}/s, record time {at}", file=sys.stderr)


def _intervals(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int | None:
    if args.duration is not None:
        if args.intervals is not None:
            parser.error("give --intervals or --duration, not both")
        return max(1, args.duration // args.interval)
    if args.intervals is None and not args.realtime:
        return 96
    return args.intervals


def _start(args: argparse.Namespace, intervals: int | None) -> int:
    if args.start is not None:
        return args.start
    now = time.time_ns() // 1_000 // args.interval * args.interval
    if args.realtime:
        return now
    if not args.bootstrap_servers:
        return DEFAULT_START
    # One interval more, in which the reads of the last one arrive.
    return now - ((intervals or 0) + 1) * args.interval


def simulation_of(args: argparse.Namespace, parser: argparse.ArgumentParser) -> Simulation:
    """The simulation that the options describe."""
    intervals = _intervals(args, parser)
    demo = args.scenario == "demo"

    def rate(given: float | None, default: float) -> float:
        return given if given is not None else 0.0 if demo else default

    try:
        return Simulation(
            seed=args.seed,
            meters=args.meters,
            interval=args.interval,
            start=_start(args, intervals),
            intervals=intervals,
            profile=args.profile,
            collection=CollectionRates(args.resend_pct, args.estimate_pct, args.late_pct),
            faults=FaultRates(
                outages=rate(args.outages, 4),
                dead_collectors=rate(args.dead_collectors, 1),
                voltage_faults=rate(args.voltage_faults, 2),
                tampers=rate(args.tampers, 2),
                silence=args.silence,
                demo=demo,
                planned_outages=args.planned_outages,
                work_orders=args.work_orders,
                known_pct=args.known_pct,
            ),
            malformed_pct=args.malformed_pct,
            first_hour=args.first_hour,
            reads_topic=args.reads,
            events_topic=args.events,
            outages_topic=args.oms_outages,
            work_topic=args.work,
        )
    except ValueError as error:
        parser.error(str(error))


def _announced(args: argparse.Namespace) -> dict[str, str]:
    """The topics of what is announced, where anything is, and their files' names."""
    topics = {}
    if args.planned_outages or args.known_pct:
        topics[args.oms_outages] = OUTAGES_FILE
    if args.work_orders:
        topics[args.work] = WORK_FILE
    return topics


def _kafka(args: argparse.Namespace, simulation: Simulation, parser: argparse.ArgumentParser) -> KafkaTopics:
    config = {"bootstrap.servers": args.bootstrap_servers}
    for pair in args.kafka_config:
        key, equals, value = pair.partition("=")
        if not equals:
            parser.error(f"--kafka_config takes key=value, not {key!r}")
        config[key] = value
    topics = {args.reads: args.partitions, args.events: args.partitions}
    topics |= dict.fromkeys(_announced(args), 1)
    if args.meter_counts:
        topics[args.meter_counts] = 1
    old = simulation.clock.start < time.time_ns() // 1_000 - MICROS_PER_DAY
    created = KafkaTopics.create(config, topics, keep_all=old)
    if created and not args.quiet:
        print(f"created {', '.join(created)}", file=sys.stderr)
    sink = KafkaTopics(config)
    if args.meter_counts:
        start_ms = simulation.clock.start // MICROS_PER_MILLI
        for row in meter_count_rows(simulation):
            value = json.dumps(row, separators=(",", ":")).encode()
            sink.write((args.meter_counts, start_ms * MICROS_PER_MILLI, str(row["transformer_id"]).encode(), value))
    return sink


def main(argv: Sequence[str] | None = None) -> int:
    p = parser()
    args = p.parse_args(argv)
    if args.output is None and not args.bootstrap_servers:
        p.error("say where the records go: --output=DIR or --bootstrap_servers=HOST:PORT")
    simulation = simulation_of(args, p)
    run = Run(args.realtime, args.rate, args.quiet)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, run.stop)
    truth = None
    if args.output is not None:
        args.output.mkdir(parents=True, exist_ok=True)
        write_registry(args.output, simulation)
        truth = Truth(args.output, simulation)
    sink: RecordSink
    try:
        if args.bootstrap_servers:
            sink = _kafka(args, simulation, p)
        else:
            files = {args.reads: READS_FILE, args.events: EVENTS_FILE, **_announced(args)}
            sink = ReplayFiles(args.output, files)
    except KafkaException as error:
        print(f"cannot use Kafka at {args.bootstrap_servers}: {error.args[0].str()}", file=sys.stderr)
        return 1
    # A broker refuses record times of the future, and so does the pipeline: what is not due yet has not arrived.
    until = time.time_ns() // 1_000 if args.bootstrap_servers and not args.realtime else None
    try:
        run.carry(iter(simulation), sink, truth, until)
    finally:
        lost = sink.close()
        if truth:
            truth.close()
    if lost:
        print(f"{lost:,} records could not be delivered", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
