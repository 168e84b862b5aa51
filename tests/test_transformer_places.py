"""In which windows it is said where meters and transformers stand."""

from __future__ import annotations

from ami_beam.instants import MICROS_PER_MINUTE
from ami_beam.records import MeterVoltages, StatisticsBatch
from ami_beam.settings import Settings
from transforms.transformer_places import EVERY_WINDOWS, SMALL, PlacesToSay

WINDOW = 15 * MICROS_PER_MINUTE
FIRST = (1_000 * EVERY_WINDOWS + 1) * WINDOW


def window(number: int, meters: int = SMALL + 1) -> StatisticsBatch:
    return StatisticsBatch(FIRST + number * WINDOW, [], MeterVoltages(["M"] * meters, b"", [], b""))


def test_a_large_network_is_said_at_the_start_and_then_now_and_then() -> None:
    to_say = PlacesToSay(Settings(live=True))
    said = [number for number in range(2 * EVERY_WINDOWS) if to_say.names(0, window(number))]
    assert said == [0, 1, EVERY_WINDOWS - 1, 2 * EVERY_WINDOWS - 1]


def test_revisions_of_the_first_windows_are_said_and_shards_have_their_own() -> None:
    to_say = PlacesToSay(Settings(live=True))
    assert [to_say.names(0, window(number)) for number in (0, 1, 2, 0, 1, 2)] == [True, True, False, True, True, False]
    assert to_say.names(1, window(2))


def test_a_small_network_and_a_replay_are_said_whole() -> None:
    assert all(PlacesToSay(Settings(live=True)).names(0, window(number, SMALL)) for number in range(30))
    assert all(PlacesToSay(Settings(live=False)).names(0, window(number)) for number in range(30))
