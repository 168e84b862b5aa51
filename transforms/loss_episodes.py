"""When events of a meter are an alarm of loss control, whatever they arrived in: pure functions."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import NamedTuple

from ami_beam.alert_ids import alarm_id
from ami_beam.instants import MICROS_PER_HOUR
from ami_beam.records import Alarm
from transforms.outages import window_of
from transforms.supply import LATE_AFTER

TOGETHER = 24 * MICROS_PER_HOUR
"""Events within it belong together, and so long after the last one the alarm is over."""


class LossEpisode(NamedTuple):
    """Events of one meter that belong together."""

    times: list[int]
    """When they happened, in order; each instant once."""
    as_of: int
    """Greatest of their record times."""

    @property
    def began_at(self) -> int:
        return self.times[0]

    @property
    def ends_at(self) -> int:
        """When it is over if no further event comes."""
        return self.times[-1] + TOGETHER


def loss_episodes(heard: Mapping[int, int], least: int) -> list[LossEpisode]:
    """All episodes of a meter's events of one type, in order; depends on nothing but what was heard.

    One begins with the first of `least` events within 24 hours of which none was late, takes in every event, late or
    not, that happened up to 24 hours after the one before, and is over 24 hours after the last.

    Args:
      heard: by the instant of an event the record time (microseconds) at which it arrived first.
      least: how many events open an alarm.
    """
    ordered = sorted(heard.items())
    prompt = [at for at, record_time in ordered if record_time - at <= LATE_AFTER]
    found: list[LossEpisode] = []
    for began, opened in zip(prompt, prompt[least - 1 :], strict=False):
        if opened - began > TOGETHER or (found and began <= found[-1].ends_at):
            continue
        last, members = opened, []
        for at, record_time in ordered[bisect_left(ordered, (began,)) :]:
            if at > last + TOGETHER:
                break
            last = max(last, at)
            members.append((at, record_time))
        found.append(LossEpisode([at for at, _ in members], max(record_time for _, record_time in members)))
    return found


def loss_alarm(
    alarm_type: str, meter_id: str, episode: LossEpisode, feeder_id: str | None, read_to: int, window: int
) -> Alarm:
    """The alarm of an episode when records have been read to this instant; `worst_value` is the number of events."""
    over = episode.ends_at <= read_to
    windows = {window_of(at, window) for at in episode.times}
    first, last = min(windows), max(windows)
    return Alarm(
        alarm_id=alarm_id(alarm_type, meter_id, first),
        alarm_type=alarm_type,
        entity_id=meter_id,
        feeder_id=feeder_id,
        state="CLEARED" if over else "ACTIVE",
        severity="WARNING",
        first_window=first,
        last_window=last,
        worst_value=len(episode.times),
        windows_in_violation=len(windows),
        meters_in_violation=1,
        worst_meter_id=meter_id,
        meters_missing=0,
        cause=None,
        revision=0,
        as_of=max(episode.as_of, episode.ends_at) if over else episode.as_of,
        began_at=episode.began_at,
        ended_at=episode.ends_at if over else None,
    )
