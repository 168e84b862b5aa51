"""When an alarm begins and ends: the fold over windows, and a shard's alarms whatever came in which order."""

from __future__ import annotations

import itertools

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MINUTE
from ami_beam.records import Alarm, AlarmInput, GroupInput, Level, TransformerPlace, Verdict
from ami_beam.settings import Settings
from tests.shard import Shard, final
from transforms.alarm_episodes import own_group
from transforms.episodes import Progress, Rules, Window, follow

SETTINGS = Settings(live=True)
SIZE = SETTINGS.window
DELAY = SETTINGS.receipt_delay
GROUP = own_group("T1")
DAY = 1_772_496_000_000_000
RULES = Rules(2, 2, lowest_is_worst=True)
LETTERS = {"v": Level.VIOLATION, "c": Level.CLEAR, "b": Level.BAND, "?": Level.UNKNOWN}


def verdict(level: Level, value: float = 200.0, **fields) -> Verdict:
    if level != Level.VIOLATION:
        return Verdict("T1", "LOW_VOLTAGE", level, receipt_delay=DELAY)
    return Verdict("T1", "LOW_VOLTAGE", level, value, receipt_delay=DELAY, **fields)


def windows(text: str) -> list[Window]:
    """One window a letter."""
    return [
        (number, LETTERS[letter], verdict(Level.VIOLATION) if letter == "v" else None)
        for number, letter in enumerate(text)
    ]


def spans(text: str) -> list[tuple[int, int, int, int | None]]:
    """(first, last, windows in violation, ended at) of every episode, the open one last."""
    progress, episodes = follow(Progress(), windows(text), RULES)
    if progress.open is not None:
        episodes.append(progress.open)
    return [(each.first_window, each.last_window, each.windows, each.ended_at) for each in episodes]


class TestFold:
    def test_two_in_a_row_open_and_two_clear_in_a_row_close(self):
        assert spans("cvc") == []
        assert spans("cvv") == [(1, 2, 2, None)]
        assert spans("vvvcc") == [(0, 2, 3, 4)]
        assert spans("vvcvc") == [(0, 3, 3, None)]

    def test_the_deadband_neither_opens_nor_closes(self):
        assert spans("vbv") == []
        assert spans("vvbbbb") == [(0, 1, 2, None)]
        assert spans("vvcbc") == [(0, 1, 2, None)]
        assert spans("vvcbcc") == [(0, 1, 2, 5)]

    def test_what_was_not_measured_is_passed_over(self):
        assert spans("v???v") == [(0, 4, 2, None)]
        assert spans("vv?c?c?") == [(0, 1, 2, 5)]

    def test_another_episode_after_the_end(self):
        assert spans("vvccvvv") == [(0, 1, 2, 3), (4, 6, 3, None)]

    def test_evidence_is_that_of_the_worst(self):
        sagging = [
            (1, Level.VIOLATION, verdict(Level.VIOLATION, 205.0, meters_in_violation=3, worst_meter_id="M3", as_of=30)),
            (2, Level.VIOLATION, verdict(Level.VIOLATION, 190.0, meters_in_violation=1, worst_meter_id="M1", as_of=20)),
            (3, Level.VIOLATION, verdict(Level.VIOLATION, 190.0, meters_in_violation=2, worst_meter_id="M2", as_of=10)),
        ]
        progress, _ = follow(Progress(), sagging, RULES)
        found = progress.open
        assert found is not None
        assert (found.worst.value, found.worst.worst_meter_id, found.meters_in_violation, found.as_of) == (
            190.0,
            "M1",
            3,
            30,
        )
        progress, _ = follow(Progress(), sagging, Rules(2, 2, lowest_is_worst=False))
        assert progress.open is not None
        assert progress.open.worst.worst_meter_id == "M3"

    @given(st.text("vcb?", max_size=20), st.integers(0, 20))
    def test_it_may_be_interrupted_anywhere_and_go_through_its_coder(self, text, cut):
        progress, first = follow(Progress(), windows(text)[:cut], RULES)
        again = msgspec.msgpack.decode(msgspec.msgpack.encode(progress), type=Progress)
        end, second = follow(again, windows(text)[cut:], RULES)
        assert (end, first + second) == follow(Progress(), windows(text), RULES)

    @given(st.text("vcb?", max_size=30))
    def test_episodes_do_not_overlap_and_hold_every_long_violation(self, text):
        found = spans(text)
        for (_, _, _, ended), (begin, *_) in itertools.pairwise(found):
            assert ended is not None
            assert ended < begin
        for start in range(len(text) - 1):
            if text[start : start + 2] == "vv":
                assert any(first <= start and start + 1 <= last for first, last, _, _ in found)


def published(alarms: list[Alarm]) -> GroupInput:
    """As they are read back from their topic."""
    return GroupInput(published=[msgspec.structs.replace(alarm) for alarm in alarms])


def end_of(number: int) -> int:
    return DAY + number * SIZE


def judged(number: int, letter: str, value: float = 200.0) -> AlarmInput:
    """What a window gives when it is due; clear without a word."""
    level = LETTERS[letter]
    return AlarmInput(end_of(number), [] if level == Level.CLEAR else [verdict(level, value)], DELAY)


def revised(number: int, letter: str, value: float = 200.0) -> AlarmInput:
    return AlarmInput(end_of(number), [verdict(LETTERS[letter], value)])


class TestShard:
    def test_an_alarm_lives_and_is_published_when_it_changes(self):
        shard = Shard(SETTINGS)
        for number, letter in enumerate("cvvvcccc"):
            shard.take(judged(number, letter))
        told = [(alarm.state, alarm.windows_in_violation, alarm.revision) for alarm in shard.alarms]
        assert told == [("ACTIVE", 2, 0), ("ACTIVE", 3, 1), ("CLEARED", 3, 2)]
        (alarm,) = final(shard.alarms).values()
        assert (alarm.first_window, alarm.last_window) == (end_of(1), end_of(3))
        assert shard.alarms[-1].as_of == end_of(5)

    def test_a_late_read_takes_an_alarm_back_and_another_brings_one(self):
        shard = Shard(SETTINGS)
        for number, letter in enumerate("cvvcvcc"):
            shard.take(judged(number, letter))
        shard.take(revised(2, "c"))
        assert [(alarm.state, alarm.windows_in_violation) for alarm in shard.alarms][-1] == ("CLEARED", 0)
        assert final(shard.alarms) == {}
        shard.take(revised(3, "v", 190.0))
        (alarm,) = final(shard.alarms).values()
        assert (alarm.first_window, alarm.last_window, alarm.worst_value) == (end_of(3), end_of(4), 190.0)

    def test_a_window_that_is_not_settled_may_still_be_clear(self):
        shard = Shard(SETTINGS)
        shard.take(judged(0, "c"))
        shard.take(revised(1, "v"), revised(3, "v"))
        assert shard.alarms == []
        shard.take(judged(1, "v"), judged(2, "?"), judged(3, "v"))
        assert [alarm.windows_in_violation for alarm in shard.alarms] == [2]

    def test_what_has_long_ended_is_forgotten_and_what_goes_on_is_not(self):
        shard = Shard(SETTINGS)
        for number, letter in enumerate("vvcc" + "c" * 400):
            shard.take(judged(number, letter), watermark=end_of(number) + DELAY)
        assert shard.kept.transformers == {}
        for number in range(404, 900):
            shard.take(judged(number, "v"), watermark=end_of(number) + DELAY)
        assert len(msgspec.msgpack.encode(shard.kept)) < 250 * 60
        shard.take(judged(900, "c"), judged(901, "c"))
        (_, alarm) = final(shard.alarms).values()
        assert (alarm.first_window, alarm.windows_in_violation, alarm.state) == (end_of(404), 496, "CLEARED")

    def test_an_alarm_of_a_lost_attempt_is_taken_back_and_our_own_are_left_alone(self):
        shard, lost = Shard(SETTINGS), Shard(SETTINGS)
        for number, letter in enumerate("cvv"):
            lost.take(judged(number, letter))
        for number, letter in enumerate("cvc"):
            shard.take(judged(number, letter))
        shard.publish(GROUP, published(lost.alarms))
        assert [(alarm.state, alarm.windows_in_violation, alarm.revision) for alarm in shard.alarms] == [
            ("CLEARED", 0, 1)
        ]
        shard.publish(GROUP, published(shard.alarms))
        assert len(shard.alarms) == 1

    def test_an_alarm_that_consumers_keep_for_its_as_of_is_set_right_whatever_its_revision(self):
        shard = Shard(SETTINGS)
        for number, letter in enumerate("vvvv"):
            shard.take(judged(number, letter))
        ours = shard.alarms[-1]
        assert ours.revision == 2
        lost = msgspec.structs.replace(ours, windows_in_violation=2, revision=1, as_of=ours.as_of + SIZE)
        shard.publish(GROUP, published([lost]))
        set_right = shard.alarms[-1]
        assert (set_right.windows_in_violation, set_right.revision, set_right.as_of) == (4, 3, lost.as_of)

    def test_as_of_does_not_go_back_when_the_feeder_changes(self):
        """Consumers keep the greatest, and the new feeder's group does not know what was published before."""
        shard = Shard(SETTINGS)
        shard.take(AlarmInput(end_of(0), [], DELAY, places=[TransformerPlace("T1", "F1", 10, DELAY, end_of(0))]))
        for number in (1, 2, 3):
            shard.take(AlarmInput(end_of(number), [verdict(Level.VIOLATION, as_of=end_of(number) + 7)], DELAY))
        assert shard.alarms[-1].as_of == end_of(3) + 7
        # A late read: the evidence that is left is older.
        shard.take(revised(3, "b"))
        shard.take(AlarmInput(end_of(4), [], places=[TransformerPlace("T1", "F2", 10, DELAY, end_of(4))]))
        last = shard.alarms[-1]
        assert (last.feeder_id, last.windows_in_violation, last.as_of) == ("F2", 2, end_of(3) + 7)

    def test_two_jobs_on_one_topic_end(self):
        first, second = Shard(SETTINGS), Shard(SETTINGS)
        for number, letter in enumerate("cvv"):
            first.take(judged(number, letter))
            second.take(judged(number, "c"))
        heard = 0
        for _ in range(50):
            before = len(first.alarms), len(second.alarms)
            second.publish(GROUP, published(first.alarms[heard:]))
            heard = len(first.alarms)
            first.publish(GROUP, published(second.alarms[before[1] :]))
            if (len(first.alarms), len(second.alarms)) == before:
                return
        raise AssertionError("they go on correcting each other")

    @given(
        st.text("vcb?", min_size=1, max_size=12),
        st.lists(st.tuples(st.integers(0, 11), st.sampled_from("vcb?"), st.floats(150, 206)), max_size=6),
        st.randoms(use_true_random=False),
    )
    def test_the_end_does_not_depend_on_the_order(self, text, revisions, random):
        """On-time results and their revisions, windows in any order, in any portions."""
        revisions = [each for each in revisions if each[0] < len(text)]
        news: list[list[AlarmInput]] = [[judged(number, letter)] for number, letter in enumerate(text)]
        for number, letter, value in revisions:
            news[number].append(revised(number, letter, value))
        in_order = Shard(SETTINGS)
        in_order.take(*(each for of_window in news for each in of_window))
        shuffled = Shard(SETTINGS)
        queues = [list(of_window) for of_window in news]
        while any(queues):
            portion = []
            for _ in range(random.randint(1, 4)):
                filled = [queue for queue in queues if queue]
                if filled:
                    portion.append(random.choice(filled).pop(0))
            shuffled.take(*portion)
        assert final(shuffled.alarms) == final(in_order.alarms)

    @given(st.sets(st.integers(1, 899), max_size=3))
    def test_a_backlog_of_days_gives_its_alarms_in_however_few_portions(self, cuts):
        """Where the watermark moves by days at once, an alarm is over and forgotten before it was ever told."""
        text = ("vvcc" + "c" * 300) * 3
        shard = Shard(SETTINGS)
        for begin, end in itertools.pairwise([0, *sorted(cuts), len(text)]):
            news = [judged(number, text[number]) for number in range(begin, end)]
            shard.take(*news, watermark=end_of(end - 1) + DELAY)
        assert [alarm.first_window for alarm in final(shard.alarms).values()] == [
            end_of(0), end_of(304), end_of(608),
        ]  # fmt: skip

    @given(st.text("vcb?", min_size=1, max_size=30), st.integers(0, 30))
    def test_forgetting_changes_nothing_that_is_told(self, text, forgotten):
        whole, forgetful = Shard(SETTINGS), Shard(SETTINGS)
        expiry = SETTINGS.collection_delay + SETTINGS.allowed_lateness + SETTINGS.max_disorder + MICROS_PER_HOUR
        for number, letter in enumerate(text):
            whole.take(judged(number, letter))
            forgetful.take(judged(number, letter), watermark=end_of(number - forgotten) + expiry + MICROS_PER_MINUTE)
        assert final(forgetful.alarms) == final(whole.alarms)
