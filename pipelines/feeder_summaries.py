"""The feeders' summaries, and the system's: what the transformers' results add up to."""

from __future__ import annotations

import apache_beam as beam

from ami_beam.records import FeederBatch
from ami_beam.settings import Settings
from transforms.feeder_contributions import FeederContributions
from transforms.feeder_summary import FeederSummary
from transforms.place_silent_transformers import PlaceSilentTransformers
from transforms.system_summary import SystemSummary


def feeder_summaries(
    statistics: beam.PCollection, observations: beam.PCollection, receipts: beam.PCollection, settings: Settings
) -> beam.PCollection[FeederBatch]:
    """From what is published of transformers, and what they are judged by, to rows of feeders and of the system."""
    parts = (statistics, observations, receipts) | "FeederContributions" >> FeederContributions(settings)
    placed = parts.heard | "PlaceSilentTransformers" >> PlaceSilentTransformers(settings)
    inputs = (parts.inputs, placed) | "FeederInputs" >> beam.Flatten()
    summaries = inputs | "FeederSummary" >> FeederSummary(settings)
    system = summaries.totals | "SystemSummary" >> SystemSummary(settings)
    return (summaries.rows, system) | "SegmentRows" >> beam.Flatten()
