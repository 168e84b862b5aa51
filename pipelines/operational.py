"""The operational pipeline: from the head-end's records to statistics, receipt rates, alerts and dead letters."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam

from ami_beam.codecs.writer_schemas import NO_SCHEMAS, Schemas, WriterSchemas, Written
from ami_beam.consumers import FEEDER_SUMMARY, VOLTAGE_HEATMAP
from ami_beam.meter_counts_view import MeterCountsSource
from ami_beam.meter_registry import CurrentRegistry
from ami_beam.read_columns import ReadColumns
from ami_beam.records import (
    Alarm,
    AlarmInput,
    Alert,
    Announcement,
    CustomerBatch,
    DeadLetterBatch,
    Event,
    ExplainInput,
    FeederBatch,
    GroupInput,
    HeardMeters,
    HeatBatch,
    JudgeInput,
    ReadPauses,
    ReadProgress,
    ReceiptBatch,
    ReceiptDue,
    RecordBatch,
    SilentMeterBatch,
    StatisticsBatch,
    SummaryBatch,
    ValidatedBatch,
    VoltageLevels,
)
from ami_beam.settings import Settings
from ami_beam.shards import ShardWindow
from pipelines.billing_preview import BillingPreview, billing_preview
from pipelines.feeder_summaries import feeder_summaries
from pipelines.voltage_heatmap import voltage_heatmap
from transforms.alarm_episodes import AlarmEpisodes
from transforms.apportion_reads import ApportionReads
from transforms.collection_groups import CollectionGroups
from transforms.corrected_statistics import CorrectedStatistics
from transforms.decode_announcements import DecodeAnnouncements
from transforms.decode_events import DecodeEvents
from transforms.decode_reads import DecodeReads
from transforms.due_windows import DueWindows
from transforms.event_alerts import EventAlerts
from transforms.explain_alerts import ExplainAlerts
from transforms.join_meter_counts import ExpandDueWindows, JoinMeterCounts
from transforms.judge_windows import JudgeWindows
from transforms.late_reads import GatherLateReads
from transforms.latest_announcements import Announced, LatestAnnouncements
from transforms.locate_events import LocateEvents
from transforms.loss_control import LossControl
from transforms.loss_events import LossEvents
from transforms.pack_reads import PackReads
from transforms.place_reads import PlaceReads
from transforms.publish_alarms import PublishAlarms
from transforms.publish_silent_meters import PublishSilentMeters
from transforms.published_alarms import PublishedAlarms
from transforms.published_alerts import PublishedAlerts
from transforms.registry_corrections import RegistryCorrections
from transforms.silent_meters import SilentMeters
from transforms.summary_rows import SummaryRows
from transforms.transformer_places import MeterPlacesOf
from transforms.window_statistics import WindowStatistics


@dataclass(frozen=True)
class Inputs:
    """What a source gives: batches of records of both topics with plain record time, and the meter counts."""

    reads: beam.PCollection[RecordBatch]
    events: beam.PCollection[RecordBatch]
    """They may hold no watermark back: steps that keep events take the time from the reads."""
    meter_counts: MeterCountsSource
    published_alerts: beam.PCollection[RecordBatch] | None = None
    """The topic of the grid alerts, read back; None where there is none. It holds no watermark back."""
    published_alarms: beam.PCollection[RecordBatch] | None = None
    """The topic of the alarms, likewise."""
    producers: Container[str] | None = None
    """Meters that are registered to feed in; None where nobody knows."""
    outages: beam.PCollection[RecordBatch] | None = None
    """Outages that the OMS plans or knows; None where nobody tells. They hold no watermark back."""
    work: beam.PCollection[RecordBatch] | None = None
    """Work at meters, likewise."""
    schemas: Schemas = NO_SCHEMAS
    registry: CurrentRegistry | None = None
    """Where meters hang; None where only their reads say so."""


@dataclass(frozen=True)
class Outputs:
    """What a sink takes, all in the global window."""

    summaries: beam.PCollection[SummaryBatch]
    receipts: beam.PCollection[ReceiptBatch]
    alerts: beam.PCollection[Alert]
    alarms: beam.PCollection[Alarm]
    silent_meters: beam.PCollection[SilentMeterBatch]
    dead_letters: beam.PCollection[DeadLetterBatch]
    feeders: beam.PCollection[FeederBatch] | None = None
    """None where nobody has asked for them, as with what follows."""
    heatmap: beam.PCollection[HeatBatch] | None = None
    validated: tuple[beam.PCollection[ValidatedBatch], ...] = ()
    """In parts; empty where nobody has asked."""
    customers: tuple[beam.PCollection[CustomerBatch], ...] = ()


class Told(NamedTuple):
    """What others have announced, before it is held against anything."""

    announced: Announced | None
    """None where nobody tells."""
    dead_letters: tuple[beam.PCollection[DeadLetterBatch], ...]


class Measured(NamedTuple):
    """What the reads say, before anything is held against it."""

    statistics: beam.PCollection[tuple[ShardWindow, StatisticsBatch]]
    progress: beam.PCollection[ReadProgress]
    dead_letters: beam.PCollection[DeadLetterBatch]
    to_bill: beam.PCollection[ReadColumns] | None
    """The reads again, with their customers, for billing; None where nobody has asked."""


class ToldByEvents(NamedTuple):
    """What meters say themselves."""

    supply: beam.PCollection[tuple[int, AlarmInput]]
    losses: beam.PCollection[tuple[str, GroupInput]]
    """Alarms as they are found, to be published with the others."""


class Hearing(NamedTuple):
    """Which meters were heard, when that is judged, and when nobody could be."""

    heard: beam.PCollection[tuple[int, HeardMeters]]
    due: beam.PCollection[tuple[ShardWindow, ReceiptDue]]
    pauses: beam.PCollection[ReadPauses]


class JudgedWindows(NamedTuple):
    """What thresholds and rules make of what was measured."""

    receipts: beam.PCollection[ReceiptBatch]
    comm_alerts: beam.PCollection[Alert]
    voltage_alerts: beam.PCollection[Alert]
    alarms: beam.PCollection[Alarm]
    explanations: beam.PCollection[tuple[int, ExplainInput]]
    """What the alarms say of the alerts, and the alerts that were published."""
    hearing: Hearing
    observations: beam.PCollection[tuple[ShardWindow, JudgeInput]]
    """What windows are judged by."""
    levels: beam.PCollection[tuple[ShardWindow, VoltageLevels]]


def operational(inputs: Inputs, settings: Settings) -> Outputs:
    """Assemble the graph. Labels name state: a change of one makes savepoints of older versions unusable."""
    measured = measure(inputs.reads, inputs.meter_counts, settings, inputs.schemas.reads, inputs.registry)
    summaries = measured.statistics | "SummaryRows" >> SummaryRows(settings)
    events = inputs.events | "DecodeEvents" >> DecodeEvents(settings, inputs.schemas.events)
    clock = measured.progress | "ReadsClock" >> beam.FlatMap(_nothing).with_output_types(Event)
    accepted = (events.accepted, clock) | "EventsInTime" >> beam.Flatten()
    told = announced(inputs.outages, inputs.work, measured.progress, settings, inputs.schemas)
    by_events = told_by_events(accepted, measured, settings, inputs.producers, told.announced)
    judged = judge(
        measured, by_events, inputs.meter_counts, settings, told.announced,
        inputs.published_alerts, inputs.published_alarms, inputs.schemas.published,
    )  # fmt: skip

    grid_alerts = (judged.comm_alerts, judged.voltage_alerts) | "WindowAlerts" >> beam.Flatten()
    explained = (grid_alerts, judged.explanations) | "ExplainAlerts" >> ExplainAlerts(settings)
    event_alerts = accepted | "EventAlerts" >> EventAlerts(settings)
    alerts = (explained, event_alerts) | "AllAlerts" >> beam.Flatten()

    silent = tuple(judged.hearing) | "SilentMeters" >> SilentMeters(settings)
    silent_meters = silent | "PublishSilentMeters" >> PublishSilentMeters(settings, inputs.registry)

    dead_letters = (
        (measured.dead_letters, events.dead_letters, *told.dead_letters) | "AllDeadLetters" >> beam.Flatten()
    )  # fmt: skip
    feeders = heatmap = None
    if FEEDER_SUMMARY in settings.also_publish:
        feeders = feeder_summaries(measured.statistics, judged.observations, judged.receipts, settings)
    if VOLTAGE_HEATMAP in settings.also_publish:
        heatmap = voltage_heatmap(judged.levels, settings)
    bills = BillingPreview()
    if measured.to_bill is not None:
        bills = billing_preview(measured.to_bill, settings)
    return Outputs(
        summaries, judged.receipts, alerts, judged.alarms, silent_meters, dead_letters, feeders, heatmap, *bills
    )


def _nothing(_: ReadProgress) -> list[Any]:
    """Of a collection that is there for its watermark only."""
    return []


def announced(
    outages: beam.PCollection[RecordBatch] | None,
    work: beam.PCollection[RecordBatch] | None,
    progress: beam.PCollection[ReadProgress],
    settings: Settings,
    schemas: Schemas = NO_SCHEMAS,
) -> Told:
    """From records of announced outages and of work at meters to the last word on each. Takes the time from reads."""
    decoded = []
    if outages is not None:
        decoded.append(outages | "DecodeOutages" >> DecodeAnnouncements(settings, "oms", schemas.outages))
    if work is not None:
        decoded.append(work | "DecodeWork" >> DecodeAnnouncements(settings, "work", schemas.work))
    if not decoded:
        return Told(None, ())
    clock = progress | "AnnouncementsClock" >> beam.FlatMap(_nothing).with_output_types(Announcement)
    accepted = (*(each.accepted for each in decoded), clock) | "AnnouncementsInTime" >> beam.Flatten()
    last = accepted | "LatestAnnouncements" >> LatestAnnouncements(settings)
    return Told(last, tuple(each.dead_letters for each in decoded))


def measure(
    records: beam.PCollection[RecordBatch],
    meter_counts: MeterCountsSource,
    settings: Settings,
    written: Written = None,
    registry: CurrentRegistry | None = None,
) -> Measured:
    """From records of the reads topic to every window's statistics and their revisions."""
    reads = records | "DecodeReads" >> DecodeReads(settings, written)
    accepted, to_bill = reads.accepted, reads.to_bill if settings.bills else None
    if settings.apportions:
        accepted = accepted | "ApportionReads" >> ApportionReads(settings)
    if registry is not None:
        # Of a long read each part where its meter was then.
        accepted = accepted | "PlaceReads" >> PlaceReads(registry)
        if to_bill is not None:
            to_bill = to_bill | "PlaceReadsToBill" >> PlaceReads(registry, counted=False)
    packed = accepted | "PackReads" >> PackReads(settings)
    late = packed.late | "GatherLateReads" >> GatherLateReads(settings, meter_counts)
    parts = [packed.on_time, late]
    corrects = registry if registry is not None and registry.changes else None
    if corrects is not None:
        parts.append(reads.progress | "RegistryCorrections" >> RegistryCorrections(settings, corrects))
    blocks = tuple(parts) | "AllBlocks" >> beam.Flatten()
    statistics, handed = blocks | "WindowStatistics" >> WindowStatistics(settings, corrects)
    if corrects is not None:
        corrected = handed | "CorrectedStatistics" >> CorrectedStatistics(settings, corrects)
        statistics = (statistics, corrected) | "AllStatistics" >> beam.Flatten()
    return Measured(statistics, reads.progress, reads.dead_letters, to_bill)


def told_by_events(
    events: beam.PCollection[Event],
    measured: Measured,
    settings: Settings,
    producers: Container[str] | None,
    announced: Announced | None = None,
) -> ToldByEvents:
    """From events, and from work at meters, to what is said of a transformer's meters, and to alarms of meters."""
    losses = events | "LossEvents" >> LossEvents(settings, producers)
    places = measured.statistics | "MeterPlaces" >> MeterPlacesOf(settings)
    work = () if announced is None else (announced.meters,)
    located = (events, losses, places, *work) | "LocateEvents" >> LocateEvents(settings)
    found = (losses, located.feeders, measured.progress) | "LossControl" >> LossControl(settings)
    return ToldByEvents(located.supply, found)


def judge(
    measured: Measured,
    told: ToldByEvents,
    meter_counts: MeterCountsSource,
    settings: Settings,
    announced: Announced | None = None,
    published_alerts: beam.PCollection[RecordBatch] | None = None,
    published_alarms: beam.PCollection[RecordBatch] | None = None,
    schemas: WriterSchemas | None = None,
) -> JudgedWindows:
    """From statistics, from windows of which too little came, from meters' words and from what others have announced,
    to rates, alerts and alarms."""
    joined = measured.statistics | "JoinMeterCounts" >> JoinMeterCounts(settings, meter_counts)
    progress = measured.progress | "DueWindows" >> DueWindows(settings, meter_counts)
    due = progress.windows | "ExpandDueWindows" >> ExpandDueWindows(settings, meter_counts)
    judged_by, explained_by = [due, joined.observations], []
    if published_alerts is not None:
        read_back = published_alerts | "PublishedAlerts" >> PublishedAlerts(settings, schemas)
        judged_by.append(read_back.to_judge)
        explained_by.append(read_back.to_explain)
    judged = tuple(judged_by) | "JudgeWindows" >> JudgeWindows(settings)

    known = [judged.verdicts, joined.supply, told.supply]
    if announced is not None:
        known.append(announced.transformers)
    episodes = tuple(known) | "AlarmInputs" >> beam.Flatten() | "AlarmEpisodes" >> AlarmEpisodes(settings)
    collected = episodes.by_collector | "CollectionGroups" >> CollectionGroups(settings)
    groups = [episodes.by_feeder, collected, progress.silence, told.losses]
    if announced is not None:
        groups.append(announced.feeders)
    if published_alarms is not None:
        groups.append(published_alarms | "PublishedAlarms" >> PublishedAlarms(schemas))
    published = tuple(groups) | "GroupInputs" >> beam.Flatten() | "PublishAlarms" >> PublishAlarms(settings)
    explanations = published.causes
    if explained_by:
        explanations = (published.causes, *explained_by) | "Explanations" >> beam.Flatten()
    hearing = Hearing(joined.heard, due, progress.pauses)
    return JudgedWindows(
        judged.receipts, judged.comm_alerts, judged.voltage_alerts, published.alarms, explanations, hearing,
        joined.observations, joined.levels,
    )  # fmt: skip
