"""Alarms, the alerts behind them, what the OMS and crews have announced, and who has acknowledged what, as they stand.

Not safe for threads: its owner locks. Bounded: of each kind the oldest go first.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ami_beam.records import Alarm, Alert, Announcement
from transforms.alarm_episodes import OUTAGES
from transforms.group_causes import FEEDER_OUTAGE, SECTION_OUTAGE

MOST_ALARMS = 50_000
MOST_ALERTS = 200_000
MOST_VERSIONS = 50
MOST_ANNOUNCEMENTS = 20_000
OUTAGE_TYPES = (*OUTAGES, FEEDER_OUTAGE, SECTION_OUTAGE)


@dataclass(frozen=True)
class Acknowledgement:
    """That an operator has seen an alarm."""

    alarm_id: str
    user: str
    at: int
    comment: str


@dataclass
class Kept:
    """An alarm as it stands, and how it came to be."""

    alarm: Alarm
    versions: list[Alarm] = field(default_factory=list)
    """As they came, the last one last; at most MOST_VERSIONS."""
    changed: int = 0
    """The board's version when it, or what is shown with it, changed."""
    acknowledged: Acknowledgement | None = None


class AlarmBoard:
    """Takes rows in any order: of each identity the one with the greatest as_of counts, of equal ones the last.

    Args:
      history: microseconds; what has been over for so long goes.
    """

    def __init__(self, history: int) -> None:
        self.history = history
        self.version = 1
        self.announced_version = 1
        self._alarms: dict[str, Kept] = {}
        self._removed: OrderedDict[str, int] = OrderedDict()
        """By id the version in which it went."""
        self._forgotten_up_to = 0
        """A page that was shown an older version has to be told everything again."""
        self._explained: defaultdict[str, set[str]] = defaultdict(set)
        """Ids by their cause."""
        self._alerts: OrderedDict[str, Alert] = OrderedDict()
        self._alerts_of: defaultdict[str, set[str]] = defaultdict(set)
        """Ids by what they are about, and by what explains them."""
        self._announced: OrderedDict[str, Announcement] = OrderedDict()
        self._early: OrderedDict[str, Acknowledgement] = OrderedDict()
        """Acknowledgements of alarms that have not come yet."""
        self.newest = 0
        """The greatest as_of of an alarm or an alert, microseconds."""

    def take_alarm(self, alarm: Alarm) -> bool:
        """Whether it counts."""
        kept = self._alarms.get(alarm.alarm_id)
        if kept is not None and alarm.as_of < kept.alarm.as_of:
            return False
        self.version += 1
        self.newest = max(self.newest, alarm.as_of)
        if kept is None:
            kept = self._alarms[alarm.alarm_id] = Kept(alarm)
            kept.acknowledged = self._early.pop(alarm.alarm_id, None)
            self._removed.pop(alarm.alarm_id, None)
        before = kept.alarm.cause
        kept.alarm = alarm
        if not kept.versions or kept.versions[-1] != alarm:
            kept.versions.append(alarm)
            # The first tells how it began.
            del kept.versions[1 : len(kept.versions) - MOST_VERSIONS + 1]
        kept.changed = self.version
        for cause in {before, alarm.cause} - {None}:
            assert cause is not None
            if cause == alarm.cause:
                self._explained[cause].add(alarm.alarm_id)
            else:
                self._unexplain(cause, alarm.alarm_id)
            self._touch(cause)
        if len(self._alarms) > MOST_ALARMS:
            self._drop(min(self._alarms, key=lambda each: (not self._over(each), self._alarms[each].alarm.as_of)))
        return True

    def take_alert(self, alert: Alert) -> bool:
        """Whether it counts."""
        known = self._alerts.get(alert.alert_id)
        if known is not None and alert.as_of < known.as_of:
            return False
        self.newest = max(self.newest, alert.as_of)
        if known is not None:
            self._unlist(known)
        self._alerts[alert.alert_id] = alert
        self._alerts.move_to_end(alert.alert_id)
        for key in (alert.entity_id, alert.explained_by):
            if key is not None:
                self._alerts_of[key].add(alert.alert_id)
        while len(self._alerts) > MOST_ALERTS:
            self._unlist(self._alerts.popitem(last=False)[1])
        return True

    def take_announcement(self, announcement: Announcement) -> bool:
        """Whether it counts."""
        known = self._announced.get(announcement.name)
        if known is not None and announcement.version < known.version:
            return False
        self._announced[announcement.name] = announcement
        self._announced.move_to_end(announcement.name)
        self.announced_version += 1
        while len(self._announced) > MOST_ANNOUNCEMENTS:
            self._announced.popitem(last=False)
        return True

    def acknowledge(self, acknowledgement: Acknowledgement) -> None:
        """The last one of an alarm counts, by its time."""
        kept = self._alarms.get(acknowledgement.alarm_id)
        if kept is None:
            self._early[acknowledgement.alarm_id] = acknowledgement
            while len(self._early) > MOST_ALARMS:
                self._early.popitem(last=False)
        elif kept.acknowledged is None or acknowledgement.at >= kept.acknowledged.at:
            self.version += 1
            kept.acknowledged = acknowledgement
            kept.changed = self.version

    def forget(self, newest: int) -> None:
        """Drop what has been over since before `newest` − history."""
        until = newest - self.history
        for identity in [each for each, kept in self._alarms.items() if self._over(each) and last(kept.alarm) < until]:
            self._drop(identity)
        while self._alerts:
            alert = next(iter(self._alerts.values()))
            if max(alert.alert_time, alert.as_of) >= until:
                break
            self._unlist(self._alerts.pop(alert.alert_id))
        gone = [
            name
            for name, each in self._announced.items()
            if not self._explained.get(name) and _ended(each) is not None and (_ended(each) or 0) < until
        ]
        for name in gone:
            del self._announced[name]
        self.announced_version += bool(gone)

    def get(self, identity: str) -> Kept | None:
        return self._alarms.get(identity)

    def alarms(self) -> Iterator[Kept]:
        """All of them, in no order."""
        yield from self._alarms.values()

    def changes(self, since: int) -> tuple[list[Kept], list[str]] | None:
        """What has changed after a version, and what has gone; None where that is not known any more."""
        if since < self._forgotten_up_to:
            return None
        gone = [identity for identity, version in self._removed.items() if version > since]
        return [kept for kept in self._alarms.values() if kept.changed > since], gone

    def explained(self, name: str) -> set[str]:
        """Ids of the alarms that have this as their cause."""
        return self._explained.get(name, set())

    def of_entities(self, entities: Iterable[str]) -> list[Kept]:
        """The alarms about any of these, newest first."""
        wanted = set(entities)
        found = [kept for kept in self._alarms.values() if kept.alarm.entity_id in wanted]
        return sorted(found, key=lambda kept: kept.alarm.first_window, reverse=True)

    def alerts_of(self, entity: str) -> list[Alert]:
        """The alerts about one entity, oldest first."""
        found = (self._alerts[each] for each in self._alerts_of.get(entity, ()))
        return sorted((each for each in found if each.entity_id == entity), key=_alert_order)

    def alerts_behind(self, alarm: Alarm) -> list[Alert]:
        """The per-window alerts that the alarm is made of, or explains, oldest first."""
        found = {
            each.alert_id: each
            for each in self.alerts_of(alarm.entity_id)
            if each.alert_type == alarm.alarm_type
            and each.window_end is not None
            and alarm.first_window <= each.window_end <= alarm.last_window
        }
        for identity in self._alerts_of.get(alarm.alarm_id, ()):
            if self._alerts[identity].explained_by == alarm.alarm_id:
                found[identity] = self._alerts[identity]
        return sorted(found.values(), key=_alert_order)

    def announcement(self, name: str) -> Announcement | None:
        return self._announced.get(name)

    def announcements(self) -> list[Announcement]:
        """Those that were not cancelled, by their beginning."""
        return sorted((each for each in self._announced.values() if each.active), key=lambda each: each.begins)

    def outages(self) -> list[Kept]:
        """Alarms that are outages, in no order."""
        return [kept for kept in self._alarms.values() if kept.alarm.alarm_type in OUTAGE_TYPES]

    def _over(self, identity: str) -> bool:
        return self._alarms[identity].alarm.state != "ACTIVE"

    def _touch(self, cause: str) -> None:
        kept = self._alarms.get(cause)
        if kept is not None:
            kept.changed = self.version
        else:
            self.announced_version += 1

    def _drop(self, identity: str) -> None:
        alarm = self._alarms.pop(identity).alarm
        if alarm.cause is not None:
            self._unexplain(alarm.cause, identity)
        self.version += 1
        self._removed[identity] = self.version
        while len(self._removed) > MOST_ALARMS:
            self._forgotten_up_to = self._removed.popitem(last=False)[1]

    def _unexplain(self, cause: str, identity: str) -> None:
        others = self._explained.get(cause)
        if others is not None:
            others.discard(identity)
            if not others:
                del self._explained[cause]

    def _unlist(self, alert: Alert) -> None:
        for key in (alert.entity_id, alert.explained_by):
            if key is not None and key in self._alerts_of:
                self._alerts_of[key].discard(alert.alert_id)
                if not self._alerts_of[key]:
                    del self._alerts_of[key]


def last(alarm: Alarm) -> int:
    """The last instant that an alarm is about, microseconds."""
    return max(alarm.last_window, alarm.ended_at or 0, alarm.as_of)


def _ended(announcement: Announcement) -> int | None:
    return announcement.ends if announcement.active else announcement.record_time


def _alert_order(alert: Alert) -> tuple[int, str]:
    return alert.window_end or alert.alert_time, alert.alert_id
