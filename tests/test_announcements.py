"""Announced outages and work at meters without a runner: what they explain and hold, and the same in any order."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND
from ami_beam.records import (
    Alarm,
    AlarmInput,
    Announcement,
    GroupInput,
    Level,
    MeterPlaces,
    PowerEvent,
    TransformerPlace,
    Verdict,
)
from tests.shard import Shard, final
from tests.test_outages import DAY, METERS, SETTINGS, end_of, one, only, settled, told
from transforms.announcements import LEEWAY
from transforms.latest_announcements import KeptIds, last_words
from transforms.locate_events import KeptMeters, PowerNews, locate, locate_work
from transforms.publish_alarms import KeptGroup, update_group
from transforms.window_expiry import expiry

RELEASE = 75 + 15 + 15 + 5
"""Minutes of the day when an outage that was planned to end at 75 is no longer held: leeway, window and delay later."""
GROUP = "feeder/F1"


def minute(number: float) -> int:
    return DAY + int(number * MICROS_PER_MINUTE)


def outage(
    begins: float = 15, ends: float | None = 75, entity: str = "T1", kind: str = "PLANNED", active: bool = True,
    said: float = -600, name: str = "O1",
) -> Announcement:  # fmt: skip
    """Minutes of the day."""
    entity_type = "FEEDER" if entity.startswith("F") else "TRANSFORMER"
    end = None if ends is None else minute(ends)
    return Announcement(
        "oms", name, kind, active, entity_type, entity, None, minute(begins), end, minute(said), 0, 0, minute(said)
    )


def work(
    meter: str = "M0", begins: float = 15, ends: float = 75, active: bool = True, said: float = -600,
    transformer: str | None = "T1", name: str = "W1",
) -> Announcement:  # fmt: skip
    return Announcement(
        "work", name, "EXCHANGE", active, "METER", meter, transformer, minute(begins), minute(ends),
        minute(said), 0, 0, minute(said),
    )  # fmt: skip


class Grid(Shard):
    """A shard and its groups that are told of outages as the steps before them tell it."""

    def __init__(self, meters: int = 10, transformers: tuple[str, ...] = ("T1",)) -> None:
        super().__init__(SETTINGS)
        self.ids = KeptIds()
        places = [TransformerPlace(name, "F1", meters, SETTINGS.receipt_delay, end_of(0)) for name in transformers]
        self.take(AlarmInput(end_of(0), [], SETTINGS.receipt_delay, places=places))

    def announce(self, *announced: Announcement) -> Grid:
        for each in last_words(self.ids, announced):
            if each.entity_type == "FEEDER":
                self.publish(f"feeder/{each.entity_id}", GroupInput(announced=[each]))
            else:
                self.take(AlarmInput(0, [], announced=[each]))
        return self

    def until(self, minutes: float, seconds: int = 0) -> Grid:
        """Time passes."""
        at = minute(minutes) + seconds * MICROS_PER_SECOND
        for group in list(self.groups):
            self.publish(group, GroupInput(judged_up_to=at))
        return self

    def explanations(self, numbers: range, transformer_id: str = "T1") -> list[str | None]:
        """What explains the receipt alerts of these windows."""
        return [self.explanation(end_of(number), transformer_id) for number in numbers]

    def found(self) -> dict[tuple[str, str], tuple[str, str | None]]:
        """State and cause of what was published and not taken back."""
        return {(a.alarm_type, a.entity_id): (a.state, a.cause) for a in final(self.alarms).values()}


def out(transformer: str, at: float, restored: bool = False) -> AlarmInput:
    """All meters of a transformer say so."""
    events = [
        PowerEvent(f"{transformer}{meter}", transformer, restored, minute(at), minute(at) + 5) for meter in METERS
    ]
    return AlarmInput(0, [], events=events)


def violation(number: int, kind: str = "LOW_RECEIPT_RATE") -> AlarmInput:
    verdict = Verdict("T1", kind, Level.VIOLATION, 50.0, 5, None, 5, "F1", end_of(number), SETTINGS.receipt_delay)
    return AlarmInput(end_of(number), [verdict], SETTINGS.receipt_delay)


class TestPlanned:
    def test_what_is_over_in_time_is_never_published(self):
        grid = Grid().announce(outage())
        grid.take(told(METERS, 20))
        grid.until(60).take(told(METERS, 74, restored=True))
        assert grid.until(1000).alarms == []
        assert grid.kept.transformers["T1"].given["TRANSFORMER_OUTAGE"][0].state == "CLEARED"

    def test_what_lasts_longer_is_published_late_and_with_its_cause(self):
        grid = Grid().announce(outage())
        grid.take(told(METERS, 20))
        assert grid.until(RELEASE).alarms == []
        assert grid.groups[GROUP].look_again_at == minute(RELEASE) + MICROS_PER_SECOND
        opened = one(grid.until(RELEASE, seconds=1))
        assert (opened.state, opened.cause, opened.began_at) == ("ACTIVE", "oms:O1", minute(20))
        grid.take(told(METERS, RELEASE + 20, restored=True))
        assert (one(grid).state, one(grid).cause, len(grid.alarms)) == ("CLEARED", "oms:O1", 2)

    def test_it_may_begin_a_little_early_and_not_late(self):
        for at, cause in ((0.5, "oms:O1"), (-1, None), (74, "oms:O1"), (75, None)):
            grid = Grid().announce(outage())
            grid.take(told(METERS, at))
            assert one(grid.until(300)).cause == cause

    def test_windows_in_violation_are_held_until_one_begins_behind_it(self):
        grid = Grid().announce(outage())
        for number in range(2, 7):
            grid.take(violation(number))
        # Of the window to 90 it is not known when in it meters were heard again, and a quarter is leeway.
        assert grid.until(500).alarms == []
        grid.take(violation(7))
        assert (one(grid).cause, one(grid).first_window, one(grid).windows_in_violation) == ("oms:O1", end_of(2), 6)

    @pytest.mark.parametrize(("kind", "seen"), [("LOW_VOLTAGE", None), ("HIGH_VOLTAGE", "ACTIVE")])
    def test_no_lack_of_supply_lifts_a_voltage(self, kind, seen):
        grid = Grid().announce(outage())
        for number in range(2, 4):
            grid.take(violation(number, kind))
        assert grid.found() == ({} if seen is None else {(kind, "T1"): (seen, None)})

    def test_one_without_an_end_holds_for_a_day(self):
        grid = Grid().announce(outage(ends=None))
        grid.take(told(METERS, 20))
        assert grid.until(24 * 60).alarms == []
        assert one(grid.until(26 * 60)).cause == "oms:O1"

    def test_known_ones_are_a_cause_and_hold_nothing(self):
        grid = Grid().announce(outage(kind="KNOWN"))
        grid.take(told(METERS, 20))
        assert (one(grid).state, one(grid).cause) == ("ACTIVE", "oms:O1")

    def test_cancelled(self):
        grid = Grid().announce(outage())
        grid.take(told(METERS, 20))
        grid.announce(outage(active=False, said=30))
        assert (one(grid).state, one(grid).cause) == ("ACTIVE", None)
        # And again: it was seen by now.
        grid.announce(outage(said=40))
        assert (one(grid).cause, one(grid).revision) == ("oms:O1", 0)

    def test_of_several_the_one_that_holds_longest_is_the_cause(self):
        several = [
            outage(name="O1", kind="KNOWN", ends=500), outage(name="O2", ends=60), outage(name="O3", entity="F1"),
        ]  # fmt: skip
        for order in permutations(several):
            grid = Grid().announce(*order)
            grid.take(told(METERS, 20))
            assert grid.until(RELEASE).alarms == []
            assert one(grid.until(RELEASE, seconds=1)).cause == "oms:O3"

    def test_a_revised_end(self):
        grid = Grid().announce(outage())
        grid.take(told(METERS, 20))
        # Said when it was going on already, and it was announced before.
        grid.announce(outage(ends=135, said=70))
        assert grid.until(RELEASE + 60).alarms == []
        assert one(grid.until(RELEASE + 60, seconds=1)).cause == "oms:O1"

    def test_of_a_transformer_that_is_not_known_yet(self):
        grid = Grid(transformers=())
        grid.announce(outage())
        place = TransformerPlace("T1", "F1", 10, SETTINGS.receipt_delay, end_of(0))
        grid.take(told(METERS, 20))
        grid.take(AlarmInput(end_of(1), [], SETTINGS.receipt_delay, places=[place]))
        assert grid.until(RELEASE).alarms == []
        assert one(grid.until(200)).cause == "oms:O1"
        grid.announce(outage(active=False, said=210))
        assert one(grid).cause is None

    def test_it_is_forgotten_when_nothing_it_holds_can_come_any_more(self):
        settings = replace(SETTINGS, allowed_lateness=MICROS_PER_HOUR, max_disorder=MICROS_PER_HOUR)
        grid = Grid()
        grid._settings = settings
        grid.announce(outage())
        grid.take(told(METERS, 20))
        grid.take(told(METERS, 70, restored=True))
        for number in range(1, 200):
            grid.take(settled(number), watermark=end_of(number) + SETTINGS.receipt_delay)
            grid.publish(GROUP, GroupInput(), end_of(number))
            if number in (1, 2):
                assert grid.explanations(range(1, 7)) == [None, *["oms:O1"] * 4, None]
            elif end_of(number) <= expiry(settings, end_of(3)):
                # All meters were heard in the third window: the outage was over.
                assert grid.explanations(range(1, 7)) == [None, *["oms:O1"] * 2, *[None] * 3]
        assert (grid.alarms, grid.causes) == ([], {})
        assert not grid.kept.announced
        assert not grid.groups[GROUP].announced
        assert not grid.groups[GROUP].found


class TestExplained:
    """Alerts are published whatever is held, and explained by what holds their alarm."""

    def test_by_an_outage_that_is_held_until_it_is_over(self):
        grid = Grid().announce(outage())
        assert grid.explanations(range(1, 8)) == [None] * 7
        grid.take(told(METERS, 20))
        # While it goes on nobody knows how long it will.
        assert grid.explanations(range(1, 8)) == [None] + ["oms:O1"] * 6
        grid.take(told(METERS, 74, restored=True))
        assert grid.explanations(range(1, 8)) == [None, *["oms:O1"] * 4, None, None]
        assert grid.until(1000).alarms == []
        # Other types are not explained by an outage.
        assert grid.explanation(end_of(3), alert_type="LOW_VOLTAGE") is None

    def test_by_episodes_that_are_held_and_the_same_when_they_outlast_it(self):
        grid = Grid().announce(outage())
        for number in range(2, 7):
            grid.take(violation(number))
        assert (grid.alarms, grid.explanations(range(1, 9))) == ([], [None, *["oms:O1"] * 5, None, None])
        grid.take(violation(7))
        assert (one(grid).cause, grid.explanations(range(1, 9))) == ("oms:O1", [None, *["oms:O1"] * 6, None])

    def test_by_an_outage_that_outlasts_it_nothing_new_is_said(self):
        grid = Grid().announce(outage())
        grid.take(told(METERS, 20))
        before = dict(grid.causes)
        assert one(grid.until(RELEASE, seconds=1)).cause == "oms:O1"
        assert grid.causes == before

    def test_a_cancellation_takes_it_back_and_the_outage_itself_explains(self):
        grid = Grid().announce(outage())
        grid.take(told(METERS, 20))
        grid.announce(outage(active=False, said=30))
        assert grid.explanations(range(1, 4)) == [None] + [one(grid).alarm_id] * 2
        grid.announce(outage(said=40))
        assert grid.explanations(range(1, 4)) == [None, "oms:O1", "oms:O1"]
        grid = Grid().announce(outage())
        grid.take(violation(2), violation(3))
        assert grid.explanations(range(2, 4)) == ["oms:O1"] * 2
        # An episode that nothing explains is what its alerts say.
        grid.announce(outage(active=False, said=50))
        assert (one(grid).cause, grid.explanations(range(2, 4))) == (None, [None, None])

    def test_an_end_that_is_brought_forward_publishes_and_one_put_off_holds(self):
        for ends, published in ((40, 1), (200, 0)):
            grid = Grid().announce(outage())
            for number in range(2, 7):
                grid.take(violation(number))
            grid.announce(outage(ends=ends, said=95))
            assert (len(grid.alarms), grid.explanations(range(2, 7))) == (published, ["oms:O1"] * 5)

    def test_of_a_feeder_and_of_who_joins_its_outage(self):
        grid = Grid(transformers=("T1", "T2", "T3")).announce(outage(entity="F1"))
        grid.take(out("T1", 20), out("T2", 21))
        assert grid.alarms == []
        assert [grid.explanation(end_of(2), name) for name in ("T1", "T2", "T3")] == ["oms:O1", "oms:O1", None]
        grid.take(out("T3", RELEASE - 1))
        assert grid.explanation(end_of(9), "T3") == "oms:O1"

    def test_a_transformer_that_moves_to_another_feeder(self):
        grid = Grid().announce(outage())
        grid.take(told(METERS, 20))
        place = TransformerPlace("T1", "F2", 10, SETTINGS.receipt_delay, end_of(2))
        grid.take(AlarmInput(end_of(2), [], SETTINGS.receipt_delay, places=[place]))
        assert grid.explanations(range(1, 4)) == [None, "oms:O1", "oms:O1"]
        assert {group for _, _, group in grid.causes} == {"feeder/F2"}
        assert grid.alarms == []

    def test_state_of_before_is_read(self):
        grid = Grid().announce(outage())
        grid.take(told(METERS, 20))
        fields = msgspec.msgpack.decode(msgspec.msgpack.encode(grid.groups[GROUP]))
        older = fields[: KeptGroup.__struct_fields__.index("held")]
        kept = msgspec.msgpack.decode(msgspec.msgpack.encode(older), type=KeptGroup)
        assert (kept.held, kept.announced) == ([], grid.groups[GROUP].announced)
        # What is held is found when the group is looked at next.
        assert update_group(GROUP, kept, [GroupInput()], 0, SETTINGS) == []
        assert [each.cause for each in kept.held] == ["oms:O1"]


class TestLate:
    def test_an_alarm_that_was_seen_stays_and_has_its_cause(self):
        grid = Grid()
        grid.take(told(METERS, 20))
        grid.announce(outage(said=25))
        assert [(a.state, a.cause) for a in grid.alarms] == [("ACTIVE", None), ("ACTIVE", "oms:O1")]
        grid.take(told(METERS, 70, restored=True))
        assert [(a.state, a.cause) for a in grid.alarms[2:]] == [("CLEARED", "oms:O1")]

    def test_what_began_before_the_announcement_is_published_whatever_is_read_first(self):
        grid = Grid().announce(outage(said=25))
        grid.take(told(METERS, 20))
        assert (one(grid).state, one(grid).cause) == ("ACTIVE", "oms:O1")

    def test_an_alarm_of_a_lost_attempt_goes_on_with_its_cause(self):
        lost = Grid()
        lost.take(told(METERS, 20))
        (seen,) = lost.alarms
        grid = Grid().announce(outage())
        grid.take(told(METERS, 20))
        assert grid.alarms == []
        grid.publish(GROUP, GroupInput(published=[seen]))
        assert (one(grid).state, one(grid).cause, one(grid).windows_in_violation) == ("ACTIVE", "oms:O1", 1)
        grid.take(told(METERS, 70, restored=True))
        assert (one(grid).state, one(grid).cause) == ("CLEARED", "oms:O1")
        # And what was published of itself is no news.
        count = len(grid.alarms)
        grid.publish(GROUP, GroupInput(published=[grid.alarms[-1]]))
        assert len(grid.alarms) == count


class TestFeeder:
    def test_all_of_a_feeder_is_held_and_has_one_cause(self):
        grid = Grid(transformers=("T1", "T2", "T3")).announce(outage(entity="F1"))
        grid.take(out("T1", 20), out("T2", 21))
        assert grid.until(RELEASE).alarms == []
        # It joins the feeder's, after the announced end.
        grid.take(out("T3", RELEASE - 1))
        assert grid.found() == {("TRANSFORMER_OUTAGE", "T3"): ("ACTIVE", "oms:O1")}
        assert set(grid.until(RELEASE, seconds=1).found().items()) == {
            (("TRANSFORMER_OUTAGE", name), ("ACTIVE", "oms:O1")) for name in ("T1", "T2", "T3")
        } | {(("FEEDER_OUTAGE", "F1"), ("ACTIVE", "oms:O1"))}

    def test_transformers_that_are_planned_make_no_outage_of_a_section(self):
        grid = Grid(transformers=("T1", "T2", "T3"))
        grid.announce(outage(entity="T1"), outage(entity="T2", name="O2"))
        grid.take(out("T1", 20), out("T2", 21))
        assert grid.until(RELEASE).alarms == []
        grid.take(out("T3", 22))
        assert grid.found() == {("TRANSFORMER_OUTAGE", "T3"): ("ACTIVE", None)}

    def test_known_ones_do_not_take_a_section_apart(self):
        grid = Grid(transformers=("T1", "T2")).announce(outage(kind="KNOWN"))
        grid.take(out("T1", 20), out("T2", 21))
        (feeder,) = (each.alarm_id for each in final(grid.alarms).values() if each.entity_id == "F1")
        assert grid.found() == {
            ("TRANSFORMER_OUTAGE", "T1"): ("ACTIVE", "oms:O1"),
            ("TRANSFORMER_OUTAGE", "T2"): ("ACTIVE", feeder),
            ("FEEDER_OUTAGE", "F1"): ("ACTIVE", None),
        }

    def test_another_feeder_has_nothing_to_do_with_it(self):
        grid = Grid().announce(outage(entity="F2"))
        grid.take(told(METERS, 20))
        assert one(grid).cause is None


class TestWork:
    @pytest.mark.parametrize("said", [-600, 100])
    def test_what_a_meter_says_meanwhile_does_not_count(self, said):
        grid = Grid(meters=3).announce(work(said=said))
        grid.take(told(METERS[:3], 20))
        assert grid.alarms == []
        # The other two and the silence of all are no outage of three either.
        silent = AlarmInput(end_of(3), [], SETTINGS.receipt_delay, silent=["T1"])
        grid.take(settled(2), silent)
        assert grid.alarms == []
        grid.announce(work(said=said + 1, active=False))
        assert (one(grid).meters_in_violation, one(grid).began_at) == (3, minute(20))

    def test_zero_volts_meanwhile_and_behind_it(self):
        dead = tuple(METERS[:3])
        grid = Grid(meters=3).announce(*(work(meter, name=meter) for meter in METERS[:3]))
        grid.take(settled(1), *(settled(number, only(number, [], dead)) for number in range(2, 7)))
        assert grid.alarms == []
        grid.take(settled(7, only(7, [], dead)))
        assert (one(grid).state, one(grid).began_at, one(grid).cause) == ("ACTIVE", end_of(7), None)

    def test_a_single_meter(self):
        grid = Grid(meters=1).announce(work())
        grid.take(told(METERS[:1], 20), settled(2), settled(3, only(3, [], ("M0",))))
        assert grid.alarms == []
        # Without supply behind it: late, and with what it comes from.
        for number in range(4, 8):
            grid.take(settled(number, only(number, [], ("M0",))))
        assert (one(grid).alarm_type, one(grid).began_at, one(grid).cause) == ("SINGLE_OUTAGE", end_of(7), "work:W1")

    def test_other_meters_and_other_times_count(self):
        grid = Grid(meters=3).announce(work())
        grid.take(told(METERS[:3], 15 - LEEWAY // MICROS_PER_MINUTE - 1))
        assert one(grid).meters_in_violation == 3
        grid = Grid().announce(work())
        grid.take(told(METERS[:4], 20))
        assert one(grid).meters_in_violation == 3

    def test_it_follows_the_meter(self):
        kept = KeptMeters()

        def take(*news: PowerNews) -> list[tuple[str, str, bool]]:
            assert locate(kept, news) == []
            found = [(to, each.entity_id, each.active) for to, each in locate_work(kept, news)]
            encoded = msgspec.msgpack.encode(kept)
            kept.work = msgspec.msgpack.decode(encoded, type=KeptMeters).work
            return found

        unplaced = work(transformer=None)
        assert take(PowerNews(None, [], work=[unplaced])) == []
        assert take(PowerNews(MeterPlaces(end_of(1), ["M0"], ["T1"], {"T1": "F1"}), [])) == [("T1", "M0", True)]
        assert (
            take(
                PowerNews(MeterPlaces(end_of(2), ["M0"], ["T1"], {"T1": "F1"}), []),
                PowerNews(None, [], work=[unplaced]),
            )
            == []
        )
        assert take(PowerNews(MeterPlaces(end_of(3), ["M0"], ["T2"], {"T2": "F1"}), [])) == [
            ("T1", "M0", False),
            ("T2", "M0", True),
        ]
        assert take(PowerNews(None, [], work=[work(transformer="T3", said=0)])) == [
            ("T2", "M0", False),
            ("T3", "M0", True),
        ]
        assert take(PowerNews(None, [], work=[work(transformer="T3", said=1, active=False)])) == [("T3", "M0", False)]


class TestLastWord:
    def test_in_any_order(self):
        said = [
            outage(said=-10), outage(said=-5, ends=100), outage(entity="T2", said=-3), outage(entity="F1", said=-1),
            outage(entity="T2", said=-2, name="O2"), work(name="O1"),
        ]  # fmt: skip
        for order in permutations(said):
            kept, last = KeptIds(), {}
            for each in order:
                for word in last_words(kept, [each]):
                    last[word.subject] = word
                kept = msgspec.msgpack.decode(msgspec.msgpack.encode(kept), type=KeptIds)
            assert {name for name, each in last.items() if each.active} == {
                "FEEDER/F1/oms:O1", "TRANSFORMER/T2/oms:O2", "METER/M0/work:O1",
            }  # fmt: skip
            assert last["FEEDER/F1/oms:O1"].announced_at == minute(-10)

    def test_the_same_again_is_no_news(self):
        kept = KeptIds()
        assert len(last_words(kept, [outage()])) == 1
        assert last_words(kept, [outage(), outage(said=-700)]) == [replaced(outage(), announced_at=minute(-700))]
        assert last_words(kept, [outage(), outage(said=-650)]) == []


def replaced(announced: Announcement, **fields: int) -> Announcement:
    return msgspec.structs.replace(announced, **fields)


SAID = st.builds(
    outage,
    begins=st.integers(-30, 100), ends=st.integers(101, 160), entity=st.sampled_from(["T1", "T2", "F1"]),
    kind=st.sampled_from(["PLANNED", "KNOWN"]), active=st.booleans(), said=st.integers(-50, 120),
    name=st.sampled_from(["O1", "O2"]),
)  # fmt: skip
AT_METERS = st.builds(
    work,
    meter=st.sampled_from(METERS[:4]), begins=st.integers(-30, 60), ends=st.integers(61, 160), active=st.booleans(),
    said=st.integers(-50, 120), name=st.sampled_from(["W1", "W2"]),
)  # fmt: skip
POWER = st.builds(
    told, st.sets(st.sampled_from(METERS), min_size=2).map(sorted), st.integers(1, 120), st.booleans(),
    st.sampled_from([0.1, 10.0]),
)  # fmt: skip
OTHERS = st.builds(out, st.just("T2"), st.integers(1, 120), st.booleans())


@hypothesis_settings(deadline=None)
@given(
    st.lists(SAID | AT_METERS, max_size=6, unique_by=lambda each: (each.name, each.record_time)),
    st.lists(POWER | OTHERS | st.builds(violation, st.integers(1, 9)), max_size=10),
    st.randoms(use_true_random=False),
)
def test_the_end_does_not_depend_on_the_order(said, others, random):
    """Who is told of an outage too late has seen an alarm that is held otherwise, and sees its cause; no more.

    What explains alerts is the same, whether their alarm is held or was seen.
    """
    windows = [settled(number) for number in range(1, 12)]
    first = Grid(transformers=("T1", "T2")).announce(*sorted(said, key=lambda each: each.version))
    for each in (*others, *windows):
        first.take(each)
    shuffled = Grid(transformers=("T1", "T2"))
    mixed = [*said, *others, *windows, *random.choices([*others, *windows], k=2)]
    random.shuffle(mixed)
    for each in mixed:
        if isinstance(each, Announcement):
            shuffled.announce(each)
        else:
            shuffled.take(each)
    expected = final(first.until(200).alarms)
    found = final(shuffled.until(200).alarms)
    assert {name: found.get(name) for name in expected} == expected
    assert all(is_announced(alarm) for name, alarm in found.items() if name not in expected)
    assert shuffled.causes == first.causes


def is_announced(alarm: Alarm) -> bool:
    return alarm.cause is not None and alarm.cause.startswith("oms:")
