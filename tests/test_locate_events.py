"""Where meters hang that have lost supply: events wait for their time and for a place, and not for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ami_beam.instants import MICROS_PER_HOUR as HOUR
from ami_beam.instants import MICROS_PER_MINUTE
from ami_beam.records import MeterPlaces, PowerEvent
from ami_beam.settings import Settings
from transforms.locate_events import KeptMeters, PowerNews, forget, locate

BEGIN = 1_772_496_000_000_000
LIVE = Settings(live=True)


def places(hour: int, *meters: str) -> PowerNews:
    return PowerNews(MeterPlaces(BEGIN + hour * HOUR, list(meters), ["T1"] * len(meters), {"T1": "F1"}), [])


def told(meter_id: str, hour: int) -> PowerNews:
    at = BEGIN + hour * HOUR
    return PowerNews(None, [PowerEvent(meter_id, "", False, at, at + MICROS_PER_MINUTE)])


@given(
    st.lists(st.integers(1, 70), min_size=1, max_size=8),
    st.lists(st.integers(1, 72), min_size=1, max_size=4),
    st.lists(st.integers(0, 75), max_size=6).map(sorted),
)
def test_no_event_of_a_backlog_is_given_up_before_its_time(
    hours: list[int], windows: list[int], looks: list[int]
) -> None:
    """Places of days ahead came before the first look, and the events of all but the last day were gone."""
    news = [*(told("M1", hour) for hour in hours), *(places(hour, "M1") for hour in windows)]
    kept, found, lost = KeptMeters(), [], 0
    for hour in [*looks, 80]:
        now = BEGIN + hour * HOUR
        found += locate(kept, news, now)
        lost += forget(kept, now, LIVE)
        news = []
    assert sorted(event.at for event in found) == sorted(BEGIN + hour * HOUR for hour in hours)
    assert (lost, kept.waiting) == (0, [])


def test_an_event_waits_a_day_for_a_place() -> None:
    kept = KeptMeters()
    assert locate(kept, [told("M1", 1), places(30, "M2")], BEGIN + 2 * HOUR) == []
    assert forget(kept, BEGIN + 25 * HOUR, LIVE) == 0
    assert forget(kept, BEGIN + 26 * HOUR, LIVE) == 1
    assert kept.waiting == []


def test_an_event_does_not_wait_in_vain_where_no_reads_come() -> None:
    """The time alone gives nothing up: the reads that say where its meter hangs may be what is missing."""
    kept = KeptMeters()
    locate(kept, [told("M1", 1), places(2, "M2")], BEGIN + 2 * HOUR)
    assert forget(kept, BEGIN + 60 * HOUR, LIVE) == 0
    assert len(locate(kept, [places(59, "M1")], BEGIN + 60 * HOUR)) == 1
