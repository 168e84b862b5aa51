"""What explains the alarms of transformers that belong together: an outage of their feeder, or of their collector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from ami_beam.alert_ids import alarm_id
from ami_beam.instants import MICROS_PER_HOUR
from ami_beam.records import Alarm, AlarmState, CollectedAlarms, TransformerPlace
from transforms.alarm_episodes import OUTAGES
from transforms.comm_alerts import LOW_RECEIPT_RATE
from transforms.outages import Member, needed, outages
from transforms.receipt_rate import receipt_rate_pct
from transforms.voltage_alerts import HIGH_VOLTAGE, LOW_VOLTAGE

FEEDER_OUTAGE, SECTION_OUTAGE = "FEEDER_OUTAGE", "SECTION_OUTAGE"
COMM_GROUP, LOW_VOLTAGE_GROUP, HIGH_VOLTAGE_GROUP = "COMM_GROUP", "LOW_VOLTAGE_GROUP", "HIGH_VOLTAGE_GROUP"
GROUPS = {LOW_RECEIPT_RATE: COMM_GROUP, LOW_VOLTAGE: LOW_VOLTAGE_GROUP, HIGH_VOLTAGE: HIGH_VOLTAGE_GROUP}
"""By kind of alarm that of the group's."""
LEAST_TRANSFORMERS = 2
"""One transformer explains itself."""
COMM_SHARE_PCT = 50
ONE_CAUSE = 25 * MICROS_PER_HOUR
"""Alarms that begin further apart have different causes, although the first may still hold: what is read once a day is
missed from its last batch on. A transformer that has been silent for weeks is no part of what happens to its feeder
today, which would be told as an alarm of weeks ago."""


def explained(
    feeder_id: str,
    alarms: Iterable[Alarm],
    places: Mapping[str, TransformerPlace],
    window: int,
    collected: Iterable[CollectedAlarms] = (),
) -> list[Alarm]:
    """The alarms with their causes, and the alarms that are these causes. All of two transformers or more:

    FEEDER_OUTAGE: outages that begin within five minutes and leave 30 % of the feeder's meters without supply.
    SECTION_OUTAGE: likewise, of fewer meters.
    COMM_GROUP: receipt alarms that begin together, within a window of each other, or that half of the feeder's
    transformers have in one window.
    Receipt alarms that a collection group explains are not the feeder's, see `_of_collectors`.
    LOW_VOLTAGE_GROUP, HIGH_VOLTAGE_GROUP: voltage alarms that hold in one window.

    A function of the alarms and places, whatever their order.

    Args:
      alarms: of the feeder's transformers.
      places: of all its transformers, by transformer_id.
      window: length in microseconds.
      collected: receipt alarms of its transformers that collection groups explain (`collected_alarms`).
    """
    known = sorted(alarms, key=_order)
    causes = _outages_together(feeder_id, known, places, window)
    receipt = [alarm for alarm in known if alarm.alarm_type == LOW_RECEIPT_RATE and alarm.windows_in_violation]
    by_collectors = _of_collectors(receipt, len(places), collected, window)
    taken = {child for _, children in by_collectors for child in children}
    for kind, group_type in GROUPS.items():
        of_kind = [alarm for alarm in known if alarm.alarm_type == kind and alarm.windows_in_violation]
        of_kind = [alarm for alarm in of_kind if alarm.alarm_id not in taken]
        for together in _together(of_kind, len(places), kind == LOW_RECEIPT_RATE, window):
            if len({alarm.entity_id for alarm in together}) >= LEAST_TRANSFORMERS:
                children = [alarm.alarm_id for alarm in together]
                causes.append((_group(feeder_id, group_type, together, window), children))
    cause_of = {child: cause.alarm_id for cause, children in causes + by_collectors for child in children}
    # One of several feeders is not this one's to publish.
    causes += [(cause, children) for cause, children in by_collectors if cause.feeder_id is not None]
    caused = [replace(alarm, cause=cause_of.get(alarm.alarm_id, alarm.cause)) for alarm in known]
    return caused + [cause for cause, _ in causes]


def collected_alarms(
    group_id: str, alarms: Iterable[Alarm], places: Mapping[str, TransformerPlace], window: int
) -> list[CollectedAlarms]:
    """COMM_GROUP of a collection group: receipt alarms that half of its transformers, two or more, have at once.

    Its alarm_id says whether they hang on one feeder: then the feeder publishes it, where its own causes do not explain
    them better. A function of the alarms and places, whatever their order.

    Args:
      alarms: of the group's transformers.
      places: of all its transformers that were ever heard, by transformer_id.
      window: length in microseconds.
    """
    known = sorted(alarms, key=_order)
    known = [alarm for alarm in known if alarm.alarm_type == LOW_RECEIPT_RATE and alarm.windows_in_violation]
    found = []
    for together in _together(known, len(places), True, window):
        silent = _most_at_once(together)
        if silent < _half(len(places)):
            continue
        feeders = {alarm.feeder_id for alarm in together}
        feeder_id = feeders.pop() if len(feeders) == 1 else None
        alarm = _group(group_id, COMM_GROUP, together, window)
        alarm.feeder_id = feeder_id
        # A feeder may have the name of a collector.
        kind = f"COLLECTOR_{COMM_GROUP}" + (f"/{feeder_id}" if feeder_id is not None else "")
        alarm.alarm_id = alarm_id(kind, group_id, alarm.first_window)
        found.append(CollectedAlarms(alarm, [each.alarm_id for each in together], silent, len(places)))
    return found


def _of_collectors(
    alarms: Sequence[Alarm], transformers: int, collected: Iterable[CollectedAlarms], window: int
) -> list[tuple[Alarm, list[str]]]:
    """Which of a feeder's receipt alarms are explained by which collection group.

    Of a group whose alarms are of several feeders all are. Of one with alarms of this feeder only: unless the feeder
    explains some of them, too, and a greater share of its transformers is silent than of the collection group's. Where
    the collection group explains all that the feeder does and more, the share does not matter. So a dead collector is
    named before the feeder, and a dead feeder before a collector that hears others, too; never both for one alarm.
    """
    known = sorted(collected, key=lambda each: each.alarm.alarm_id)
    left, found = list(alarms), []

    def take(one: CollectedAlarms) -> None:
        nonlocal left
        names = set(one.children)
        found.append((one.alarm, [alarm.alarm_id for alarm in left if alarm.alarm_id in names]))
        left = [alarm for alarm in left if alarm.alarm_id not in names]

    for one in known:
        if one.alarm.feeder_id is None:
            take(one)
    # The most silent first; who wins may change what is left to the feeder.
    known = sorted(
        (one for one in known if one.alarm.feeder_id is not None),
        key=lambda each: (-each.silent / each.transformers, each.alarm.alarm_id),
    )
    while True:
        feeder = _together(left, transformers, True, window)
        winner = next((one for one in known if _explains(one, left, feeder, transformers)), None)
        if winner is None:
            return found
        known.remove(winner)
        take(winner)


def _explains(
    one: CollectedAlarms, left: Sequence[Alarm], feeder: Iterable[Sequence[Alarm]], transformers: int
) -> bool:
    """Whether the collection group explains its alarms better than the feeder does; two of them must be left."""
    children = set(one.children)
    if len({alarm.entity_id for alarm in left if alarm.alarm_id in children}) < LEAST_TRANSFORMERS:
        return False
    for together in feeder:
        names = {alarm.alarm_id for alarm in together}
        if names.isdisjoint(children) or names < children:
            continue
        if one.silent * transformers < _most_at_once(together) * one.transformers:
            return False
    return True


def _outages_together(
    feeder_id: str, alarms: Sequence[Alarm], places: Mapping[str, TransformerPlace], window: int
) -> list[tuple[Alarm, list[str]]]:
    total = sum(place.total_meters for place in places.values())
    out = {
        (alarm.entity_id, alarm.began_at): alarm
        for alarm in alarms
        if alarm.alarm_type in OUTAGES and alarm.began_at is not None
    }
    members = [
        Member(alarm.entity_id, began_at, alarm.ended_at, 1, alarm.as_of) for (_, began_at), alarm in out.items()
    ]
    found: dict[str, tuple[Alarm, list[str]]] = {}
    for outage in outages(members, LEAST_TRANSFORMERS):
        children = [out[member.name, member.at] for member in outage.members]
        # Of a transformer that was out several times the worst.
        meters = sum({child.entity_id: child.meters_in_violation for child in sorted(children, key=_meters)}.values())
        of = max(total, meters)
        alarm_type = FEEDER_OUTAGE if meters >= needed(of) else SECTION_OUTAGE
        first, last = outage.windows(window)
        state: AlarmState = "CLEARED"
        if outage.ended_at is None:
            state = "ACTIVE" if any(child.state == "ACTIVE" for child in children) else "UNKNOWN"
        alarm = Alarm(
            alarm_id=alarm_id(alarm_type, feeder_id, first),
            alarm_type=alarm_type,
            entity_id=feeder_id,
            feeder_id=feeder_id,
            state=state,
            severity="CRITICAL",
            first_window=first,
            last_window=last,
            worst_value=receipt_rate_pct(meters, of),
            windows_in_violation=(last - first) // window + 1,
            meters_in_violation=meters,
            worst_meter_id=children[0].worst_meter_id,
            meters_missing=0,
            cause=None,
            revision=0,
            as_of=outage.as_of,
            began_at=outage.began_at,
            ended_at=outage.ended_at,
            meters_total=of,
            momentary=outage.momentary,
        )
        # Of several that begin in one window the last says how it stands.
        names = [child.alarm_id for child in children]
        earlier = found.get(alarm.alarm_id)
        if earlier is not None:
            alarm.began_at, names = earlier[0].began_at, earlier[1] + names
        found[alarm.alarm_id] = alarm, names
    return list(found.values())


def _meters(alarm: Alarm) -> int:
    return alarm.meters_in_violation


def _together(alarms: Sequence[Alarm], transformers: int, must_begin_together: bool, window: int) -> list[list[Alarm]]:
    """Alarms of one kind that have one cause: `alarms` are in the order of their first windows.

    They hold in one window, and begin within `ONE_CAUSE`. Of receipt alarms that is not enough, unless half of
    `transformers` have one.
    """
    if not alarms:
        return []
    newest, half = max(alarm.last_window for alarm in alarms), _half(transformers)
    found: list[list[Alarm]] = []
    for alarm in alarms:
        at = alarm.first_window

        def is_recent(each: Alarm, at: int = at) -> bool:
            return at - each.first_window <= ONE_CAUSE and _holds(each, at, newest)

        holding = [several for several in found if any(map(is_recent, several))]
        if must_begin_together:
            at_once = {each.entity_id for several in holding for each in several if is_recent(each)}
            if len(at_once | {alarm.entity_id}) < half:
                holding = [several for several in holding if at - several[-1].first_window <= window]
        joined = sorted((each for several in holding for each in several), key=_order)
        found = [several for several in found if several not in holding]
        found.append([*joined, alarm])
    return found


def _half(transformers: int) -> int:
    return max(-(-transformers * COMM_SHARE_PCT // 100), LEAST_TRANSFORMERS)


def _most_at_once(together: Sequence[Alarm]) -> int:
    """How many transformers have one of these alarms in one window, at most."""
    newest = max(alarm.last_window for alarm in together)
    return max(
        len({each.entity_id for each in together if _holds(each, alarm.first_window, newest)}) for alarm in together
    )


def _order(alarm: Alarm) -> tuple[int, str]:
    return alarm.first_window, alarm.alarm_id


def _holds(alarm: Alarm, window_end: int, newest: int) -> bool:
    # One that is open holds, also where its newest windows are not judged yet.
    last = newest if alarm.state != "CLEARED" else alarm.last_window
    return alarm.first_window <= window_end <= last


def _group(feeder_id: str, group_type: str, together: Sequence[Alarm], window: int) -> Alarm:
    first, last = together[0].first_window, max(alarm.last_window for alarm in together)
    sign = -1 if group_type == HIGH_VOLTAGE_GROUP else 1
    worst = min(together, key=lambda alarm: (sign * (alarm.worst_value or 0.0), alarm.entity_id))
    return Alarm(
        alarm_id=alarm_id(group_type, feeder_id, first),
        alarm_type=group_type,
        entity_id=feeder_id,
        feeder_id=feeder_id,
        state="ACTIVE" if any(alarm.state == "ACTIVE" for alarm in together) else "CLEARED",
        severity="WARNING",
        first_window=first,
        last_window=last,
        worst_value=worst.worst_value,
        windows_in_violation=(last - first) // window + 1,
        meters_in_violation=sum(alarm.meters_in_violation for alarm in together),
        worst_meter_id=worst.worst_meter_id,
        meters_missing=sum(alarm.meters_missing for alarm in together),
        cause=None,
        revision=0,
        as_of=max(alarm.as_of for alarm in together),
    )
