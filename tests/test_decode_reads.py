"""The step around the read decoder: progress that a broken record cannot move, and letters in batches."""

from __future__ import annotations

import time
from typing import Any

import pytest
from apache_beam.pvalue import TaggedOutput

from ami_beam.coders import MsgspecCoder
from ami_beam.instants import MAX_INSTANT, MICROS_PER_DAY
from ami_beam.records import DeadLetter, ReadProgress, RecordBatch
from ami_beam.settings import Settings
from tests.stream import at, read_json
from transforms.decode_reads import DEAD_LETTERS, LETTER_BATCH_BYTES, PROGRESS, _DecodeReadsDoFn, tagged_letters

GOOD_TIME = at("10:16")
NOT_JSON = b"{"


def outputs(records: list[tuple[bytes | None, int | None]], settings: Settings | None = None) -> list[Any]:
    step = _DecodeReadsDoFn(settings or Settings())
    step.setup()
    count = len(records)
    values, times = [value for value, _ in records], [time for _, time in records]
    return list(step.process(RecordBatch("ami.headend.reads", [0] * count, list(range(count)), times, values)))


def progress(found: list[Any]) -> list[ReadProgress]:
    return [each.value for each in found if isinstance(each, TaggedOutput) and each.tag == PROGRESS]


@pytest.mark.parametrize("value", [NOT_JSON, None, b"", b"{}", b"\xff", read_json()])
@pytest.mark.parametrize("record_time", [None, -1, MAX_INSTANT + 1, (2**63 - 1) * 1_000])
def test_a_record_time_that_is_not_believed_is_no_progress(value: bytes | None, record_time: int | None) -> None:
    """Whatever else is wrong with the record: a time beyond 64 bits could not even be carried to the next step."""
    (only,) = progress(outputs([(read_json(), GOOD_TIME), (value, record_time)]))
    assert (only.first_record_time, only.greatest_record_time) == (GOOD_TIME, GOOD_TIME)
    MsgspecCoder(ReadProgress).encode(only)
    assert progress(outputs([(value, record_time)])) == []


def test_a_live_record_that_is_no_read_cannot_move_progress_ahead_of_the_wall_clock() -> None:
    now = time.time_ns() // 1_000
    (only,) = progress(outputs([(NOT_JSON, now), (NOT_JSON, now + MICROS_PER_DAY)], Settings(live=True)))
    assert only.greatest_record_time == now


def test_collection_delays_are_added_up_and_never_subtracted() -> None:
    class Sum:
        total = 0

        def inc(self, by: int) -> None:
            assert by >= 0
            self.total += by

    step = _DecodeReadsDoFn(Settings())
    step.setup()
    step._delay_sum = delays = Sum()  # type: ignore[assignment]
    ended = at("10:15")
    times = [ended + 90_000_000, ended - 60_000_000, ended + 1_500_000, ended]
    values = [read_json(), read_json(), read_json(), NOT_JSON]
    list(step.process(RecordBatch("ami.headend.reads", [0] * 4, list(range(4)), times, values)))
    assert delays.total == 91_500
    list(step.process(RecordBatch("ami.headend.reads", [0], [4], [ended - 1], [read_json()])))
    assert delays.total == 91_500


def test_letters_of_a_batch_travel_together() -> None:
    found = outputs([(NOT_JSON, GOOD_TIME), (read_json(), GOOD_TIME), (None, GOOD_TIME)])
    (batch,) = [each.value for each in found if isinstance(each, TaggedOutput) and each.tag == DEAD_LETTERS]
    assert [(letter.offset, letter.reason) for letter in batch.rows] == [(0, "INVALID_JSON"), (2, "NULL_VALUE")]


def test_letters_of_large_values_travel_in_several_batches() -> None:
    sizes = [10, LETTER_BATCH_BYTES // 2, LETTER_BATCH_BYTES // 2, LETTER_BATCH_BYTES, 1, 1]
    letters = [DeadLetter("INVALID_JSON", ".", "t", 0, n, None, bytes(size)) for n, size in enumerate(sizes)]
    batches = [[letter.offset for letter in tagged.value.rows] for tagged in tagged_letters(letters)]
    assert batches == [[0, 1, 2], [3], [4, 5]]
    assert list(tagged_letters([])) == []
