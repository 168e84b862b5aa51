"""How transforms get at the meter counts: as a side input, or as what stands in for one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import apache_beam as beam

from ami_beam.meter_counts import MeterCountsVersion

MeterCountsSource = beam.PCollection[MeterCountsVersion] | Iterable[MeterCountsVersion]
"""Versions of the table, the newest of which holds: a PCollection, or an object that gives them when iterated."""


def view(counts: MeterCountsSource) -> Any:
    """The argument for a ParDo or Map whose function takes an iterable of versions."""
    return beam.pvalue.AsList(counts) if isinstance(counts, beam.PCollection) else counts
