"""What announced outages do to alarms: which one is the cause of an alarm, and which alarms a planned one holds."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from ami_beam.codecs.json_announcements import PLANNED
from ami_beam.instants import MICROS_PER_SECOND
from ami_beam.records import Alarm, Announcement, TransformerPlace
from ami_beam.settings import Settings
from transforms.alarm_episodes import OUTAGES
from transforms.announcements import LEEWAY, until
from transforms.group_causes import FEEDER_OUTAGE, GROUPS, HIGH_VOLTAGE_GROUP, SECTION_OUTAGE
from transforms.voltage_alerts import HIGH_VOLTAGE

EXPLAINED = {*OUTAGES, *GROUPS, *GROUPS.values(), FEEDER_OUTAGE, SECTION_OUTAGE} - {HIGH_VOLTAGE, HIGH_VOLTAGE_GROUP}
"""Kinds of alarm that a lack of supply explains. It lifts no voltage."""


class Announced(NamedTuple):
    """Alarms as an operator is to see them."""

    alarms: list[Alarm]
    look_again_at: int | None
    """When the first that is held by the clock is to be shown, if it is not over by then."""
    held: list[Alarm]
    """Those that are not to be seen, with what holds them as their cause: they explain alerts all the same."""


def planned_apart(
    alarms: Iterable[Alarm],
    announced: Sequence[Announcement],
    places: Mapping[str, TransformerPlace],
    settings: Settings,
) -> tuple[list[Alarm], list[Alarm]]:
    """Those that a planned outage of their own transformer explains, and the others.

    The first make no group with others: several transformers that are switched off as planned are no outage of a
    section, and must not wake anybody as one.
    """
    own = [each for each in announced if each.entity_type == "TRANSFORMER"]
    apart: list[Alarm] = []
    others: list[Alarm] = []
    for alarm in alarms:
        delay = _delay(alarm, places, settings)
        by = explanation(alarm, own, delay, settings)
        (others if by is None or not _is_planned(alarm, by, delay, settings) else apart).append(alarm)
    return apart, others


def with_announced(
    alarms: Iterable[Alarm],
    announced: Sequence[Announcement],
    places: Mapping[str, TransformerPlace],
    told: Container[str],
    now: int,
    settings: Settings,
) -> Announced:
    """The alarms of one feeder with announced outages as their causes, without those that a planned one holds.

    An alarm that begins in an announced outage of its transformer or feeder has it as its cause, before any other. A
    planned outage holds the alarms that open after it was announced, until they have lasted longer than it. An alarm
    that was published once is never held again: an operator has seen it, and may have sent somebody. It goes on with
    its cause, which takes it off the list of those that nobody explains; taken back it would be as if nothing had been
    the case.

    A function of what was announced, of the alarms, of what was told and of the time, whatever the order.

    Args:
      alarms: of the feeder's transformers and of the feeder, with causes among themselves.
      announced: of this feeder and its transformers.
      places: of the transformers, by transformer_id.
      told: ids of alarms that were published.
      now: up to when it is known how things are, microseconds.
    """
    shown: list[Alarm] = []
    held: list[Alarm] = []
    behind: dict[str | None, str] = {}
    looks: list[int] = []
    for alarm in alarms:
        delay = _delay(alarm, places, settings)
        by = explanation(alarm, announced, delay, settings)
        if by is None:
            shown.append(alarm)
            continue
        behind[alarm.alarm_id] = by.name
        if alarm.alarm_id not in told and is_held(alarm, by, now, delay, settings):
            held.append(replace(alarm, cause=by.name))
            if alarm.began_at is not None and alarm.ended_at is None:
                looks.append(_release(by, delay, settings) + MICROS_PER_SECOND)
        else:
            shown.append(replace(alarm, cause=by.name))
    # What joined an alarm of the feeder, which may be held, has what stands behind that.
    caused = [replace(alarm, cause=behind[alarm.cause]) if alarm.cause in behind else alarm for alarm in shown]
    return Announced(caused, min(looks, default=None), held)


def explanation(alarm: Alarm, announced: Iterable[Announcement], delay: int, settings: Settings) -> Announcement | None:
    """The announced outage in which the alarm begins: of several one that holds it, and of those the one that ends
    last."""
    if alarm.alarm_type not in EXPLAINED:
        return None
    found = [
        each
        for each in announced
        if each.active
        and (each.entity_type == "FEEDER" or each.entity_id == alarm.entity_id)
        and _begins_in(alarm, each, settings.window)
    ]
    return max(
        found,
        key=lambda each: (
            _is_planned(alarm, each, delay, settings), each.kind == PLANNED, until(each), each.name,
        ),
        default=None,
    )  # fmt: skip


def is_held(alarm: Alarm, by: Announcement, now: int, delay: int, settings: Settings) -> bool:
    """Whether a planned outage, in which the alarm begins, is all that is known of it at `now`.

    Of windows: the last in violation begins before the announced end. An outage: it is over by then or, where only
    reads tell of it, a window and their delay later; while it goes on the clock decides.
    """
    if not _is_planned(alarm, by, delay, settings):
        return False
    if alarm.began_at is None:
        return alarm.last_window - settings.window < until(by) + LEEWAY
    return (now if alarm.ended_at is None else alarm.ended_at) <= _release(by, delay, settings)


def _begins_in(alarm: Alarm, announced: Announcement, window: int) -> bool:
    # Of a window it is not known when in it the violation began.
    first, last = (
        (alarm.first_window - window, alarm.first_window)
        if alarm.began_at is None
        else (alarm.began_at, alarm.began_at)
    )
    return last >= announced.begins - LEEWAY and first < until(announced)


def _is_planned(alarm: Alarm, by: Announcement, delay: int, settings: Settings) -> bool:
    """Whether it was announced as planned before the alarm could open.

    By record times and not by what was read first: a replay holds what a live run has held.
    """
    opens_at = alarm.began_at
    if opens_at is None:
        opens_at = alarm.first_window + (settings.alarm_on_windows - 1) * settings.window + delay
    return by.kind == PLANNED and by.announced_at <= opens_at


def _release(by: Announcement, delay: int, settings: Settings) -> int:
    """By when the reads of the first whole interval with supply are in."""
    return until(by) + LEEWAY + settings.window + delay


def _delay(alarm: Alarm, places: Mapping[str, TransformerPlace], settings: Settings) -> int:
    """How long after a window it is known what it says: of a feeder the longest of its transformers."""
    of = [places[alarm.entity_id]] if alarm.entity_id in places else places.values()
    delays = [settings.receipt_delay_of(place.receipt_delay) for place in of]
    return max(settings.collection_delay, *(delays or [settings.receipt_delay]))
