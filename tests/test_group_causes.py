"""What explains the alarms of a feeder's transformers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ami_beam.records import Alarm, TransformerPlace
from transforms.group_causes import explained

SIZE = 900
PLACES = {f"T{number}": TransformerPlace(f"T{number}", "F1", 10, 300, 0) for number in range(8)}
NAMES = sorted(PLACES)


def alarm(transformer: str, first: int, last: int, kind: str = "LOW_RECEIPT_RATE", **fields) -> Alarm:
    """Windows by number."""
    made = {
        "alarm_id": f"{kind}/{transformer}/{first}",
        "alarm_type": kind,
        "entity_id": transformer,
        "feeder_id": "F1",
        "state": "CLEARED",
        "severity": "WARNING",
        "first_window": first * SIZE,
        "last_window": last * SIZE,
        "worst_value": 50.0,
        "windows_in_violation": last - first + 1,
        "meters_in_violation": 5,
        "worst_meter_id": None,
        "meters_missing": 5,
        "cause": None,
        "revision": 0,
        "as_of": last * SIZE,
    }
    return Alarm(**{**made, **fields})


def outage(transformer: str, began: int, ended: int | None, meters: int = 10) -> Alarm:
    return alarm(
        transformer, began // SIZE + 1, (ended or began) // SIZE + 1, "TRANSFORMER_OUTAGE", began_at=began,
        ended_at=ended, meters_in_violation=meters, state="CLEARED" if ended is not None else "ACTIVE",
    )  # fmt: skip


def groups(*alarms: Alarm) -> list[tuple[str, int, int, list[str]]]:
    """(type, first window, last window, transformers explained by it) of every alarm that is a cause."""
    found = explained("F1", alarms, PLACES, SIZE)
    causes = [each for each in found if each.entity_id == "F1"]
    return sorted(
        (
            cause.alarm_type,
            cause.first_window // SIZE,
            cause.last_window // SIZE,
            sorted(each.entity_id for each in found if each.cause == cause.alarm_id),
        )
        for cause in causes
    )


class TestComm:
    def test_those_that_fall_silent_together(self):
        assert groups(alarm("T0", 3, 8), alarm("T1", 4, 9)) == [("COMM_GROUP", 3, 9, ["T0", "T1"])]
        assert groups(alarm("T0", 3, 8), alarm("T1", 5, 9)) == []
        assert groups(alarm("T0", 3, 3), alarm("T0", 4, 4)) == []

    def test_half_of_the_feeder_s_transformers_at_once(self):
        one_by_one = [alarm(name, 3 + 2 * number, 20) for number, name in enumerate(NAMES[:4])]
        assert groups(*one_by_one[:3]) == []
        # The fourth of eight makes it a group.
        assert groups(*one_by_one) == [("COMM_GROUP", 3, 20, ["T0", "T1", "T2", "T3"])]


class TestVoltage:
    def test_those_that_hold_in_one_window(self):
        low = [alarm("T0", 3, 8, "LOW_VOLTAGE", worst_value=200.0), alarm("T1", 8, 9, "LOW_VOLTAGE", worst_value=190.0)]
        assert groups(*low) == [("LOW_VOLTAGE_GROUP", 3, 9, ["T0", "T1"])]
        (group,) = (each for each in explained("F1", low, PLACES, SIZE) if each.entity_id == "F1")
        assert (group.worst_value, group.meters_in_violation, group.state) == (190.0, 10, "CLEARED")
        assert groups(low[0], alarm("T1", 9, 9, "LOW_VOLTAGE")) == []
        high = [alarm(name, 3, 4, "HIGH_VOLTAGE", worst_value=value) for name, value in (("T0", 255.0), ("T1", 260.0))]
        (group,) = (each for each in explained("F1", high, PLACES, SIZE) if each.entity_id == "F1")
        assert (group.alarm_type, group.worst_value) == ("HIGH_VOLTAGE_GROUP", 260.0)

    def test_different_kinds_explain_nothing(self):
        assert groups(alarm("T0", 3, 8, "LOW_VOLTAGE"), alarm("T1", 3, 8, "HIGH_VOLTAGE")) == []

    def test_an_open_one_holds_on(self):
        still = alarm("T0", 3, 4, "LOW_VOLTAGE", state="ACTIVE")
        assert groups(still, alarm("T1", 7, 7, "LOW_VOLTAGE", state="ACTIVE")) == [
            ("LOW_VOLTAGE_GROUP", 3, 7, ["T0", "T1"])
        ]


class TestOutage:
    def test_thirty_per_cent_of_the_meters_are_the_feeder(self):
        three = [outage(name, 1000 + number, 5000) for number, name in enumerate(NAMES[:3])]
        assert groups(*three) == [("FEEDER_OUTAGE", 2, 6, ["T0", "T1", "T2"])]
        assert groups(*three[:2]) == [("SECTION_OUTAGE", 2, 6, ["T0", "T1"])]
        assert groups(three[0]) == []

    def test_not_within_five_minutes_is_not_together(self):
        five_minutes = 300 * 1_000_000
        assert groups(outage("T0", 1000, 5000), outage("T1", 1000 + five_minutes + 1, five_minutes * 2)) == []

    def test_it_goes_on_while_two_are_out(self):
        found = explained(
            "F1", [outage("T0", 1000, 3000), outage("T1", 1000, None), outage("T2", 1001, 4000)], PLACES, SIZE
        )
        (section,) = (each for each in found if each.entity_id == "F1")
        assert (section.state, section.ended_at, section.meters_total, section.meters_in_violation) == (
            "CLEARED", 4000, 80, 30,
        )  # fmt: skip


@given(
    st.lists(
        st.tuples(
            st.sampled_from(NAMES), st.integers(1, 12), st.integers(0, 5),
            st.sampled_from(["LOW_RECEIPT_RATE", "LOW_VOLTAGE", "TRANSFORMER_OUTAGE"]), st.booleans(),
        ),
        max_size=14,
        unique_by=lambda each: (each[0], each[1], each[3]),
    ),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_any_order_gives_the_same_and_every_cause_explains_two(drawn, random):
    alarms = [
        outage(name, first * 1000, None if is_open else first * 1000 + lasts * 400)
        if kind == "TRANSFORMER_OUTAGE"
        else alarm(name, first, first + lasts, kind, state="ACTIVE" if is_open else "CLEARED")
        for name, first, lasts, kind, is_open in drawn
    ]
    shuffled = list(alarms)
    random.shuffle(shuffled)
    found = explained("F1", alarms, PLACES, SIZE)
    assert explained("F1", shuffled, dict(reversed(PLACES.items())), SIZE) == found
    for cause in (each for each in found if each.entity_id == "F1"):
        assert cause.cause is None
        assert len({each.entity_id for each in found if each.cause == cause.alarm_id}) >= 2
    assert {each.cause for each in found} - {None} <= {each.alarm_id for each in found}
