"""Judges transformers by what was received and measured in a window: receipt rows, COMM and VOLTAGE alerts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp
from msgspec import Struct, field
from msgspec.structs import replace

from ami_beam.coders import MsgspecCoder
from ami_beam.instants import MICROS_PER_MINUTE
from ami_beam.records import (
    AlarmInput,
    Alert,
    JudgeInput,
    Level,
    MeterCount,
    MetersBeyond,
    Observation,
    PublishedAlert,
    ReceiptBatch,
    ReceiptDue,
    ReceiptRow,
    Verdict,
)
from ami_beam.settings import Settings
from ami_beam.shards import ShardWindow
from transforms.alert_lifecycle import AlertState, adopt
from transforms.comm_alerts import LOW_RECEIPT_RATE, comm_alert
from transforms.receipt_rate import Heard, PublishedReceipt, heard, publish, row
from transforms.verdicts import (
    high_voltage_level,
    low_voltage_level,
    receipt_level,
    receipt_verdict,
    voltage_verdicts,
)
from transforms.voltage_alerts import HIGH_VOLTAGE, LOW_VOLTAGE, VoltageState, voltage_alerts
from transforms.window_expiry import expiry

RECEIPTS, COMM, VOLTAGE, VERDICTS = "receipts", "comm", "voltage", "verdicts"
PUBLISHED = "published"
"""The tag of the timer for alerts that were found in their topic; the others' is the delay after which they fire."""
RECONCILE_AFTER = MICROS_PER_MINUTE
"""So long after an alert's as_of it is compared with what we know, so that a window is read once for all of its."""


class Judged(NamedTuple):
    """What `JudgeWindows` gives."""

    receipts: beam.PCollection[ReceiptBatch]
    comm_alerts: beam.PCollection[Alert]
    voltage_alerts: beam.PCollection[Alert]
    verdicts: beam.PCollection[tuple[int, AlarmInput]]
    """Keyed by shard: what alarms are made of, and which transformers were silent when they were due."""


class KeptTransformer(Struct, array_like=True, gc=False):
    """What is known of one transformer in one window, and what was published of it."""

    heard: Heard
    statistics_revision: int = -1
    """Of the observation that the fields come from; older ones that arrive later are passed over."""
    nominal_voltage_v: float = 0.0
    """Volts, which the window keeps from the first observation on."""
    count: MeterCount | None = None
    """The row of the meter counts that this window keeps. None until the window is due for the transformer."""
    receipt: PublishedReceipt | None = None
    comm: AlertState | None = None
    voltage: VoltageState | None = None
    lowest: tuple[float, str | None] | None = None
    """The least voltage and its feeder: None for the feeder of `heard`, as nearly always."""
    highest: tuple[float, str | None] | None = None
    low: MetersBeyond | None = None
    high: MetersBeyond | None = None
    verdicts: list[Verdict] = field(default_factory=list)
    """Those that were given last, of the kinds of alarm of which this window says more than that all is well."""
    lost_to_silence: bool = False
    """As in `DueWindow`: that nobody was heard is no violation of the transformer's."""

    def extreme(self, which: tuple[float, str | None] | None) -> tuple[float, str] | None:
        """`lowest` or `highest` with the name of its feeder."""
        return None if which is None else (which[0], which[1] or self.heard.feeder_id or "")


class LogEntry(Struct, array_like=True, gc=False):
    """An element of a window's log: something that has come, or what was known of all transformers when it was read."""

    input: JudgeInput | None
    kept: dict[str, KeptTransformer] | None
    counts_version: str | None = None
    """Of the meter counts that `kept` was last judged by."""


class JudgeWindows(beam.PTransform):
    """Every due window's receipt rows and alerts, each published again only when its content changed.

    Takes a tuple of the due windows (`ExpandDueWindows`), the observations (`JoinMeterCounts`) and, where there is a
    topic to read them from, the alerts that were published (`PublishedAlerts`), all keyed by (shard, window_end) in the
    global window.

    Receipt: one row per transformer of the meter counts. A transformer is judged when the watermark of both inputs has
    passed window_end + its receipt delay, so that reads that were in time are never missing from its first row. The
    window keeps the row of the meter counts that was current when it was judged; where rows have effective_from a
    revision looks the valid one up again. A reload alone publishes nothing. COMM alerts follow from the rows.

    An alert that stands in its topic and is not what we know of it was published by an attempt that a failure has
    ended: it is set right, UPDATED or CLEARED, so that the last word on every alert is the true one.

    Voltage: a transformer is judged by every observation of it, in the order of their revisions. The window keeps the
    nominal voltage of the first, unless rows have effective_from.

    State per (shard, window): about 110 bytes a transformer, until the window's reads are too late. It is a log, which
    is read and written anew when a timer fires: what arrives is only appended, which needs no answer.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self._settings = settings

    def expand(self, inputs: tuple[beam.PCollection, ...]) -> Judged:
        due, *others = inputs
        updates = due | "Due" >> beam.MapTuple(_from_due).with_output_types(tuple[tuple[int, int], JudgeInput])
        # Types before with_outputs, or they would not reach the outputs, which would then be pickled.
        judge = beam.ParDo(_JudgeWindowsDoFn(self._settings)).with_output_types(
            ReceiptBatch, comm=Alert, voltage=Alert, verdicts=tuple[int, AlarmInput]
        )
        label = f"Judge {self._settings.state_label()}"
        judged = (
            (updates, *others)
            | "Both" >> beam.Flatten()
            | label >> judge.with_outputs(COMM, VOLTAGE, VERDICTS, main=RECEIPTS)
        )
        return Judged(judged[RECEIPTS], judged[COMM], judged[VOLTAGE], judged[VERDICTS])


def _from_due(key: ShardWindow, due: ReceiptDue) -> tuple[ShardWindow, JudgeInput]:
    return key, JudgeInput([], due, counts_version=due.counts_version)


@beam.typehints.with_input_types(tuple[tuple[int, int], JudgeInput])
class _JudgeWindowsDoFn(beam.DoFn):
    LOG = BagStateSpec("log", MsgspecCoder(LogEntry))
    JUDGE = TimerSpec("judge", TimeDomain.WATERMARK)
    EXPIRE = TimerSpec("judge_expire", TimeDomain.WATERMARK)

    def __init__(self, settings: Settings):
        self._settings = settings

    def process(
        self,
        element: tuple[ShardWindow, JudgeInput],
        log: Any = beam.DoFn.StateParam(LOG),
        judge: Any = beam.DoFn.TimerParam(JUDGE),
    ) -> None:
        (_, window_end), update = element
        log.add(LogEntry(update, None))
        if update.published:
            newest = max(alert.as_of for alert in update.published)
            judge.set(Timestamp(micros=newest + RECONCILE_AFTER), dynamic_timer_tag=PUBLISHED)
            return
        # The tag is the delay after which the timer fires. Observations come when their time has passed: at once.
        delay = self._settings.collection_delay if update.due is None else update.due.receipt_delay
        judge.set(Timestamp(micros=window_end + delay), dynamic_timer_tag=str(delay))

    @on_timer(JUDGE)
    def on_judge(
        self,
        key: Any = beam.DoFn.KeyParam,
        tag: Any = beam.DoFn.DynamicTimerTagParam,
        log: Any = beam.DoFn.StateParam(LOG),
        expire: Any = beam.DoFn.TimerParam(EXPIRE),
    ) -> Iterator[Any]:
        updates, kept, counts_version = _read(log)
        if not updates and not kept:
            return
        for found in self._judge(key, tag, updates, kept, expire):
            if isinstance(found, TaggedOutput) and found.tag != VERDICTS:
                found.value.meter_counts_version = counts_version
            elif isinstance(found, TaggedOutput):
                found.value[1].counts_version = counts_version
            yield found
        log.clear()
        log.add(LogEntry(None, kept, counts_version))

    def _judge(
        self, key: ShardWindow, tag: str, updates: list[JudgeInput], kept: dict[str, KeptTransformer], expire: Any
    ) -> Iterator[Any]:
        """Take the updates in: rows, alerts and verdicts."""
        shard, window_end = key
        rows: list[ReceiptRow] = []
        looked_at = {each.transformer_id for update in updates for each in update.observations}
        settled = None
        before = {name for name in looked_at if _is_silent(kept.get(name))}
        yield from self._observe(window_end, updates, kept, rows)
        heard = sorted(name for name in before if not _is_silent(kept[name]))
        silent = []
        for update in updates:
            if update.due is None:
                continue
            for count in update.due.counts:
                transformer = kept.setdefault(count.transformer_id, KeptTransformer(Heard()))
                if transformer.receipt is None:
                    transformer.count = _to_judge(count)
                    transformer.lost_to_silence = update.due.lost_to_silence
        if tag != PUBLISHED:
            delay = int(tag)
            for transformer_id, transformer in kept.items():
                due = transformer.receipt is None and transformer.count is not None
                if due and self._delay(transformer.count) == delay:
                    settled = delay
                    looked_at.add(transformer_id)
                    yield from self._receipt(window_end, transformer_id, transformer, rows)
                    if _is_silent(transformer):
                        silent.append(transformer_id)
        # What was published of an alert since it was last looked at: only the last of it is what consumers know.
        told = {(each.transformer_id, each.alert_type): each for update in updates for each in update.published}
        for alert in told.values():
            yield from self._reconcile(window_end, alert, kept)
        if rows:
            yield ReceiptBatch(rows)
        verdicts = [verdict for name in sorted(looked_at) for verdict in self._news(window_end, name, kept[name])]
        if verdicts or heard or settled is not None:
            yield TaggedOutput(VERDICTS, (shard, AlarmInput(window_end, verdicts, settled, silent=silent, heard=heard)))
        if updates or rows:
            expire.set(Timestamp(micros=expiry(self._settings, window_end)))

    @on_timer(EXPIRE)
    def on_expire(self, log: Any = beam.DoFn.StateParam(LOG)) -> None:
        updates, kept, _ = _read(log)
        # A timer for what has just come, or for who is due, is on its way, and this one is set again by it. Where the
        # watermark jumps over both, they may come in either order: runners keep timers of a name in order, not those of
        # different names.
        if updates or any(each.count is not None and each.receipt is None for each in kept.values()):
            return
        judged = any(transformer.receipt is not None for transformer in kept.values())
        # Neither observed nor due: there is nothing but alerts of a run that ended long ago.
        waiting = any(each.count is not None or each.statistics_revision >= 0 for each in kept.values())
        # Nothing judged yet, and due half an hour ago if it ever is (`judged_by`): a runner that does not hold the
        # watermark for what timers give may be late with it.
        if judged or not waiting:
            log.clear()

    def _observe(
        self, window_end: int, updates: list[JudgeInput], kept: dict[str, KeptTransformer], rows: list[ReceiptRow]
    ) -> Iterator[Any]:
        """Take the observations in; alerts, and into `rows` new ones of transformers that were judged before."""
        batches = [update.observations for update in updates if update.observations]
        observations = batches[0] if len(batches) == 1 else [each for batch in batches for each in batch]
        for observation in sorted(observations, key=_revision) if len(batches) > 1 else observations:
            transformer_id = observation.transformer_id
            transformer = kept.get(transformer_id)
            if transformer is None:
                transformer = kept[transformer_id] = KeptTransformer(Heard())
            if observation.revision <= transformer.statistics_revision:
                continue
            if transformer.statistics_revision < 0 or observation.count is not None:
                transformer.nominal_voltage_v = observation.nominal_voltage_v
            transformer.statistics_revision = observation.revision
            transformer.heard = heard(observation)
            transformer.lowest = _without(observation.lowest, observation.feeder_id)
            transformer.highest = _without(observation.highest, observation.feeder_id)
            transformer.low, transformer.high = observation.low, observation.high
            yield from self._voltage(window_end, transformer_id, transformer)
            if transformer.receipt is not None:
                transformer.count = _to_judge(observation.count) or transformer.count
                yield from self._receipt(window_end, transformer_id, transformer, rows)

    def _voltage(self, window_end: int, transformer_id: str, transformer: KeptTransformer) -> Iterator[TaggedOutput]:
        """The alerts that follow from the transformer's voltages as they are known now."""
        transformer.voltage, alerts = voltage_alerts(
            transformer_id,
            transformer.extreme(transformer.lowest),
            transformer.extreme(transformer.highest),
            transformer.heard.as_of or window_end,
            window_end,
            transformer.nominal_voltage_v,
            transformer.voltage,
            self._settings,
        )
        for alert in alerts:
            yield TaggedOutput(VOLTAGE, alert)

    def _reconcile(
        self, window_end: int, alert: PublishedAlert, kept: dict[str, KeptTransformer]
    ) -> Iterator[TaggedOutput]:
        """Take over what consumers were told, where it is not what we know, and set it right if it is wrong by now.

        What is not judged yet is set right when it is.
        """
        transformer = kept.get(alert.transformer_id) or KeptTransformer(Heard())
        if alert.alert_type == LOW_RECEIPT_RATE:
            adopted = adopt(transformer.comm, alert)
            if adopted is None:
                return
            transformer.comm = adopted
            kept[alert.transformer_id] = transformer
            if transformer.receipt is not None:
                yield from self._comm(window_end, alert.transformer_id, transformer, transformer.receipt)
        elif alert.alert_type in (LOW_VOLTAGE, HIGH_VOLTAGE):
            state = transformer.voltage or VoltageState()
            adopted = adopt(state.low if alert.alert_type == LOW_VOLTAGE else state.high, alert)
            if adopted is None:
                return
            is_low = alert.alert_type == LOW_VOLTAGE
            transformer.voltage = VoltageState(adopted, state.high) if is_low else VoltageState(state.low, adopted)
            kept[alert.transformer_id] = transformer
            if transformer.statistics_revision >= 0:
                yield from self._voltage(window_end, alert.transformer_id, transformer)

    def _receipt(
        self, window_end: int, transformer_id: str, transformer: KeptTransformer, rows: list[ReceiptRow]
    ) -> Iterator[Any]:
        """Into `rows` the one to publish now, if any, noted as published, and the alert that follows from it."""
        assert transformer.count is not None
        published = publish(transformer.heard, transformer.count, transformer.receipt, window_end)
        if published is None:
            return
        transformer.receipt = published
        rows.append(row(transformer_id, window_end - self._settings.window, window_end, published))
        yield from self._comm(window_end, transformer_id, transformer, published)

    def _comm(
        self, window_end: int, transformer_id: str, transformer: KeptTransformer, published: PublishedReceipt
    ) -> Iterator[TaggedOutput]:
        """The alert that follows from a receipt row."""
        receipt = row(transformer_id, window_end - self._settings.window, window_end, published)
        result = comm_alert(receipt, transformer.comm, self._settings.min_receipt_rate_pct)
        if result is not None:
            transformer.comm, alert = result
            yield TaggedOutput(COMM, alert)

    def _news(self, window_end: int, transformer_id: str, transformer: KeptTransformer) -> list[Verdict]:
        """The verdicts that differ from what was given last; noted as given.

        Before a transformer is due only a violation is news: what is not heard yet may still be. When it is due, no
        verdict means that all is well.
        """
        if not transformer.verdicts and self._is_well(transformer):
            return []  # nearly always
        found = list(
            voltage_verdicts(
                transformer_id,
                transformer.extreme(transformer.lowest),
                transformer.extreme(transformer.highest),
                transformer.low,
                transformer.high,
                transformer.nominal_voltage_v,
                transformer.heard.as_of or window_end,
                self._settings,
            )
        )
        delay = None
        if transformer.receipt is not None:
            delay = self._delay(transformer.count)
            verdict = receipt_verdict(transformer_id, transformer.receipt, self._settings)
            lost = transformer.lost_to_silence and verdict.level == Level.VIOLATION
            found.append(Verdict(transformer_id, verdict.alarm_type, Level.UNKNOWN) if lost else verdict)
        before = {verdict.alarm_type: verdict for verdict in transformer.verdicts}
        news, given = [], []
        for verdict in found:
            verdict.receipt_delay = delay
            known = before.get(verdict.alarm_type)
            if known is None and (verdict.level == Level.CLEAR or (delay is None and verdict.level != Level.VIOLATION)):
                continue
            if known is None or replace(verdict, as_of=known.as_of) != known:
                news.append(verdict)
                given.append(verdict)
            else:
                given.append(known)
        transformer.verdicts = given
        return news

    def _is_well(self, transformer: KeptTransformer) -> bool:
        """Whether all its verdicts are CLEAR, as far as it is judged."""
        lowest, highest, receipt = transformer.lowest, transformer.highest, transformer.receipt
        if lowest is None or highest is None:
            return False
        nominal, settings = transformer.nominal_voltage_v, self._settings
        if low_voltage_level(lowest[0], nominal, settings) != Level.CLEAR:
            return False
        if high_voltage_level(highest[0], nominal, settings) != Level.CLEAR:
            return False
        if receipt is None:
            return True
        return receipt_level(receipt.heard.actual_meters_reported, receipt.total_meters, settings) == Level.CLEAR

    def _delay(self, count: MeterCount | None) -> int:
        assert count is not None
        return self._settings.receipt_delay_of(count.receipt_delay)


def _to_judge(count: MeterCount | None) -> MeterCount | None:
    """What is kept of a row of the meter counts: nobody is judged by the collector."""
    return count if count is None or count.collection_group is None else replace(count, collection_group=None)


def _is_silent(transformer: KeptTransformer | None) -> bool:
    """Whether it was judged, and no meter was heard."""
    if transformer is None or transformer.receipt is None:
        return False
    return transformer.heard.actual_meters_reported == 0


def _read(log: Any) -> tuple[list[JudgeInput], dict[str, KeptTransformer], str | None]:
    """What has come since the log was last read, what was known then, and the version of the meter counts now."""
    updates: list[JudgeInput] = []
    kept: dict[str, KeptTransformer] = {}
    before = now = None
    for entry in log.read():
        if entry.input is not None:
            updates.append(entry.input)
            now = entry.input.counts_version or now
        if entry.kept is not None:
            kept, before = entry.kept, entry.counts_version
    return updates, kept, now or before


def _without(extreme: tuple[float, str] | None, feeder_id: str) -> tuple[float, str | None] | None:
    """The extreme without its feeder where that is `feeder_id`."""
    return None if extreme is None else (extreme[0], None if extreme[1] == feeder_id else extreme[1])


def _revision(observation: Observation) -> int:
    return observation.revision
