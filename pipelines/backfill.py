"""A backfill: the results of a period, computed with records from before and after it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ami_beam.published_period import PublishedPeriod
from pipelines.operational import Outputs
from transforms.publish_period import PublishPeriod


def within(outputs: Outputs, period: PublishedPeriod | None) -> Outputs:
    """The outputs with the rows of the period only; as they are where there is none."""
    if period is None:
        return outputs

    def part(name: str, rows: Any) -> Any:
        return None if rows is None else rows | f"Period {name}" >> PublishPeriod(period)

    single = ("summaries", "receipts", "alerts", "alarms", "silent_meters", "dead_letters", "feeders", "heatmap")
    changed: dict[str, Any] = {name: part(name, getattr(outputs, name)) for name in single}
    for name in ("validated", "customers"):
        changed[name] = tuple(part(f"{name} {at}", rows) for at, rows in enumerate(getattr(outputs, name)))
    return replace(outputs, **changed)
