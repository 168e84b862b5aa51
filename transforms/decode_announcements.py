"""Turns records of announced outages, or of work at meters, into announcements and dead letters."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from ami_beam.codecs.input_decoders import announcement_decoder, close, tombstones
from ami_beam.codecs.json_announcements import AnnouncementDecoder, Source
from ami_beam.codecs.writer_schemas import Written
from ami_beam.records import Announcement, DeadLetterBatch, RecordBatch
from ami_beam.settings import Settings
from transforms.decode_reads import ACCEPTED, DEAD_LETTERS, METRICS, tagged_letters


class DecodeAnnouncements(beam.PTransform):
    """Every record becomes exactly one of an announcement or a dead letter; of changes, tombstones are neither.

    Outputs (a tuple by tag): `accepted` announcements, `dead_letters` in batches. Counters: accepted_outages or
    accepted_work, dead_letter_<REASON>, tombstones.

    Args:
      settings: the rules of the run.
      source: which of the two formats.
      written: how the records were written.
    """

    def __init__(self, settings: Settings, source: Source, written: Written = None):
        super().__init__()
        self._settings = settings
        self._source = source
        self._written = written

    def expand(self, batches: beam.PCollection[RecordBatch]) -> Any:
        # Types first: after with_outputs they would not reach the outputs, which would then be pickled.
        return batches | "Decode" >> beam.ParDo(
            _DecodeDoFn(self._settings, self._source, self._written)
        ).with_output_types(Announcement, dead_letters=DeadLetterBatch).with_outputs(DEAD_LETTERS, main=ACCEPTED)


class _DecodeDoFn(beam.DoFn):
    def __init__(self, settings: Settings, source: Source, written: Written = None):
        self._settings = settings
        self._source = source
        self._written = written
        self._decoder: AnnouncementDecoder | None = None
        outages, work = Metrics.counter(METRICS, "accepted_outages"), Metrics.counter(METRICS, "accepted_work")
        self._accepted = outages if source == "oms" else work
        self._tombstones = Metrics.counter(METRICS, "tombstones")

    def setup(self) -> None:
        self._decoder = announcement_decoder(self._settings, self._source, self._written)

    def teardown(self) -> None:
        close(self._written)

    def process(self, batch: RecordBatch) -> Iterator[Any]:
        assert self._decoder is not None
        now = time.time_ns() // 1_000 if self._settings.live else None
        announced, letters = self._decoder.decode(batch, now)
        if buried := tombstones(self._written, batch.values):
            self._tombstones.inc(buried)
        yield from tagged_letters(letters)
        self._accepted.inc(len(announced))
        yield from announced
