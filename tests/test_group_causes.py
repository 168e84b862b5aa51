"""What explains the alarms of a feeder's transformers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ami_beam.records import Alarm, CollectedAlarms, TransformerPlace
from transforms.group_causes import ONE_CAUSE, collected_alarms, explained

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

    def test_who_has_been_silent_for_days_has_no_part_in_what_happens_today(self):
        days = ONE_CAUSE // SIZE
        for kind in ("COMM", "LOW_VOLTAGE"):
            of = "LOW_RECEIPT_RATE" if kind == "COMM" else kind
            dead = [alarm(name, 3, days + 90, of, state="ACTIVE") for name in NAMES[:2]]

            def today(at: int, of: str = of) -> list[Alarm]:
                return [alarm(name, at, at + 1, of) for name in NAMES[2:7]]

            assert groups(*dead, *today(days + 3)) == [(f"{kind}_GROUP", 3, days + 90, NAMES[:7])]
            two = [(f"{kind}_GROUP", 3, days + 90, NAMES[:2]), (f"{kind}_GROUP", days + 4, days + 5, NAMES[2:7])]
            assert groups(*dead, *today(days + 4)) == two
            # Nor are they what holds yesterday and today together.
            yesterday = today(days + 4)
            third = (f"{kind}_GROUP", days + 8, days + 9, NAMES[2:7])
            assert {each[:3] for each in groups(*dead, *yesterday, *today(days + 8))} == {
                each[:3] for each in (*two, third)
            }


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


def collected(*alarms: Alarm, hears: list[str], group: str = "C1") -> list[CollectedAlarms]:
    """What a collector that hears these transformers explains."""
    places = {name: TransformerPlace(name, "F1", 10, 300, 0, group) for name in hears}
    return collected_alarms(group, [each for each in alarms if each.entity_id in hears], places, SIZE)


class TestCollectors:
    def explained_by(self, alarms: list[Alarm], *several: list[CollectedAlarms]) -> dict[str, list[str]]:
        """By entity of the cause the transformers that it explains, of those on the feeder F1."""
        mine = [each for each in alarms if each.feeder_id == "F1"]
        known = [one for each in several for one in each]
        found = explained("F1", mine, PLACES, SIZE, known)
        entity_of = {each.alarm_id: each.entity_id for each in found} | {
            one.alarm.alarm_id: one.alarm.entity_id for one in known
        }
        causes: dict[str, list[str]] = {}
        for each in found:
            if each.cause is not None:
                causes.setdefault(entity_of[each.cause], []).append(each.entity_id)
        # Each cause of this feeder is published by it, and those of several are not.
        published = {each.entity_id for each in found if each.alarm_type == "COMM_GROUP"}
        spanning = {one.alarm.entity_id for one in known if one.alarm.feeder_id is None}
        assert published == causes.keys() - spanning
        return {entity: sorted(names) for entity, names in causes.items()}

    def test_half_of_its_transformers_two_or_more_at_once(self):
        both = [alarm("T0", 3, 8), alarm("T1", 7, 9)]
        (found,) = collected(*both, hears=NAMES[:4])
        assert (found.alarm.alarm_type, found.alarm.entity_id, found.alarm.feeder_id) == ("COMM_GROUP", "C1", "F1")
        assert (found.alarm.first_window, found.alarm.last_window) == (3 * SIZE, 9 * SIZE)
        assert (sorted(found.children), found.silent, found.transformers) == (
            sorted(each.alarm_id for each in both), 2, 4,
        )  # fmt: skip
        assert collected(*both, hears=NAMES[:5]) == []
        # One after the other is not at once, nor is one transformer a group.
        assert collected(alarm("T0", 3, 6), alarm("T1", 7, 9), hears=NAMES[:4]) == []
        assert collected(alarm("T0", 3, 6), hears=NAMES[:1]) == []

    def test_a_dead_collector_explains_before_its_feeder_does(self):
        silent = [alarm(name, 3, 8) for name in NAMES[:4]]
        assert self.explained_by(silent) == {"F1": NAMES[:4]}
        assert self.explained_by(silent, collected(*silent, hears=NAMES[:4])) == {"C1": NAMES[:4]}
        # What is beside it stands for itself, or is the feeder's.
        others = [alarm("T5", 3, 8)]
        assert self.explained_by(silent + others, collected(*silent, hears=NAMES[:4])) == {"C1": NAMES[:4]}
        others.append(alarm("T6", 4, 8))
        assert self.explained_by(silent + others, collected(*silent, hears=NAMES[:4])) == {
            "C1": NAMES[:4], "F1": ["T5", "T6"],
        }  # fmt: skip

    def test_a_dead_feeder_explains_before_a_collector_that_hears_others(self):
        silent = [alarm(name, 3, 8) for name in NAMES]
        other_feeders = [f"U{number}" for number in range(3)]
        one = collected(*silent, hears=[*NAMES[:4], *other_feeders])
        assert [each.silent for each in one] == [4]
        assert self.explained_by(silent, one) == {"F1": NAMES}
        # Two dead ones are as good an explanation of all that is silent.
        two = [collected(*silent, hears=NAMES[:4]), collected(*silent, hears=NAMES[4:], group="C2")]
        assert self.explained_by(silent, *two) == {"C1": NAMES[:4], "C2": NAMES[4:]}

    def test_one_of_several_feeders_is_not_the_feeder_s_to_decide(self):
        silent = [alarm(name, 3, 8) for name in NAMES[:2]]
        far = [alarm(name, 3, 8, feeder_id="F2") for name in ("U0", "U1")]
        (found,) = collected(*silent, *far, hears=[*NAMES[:2], "U0", "U1", "U2"])
        assert found.alarm.feeder_id is None
        assert self.explained_by(silent + far, [found]) == {"C1": NAMES[:2]}
        (here,) = collected(*silent, hears=NAMES[:2])
        assert here.alarm.alarm_id != found.alarm.alarm_id


@given(
    st.lists(
        st.tuples(st.sampled_from(range(10)), st.integers(1, 12), st.integers(0, 5), st.booleans()),
        max_size=14, unique_by=lambda each: each[:2],
    ),
    st.lists(st.sampled_from(["C1", "C2", None]), min_size=10, max_size=10),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_every_cause_explains_two_and_every_alarm_has_one_in_any_order(drawn, hears, random):
    names = [f"T{number}" for number in range(10)]
    places = {
        name: TransformerPlace(name, f"F{number // 5}", 10, 300, 0, hears[number]) for number, name in enumerate(names)
    }
    alarms = [
        alarm(
            names[number], first, first + lasts, state="ACTIVE" if is_open else "CLEARED",
            feeder_id=places[names[number]].feeder_id,
        )
        for number, first, lasts, is_open in drawn
    ]  # fmt: skip

    def published(alarms: list[Alarm]) -> list[Alarm]:
        several = []
        for group in ("C1", "C2"):
            of_group = {name: place for name, place in places.items() if place.collection_group == group}
            mine = [each for each in alarms if each.entity_id in of_group]
            several += collected_alarms(group, mine, of_group, SIZE)
        random.shuffle(several)
        found = [one.alarm for one in several if one.alarm.feeder_id is None]
        for feeder in ("F0", "F1"):
            of_feeder = {name: place for name, place in places.items() if place.feeder_id == feeder}
            told = [one for one in several if one.alarm.feeder_id in (None, feeder)]
            mine = [each for each in alarms if each.feeder_id == feeder]
            found += explained(feeder, mine, of_feeder, SIZE, told)
        return sorted(found, key=lambda each: each.alarm_id)

    found = published(alarms)
    shuffled = list(alarms)
    random.shuffle(shuffled)
    assert published(shuffled) == found
    ids = [each.alarm_id for each in found]
    assert len(set(ids)) == len(ids)
    assert {each.cause for each in found} - {None} <= set(ids)
    for cause in (each for each in found if each.alarm_type == "COMM_GROUP"):
        assert len({each.entity_id for each in found if each.cause == cause.alarm_id}) >= 2


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
