"""A head-end in a few lines: drives the operational pipeline through TestStream and collects what it publishes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.test_stream import TestStream
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp
from msgspec.structs import replace

from ami_beam.codecs.billing_batches import months_of, reads_of
from ami_beam.coders import MsgspecCoder
from ami_beam.instants import format_instant, parse_duration, parse_instant
from ami_beam.io.meter_counts_source import PolledMeterCounts
from ami_beam.io.meter_registry_source import FollowedRegistry
from ami_beam.meter_counts import MeterCountsVersion
from ami_beam.meter_counts import pack as pack_counts
from ami_beam.meter_counts_view import MeterCountsSource
from ami_beam.records import (
    Alarm,
    Alert,
    CustomerBatch,
    CustomerDay,
    CustomerMonth,
    DayHeat,
    DeadLetter,
    DeadLetterBatch,
    FeederBatch,
    FeederHeat,
    FeederRow,
    HeatBatch,
    MeterCount,
    MeterDay,
    ReceiptBatch,
    ReceiptRow,
    RecordBatch,
    SilentMeter,
    SilentMeterBatch,
    SummaryBatch,
    SummaryRow,
    TransformerHeat,
    ValidatedBatch,
    ValidatedRead,
)
from ami_beam.settings import Settings
from pipelines.operational import Inputs, measure, operational
from transforms.summary_rows import SummaryRows

# Beam has three engines behind DirectRunner and picks one silently; this is the one that runs TestStream with state.
RUNNER = "BundleBasedDirectRunner"
DAY = "2026-03-03T"
READS, EVENTS, OUTAGES, WORK = "ami.headend.reads", "ami.headend.events", "ami.oms.outages", "ami.work"
REGISTRY = "no topic"
HAPPENING = "no topic either"

TEXTS = ("window_closed", "time_zone", "customer_id", "customer_key_file")
"""Settings that are no durations."""
_captured: dict[str, list[Any]] = {}
_happenings: dict[bytes, Callable[[], None]] = {}
_tokens = itertools.count()


def at(clock: str) -> int:
    """The instant of `HH:MM[:SS[.f]]` on the test day."""
    return parse_instant(f"{DAY}{clock if clock.count(':') == 2 else clock + ':00'}Z")


def read_json(**fields: Any) -> bytes:
    """One read of the contract, complete, with `fields` over it; `end` is the clock time of interval_end."""
    end = at(fields.pop("end", "10:15"))
    minutes = fields.pop("minutes", 15)
    row = {
        "meter_id": "M1",
        "service_point_id": "S1",
        "customer_id": "C1",
        "transformer_id": "T1",
        "feeder_id": "F1",
        "read_type": "INTERVAL",
        "interval_start": format_instant(end - minutes * 60_000_000),
        "interval_end": format_instant(end),
        "consumption_kwh": 1.0,
        "delivered_kwh": 1.0,
        "received_kwh": 0.0,
        "voltage_v": 230.0,
        "power_quality_code": 0,
        "estimated_flag": False,
        "read_ts": format_instant(end + 10_000_000),
        **fields,
    }
    return json.dumps(row).encode()


@dataclass
class Published:
    """Everything a run published, in order."""

    summaries: list[SummaryRow] = field(default_factory=list)
    receipts: list[ReceiptRow] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    silent_meters: list[SilentMeter] = field(default_factory=list)
    feeders: list[FeederRow] = field(default_factory=list)
    heatmap: list[TransformerHeat | FeederHeat | DayHeat] = field(default_factory=list)
    validated: list[ValidatedRead | MeterDay] = field(default_factory=list)
    customers: list[CustomerMonth | CustomerDay] = field(default_factory=list)

    def interval(self, end: str, meter: str = "M1") -> list[ValidatedRead]:
        """What was published of a meter's interval, in the order of its revisions."""
        rows = (row for row in self.validated if isinstance(row, ValidatedRead))
        return in_order(row for row in rows if (row.meter_id, row.interval_end) == (meter, at(end)))

    def meter_day(self, day: str = DAY[:-1], meter: str = "M1") -> list[MeterDay]:
        """What was published of a meter's day, likewise."""
        rows = (row for row in self.validated if isinstance(row, MeterDay))
        return in_order(row for row in rows if (row.meter_id, row.day) == (meter, day))

    def customer_month(self, customer: str = "C1", month: str = DAY[:7]) -> list[CustomerMonth]:
        """What was published of a customer's month, likewise."""
        rows = (row for row in self.customers if isinstance(row, CustomerMonth))
        return in_order(row for row in rows if (row.customer_id, row.month) == (customer, month))

    def customer_day(self, day: str = DAY[:-1], customer: str = "C1") -> list[CustomerDay]:
        """What was published of a customer's day, likewise."""
        rows = (row for row in self.customers if isinstance(row, CustomerDay))
        return in_order(row for row in rows if (row.customer_id, row.day) == (customer, day))

    def summary(self, window_end: str, transformer: str = "T1", feeder: str | None = None) -> list[SummaryRow]:
        return sorted(
            (
                row
                for row in self.summaries
                if (row.transformer_id, row.window_end) == (transformer, at(window_end))
                and feeder in (None, row.feeder_id)
            ),
            key=lambda row: row.revision,
        )

    def feeder(self, window_end: str, feeder: str | None = "F1") -> list[FeederRow]:
        """What was published of a feeder, or of the system (None), in the order of its revisions."""
        rows = (row for row in self.feeders if (row.feeder_id, row.window_end) == (feeder, at(window_end)))
        return sorted(rows, key=lambda row: row.revision)

    def receipt(self, window_end: str, transformer: str = "T1") -> list[ReceiptRow]:
        rows = (r for r in self.receipts if (r.transformer_id, r.window_end) == (transformer, at(window_end)))
        return sorted(rows, key=lambda row: row.revision)

    def life(self, alert_type: str, window_end: str, entity: str = "T1") -> list[tuple[str, float | None]]:
        """(status, detail_value) of one alert, in the order of its revisions, without copies that explain it."""
        found = sorted(self.copies(alert_type, window_end, entity), key=lambda alert: alert.revision)
        originals = found[:1] + [alert for before, alert in pairwise(found) if not is_copy(alert, before)]
        return [(alert.status, alert.detail_value) for alert in originals]

    def copies(self, alert_type: str, window_end: str, entity: str = "T1") -> list[Alert]:
        """Everything that was published of one alert, in the order of the topic."""
        place = (alert_type, entity, at(window_end))
        found = [each for each in self.alerts if (each.alert_type, each.entity_id, each.alert_time) == place]
        assert len({alert.alert_id for alert in found}) <= 1
        return found

    def alarm(self, alarm_type: str, first_window: str, entity: str = "T1") -> list[Alarm]:
        """What was published of one alarm, in the order of its revisions."""
        place = (alarm_type, entity, at(first_window))
        found = [each for each in self.alarms if (each.alarm_type, each.entity_id, each.first_window) == place]
        assert len({each.alarm_id for each in found}) <= 1
        return sorted(found, key=lambda each: each.revision)


def in_order(rows: Iterable[Any]) -> list[Any]:
    """The rows by revision, of which none is missing or doubled."""
    found = sorted(rows, key=lambda row: row.revision)
    assert [row.revision for row in found] == list(range(len(found)))
    return found


def is_copy(alert: Alert, before: Alert) -> bool:
    """Whether it only says what explains the other one."""
    return alert != before and replace(alert, explained_by=before.explained_by) == before


class HeadEnd:
    """Records in arrival order; the watermark follows their record times."""

    def __init__(
        self,
        meter_counts: list[MeterCount] | PolledMeterCounts | None = None,
        producers: frozenset[str] | None = None,
        registry: Path | None = None,
        **settings: Any,
    ):
        durations = {
            name: parse_duration(value) if isinstance(value, str) and name not in TEXTS else value
            for name, value in settings.items()
        }
        # Between what a test says there are often hours.
        self.settings = Settings(**{"shards": 7, "source_silent": parse_duration("365d"), **durations})
        self._counts = [MeterCount("T1", 2)] if meter_counts is None else meter_counts
        self._producers = producers
        self._registry = registry
        self._stream = TestStream(coder=MsgspecCoder(RecordBatch))
        self._offset = 0
        self._watermark: int | None = None
        self._topics: set[str] = set()

    def reads(self, clock: str | int, *values: bytes | None) -> HeadEnd:
        """These records reach the reads topic at `clock`, as one batch."""
        return self._records(READS, clock, *values)

    def events(self, clock: str | int, *values: bytes | None) -> HeadEnd:
        """These records reach the events topic at `clock`, as one batch."""
        return self._records(EVENTS, clock, *values)

    def backlog_of_events(self, clock: str | int, *values: bytes | None) -> HeadEnd:
        """These records have reached the events topic at `clock`, and are read before that: of a backlog."""
        return self._batch(EVENTS, at(clock) if isinstance(clock, str) else clock, *values)

    def backlog_of_reads(self, clock: str | int, *values: bytes | None) -> HeadEnd:
        """These records have reached the reads topic at `clock`, and are read before that: as a live source has it."""
        return self._batch(READS, at(clock) if isinstance(clock, str) else clock, *values)

    def outages(self, clock: str | int, *values: bytes | None) -> HeadEnd:
        """The OMS announces this at `clock`; without a call there is no such topic."""
        return self._records(OUTAGES, clock, *values)

    def work(self, clock: str | int, *values: bytes | None) -> HeadEnd:
        """Work at meters, likewise."""
        return self._records(WORK, clock, *values)

    def corrected(self, clock: str | int, registry: str) -> HeadEnd:
        """The file of the registry is another one at `clock`."""
        return self._records(REGISTRY, clock, registry.encode())

    def happens(self, clock: str | int, what: Callable[[], None]) -> HeadEnd:
        """This is done in the world outside at `clock`."""
        token = str(next(_tokens)).encode()
        _happenings[token] = what
        return self._records(HAPPENING, clock, token)

    def _records(self, topic: str, clock: str | int, *values: bytes | None) -> HeadEnd:
        record_time = self.until(clock)._watermark
        assert record_time is not None
        return self._batch(topic, record_time, *values)

    def _batch(self, topic: str, record_time: int, *values: bytes | None) -> HeadEnd:
        batch = RecordBatch(
            topic,
            [0] * len(values),
            list(range(self._offset, self._offset + len(values))),
            [record_time] * len(values),
            list(values),
        )
        self._offset += len(values)
        self._topics.add(topic)
        self._stream.add_elements([TimestampedValue(batch, Timestamp(micros=record_time))])
        return self

    def until(self, clock: str | int) -> HeadEnd:
        """Time passes: the watermark of record times reaches `clock`."""
        instant = at(clock) if isinstance(clock, str) else clock
        if self._watermark is None or instant > self._watermark:
            self._stream.advance_watermark_to(Timestamp(micros=instant))
            self._watermark = instant
        return self

    def run(self) -> Published:
        """Run to the end of the stream, after which all is silent for ever: that alarm is left out."""
        stream = self._stream.advance_watermark_to_infinity()
        published = run_pipeline(
            stream,
            self._counts,
            self.settings,
            producers=self._producers,
            topics=self._topics,
            registry=self._registry,
        )
        assert self._watermark is not None
        published.alarms = [
            alarm
            for alarm in published.alarms
            if alarm.alarm_type != "SOURCE_SILENT" or alarm.ended_at is not None or alarm.as_of <= self._watermark
        ]
        return published

    def measured(self) -> list[SummaryRow]:
        """The summary rows only, in a third of the time."""
        options = PipelineOptions([])
        options.view_as(StandardOptions).streaming = True
        rows: list[SummaryRow] = []
        token = str(next(_tokens))
        _captured[token] = rows
        with TestPipeline(runner=RUNNER, options=options) as pipeline:
            records = pipeline | "Reads" >> self._stream.advance_watermark_to_infinity()
            registry = None
            if self._registry is not None:
                records |= "Registry" >> beam.FlatMap(_replace, str(self._registry)).with_output_types(RecordBatch)
                registry = FollowedRegistry(str(self._registry), 0)
            assert isinstance(self._counts, list)
            counts = beam.Create([pack_counts(self._counts, 0)], reshuffle=False)
            versions = pipeline | "Counts" >> counts.with_output_types(MeterCountsVersion)
            found = measure(records, versions, self.settings, registry=registry)
            summaries = found.statistics | SummaryRows(self.settings)
            _ = summaries | "Capture" >> beam.Map(_capture, token)
        return rows


def run_pipeline(
    reads: beam.PTransform,
    counts: list[MeterCount] | PolledMeterCounts,
    settings: Settings,
    runner: Any = RUNNER,
    events: Any = None,
    producers: frozenset[str] | None = None,
    topics: Collection[str] = (),
    registry: Path | None = None,
) -> Published:
    """Run the operational pipeline over `reads` and collect its outputs in this process.

    `topics`: those of which the stream has records, for the inputs that there need not be.
    """
    options = PipelineOptions([])
    options.view_as(StandardOptions).streaming = isinstance(reads, TestStream)
    published = Published()
    token = str(next(_tokens))
    with TestPipeline(runner=runner, options=options) as pipeline:
        table: MeterCountsSource
        if isinstance(counts, PolledMeterCounts):
            table = counts
        else:
            version = beam.Create([pack_counts(counts, 0)], reshuffle=False)
            table = pipeline | "Counts" >> version.with_output_types(MeterCountsVersion)
        records = pipeline | "Reads" >> reads
        if isinstance(reads, TestStream) and HAPPENING in topics:
            records |= "Happenings" >> beam.FlatMap(_happen).with_output_types(RecordBatch)
        if registry is not None:
            records |= "Registry" >> beam.FlatMap(_replace, str(registry)).with_output_types(RecordBatch)
        announced = {
            topic: records | topic >> beam.Filter(_is_of, topic).with_output_types(RecordBatch)
            for topic in (OUTAGES, WORK)
            if topic in topics
        }
        if isinstance(reads, TestStream) and events is None:
            # One to a pipeline: it has the records of both topics.
            told = records | "EventsOnly" >> beam.Filter(_is_of, EVENTS).with_output_types(RecordBatch)
            records |= "ReadsOnly" >> beam.Filter(_is_of, READS).with_output_types(RecordBatch)
        else:
            told = pipeline | "Events" >> (events or beam.Create([], reshuffle=False).with_output_types(RecordBatch))
        inputs = Inputs(
            records,
            told,
            table,
            producers=producers,
            outages=announced.get(OUTAGES),
            work=announced.get(WORK),
            # Looked at whenever somebody asks.
            registry=None if registry is None else FollowedRegistry(str(registry), 0),
        )
        outputs = operational(inputs, settings)
        names = ["summaries", "receipts", "alerts", "dead_letters", "alarms", "silent_meters"]
        names += [
            name for name in ("feeders", "heatmap", "validated", "customers") if getattr(outputs, name) is not None
        ]
        for name in names:
            _captured[f"{token}/{name}"] = getattr(published, name)
            parts = getattr(outputs, name)
            for number, part in enumerate(parts if isinstance(parts, tuple) else (parts,)):
                _ = part | f"Capture {name} {number}" >> beam.Map(_capture, f"{token}/{name}")
    return published


def _replace(batch: RecordBatch, registry: str) -> list[RecordBatch]:
    """Batches of records; what is no record replaces the file of the registry."""
    if batch.topic != REGISTRY:
        return [batch]
    (text,) = batch.values
    assert text is not None
    Path(registry).write_bytes(text)
    return []


def _happen(batch: RecordBatch) -> list[RecordBatch]:
    """Batches of records; what is no record is done."""
    if batch.topic != HAPPENING:
        return [batch]
    (token,) = batch.values
    assert token is not None
    _happenings[token]()
    return []


def _is_of(batch: RecordBatch, topic: str) -> bool:
    return batch.topic == topic


def _capture(row: Any, place: str) -> None:
    if isinstance(row, SummaryBatch | ReceiptBatch | SilentMeterBatch | DeadLetterBatch | FeederBatch):
        _captured[place] += row.rows
    elif isinstance(row, HeatBatch):
        _captured[place] += [*row.transformers, *row.feeders, *row.days]
    elif isinstance(row, ValidatedBatch):
        _captured[place] += [*reads_of(row), *row.days]
    elif isinstance(row, CustomerBatch):
        _captured[place] += [*months_of(row), *row.days]
    else:
        _captured[place].append(row)
