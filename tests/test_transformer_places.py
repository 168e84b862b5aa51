"""In which windows it is said where meters and transformers stand."""

from __future__ import annotations

from itertools import pairwise

from ami_beam.instants import MICROS_PER_MINUTE
from ami_beam.records import MeterVoltages, StatisticsBatch
from ami_beam.settings import Settings
from transforms.transformer_places import EVERY_WINDOWS, SMALL, TURNS, PlacesToSay

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


def test_meters_of_a_large_network_are_said_one_shard_after_the_other() -> None:
    to_say = PlacesToSay(Settings(live=True))
    numbers = range(2 * EVERY_WINDOWS)
    said = {shard: {n for n in numbers if to_say.names_meters(shard, window(n))} for shard in range(EVERY_WINDOWS)}
    # The first window is perhaps not whole.
    assert all(any(1 <= n <= TURNS for n in windows) for windows in said.values())
    shards = [sum(n in windows for windows in said.values()) for n in numbers]
    assert shards[0] == 1  # whose turn it is by the clock
    assert max(shards) <= EVERY_WINDOWS // TURNS + 1
    assert sum(shards[TURNS + 1 :]) == len(numbers[TURNS + 1 :])
    # Every place is said again within a day's quarter, whenever the worker has begun.
    for windows in said.values():
        assert max(later - earlier for earlier, later in pairwise(sorted(windows))) <= EVERY_WINDOWS


def test_a_small_network_and_a_replay_are_said_whole() -> None:
    assert all(PlacesToSay(Settings(live=True)).names(0, window(number, SMALL)) for number in range(30))
    assert all(PlacesToSay(Settings(live=False)).names(0, window(number)) for number in range(30))
    assert all(PlacesToSay(Settings(live=True)).names_meters(1, window(number, SMALL)) for number in range(30))
    assert all(PlacesToSay(Settings(live=False)).names_meters(1, window(number)) for number in range(30))
