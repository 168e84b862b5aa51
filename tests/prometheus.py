"""The alert rules in `templates/prometheus`, taken apart, and what a reporter of Flink's answers."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from ami_beam.codecs.dead_letter_reasons import Reason
from ami_beam.demo_screen import ALERT_KINDS
from ami_beam.records import AlarmState, AlertStatus

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "templates" / "prometheus"
PREFIX = "flink_taskmanager_job_task_operator_ami_"
REASONS = tuple(Reason)
STATUSES = get_args(AlertStatus)
STATES = get_args(AlarmState)
LISTINGS = ("LISTED", "WITHDRAWN")
ONLY_AFTER = {
    *(f"{PREFIX}dead_letter_{reason}" for reason in REASONS),
    *(f"{PREFIX}alerts_{kind}_{status}" for kind in ALERT_KINDS for status in STATUSES),
    *(
        f"{PREFIX}{name}"
        for name in ("interval_length_mismatches", "unalerted_events", "meter_counts_loaded", "tombstones")
    ),
    *(f"{PREFIX}alarms_{kind}_{state}" for kind in ALERT_KINDS for state in STATES),
    *(f"{PREFIX}unreadable_published_{what}" for what in ("alerts", "alarms")),
    *(f"{PREFIX}accepted_{what}" for what in ("outages", "work")),
    *(f"{PREFIX}silent_meters_{what}" for what in (*LISTINGS, "without_name")),
    *(f"{PREFIX}{name}" for name in ("producers_load_failed", "uncounted_loss_events")),
    *(f"{PREFIX}{name}" for name in ("billing_only_reads", "interval_revisions", "avro_files", "avro_file_rows")),
    *(f"{PREFIX}postgresql_{what}" for what in ("rows", "rows_rejected", "batches", "batch_sum_ms", "batch_ms")),
    *(f"{PREFIX}{name}" for name in ("postgresql_retries", "bigquery_rows_refused")),
    *(f"{PREFIX}{name}" for name in ("topology_mismatches", "unregistered_meters", "inactive_meter_reads")),
    *(f"{PREFIX}meter_registry_{what}" for what in ("loaded", "load_failed")),
    *(f"{PREFIX}meter_counts_{what}" for what in ("refused", "bad_rows", "transformers", "meters")),
    *(f"{PREFIX}{name}" for name in ("apportioned_reads", "registry_corrections", "registry_corrections_missed")),
}
"""Metrics that exist only once what they count has happened, or where a consumer or sink is asked for."""
_SELECTOR = re.compile(r"(\bflink_\w+)?(?:\{([^}]*)\})?")
_CONDITION = re.compile(r'(\w+)\s*(=~|=)\s*"([^"]*)"')
_REPLACED = re.compile(r'"(operator_name|task_name)", "([^"]*)"')
_LINE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Selector:
    """Series that a rule reads: (label, regular expression) for each label, the metric's name as `__name__`."""

    conditions: tuple[tuple[str, str], ...]

    def takes(self, labels: dict[str, str]) -> bool:
        return all(re.fullmatch(pattern, labels.get(name, "")) for name, pattern in self.conditions)

    @property
    def name(self) -> str:
        return dict(self.conditions)["__name__"]


def rules() -> list[dict[str, Any]]:
    """All rules, in their order; alarms have `alert`, the others `record`."""
    return [rule for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]


def alarms() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def selectors() -> set[Selector]:
    """What the rules read of Flink's metrics, an alternative of a regular expression `…(A|B)…` a selector."""
    found = set()
    for rule in rules():
        for name, conditions in _SELECTOR.findall(rule["expr"]):
            given = [(label, value if kind == "=~" else re.escape(value)) for label, kind, value in _all(conditions)]
            if name or any(label == "__name__" for label, _ in given):
                found.add(Selector((*((("__name__", name),) if name else ()), *given)))
    return {one for each in found for one in _alternatives(each)}


def steps() -> set[str]:
    """Regular expressions, an alternative each, of the operator names that the rules tell apart."""
    found = {pattern for rule in rules() for _, pattern in _REPLACED.findall(rule["expr"])}
    return {one for pattern in found for one in _each(pattern)}


def documented_names() -> set[str]:
    """Every metric that `docs/operations.md` names, with those of ours that the README lists."""
    text = (ROOT / "docs" / "operations.md").read_text()
    (table,) = re.findall(r"^\| name \| labels \|.*?\n\n", text, re.MULTILINE | re.DOTALL)
    said = set()
    for line in table.splitlines()[2:-1]:
        first = re.findall(r"`([^`]*)`", line.split("|")[1])
        before = re.sub(r"[^_]+$", "", first[0])
        said |= {name.replace("…_", before) for name in first}
    ours = {
        counter.replace("<REASON>", reason)
        .replace("<TYPE>", kind)
        .replace("<STATUS>", status)
        .replace("<STATE>", state)
        .replace("<LISTING>", listing)
        for counter in readme_metrics()
        for reason in REASONS
        for kind in ALERT_KINDS
        for status in STATUSES
        for state in STATES
        for listing in LISTINGS
    }
    return {name for name in said if not name.startswith(PREFIX)} | {f"{PREFIX}{name}" for name in ours}


def readme_metrics() -> set[str]:
    """The names in the tables of the README's section on metrics."""
    (section,) = re.findall(r"^## Metrics\n(.*?)^## ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def scrape(ports: Iterable[int]) -> str:
    """What the reporters at these ports of this machine answer, one after the other."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    texts = []
    for port in ports:
        with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            texts.append(answer.read().decode())
    return "\n".join(texts)


def series(text: str) -> list[tuple[dict[str, str], float]]:
    """Labels, `__name__` among them, and value of everything in an answer."""
    return [({"__name__": n, **dict(_LABEL.findall(labels or ""))}, float(v)) for n, labels, v in _LINE.findall(text)]


def _all(conditions: str) -> list[tuple[str, str, str]]:
    return _CONDITION.findall(conditions or "")


def _alternatives(selector: Selector) -> Iterable[Selector]:
    for place, (label, pattern) in enumerate(selector.conditions):
        choices = _each(pattern)
        if len(choices) > 1:
            for one in choices:
                rest = (*selector.conditions[:place], (label, one), *selector.conditions[place + 1 :])
                yield from _alternatives(Selector(rest))
            return
    yield selector


def _each(pattern: str) -> list[str]:
    found = re.fullmatch(r"(.*)\((\w+(?:\|\w+)+)\)(.*)", pattern)
    return [f"{found[1]}{one}{found[3]}" for one in found[2].split("|")] if found else [pattern]
