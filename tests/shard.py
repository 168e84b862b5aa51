"""A shard of transformers and the groups behind it, without a runner: alarms out of what steps before them say."""

from __future__ import annotations

import msgspec

from ami_beam.records import Alarm, AlarmInput, Cause, GroupInput, TransformerPlace
from ami_beam.settings import Settings
from transforms.alarm_episodes import KeptShard, forget, is_collector, update
from transforms.alert_causes import cause_in
from transforms.collection_groups import KeptCollector, forget_collector, update_collector
from transforms.publish_alarms import KeptGroup, forget_group, update_causes, update_group


class Shard:
    """The state of one shard and its groups, through the bytes of their coders after every update."""

    def __init__(self, settings: Settings) -> None:
        self.kept = KeptShard()
        self.groups: dict[str, KeptGroup] = {}
        self.collectors: dict[str, KeptCollector] = {}
        self.places: dict[str, TransformerPlace] = {}
        self.alarms: list[Alarm] = []
        self.causes: dict[tuple[str, str, str], list[Cause]] = {}
        """By transformer, type of alert and group what explains alerts, as it was given last."""
        self._settings = settings

    def take(self, *news: AlarmInput, watermark: int = 0) -> None:
        for group, found in update(self.kept, news, self._settings, self).items():
            if is_collector(group):
                self.collect(group, found, watermark)
            else:
                self.publish(group, found, watermark)
        forget(self.kept, watermark, self._settings)
        self.kept = msgspec.msgpack.decode(msgspec.msgpack.encode(self.kept), type=KeptShard)

    def publish(self, group: str, news: GroupInput, watermark: int = 0) -> None:
        kept = self.groups.get(group, KeptGroup())
        # As it goes over the wire: what one holds the other must not change.
        news = msgspec.msgpack.decode(msgspec.msgpack.encode(news), type=GroupInput)
        self.alarms += [
            msgspec.structs.replace(alarm) for alarm in update_group(group, kept, [news], watermark, self._settings)
        ]
        for several in update_causes(group, kept, self._settings).values():
            for each in several:
                place = (each.transformer_id, each.alert_type, each.group)
                assert self.causes.get(place, []) != each.causes
                self.causes[place] = each.causes
                if not each.causes:
                    del self.causes[place]
        forget_group(kept, watermark, self._settings)
        self.groups[group] = msgspec.msgpack.decode(msgspec.msgpack.encode(kept), type=KeptGroup)

    def collect(self, collector: str, news: GroupInput, watermark: int = 0) -> None:
        kept = self.collectors.get(collector, KeptCollector())
        news = msgspec.msgpack.decode(msgspec.msgpack.encode(news), type=GroupInput)
        for group, found in update_collector(collector, kept, [news], self._settings).items():
            self.publish(group, found, watermark)
        forget_collector(kept, watermark, self._settings)
        self.collectors[collector] = msgspec.msgpack.decode(msgspec.msgpack.encode(kept), type=KeptCollector)

    def explanation(
        self, window_end: int, transformer_id: str = "T1", alert_type: str = "LOW_RECEIPT_RATE"
    ) -> str | None:
        """What explains the alert of this window."""
        found = [causes for place, causes in self.causes.items() if place[:2] == (transformer_id, alert_type)]
        return cause_in((cause for causes in found for cause in causes), window_end)

    def get(self, transformer_id: str) -> TransformerPlace | None:
        return self.places.get(transformer_id)

    def put(self, place: TransformerPlace) -> None:
        self.places[place.transformer_id] = place


def final(alarms: list[Alarm]) -> dict[str, Alarm]:
    """By id what was said last, without what was taken back."""
    last: dict[str, Alarm] = {}
    for alarm in alarms:
        assert alarm.alarm_id not in last or alarm.revision == last[alarm.alarm_id].revision + 1
        last[alarm.alarm_id] = alarm
    return {
        name: msgspec.structs.replace(alarm, revision=0, as_of=0)
        for name, alarm in last.items()
        if alarm.windows_in_violation
    }
