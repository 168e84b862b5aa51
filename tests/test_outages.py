"""Outages without a runner: who loses supply together, and the same whatever was said in which order."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND
from ami_beam.records import Alarm, AlarmInput, GroupInput, PowerEvent, SupplyNote, TransformerPlace
from ami_beam.settings import Settings
from tests.shard import Shard, final
from transforms.alarm_episodes import feeder_group
from transforms.outages import Member, needed, outages
from transforms.published_alarms import group_of
from transforms.supply_notes import pack_notes

SETTINGS = Settings(live=True)
SIZE = SETTINGS.window
DAY = 1_772_496_000_000_000
METERS = [f"M{number}" for number in range(10)]


def member(name: str, at: float, until: float | None, weight: int = 1) -> Member:
    """Minutes."""
    end = None if until is None else int(until * MICROS_PER_MINUTE)
    return Member(name, int(at * MICROS_PER_MINUTE), end, weight, 0)


def spans(members: list[Member], need: int) -> list[tuple[float, float | None, int]]:
    return [
        (each.began_at / MICROS_PER_MINUTE, each.ended_at and each.ended_at / MICROS_PER_MINUTE, each.most)
        for each in outages(members, need)
    ]


class TestTogether:
    @pytest.mark.parametrize(
        ("meters", "need"), [(1, 1), (2, 1), (3, 3), (4, 3), (10, 3), (11, 4), (20, 6), (60, 18), (1000, 300)]
    )
    def test_three_meters_and_thirty_per_cent(self, meters, need):
        assert needed(meters) == need

    def test_within_five_minutes(self):
        assert spans([member("a", 0, None), member("b", 4, None), member("c", 5, None)], 3) == [(0, None, 3)]
        assert spans([member("a", 0, None), member("b", 4, None), member("c", 5.1, None)], 3) == []
        # The same meter twice is one.
        assert spans([member("a", 0, 1), member("a", 2, None), member("b", 3, None)], 3) == []

    def test_it_is_over_when_fewer_than_it_takes_are_out(self):
        several = [member("a", 0, 10), member("b", 0, 30), member("c", 0, 40), member("d", 1, 20)]
        assert spans(several, 3) == [(0, 20, 4)]

    def test_who_loses_supply_later_joins_and_makes_it_last(self):
        several = [member("a", 0, 10), member("b", 0, 10), member("c", 0, 10), member("d", 9, 60), member("e", 8, 60)]
        assert spans([*several, member("f", 7, 60)], 3) == [(0, 60, 6)]
        assert spans(several, 3) == [(0, 10, 5)]

    def test_another_one_after_the_end(self):
        first = [member(name, 0, 10) for name in "abc"]
        assert spans([*first, *(member(name, 11, 12) for name in "abc")], 3) == [(0, 10, 3), (11, 12, 3)]

    def test_weights_count(self):
        assert spans([member("a", 0, 10, 4), member("b", 3, 20, 3)], 6) == [(0, 10, 7)]

    @given(
        st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 40), st.none() | st.integers(1, 30)), max_size=12),
        st.randoms(use_true_random=False),
    )
    def test_any_order(self, drawn, random):
        members = [member(name, at, None if lasts is None else at + lasts) for name, at, lasts in drawn]
        shuffled = list(members)
        random.shuffle(shuffled)
        assert outages(shuffled, 3) == outages(members, 3)
        ended = None
        for each in outages(members, 3):
            assert ended is None or each.began_at >= ended
            assert each.most >= 3
            assert each.ended_at is None or each.ended_at >= each.began_at
            ended = each.ended_at


def end_of(number: int) -> int:
    return DAY + number * SIZE


def settled(number: int, *notes: SupplyNote) -> AlarmInput:
    return AlarmInput(end_of(number), [], SETTINGS.receipt_delay, notes=pack_notes(list(notes)))


def only(number: int, meters: list[str], dead: tuple[str, ...] = ()) -> SupplyNote:
    """What a window says in which only these meters are shown to have supply."""
    return SupplyNote("T1", False, sorted(meters), list(dead), end_of(number) + MICROS_PER_MINUTE)


def told(meters: list[str], minutes: float, restored: bool = False, late: float = 0.1) -> AlarmInput:
    at = DAY + int(minutes * MICROS_PER_MINUTE)
    arrived = at + int(late * MICROS_PER_MINUTE)
    return AlarmInput(0, [], events=[PowerEvent(meter_id, "T1", restored, at, arrived) for meter_id in meters])


def hangs(number: int, feeder_id: str) -> AlarmInput:
    """The transformer is on this feeder by this window."""
    place = TransformerPlace("T1", feeder_id, 10, SETTINGS.receipt_delay, end_of(number))
    return AlarmInput(end_of(number), [], places=[place])


def shard(settings: Settings = SETTINGS, meters: int = 10) -> Shard:
    made = Shard(settings)
    place = TransformerPlace("T1", "F1", meters, settings.receipt_delay, end_of(0))
    made.take(AlarmInput(end_of(0), [], settings.receipt_delay, places=[place]))
    return made


def one(of: Shard) -> Alarm:
    (alarm,) = final(of.alarms).values()
    return alarm


class TestTransformer:
    def test_momentary(self):
        grid = shard()
        grid.take(told(METERS, 20))
        grid.take(told(METERS, 21, restored=True))
        assert (one(grid).momentary, one(grid).state, one(grid).meters_in_violation) == (True, "CLEARED", 10)

    def test_several_in_one_window_are_one(self):
        grid = shard()
        for minute in (20, 22, 24):
            grid.take(told(METERS, minute))
            grid.take(told(METERS, minute + 0.5, restored=True))
        found = one(grid)
        assert (found.began_at, found.ended_at) == (DAY + 20 * MICROS_PER_MINUTE, DAY + int(24.5 * MICROS_PER_MINUTE))
        assert found.momentary is True

    def test_an_event_that_came_an_hour_late_opens_none(self):
        grid = shard()
        grid.take(told(METERS, 20, late=61))
        assert grid.alarms == []
        grid.take(told(METERS, 20, late=59))
        assert one(grid).state == "ACTIVE"

    def test_not_known_after_a_day_and_never_cleared(self):
        grid = shard()
        grid.take(told(METERS, 20))
        for number in range(1, 120):
            grid.take(AlarmInput(end_of(number), [], SETTINGS.receipt_delay, silent=["T1"]))
        assert (one(grid).state, one(grid).ended_at) == ("UNKNOWN", None)

    def test_long_ago_is_forgotten_and_what_goes_on_is_not(self):
        settings = replace(SETTINGS, allowed_lateness=MICROS_PER_HOUR, max_disorder=MICROS_PER_HOUR)
        grid = shard(settings)
        grid.take(told(METERS, 20))
        grid.take(told(METERS, 50, restored=True))
        for number in range(1, 400):
            # A meter is missing in every window: what reads show is said, and forgotten.
            note = only(number, METERS[:9])
            grid.take(settled(number, note), watermark=end_of(number) + SETTINGS.receipt_delay)
        assert one(grid).state == "CLEARED"
        assert len(msgspec.msgpack.encode(grid.kept)) < 2_000
        grid.publish("feeder/F1", GroupInput(), end_of(399))
        assert not grid.groups["feeder/F1"].found
        grid.take(told(METERS, 400 * 15))
        for number in range(401, 500):
            silent = AlarmInput(end_of(number), [], SETTINGS.receipt_delay, silent=["T1"])
            grid.take(silent, watermark=end_of(number) + SETTINGS.receipt_delay)
        grid.take(told(METERS, 500 * 15, restored=True))
        last = max(final(grid.alarms).values(), key=lambda alarm: alarm.first_window)
        assert (last.state, last.began_at, last.ended_at) == ("CLEARED", end_of(400), end_of(500))

    @pytest.mark.parametrize("meters", [2, 10])
    @pytest.mark.parametrize("dead", [False, True])
    def test_one_that_is_over_stays_so_when_it_is_forgotten_before_the_next(self, meters, dead):
        """What reads have ended must not seem to last until the first window that is still known."""
        settings = replace(SETTINGS, allowed_lateness=MICROS_PER_HOUR, max_disorder=MICROS_PER_HOUR)
        grid = shard(settings, meters)
        names = METERS[:meters]
        first, second, third = range(2, 6), range(12, 31), range(33, 40)
        for number in range(1, 80):
            out = any(number in each for each in (first, second, third))
            if number == first[0] and not dead:
                grid.take(told(names, first[0] * 15 - 10))
            if number == second[0]:
                grid.take(told(names, second[0] * 15 - 10))
            if number == second[-1] + 1:
                grid.take(told(names, second[-1] * 15 + 5, restored=True))
            notes = [] if not out else [only(number, [], tuple(names) if dead or number in third else ())]
            grid.take(settled(number, *notes), watermark=end_of(number) + SETTINGS.receipt_delay)
        found = sorted((alarm.began_at, alarm.ended_at, alarm.state) for alarm in final(grid.alarms).values())
        begins = [end_of(first[0]) if dead else DAY + (first[0] * 15 - 10) * MICROS_PER_MINUTE]
        begins += [DAY + (second[0] * 15 - 10) * MICROS_PER_MINUTE, end_of(third[0])]
        ends = [end_of(first[-1] + 1), end_of(second[-1]) + 5 * MICROS_PER_MINUTE, end_of(third[-1] + 1)]
        assert found == [(begin, end, "CLEARED") for begin, end in zip(begins, ends, strict=True)]
        assert len(grid.alarms) == 6

    @given(
        st.lists(
            st.tuples(
                st.integers(1, 25), st.sets(st.sampled_from(METERS[:4])), st.booleans(), st.booleans(), st.booleans()
            ),
            min_size=2,
            max_size=8,
        ),
        st.integers(1, 4),
    )
    @example(
        # A note that is kept for a loss that goes on was taken for a window without any supply.
        [
            (1, set(), False, False, False),
            (1, {"M0"}, False, False, True),
            (1, {"M0", "M1", "M2", "M3"}, False, False, True),
            (14, {"M0", "M1"}, False, False, False),
        ],
        4,
    )
    @example(
        # Who was shown to have supply all day has lost it with who says so, not with who lost it in the morning.
        [
            (1, set(), False, False, False),
            (1, {"M0", "M1"}, False, False, True),
            (12, {"M0"}, False, False, False),
            (1, {"M0", "M1"}, False, False, False),
            (1, {"M0", "M1", "M2"}, True, False, False),
        ],
        3,
    )
    @example(
        # Who says nothing and is shown without supply only hours later was without it all the time.
        [
            (1, {"M0"}, False, False, False),
            (1, {"M0", "M1", "M2"}, True, False, False),
            (1, {"M0", "M1", "M2"}, False, False, False),
            (1, {"M0", "M1", "M2"}, False, False, True),
            (12, set(), False, False, False),
        ],
        3,
    )
    @example(
        [(1, {"M0", "M1", "M2"}, False, False, True), (14, {"M0"}, False, False, False),
         (3, {"M0", "M1", "M2", "M3"}, False, False, True), (13, {"M0", "M1"}, False, False, False),
         (1, set(), False, False, False)],
        4,
    )  # fmt: skip
    def test_what_is_forgotten_changes_nothing(self, stretches, meters):
        """For so many windows these are out: whether they say so, say so when they are back, and send zero volts."""
        settings = replace(SETTINGS, allowed_lateness=MICROS_PER_HOUR, max_disorder=MICROS_PER_HOUR)
        names = set(METERS[:meters])

        def found(forget: bool) -> set[tuple[object, ...]]:
            grid, number, before = shard(settings, meters), 1, set()
            for length, which, tells, tells_back, dead in stretches:
                out = which & names
                if tells and out - before:
                    grid.take(told(sorted(out - before), number * 15 - 10))
                if tells_back and before - out:
                    grid.take(told(sorted(before - out), number * 15 - 9, restored=True))
                for _ in range(length):
                    notes = [only(number, sorted(names - out), tuple(sorted(out)) if dead else ())] if out else []
                    heard = settled(number, *notes)
                    if out == names and not dead:
                        heard = AlarmInput(end_of(number), [], SETTINGS.receipt_delay, silent=["T1"])
                    grid.take(heard, watermark=(end_of(number) + SETTINGS.receipt_delay) * forget)
                    number += 1
                before = out
            return {
                (a.first_window, a.state, a.began_at, a.ended_at, a.meters_in_violation, a.momentary)
                for a in final(grid.alarms).values()
            }

        assert found(True) == found(False)

    def test_a_section_is_known_until_the_last_of_it_has_supply(self):
        """Of an outage that goes on, what is over for days is a part of it all the same."""
        settings = replace(SETTINGS, allowed_lateness=MICROS_PER_HOUR, max_disorder=MICROS_PER_HOUR)
        grid = shard(settings)
        for name in (f"T{number}" for number in range(2, 13)):
            place = TransformerPlace(name, "F1", 10, settings.receipt_delay, end_of(0))
            grid.take(AlarmInput(end_of(0), [], settings.receipt_delay, places=[place]))

        def say(transformer_id: str, minutes: int, restored: bool = False) -> None:
            events = told(METERS, minutes, restored).events
            grid.take(
                AlarmInput(0, [], events=[msgspec.structs.replace(e, transformer_id=transformer_id) for e in events])
            )

        for name in ("T1", "T2", "T3"):
            say(name, 20)
        say("T1", 50, restored=True)
        for number in range(3, 60):
            silent = AlarmInput(end_of(number), [], SETTINGS.receipt_delay, silent=["T2", "T3"])
            grid.take(silent, watermark=end_of(number) + SETTINGS.receipt_delay)
            grid.publish("feeder/F1", GroupInput(), end_of(number) + SETTINGS.receipt_delay)
        for name in ("T2", "T3"):
            say(name, 60 * 15, restored=True)
        section, *others = (each for each in final(grid.alarms).values() if each.alarm_type == "SECTION_OUTAGE")
        assert (section.state, section.ended_at, section.meters_in_violation, others) == ("CLEARED", end_of(60), 30, [])

    def test_a_silence_of_hours_after_a_single_loss_is_no_outage(self):
        """A customer's main switch, and a dead collector: the others were shown to have supply in between."""
        for lit in (True, False):
            grid = shard()
            grid.take(told(["M0"], 20))
            for number in range(2, 12):
                dark = number > 8 or (number > 2 and not lit)
                silent = AlarmInput(end_of(number), [], SETTINGS.receipt_delay, silent=["T1"])
                grid.take(silent if dark else settled(number, only(number, METERS[1:])))
            assert [alarm.meters_in_violation for alarm in grid.alarms[-1:]] == ([] if lit else [10])

    def test_who_could_not_say_so_is_out_when_nothing_is_heard(self):
        grid = shard(meters=3)
        grid.take(told(METERS[:2], 20))
        assert grid.alarms == []
        silent = AlarmInput(end_of(3), [], SETTINGS.receipt_delay, silent=["T1"])
        grid.take(settled(2), silent)
        opened = one(grid)
        assert (opened.state, opened.meters_in_violation, opened.worst_meter_id) == ("ACTIVE", 3, "M0")
        assert opened.began_at == DAY + 20 * MICROS_PER_MINUTE
        grid.take(told(METERS[:2], 50, restored=True))
        assert (one(grid).state, one(grid).ended_at) == ("CLEARED", DAY + 50 * MICROS_PER_MINUTE)
        # One of them is dead and sends reads: none is shown to have supply.
        grid = shard(meters=3)
        grid.take(told(METERS[:1], 20), settled(2), settled(3, only(3, [], ("M1",))))
        assert (one(grid).meters_in_violation, one(grid).began_at) == (3, DAY + 20 * MICROS_PER_MINUTE)
        # Heard again before any meter says so.
        grid = shard(meters=3)
        grid.take(told(METERS[:2], 20), settled(2), silent, settled(4))
        assert (one(grid).state, one(grid).ended_at) == ("CLEARED", end_of(4))

    def test_a_note_is_taken_back(self):
        grid = shard()
        dead = only(2, [], tuple(METERS[:5]))
        grid.take(settled(1), settled(2, dead), settled(3, dead))
        assert one(grid).state == "ACTIVE"
        well = SupplyNote("T1", True, [], [], end_of(5))
        grid.take(
            AlarmInput(end_of(2), [], notes=pack_notes([well])), AlarmInput(end_of(3), [], notes=pack_notes([well]))
        )
        assert final(grid.alarms) == {}

    def test_a_move_to_another_feeder_takes_the_alarm_along(self):
        grid = shard()
        grid.take(told(METERS, 20))
        grid.take(hangs(2, "F2"))
        grid.take(told(METERS, 50, restored=True))
        last = grid.alarms[-1]
        assert (last.feeder_id, last.state) == ("F2", "CLEARED")
        assert {alarm.alarm_id for alarm in grid.alarms} == {last.alarm_id}
        assert not grid.groups["feeder/F1"].found

    def test_after_a_move_its_former_feeder_has_no_word_in_it(self):
        grid = shard()
        grid.take(told(METERS, 20))
        (first,) = grid.alarms
        grid.take(hangs(2, "F2"))
        assert [alarm.feeder_id for alarm in grid.alarms] == ["F1", "F2"]
        # What it has published is read back only now.
        grid.publish("feeder/F1", GroupInput(published=[first]))
        assert len(grid.alarms) == 2
        grid.take(hangs(3, "F1"))
        last = grid.alarms[-1]
        lost = msgspec.structs.replace(last, state="CLEARED", revision=7)
        grid.publish("feeder/F1", GroupInput(published=[lost]))
        assert (grid.alarms[-1].state, grid.alarms[-1].feeder_id, grid.alarms[-1].revision) == ("ACTIVE", "F1", 8)
        grid.take(hangs(4, "F2"))
        assert grid.groups["feeder/F1"].moved.keys() == {"T1"}
        for number in range(5, 400):
            grid.publish("feeder/F1", GroupInput(), end_of(number))
        assert not grid.groups["feeder/F1"].moved

    def test_an_alarm_that_is_none_any_more_when_it_moves_is_taken_back(self):
        grid = shard()
        grid.take(told(METERS, 20))
        # It began a window earlier, so that it is another alarm.
        grid.take(hangs(2, "F2"), told(METERS, 10, late=15))
        first, *_, last = sorted(grid.alarms, key=lambda alarm: (alarm.first_window, alarm.revision))
        assert (first.feeder_id, first.state, first.first_window) == ("F2", "ACTIVE", end_of(1))
        assert (last.feeder_id, last.state, last.windows_in_violation) == ("F2", "CLEARED", 0)

    @given(
        st.lists(
            st.integers(1, 5)
            | st.tuples(
                st.lists(st.sampled_from(["F1", "F2", "F3"]), max_size=3),
                st.sets(st.sampled_from(METERS), min_size=2).map(sorted),
                st.integers(1, 120),
                st.booleans(),
                st.sampled_from([0.1, 10.0, 70.0]),
            ),
            max_size=20,
        )
    )
    def test_consumers_end_with_what_is_the_case_wherever_it_hangs(self, steps):
        """It moves while events come, and what was published is read back whenever that may be."""
        grid = shard()
        window = read = 0
        # In the end all of it is read back, what is published for that included.
        for step in (*steps, *[5] * 200):
            if isinstance(step, int):
                for alarm in grid.alarms[read : read + step]:
                    grid.publish(group_of(alarm), GroupInput(published=[alarm]))
                    read += 1
                continue
            feeders, meters, minute, restored, late = step
            numbered = [hangs(number, feeder) for number, feeder in enumerate(feeders, window + 1)]
            window += len(feeders)
            grid.take(*numbered, told(meters, minute, restored, late))
        assert read == len(grid.alarms)
        assert [key for key, kept in grid.groups.items() if kept.places] == [feeder_group(grid.places["T1"].feeder_id)]
        last: dict[str, Alarm] = {}
        for alarm in grid.alarms:
            if alarm.alarm_id not in last or alarm.as_of >= last[alarm.alarm_id].as_of:
                last[alarm.alarm_id] = alarm
        known = grid.kept.transformers["T1"].given if grid.kept.transformers else {}
        assert {name: (a.feeder_id, a.state, a.ended_at) for name, a in last.items() if a.windows_in_violation} == {
            a.alarm_id: (a.feeder_id, a.state, a.ended_at) for several in known.values() for a in several
        }

    @given(
        st.lists(
            st.tuples(st.integers(0, 9), st.integers(1, 120), st.booleans(), st.sampled_from([0.1, 10, 70])),
            max_size=25,
        ),
        st.lists(
            st.tuples(
                st.integers(1, 9), st.sets(st.sampled_from(METERS)), st.sets(st.sampled_from(METERS[:5])), st.booleans()
            ),
            max_size=8,
            unique_by=lambda each: each[0],
        ),
        st.randoms(use_true_random=False),
    )
    def test_the_end_does_not_depend_on_the_order(self, events, notes, random):
        """Events, windows and where the transformer stands, in any order, in any portions, repeated."""
        by_window = {number: (supplied - dead, dead, all_but) for number, supplied, dead, all_but in notes}
        news = [told([METERS[meter]], minute, restored, late) for meter, minute, restored, late in events]
        for number in range(1, 10):
            if number in by_window:
                supplied, dead, all_but = by_window[number]
                named = sorted(set(METERS) - supplied if all_but else supplied)
                note = SupplyNote("T1", all_but, named, sorted(dead), end_of(number) + MICROS_PER_SECOND)
                news.append(AlarmInput(end_of(number), [], notes=pack_notes([note])))
            news.append(settled(number))
        in_order = shard()
        for each in news:
            in_order.take(each)
        mixed = [*news, *random.choices(news, k=3)]
        random.shuffle(mixed)
        shuffled = Shard(SETTINGS)
        place = TransformerPlace("T1", "F1", 10, SETTINGS.receipt_delay, end_of(0))
        mixed.insert(random.randint(0, len(mixed)), AlarmInput(end_of(0), [], SETTINGS.receipt_delay, places=[place]))
        while mixed:
            size = random.randint(1, 4)
            portion, mixed = mixed[:size], mixed[size:]
            shuffled.take(*portion)
        assert final(shuffled.alarms) == final(in_order.alarms)
