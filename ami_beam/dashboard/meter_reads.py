"""The reads of one transformer's meters, looked up in the head-end's topic when somebody asks."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException

from ami_beam.codecs.input_decoders import read_decoder
from ami_beam.codecs.writer_schemas import Written
from ami_beam.instants import MICROS_PER_MINUTE, format_instant
from ami_beam.io import kafka_errors
from ami_beam.io.kafka_period import PeriodError, period_batches
from ami_beam.named_records import that_name
from ami_beam.records import Read
from ami_beam.settings import Settings

MOST_READS = 2_000
_MOST_RECORDS = 50_000_000
_MOST_SECONDS = 60.0
Document = dict[str, Any]


class BusyError(RuntimeError):
    """Somebody else's question is being looked up."""


class UnreachableError(RuntimeError):
    """The topic cannot be read; the message says why."""


@dataclass(frozen=True)
class ReadsTopic:
    """Where reads are, and how they are written."""

    config: dict[str, str]
    """Client settings with bootstrap.servers; holds secrets."""
    topic: str
    written: Written
    show_customers: bool
    """Whether customer ids may be told."""


class MeterReads:
    """One question at a time: each reads the topic from where the asked windows began to its present end."""

    def __init__(self, where: ReadsTopic, settings: Settings) -> None:
        self._where = where
        self._settings = settings
        self._decoder = read_decoder(settings, where.written, where.show_customers)
        self._busy = threading.Lock()

    def find(self, transformer: str, begin: int, end: int) -> Document:
        """The reads of intervals that end after `begin` and by `end`, newest first, at most MOST_READS.

        Accepted reads as they were sent, also those that another one replaced. Raises BusyError and UnreachableError.

        Args:
          begin, end: microseconds.
        """
        if not self._busy.acquire(blocking=False):
            raise BusyError("The reads of another transformer are being looked up; try again in a moment")
        try:
            return self._find(transformer, begin, end)
        except PeriodError as error:
            raise UnreachableError(f"Topic {self._where.topic} cannot be read: {error}") from None
        except KafkaException as error:
            raise UnreachableError(f"Topic {self._where.topic} cannot be read: {kafka_errors.words(error)}") from None
        finally:
            self._busy.release()

    def _find(self, transformer: str, begin: int, end: int) -> Document:
        until = time.monotonic() + _MOST_SECONDS
        name = transformer.encode()
        found: list[Read] = []
        searched = 0
        why = None
        # A record may be older than its interval's end by a fast clock.
        since = begin - MICROS_PER_MINUTE
        for batch in period_batches(self._where.config, self._where.topic, since, None):
            searched += len(batch.values)
            reads = self._decoder.decode_carefully(that_name(batch, name), None)[0]
            found += [each for each in reads if each.transformer_id == transformer and begin < each.interval_end <= end]
            if time.monotonic() > until or searched >= _MOST_RECORDS:
                why = f"Looking stopped after {searched:,} records; ask for fewer windows"
                break
        found.sort(key=lambda each: (-each.interval_end, each.meter_id, each.record_time))
        return {
            "reads": [self._document(each) for each in found[:MOST_READS]],
            "omitted": max(len(found) - MOST_READS, 0),
            "from": format_instant(begin),
            "to": format_instant(end),
            "searched": searched,
            "complete": why is None,
            "why": why,
        }

    def _document(self, read: Read) -> Document:
        document = {
            "meter_id": read.meter_id,
            "interval_start": format_instant(read.interval_start),
            "interval_end": format_instant(read.interval_end),
            "consumption_kwh": read.consumption_kwh,
            "delivered_kwh": read.delivered_kwh,
            "received_kwh": read.received_kwh,
            "voltage_v": read.voltage_v,
            "estimated": read.estimated_flag,
            "read_ts": format_instant(read.read_ts),
            "record_time": format_instant(read.record_time),
            "partition": read.partition,
            "offset": read.offset,
        }
        if self._where.show_customers:
            document["customer_id"] = read.customer_id
        return document
