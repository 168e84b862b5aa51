"""Times of a head-end's clock, above all on the days of 23 and of 25 hours."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest
import pytz
from hypothesis import given
from hypothesis import strategies as st

from ami_beam.headend.clocks import Clock, Policy, Series, candidates, in_daylight_time
from ami_beam.headend.json_paths import Place
from ami_beam.headend.mapping import Mapped, Mapper
from ami_beam.headend.paging import Ranges
from ami_beam.headend.source_file import AskedPeriod, parse_source
from ami_beam.instants import MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_MINUTE, format_instant, parse_instant
from ami_beam.local_days import bounds_of

ZONES = (
    "America/Chicago",
    "Europe/Berlin",
    "Europe/Dublin",
    "Australia/Lord_Howe",
    "America/St_Johns",
    "Atlantic/Azores",
)
SHORT, LONG = {}, {}
"""By zone the days of 2026 on which its clock is put forward and back."""
for _zone in ZONES:
    for _number in range(365):
        _day = (datetime(2026, 1, 1) + timedelta(days=_number)).date().isoformat()
        _length = bounds_of(_day, _zone)[1] - bounds_of(_day, _zone)[0]
        if _length != MICROS_PER_DAY:
            (SHORT if _length < MICROS_PER_DAY else LONG)[_zone] = _day


def wall(instant: int, zone: str, policy: Policy = "local") -> str:
    """What a clock on the wall shows, by the time zone data base and not by the code that is tested."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=instant)
    if policy == "standard":
        winter = min(
            datetime(2026, month, 1, tzinfo=UTC).astimezone(pytz.timezone(zone)).utcoffset() for month in range(1, 13)
        )
        return (moment + winter).strftime("%Y-%m-%d %H:%M")
    return moment.astimezone(pytz.timezone("UTC" if policy == "utc" else zone)).strftime("%Y-%m-%d %H:%M")


class Day(NamedTuple):
    zone: str
    policy: Policy
    ends: list[int]
    """Of the intervals of the day and of some hours around it."""
    step: int


@st.composite
def days(draw: st.DrawFn) -> Day:
    zone = draw(st.sampled_from(ZONES))
    kind = draw(st.sampled_from((SHORT, LONG)))
    step = draw(st.sampled_from((5, 15, 30, 60))) * MICROS_PER_MINUTE
    begin, end = bounds_of(kind[zone], zone)
    policy: Policy = draw(st.sampled_from(("utc", "local", "standard")))
    around = 3 * MICROS_PER_HOUR
    return Day(zone, policy, list(range(begin - around + step, end + around, step)), step)


def understood(
    day: Day, times: list[tuple[int, str]], label: str, descending: bool, bounds: tuple[int, int] | None
) -> list[int]:
    """Ends of intervals, from times as they were sent; a record's digest is that of its place in the list."""
    clock, series = Clock(day.zone, day.policy), Series(descending, bounds)
    length = day.step if label == "begin" else 0
    return [
        series.choose(
            "M-1", [each + length for each in candidates(text, "iso", clock, label == "end")], day.step, b"%d" % number
        )
        for number, text in times
    ]


@given(days(), st.sampled_from(("begin", "end")), st.booleans())
def test_a_day_of_23_or_25_hours_is_understood(day: Day, label: str, descending: bool) -> None:
    ends = day.ends[::-1] if descending else day.ends
    shown = [each - (day.step if label == "begin" else 0) for each in ends]
    times = list(enumerate(wall(each, day.zone, day.policy) for each in shown))
    assert understood(day, times, label, descending, None) == ends


@given(days(), st.sampled_from(("begin", "end")), st.integers(0, 1_000_000))
def test_a_question_may_begin_anywhere(day: Day, label: str, seed: int) -> None:
    """The question begins where the adapter begins one, and its range keeps the times in it."""
    clock, draw = Clock(day.zone, day.policy), random.Random(seed)
    ranges = Ranges(AskedPeriod("from", "to", "iso", MICROS_PER_DAY, None), clock, day.step)
    begin = ranges.begin(draw.choice(day.ends))
    ends = [each for each in day.ends if each >= begin]
    shown = [each - (day.step if label == "begin" else 0) for each in ends]
    times = list(enumerate(wall(each, day.zone, day.policy) for each in shown))
    bounds = begin, day.ends[-1] + day.step
    assert understood(day, times, label, False, bounds) == ends


@given(days(), st.integers(1, 1_000), st.integers(1, 5))
def test_a_page_that_repeats_the_end_of_the_one_before_it_changes_nothing(day: Day, cut: int, again: int) -> None:
    """Wherever it begins. Only where it repeats as much as the clock is put back, it looks like the second half."""
    if day.zone == "Australia/Lord_Howe" or again * day.step >= MICROS_PER_HOUR:
        again = 0
    cut = max(again, cut % len(day.ends))
    places = [*range(cut), *range(cut - again, len(day.ends))]
    times = [(place, wall(day.ends[place], day.zone, day.policy)) for place in places]
    assert understood(day, times, "end", False, None) == [day.ends[place] for place in places]


@given(days(), st.sampled_from(("begin", "end")), st.integers(1, 3))
def test_a_whole_day_of_several_meters_is_mapped(day: Day, label: str, meters: int) -> None:
    """Through the mapping: every meter has an order of its own, and the other end of the interval follows."""
    field = "interval_start" if label == "begin" else "interval_end"
    text = (
        'name = "n"\nurl = "https://hes.example"\nrecords = "*"\n[paging]\ntype = "page"\n'
        f'[times]\ntime_zone = "{day.zone}"\ndst = "{day.policy}"\ninterval_label = "{label}"\n'
        f'interval = "{day.step // MICROS_PER_MINUTE}m"\n[fields]\nmeter_id = "m"\nservice_point_id = "m"\n'
        f'customer_id = "m"\ntransformer_id = "m"\nfeeder_id = "m"\n{field} = "t"\nconsumption_kwh = "kwh"\n'
    )
    shown = [wall(each - (day.step if label == "begin" else 0), day.zone, day.policy) for each in day.ends]
    # Nothing but the order tells the two halves apart.
    records = [{"m": f"M-{meter}", "t": each, "kwh": 1} for each in shown for meter in range(meters)]
    done = Mapper(parse_source(text, "n.toml")).map([Place(each, (records,)) for each in records], Series(), 0)
    reads = [json.loads(each.value) for each in done if isinstance(each, Mapped)]
    assert [(read["meter_id"], read["interval_start"], read["interval_end"]) for read in reads] == [
        (f"M-{meter}", format_instant(end - day.step), format_instant(end))
        for end in day.ends
        for meter in range(meters)
    ]


@pytest.mark.parametrize(
    ("form", "policy", "written"),
    [
        ("iso", "local", "2026-07-01T12:34:56Z"),
        ("epoch_s", "local", 1_782_909_296),
        ("epoch_ms", "local", 1_782_909_296_000),
        ("%m/%d/%Y %H:%M:%S", "local", "07/01/2026 07:34:56"),
        ("%m/%d/%Y %H:%M:%S", "standard", "07/01/2026 06:34:56"),
        ("%m/%d/%Y %H:%M:%S", "utc", "07/01/2026 12:34:56"),
        ("%Y-%m-%d", "local", "2026-07-01"),
    ],
)
def test_ranges_are_asked_for_in_the_source_s_clock(form: str, policy: Policy, written: str | int) -> None:
    ranges = Ranges(AskedPeriod("from", "to", form, 1, None), Clock("America/Chicago", policy), 0)
    instant = parse_instant("2026-07-01T12:34:56Z")
    assert ranges.parameters(instant, instant + 1)["from"] == written
    assert ranges.grain == (MICROS_PER_DAY if form == "%Y-%m-%d" else 1_000_000)


@pytest.mark.parametrize("zone", ZONES)
def test_a_time_in_the_gap_is_on_no_clock(zone: str) -> None:
    begin, end = bounds_of(SHORT[zone], zone)
    clock = Clock(zone, "local")
    shown = {wall(each, zone) for each in range(begin, end, MICROS_PER_MINUTE)}
    minutes = [f"{SHORT[zone]} {hour:02}:{minute:02}" for hour in range(24) for minute in range(60)]
    missing = [each for each in minutes if each not in shown]
    assert missing
    for text in missing:
        with pytest.raises(ValueError, match="is on no clock"):
            candidates(text, "iso", clock)
    # The last interval before the gap may be said to end where it begins.
    after_gap = wall(candidates(missing[0], "iso", clock, ends_interval=True)[0], zone)
    assert after_gap > missing[-1]
    for text in missing[1:]:
        with pytest.raises(ValueError, match="is on no clock"):
            candidates(text, "iso", clock, ends_interval=True)


@pytest.mark.parametrize("daylight", [True, False])
def test_a_flag_decides(daylight: bool) -> None:
    found = candidates("2026-11-01 01:30", "iso", Clock("America/Chicago", "local"))
    assert found == (parse_instant("2026-11-01T06:30:00Z"), parse_instant("2026-11-01T07:30:00Z"))
    assert Series().choose("M-1", found, 15 * MICROS_PER_MINUTE, b"", daylight) == found[0 if daylight else 1]


@pytest.mark.parametrize(
    ("flag", "said"), [("Y", True), (True, True), (1, True), ("std", False), ("N", False), (0, False)]
)
def test_words_of_flags(flag: object, said: bool) -> None:
    assert in_daylight_time(flag) is said


def test_a_flag_that_says_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="neither"):
        in_daylight_time("maybe")


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ("2026-07-01T12:00:00Z", "iso"),
        ("2026-07-01 07:00", "iso"),
        ("2026-07-01T07:00:00-05:00", "iso"),
        (1_782_907_200, "epoch_s"),
        ("1782907200000", "epoch_ms"),
        ("07/01/2026 07:00 AM", "%m/%d/%Y %I:%M %p"),
        ("01.07.2026 14:00 +0200", "%d.%m.%Y %H:%M %z"),
    ],
)
def test_forms_of_one_instant(value: object, form: str) -> None:
    assert candidates(value, form, Clock("America/Chicago", "local")) == (parse_instant("2026-07-01T12:00:00Z"),)


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (None, "iso"),
        (True, "epoch_s"),
        ("soon", "iso"),
        ("1e999999", "epoch_s"),
        (-1, "epoch_s"),
        ("2026", "%m/%d/%Y"),
        (5, "iso"),
    ],
)
def test_what_is_no_time(value: object, form: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        candidates(value, form, Clock("UTC", "utc"))
