"""Instants: exact microseconds, the contract's narrow grammar, and the side of a window that is closed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ami_beam.codecs.checks import InstantCache
from ami_beam.instants import (
    MAX_INSTANT,
    MICROS_PER_DAY,
    MICROS_PER_MINUTE,
    MIN_INSTANT,
    format_duration,
    format_instant,
    parse_duration,
    parse_instant,
    window_end_left_closed,
    window_end_right_closed,
)

QUARTER = 15 * MICROS_PER_MINUTE
NOON = 1_772_539_200_000_000
"""2026-03-03T12:00:00Z."""

INSTANTS = st.integers(MIN_INSTANT, MAX_INSTANT)


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1970-01-01T00:00:00Z", MIN_INSTANT),
        ("2100-12-31T23:59:59.999999Z", MAX_INSTANT),
        ("2026-03-03T12:00:00Z", NOON),
        ("2026-03-03T12:00:00.5Z", NOON + 500_000),
        ("2026-03-03T12:00:00.000001Z", NOON + 1),
        ("2026-03-03T12:00:00.123456+00:00", NOON + 123_456),
        ("2026-03-03T13:00:00+01:00", NOON),
        ("2026-03-03T06:30:00-05:30", NOON),
        ("2026-03-03T12:00:00-00:00", NOON),
        ("2026-03-04T11:59:00+23:59", NOON),
        ("1970-01-01T01:00:00+01:00", 0),
        ("2028-02-29T00:00:00Z", 1_835_395_200_000_000),
    ],
)
def test_parses_what_the_contract_allows(text: str, micros: int) -> None:
    assert parse_instant(text) == micros
    assert InstantCache()[text] == micros


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-03-03",
        "2026-03-03T12:00:00",
        "2026-03-03t12:00:00Z",
        "2026-03-03T12:00:00z",
        "2026-03-03 12:00:00Z",
        "2026-03-03T12:00Z",
        "2026-03-03T12:00:00.Z",
        "2026-03-03T12:00:00.1234567Z",
        "2026-03-03T12:00:00,5Z",
        "2026-03-03T12:00:00.5",
        "2026-03-03T12:00:00.+1Z",
        "2026-03-03T12:00:00. 5Z",
        "2026-03-03T12:00:00.1_0Z",
        "2026-03-03T12:00:00.٣Z",
        "2026-03-03T12:00:00.²Z",
        "2026-03-03T12:00:00.5ZZ",
        "2026-03-03T12:00:00.5+0100",
        "2026-03-03T12:00:00+0100",
        "2026-03-03T12:00:00+01",
        "2026-03-03T12:00:00+24:00",
        "2026-03-03T12:00:00+01:60",
        "2026-03-03T12:00:00−01:00",
        "2026-03-03T24:00:00Z",
        "2026-03-03T12:60:00Z",
        "2026-03-03T12:00:60Z",
        "2026-02-29T12:00:00Z",
        "2026-13-01T12:00:00Z",
        "0000-01-01T00:00:00Z",
        "٢026-03-03T12:00:00Z",
        "+2026-03-03T12:00:00Z",
        "2026-03-03T12:00:00Z\n",
        " 2026-03-03T12:00:00Z",
        "1969-12-31T23:59:59Z",
        "1969-12-31T23:59:59.999999Z",
        "1970-01-01T00:00:00+00:01",
        "2101-01-01T00:00:00Z",
        "2100-12-31T23:59:59-00:01",
        "1772539200",
    ],
)
def test_refuses_everything_else(text: str) -> None:
    with pytest.raises(ValueError, match=r"timestamp|date and time|zone|years"):
        parse_instant(text)
    cache = InstantCache()
    assert [cache[text], cache[text]] == [InstantCache.NONE] * 2


@given(INSTANTS, st.sampled_from((1, 1_000, 10_000, 100_000, 1_000_000)))
def test_format_is_the_inverse_of_parse_and_as_short_as_it_can_be(micros: int, step: int) -> None:
    micros -= micros % step
    text = format_instant(micros)
    assert parse_instant(text) == micros
    assert re.fullmatch(r"[^.]*(\.[0-9]*[1-9])?Z", text)


@given(INSTANTS, st.integers(-23 * 60 - 59, 23 * 60 + 59), st.booleans())
def test_cache_agrees_with_parse_in_every_zone(micros: int, zone: int, fraction: bool) -> None:
    local = micros + zone * MICROS_PER_MINUTE
    if not MIN_INSTANT <= local <= MAX_INSTANT:
        return
    text = format_instant(local if fraction else local // 1_000_000 * 1_000_000).removesuffix("Z")
    text += f"{'-' if zone < 0 else '+'}{abs(zone) // 60:02d}:{abs(zone) % 60:02d}"
    cache = InstantCache()
    try:
        expected = parse_instant(text)
    except ValueError:  # a whole second below 1970 after the fraction was cut off
        expected = InstantCache.NONE
    assert [cache[text], cache[text]] == [expected, expected]


@given(st.from_regex(r"2026-03-03T12:00:00[.0-9Z+:_ \-]{0,12}", fullmatch=True) | st.text(max_size=30))
def test_cache_agrees_with_parse_on_odd_texts(text: str) -> None:
    try:
        expected = parse_instant(text)
    except ValueError:
        expected = InstantCache.NONE
    assert InstantCache()[text] == expected


def test_cache_does_not_remember_long_texts() -> None:
    """65,536 texts of a megabyte would be all the memory there is."""
    longest = "2026-03-03T12:00:00.123456+00:00"
    cache = InstantCache()
    assert cache[longest] == parse_instant(longest)
    assert len(longest) == InstantCache.LONGEST
    for text in (longest + "0", "x" * 33, "2026-03-03T12:00:00." + "1" * 1_000 + "Z", "x" * 100_000):
        assert cache[text] == InstantCache.NONE
    assert all(len(text) <= InstantCache.LONGEST for text in cache)


def test_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InstantCache, "SIZE", 10)
    cache = InstantCache()
    for second in range(100):
        micros = NOON + second * 1_000_000
        assert cache[format_instant(micros)] == micros
        assert cache[format_instant(micros + 250_000)] == micros + 250_000
        assert len(cache) <= 10


def test_a_window_is_closed_on_the_right_by_default() -> None:
    assert window_end_right_closed(NOON, QUARTER) == NOON
    assert window_end_right_closed(NOON + 1, QUARTER) == NOON + QUARTER
    assert window_end_right_closed(NOON - 1, QUARTER) == NOON
    assert window_end_right_closed(0, QUARTER) == 0


def test_or_on_the_left() -> None:
    assert window_end_left_closed(NOON, QUARTER) == NOON + QUARTER
    assert window_end_left_closed(NOON - 1, QUARTER) == NOON


@given(INSTANTS, st.integers(1, 2 * MICROS_PER_DAY))
def test_windows_hold_their_instant(instant: int, size: int) -> None:
    right, left = window_end_right_closed(instant, size), window_end_left_closed(instant, size)
    assert right - size < instant <= right
    assert left - size <= instant < left
    assert right % size == left % size == 0


@pytest.mark.parametrize(
    ("text", "micros"),
    [("15m", QUARTER), ("90s", 90_000_000), ("24h", MICROS_PER_DAY), ("500ms", 500_000), ("2d", 2 * MICROS_PER_DAY)],
)
def test_durations(text: str, micros: int) -> None:
    assert parse_duration(text) == micros
    assert parse_duration(format_duration(micros)) == micros


@pytest.mark.parametrize("text", ["", "15", "m", "-15m", "1.5h", "15 m", "15M", "15min", "٣m"])
def test_what_is_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)
