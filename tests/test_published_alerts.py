"""The last word on every alert is the true one, whatever an attempt that a failure ended has published before."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ami_beam.codecs.json_outputs import alert_json
from ami_beam.instants import MICROS_PER_MINUTE
from ami_beam.records import Alert, ExplainInput, JudgeInput, MeterCount, PublishedAlert, ReceiptDue, RecordBatch
from ami_beam.shards import shard_of
from tests.test_state_access import DELAY, END, Window, observation
from transforms.alert_lifecycle import AlertState, adopt, advance
from transforms.judge_windows import PUBLISHED
from transforms.published_alerts import _ParseDoFn

Judgement = tuple[bool, float]


class Attempt:
    """One alert as an attempt of the job sees it: what it judges, publishes and reads back."""

    def __init__(self, state: AlertState | None, topic: list[AlertState]) -> None:
        self.state = state
        self._topic = topic
        self._now: tuple[bool, float, int] | None = None

    def judge(self, holds: bool, value: float, as_of: int) -> None:
        self._now = holds, value, as_of
        self._advance()

    def read_back(self, alert: AlertState) -> None:
        told = PublishedAlert("T1", "LOW_VOLTAGE", alert.status, alert.value, alert.revision, alert.as_of)
        adopted = adopt(self.state, told)
        if adopted is not None:
            self.state = adopted
            self._advance()

    def _advance(self) -> None:
        if self._now is not None:
            after = advance(self.state, *self._now)
            if after is not None:
                self.state = after
                self._topic.append(after)


judgements = st.lists(st.tuples(st.booleans(), st.sampled_from([200.0, 201.0])), max_size=5)


@settings(max_examples=1_000)
@given(judgements, judgements, judgements, st.tuples(st.booleans(), st.sampled_from([200.0, 201.0])), st.data())
def test_the_last_word_is_the_truth(
    before: list[Judgement], lost: list[Judgement], after: list[Judgement], truth: Judgement, data: st.DataObject
) -> None:
    """`before` is in the checkpoint, `lost` was published after it, `after` is what the next attempt comes to."""
    topic: list[AlertState] = []
    first = Attempt(None, topic)
    for number, (holds, value) in enumerate(before):
        first.judge(holds, value, number)
    offset, state = len(topic), first.state
    for number, (holds, value) in enumerate(lost, start=len(before)):
        first.judge(holds, value, number)
    second = Attempt(state, topic)
    for number, (holds, value) in enumerate(after, start=len(before)):
        if data.draw(st.booleans()) and offset < len(topic):
            second.read_back(topic[offset])
            offset += 1
        second.judge(holds, value, number)
    second.judge(*truth, 100)
    while offset < len(topic):
        second.read_back(topic[offset])
        offset += 1
    told = max(enumerate(topic), key=lambda each: (each[1].as_of, each[0]), default=(0, None))[1]
    holds, value = truth
    if holds:
        assert told is not None
        assert (told.status != "CLEARED", told.value) == (True, value)
    else:
        assert told is None or told.status == "CLEARED"
    assert [each.revision for each in topic[-1:]] == ([second.state.revision] if second.state and topic else [])


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([200.0, 201.0])), max_size=12))
def test_reading_back_what_one_published_changes_nothing(each: list[Judgement]) -> None:
    topic: list[AlertState] = []
    attempt = Attempt(None, topic)
    for number, (holds, value) in enumerate(each):
        attempt.judge(holds, value, number)
    published = list(topic)
    for alert in published:
        attempt.read_back(alert)
    assert topic == published


def test_two_jobs_on_one_topic_come_to_an_end() -> None:
    topic: list[AlertState] = []
    one, other = Attempt(None, topic), Attempt(None, topic)
    one.judge(True, 200.0, 1)
    other.judge(True, 201.0, 1)
    for alert in topic:
        one.read_back(alert)
        other.read_back(alert)
    assert len(topic) < 50


def told(alert_type: str, status: str, value: float, revision: int = 0, transformer: str = "T1") -> JudgeInput:
    return JudgeInput([], None, [PublishedAlert(transformer, alert_type, status, value, revision, END + DELAY)])  # type: ignore[arg-type]


def test_what_consumers_keep_is_set_right_whatever_its_revision() -> None:
    """The lost attempt got further in as_of, ours in revisions: a consumer keeps the greater as_of."""
    topic: list[AlertState] = []
    lost = Attempt(None, topic)
    for number, holds in enumerate((True, False, True)):
        lost.judge(holds, 200.0, number)
    second = Attempt(None, topic)
    second.read_back(topic[0])
    second.judge(True, 200.0, 0)
    second.read_back(topic[1])
    second.judge(False, 200.0, 1)
    assert topic[-1].revision > topic[2].revision
    assert topic[-1].as_of < topic[2].as_of
    second.read_back(topic[2])
    assert (topic[-1].status, topic[-1].as_of) == ("CLEARED", topic[2].as_of)


class TestAWindow:
    """T1 has two meters, at 230 V, and was heard completely: neither alert of the lost attempt is true."""

    def judged(self) -> Window:
        window = Window()
        window.take(JudgeInput([], ReceiptDue(END, DELAY, [MeterCount("T1", 2)])))
        window.take(JudgeInput([observation("T1", 0, 2, 230.0)], None))
        window.judge()
        assert window.alerts == []
        return window

    def test_what_a_lost_attempt_raised_is_cleared(self) -> None:
        window = self.judged()
        window.take(told("LOW_RECEIPT_RATE", "RAISED", 50.0))
        window.take(told("LOW_VOLTAGE", "UPDATED", 200.0, revision=1))
        assert window.timers.due[PUBLISHED] == END + DELAY + MICROS_PER_MINUTE
        window.judge(PUBLISHED)
        assert window.alerts == [
            ("T1", "LOW_RECEIPT_RATE", "CLEARED", 1, 100.0),
            ("T1", "LOW_VOLTAGE", "CLEARED", 2, 230.0),
        ]

    def test_it_is_cleared_by_the_first_judgement_where_there_was_none(self) -> None:
        window = Window()
        window.take(told("LOW_RECEIPT_RATE", "RAISED", 50.0))
        window.take(told("HIGH_VOLTAGE", "RAISED", 260.0))
        window.judge(PUBLISHED)
        assert window.alerts == []
        window.take(JudgeInput([], ReceiptDue(END, DELAY, [MeterCount("T1", 2)])))
        window.take(JudgeInput([observation("T1", 0, 2, 230.0)], None))
        window.judge()
        assert {(each[1], each[2], each[3]) for each in window.alerts} == {
            ("LOW_RECEIPT_RATE", "CLEARED", 1),
            ("HIGH_VOLTAGE", "CLEARED", 1),
        }

    def test_of_several_the_last_counts(self) -> None:
        window = self.judged()
        window.take(told("LOW_VOLTAGE", "RAISED", 200.0))
        window.take(told("LOW_VOLTAGE", "CLEARED", 229.0, revision=1))
        window.judge(PUBLISHED)
        assert window.alerts == []

    def test_our_own_change_nothing(self) -> None:
        window = Window()
        window.take(JudgeInput([], ReceiptDue(END, DELAY, [MeterCount("T1", 4)])))
        window.take(JudgeInput([observation("T1", 0, 2, 200.0)], None))
        window.judge()
        before = list(window.alerts)
        assert len(before) == 2
        for entity, alert_type, status, revision, value in before:
            window.take(told(alert_type, status, value or 0.0, revision, entity))
        window.judge(PUBLISHED)
        assert window.alerts == before

    def test_alerts_alone_are_forgotten(self) -> None:
        window = Window()
        window.take(told("LOW_VOLTAGE", "RAISED", 200.0))
        window.judge(PUBLISHED)
        window.expire()
        assert window.log.held == []


def test_records_that_are_no_alerts_are_passed_over() -> None:
    alert = Alert(
        "id", "VOLTAGE", "T1", END, "LOW_VOLTAGE", 200.0, "WARNING", "RAISED", 0, END + 1, END - 900_000_000, END, "F1"
    )
    values = [b"", None, b"[]", b'{"alert_id": 1}', b"\xff", alert_json(alert)]
    batch = RecordBatch("ami.alerts.grid", [0] * 6, list(range(6)), [END] * 6, values)
    (key, judged), to_explain = _ParseDoFn(7).process(batch)
    assert key == (shard_of("T1", 7), END)
    assert to_explain.value == (shard_of("T1", 7), ExplainInput(published=[alert]))
    assert judged.published == [PublishedAlert("T1", "LOW_VOLTAGE", "RAISED", 200.0, 0, END + 1)]
