"""Changes of a head-end's database: what is in them is held against the same rules as plain JSON."""

from __future__ import annotations

import json
import pickle
import re
from base64 import b64encode
from typing import Any

import msgspec
import pytest
from apache_beam.pvalue import TaggedOutput
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ami_beam.codecs import json_reads
from ami_beam.codecs.dead_letter_reasons import Reason, Rejection
from ami_beam.codecs.debezium import UNAVAILABLE, Envelopes, change_of
from ami_beam.codecs.debezium_events import DebeziumEventDecoder
from ami_beam.codecs.debezium_reads import DebeziumReadDecoder
from ami_beam.codecs.json_events import EventDecoder
from ami_beam.codecs.json_reads import ReadDecoder
from ami_beam.codecs.writer_schemas import Changes
from ami_beam.instants import MICROS_PER_DAY, parse_instant
from ami_beam.records import DeadLetter, Event, Read, RecordBatch
from ami_beam.settings import Settings
from tests.debezium import change, decimal_column, head, time_column, with_schema
from tests.replays import READS as READS_FILE
from tests.replays import batches, needs_simbench
from transforms.decode_events import _DecodeEventsDoFn
from transforms.decode_reads import DEAD_LETTERS, TO_BILL, _DecodeReadsDoFn

END = parse_instant("2026-03-03T12:15:00Z")
ARRIVAL = END + 60_000_000
READ: dict[str, Any] = {
    "meter_id": "MTR-154570",
    "service_point_id": "SP-0081987",
    "customer_id": "CUST-009444",
    "transformer_id": "TR-LV2.104",
    "feeder_id": "MV1.101-Feeder1",
    "read_type": "INTERVAL",
    "interval_start": "2026-03-03T12:00:00.000000Z",
    "interval_end": "2026-03-03T12:15:00.000000Z",
    "consumption_kwh": 0.02,
    "delivered_kwh": 0.02,
    "received_kwh": 0.0,
    "voltage_v": 242.2,
    "power_quality_code": 0,
    "estimated_flag": False,
    "read_ts": "2026-03-03T12:15:50.123456Z",
}
EVENT = {"meter_id": "MTR-154570", "event_code": 3840, "event_ts": "2026-03-03T12:15:00Z", "event_desc": None}
NUMBERS = ("consumption_kwh", "delivered_kwh", "received_kwh", "voltage_v")
INSTANTS = ("interval_start", "interval_end", "read_ts")
_encode = msgspec.msgpack.encode  # tells 1 from 1.0


def row(**changes: Any) -> bytes:
    return json.dumps({**READ, **changes}, separators=(",", ":")).encode()


def batch(*values: bytes | None) -> RecordBatch:
    count = len(values)
    return RecordBatch("reads", [1] * count, list(range(count)), [ARRIVAL] * count, list(values))


def decoded(*values: bytes | None) -> tuple[list[Read], list[DeadLetter]]:
    """By the fast path, which must give what the definition gives, also of each record alone."""
    decoder = DebeziumReadDecoder(Settings(), keep_customers=True)
    columns, letters = decoder.decode(batch(*values), None)
    found = columns.reads(), letters
    again, more = decoder.decode(batch(*values), None)
    assert _encode((again.reads(), more)) == _encode(found)
    assert _encode(decoder.decode_carefully(batch(*values), None)) == _encode(found)
    singles: tuple[list[Read], list[DeadLetter]] = [], []
    for offset, value in enumerate(values):
        alone, some = decoder.decode(RecordBatch("reads", [1], [offset], [ARRIVAL], [value]), None)
        singles[0].extend(alone.reads())
        singles[1].extend(some)
    assert _encode(singles) == _encode(found)
    return found


def plain(*values: bytes) -> list[Read]:
    columns, letters = ReadDecoder(Settings(), keep_customers=True).decode(batch(*values), None)
    assert not letters
    return columns.reads()


def reason_of(value: bytes) -> tuple[str, str]:
    reads, (letter,) = decoded(value)
    assert not reads
    assert not letter.used
    assert letter.value == value
    assert letter.detail.endswith(".")
    return letter.reason, letter.detail


@pytest.mark.parametrize("op", ["c", "u", "r"])
@pytest.mark.parametrize("wrap", [bytes, with_schema])
def test_a_row_is_the_read_that_it_would_be_in_json(op: str, wrap: Any) -> None:
    rows = [row(meter_id=f"M{number}", voltage_v=None if number % 2 else 230.5) for number in range(20)]
    reads, letters = decoded(*(wrap(change(each, op)) for each in rows))
    assert not letters
    assert _encode(reads) == _encode(plain(*rows))


def test_records_of_every_form_beside_each_other() -> None:
    values = [
        change(row(meter_id="A")),
        with_schema(change(row(meter_id="B"), "u")),
        None,
        with_schema(change(row(meter_id="C", consumption_kwh="0.02"), "r"), {"consumption_kwh": {"type": "string"}}),
        change(row(meter_id="D"), "d", row()),
        change(row(meter_id="E", consumption_kwh="0.02")),
        b"{",
    ]
    reads, letters = decoded(*values)
    assert [read.meter_id for read in reads] == ["A", "B", "C", "E"]
    assert [(letter.offset, letter.reason) for letter in letters] == [(4, Reason.ROW_DELETED), (6, Reason.INVALID_JSON)]
    assert len(reads) + len(letters) + values.count(None) == len(values)


def test_batches_are_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slowness would be the only sign of a fast path that is never taken."""
    monkeypatch.setattr(json_reads.ReadDecoder, "_sorted_out", lambda *_: pytest.fail("looked at one by one"))
    texts = row(consumption_kwh="0.02", received_kwh="0.000", voltage_v="242.20")
    micros = row(interval_start=1772539200000000, interval_end=1772540100000000, read_ts=1772540150123456)
    times = {name: time_column("MicroTimestamp") for name in INSTANTS}
    decimals = {name: decimal_column(2) for name in NUMBERS}
    scaled = row(**{name: {"scale": 2, "value": "Ag=="} for name in NUMBERS[:2]})
    for value in (
        change(row()),
        with_schema(change(row())),
        change(texts),
        with_schema(change(micros), times),
        with_schema(change(row(consumption_kwh="Ag==", delivered_kwh="Ag==", received_kwh="AA==")), decimals),
        change(scaled),
    ):
        columns, letters = DebeziumReadDecoder(Settings()).decode(batch(*[value] * 300), None)
        assert len(columns) == 300
        assert not letters
        assert columns.reads()[299].consumption_kwh == 0.02


@pytest.mark.parametrize(
    ("kind", "scale"),
    [
        ("MicroTimestamp", 1_000_000),
        ("Timestamp", 1_000),
        ("org.apache.kafka.connect.data.Timestamp", 1_000),
        ("NanoTimestamp", 1_000_000_000),
    ],
)
def test_timestamps_in_numbers_by_the_schema(kind: str, scale: int) -> None:
    times = {"interval_start": 1772539200 * scale, "interval_end": 1772540100 * scale, "read_ts": 1772540150 * scale}
    columns = {name: time_column(kind) for name in INSTANTS}
    reads, letters = decoded(with_schema(change(row(**times)), columns))
    assert not letters
    assert _encode(reads) == _encode(plain(row(read_ts="2026-03-03T12:15:50Z")))
    for bad in (-1, 2**62, 10**400):
        assert reason_of(with_schema(change(row(**{**times, "read_ts": bad})), columns))[0] == Reason.INVALID_TIMESTAMP


def test_a_part_of_a_microsecond_is_refused() -> None:
    value = with_schema(change(row(read_ts=1772540150000000001)), {"read_ts": time_column("NanoTimestamp")})
    assert reason_of(value)[0] == Reason.INVALID_TIMESTAMP


@pytest.mark.parametrize("wrapped", [False, True])
def test_timestamps_in_numbers_of_which_nobody_says_what_they_are(wrapped: bool) -> None:
    value = change(row(interval_end=1772540100000000))
    if wrapped:
        value = with_schema(value, {"interval_end": {"type": "int64"}})
    reason, detail = reason_of(value)
    assert reason == Reason.WRONG_TYPE
    assert "interval_end" in detail
    assert "time.precision.mode" in detail
    assert "timestamptz" in detail


def test_timestamps_without_a_zone_are_refused_as_in_json() -> None:
    assert reason_of(change(row(interval_end="2026-03-03T12:15:00")))[0] == Reason.INVALID_TIMESTAMP


@pytest.mark.parametrize("text", ["0.02", "2E-2", "0.0200000", "0.2e-1"])
def test_numbers_as_texts(text: str) -> None:
    for value in (
        change(row(consumption_kwh=text, delivered_kwh=text)),
        with_schema(
            change(row(consumption_kwh=text, delivered_kwh=text)),
            {"consumption_kwh": {"type": "string"}, "delivered_kwh": {"type": "string"}},
        ),
    ):
        reads, letters = decoded(value)
        assert not letters
        assert _encode(reads) == _encode(plain(row()))


def test_a_text_that_may_be_bytes_needs_a_schema() -> None:
    for text in ("1234", "12345678", "1E+3"):
        reason, detail = reason_of(change(row(voltage_v=text)))
        assert reason == Reason.WRONG_TYPE
        assert "decimal.handling.mode" in detail
        assert "voltage_v" in detail
    (read,), (letter,) = decoded(with_schema(change(row(voltage_v="1234")), {"voltage_v": {"type": "string"}}))
    assert (read.voltage_rejected, letter.reason, letter.used) == (True, Reason.IMPLAUSIBLE_VOLTAGE, True)


@pytest.mark.parametrize("text", ["", "NaN", "Infinity", "01", "+1", "1.", " 1.5", "Bdw=", "١.٥"])
def test_texts_that_are_no_numbers(text: str) -> None:
    reason, detail = reason_of(change(row(voltage_v=text)))
    assert reason == Reason.WRONG_TYPE
    assert "decimal.handling.mode" in detail


@pytest.mark.parametrize(
    ("unscaled", "scale", "number"), [(24220, 2, 242.2), (2422, 1, 242.2), (3, -2, 300.0), (2422 * 10**30, 31, 242.2)]
)
def test_decimals(unscaled: int, scale: int, number: float) -> None:
    text = b64encode(unscaled.to_bytes((unscaled.bit_length() + 8) // 8, "big", signed=True)).decode()
    expected = _encode(plain(row(voltage_v=number)))
    struct = change(row(voltage_v={"scale": scale, "value": text}))
    precise = with_schema(change(row(voltage_v=text)), {"voltage_v": decimal_column(scale)})
    for value in (struct, with_schema(struct, {"voltage_v": {"type": "struct"}}), precise):
        reads, letters = decoded(value)
        assert not letters
        assert _encode(reads) == expected


def test_integers_of_decimals() -> None:
    columns = {"power_quality_code": decimal_column(2)}
    (read,), _ = decoded(with_schema(change(row(power_quality_code="AMg=")), columns))
    assert read.power_quality_code == 2
    assert reason_of(with_schema(change(row(power_quality_code="AMk=")), columns))[0] == Reason.WRONG_TYPE
    (read,), _ = decoded(change(row(power_quality_code="7")))
    assert read.power_quality_code == 7
    assert reason_of(change(row(power_quality_code="7.0")))[0] == Reason.WRONG_TYPE
    assert reason_of(change(row(power_quality_code="9" * 30 + ".")))[0] == Reason.WRONG_TYPE
    assert reason_of(change(row(power_quality_code="9" * 30)))[0] == Reason.NUMBER_OUT_OF_RANGE


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"scale": 10**9, "value": "AQ=="}, Reason.NUMBER_OUT_OF_RANGE),
        ({"scale": -500, "value": "AQ=="}, Reason.NUMBER_OUT_OF_RANGE),
        ({"scale": 0, "value": b64encode(b"\x01" * 2_000).decode()}, Reason.NUMBER_OUT_OF_RANGE),
        ({"scale": 1.5, "value": "AQ=="}, Reason.WRONG_TYPE),
        ({"scale": True, "value": "AQ=="}, Reason.WRONG_TYPE),
        ({"scale": 1, "value": 1}, Reason.WRONG_TYPE),
        ({"scale": 1, "value": "A"}, Reason.WRONG_TYPE),
        ({"scale": 1, "value": ""}, Reason.WRONG_TYPE),
        ({"scale": 1, "value": "ü"}, Reason.WRONG_TYPE),
        ({"scale": 1}, Reason.WRONG_TYPE),
        ({"scale": 1, "value": "AQ==", "more": 1}, Reason.WRONG_TYPE),
        ([], Reason.WRONG_TYPE),
        (True, Reason.WRONG_TYPE),
    ],
)
def test_decimals_that_are_none(value: object, reason: Reason) -> None:
    assert reason_of(change(row(consumption_kwh=value)))[0] == reason


@pytest.mark.parametrize("wrap", [bytes, with_schema])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (change(None, "d", row()), Reason.ROW_DELETED),
        (change(b"null", "d", b'{"meter_id":"A"}'), Reason.ROW_DELETED),
        (change(b"[]", "d"), Reason.ROW_DELETED),
        (change(None, "t"), Reason.TABLE_TRUNCATED),
        (change(None, "u"), Reason.MISSING_FIELD),
        (change(b"null", "c"), Reason.MISSING_FIELD),
        (change(b"{}", "r"), Reason.MISSING_FIELD),
        (change(b"[]", "c"), Reason.WRONG_TYPE),
        (change(row(), "m"), Reason.NOT_A_CHANGE),
        (change(row(), "C"), Reason.NOT_A_CHANGE),
        (row(), Reason.NOT_A_CHANGE),
        (b'{"ts_ms":1772540150500}', Reason.NOT_A_CHANGE),
        (b'{"status":"BEGIN","id":"555:24023128","event_count":null}', Reason.NOT_A_CHANGE),
        (b'{"source":{},"databaseName":"headend","ddl":"TRUNCATE","tableChanges":[]}', Reason.NOT_A_CHANGE),
        (change(row(meter_id="")), Reason.EMPTY_ID),
        (change(row(meter_id=UNAVAILABLE)), Reason.MISSING_FIELD),
        (change(row()).replace(b'"meter_id":"MTR', b'"meter_id":"\\ud800'), Reason.INVALID_UTF8),
    ],
)
def test_what_is_no_read(wrap: Any, value: bytes, reason: Reason) -> None:
    assert reason_of(wrap(value))[0] == reason
    # The others do not suffer.
    reads, letters = decoded(wrap(change(row())), wrap(value), wrap(change(row())))
    assert [read.offset for read in reads] == [0, 2]
    assert [letter.offset for letter in letters] == [1]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", Reason.EMPTY_VALUE),
        (b"[]", Reason.NOT_AN_OBJECT),
        (b"{}", Reason.NOT_A_CHANGE),
        (b'{"schema":null,"payload":null}', Reason.NOT_A_CHANGE),
        (b'{"schema":null,"payload":[]}', Reason.NOT_A_CHANGE),
        (b'{"payload":{}}', Reason.NOT_A_CHANGE),
        (b'{"schema":{},"payload":{},{}}', Reason.INVALID_JSON),
        (change(row())[:-1], Reason.INVALID_JSON),
        (with_schema(change(row()))[:-1], Reason.INVALID_JSON),
        (with_schema(change(row())) + b"}", Reason.INVALID_JSON),
        (with_schema(change(row()) + change(row())), Reason.INVALID_JSON),
        (with_schema(change(row()) + b"\n" + change(row())), Reason.INVALID_JSON),
        (with_schema(change(row()) + b",").replace(b",}", b',"payload":{}}'), Reason.NOT_A_CHANGE),
        (change(b'{"x":' + b"[" * 300 + b"]" * 300 + b"}"), Reason.INVALID_JSON),
        (change(row()).replace(b"headend", b"\xff"), Reason.INVALID_UTF8),
    ],
)
def test_what_is_no_document_of_a_change(value: bytes, reason: Reason) -> None:
    known = with_schema(change(row()))
    reads, letters = decoded(known, value, known)
    assert [read.offset for read in reads] == [0, 2]
    assert [(letter.offset, letter.reason) for letter in letters] == [(1, reason)]


@pytest.mark.parametrize(
    "value",
    [
        with_schema(change(row())).replace(b',"payload":', b', "payload" : '),
        with_schema(change(row()))[:-1] + b" }",
        b'{"payload":' + change(row()) + b',"schema":null}',
        b'{"schema":"none","payload":' + change(row()) + b"}",
        b'{"schema":{"fields":[1,{"field":"after","fields":7}]},"payload":' + change(row()) + b"}",
        with_schema(change(row()) + b',"x":1').replace(b'"payload":', b'"payload":1,"payload":', 1),
        change(row())[:-1] + b',"payload":{"op":"d"}}',
        change(row(**{f"c{number}": {} for number in range(300)})),
        with_schema(change(row()), {f"c{number}": {"type": "int32"} for number in range(300)}),
        change(row(x="\u2028ü")),
        change(row(note=UNAVAILABLE)),
    ],
)
def test_unusual_documents_of_reads(value: bytes) -> None:
    reads, letters = decoded(value, change(row()), with_schema(change(row())), value)
    assert not letters
    assert len(reads) == 4


def test_a_schema_that_changes_while_records_are_read() -> None:
    other = {"voltage_v": decimal_column(1), "firmware": {"type": "string"}}
    values = [
        *(with_schema(change(row())) for _ in range(3)),
        *(with_schema(change(row(voltage_v="CXY=", firmware="2.1")), other) for _ in range(3)),
    ]
    reads, letters = decoded(*values)
    assert not letters
    assert [read.voltage_v for read in reads] == [242.2] * 6


def test_many_schemas_do_not_fill_the_memory() -> None:
    envelopes = Envelopes()
    for number in range(200):
        assert envelopes.head_of(with_schema(change(row()), {f"c{number}": {"type": "int32"}}))
    assert len(envelopes._columns) <= Envelopes._KEPT
    columns = envelopes.columns(envelopes.head_of(head() + b"{}}"))
    assert columns is not None
    assert columns["event_ts"].name == "io.debezium.time.MicroTimestamp"


def test_a_change_says_when_it_was() -> None:
    found = Envelopes().change_of(with_schema(change(row(), "u", row(voltage_v=1))))
    assert found.before is not None
    assert found.before["voltage_v"] == 1
    assert (found.operation, found.committed, found.captured) == ("u", 1772540150123456, 1772540150500123)
    assert found == change_of(with_schema(change(row(), "u", row(voltage_v=1))))
    older = change_of(b'{"op":"c","ts_ms":1,"source":{"ts_ms":7,"ts_us":"x"},"after":{}}')
    assert (older.committed, older.captured) == (7_000, 1_000)
    with pytest.raises(Rejection) as raised:
        Envelopes().change_of(None)
    assert raised.value.reason == Reason.NULL_VALUE


def events(*values: bytes | None) -> tuple[list[Event], list[DeadLetter]]:
    decoder = pickle.loads(pickle.dumps(DebeziumEventDecoder(Settings())))
    found: tuple[list[Event], list[DeadLetter]] = decoder.decode(batch(*values), None)
    return found


@pytest.mark.parametrize("wrap", [bytes, lambda value: with_schema(value, {"event_ts": {"type": "string"}})])
def test_events(wrap: Any) -> None:
    rows = [json.dumps({**EVENT, "event_desc": text}).encode() for text in (None, "Last gasp", UNAVAILABLE)]
    found, letters = events(*(wrap(change(each)) for each in rows), None, wrap(change(rows[0], "d")))
    assert [event.event_desc for event in found] == [None, "Last gasp", None]
    assert [letter.reason for letter in letters] == [Reason.ROW_DELETED]
    assert found[:2] == EventDecoder(Settings()).decode(batch(*rows[:2]), None)[0]


def test_codes_of_events() -> None:
    scaled = json.dumps({**EVENT, "event_code": {"scale": 1, "value": "AJYA"}}).encode()
    precise = json.dumps({**EVENT, "event_code": "DwA=", "event_ts": 1772540100000000}).encode()
    found, letters = events(change(scaled), with_schema(change(precise), {"event_code": decimal_column(0)}))
    assert not letters
    assert [(event.event_code, event.event_ts) for event in found] == [(3840, END)] * 2
    # Only an event map says what a text is.
    _, letters = events(change(json.dumps({**EVENT, "event_code": "3840"}).encode()))
    assert [letter.reason for letter in letters] == [Reason.WRONG_TYPE]


class Counted:
    """In the place of a counter of Beam's, which has no value outside of a runner."""

    total = 0

    def inc(self, by: int = 1) -> None:
        self.total += by


def test_the_steps_account_for_every_record() -> None:
    values = [change(row()), None, change(None, "d", row()), None, change(row(consumption_kwh=5_000)), b""]
    for kind, found in ((_DecodeReadsDoFn, READ), (_DecodeEventsDoFn, EVENT)):
        values[0] = change(json.dumps(found).encode())
        for written, buried in ((Changes(), 2), (None, 0)):
            step = pickle.loads(pickle.dumps(kind(Settings(), written)))
            step.setup()
            step._tombstones, step._accepted = tombstones, accepted = Counted(), Counted()
            outputs = list(step.process(batch(*values)))
            step.teardown()
            letters = [
                letter for each in outputs if isinstance(each, TaggedOutput) and each.tag == DEAD_LETTERS
                for letter in each.value.rows
            ]  # fmt: skip
            assert tombstones.total == buried
            assert accepted.total + len(letters) + buried == len(values)
            assert accepted.total == (written is not None)


def test_changes_that_are_late_for_windows_are_billed() -> None:
    settings = Settings(also_publish=("validated_reads",), customer_id="keep")
    step = _DecodeReadsDoFn(settings, Changes())
    step.setup()
    late = RecordBatch("reads", [0], [0], [ARRIVAL + 3 * MICROS_PER_DAY], [with_schema(change(row(), "r"))])
    outputs = {each.tag: each.value for each in step.process(late) if isinstance(each, TaggedOutput)}
    assert outputs[TO_BILL].customer_id == ["CUST-009444"]
    (letter,) = outputs[DEAD_LETTERS].rows
    assert (letter.reason, letter.used) == (Reason.TOO_LATE, True)


def test_a_converter_of_avro_is_named() -> None:
    reason, detail = reason_of(b"\0\0\0\0\7" + b"MTR")
    assert reason == Reason.INVALID_JSON
    assert "JsonConverter" in detail


def test_decoders_travel() -> None:
    decoder = DebeziumReadDecoder(Settings(window_closed="left"), keep_customers=True)
    copy = pickle.loads(pickle.dumps(decoder))
    value = batch(change(row()))
    assert _encode(copy.decode(value, None)[0].reads()) == _encode(decoder.decode(value, None)[0].reads())


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 4_000), st.sampled_from(["", "plain", "typed"]))
def test_nothing_raises_and_neighbours_do_not_matter(piece: bytes, place: int, form: str) -> None:
    """Whatever stands in a change, it is one read or one letter, and the fast path says the same."""
    value = change(row())
    if form:
        value = with_schema(value, {"read_ts": time_column("MicroTimestamp")} if form == "typed" else None)
    place %= len(value)
    reads, letters = decoded(change(row()), value[:place] + piece + value[place + len(piece) :], change(row()))
    assert len(reads) + sum(not letter.used for letter in letters) == 3


QUOTED = rb'"(\w+_kwh|voltage_v|power_quality_code)":"[0-9.]+"'


@needs_simbench
def test_a_day_of_a_network_as_changes_is_what_it_is_in_json() -> None:
    """Broken records among it, too, but for numbers in quotes, which only a change may have."""
    plain_decoder, decoder = ReadDecoder(Settings()), DebeziumReadDecoder(Settings())
    accepted, quoted = 0, 0
    for number, records in enumerate(batches(READS_FILE, "reads")):
        wrap = with_schema if number % 2 else bytes
        values = [None if value is None else wrap(change(value)) for value in records.values]
        columns, letters = decoder.decode(msgspec.structs.replace(records, values=values), None)
        expected, plain_letters = plain_decoder.decode(records, None)
        reads = {read.offset: read for read in columns.reads()}
        said = {(letter.offset, letter.used): letter.reason for letter in letters}
        for letter in plain_letters:
            reason = said.pop((letter.offset, letter.used), None)
            if letter.reason == Reason.WRONG_TYPE and re.search(QUOTED, letter.value or b""):
                assert reason is None
                quoted += reads.pop(letter.offset).consumption_kwh >= 0
            elif letter.reason not in (Reason.NULL_VALUE, Reason.EMPTY_VALUE, Reason.NOT_AN_OBJECT):
                assert reason == letter.reason
        assert list(reads.values()) == expected.reads()
        assert not said
        accepted += len(reads)
    assert accepted > 60_000
    assert quoted
