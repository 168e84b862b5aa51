"""`python -m benchmarks.compressed_run`: ami_beam.run with windows of seconds, and state that is forgotten as fast.

A window's state is kept for at least two hours beyond its allowed lateness, and the command line allows no less. With
windows of 10 s in the place of 15 minutes, a soak would have to run for longer than that before anything is
forgotten. Days, after which lists of silent meters are made and forgotten, become minutes. All else is ami_beam.run;
its Python code has to run in this process (`--parallelism=1` on the local Flink).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta

from ami_beam import local_days, run
from ami_beam.instants import MICROS_PER_SECOND
from ami_beam.options import RunPlan, validate
from ami_beam.settings import Settings
from transforms import (
    alarm_episodes,
    customer_days,
    customer_months,
    due_windows,
    feeder_summary,
    gathering,
    group_causes,
    heard_meters,
    late_meter_reads,
    meter_days,
    publish_silent_meters,
    silent_meters,
    system_summary,
    transformer_heat,
    window_expiry,
)

SECONDS = 30
"""Both of the two hours become this, and the hour for which what reads say of supply is kept."""

DAY = 240
"""Seconds that become a day, a multiple of every window: `silent_after`, and what else happens so many times a day."""
_JUDGED_WITHIN = 5
MICROS = DAY * MICROS_PER_SECOND
FIRST_DAY = date(2026, 1, 1)
_FIRST = 1_767_225_600 // DAY
"""The number of the short day with that date."""


def _compressed(argv: Sequence[str]) -> tuple[Settings, RunPlan]:
    settings, plan = validate(argv)
    micros = MICROS_PER_SECOND
    return replace(settings, max_disorder=SECONDS * micros, silent_after=DAY * micros), plan


def _day(instant: int, zone: str) -> str:
    """The short day of the instant, by a date that no other of them has."""
    return str(FIRST_DAY + timedelta(days=instant // MICROS - _FIRST))


def _bounds(day: str, zone: str) -> tuple[int, int]:
    begin = ((date.fromisoformat(day) - FIRST_DAY).days + _FIRST) * MICROS
    return begin, begin + MICROS


def _end_of_month(month: str, zone: str) -> int:
    year, number = map(int, month.split("-"))
    return _bounds(str(date(year + number // 12, number % 12 + 1, 1)), zone)[0]


def _compress() -> None:
    window_expiry.MICROS_PER_HOUR = alarm_episodes.LATE_AFTER = SECONDS * MICROS_PER_SECOND
    due_windows.MICROS_PER_DAY = group_causes.ONE_CAUSE = DAY * MICROS_PER_SECOND
    silent_meters.MICROS_PER_DAY = publish_silent_meters.MICROS_PER_DAY = DAY * MICROS_PER_SECOND
    silent_meters.LOOK_EVERY = heard_meters.NAMED_EVERY = DAY * MICROS_PER_SECOND // 4
    for module in (gathering, feeder_summary, system_summary, customer_days, customer_months, meter_days):
        module.KEPT_LONGER = SECONDS * MICROS_PER_SECOND
    gathering.GATHER_YOUNG, gathering.GATHER_OLD = MICROS_PER_SECOND, _JUDGED_WITHIN * MICROS_PER_SECOND
    gathering.YOUNG = SECONDS * MICROS_PER_SECOND
    local_days.local_day = transformer_heat.local_day = _day
    customer_days.bounds_of = meter_days.bounds_of = _bounds
    customer_months.end_of_month = _end_of_month
    meter_days.GATHER = late_meter_reads.GATHER = _JUDGED_WITHIN * MICROS_PER_SECOND
    silent_meters.JUDGED_WITHIN = publish_silent_meters.JUDGED_WITHIN = _JUDGED_WITHIN * MICROS_PER_SECOND


if __name__ == "__main__":
    _compress()
    run.validate = _compressed
    code = run.main()
    sys.stdout.flush()
    sys.stderr.flush()
    # As in ami_beam.run: Beam leaves threads behind.
    os._exit(code)
