"""The checks that reads and events share: one function per kind of field, each returning the value or rejecting it.

A Rejection's sentence names the field and what was expected, never a value, so that no id leaks into it.
"""

from __future__ import annotations

from math import isfinite
from typing import TypeVar

from ami_beam.codecs import strict_json
from ami_beam.codecs.dead_letter_reasons import Reason, Rejection
from ami_beam.instants import MAX_INSTANT, MIN_INSTANT, parse_instant
from ami_beam.records import DeadLetter
from ami_beam.settings import Settings

MIN_INT64 = -(2**63)
MAX_INT64 = 2**63 - 1
"""Integers outside these are NUMBER_OUT_OF_RANGE, also those that unsigned 64 bits would hold."""
EXACT_FLOAT = 2.0**53
"""Beyond ± this a float does not tell which integer was sent, so only the text decides whether it was in range."""

_FRACTION = 19
"""Where the fraction of a timestamp begins: after `YYYY-MM-DDTHH:MM:SS`."""

Fields = dict[str, object]
Word = TypeVar("Word", bound=str)


class InstantCache(dict[str, int]):
    """`cache[text]` is `parse_instant(text)`, or `NONE` where that raises ValueError; remembers at most `SIZE` texts.

    Reads of a batch share most of their timestamps. A fraction makes them distinct again, therefore only whole
    seconds are remembered and a fraction is added to its second.
    """

    SIZE = 65_536
    NONE = -1
    """No instant. Not an exception, which would cost a flood of bad timestamps more than all else."""
    LONGEST = 32
    """Characters of the longest timestamp. Longer texts are none, and not remembered: one could be a megabyte."""

    def __missing__(self, text: str) -> int:
        if len(text) > self.LONGEST:
            return self.NONE
        if text[_FRACTION : _FRACTION + 1] == ".":
            zone = "Z" if text.endswith("Z") else text[-6:]
            fraction = text[_FRACTION + 1 : -len(zone)]
            if not (len(fraction) <= 6 and fraction.isascii() and fraction.isdigit()):
                return self.NONE
            # The bounds are whole seconds (the last one with all its microseconds), so the second decides them.
            second = self[text[:_FRACTION] + zone]
            return second if second < 0 else second + int(fraction.ljust(6, "0"))
        try:
            instant = parse_instant(text)
        except ValueError:
            instant = self.NONE
        if len(self) >= self.SIZE:
            self.clear()
        self[text] = instant
        return instant


class Micros(int):
    """An instant that was sent as microseconds, by a format that can say so. It is no number to any other check."""


def fields_of(value: bytes | None, max_depth: int = strict_json.MAX_DEPTH) -> Fields:
    """The JSON object that `value` is."""
    if value is None:
        raise Rejection(Reason.NULL_VALUE, "The record has no value.")
    if not value:
        raise Rejection(Reason.EMPTY_VALUE, "The record's value is empty.")
    document = strict_json.parse(value, max_depth)
    if not isinstance(document, dict):
        raise Rejection(Reason.NOT_AN_OBJECT, "The value must be a JSON object.")
    return document


def check_present(fields: Fields, names: tuple[str, ...]) -> None:
    """Every one of `names` is there."""
    for name in names:
        if name not in fields:
            raise Rejection(Reason.MISSING_FIELD, f"{name} is required.")


def identifier(fields: Fields, name: str) -> str:
    """A non-empty string."""
    text = _text(fields[name], name, "a non-empty string")
    if not text:
        raise Rejection(Reason.EMPTY_ID, f"{name} must be a non-empty string.")
    return text


def optional_text(fields: Fields, name: str) -> str | None:
    """A string; None where it is null or missing."""
    value = fields.get(name)
    return None if value is None else _text(value, name, "a string or null")


def word(fields: Fields, name: str, allowed: tuple[Word, ...]) -> Word:
    """One of the allowed words, upper case."""
    text = _text(fields[name], name, "a string")
    for each in allowed:
        if text == each:
            return each
    raise Rejection(Reason.UNKNOWN_WORD, f"{name} must be one of {', '.join(allowed)}.")


def instant(fields: Fields, name: str, instants: InstantCache | None = None) -> int:
    """A timestamp, in microseconds. `instants`: to be asked in the place of `parse_instant`."""
    value = fields[name]
    if isinstance(value, Micros):
        if not MIN_INSTANT <= value <= MAX_INSTANT:
            raise Rejection(Reason.INVALID_TIMESTAMP, f"{name} must lie in the years 1970 to 2100.")
        return int(value)
    if not isinstance(value, str):
        raise Rejection(Reason.WRONG_TYPE, f"{name} must be a timestamp in a string.")
    try:
        micros = parse_instant(value) if instants is None else instants[value]
    except ValueError:
        micros = InstantCache.NONE
    if micros < 0:
        raise Rejection(
            Reason.INVALID_TIMESTAMP,
            f"{name} must be YYYY-MM-DDTHH:MM:SS with up to 6 fraction digits and Z or ±HH:MM, from 1970 to 2100.",
        )
    return micros


def number(fields: Fields, name: str) -> float:
    """A number between ±2**63, however it is written, so that no sum of them can leave the range of a float."""
    value = _number(fields[name], name, "a number")
    if not MIN_INT64 <= value <= -MIN_INT64:
        raise Rejection(Reason.NUMBER_OUT_OF_RANGE, f"{name} must be inside signed 64 bits.")
    return value


def optional_number(fields: Fields, name: str) -> float | None:
    """A number that is finite as a 64-bit float, however it is written; None where it is null or missing."""
    value = fields.get(name)
    return None if value is None else _number(value, name, "a number or null")


def integer(fields: Fields, name: str) -> int:
    """An integer inside signed 64 bits, written without a fraction or an exponent."""
    value = fields[name]
    if type(value) is not int:  # a bool is an int to isinstance
        raise Rejection(Reason.WRONG_TYPE, f"{name} must be an integer.")
    if not MIN_INT64 <= value <= MAX_INT64:
        raise Rejection(Reason.NUMBER_OUT_OF_RANGE, f"{name} must be inside signed 64 bits.")
    return value


def boolean(fields: Fields, name: str) -> bool:
    """true or false."""
    value = fields[name]
    if not isinstance(value, bool):
        raise Rejection(Reason.WRONG_TYPE, f"{name} must be true or false.")
    return value


def greatest_record_time(settings: Settings, now: int | None) -> int:
    """The greatest record time that is believed: the wall clock and the skew when live, else the last instant."""
    if not settings.live:
        return MAX_INSTANT
    if now is None:
        raise ValueError("A live run must give the wall clock to the decoder.")
    return min(now + settings.clock_skew, MAX_INSTANT)


def check_record_time(record_time: int | None, greatest: int) -> int:
    """The record time is there, an instant, and not after `greatest` (see `greatest_record_time`)."""
    if record_time is None:
        raise Rejection(Reason.BAD_RECORD_TIME, "The record time is missing.")
    if not MIN_INSTANT <= record_time <= MAX_INSTANT:
        raise Rejection(
            Reason.BAD_RECORD_TIME, f"The record time must lie in 1970 to 2100; it is {record_time} µs from 1970."
        )
    if record_time > greatest:
        raise Rejection(Reason.BAD_RECORD_TIME, "The record time is ahead of the wall clock by more than the skew.")
    return record_time


def dead_letter(
    reason: Reason,
    detail: str,
    topic: str,
    partition: int,
    offset: int,
    record_time: int | None,
    value: bytes | None,
    used: bool = False,
) -> DeadLetter:
    """The letter for a record. Its record time is None where no sink could write it as an instant."""
    writable = record_time is not None and MIN_INSTANT <= record_time <= MAX_INSTANT
    return DeadLetter(
        reason.value, detail, topic, partition, offset, record_time if writable else None, value, used=used
    )


def _text(value: object, name: str, expected: str) -> str:
    if not isinstance(value, str):
        raise Rejection(Reason.WRONG_TYPE, f"{name} must be {expected}.")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise Rejection(Reason.INVALID_UTF8, f"{name} must not hold half a surrogate pair.") from None
    return value


def _number(value: object, name: str, expected: str) -> float:
    if type(value) is float:
        if not isfinite(value):
            raise Rejection(Reason.NUMBER_OUT_OF_RANGE, f"{name} must be inside the range of a 64-bit float.")
        return value
    if type(value) is int:  # a bool is an int to isinstance
        try:
            return float(value)
        except OverflowError:
            raise Rejection(Reason.NUMBER_OUT_OF_RANGE, f"{name} must be inside the range of a 64-bit float.") from None
    raise Rejection(Reason.WRONG_TYPE, f"{name} must be {expected}, not in quotes.")
