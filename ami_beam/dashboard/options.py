"""The command line of the operators' screen: `python -m ami_beam.dashboard --help`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ami_beam.beam_options import OptionError, Parser
from ami_beam.dashboard import DEFAULT_PORT
from ami_beam.dashboard.hub import ACK_TOPIC, Topics
from ami_beam.dashboard.identity import DEFAULT_USER_HEADER, Identity, Proxy, is_loopback, load_secret
from ami_beam.instants import MICROS_PER_DAY, MICROS_PER_MINUTE, MICROS_PER_SECOND
from ami_beam.option_checks import duration_of, input_of
from ami_beam.options import RunPlan, validate
from ami_beam.replay_arguments import replay_arguments
from ami_beam.settings import Settings

_NO_COUNTS = "--meter_counts=kafka:none"
_LONGEST_HISTORY = 7 * MICROS_PER_DAY
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")
_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}")
_ABOUT = """Serves one page with what the pipeline publishes, live: a voltage map, receipt rates, alarms, outages, dead
letters and how the pipeline is. It reads the output topics, belongs to no consumer group and writes nothing but
acknowledgements of alarms, those only for users that a reverse proxy vouches for."""
_EXAMPLES = """
All options of python -m ami_beam.run that say where records are may be given too, and mean the same: --reads,
--oms_outages, --work, --output_prefix, --kafka_config_file, --schema_registry, --meter_counts (for transformers with a
nominal voltage of their own), --low_voltage_pct and the like (until a record of ami.config says what the job goes by).

examples:
  On the machine of the broker:
    python -m ami_beam.dashboard --bootstrap_servers=localhost:9092

  With what the OMS announces, how the Flink job is, and meters' reads on demand from a topic of another name:
    python -m ami_beam.dashboard --bootstrap_servers=broker1:9092 --kafka_config_file=client.properties \\
      --oms_outages=ami.oms.outages --flink=jobmanager:8081 --job_name=ami-beam --reads=hes.reads

  Behind a reverse proxy that does the login, so that alarms can be acknowledged (docs/dashboard.md has its settings):
    python -m ami_beam.dashboard --bootstrap_servers=broker1:9092 --proxy_secret_file=proxy.secret \\
      --public_host=grid.example.org

exit code:
  0 stopped by a signal; 1 it could not serve; 2 a wrong option
"""


@dataclass(frozen=True)
class DashboardPlan:
    """The checked command line."""

    host: str
    port: int
    """0: any that is free."""
    topics: Topics
    history: int
    stale_after: int | None
    flink: str | None
    job_name: str
    identity: Identity
    show_customers: bool
    given_counts: bool
    """Whether meter counts were named, for nominal voltages."""
    run: RunPlan = field(repr=False)
    settings: Settings = field(repr=False)


def parser() -> Parser:
    p = Parser(
        prog="python -m ami_beam.dashboard",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = p.add_argument_group("the page").add_argument
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="to listen on (127.0.0.1: this machine only)")
    add("--port", default=str(DEFAULT_PORT), metavar="N", help=f"0 takes any that is free ({DEFAULT_PORT})")
    add("--history", default="24h", metavar="DURATION", help="how much is kept and shown, up to 7d (24h)")
    add(
        "--stale_after",
        metavar="DURATION",
        help="age of the newest window at which results are called stale (two windows and the collection delay, at"
        " least a minute more than one window)",
    )
    add("--no_reads", action="store_true", help="do not offer the reads of a transformer's meters")
    add(
        "--show_customer_ids", action="store_true", help="show them beside those reads; they are on no screen otherwise"
    )
    add = p.add_argument_group("who may acknowledge alarms").add_argument
    add(
        "--proxy_secret_file",
        metavar="FILE",
        help="a secret that the reverse proxy sends with each request; without it nobody can acknowledge",
    )
    add(
        "--user_header",
        default=DEFAULT_USER_HEADER,
        metavar="NAME",
        help=f"in which the proxy says who is logged in ({DEFAULT_USER_HEADER})",
    )
    add("--public_host", default="", metavar="HOST,…", help="names by which the proxy's visitors call the page")
    add("--acknowledgements", default=ACK_TOPIC, metavar="TOPIC", help=f"for acknowledgements ({ACK_TOPIC})")
    add = p.add_argument_group("watching the job").add_argument
    add("--flink", metavar="HOST:PORT", help="a JobManager, to show the job's state; no default")
    add("--job_name", default="ami-beam", metavar="NAME", help="of the job there (ami-beam)")
    return p


def plan_of(argv: Sequence[str]) -> DashboardPlan:
    """The checked command line. Raises OptionError."""
    given, rest = parser().parse_known_args(list(argv))
    values = vars(given)
    given_counts = any(word.partition("=")[0] in ("--meter_counts", "--meter_registry") for word in rest)
    # A run needs meter counts and the page does not: what stands for none is never read.
    settings, run = validate(replay_arguments(rest if given_counts else [*rest, _NO_COUNTS]).arguments)
    if run.source != "kafka":
        raise OptionError(
            "--source",
            run.source,
            "the page reads topics; of a folder of results python -m ami_beam.report draws pictures",
            "kafka",
            "--source=kafka",
        )
    history = duration_of(values, "history", "24h", least=MICROS_PER_MINUTE)
    if history > _LONGEST_HISTORY:
        raise OptionError("--history", values["history"], "is more than 7d", "1m to 7d", "--history=24h")
    stale_after = None
    if values["stale_after"] is not None:
        stale_after = duration_of(values, "stale_after", "35m", least=MICROS_PER_SECOND)
    return DashboardPlan(
        values["host"],
        _port(values["port"]),
        Topics(
            run.output_prefix,
            run.outages_topic,
            run.work_topic,
            None if values["no_reads"] else run.reads,
            input_of(values, "acknowledgements", "kafka", ACK_TOPIC, ""),
        ),
        history,
        stale_after,
        None if values["flink"] is None else _address(values["flink"]),
        values["job_name"],
        _identity(values),
        bool(values["show_customer_ids"]),
        given_counts,
        run,
        # Records are shown as the pipeline took them, whenever that was: their time is not held against the clock.
        replace(settings, live=False),
    )


def _identity(values: Mapping[str, Any]) -> Identity:
    path = values["proxy_secret_file"]
    open_to_others = not is_loopback(values["host"])
    if open_to_others and path is None:
        raise OptionError(
            "--host",
            values["host"],
            "others can reach that address, and nothing would ask who they are",
            "127.0.0.1; another one with --proxy_secret_file, so that only the reverse proxy is answered",
            "--host=127.0.0.1",
        )
    if not _HEADER.fullmatch(values["user_header"]):
        raise OptionError(
            "--user_header", values["user_header"], "is no name of a header", "letters, digits and -",
            f"--user_header={DEFAULT_USER_HEADER}",
        )  # fmt: skip
    hosts = tuple(host.strip().lower() for host in values["public_host"].split(",") if host.strip())
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise OptionError(
                "--public_host", host, "is no host name", "names without port, with commas between them",
                "--public_host=grid.example.org",
            )  # fmt: skip
    proxy = None if path is None else Proxy(load_secret(path), values["user_header"])
    return Identity(proxy, hosts, open_to_others)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 <= int(text) <= 65_535:
        raise OptionError("--port", text, "is no port", "0 to 65535", f"--port={DEFAULT_PORT}")
    return int(text)


def _address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal():
        raise OptionError("--flink", text, "is no host and port", "HOST:PORT", "--flink=jobmanager:8081")
    return text
