"""`python -m ami_beam.dashboard`: the operators' screen, fed live from the output topics."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Sequence

from aiohttp import web

from ami_beam.beam_options import OptionError
from ami_beam.command import leave, start_logging
from ami_beam.csv_table import TableError
from ami_beam.dashboard.acknowledgements import AckWriter
from ami_beam.dashboard.feed import Feed
from ami_beam.dashboard.health import FlinkWatch, Health
from ami_beam.dashboard.hub import Hub
from ami_beam.dashboard.meter_reads import MeterReads, ReadsTopic
from ami_beam.dashboard.options import DashboardPlan, plan_of
from ami_beam.dashboard.server import Site, application
from ami_beam.io.librdkafka import SettingError
from ami_beam.io.schema_registry import RegistryError
from ami_beam.meter_counts import MeterCountsError, unpack
from ami_beam.run import followed_counts

_DIGEST_SECONDS = 0.5
_FORGET_SECONDS = 30.0
_SHUTDOWN_SECONDS = 3.0
_log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Exit codes: 0 stopped, 1 it could not serve, 2 a wrong option."""
    start_logging()
    try:
        plan = plan_of(sys.argv[1:] if argv is None else list(argv))
        return asyncio.run(serve(plan))
    except (OptionError, MeterCountsError, TableError, SettingError, RegistryError) as error:
        print(f"ami_beam.dashboard: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"ami_beam.dashboard: cannot listen there: {error.strerror or error}. Name another --port", file=sys.stderr
        )
        return 1


async def serve(plan: DashboardPlan) -> int:
    """Everything runs until a signal comes, and has ended when this returns."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    hub = Hub(
        plan.settings,
        plan.topics,
        plan.history,
        plan.run.formats.schemas(),
        plan.run.formats.inputs(),
        nominal_voltages(plan),
    )
    connection = plan.run.kafka_connection
    feed = Feed(hub, connection)
    flink = None if plan.flink is None else FlinkWatch(plan.flink, plan.job_name)
    site = Site(
        hub,
        Health(hub, feed.state, flink, plan.stale_after),
        plan.identity,
        None if plan.topics.reads is None else _meter_reads(plan, connection, plan.topics.reads),
        None if plan.identity.proxy is None else AckWriter(connection, plan.topics.acknowledgements),
        plan.show_customers,
    )
    runner = web.AppRunner(application(site), access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    with contextlib.ExitStack() as stack:
        try:
            place = web.TCPSite(runner, plan.host, plan.port)
            await place.start()
            if flink is not None:
                flink.start()
                stack.callback(flink.stop)
            stack.callback(feed.stop)
            feed.start()
            keeper = _Keeper(hub)
            stack.callback(keeper.stop)
            keeper.start()
            host, port = runner.addresses[0][:2]
            shown = f"[{host}]" if ":" in host else host
            print(f"The operators' screen is at http://{shown}:{port}/", flush=True)
            await stop.wait()
            _log.info("Stopping")
        finally:
            await runner.cleanup()
    return 0


def nominal_voltages(plan: DashboardPlan) -> dict[str, float]:
    """Volts by transformer_id, of those that have their own in the meter counts; read once, at the start."""
    if not plan.given_counts:
        return {}
    rows = unpack(followed_counts(plan.settings, plan.run).load())
    return {row.transformer_id: row.nominal_voltage_v for row in rows if row.nominal_voltage_v is not None}


def _meter_reads(plan: DashboardPlan, connection: dict[str, str], topic: str) -> MeterReads:
    where = ReadsTopic(connection, topic, plan.run.formats.inputs().reads, plan.show_customers)
    return MeterReads(where, plan.settings)


class _Keeper:
    """Keeps what is shown of feeders up to date, and drops what is too old."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(_SHUTDOWN_SECONDS)

    def _keep(self) -> None:
        waited = 0.0
        while not self._stop.wait(_DIGEST_SECONDS):
            try:
                self._hub.make_digests()
                waited += _DIGEST_SECONDS
                if waited >= _FORGET_SECONDS:
                    waited = 0.0
                    self._hub.forget()
            except Exception:
                _log.exception("What is shown could not be brought up to date")


if __name__ == "__main__":
    leave(main())
