"""The operational pipeline: from the head-end's records to statistics, receipt rates, alerts and dead letters."""

from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam

from ami_beam.meter_counts_view import MeterCountsSource
from ami_beam.records import Alert, DeadLetterBatch, ReceiptBatch, RecordBatch, SummaryBatch
from ami_beam.settings import Settings
from transforms.decode_events import DecodeEvents
from transforms.decode_reads import DecodeReads
from transforms.due_windows import DueWindows
from transforms.event_alerts import EventAlerts
from transforms.join_meter_counts import ExpandDueWindows, JoinMeterCounts
from transforms.judge_windows import JudgeWindows
from transforms.late_reads import GatherLateReads
from transforms.pack_reads import PackReads
from transforms.published_alerts import PublishedAlerts
from transforms.summary_rows import SummaryRows
from transforms.window_statistics import WindowStatistics


@dataclass(frozen=True)
class Inputs:
    """What a source gives: batches of records of both topics with plain record time, and the meter counts."""

    reads: beam.PCollection[RecordBatch]
    events: beam.PCollection[RecordBatch]
    meter_counts: MeterCountsSource
    published_alerts: beam.PCollection[RecordBatch] | None = None
    """The topic of the grid alerts, read back; None where there is none. It holds no watermark back."""


@dataclass(frozen=True)
class Outputs:
    """What a sink takes, all in the global window."""

    summaries: beam.PCollection[SummaryBatch]
    receipts: beam.PCollection[ReceiptBatch]
    alerts: beam.PCollection[Alert]
    dead_letters: beam.PCollection[DeadLetterBatch]


def operational(inputs: Inputs, settings: Settings) -> Outputs:
    """Assemble the graph. Labels name state: a change of one makes savepoints of older versions unusable."""
    counts = inputs.meter_counts

    reads = inputs.reads | "DecodeReads" >> DecodeReads(settings)
    events = inputs.events | "DecodeEvents" >> DecodeEvents(settings)

    packed = reads.accepted | "PackReads" >> PackReads(settings)
    late = packed.late | "GatherLateReads" >> GatherLateReads(settings, counts)
    blocks = (packed.on_time, late) | "AllBlocks" >> beam.Flatten()
    statistics = blocks | "WindowStatistics" >> WindowStatistics(settings)
    summaries = statistics | "SummaryRows" >> SummaryRows(settings)

    observed = statistics | "JoinMeterCounts" >> JoinMeterCounts(settings, counts)
    due = (
        reads.progress
        | "DueWindows" >> DueWindows(settings, counts)
        | "ExpandDueWindows" >> ExpandDueWindows(settings, counts)
    )  # fmt: skip
    judged_by = [due, observed]
    if inputs.published_alerts is not None:
        judged_by.append(inputs.published_alerts | "PublishedAlerts" >> PublishedAlerts(settings))
    judged = tuple(judged_by) | "JudgeWindows" >> JudgeWindows(settings)

    event_alerts = events.accepted | "EventAlerts" >> EventAlerts(settings)
    alerts = (judged.comm_alerts, judged.voltage_alerts, event_alerts) | "AllAlerts" >> beam.Flatten()

    dead_letters = (reads.dead_letters, events.dead_letters) | "AllDeadLetters" >> beam.Flatten()
    return Outputs(summaries, judged.receipts, alerts, dead_letters)
