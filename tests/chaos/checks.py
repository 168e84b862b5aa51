"""Compares the final state of the result topics with what is expected: nothing lost, nothing invented, nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ami_beam.codecs.json_outputs import DEAD_LETTER_TOPIC, EVENT_ALERTS_TOPIC
from ami_beam.instants import parse_instant
from ami_beam.results import RESULTS, Result

Row = Mapping[str, Any]
Key = tuple[Any, ...]
_INFORMATIVE = {"revision", "as_of", "status"}
"""What may differ between runs: how often a row was published and by which read last, see the contract.

What explains an alert may not: of an alert and its copy, which says so, the copy comes later in the topic.
"""
# Of a resent event the copy that was processed first is published.
_OF_AN_EVENT = {"alert_id", "alert_source", "entity_id", "alert_time", "detail_value", "severity"}

_KINDS: dict[str, list[Result]] = {}
for _result in RESULTS:
    if _result.topic != DEAD_LETTER_TOPIC:
        _KINDS.setdefault(_result.topic, []).append(_result)
TOPICS = tuple(_KINDS)


def identity(topic: str, row: Row) -> Key:
    """By the catalogue. A month's row has a day in it, too, which is no part of its identity."""
    (result,) = [each for each in _KINDS[topic] if each.kind is None or row[each.kind[0]] == each.kind[1]]
    return (*(result.kind or ()), *(row[name] for name in result.identity))


@dataclass
class Difference:
    """Identities by kind; empty when all is well."""

    lost: list[str] = field(default_factory=list)
    """Expected, and missing or with another content."""
    invented: list[str] = field(default_factory=list)
    """There, and not expected."""

    def __bool__(self) -> bool:
        return bool(self.lost or self.invented)

    def __str__(self) -> str:
        return f"lost {len(self.lost)} {self.lost[:3]}, invented {len(self.invented)} {self.invented[:3]}"


def read_files(folder: Path) -> dict[str, list[Row]]:
    """The rows of a folder of results, by topic."""
    rows = {}
    for topic in (*TOPICS, DEAD_LETTER_TOPIC):
        path = folder / f"{topic}.jsonl"
        rows[topic] = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return rows


def compare(expected: Mapping[str, list[Row]], got: Mapping[str, list[Row]]) -> Difference:
    """What distinguishes the final state of `got` from that of `expected`; both hold rows in topic order."""
    difference = Difference()
    for topic in TOPICS:
        want, have = _final(topic, expected[topic]), _final(topic, got[topic])
        for key in want.keys() | have.keys():
            if key not in have or (key in want and _content(topic, want[key]) != _content(topic, have[key])):
                difference.lost.append(f"{topic} {key}")
            elif key not in want:
                difference.invented.append(f"{topic} {key}")
    # Counters are attempts and prove nothing after a restart; letters name their record.
    want_letters, have_letters = (_letters(rows[DEAD_LETTER_TOPIC]) for rows in (expected, got))
    difference.lost += [f"letter {each}" for each in sorted(want_letters - have_letters)]
    difference.invented += [f"letter {each}" for each in sorted(have_letters - want_letters)]
    return difference


def _final(topic: str, rows: Iterable[Row]) -> dict[Key, Row]:
    """The row of each identity that a consumer ends with: the greatest as_of, then topic order."""
    final: dict[Key, Row] = {}
    for row in rows:
        key = identity(topic, row)
        if key not in final or parse_instant(row["as_of"]) >= parse_instant(final[key]["as_of"]):
            final[key] = row
    return {key: row for key, row in final.items() if not _is_gone(row)}


def _is_gone(row: Row) -> bool:
    """Whether it says that there is nothing, as no row of a replay does: an ended alert, a pair, a feeder or a
    histogram without reads, an alarm, a silent meter or a day outside bands that was taken back; or that nothing comes
    any more, which a file's end is not."""
    return (
        (row.get("alarm_type") == "SOURCE_SILENT" and row["ended_at"] is None)
        or row.get("status") in ("CLEARED", "WITHDRAWN")
        or row.get("windows_in_violation") == 0
        or ("total_consumption_kwh" in row and row["meters_reported"] == 0 and not row.get("meters_expected"))
        or row.get("outside_ansi_a_minutes") == 0
        or row.get("reads") == 0
        or row.get("intervals") == 0
        or row.get("min_pct", 0) is None
    )


def _content(topic: str, row: Row) -> dict[str, Any]:
    if topic == EVENT_ALERTS_TOPIC:
        return {name: row[name] for name in _OF_AN_EVENT}
    return {name: value for name, value in row.items() if name not in _INFORMATIVE}


def _letters(rows: Iterable[Row]) -> set[tuple[str, int, int, str, bool]]:
    return {(row["topic"], row["partition"], row["offset"], row["reason"], row["used"]) for row in rows}
