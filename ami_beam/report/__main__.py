"""`python -m ami_beam.report FOLDER`: the pictures of the operators' screen as files, from a replay's output folder."""

from __future__ import annotations

import argparse
import difflib
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ami_beam.beam_options import OptionError, Parser
from ami_beam.codecs.json_outputs import CONFIG_TOPIC
from ami_beam.command import Stopped, leave, start_logging, stoppable
from ami_beam.csv_table import TableError
from ami_beam.io.meter_counts_file import load
from ami_beam.meter_counts import MeterCounts
from ami_beam.option_checks import instant_of, number_of
from ami_beam.report.folder import ReportError, read_rows, rules_of
from ami_beam.report.page import page
from ami_beam.report.pictures import FORMATS, Picture, PictureError, check_library, pictures
from ami_beam.report.report_data import NoFeederError, ReportData, report_data
from ami_beam.voltage_codes import Thresholds

PAGE = "report.html"
_KINDS = (*FORMATS, "html")
_RANGES = {
    "nominal_voltage": (1, 1_000_000, "230"),
    "low_voltage_pct": (0, 1000, "90"),
    "high_voltage_pct": (0, 1000, "110"),
    "min_receipt_rate_pct": (0, 100, "80"),
}
"""Of the thresholds: least, most, an example."""
_log = logging.getLogger(__name__)

_ABOUT = """Draws what a replay has found: a heat map of voltage by feeder and time, one of the transformers of chosen
feeders, receipt rates, consumption and received energy, and alarms by type. As picture files, and as one HTML page with
all pictures and tables, which needs no network. Nothing is published, and the folder is only read."""
_EXAMPLES = f"""
FOLDER is what python -m ami_beam.run --source=files --sink=files --output=FOLDER has written. Limits are those of that
run, from {CONFIG_TOPIC}.jsonl, where no option here says others. All times are UTC.

examples:
  python -m ami_beam.report output
    report/{PAGE} and report/*.png; of the transformers those of the worst feeder

  python -m ami_beam.report output --feeder=F-12 --feeder=F-13 --into=march --formats=html
  python -m ami_beam.report output --from=2026-03-03T06:00:00Z --to=2026-03-03T18:00:00Z --formats=png,svg
  python -m ami_beam.report output --meter_counts=transformer_meter_count.csv
    with each transformer's own nominal voltage, as in the run
"""


@dataclass(frozen=True)
class Order:
    """What is to be drawn, and where it goes."""

    folder: str
    into: Path
    formats: tuple[str, ...]
    feeders: tuple[str, ...]
    begin: int | None
    end: int | None
    limits: Mapping[str, float]
    """Thresholds that were given, by name."""
    counts: MeterCounts | None


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 all is drawn, 1 the folder cannot be read or the files not be written, 2 a wrong option."""
    start_logging()
    with stoppable():
        try:
            order = _order(sys.argv[1:] if argv is None else argv)
            check_library()
            data = _data(order)
            write(data, order.into, order.formats)
        except (OptionError, TableError, PictureError) as error:
            print(f"ami_beam.report: {error}", file=sys.stderr)
            return 2
        except ReportError as error:
            print(f"ami_beam.report: {error}", file=sys.stderr)
            return 1
        except Stopped:
            _log.info("Stopped.")
            return 0
    return 0


def _order(argv: Sequence[str]) -> Order:
    parser = Parser(
        prog="python -m ami_beam.report",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="output folder of a replay")
    add("--into", type=Path, default=Path("report"), metavar="FOLDER", help="where the report is written (report)")
    add("--formats", default="png,html", metavar="KIND,…", help=f"of {', '.join(_KINDS)} (png,html)")
    add(
        "--feeder",
        dest="feeders",
        action="append",
        default=[],
        metavar="ID",
        help="a feeder whose transformers are drawn, any number of times (the feeder with most windows beyond a limit)",
    )
    add("--from", dest="begin", metavar="TIME", help="windows that end after it (the first)")
    add("--to", dest="end", metavar="TIME", help="windows that end by it (the last)")
    add("--nominal_voltage", metavar="VOLTS", help="where the meter counts give none (the run's, or 230)")
    add("--low_voltage_pct", metavar="PERCENT", help="low limit, per cent of nominal (the run's, or 90)")
    add("--high_voltage_pct", metavar="PERCENT", help="high limit, per cent of nominal (the run's, or 110)")
    add("--min_receipt_rate_pct", metavar="PERCENT", help="least receipt rate (the run's, or 80)")
    add("--meter_counts", metavar="FILE", help="CSV, JSON lines or Avro: transformers' own nominal voltages (none)")
    given = parser.parse_args(list(argv))
    begin = None if given.begin is None else instant_of("--from", given.begin)
    end = None if given.end is None else instant_of("--to", given.end)
    if begin is not None and end is not None and begin >= end:
        raise OptionError("--to", given.end, f"is not after --from={given.begin}", "a later time")
    values = {name: value for name in _RANGES if (value := getattr(given, name)) is not None}
    return Order(
        given.folder,
        given.into,
        _formats(given.formats),
        tuple(given.feeders),
        begin,
        end,
        {name: number_of(values, name, *_RANGES[name]) for name in values},
        _counts(given.meter_counts),
    )


def _formats(text: str) -> tuple[str, ...]:
    formats = tuple(dict.fromkeys(each.strip() for each in text.split(",")))
    for each in formats:
        if each not in _KINDS:
            raise OptionError(
                "--formats", text, f"{each!r} is no kind of file", ", ".join(_KINDS), "--formats=png,html"
            )
    return formats


def _counts(name: str | None) -> MeterCounts | None:
    if name is None:
        return None
    if re.match(r"(kafka|postgresql):", name):
        problem = "is no file; python -m ami_beam.counts writes one with --csv"
        raise OptionError("--meter_counts", name, problem, "a file", "--meter_counts=transformer_meter_count.csv")
    return MeterCounts.from_rows(load(name))


def thresholds_of(rules: Mapping[str, Any], given: Mapping[str, float]) -> Thresholds:
    """What was given, else what the rules of the run say, else the defaults. Raises OptionError."""
    values = {field.name: getattr(Thresholds(), field.name) for field in fields(Thresholds)}
    for name, (least, most, _) in _RANGES.items():
        said = rules.get(name)
        if isinstance(said, int | float) and least <= said <= most:
            values[name] = float(said)
    values |= given
    if values["low_voltage_pct"] >= values["high_voltage_pct"]:
        raise OptionError(
            "--low_voltage_pct",
            f"{values['low_voltage_pct']:g}",
            f"is not below the high limit, {values['high_voltage_pct']:g}",
            "a low percentage below the high one",
            "--low_voltage_pct=90 --high_voltage_pct=110",
        )
    return Thresholds(**values)


def _data(order: Order) -> ReportData:
    thresholds = thresholds_of(rules_of(order.folder), order.limits)
    rows = read_rows(order.folder, order.begin, order.end)
    try:
        return report_data(rows, thresholds, order.counts, order.feeders)
    except NoFeederError as error:
        near = difflib.get_close_matches(error.feeder_id, error.feeders, n=1, cutoff=0)
        some = ", ".join(error.feeders[:10]) + (f" and {len(error.feeders) - 10:,} more" if error.feeders[10:] else "")
        raise OptionError(
            "--feeder", error.feeder_id, f"there is no such feeder in {order.folder}", some, f"--feeder={near[0]}"
        ) from None


def write(data: ReportData, into: Path, formats: Sequence[str]) -> None:
    """Writes the files of these formats, and prints their paths. Raises ReportError, PictureError.

    Files of other names, and those of an earlier report, stay in the folder unless they are written anew.
    """
    drawn: list[Picture] = []
    # The page has the pictures inside.
    kinds = list(dict.fromkeys(["png" if each == "html" else each for each in formats]))
    try:
        into.mkdir(parents=True, exist_ok=True)
        for picture in pictures(data, kinds):
            drawn.append(picture)
            for each in set(kinds) & set(formats):
                _write(into / f"{picture.name}.{each}", picture.files[each])
        if "html" in formats:
            _write(into / PAGE, page(data, drawn).encode())
    except OSError as error:
        raise ReportError(f"{into}: cannot be written: {error}. Name another folder with --into") from error


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    print(path, flush=True)


if __name__ == "__main__":
    leave(main())
