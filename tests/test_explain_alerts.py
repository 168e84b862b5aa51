"""Which alarm explains an alert, and that the last word on it is the true one."""

from __future__ import annotations

import random

import msgspec
from apache_beam.utils.timestamp import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ami_beam.instants import MICROS_PER_MINUTE
from ami_beam.records import Alarm, Alert, Cause, ExplainInput, PublishedAlert, TransformerCauses
from ami_beam.settings import Settings
from tests.test_group_causes import alarm
from tests.test_state_access import Bag, Timers
from transforms.alert_causes import cause_in, causes_of
from transforms.alert_lifecycle import AlertState, adopt
from transforms.end_of_replay import EXPLAINED_AT_END
from transforms.explain_alerts import FORGET, NEWS, PUBLISHED, KeptShard, _ExplainDoFn, forget, update
from transforms.publish_alarms import KeptGroup, update_causes
from transforms.window_alert import alert_of
from transforms.window_expiry import expiry

SIZE = 15 * MICROS_PER_MINUTE
END = 1_772_496_900_000_000
RULES = Settings(live=True)


def causes(*alarms: Alarm, alert_type: str = "LOW_RECEIPT_RATE") -> list[str | None]:
    """What explains the alerts of T0 in windows 1 to 6 of a size of 900."""
    found = causes_of(alarms, 900).get(("T0", alert_type), [])
    return [cause_in(found, number * 900) for number in range(1, 7)]


def outage(began: int, ended: int | None, **fields) -> Alarm:
    of = {"alarm_id": "O", "began_at": began, "ended_at": ended, "state": "ACTIVE" if ended is None else "CLEARED"}
    return alarm("T0", 1, 1, "TRANSFORMER_OUTAGE", **of | fields)


class TestCauses:
    def test_an_alarm_with_a_cause_gives_it_to_the_windows_from_its_first_to_its_last(self):
        assert causes(alarm("T0", 2, 4, cause="G")) == [None, "G", "G", "G", None, None]
        assert causes(alarm("T0", 2, 4)) == [None] * 6
        assert causes(alarm("T0", 2, 4, cause="G", windows_in_violation=0)) == [None] * 6
        assert causes(alarm("T1", 2, 4, cause="G")) == [None] * 6

    def test_each_type_of_alert_has_its_own(self):
        low = alarm("T0", 2, 3, "LOW_VOLTAGE", cause="L")
        assert causes(low, alert_type="LOW_VOLTAGE") == [None, "L", "L", None, None, None]
        assert causes(low, alert_type="HIGH_VOLTAGE") == causes(low) == [None] * 6

    def test_an_outage_explains_receipt_in_every_window_that_it_has_a_part_in(self):
        assert causes(outage(901, 2700)) == [None, "O", "O", None, None, None]
        # A window ends before what begins at its end, and an outage that is over then has no part in the next.
        assert causes(outage(1800, 2701)) == [None, None, "O", "O", None, None]
        assert causes(outage(1850, None)) == [None, None, "O", "O", "O", "O"]
        assert causes(outage(1800, 1800)) == [None] * 6
        assert causes(outage(901, 2700), alert_type="LOW_VOLTAGE") == [None] * 6

    def test_the_outmost_alarm_is_named_and_an_outage_before_a_group(self):
        assert causes(outage(901, 2700, cause="F")) == [None, "F", "F", None, None, None]
        both = outage(1801, 2700), alarm("T0", 2, 5, cause="G")
        assert causes(*both) == causes(*reversed(both)) == [None, "G", "O", "G", "G", None]

    def test_a_group_gives_what_has_changed(self):
        kept = KeptGroup(told={"A": alarm("T0", 2, 3, alarm_id="A", cause="G"), "B": alarm("T1", 2, 3)})
        rules = Settings(window=900, shards=1)
        given = TransformerCauses("T0", "LOW_RECEIPT_RATE", [Cause(1800, 2700, "G")], "feeder/F1")
        assert update_causes("feeder/F1", kept, rules) == {0: [given]}
        assert update_causes("feeder/F1", kept, rules) == {}
        kept.told["A"].cause = None
        assert update_causes("feeder/F1", kept, rules) == {0: [replace(given, causes=[])]}


def an_alert(revision: int = 0, status: str = "RAISED", transformer: str = "T1", end: int = END, **fields) -> Alert:
    made = alert_of(
        "COMM", "LOW_RECEIPT_RATE", transformer, "F1", end - SIZE, end, status, 50.0, revision, end + revision  # type: ignore[arg-type]
    )  # fmt: skip
    return replace(made, meter_counts_version="v1", **fields)


def because(alarm_id: str | None, transformer: str = "T1", group: str = "feeder/F1") -> TransformerCauses:
    found = [] if alarm_id is None else [Cause(END, END + SIZE, alarm_id)]
    return TransformerCauses(transformer, "LOW_RECEIPT_RATE", found, group)


class TestUpdate:
    def test_an_alert_that_an_alarm_explains_is_given_again_with_nothing_else_changed(self):
        kept = KeptShard()
        assert update(kept, [ExplainInput([an_alert()])], SIZE) == []
        (copy,) = update(kept, [ExplainInput(causes=[because("G")])], SIZE)
        assert copy == an_alert(explained_by="G")
        assert update(kept, [ExplainInput(causes=[because("G")])], SIZE) == []
        # The next revision comes without it.
        (copy,) = update(kept, [ExplainInput([an_alert(1, "UPDATED")])], SIZE)
        assert copy == an_alert(1, "UPDATED", explained_by="G")
        (copy,) = update(kept, [ExplainInput(causes=[because(None)])], SIZE)
        assert copy == an_alert(1, "UPDATED")

    def test_a_copy_is_no_news_to_who_judges(self):
        alert = an_alert(3, "UPDATED")
        told = PublishedAlert("T1", alert.alert_type, alert.status, alert.detail_value, alert.revision, alert.as_of)
        assert adopt(AlertState("UPDATED", 50.0, 3, alert.as_of), told) is None

    def test_what_is_cleared_is_not_explained(self):
        kept = KeptShard()
        news = ExplainInput([an_alert(), an_alert(1, "CLEARED")], [because("G")])
        assert update(kept, [news], SIZE) == []
        (copy,) = update(kept, [ExplainInput([an_alert(2)])], SIZE)
        assert copy == an_alert(2, explained_by="G")

    def test_other_transformers_and_windows_are_not(self):
        kept = KeptShard()
        alerts = [an_alert(transformer="T2"), an_alert(end=END - SIZE), an_alert(end=END + 2 * SIZE)]
        assert update(kept, [ExplainInput(alerts, [because("G")])], SIZE) == []

    def test_a_transformer_that_moves_is_explained_by_its_new_group_whatever_comes_first(self):
        for order in ([0, 1], [1, 0]):
            kept = KeptShard()
            update(kept, [ExplainInput([an_alert()], [because("G")])], SIZE)
            moved = [because(None), because("H", group="feeder/F2")]
            copies = update(kept, [ExplainInput(causes=[moved[place]]) for place in order], SIZE)
            assert [copy.explained_by for copy in copies] == ["H"]

    def test_what_only_the_topic_has_keeps_its_explanation_until_we_know_one(self):
        """It is of a run that ended long ago, and knew more."""
        kept = KeptShard()
        assert update(kept, [ExplainInput(published=[an_alert(explained_by="X")])], SIZE) == []
        (copy,) = update(kept, [ExplainInput(causes=[because("G")])], SIZE)
        assert copy.explained_by == "G"

    def test_windows_are_forgotten_when_nothing_of_them_can_come(self):
        kept = KeptShard()
        update(kept, [ExplainInput([an_alert(), an_alert(end=END + SIZE)], [because("G")])], SIZE)
        assert forget(kept, expiry(RULES, END) - 1, RULES) == END + SIZE
        assert len(kept.transformers["T1"].alerts["LOW_RECEIPT_RATE"]) == 2
        assert forget(kept, expiry(RULES, END), RULES) == END + SIZE
        assert forget(kept, expiry(RULES, END + SIZE), RULES) is None
        assert kept.transformers == {}


class Attempt:
    """An attempt of the job: what it publishes, through the bytes of its state."""

    def __init__(self, kept: KeptShard, topic: list[Alert]) -> None:
        self.kept = kept
        self._topic = topic
        self._news: list[ExplainInput] = []

    def take(self, news: ExplainInput) -> None:
        self._topic += news.alerts
        self._news.append(msgspec.msgpack.decode(msgspec.msgpack.encode(news), type=ExplainInput))

    def fire(self) -> None:
        self._topic += update(self.kept, self._news, SIZE)
        self._news = []

    def checkpoint(self) -> KeptShard:
        self.fire()
        return msgspec.msgpack.decode(msgspec.msgpack.encode(self.kept), type=KeptShard)


def last_word(topic: list[Alert]) -> Alert:
    """What a consumer ends with."""
    return max(enumerate(topic), key=lambda each: (each[1].as_of, each[0]))[1]


explanations = st.lists(st.sampled_from(["G", "H", None]), max_size=4)


@settings(max_examples=500, deadline=None)
@given(st.integers(1, 4), explanations, st.booleans(), st.randoms(use_true_random=False))
def test_the_last_word_is_the_truth_in_any_order(revisions, changes, is_cleared, rng):
    """Revisions come in their order, and so do causes; how they meet, and when somebody looks, is anyone's guess."""
    statuses = ["RAISED", *["UPDATED"] * (revisions - 1)]
    statuses += ["CLEARED"] if is_cleared else []
    alerts = [ExplainInput([an_alert(number, status)]) for number, status in enumerate(statuses)]
    news = merged(rng, alerts, [ExplainInput(causes=[because(change)]) for change in changes])
    topic: list[Alert] = []
    attempt = Attempt(KeptShard(), topic)
    for each in news:
        attempt.take(each)
        if rng.random() < 0.5:
            attempt.fire()
    attempt.fire()
    last = last_word(topic)
    assert last.status == statuses[-1]
    assert last.explained_by == (None if is_cleared or not changes else changes[-1])
    assert replace(last, explained_by=None) == alerts[-1].alerts[0]


@settings(max_examples=500, deadline=None)
@given(explanations, explanations, explanations, st.integers(0, 3), st.booleans(), st.randoms(use_true_random=False))
def test_the_last_word_is_the_truth_after_a_failure(before, lost, after, published, again, rng):
    """The lost attempt published more; the next one judges anew, or finds in the topic what it would publish."""
    topic: list[Alert] = []
    first = Attempt(KeptShard(), topic)
    for each in merged(rng, [ExplainInput([an_alert()])], [ExplainInput(causes=[because(x)]) for x in before]):
        first.take(each)
    state, offset = first.checkpoint(), len(topic)
    more = [ExplainInput([an_alert(number + 1, "UPDATED")]) for number in range(published)]
    for each in merged(rng, more, [ExplainInput(causes=[because(x)]) for x in lost]):
        first.take(each)
        if rng.random() < 0.5:
            first.fire()
    if rng.random() < 0.5:
        first.fire()
    found = [ExplainInput(published=[alert]) for alert in topic[offset:]]
    second = Attempt(state, topic)
    own = more if again else []
    for each in merged(rng, own, [ExplainInput(causes=[because(x)]) for x in after], found):
        second.take(each)
        if rng.random() < 0.5:
            second.fire()
    second.fire()
    read = offset + len(found)
    # What it has published itself it reads, too, and that must come to an end.
    while read < len(topic):
        second.take(ExplainInput(published=[topic[read]]))
        second.fire()
        read += 1
        assert read < 200
    truth = ([None, *before, *after])[-1]
    assert last_word(topic).explained_by == truth


def merged(rng: random.Random, *several: list[ExplainInput]) -> list[ExplainInput]:
    """In one order of many, in which each keeps its own."""
    left = [list(each) for each in several if each]
    found = []
    while left:
        one = rng.choice(left)
        found.append(one.pop(0))
        left = [each for each in left if each]
    return found


class TestStep:
    def test_an_alert_goes_on_at_once_and_nobody_waits_for_an_answer_of_the_state(self):
        step, log, timers = _ExplainDoFn(RULES), Bag(), Timers()
        at = Timestamp(micros=END + 300)
        assert list(step.process((0, ExplainInput([an_alert()])), at, log, timers)) == [an_alert()]
        assert list(step.process((0, ExplainInput(causes=[because("G")])), at, log, timers)) == []
        assert (log.reads, timers.due) == (0, {NEWS: END + 300})
        assert [copy.explained_by for copy in step.on_explain(NEWS, at, log, timers)] == ["G"]
        assert (log.reads, len(log.held), timers.due[FORGET]) == (1, 1, expiry(RULES, END + SIZE))
        assert list(step.on_explain(NEWS, at, log, timers)) == []
        assert list(step.on_explain(FORGET, Timestamp(micros=timers.due[FORGET]), log, timers)) == []
        assert log.held == []

    def test_what_is_read_back_is_not_published_again_and_waits_for_the_next_window(self):
        step, log, timers = _ExplainDoFn(RULES), Bag(), Timers()
        read_back = ExplainInput(published=[an_alert()])
        assert list(step.process((0, read_back), Timestamp(micros=END), log, timers)) == []
        assert timers.due == {PUBLISHED: END + SIZE + RULES.collection_delay}
        assert list(step.on_explain(PUBLISHED, Timestamp(micros=END + SIZE), log, timers)) == []

    def test_a_replay_gives_every_alert_once_at_its_end(self):
        step, log, timers = _ExplainDoFn(Settings(live=False)), Bag(), Timers()
        at = Timestamp(micros=END)
        news = [ExplainInput([an_alert(), an_alert(transformer="T2")]), ExplainInput(causes=[because("G")])]
        for each in news:
            assert list(step.process((0, each), at, log, timers)) == []
        assert timers.due == {NEWS: EXPLAINED_AT_END}
        given = list(step.on_explain(NEWS, Timestamp(micros=EXPLAINED_AT_END), log, timers))
        assert given == [an_alert(explained_by="G"), an_alert(transformer="T2")]
        # A runner that does not wait for the alarms gives what it has, and what it learns then.
        list(step.process((0, ExplainInput(causes=[because("H", "T2")])), at, log, timers))
        given = list(step.on_explain(NEWS, Timestamp(micros=EXPLAINED_AT_END), log, timers))
        assert given == [an_alert(transformer="T2", explained_by="H")]
