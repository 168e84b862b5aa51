"""The alarms alone, of reads that end: for asking what other settings would have done."""

from __future__ import annotations

from collections.abc import Container

import apache_beam as beam

from ami_beam.codecs.writer_schemas import NO_SCHEMAS, Schemas
from ami_beam.meter_counts_view import MeterCountsSource
from ami_beam.meter_registry import CurrentRegistry
from ami_beam.records import Alarm, RecordBatch
from ami_beam.settings import Settings
from pipelines.operational import announced, judge, measure, told_by_events
from transforms.decode_events import DecodeEvents


def alarms_of(
    reads: beam.PCollection[RecordBatch],
    events: beam.PCollection[RecordBatch],
    meter_counts: MeterCountsSource,
    settings: Settings,
    producers: Container[str] | None = None,
    outages: beam.PCollection[RecordBatch] | None = None,
    work: beam.PCollection[RecordBatch] | None = None,
    schemas: Schemas = NO_SCHEMAS,
    registry: CurrentRegistry | None = None,
) -> beam.PCollection[Alarm]:
    """What `operational` gives as alarms, with the same steps.

    One of these to a pipeline: Beam's FnApiRunner keeps the timers of two steps apart by the name of the timer only, so
    of two graphs with the same steps one would lose its timers.
    """
    measured = measure(reads, meter_counts, settings, schemas.reads, registry)
    accepted = (events | "DecodeEvents" >> DecodeEvents(settings, schemas.events)).accepted
    told = announced(outages, work, measured.progress, settings, schemas).announced
    by_events = told_by_events(accepted, measured, settings, producers, told)
    return judge(measured, by_events, meter_counts, settings, told).alarms
