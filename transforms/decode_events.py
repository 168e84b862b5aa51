"""Turns records of the events topic into accepted events and dead letters."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from ami_beam.codecs.input_decoders import close, event_decoder, tombstones
from ami_beam.codecs.json_events import EventDecoder
from ami_beam.codecs.writer_schemas import Written
from ami_beam.records import DeadLetterBatch, Event, RecordBatch
from ami_beam.settings import Settings
from transforms.decode_reads import ACCEPTED, DEAD_LETTERS, METRICS, tagged_letters


class DecodeEvents(beam.PTransform):
    """Every record becomes exactly one of an accepted event or a dead letter; of changes, tombstones are neither.

    Outputs (a tuple by tag): `accepted` events, `dead_letters` in batches. Counters: accepted_events,
    dead_letter_<REASON>, tombstones.

    Args:
      settings: the rules of the run.
      written: how the records were written.
    """

    def __init__(self, settings: Settings, written: Written = None):
        super().__init__()
        self._settings = settings
        self._written = written

    def expand(self, batches: beam.PCollection[RecordBatch]) -> Any:
        # Types first: after with_outputs they would not reach the outputs, which would then be pickled.
        return batches | "Decode" >> beam.ParDo(_DecodeEventsDoFn(self._settings, self._written)).with_output_types(
            Event, dead_letters=DeadLetterBatch
        ).with_outputs(DEAD_LETTERS, main=ACCEPTED)


class _DecodeEventsDoFn(beam.DoFn):
    def __init__(self, settings: Settings, written: Written = None):
        self._settings = settings
        self._written = written
        self._decoder: EventDecoder | None = None
        self._accepted = Metrics.counter(METRICS, "accepted_events")
        self._tombstones = Metrics.counter(METRICS, "tombstones")

    def setup(self) -> None:
        self._decoder = event_decoder(self._settings, self._written)

    def teardown(self) -> None:
        close(self._written)

    def process(self, batch: RecordBatch) -> Iterator[Any]:
        assert self._decoder is not None
        now = time.time_ns() // 1_000 if self._settings.live else None
        events, letters = self._decoder.decode(batch, now)
        if buried := tombstones(self._written, batch.values):
            self._tombstones.inc(buried)
        yield from tagged_letters(letters)
        self._accepted.inc(len(events))
        yield from events
