"""Batches of records from a fuzzer's bytes: valid records, and what becomes of them when parts are replaced or torn.

Random bytes would nearly all end at the first check. Here a record starts valid and stays near it, so that changes
reach the last check as often as the first, and broken records stand beside whole ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from ami_beam.instants import MAX_INSTANT, MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_MINUTE, format_instant
from ami_beam.records import Read, RecordBatch
from ami_beam.settings import Settings
from tests.fuzz.choices import Choices

END = 1_772_540_100_000_000
"""2026-03-03T12:15:00Z"""
WINDOW = 15 * MICROS_PER_MINUTE
MAX_RECORDS = 9

SETTINGS = (
    Settings(),
    Settings(live=True),
    Settings(window_closed="left", plausible_voltage=(0.0, 400.0)),
    Settings(window=MICROS_PER_HOUR, allowed_lateness=0, future_limit=0, max_interval_kwh=1.0),
    Settings(plausible_voltage=(-1e300, 1e300), max_interval_kwh=1e18),
)
_TIMES = (
    END + MICROS_PER_MINUTE,
    END,
    END + 1,
    END - MICROS_PER_DAY,
    END - MICROS_PER_DAY - 1,
    END + MICROS_PER_DAY,
    END + MICROS_PER_DAY + 1,
    END + WINDOW + MICROS_PER_DAY,
    END + WINDOW + MICROS_PER_DAY + 1,
    END + 5 * MICROS_PER_MINUTE,
    END + 5 * MICROS_PER_MINUTE + 1,
    0,
    -1,
    MAX_INSTANT,
    MAX_INSTANT + 1,
    (2**63 - 1) * 1_000,
)
_LENGTHS = (WINDOW, 1, 0, -WINDOW, 300_000_000, MICROS_PER_HOUR, MICROS_PER_DAY)

_NUMBERS = (
    b"0", b"-0", b"0.0", b"-0.0", b"1", b"-1", b"0.5", b"-0.5", b"0.501", b"-0.501", b"1000", b"1000.0000000000001",
    b"10", b"9.999", b"99.99", b"100", b"230.15", b"400", b"400.0001", b"1e2", b"1E+2", b"1e-400", b"1e308", b"1e309",
    b"-1e999", b"4.9e-324", b"9007199254740991", b"9007199254740992", b"9007199254740993", b"9223372036854775807",
    b"9223372036854775808", b"-9223372036854775808", b"-9223372036854775809", b"18446744073709551616", b"2048",
    b"9" * 400, b"9" * 401, b"-" + b"9" * 5_000, b"01", b"1.", b".5", b"+1", b"1e", b"0x1", b"NaN", b"Infinity",
    b"-Infinity", b"1_0", b"0.1000000000000000055511151231257827", b"1" + b"0" * 30 + b"e-30",
)  # fmt: skip
_STRINGS = (
    b'""', b'"x"', b'"INTERVAL"', b'"DAILY"', b'"EVENT"', b'"interval"', b'"\\u0041"',
    b'"\\ud800"', b'"\\udc00\\ud800"',
    b'"\\ud83d\\ude00"', b'"\xc3\xbc"', b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\xaf"', b'"\xf4\x90\x80\x80"',
    b'"\\u0000"',
    b'"\x00"', b'"\n"', b'"\\n"', b'"\\x"', b'"\\"', b'"', b'"}\\n{"', b'"}\n{"', b'" "', b'"\xef\xbb\xbf"', b'"0"',
    b'"\x7f\xc2\x80"', b'"' + b"A" * 70_000 + b'"', b"'x'",
)  # fmt: skip
_OTHERS = (
    b"null", b"true", b"false", b"{}", b"[]", b"[1]", b'{"meter_id":"x"}', b"", b"tru", b"True", b"[" * 300,
    b"[" * 256 + b"]" * 256, b"[" * 255 + b"]" * 255, b"[" * 254 + b"]" * 254, b'{"a":' * 255 + b"1" + b"}" * 255,
    b"[" * 2_000 + b"]" * 2_000, b"[[" + b"{}," * 300 + b"1]]", b'["' + b"[" * 600 + b'"]', b"undefined",
)  # fmt: skip
_EXTRA = (
    b'"x":1', b'"x":{"y":[1e999,"\\ud800"]}', b'"x":"\xff"', b'"\xff":1', b'"voltage_v":null', b'"voltage_v":0',
    b'"estimated_flag":1', b'"read_type":"DAILY"', b'"meter_id":""', b'"METER_ID":1', b'"":0', b'"\\u006deter_id":"y"',
    b"", b",", b'"x"', b'"x":', b'"x":NaN', b'"x":"' + b'\\"[' * 300 + b'"', b'"event_code":3840', b'"event_desc":null',
)  # fmt: skip
_FRAMES = (
    b"", b" ", b"\n", b"\r\n", b"\t", b"\x00", b"\xef\xbb\xbf", b"{", b"}", b"[", b"]", b",", b"x", b"\x0c", b"{}",
           b"}\n{", b"\xc2\xa0",
)  # fmt: skip


@dataclass(frozen=True)
class Form:
    """What a topic's records look like: fields in order, each with a valid value and the kind of its variations."""

    topic: str
    fields: tuple[tuple[str, bytes, str], ...]

    def valid(self) -> list[tuple[bytes, bytes]]:
        return [(b'"%s"' % name.encode(), value) for name, value, _ in self.fields]


def _quoted(text: str) -> bytes:
    return b'"%s"' % text.encode()


READS = Form(
    "ami.headend.reads",
    (
        ("meter_id", b'"MTR-154570"', "text"),
        ("service_point_id", b'"SP-0081987"', "text"),
        ("customer_id", b'"CUST-009444"', "text"),
        ("transformer_id", b'"TR-LV2.104"', "text"),
        ("feeder_id", b'"MV1.101-Feeder1"', "text"),
        ("read_type", b'"INTERVAL"', "text"),
        ("interval_start", _quoted(format_instant(END - WINDOW)), "time"),
        ("interval_end", _quoted(format_instant(END)), "time"),
        ("consumption_kwh", b"0.0197", "number"),
        ("delivered_kwh", b"0.0197", "number"),
        ("received_kwh", b"0.0", "number"),
        ("voltage_v", b"242.2", "number"),
        ("power_quality_code", b"0", "number"),
        ("estimated_flag", b"false", "other"),
        ("read_ts", _quoted(format_instant(END + 50_000_000)), "time"),
    ),
)
EVENTS = Form(
    "ami.headend.events",
    (
        ("meter_id", b'"MTR-835898"', "text"),
        ("event_code", b"2048", "number"),
        ("event_desc", b'"TAMPER_COVER_OPEN"', "text"),
        ("event_ts", _quoted(format_instant(END)), "time"),
    ),
)


def batch(choices: Choices, form: Form) -> tuple[RecordBatch, Settings, int | None]:
    """A batch of a few records, the settings it is decoded with, and the wall clock where they need one."""
    settings = choices.of(SETTINGS)
    now = END + choices.of((MICROS_PER_MINUTE, 0, -5 * MICROS_PER_MINUTE)) if settings.live else None
    values: list[bytes | None] = []
    for _ in range(1 + choices.below(MAX_RECORDS)):
        values += _values(choices, form)
    times: list[int | None] = []
    for _ in values:
        time = _TIMES[0] if not choices.chance(3) else choices.of((*_TIMES, None))
        times.append(time)
    count = len(values)
    return RecordBatch(form.topic, [choices.below(3)] * count, list(range(7, 7 + count)), times, values), settings, now


def _values(choices: Choices, form: Form) -> list[bytes | None]:
    """One record, or several that belong together."""
    kind = choices.below(12)
    if kind <= 1:
        return [_joined(form.valid())]
    if kind <= 5:
        return [_changed(choices, form)]
    if kind == 6:
        return [_mutated(choices, _changed(choices, form))]
    if kind == 7:  # a document over two records
        value, place = _changed(choices, form), choices.below(600)
        return [value[:place] + choices.of(_FRAMES), value[place:]]
    if kind == 8:  # two documents in a record, and one in none
        return [_changed(choices, form) + choices.of(_FRAMES) + _joined(form.valid()), choices.of(_FRAMES)]
    if kind == 9:
        return [choices.of(_FRAMES) + _changed(choices, form) + choices.of(_FRAMES)]
    if kind == 10:
        return [choices.of((None, b"", b" ", b"null", b"[]", b"{}", b"{}{}", b'"{}"', b"0"))]
    return [choices.raw(choices.below(40))]


def _changed(choices: Choices, form: Form) -> bytes:
    """A document with up to three fields replaced, moved, left out or doubled."""
    fields = form.valid()
    for _ in range(choices.below(4)):
        place = choices.below(len(fields))
        how = choices.below(12)
        kind = next((kind for name, _, kind in form.fields if fields[place][0] == _quoted(name)), "other")
        if how <= 6:
            fields[place] = fields[place][0], _value(choices, kind)
        elif how == 7:
            fields[place] = fields[place][0], _value(choices, choices.of(("text", "number", "other", "time")))
        elif how == 8 and len(fields) > 1:
            del fields[place]
        elif how == 9:
            fields.insert(choices.below(len(fields) + 1), (fields[place][0], _value(choices, kind)))
        elif how == 10:
            name, colon, value = choices.of(_EXTRA).partition(b":")
            fields.insert(place, (name + colon, value) if not colon else (name, value))
        else:
            fields[place] = fields[place][0] + choices.of((b" ", b"\n", b"\x00")), fields[place][1]
    return _joined(fields, choices.of((b",", b",", b", ", b",\n")))


def _joined(fields: list[tuple[bytes, bytes]], comma: bytes = b",") -> bytes:
    return b"{" + comma.join(name + b":" + value if value or not name else name for name, value in fields) + b"}"


def _value(choices: Choices, kind: str) -> bytes:
    if kind == "number":
        if choices.chance(3):
            whole, digits = choices.below(65_536), choices.below(65_536)
            return b"%s%d.%04d" % (choices.of((b"", b"-")), whole, digits)
        return choices.of(_NUMBERS)
    if kind == "time":
        return _time(choices)
    if kind == "text":
        return choices.of(_STRINGS) if not choices.chance(4) else b'"%s"' % choices.raw(choices.below(12))
    return choices.of(_OTHERS)


def _time(choices: Choices) -> bytes:
    how = choices.below(4)
    if how <= 1:
        instant = choices.of(_TIMES[:14]) - choices.of(_LENGTHS) + choices.of((0, 0, 1, -1, 500_000))
        text = format_instant(min(max(instant, 0), MAX_INSTANT))
        return _quoted(
            text.removesuffix("Z") + choices.of(("Z", "Z", "+00:00", "-00:00", "+01:00", "-23:59", "+24:00"))
        )
    if how == 2:
        year = choices.of(("2026", "1970", "1969", "2100", "2101", "0000", "9999", "26"))
        month = choices.of(("03", "01", "12", "02", "00", "13", "3"))
        date = f"{year}-{month}-{choices.of(('03', '01', '31', '29', '30', '00', '32', '３'))}"
        clock = choices.of(("12:15:00", "00:00:00", "23:59:59", "24:00:00", "23:59:60", "12:60:00", "12:15", "1:15:00"))
        fraction = choices.of(("", ".5", ".000001", ".999999", ".9999999", ".", ".٣", ",5", ".1234", ".+1", ".1_0"))
        zone = choices.of(("Z", "z", "", "+01:00", "-05:00", "+0100", "+01", "+23:59", "+24:00", "+00:60", " Z", "Z "))
        return _quoted(date + choices.of(("T", "t", " ", "")) + clock + fraction + zone)
    return b'"%s"' % choices.raw(choices.below(30))


def _mutated(choices: Choices, value: bytes) -> bytes:
    for _ in range(1 + choices.below(3)):
        place, gone = choices.below(600), choices.below(24)
        new = choices.raw(choices.below(5)) if choices.chance(2) else choices.of(_FRAMES)
        value = value[:place] + new + value[place + gone :]
    return value


_KWH = (0.0, -0.0, 0.0197, 1.5, -0.5, 1e-6, 1e-7, 0.1 + 0.2, 999_999.999999, 1e12, 1e12 - 1e-6, -1e12, 9e15,
        2.0**63, -(2.0**63), 4.9e-324, 1e-300)  # fmt: skip
_VOLTS = (230.15, None, 0.0, -0.0, -0.01, 0.01, 400.0, 99.995, 230.155, -1.0, 1e12, 1e300, -1e300, 1e10)
_TEXTS = ("T1", "T2", "F1", "Zähler", "\x00", "x" * 300, "😀", "\n", "T1 ", '"')
_STAMPS = (END, 0, 1, END + 1, END - 1, END + 1_000, END + 1_500_000, MAX_INSTANT, END - MICROS_PER_DAY)


def reads(choices: Choices) -> list[Read]:
    """Accepted reads with numbers from all over what the decoder lets pass."""
    made: list[Read] = []
    for number in range(1 + choices.below(24)):
        if made and choices.chance(3):  # an equal one, but for where it came from
            made.append(msgspec.structs.replace(choices.of(made), offset=number))
            continue
        window_end = choices.of((END, END + WINDOW, END - WINDOW, WINDOW, MAX_INSTANT // WINDOW * WINDOW + WINDOW))
        end = max(window_end - choices.of((0, 0, 1, 420_000_000, WINDOW - 1)), 1)
        made.append(
            Read(
                choices.of(_TEXTS), "S", choices.of(_TEXTS), choices.of(_TEXTS),
                choices.of(("INTERVAL", "INTERVAL", "DAILY", "EVENT")), max(end - WINDOW, 0), end, _kwh(choices),
                _kwh(choices), _kwh(choices), _volts(choices), choices.of((0, 2**63 - 1, -(2**63))), choices.chance(2),
                choices.of(_STAMPS), window_end, choices.chance(4), choices.chance(4), choices.of(_STAMPS),
                choices.of((0, 1, 127, 128, 2**31 - 1)), choices.of((number, 2**40 + number, 2**62)),
            )
        )  # fmt: skip
    return made


def _kwh(choices: Choices) -> float:
    if choices.chance(2):
        return choices.of(_KWH)
    return (choices.below(65_536) - 32_768) / choices.of((1_000_000, 10_000, 1, 3))


def _volts(choices: Choices) -> float | None:
    return choices.of(_VOLTS) if choices.chance(2) else choices.below(65_536) / choices.of((100, 10, 1, 7))
