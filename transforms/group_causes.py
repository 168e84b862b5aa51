"""What explains the alarms of transformers that belong together: an outage of their feeder, or of its collection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from ami_beam.alert_ids import alarm_id
from ami_beam.records import Alarm, AlarmState, TransformerPlace
from transforms.alarm_episodes import SINGLE_OUTAGE, TRANSFORMER_OUTAGE
from transforms.comm_alerts import LOW_RECEIPT_RATE
from transforms.outages import Member, needed, outages, window_of
from transforms.receipt_rate import receipt_rate_pct

FEEDER_OUTAGE, COMM_GROUP = "FEEDER_OUTAGE", "COMM_GROUP"
LEAST_TRANSFORMERS = 2
"""One transformer explains itself."""
COMM_SHARE_PCT = 50


def explained(
    feeder_id: str, alarms: Iterable[Alarm], places: Mapping[str, TransformerPlace], window: int
) -> list[Alarm]:
    """The alarms with their causes, and the alarms that are these causes.

    FEEDER_OUTAGE: outages of two transformers or more that begin within five minutes and leave 30 % of the feeder's
    meters without supply. COMM_GROUP: half of its transformers, two at least, have receipt alarms in one window.
    A function of the alarms and places, whatever their order.

    Args:
      alarms: of the feeder's transformers.
      places: of all its transformers, by transformer_id.
      window: length in microseconds.
    """
    known = sorted(alarms, key=lambda alarm: (alarm.first_window, alarm.alarm_id))
    causes = [*_feeder_outages(feeder_id, known, places, window), *_comm_groups(feeder_id, known, places, window)]
    cause_of = {child: cause.alarm_id for cause, children in causes for child in children}
    return [replace(alarm, cause=cause_of.get(alarm.alarm_id)) for alarm in known] + [cause for cause, _ in causes]


def _feeder_outages(
    feeder_id: str, alarms: Sequence[Alarm], places: Mapping[str, TransformerPlace], window: int
) -> list[tuple[Alarm, list[str]]]:
    total = sum(place.total_meters for place in places.values())
    out = {alarm.alarm_id: alarm for alarm in alarms if alarm.alarm_type in (TRANSFORMER_OUTAGE, SINGLE_OUTAGE)}
    members = [
        Member(name, alarm.began_at, alarm.ended_at, alarm.meters_in_violation, alarm.as_of)
        for name, alarm in out.items()
        if alarm.began_at is not None
    ]
    found: dict[str, tuple[Alarm, list[str]]] = {}
    for outage in outages(members, max(needed(total), LEAST_TRANSFORMERS)) if members and total else ():
        children = [member.name for member in outage.members]
        if len({out[child].entity_id for child in children}) < LEAST_TRANSFORMERS:
            continue
        first = window_of(outage.began_at, window)
        last = window_of(outage.members[-1].at if outage.ended_at is None else outage.ended_at, window)
        state: AlarmState = "CLEARED"
        if outage.ended_at is None:
            state = "ACTIVE" if any(out[child].state == "ACTIVE" for child in children) else "UNKNOWN"
        alarm = Alarm(
            alarm_id=alarm_id(FEEDER_OUTAGE, feeder_id, first),
            alarm_type=FEEDER_OUTAGE,
            entity_id=feeder_id,
            feeder_id=feeder_id,
            state=state,
            severity="CRITICAL",
            first_window=first,
            last_window=last,
            worst_value=min(receipt_rate_pct(outage.most, total), 100.0),
            windows_in_violation=(last - first) // window + 1,
            meters_in_violation=outage.most,
            worst_meter_id=out[children[0]].worst_meter_id,
            meters_missing=0,
            cause=None,
            revision=0,
            as_of=outage.as_of,
            began_at=outage.began_at,
            ended_at=outage.ended_at,
            meters_total=total,
            momentary=outage.momentary,
        )
        # Of several that begin in one window the last says how it stands.
        earlier = found.get(alarm.alarm_id)
        if earlier is not None:
            alarm.began_at, children = earlier[0].began_at, earlier[1] + children
        found[alarm.alarm_id] = alarm, children
    return list(found.values())


def _comm_groups(
    feeder_id: str, alarms: Sequence[Alarm], places: Mapping[str, TransformerPlace], window: int
) -> list[tuple[Alarm, list[str]]]:
    silent = [alarm for alarm in alarms if alarm.alarm_type == LOW_RECEIPT_RATE and alarm.windows_in_violation]
    need = max(LEAST_TRANSFORMERS, -(-len(places) * COMM_SHARE_PCT // 100))
    if len(silent) < need:
        return []
    newest = max(alarm.last_window for alarm in silent)
    # An alarm that is open holds, also where its newest windows are not judged yet.
    spans = {
        alarm.alarm_id: (alarm.first_window, newest if alarm.state == "ACTIVE" else alarm.last_window)
        for alarm in silent
    }
    found: list[tuple[Alarm, list[str]]] = []
    begin = None
    for end in sorted({edge for first, last in spans.values() for edge in (first, last, last + window)}):
        enough = sum(first <= end <= last for first, last in spans.values()) >= need
        if enough and begin is None:
            begin = end
        elif not enough and begin is not None:
            found.append(_comm_group(feeder_id, silent, spans, begin, end - window, newest, window))
            begin = None
    return found


def _comm_group(
    feeder_id: str,
    silent: Sequence[Alarm],
    spans: Mapping[str, tuple[int, int]],
    first: int,
    last: int,
    newest: int,
    window: int,
) -> tuple[Alarm, list[str]]:
    within = [alarm for alarm in silent if spans[alarm.alarm_id][0] <= last and spans[alarm.alarm_id][1] >= first]
    active = last == newest and any(alarm.state == "ACTIVE" for alarm in within)
    worst = min(within, key=lambda alarm: (alarm.worst_value or 0.0, alarm.entity_id))
    group = Alarm(
        alarm_id=alarm_id(COMM_GROUP, feeder_id, first),
        alarm_type=COMM_GROUP,
        entity_id=feeder_id,
        feeder_id=feeder_id,
        state="ACTIVE" if active else "CLEARED",
        severity="WARNING",
        first_window=first,
        last_window=last,
        worst_value=worst.worst_value,
        windows_in_violation=(last - first) // window + 1,
        meters_in_violation=sum(alarm.meters_in_violation for alarm in within),
        worst_meter_id=None,
        meters_missing=sum(alarm.meters_missing for alarm in within),
        cause=None,
        revision=0,
        as_of=max(alarm.as_of for alarm in within),
    )
    return group, [alarm.alarm_id for alarm in within]
