"""Grid alerts as they are published: at once, and once more when it is known which alarm explains them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue
from msgspec import Struct, field

from ami_beam.coders import MsgspecCoder
from ami_beam.records import Alert, AlertStatus, Cause, ExplainInput
from ami_beam.settings import Settings
from ami_beam.shards import shard_of
from transforms.alert_causes import cause_in
from transforms.alert_lifecycle import MAX_ADOPTED
from transforms.comm_alerts import LOW_RECEIPT_RATE
from transforms.decode_reads import METRICS
from transforms.end_of_replay import EXPLAINED_AT_END
from transforms.state_log import read_log
from transforms.voltage_alerts import HIGH_VOLTAGE, LOW_VOLTAGE
from transforms.window_alert import alert_of
from transforms.window_expiry import expiry

NEWS, PUBLISHED, FORGET = "news", "published", "forget"
"""Why the timer fires: alerts or causes have changed, alerts were found in their topic, or some are very old."""
SOURCES: dict[str, Literal["COMM", "VOLTAGE"]] = {
    LOW_RECEIPT_RATE: "COMM", LOW_VOLTAGE: "VOLTAGE", HIGH_VOLTAGE: "VOLTAGE",
}  # fmt: skip
"""By type of alert."""


class ToldAlert(Struct, array_like=True, gc=False):
    """An alert as consumers know it."""

    status: AlertStatus
    value: float | None
    revision: int
    as_of: int
    feeder_id: str | None
    counts_version: str | None
    explained_by: str | None = None
    judged: bool = True
    """Whether this run has judged it. One that was only found in the topic may be of a run that knew more."""
    adopted: int = 0
    """How often it was found in the topic with a content that was not ours."""


class KeptTransformer(Struct, array_like=True, gc=False):
    """The alerts of one transformer of whose windows reads may still come, and what explains them."""

    alerts: dict[str, dict[int, ToldAlert]] = field(default_factory=dict)
    """By type and window_end."""
    causes: dict[str, dict[str, list[Cause]]] = field(default_factory=dict)
    """By type of alert, and by the group that says so: one while the transformer belongs to it."""

    def cause(self, alert_type: str, window_end: int) -> str | None:
        groups = self.causes.get(alert_type, {})
        return cause_in((cause for name in sorted(groups) for cause in groups[name]), window_end)


class KeptShard(Struct, array_like=True, gc=False):
    """The transformers of a shard that have alerts or what would explain some."""

    transformers: dict[str, KeptTransformer] = field(default_factory=dict)


class LogEntry(Struct, array_like=True, gc=False):
    """An element of a shard's log: something that has come, or what was known when it was read."""

    news: ExplainInput | None
    kept: KeptShard | None


class ExplainAlerts(beam.PTransform):
    """Every alert at once as it comes, and a copy of it whenever another alarm explains it than was published.

    A copy has `explained_by` (null where the explanation was taken back) and is else the alert as it stands, with the
    same status, revision and as_of: to whoever follows the alert's life it says nothing new. It comes after what it is
    a copy of, because both leave this step for one key; a later revision comes without an explanation, and is followed
    by its copy. A CLEARED alert is not explained any more.

    An alert in the topic that an attempt has published which a failure has ended is explained, too.

    A bounded run gives every alert once, at its end, with what explains it.

    Takes the alerts (`JudgeWindows`), and what explains them (`PublishAlarms`) flattened with the alerts read back
    (`PublishedAlerts`), both keyed by shard.

    State per shard: about 100 bytes an alert, until its window's reads are too late. It is a log: what arrives is only
    appended. Counter: explained_alerts, copies.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, inputs: tuple[beam.PCollection, beam.PCollection]) -> beam.PCollection[Alert]:
        alerts, known = inputs
        by_shard = alerts | "ByShard" >> beam.ParDo(_ByShardDoFn(self._settings.shards)).with_output_types(
            tuple[int, ExplainInput]
        )
        label = f"Explain {self._settings.state_label()}"
        return (
            (by_shard, known)
            | "AlertsAndCauses" >> beam.Flatten()
            | label >> beam.ParDo(_ExplainDoFn(self._settings)).with_output_types(Alert)
        )


class _ByShardDoFn(beam.DoFn):
    """An element a bundle, shard and instant: it costs more than an alert."""

    def __init__(self, shards: int):
        self._shards = shards
        self._found: dict[tuple[int, Timestamp], list[Alert]] = {}

    def start_bundle(self) -> None:
        self._found = {}

    def process(self, alert: Alert, at: Any = beam.DoFn.TimestampParam) -> None:
        self._found.setdefault((shard_of(alert.entity_id, self._shards), at), []).append(alert)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        found, self._found = self._found, {}
        for (shard, at), alerts in found.items():
            yield WindowedValue((shard, ExplainInput(alerts)), at, (GlobalWindow(),))


@beam.typehints.with_input_types(tuple[int, ExplainInput])
class _ExplainDoFn(beam.DoFn):
    LOG = BagStateSpec("explain_log", MsgspecCoder(LogEntry))
    EXPLAIN = TimerSpec("alerts_explain", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings
        self._explained = Metrics.counter(METRICS, "explained_alerts")

    def process(
        self,
        element: tuple[int, ExplainInput],
        at: Any = beam.DoFn.TimestampParam,
        log: Any = beam.DoFn.StateParam(LOG),
        explain: Any = beam.DoFn.TimerParam(EXPLAIN),
    ) -> Iterator[Alert]:
        news = element[1]
        log.add(LogEntry(news, None))
        if not self._settings.live:
            explain.set(Timestamp(micros=EXPLAINED_AT_END), dynamic_timer_tag=NEWS)
            return
        if news.published:
            newest = max(alert.as_of for alert in news.published)
            explain.set(Timestamp(micros=self._next_window_due(newest)), dynamic_timer_tag=PUBLISHED)
        else:
            # The watermark passes it when the alarms of this instant have been published, too.
            explain.set(at, dynamic_timer_tag=NEWS)
        yield from news.alerts

    def _next_window_due(self, instant: int) -> int:
        """What is read back is hardly ever news: it is looked at with the next window's alerts."""
        size = self._settings.window
        return (instant // size + 1) * size + self._settings.collection_delay

    @on_timer(EXPLAIN)
    def on_explain(
        self,
        tag: Any = beam.DoFn.DynamicTimerTagParam,
        at: Any = beam.DoFn.TimestampParam,
        log: Any = beam.DoFn.StateParam(LOG),
        explain: Any = beam.DoFn.TimerParam(EXPLAIN),
    ) -> Iterator[Alert]:
        news, kept = read_log(log)
        if not news and tag != FORGET:
            return
        kept = kept or KeptShard()
        copies = update(kept, news, self._settings.window)
        if not self._settings.live:
            yield from held_back(news, copies)
            log.clear()
            log.add(LogEntry(None, kept))
            return
        self._explained.inc(len(copies))
        yield from copies
        newest = forget(kept, at.micros, self._settings)
        log.clear()
        if kept.transformers:
            log.add(LogEntry(None, kept))
        if newest is not None:
            explain.set(Timestamp(micros=expiry(self._settings, newest)), dynamic_timer_tag=FORGET)


class _Place(NamedTuple):
    transformer_id: str
    alert_type: str
    window_end: int


def update(kept: KeptShard, news: Iterable[ExplainInput], window: int) -> list[Alert]:
    """Take news in: copies of the alerts that are explained by something else than was published, noted as told."""
    told: dict[_Place, None] = {}
    for each in news:
        for alert in each.alerts:
            if _take(kept, alert):
                told[_place(alert)] = None
        for causes in each.causes:
            transformer = kept.transformers.setdefault(causes.transformer_id, KeptTransformer())
            groups = transformer.causes.setdefault(causes.alert_type, {})
            groups.pop(causes.group, None)
            if causes.causes:
                groups[causes.group] = causes.causes
            for window_end in transformer.alerts.get(causes.alert_type, ()):
                told[_Place(causes.transformer_id, causes.alert_type, window_end)] = None
    # After our own, which have left before they could be read back.
    unsure = _read_back(kept, [alert for each in news for alert in each.published if alert.alert_type in SOURCES], told)
    copies = []
    for place in told:
        transformer_id, alert_type, window_end = place
        transformer = kept.transformers[transformer_id]
        stands = transformer.alerts[alert_type][window_end]
        cause = transformer.cause(alert_type, window_end)
        if stands.status == "CLEARED" or (cause is None and not stands.judged):
            continue
        if cause != stands.explained_by or place in unsure:
            stands.explained_by, stands.judged = cause, True
            copies.append(_copy(transformer_id, alert_type, window_end, stands, window))
    return copies


def held_back(news: Iterable[ExplainInput], copies: Iterable[Alert]) -> Iterator[Alert]:
    """The alerts that were not handed on yet, with what explains them, and copies of others."""
    explained = {(copy.alert_id, copy.revision): copy for copy in copies}
    for each in news:
        for alert in each.alerts:
            yield explained.pop((alert.alert_id, alert.revision), alert)
    yield from explained.values()


def _place(alert: Alert) -> _Place:
    assert alert.window_end is not None
    return _Place(alert.entity_id, alert.alert_type, alert.window_end)


def _alerts(kept: KeptShard, alert: Alert) -> dict[int, ToldAlert]:
    transformer = kept.transformers.setdefault(alert.entity_id, KeptTransformer())
    return transformer.alerts.setdefault(alert.alert_type, {})


def _told(alert: Alert) -> ToldAlert:
    return ToldAlert(
        alert.status, alert.detail_value, alert.revision, alert.as_of, alert.feeder_id, alert.meter_counts_version,
        alert.explained_by,
    )  # fmt: skip


def _take(kept: KeptShard, alert: Alert) -> bool:
    """Note what was published just now; False where consumers keep what they had: the greatest as_of."""
    alerts, window_end, found = _alerts(kept, alert), _place(alert).window_end, _told(alert)
    known = alerts.get(window_end)
    if known is not None and _is_newer(known, found):
        known.judged = True
        return False
    found.adopted = known.adopted if known is not None else 0
    alerts[window_end] = found
    return True


def _read_back(kept: KeptShard, published: Iterable[Alert], told: dict[_Place, None]) -> set[_Place]:
    """Note what stands in the topic, in its order; into `told` where it is not what we know, and no older.

    Gives those that are what we know, with another explanation than we gave last. Whether that came before ours or
    after, the topic does not say, so ours is to be given again.
    """
    new: set[_Place] = set()
    explained_by: dict[_Place, str | None] = {}
    for alert in published:
        place, alerts, found = _place(alert), _alerts(kept, alert), _told(alert)
        known = alerts.get(place.window_end)
        if known is None or _is_newer(found, known):
            if known is not None and known.adopted >= MAX_ADOPTED:
                continue
            found.judged = known is not None and known.judged
            found.adopted = known.adopted + 1 if known is not None else 0
            alerts[place.window_end] = found
            new.add(place)
            told[place] = None
        elif (found.as_of, found.revision, found.status, found.value) == (
            known.as_of, known.revision, known.status, known.value,
        ):  # fmt: skip
            if place in new:
                known.explained_by = found.explained_by
            else:
                explained_by[place] = found.explained_by
    unsure = set()
    for place, cause in explained_by.items():
        known = kept.transformers[place.transformer_id].alerts[place.alert_type][place.window_end]
        if cause != known.explained_by and place not in new and known.adopted < MAX_ADOPTED:
            known.adopted += 1
            unsure.add(place)
            told[place] = None
    return unsure


def _is_newer(one: ToldAlert, other: ToldAlert) -> bool:
    """Whether consumers keep this one; of equal ones the later in the topic."""
    return (one.as_of, one.revision) > (other.as_of, other.revision)


def _copy(transformer_id: str, alert_type: str, window_end: int, told: ToldAlert, window: int) -> Alert:
    alert = alert_of(
        SOURCES[alert_type], alert_type, transformer_id, told.feeder_id, window_end - window, window_end,
        told.status, told.value, told.revision, told.as_of,
    )  # fmt: skip
    alert.explained_by, alert.meter_counts_version = told.explained_by, told.counts_version
    return alert


def forget(kept: KeptShard, watermark: int, settings: Settings) -> int | None:
    """Drop the windows of which nothing new can come; the last of the others, None where there is none."""
    last = watermark - expiry(settings, 0)
    newest: list[int] = []
    for transformer in kept.transformers.values():
        for alerts in transformer.alerts.values():
            for window_end in [end for end in alerts if end <= last]:
                del alerts[window_end]
            newest += [max(alerts)] if alerts else []
        for groups in transformer.causes.values():
            for group, causes in list(groups.items()):
                groups[group] = [each for each in causes if each.last_window is None or each.last_window > last]
                newest += [each.last_window for each in groups[group] if each.last_window is not None]
                if not groups[group]:
                    del groups[group]
        transformer.alerts = {alert_type: alerts for alert_type, alerts in transformer.alerts.items() if alerts}
        transformer.causes = {alert_type: groups for alert_type, groups in transformer.causes.items() if groups}
    kept.transformers = {name: each for name, each in kept.transformers.items() if each.alerts or each.causes}
    return max(newest, default=None)
