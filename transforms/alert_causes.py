"""What explains the alerts of a window on a transformer: its outage, or the cause of the alarm they are part of."""

from __future__ import annotations

from collections.abc import Iterable

from ami_beam.records import Alarm, Cause
from transforms.alarm_episodes import OUTAGES
from transforms.comm_alerts import LOW_RECEIPT_RATE
from transforms.group_causes import GROUPS
from transforms.outages import window_of


def causes_of(alarms: Iterable[Alarm], window: int) -> dict[tuple[str, str], list[Cause]]:
    """By transformer and type of alert what explains it, in which windows. A function of the alarms in any order.

    The alerts of an alarm that has a cause are explained by this cause. Receipt alerts of the windows in which a
    transformer was out are explained by the outage, or by what is the outage's cause: always by the outmost alarm, the
    one that an operator sees. Where both hold the outage is named. An alarm without a cause explains nothing: it is
    what its alerts say.

    Args:
      alarms: with their causes, as they were published, or as planned outages hold them.
      window: length in microseconds.
    """
    found: dict[tuple[str, str], list[tuple[bool, Cause]]] = {}
    for alarm in alarms:
        if not alarm.windows_in_violation:
            continue
        if alarm.alarm_type in OUTAGES and alarm.began_at is not None:
            # Every window that it has a part in, as those that say nothing about the receipt rate.
            first = (alarm.began_at // window + 1) * window
            last = None if alarm.ended_at is None else window_of(alarm.ended_at, window)
            if last is None or last >= first:
                cause = Cause(first, last, alarm.cause or alarm.alarm_id)
                found.setdefault((alarm.entity_id, LOW_RECEIPT_RATE), []).append((False, cause))
        elif alarm.alarm_type in GROUPS and alarm.cause is not None:
            cause = Cause(alarm.first_window, alarm.last_window, alarm.cause)
            found.setdefault((alarm.entity_id, alarm.alarm_type), []).append((True, cause))
    return {place: [cause for _, cause in sorted(causes, key=_order)] for place, causes in found.items()}


def _order(found: tuple[bool, Cause]) -> tuple[bool, int, str]:
    is_alarm, cause = found
    return is_alarm, cause.first_window, cause.alarm_id


def cause_in(causes: Iterable[Cause], window_end: int) -> str | None:
    """The alarm_id, or the name of the announced outage or work, of the first that holds in this window."""
    for cause in causes:
        if cause.first_window <= window_end and (cause.last_window is None or window_end <= cause.last_window):
            return cause.alarm_id
    return None
