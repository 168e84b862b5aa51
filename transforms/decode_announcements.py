"""Turns records of announced outages, or of work at meters, into announcements and dead letters."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from ami_beam.codecs.json_announcements import AnnouncementDecoder, Source
from ami_beam.records import Announcement, DeadLetterBatch, RecordBatch
from ami_beam.settings import Settings
from transforms.decode_reads import ACCEPTED, DEAD_LETTERS, METRICS, tagged_letters


class DecodeAnnouncements(beam.PTransform):
    """Every record becomes exactly one of an announcement or a dead letter.

    Outputs (a tuple by tag): `accepted` announcements, `dead_letters` in batches. Counters: accepted_outages or
    accepted_work, dead_letter_<REASON>.
    """

    def __init__(self, settings: Settings, source: Source):
        super().__init__()
        self._settings = settings
        self._source = source

    def expand(self, batches: beam.PCollection[RecordBatch]) -> Any:
        # Types first: after with_outputs they would not reach the outputs, which would then be pickled.
        return batches | "Decode" >> beam.ParDo(_DecodeDoFn(self._settings, self._source)).with_output_types(
            Announcement, dead_letters=DeadLetterBatch
        ).with_outputs(DEAD_LETTERS, main=ACCEPTED)


class _DecodeDoFn(beam.DoFn):
    def __init__(self, settings: Settings, source: Source):
        self._settings = settings
        self._source = source
        self._decoder: AnnouncementDecoder | None = None
        outages, work = Metrics.counter(METRICS, "accepted_outages"), Metrics.counter(METRICS, "accepted_work")
        self._accepted = outages if source == "oms" else work

    def setup(self) -> None:
        self._decoder = AnnouncementDecoder(self._settings, self._source)

    def process(self, batch: RecordBatch) -> Iterator[Any]:
        assert self._decoder is not None
        now = time.time_ns() // 1_000 if self._settings.live else None
        announced, letters = self._decoder.decode(batch, now)
        yield from tagged_letters(letters)
        self._accepted.inc(len(announced))
        yield from announced
