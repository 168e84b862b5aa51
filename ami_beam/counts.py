"""`python -m ami_beam.counts`: whether meter counts can be used, how many there are, and by which id they are known."""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from ami_beam.beam_options import OptionError, Parser
from ami_beam.codecs.meter_count_rows import COLUMNS
from ami_beam.command import Stopped, leave, start_logging, stoppable
from ami_beam.counts_shrink import size_of
from ami_beam.csv_table import TableError
from ami_beam.instants import MICROS_PER_MINUTE, format_instant
from ami_beam.meter_counts import VERSION_DIGITS, MeterCountsVersion, unpack
from ami_beam.options import validate
from ami_beam.records import MeterCount
from ami_beam.run import followed_counts

_ABOUT = """Reads meter counts where a run would, and by the same rules: says what is wrong with them, or how many there
are and the id of the table, which warnings, alerts and --meter_counts_accepted have. Nothing is written."""
_EXAMPLES = """
All options of python -m ami_beam.run that say where meter counts are may be given, and mean the same.

examples:
  python -m ami_beam.counts --meter_counts=transformer_meter_count.csv
  python -m ami_beam.counts --meter_counts=kafka:ami.meter.counts --bootstrap_servers=broker1:9092
  python -m ami_beam.counts --meter_registry=meter_registry.csv.gz --csv | less
  python -m ami_beam.counts --meter_counts=postgresql:gis.meter_counts --postgresql=postgresql://ami_reader@db1/gis \\
    --postgresql_config_file=postgresql.properties
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 they can be used, 1 they cannot, 2 a wrong option."""
    start_logging()
    parser = Parser(
        prog="python -m ami_beam.counts",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--csv", action="store_true", help="the rows on standard output, as --meter_counts reads them")
    with stoppable():
        try:
            given, rest = parser.parse_known_args(sys.argv[1:] if argv is None else list(argv))
            name, counts = _load(rest)
        except OptionError as error:
            print(f"ami_beam.counts: {error}", file=sys.stderr)
            return 2
        except TableError as error:
            print(f"ami_beam.counts: {error}", file=sys.stderr)
            return 1
        except Stopped:
            return 0
    if given.csv:
        write_csv(unpack(counts), sys.stdout)
    else:
        print(as_text(name, counts))
    return 0


def _load(rest: list[str]) -> tuple[str, MeterCountsVersion]:
    with tempfile.TemporaryDirectory(prefix="ami-beam-counts-") as folder:
        # A replay of nothing: neither reads nor a sink are looked at.
        nothing = Path(folder, "nothing.jsonl")
        nothing.touch()
        settings, plan = validate(
            [*rest, "--source=files", "--sink=files", f"--reads={nothing}", f"--events={nothing}", f"--output={folder}"]
        )
    places = " and ".join(place for place in (plan.meter_registry, plan.meter_counts) if place is not None)
    return places, followed_counts(settings, plan).load()


def as_text(name: str, counts: MeterCountsVersion) -> str:
    """What a table holds, by the rows that are valid now."""
    rows = unpack(counts)
    size = size_of(rows, time.time_ns() // 1_000)
    said = {
        "id": counts.version_id[:VERSION_DIGITS],
        "rows": f"{len(rows):,}",
        "transformers now": f"{size.transformers:,}",
        "meters now": f"{size.meters:,}",
        "with a nominal voltage": f"{size.nominal_voltages:,}",
        "with a receipt delay": f"{size.receipt_delays:,}",
        "with a collection group": f"{size.collection_groups:,}",
    }
    return "\n".join([f"Meter counts of {name}", *(f"  {what:<24}{how}" for what, how in said.items())])


def write_csv(rows: Sequence[MeterCount], file: TextIO) -> None:
    """The rows as a file of meter counts; a total of 0, which only a registry makes, as a file cannot have it."""
    table = csv.writer(file, lineterminator="\n")
    table.writerow(COLUMNS)
    for row in rows:
        delay = None if row.receipt_delay is None else row.receipt_delay / MICROS_PER_MINUTE
        since = None if row.effective_from is None else format_instant(row.effective_from)
        values = (row.transformer_id, row.total_meters, row.nominal_voltage_v, delay, since, row.collection_group)
        table.writerow(values)


if __name__ == "__main__":
    leave(main())
