"""What holds for every input of the decoders and of packing, whatever the bytes; `check` raises where it does not."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable
from typing import Any

import msgspec
from apache_beam.pvalue import TaggedOutput

from ami_beam.codecs import debezium_reads, json_outputs, strict_json
from ami_beam.codecs.dead_letter_reasons import Reason, Rejection
from ami_beam.codecs.debezium import without_tombstones
from ami_beam.codecs.debezium_reads import DebeziumReadDecoder
from ami_beam.codecs.json_events import EventDecoder
from ami_beam.codecs.json_reads import ReadDecoder
from ami_beam.codecs.pack_columns import PendingReads
from ami_beam.codecs.read_block import PackedRead, ReadBlock, columns_of, pack, unpack
from ami_beam.coders import MsgspecCoder
from ami_beam.read_columns import ReadColumns, from_reads, joined
from ami_beam.records import DeadLetter, DeadLetterBatch, Event, KeyedRecords, Read, ReadProgress, RecordBatch
from ami_beam.settings import Settings
from ami_beam.shards import shard_of
from tests import debezium
from tests.fuzz import generate, oracle
from tests.fuzz.choices import Choices
from transforms import decode_events, decode_reads

_encode = msgspec.msgpack.encode  # tells -0.0 from 0.0 and 1 from 1.0
_REASONS = {reason.value for reason in Reason}
_read_decoders: dict[Settings, ReadDecoder] = {}
_change_decoders: dict[Settings, DebeziumReadDecoder] = {}
_event_decoders: dict[Settings, EventDecoder] = {}


def check_reads(data: bytes) -> int:
    """All paths of the read decoder agree with each other and with the oracle. Returns how many records there were."""
    batch, settings, now = generate.batch(Choices(data), generate.READS)
    decoder = _read_decoders.setdefault(settings, ReadDecoder(settings))
    reads, letters, columns = _decoded(decoder, batch, now)
    _check_accounting(batch, reads, letters)
    by_offset = {read.offset: read for read in reads}
    for letter in letters:
        if letter.used:
            assert by_offset[letter.offset].voltage_rejected
    assert {letter.offset for letter in letters if letter.used} == {r.offset for r in reads if r.voltage_rejected}
    reasons = {letter.offset: letter.reason for letter in letters if not letter.used}
    for offset, record_time, value in zip(batch.offsets, batch.record_times, batch.values, strict=True):
        values, against = oracle.judge_read(value, record_time, settings, now)
        _check_verdict(by_offset.get(offset), reasons.get(offset), values, against)
    _check_letters(batch, letters)
    _check_coder(ReadColumns, columns)
    if not len(data) % 4:
        _check_blocks(reads, 3)
    if not settings.live:  # a step takes the wall clock from the machine
        _check_reads_step(batch, settings)
    return len(batch.values)


def _decoded(
    decoder: ReadDecoder, batch: RecordBatch, now: int | None
) -> tuple[list[Read], list[DeadLetter], ReadColumns]:
    """What the decoder makes of a batch, in all of its ways the same."""
    reads, letters = decoder.decode_carefully(batch, now)
    expected = _encode((reads, letters))
    columns, quick_letters = decoder.decode(batch, now)
    assert _encode((columns.reads(), quick_letters)) == expected, "the fast path differs from the definition"
    alone: tuple[list[Read], list[DeadLetter]] = [], []
    for one in _one_by_one(batch):
        one_columns, one_letters = decoder.decode(one, now)
        alone[0].extend(one_columns.reads())
        alone[1].extend(one_letters)
    assert _encode(alone) == expected, "a record depends on its neighbours"
    return reads, letters, columns


def check_events(data: bytes) -> int:
    """The same for the event decoder."""
    batch, settings, now = generate.batch(Choices(data), generate.EVENTS)
    decoder = _event_decoders.setdefault(settings, EventDecoder(settings))
    events, letters = decoder.decode_carefully(batch, now)
    expected = _encode((events, letters))
    assert _encode(decoder.decode(batch, now)) == expected, "the fast path differs from the definition"
    alone: tuple[list[Event], list[DeadLetter]] = [], []
    for one in _one_by_one(batch):
        one_events, one_letters = decoder.decode(one, now)
        alone[0].extend(one_events)
        alone[1].extend(one_letters)
    assert _encode(alone) == expected, "a record depends on its neighbours"
    _check_accounting(batch, events, letters)
    assert not any(letter.used for letter in letters)
    by_offset = {event.offset: event for event in events}
    reasons = {letter.offset: letter.reason for letter in letters}
    for offset, record_time, value in zip(batch.offsets, batch.record_times, batch.values, strict=True):
        values, against = oracle.judge_event(value, record_time, settings, now)
        _check_verdict(by_offset.get(offset), reasons.get(offset), values, against)
    _check_letters(batch, letters)
    for event in events:
        _check_coder(Event, event)
    if not settings.live:
        step = decode_events._DecodeEventsDoFn(settings)
        step.setup()
        outputs = list(step.process(batch))
        assert [each for each in outputs if not isinstance(each, TaggedOutput)] == events
        _check_published(outputs, letters)
    return len(batch.values)


def check_changes(data: bytes) -> int:
    """Reads as changes of a table: all paths agree, nothing raises, and what is plain JSON inside is judged as such."""
    choices = Choices(data)
    plain, settings, now = generate.batch(choices, generate.READS)
    batch = RecordBatch(
        plain.topic, plain.partitions, plain.offsets, plain.record_times,
        [None if value is None else _as_change(value, choices) for value in plain.values],
    )  # fmt: skip
    decoder = _change_decoders.setdefault(settings, DebeziumReadDecoder(settings))
    reads, letters, _ = _decoded(decoder, batch, now)
    _check_accounting(without_tombstones(batch), reads, letters)
    _check_letters(batch, letters)
    by_offset = {read.offset: read for read in reads}
    reasons = {letter.offset: letter.reason for letter in letters if not letter.used}
    plain_reads, plain_letters = ReadDecoder(settings).decode_carefully(plain, now)
    for read in plain_reads:
        if reasons.get(read.offset) not in _OF_CHANGES:
            assert _encode(by_offset.get(read.offset)) == _encode(read), "another read than it would be in plain JSON"
    for letter in plain_letters:
        if not letter.used and _says_the_same(letter.value) and reasons.get(letter.offset) not in _OF_CHANGES:
            assert reasons.get(letter.offset) == letter.reason, "another reason than it would be in plain JSON"
    return len(batch.values)


_OF_CHANGES = {reason.value for reason in (Reason.ROW_DELETED, Reason.TABLE_TRUNCATED, Reason.NOT_A_CHANGE)}


def _as_change(row: bytes, choices: Choices) -> bytes:
    change = debezium.change(row, choices.of(("c", "u", "r", "c", "u", "r", "c", "d", "t", "m")))
    form = choices.below(4)
    if form == 1:
        return debezium.with_schema(change)
    if form == 2:
        columns = {name: debezium.time_column("MicroTimestamp") for name in debezium_reads.READ_ROW.instants}
        decimals = {name: debezium.decimal_column(3) for name in debezium_reads.READ_ROW.numbers}
        return debezium.with_schema(change, columns | decimals)
    return change


def _says_the_same(value: bytes | None) -> bool:
    """Whether a row is one document, without any value that a change may have in other types than plain JSON."""
    try:
        row = strict_json.parse(value or b"")
    except Rejection:
        return False
    kinds = debezium_reads.READ_ROW
    return isinstance(row, dict) and not (
        any(isinstance(row.get(name), str | dict) for name in kinds.numbers | kinds.integers)
        or any(isinstance(row.get(name), int) for name in kinds.instants)
    )


def check_blocks(data: bytes) -> int:
    """What is packed unpacks to the same numbers, in the same order, however it was packed."""
    choices = Choices(data)
    shards, cut = 1 + choices.below(4), choices.below(24)
    reads = generate.reads(choices)
    _check_coder(ReadColumns, from_reads(reads))
    assert _encode(joined([from_reads(reads[:cut]), from_reads(reads[cut:])]).reads()) == _encode(reads)
    _check_blocks(reads, shards, cut)
    return len(reads)


CHECKS: dict[str, Callable[[bytes], int]] = {
    "reads": check_reads,
    "events": check_events,
    "changes": check_changes,
    "blocks": check_blocks,
}


def _one_by_one(batch: RecordBatch) -> list[RecordBatch]:
    columns = zip(batch.partitions, batch.offsets, batch.record_times, batch.values, strict=True)
    return [RecordBatch(batch.topic, [p], [o], [t], [v]) for p, o, t, v in columns]


def _check_accounting(batch: RecordBatch, accepted: list[Any], letters: list[DeadLetter]) -> None:
    set_aside = [letter.offset for letter in letters if not letter.used]
    assert sorted([*set_aside, *(each.offset for each in accepted)]) == batch.offsets, "records lost or doubled"
    offsets = [each.offset for each in accepted]
    assert offsets == sorted(offsets), "out of order"


def _check_verdict(
    accepted: Read | Event | None, reason: str | None, values: dict[str, Any] | None, against: set[str]
) -> None:
    if values is None:
        assert accepted is None, f"accepted in spite of {against}"
        assert reason in against, f"set aside as {reason}, and what holds is {against}"
    else:
        assert accepted is not None, f"set aside as {reason} without a reason"
        # The decoder checks the customer's id, and drops it.
        assert getattr(accepted, "customer_id", None) is None
        for name in values.keys() - {"customer_id"}:
            value = values[name]
            assert getattr(accepted, name) == value, f"{name}: {getattr(accepted, name)!r} and not {value!r}"


def _check_letters(batch: RecordBatch, letters: list[DeadLetter]) -> None:
    values = dict(zip(batch.offsets, batch.values, strict=True))
    for letter in letters:
        assert letter.reason in _REASONS
        assert letter.detail.endswith(".")
        _check_coder(DeadLetter, letter)
        row = json.loads(json_outputs.dead_letter_json(letter))
        assert (row["reason"], row["offset"], row["used"]) == (letter.reason, letter.offset, letter.used)
        value = values[letter.offset]
        assert letter.value == value
        if value is None:
            assert row["value_b64"] is None
        else:
            assert value.startswith(b64decode(row["value_b64"]))
            assert ("value_size" in row) == (len(value) > json_outputs.MAX_LETTER_BYTES)


def _check_reads_step(batch: RecordBatch, settings: Settings) -> None:
    """The step around the decoder gives the same letters, and progress that only believable record times move."""
    step = decode_reads._DecodeReadsDoFn(settings)
    step.setup()
    outputs = list(step.process(batch))
    _, letters = ReadDecoder(settings).decode_carefully(batch, None)
    progress = _check_published(outputs, letters)
    believable = [time for time in batch.record_times if time is not None and 0 <= time <= oracle.LAST]
    assert len(progress) == bool(believable)
    for each in progress:
        _check_coder(ReadProgress, each)
        assert (each.first_record_time, each.greatest_record_time) == (min(believable), max(believable))


def _check_published(outputs: list[Any], letters: list[DeadLetter]) -> list[ReadProgress]:
    tagged = [each for each in outputs if isinstance(each, TaggedOutput)]
    got = [each.value for each in tagged if each.tag == decode_reads.DEAD_LETTERS]
    for each in got:
        _check_coder(DeadLetterBatch, each)
    records = [json_outputs.dead_letter_records(each) for each in got]
    values = [value for each in records for value in each.values]
    assert values == [json_outputs.dead_letter_json(letter) for letter in letters]
    for each in records:
        _check_coder(KeyedRecords, each)
    return [each.value for each in tagged if each.tag == decode_reads.PROGRESS]


def _check_coder(record_type: type, value: Any) -> None:
    coder = MsgspecCoder(record_type)
    encoded = coder.encode(value)
    assert coder.encode(coder.decode(encoded)) == encoded


def _packed(read: Read) -> PackedRead:
    return PackedRead(
        read.transformer_id, read.meter_id, read.interval_end, read.read_ts, not read.estimated_flag, read.record_time,
        read.partition, read.offset, read.feeder_id, read.consumption_kwh, read.delivered_kwh, read.received_kwh,
        read.voltage_v, read.voltage_rejected, read.zero_voltage, apportioned=read.apportioned,
        missing=max(Settings.window - (read.interval_end - read.interval_start), 0),
    )  # fmt: skip


def _check_blocks(reads: list[Read], shards: int, cut: int = 0) -> None:
    intervals = [read for read in reads if read.read_type == "INTERVAL"]
    expected: dict[tuple[int, int], list[PackedRead]] = {}
    for read in intervals:
        expected.setdefault((shard_of(read.transformer_id, shards), read.window_end), []).append(_packed(read))
    blocks = {(shard, block.window_end): block for shard, _, block in _pending(reads, cut).blocks(shards)}
    assert blocks.keys() == expected.keys()
    for place, block in blocks.items():
        _check_coder(ReadBlock, block)
        _check_same(list(unpack(block)), expected[place])
        _check_same(list(unpack(pack(place[1], expected[place]))), expected[place])
        _check_same(columns_of([block]).block(END_OF_ALL).meters, block.meters)
        times = [read.record_time for read in expected[place]]
        assert (block.first_record_time, block.last_record_time) == (min(times), max(times))
    for delay in (0, 300_000_000):
        _check_late(reads, cut, shards, delay)
    if blocks:
        every = [read for place in blocks for read in expected[place]]
        columns = columns_of(list(blocks.values()))
        _check_same(columns.reads(), every)
        name = every[0].transformer_id
        mine = [read for read in every if read.transformer_id == name]
        _check_same(columns.of({name}), mine)
        _check_same(columns_of(list(blocks.values()), {name}).reads(), mine)
        _check_same(list(unpack(columns.block(END_OF_ALL))), every)


END_OF_ALL = generate.END


def _check_late(reads: list[Read], cut: int, shards: int, delay: int) -> None:
    """With a collection delay late reads are apart, and each read is in exactly one block."""
    got: dict[tuple[int, bool, int], list[PackedRead]] = {}
    for shard, late, block in _pending(reads, cut).blocks(shards, delay):
        for read in unpack(block):
            assert shard_of(read.transformer_id, shards) == shard
            got.setdefault((shard, late, 0 if late else block.window_end), []).append(read)
    expected: dict[tuple[int, bool, int], list[PackedRead]] = {}
    for read in reads:
        if read.read_type == "INTERVAL":
            late = read.record_time >= read.window_end + delay
            place = shard_of(read.transformer_id, shards), late, 0 if late else read.window_end
            expected.setdefault(place, []).append(_packed(read))
    assert got.keys() == expected.keys()
    for place, found in got.items():
        _check_same(found, expected[place])


def _pending(reads: list[Read], cut: int) -> PendingReads:
    pending = PendingReads(Settings.window)
    for part in (reads[:cut], reads[cut:]):
        pending.add(from_reads(part))
    return pending


def _check_same(got: list[Any], expected: list[Any]) -> None:
    assert _encode(got) == _encode(expected), "other reads than were packed"
