"""A report as one HTML page that needs no script and no network: pictures inside, their numbers as tables."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from ami_beam import __version__
from ami_beam.report.pictures import Picture
from ami_beam.report.report_data import UNPLACED, ReportData
from ami_beam.report.tables import (
    Table,
    alarm_table,
    counted,
    limits,
    period,
    profile_table,
    receipt_table,
    time_table,
    voltage_table,
    window_length,
)
from ami_beam.terminal_text import printable

_OPEN_ROWS = 15
"""Longer tables are closed at first."""
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 84rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
figure { margin: 0; } img { max-width: 100%; height: auto; }
.note { color: #4a4a4a; font-size: 0.9rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.2rem 1.5rem; }
dt { color: #4a4a4a; } dd { margin: 0; }
summary { cursor: pointer; color: #1d4f91; margin-top: 0.5rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0.5rem 0; }
th, td { padding: 0.2rem 0.7rem; border-bottom: 1px solid #d5d5d5; text-align: right; vertical-align: top; }
thead th { background: #f0f1ee; } td { white-space: nowrap; }
.name { text-align: left; min-width: 8rem; max-width: 24rem; overflow-wrap: break-word; white-space: normal; }
@media print { body { max-width: none; margin: 0; } td { white-space: normal; } .table { overflow: visible; } }
"""


def page(data: ReportData, pictures: Sequence[Picture]) -> str:
    """The page. Each picture has a PNG. Names come from a topic, so everything is escaped."""
    shown = {picture.name: picture for picture in pictures}
    sections = [_section(shown.pop("voltage-feeders"), [voltage_table(data, data.feeders)])]
    for heat in data.chosen:
        picture = shown.pop(next(name for name in shown if name.startswith("voltage-feeder-")))
        sections.append(_section(picture, [voltage_table(data, heat)]))
    if "receipt-rate" in shown:
        sections.append(_section(shown["receipt-rate"], [receipt_table(data)]))
    else:
        sections.append("<section><h2>Receipt rate</h2><p>There are no receipt rows in this period.</p></section>")
    by_time_of_day = profile_table(data)
    tables = [time_table(data), *([] if by_time_of_day is None else [by_time_of_day])]
    sections.append(_section(shown["consumption"], tables))
    alarms = alarm_table(data)
    sections.append(f"<section><h2>{_text(alarms.caption)}</h2>{_table(alarms)}</section>")
    feeders = sum(name != UNPLACED for name in data.feeders.names)
    title = f"Voltage, receipt and consumption, {period(data)}"
    facts = {
        "Period": period(data),
        "Windows": f"{len(data.ends):,} of {window_length(data)}",
        "Transformers": f"{data.transformers:,} on {counted(feeders, 'feeder')}",
        "Voltage": limits(data),
        "Receipt rate": f"at least {data.thresholds.min_receipt_rate_pct:g} % of the meters",
        "Alarms": f"{sum(tally.alarms for tally in data.alarms):,}",
        "Made by": f"ami-beam {__version__}",
    }
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:;'
            " style-src 'unsafe-inline'\">",
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_text(title)}</title>",
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            "<main>",
            f"<h1>{_text(title)}</h1>",
            "<dl>",
            *(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts.items()),
            "</dl>",
            *sections,
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _section(picture: Picture, tables: Sequence[Table]) -> str:
    image = base64.b64encode(picture.files["png"]).decode()
    return "\n".join(
        [
            f"<section><h2>{_text(picture.title)}</h2>",
            f'<figure><img src="data:image/png;base64,{image}" alt="{_text(picture.alt)}"></figure>',
            *map(_folded, tables),
            "</section>",
        ]
    )


def _folded(table: Table) -> str:
    opened = " open" if len(table.rows) <= _OPEN_ROWS else ""
    return f"<details{opened}><summary>As a table: {_text(table.caption)}</summary>{_table(table)}</details>"


def _table(table: Table) -> str:
    note = f'<p class="note">{_text(table.note)}</p>' if table.note else ""
    if not table.rows:
        return note

    def kind(column: int) -> str:
        return ' class="name"' if column < table.names else ""

    head = "".join(f'<th scope="col"{kind(column)}>{_text(text)}</th>' for column, text in enumerate(table.header))
    lines = [
        f'<div class="table" tabindex="0" role="region" aria-label="{_text(table.caption)}"><table>',
        f"<caption>{_text(table.caption)}</caption>",
        f"<thead><tr>{head}</tr></thead>",
        "<tbody>",
    ]
    for first, *others in table.rows:
        cells = "".join(f"<td{kind(column)}>{_text(text)}</td>" for column, text in enumerate(others, 1))
        lines.append(f'<tr><th scope="row" class="name">{_text(first)}</th>{cells}</tr>')
    return "\n".join([*lines, "</tbody></table></div>", note])


def _text(text: str) -> str:
    return escape(printable(text))
