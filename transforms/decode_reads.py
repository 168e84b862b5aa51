"""Turns records of the reads topic into accepted reads, dead letters and the progress of reading."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput
from msgspec import structs

from ami_beam.codecs.checks import greatest_record_time
from ami_beam.codecs.dead_letter_reasons import Reason
from ami_beam.codecs.input_decoders import close, read_decoder, tombstones
from ami_beam.codecs.json_reads import ReadDecoder
from ami_beam.codecs.writer_schemas import Written
from ami_beam.customer_ids import namer
from ami_beam.garbage import collect_rarely
from ami_beam.instants import MICROS_PER_MILLI, MIN_INSTANT
from ami_beam.long_reads import first_window_ends
from ami_beam.read_columns import ReadColumns, from_reads, ints, is_interval, joined
from ami_beam.records import DeadLetter, DeadLetterBatch, ReadProgress, RecordBatch
from ami_beam.settings import Settings
from transforms.silence import spans_of

ACCEPTED = "accepted"
DEAD_LETTERS = "dead_letters"
PROGRESS = "progress"
TO_BILL = "to_bill"
METRICS = "ami"
LETTER_BATCH_BYTES = 1 << 20
"""Of original values, after which a batch of dead letters is handed on."""
SAMPLE = 1_000
"""Reads after which a worker judges whether record times are arrival times."""
_log = logging.getLogger(__name__)


class DecodeReads(beam.PTransform):
    """Every record becomes exactly one of an accepted read or a dead letter with `used: false`.

    The exception are tombstones among changes of a table: they say nothing that the delete before them has not said.

    Outputs (a tuple by tag): `accepted` columns of reads, one element a batch; `dead_letters` in
    batches, also the copies of reads that are used without their implausible voltage; `progress`, one element a batch;
    `to_bill`, where a consumer wants reads by meter, the accepted reads again, with their customers as `customer_id`
    names them, and those that are too late for the windows but within `billing_lateness`: their letters are there, too,
    and say that they are used.

    Counters: accepted_reads (also those for billing only, which are billing_only_reads), tombstones,
    dead_letter_<REASON>, late_reads (on-time result already due by record time), interval_length_mismatches (also
    those that `ApportionReads` splits), collection_delay_sum_ms
    (record time minus interval_end, added up over accepted reads; a negative one as 0, because a counter never goes
    down). Distribution: collection_delay_ms, record time minus interval_end, of which every batch gives its least,
    its mean and its greatest value.

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
        return batches | "Decode" >> beam.ParDo(_DecodeReadsDoFn(self._settings, self._written)).with_output_types(
            ReadColumns, dead_letters=DeadLetterBatch, progress=ReadProgress, to_bill=ReadColumns
        ).with_outputs(DEAD_LETTERS, PROGRESS, TO_BILL, main=ACCEPTED)


class _DecodeReadsDoFn(beam.DoFn):
    def __init__(self, settings: Settings, written: Written = None):
        self._settings = settings
        self._written = written
        self._decoder: ReadDecoder | None = None
        self._late_decoder: ReadDecoder | None = None
        self._names: Callable[[list[str]], list[str]] = list
        self._seen = self._seen_at_end = 0
        self._warned = False
        self._accepted = Metrics.counter(METRICS, "accepted_reads")
        self._billing_only = Metrics.counter(METRICS, "billing_only_reads")
        self._tombstones = Metrics.counter(METRICS, "tombstones")
        self._late = Metrics.counter(METRICS, "late_reads")
        self._mismatches = Metrics.counter(METRICS, "interval_length_mismatches")
        self._delay = Metrics.distribution(METRICS, "collection_delay_ms")
        # Flink's reporters have no number for a distribution. With accepted_reads a sum gives the mean of any period.
        self._delay_sum = Metrics.counter(METRICS, "collection_delay_sum_ms")

    def setup(self) -> None:
        collect_rarely()
        settings = self._settings
        self._decoder = read_decoder(settings, self._written, keep_customers=settings.bills)
        if settings.bills:
            self._names = namer(settings.customer_id, settings.customer_key_file)
            late = replace(settings, allowed_lateness=max(settings.billing_lateness, settings.allowed_lateness))
            self._late_decoder = read_decoder(late, self._written, keep_customers=True)

    def teardown(self) -> None:
        close(self._written)

    def process(self, batch: RecordBatch) -> Iterator[Any]:
        assert self._decoder is not None
        settings = self._settings
        now = time.time_ns() // 1_000 if settings.live else None
        reads, letters = self._decoder.decode(batch, now)
        if buried := tombstones(self._written, batch.values):
            self._tombstones.inc(buried)
        if self._late_decoder is not None:
            beyond = self._for_billing_only(self._late_decoder, batch.topic, letters, now)
            self._accepted.inc(len(beyond))
            self._billing_only.inc(len(beyond))
            to_bill = joined([reads, beyond]) if len(beyond) else reads
            if to_bill:
                yield TaggedOutput(TO_BILL, structs.replace(to_bill, customer_id=self._names(to_bill.customer_id)))
            # No operational step gets them.
            reads.customer_id = []
        yield from tagged_letters(letters)
        # Not the letters' reasons: a record that is not JSON has that for a reason, whatever its time is.
        greatest = greatest_record_time(settings, now)
        times = [at for at in batch.record_times if at is not None and MIN_INSTANT <= at <= greatest]
        if times:
            interval = is_interval(reads)
            ends = ints(reads.window_end)[interval]
            first, last = (int(ends.min()), int(ends.max())) if len(ends) else (None, None)
            if first is not None and settings.apportions:
                first = int(first_window_ends(reads, settings)[interval].min())
            begun, ended = min(times), max(times)
            spans = spans_of(times, settings.source_silent) if ended - begun > settings.source_silent else []
            yield TaggedOutput(PROGRESS, ReadProgress(begun, ended, first, last, spans))
        if reads:
            self._accepted.inc(len(reads))
            self._measure(reads)
            yield reads

    @staticmethod
    def _for_billing_only(decoder: ReadDecoder, topic: str, letters: list[DeadLetter], now: int | None) -> ReadColumns:
        """The reads among letters that are only too late for their windows; these letters become used."""
        late = [letter for letter in letters if letter.reason == Reason.TOO_LATE.value]
        if not late:
            return from_reads([])
        batch = RecordBatch(
            topic, [letter.partition for letter in late], [letter.offset for letter in late],
            [letter.record_time for letter in late], [letter.value for letter in late],
        )  # fmt: skip
        reads, _ = decoder.decode(batch, now)
        used = set(zip(ints(reads.partition).tolist(), ints(reads.offset).tolist(), strict=True))
        for letter in late:
            letter.used = (letter.partition, letter.offset) in used
        return reads

    def _measure(self, reads: ReadColumns) -> None:
        settings = self._settings
        record_time, window_end = ints(reads.record_time), ints(reads.window_end)
        start, end = ints(reads.interval_start), ints(reads.interval_end)
        delays = (record_time - end) // MICROS_PER_MILLI
        for delay in (delays.min(), delays.mean(), delays.max()):
            self._delay.update(int(delay))
        self._delay_sum.inc(int(np.maximum(delays, 0).sum()))
        late = int((record_time >= window_end + settings.collection_delay).sum())
        if late:
            self._late.inc(late)
        mismatches = int((is_interval(reads) & (end - start != settings.window)).sum())
        if mismatches:
            self._mismatches.inc(mismatches)
        self._check_arrival_times(len(reads), int((record_time == end).sum()))

    def _check_arrival_times(self, reads: int, at_end: int) -> None:
        """Warn once a worker where most record times equal interval_end: they are then not arrival times."""
        self._seen += reads
        self._seen_at_end += at_end
        if self._seen >= SAMPLE:
            if self._seen_at_end * 2 > self._seen and not self._warned:
                self._warned = True
                _log.warning(
                    "%d of %d reads have a record time equal to interval_end. Record time must be arrival time, or "
                    "every read counts as on time and delays mean nothing: set message.timestamp.type=LogAppendTime on "
                    "the topic, or let the producer stamp records when it sends them.",
                    self._seen_at_end,
                    self._seen,
                )
            self._seen = self._seen_at_end = 0


def tagged_letters(letters: list[DeadLetter]) -> Iterator[TaggedOutput]:
    """The letters in batches for the dead-letter output, each letter counted by its reason.

    A batch ends with the letter that brings it to `LETTER_BATCH_BYTES`, so that large values are not copied together.
    """
    for reason, count in Counter(letter.reason for letter in letters).items():
        Metrics.counter(METRICS, f"dead_letter_{reason}").inc(count)
    rows: list[DeadLetter] = []
    size = 0
    for letter in letters:
        rows.append(letter)
        size += len(letter.value or b"")
        if size >= LETTER_BATCH_BYTES:
            yield TaggedOutput(DEAD_LETTERS, DeadLetterBatch(rows))
            rows, size = [], 0
    if rows:
        yield TaggedOutput(DEAD_LETTERS, DeadLetterBatch(rows))
