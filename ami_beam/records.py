"""Every record type that travels through the pipelines. Instants are integer microseconds (see `instants`).

A record is parsed once, at the edge, into one of these; inside the pipelines nothing is a dict. The types are msgspec
structs, so that `coders.MsgspecCoder` carries them over a shuffle as MessagePack and nothing is pickled.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

from msgspec import Struct, field

from ami_beam.coders import carries

ReadType = Literal["INTERVAL", "DAILY", "EVENT"]
AlertStatus = Literal["RAISED", "UPDATED", "CLEARED"]
AlarmState = Literal["ACTIVE", "CLEARED", "UNKNOWN"]
"""UNKNOWN: an outage of which nothing was heard for a day."""


class Level(IntEnum):
    """What one window says of one kind of alarm."""

    UNKNOWN = 0
    """Nothing: nothing was measured."""
    CLEAR = 1
    """Inside the limit, and beyond the deadband: an alarm may end."""
    BAND = 2
    """Inside the limit, and too near to it for an alarm to end."""
    VIOLATION = 3


class RecordBatch(Struct, array_like=True, gc=False):
    """Kafka records of one topic as parallel columns: what every source gives to the decoders.

    `record_times` are the Kafka timestamps (when the record reached us); None where the broker gave none.
    `values` are the bytes as they came; None is a tombstone.
    """

    topic: str
    partitions: list[int]
    offsets: list[int]
    record_times: list[int | None]
    values: list[bytes | None]

    def at(self, places: list[int]) -> RecordBatch:
        """The records at these places."""
        return RecordBatch(
            self.topic,
            [self.partitions[place] for place in places],
            [self.offsets[place] for place in places],
            [self.record_times[place] for place in places],
            [self.values[place] for place in places],
        )


class KeyedRecords(Struct, array_like=True, gc=False):
    """Records for one output topic: `keys[i]` is the partition key of the JSON `values[i]`.

    Many travel in one element, because an element costs more than a record.
    """

    keys: list[bytes]
    values: list[bytes]


class Read(Struct, array_like=True, gc=False):
    """One accepted read of the head-end; without the customer, which the decoder checks, but where one is needed.

    kWh and volts are as they were sent.
    """

    meter_id: str
    service_point_id: str
    transformer_id: str
    feeder_id: str
    read_type: str
    interval_start: int
    interval_end: int
    consumption_kwh: float
    delivered_kwh: float
    received_kwh: float
    voltage_v: float | None
    """None where the meter sent none or the value was implausible (then `voltage_rejected`)."""
    power_quality_code: int
    estimated_flag: bool
    read_ts: int
    window_end: int
    voltage_rejected: bool
    zero_voltage: bool
    """The meter sent 0 ≤ V < 10: it has no supply and still communicates. Such a voltage is implausible and dropped."""
    record_time: int
    partition: int
    offset: int
    customer_id: str | None = None
    apportioned: bool = False
    """Whether it is the part of a longer read that falls into one window."""
    counts_as: str | None = None
    """The meter of its service point that it is counted as, where meters were exchanged; None: itself."""


class Event(Struct, array_like=True, gc=False):
    """One accepted meter event. `event_desc` is None where the head-end sent none."""

    meter_id: str
    event_code: int | str
    """A text only where the event map has it."""
    event_desc: str | None
    event_ts: int
    record_time: int
    partition: int
    offset: int


class DeadLetter(Struct, array_like=True, gc=False):
    """A record that could not be accepted, or (`used`) one that was accepted with a part of it set aside."""

    reason: str
    """A stable code of `dead_letter_reasons`."""
    detail: str
    """One sentence that names the field and what was expected; holds no value of an id field."""
    topic: str
    partition: int
    offset: int
    record_time: int | None
    value: bytes | None
    used: bool = False


class DeadLetterBatch(Struct, array_like=True, gc=False):
    """Dead letters that are written together: an element of Beam's costs more than a letter, also in a flood."""

    rows: list[DeadLetter]


class MeterCount(Struct, array_like=True, gc=False):
    """A row of `transformer_meter_count`. `receipt_delay` in microseconds; None means the run's default.

    `total_meters` is 0 only where a meter registry says that there is none any more: nothing is expected then.
    """

    transformer_id: str
    total_meters: int
    nominal_voltage_v: float | None = None
    receipt_delay: int | None = None
    effective_from: int | None = None
    collection_group: str | None = None
    """Which collector hears its meters; None where that is not known."""


class FeederStatistics(Struct, array_like=True, gc=False):
    """What one (transformer, feeder) pair measured in one window, from the winning reads only.

    Energies in kWh rounded to 6 decimals, voltages in volts (None without any), `as_of` and `revision` as the
    contract's section 5 says. `changed` marks a pair whose content this publication changed: a summary row to publish.
    """

    feeder_id: str
    total_consumption_kwh: float
    total_delivered_kwh: float
    total_received_kwh: float
    meters_reported: int
    avg_voltage_v: float | None
    min_voltage_v: float | None
    max_voltage_v: float | None
    estimated_count: int
    voltage_rejected_count: int
    zero_voltage_count: int
    as_of: int
    revision: int
    changed: bool
    sag_count: int = 0
    """Reads whose power quality code the quality map says is a sag."""
    swell_count: int = 0
    voltage_count: int = 0
    """Reads of which the mean is."""
    apportioned_count: int = 0
    """Reads that are parts of longer ones."""
    completeness_pct: float | None = None
    """How much of the window the reads of its meters cover, in per cent, one decimal; None without a read."""


class TransformerStatistics(Struct, array_like=True, gc=False):
    """One transformer in one window: its pairs, and the distinct meters over all of them."""

    transformer_id: str
    feeders: list[FeederStatistics]
    """Every pair ever published for this window, also those that have lost their last read."""
    meters_reported: int
    actual_meters_reported: int
    """Distinct meters with at least one winning read that is not an estimate."""
    as_of: int
    """Greatest record time among the winning reads."""
    revision: int
    """Counts the publications of this transformer's window, so that later steps know the newest."""


class MeterVoltages(Struct, array_like=True, gc=False):
    """Whose voltages the statistics of a batch are made of: the readings of its transformers, one after the other."""

    meters: list[str]
    voltages: bytes
    """Volts as 64-bit floats, one a meter; NaN where there is none."""
    ends: list[int]
    """Of each transformer one past its last reading."""
    flags: bytes = b""
    """A byte a meter, as in `read_block`: whether it was estimated, its voltage rejected or zero, a sag or a swell."""


class StatisticsBatch(Struct, array_like=True, gc=False):
    """The transformers of one shard whose statistics of one window are new or changed."""

    window_end: int
    transformers: list[TransformerStatistics]
    voltages: MeterVoltages | None = None
    """For evidence: only what is judged to be in violation is looked up here."""


class ReadProgress(Struct, array_like=True, gc=False):
    """How far the reads topic has been read, from one batch. A window is named by its end; None: no interval read."""

    first_record_time: int
    greatest_record_time: int
    first_window_end: int | None
    last_window_end: int | None
    spans: list[tuple[int, int]] = field(default_factory=list)
    """First and last record times, where there are pauses between them (`silence`); empty: no pause."""


class ReadPauses(Struct, array_like=True, gc=False):
    """Pauses of the reads topic in record time (began, ended): all that are certain that began after `since`."""

    since: int
    pauses: list[tuple[int, int]]


class DueWindow(Struct, array_like=True, gc=False):
    """A window whose receipt is to be judged for the transformers of one receipt delay (microseconds)."""

    window_end: int
    receipt_delay: int
    first_window_end: int | None = None
    """Of all windows in which a read was accepted; only where the window is the last of a UTC day."""
    lost_to_silence: bool = False
    """Whether the source was silent when it was due, and until its reads were too late: nobody could be heard."""


class ReceiptDue(Struct, array_like=True, gc=False):
    """The transformers of one shard whose receipt in one window is to be judged after `receipt_delay`."""

    window_end: int
    receipt_delay: int
    counts: list[MeterCount]
    counts_version: str | None = None
    """Of the meter counts that they are from."""
    first_window_end: int | None = None
    lost_to_silence: bool = False
    """Both as in `DueWindow`."""


class MetersBeyond(Struct, array_like=True, gc=False):
    """The meters of a transformer whose voltage is beyond a limit: how many, and the worst of them."""

    meters: int
    worst_meter_id: str


class Observation(Struct, array_like=True, gc=False):
    """What is judged of one transformer in one window: a publication of its statistics joined with its meter count."""

    transformer_id: str
    feeder_id: str
    """Of most of its meters, the first by name among equals."""
    meters_reported: int
    actual_meters_reported: int
    lowest: tuple[float, str] | None
    """The least voltage of any of its meters (volts) and the feeder of that read."""
    highest: tuple[float, str] | None
    as_of: int
    revision: int
    """Of the statistics: of two observations the greater is the newer."""
    nominal_voltage_v: float
    count: MeterCount | None
    """The row of the meter counts that is valid at the window's end, only where rows have effective_from."""
    low: MetersBeyond | None = None
    """The meters whose voltage is too low; None where there is none."""
    high: MetersBeyond | None = None


class PublishedAlert(Struct, array_like=True, gc=False):
    """What consumers of the grid alerts were told of one alert on a transformer in a window."""

    transformer_id: str
    alert_type: str
    status: AlertStatus
    value: float | None
    revision: int
    as_of: int


class JudgeInput(Struct, array_like=True, gc=False):
    """What a shard's window is judged by: observations of transformers, or the transformers that have become due.

    `published` are alerts as they stand in the topic, ours and those of an attempt that a failure has ended.
    """

    observations: list[Observation]
    due: ReceiptDue | None
    published: list[PublishedAlert] = field(default_factory=list)
    counts_version: str | None = None
    """Of the meter counts that were looked at; None where none were."""


class SupplyNote(Struct, array_like=True, gc=False):
    """Which meters of a transformer a window's reads show to have supply, where they do not show it of all.

    Shown by an actual read of at least 80 % of nominal, or without a voltage from a meter that measures none.
    """

    transformer_id: str
    all_but: bool
    """Whether all meters but `meters` have supply, or `meters` only."""
    meters: list[str]
    dead: list[str]
    """Meters that sent 0 ≤ V < 10."""
    as_of: int

    def shows(self, meter_id: str) -> bool:
        """Whether this meter is shown to have supply."""
        return (meter_id in self.meters) != self.all_but

    def shows_none(self, total_meters: int) -> bool:
        """Whether it shows of no meter that it has supply."""
        return len(self.meters) >= total_meters if self.all_but else not self.meters


class PackedNotes(Struct, array_like=True, gc=False):
    """The supply notes of a window (`supply_notes.unpack_notes`), which nobody need look at while nothing is out."""

    transformers: list[str]
    """Of which there is a note."""
    dead: list[str]
    """Those whose note names dead meters."""
    packed: bytes


class TransformerHeard(Struct, array_like=True, gc=False):
    """Which meters of a transformer were heard in a window, by name."""

    transformer_id: str
    feeder_id: str
    revision: int
    """Of its statistics: of two the greater is the newer."""
    complete: bool
    """Whether as many as its meter count has were heard: nobody need be named then."""
    heard: list[str]
    """By an actual read."""
    estimated: list[str]
    """Of which there were estimates only."""


class HeardMeters(Struct, array_like=True, gc=False):
    """Which meters were heard in a window, from one publication of a shard's statistics."""

    window_end: int
    complete: list[str]
    """Transformers of which as many meters as their count has were heard, by their first publication."""
    named: list[TransformerHeard]


class HearingInput(Struct, array_like=True, gc=False):
    """What a shard's silent meters are found by; one of them."""

    heard: HeardMeters | None = None
    due: ReceiptDue | None = None
    """The last window of a UTC day, and who is judged by it."""
    pauses: ReadPauses | None = None


class MeterStanding(Struct, array_like=True, gc=False):
    """How a meter stands at the end of a day on one transformer."""

    meter_id: str
    transformer_id: str
    feeder_id: str | None
    heard: int | None
    """End of the last window in which it was; None: never."""
    windows_missing: int | None
    """None where it is not silent."""


class DayStandings(Struct, array_like=True, gc=False):
    """What has changed in how meters stand at the end of a day."""

    window_end: int
    """Of the day's last window."""
    standings: list[MeterStanding]


class PowerEvent(Struct, array_like=True, gc=False, frozen=True):
    """A meter's word that it has lost supply, or has it again, with the transformer that it hangs on."""

    meter_id: str
    transformer_id: str
    restored: bool
    at: int
    record_time: int


class Announcement(Struct, array_like=True, gc=False, frozen=True):
    """What another system says of a lack of supply: an outage of the OMS, or work at a meter."""

    source: Literal["oms", "work"]
    announcement_id: str
    """Its outage_id or work_id."""
    kind: str
    """PLANNED or KNOWN of an outage; EXCHANGE, DISCONNECT or TEST of work."""
    active: bool
    """False: cancelled, or another entity has this id by now."""
    entity_type: Literal["TRANSFORMER", "FEEDER", "METER"]
    entity_id: str
    transformer_id: str | None
    """Of a meter, where it was said or has been learned."""
    begins: int
    ends: int | None
    record_time: int
    partition: int
    offset: int
    announced_at: int
    """The least record time of what was said under this id."""
    placed_at: int = 0
    """Of a meter the end of the window that said where it hangs."""

    @property
    def name(self) -> str:
        """The id among those of all sources, which alarms have as their cause."""
        return f"{self.source}:{self.announcement_id}"

    @property
    def subject(self) -> str:
        """The name, and what it is about."""
        return f"{self.entity_type}/{self.entity_id}/{self.name}"

    @property
    def version(self) -> tuple[int, int, int, int]:
        """Of two with one id the greater is right."""
        return self.record_time, self.partition, self.offset, self.placed_at


class TransformerPlace(Struct, array_like=True, gc=False):
    """Where a transformer stands in the grid, as the reads of a window and the meter counts have it."""

    transformer_id: str
    feeder_id: str
    total_meters: int
    receipt_delay: int | None
    """Microseconds; None where it is not in the meter counts."""
    window_end: int
    """Of two places the one of the later window is right."""
    collection_group: str | None = None
    """Which collector hears its meters, by the meter counts."""


class MeterPlaces(Struct, array_like=True, gc=False):
    """On which transformers meters hang, as a window's reads have it: `meters[i]` on `transformers[i]`."""

    window_end: int
    meters: list[str]
    transformers: list[str]
    feeders: dict[str, str]
    """By transformer_id the feeder of most of its meters."""


class MeterFeeder(Struct, array_like=True, gc=False):
    """On which feeder a meter hangs that loss control is about."""

    meter_id: str
    feeder_id: str
    known_at: int
    """Record time, microseconds."""


class Verdict(Struct, array_like=True, gc=False):
    """What one window says of one kind of alarm on a transformer; the evidence where it is a violation."""

    transformer_id: str
    alarm_type: str
    level: Level
    value: float | None = None
    meters_in_violation: int = 0
    worst_meter_id: str | None = None
    meters_missing: int = 0
    feeder_id: str | None = None
    as_of: int = 0
    receipt_delay: int | None = None
    """Of the transformer, microseconds; None before it is due."""


class Alarm(Struct, gc=False):
    """`ami.alarms`; identity alarm_id. An episode: `first_window` and `last_window` are ends of windows in violation.

    CLEARED with no window in violation: late reads have taken back what the alarm was made of. Of an outage
    `worst_value` is the greatest share of meters without supply, in per cent.
    """

    alarm_id: str
    alarm_type: str
    entity_id: str
    feeder_id: str | None
    state: AlarmState
    severity: Literal["WARNING", "CRITICAL"]
    first_window: int
    last_window: int
    worst_value: float | None
    windows_in_violation: int
    meters_in_violation: int
    worst_meter_id: str | None
    meters_missing: int
    cause: str | None
    """The alarm_id of what explains this one, or the name of an announced outage or of work (`oms:…`, `work:…`): an
    alarm with a cause needs no operator of its own."""
    revision: int
    as_of: int
    config_id: str | None = None
    meter_counts_version: str | None = None
    began_at: int | None = None
    """Of outages and silence: when it began."""
    ended_at: int | None = None
    """When it was over; None while it is not."""
    meters_total: int | None = None
    """Of outages: on the transformer or the feeder."""
    momentary: bool | None = None
    """Of outages that are over: whether it took five minutes at most (IEEE 1366)."""

    @property
    def ended(self) -> bool:
        """Whether nothing will change it but late reads and events."""
        return self.state == "CLEARED"


class AlarmInput(Struct, array_like=True, gc=False):
    """What a shard's alarms are made of: what one window says of its transformers, and what meters say of supply.

    `settled`: a receipt delay. All transformers of the shard that have it are judged in this window, and those of which
    no verdict was ever given are CLEAR; those without a note have supply at every meter.
    """

    window_end: int
    verdicts: list[Verdict]
    settled: int | None = None
    counts_version: str | None = None
    """Of the meter counts that the verdicts are made with."""
    notes: PackedNotes | None = None
    silent: list[str] = field(default_factory=list)
    """Transformers of which no meter was heard when the window was due."""
    heard: list[str] = field(default_factory=list)
    """Transformers that were silent in this window and are not any more."""
    events: list[PowerEvent] = field(default_factory=list)
    places: list[TransformerPlace] = field(default_factory=list)
    announced: list[Announcement] = field(default_factory=list)
    """Outages of transformers, and work at their meters."""


class FoundAlarms(Struct, array_like=True, gc=False):
    """All alarms of one kind on a transformer, as they are known now, without revision and cause."""

    transformer_id: str
    alarm_type: str
    alarms: list[Alarm]
    folded_up_to: int
    """Alarms that ended in windows up to here are not named any more, and stay as they are."""


class CollectedAlarms(Struct, array_like=True, gc=False):
    """Receipt alarms that half of a collection group's transformers have at once, and the alarm that says so."""

    alarm: Alarm
    """Its feeder_id is None where the transformers hang on several feeders."""
    children: list[str]
    """By alarm_id."""
    silent: int
    """Transformers at once, at most."""
    transformers: int
    """Of the collection group."""


class CollectionGroup(Struct, array_like=True, gc=False):
    """All that a collection group explains of a feeder's alarms, as it is known now."""

    group_id: str
    collected: list[CollectedAlarms]
    folded_up_to: int
    """Alarms that ended in windows up to here are not named any more, and stay as they are."""


class GroupInput(Struct, array_like=True, gc=False):
    """What the alarms of transformers that belong together are made of, and alarms as they stand in their topic."""

    found: list[FoundAlarms] = field(default_factory=list)
    places: list[TransformerPlace] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    """Transformers that belong to another group now, which has their alarms."""
    published: list[Alarm] = field(default_factory=list)
    counts_version: str | None = None
    announced: list[Announcement] = field(default_factory=list)
    """Outages of the feeder or of transformers of it."""
    judged_up_to: int = 0
    """The instant up to which it is known how the transformers are: of a replay its end."""
    collections: list[CollectionGroup] = field(default_factory=list)
    """Of the collection groups that hear its transformers."""
    come: list[str] = field(default_factory=list)
    """Transformers that belonged to another group until now, which may have published the first of `found` of them."""


class SummaryRow(Struct, gc=False):
    """`ami.transformer.summary`; identity (transformer_id, feeder_id, window_end)."""

    transformer_id: str
    feeder_id: str
    window_start: int
    window_end: int
    total_consumption_kwh: float
    total_delivered_kwh: float
    total_received_kwh: float
    meters_reported: int
    avg_voltage_v: float | None
    min_voltage_v: float | None
    max_voltage_v: float | None
    estimated_count: int
    voltage_rejected_count: int
    zero_voltage_count: int
    as_of: int
    revision: int
    sag_count: int = 0
    swell_count: int = 0
    voltage_count: int = 0
    apportioned_count: int = 0
    completeness_pct: float | None = None


class ReceiptRow(Struct, gc=False):
    """`ami.transformer.receipt`; identity (transformer_id, window_end). Rates in per cent, one decimal."""

    transformer_id: str
    feeder_id: str | None
    window_start: int
    window_end: int
    meters_reported: int
    total_meters: int
    receipt_rate_pct: float
    actual_meters_reported: int
    actual_rate_pct: float
    as_of: int
    revision: int


class FeederRow(Struct, gc=False):
    """`ami.feeder.summary`; identity (segment, feeder_id, window_end). Of a feeder, or of the whole system.

    Energies are the sums of the published rows of its transformers. Receipt is that of the transformers in the meter
    counts which are due; a transformer of which nothing was heard is on the feeder that it was last seen to come to.
    """

    segment: Literal["FEEDER", "SYSTEM"]
    feeder_id: str | None
    """None of the system."""
    window_start: int
    window_end: int
    total_consumption_kwh: float
    total_delivered_kwh: float
    total_received_kwh: float
    meters_reported: int
    meters_expected: int
    receipt_rate_pct: float | None
    """None where no meter is expected."""
    avg_voltage_v: float | None
    """Over reads, to a millionth of a volt."""
    min_voltage_v: float | None
    max_voltage_v: float | None
    transformers_reported: int
    transformers_expected: int
    transformers_in_violation: int
    """Of which there is an alert in this window."""
    as_of: int
    revision: int


class FeederBatch(Struct, array_like=True, gc=False):
    """Feeder rows that are published together."""

    rows: list[FeederRow]


class TransformerLevels(Struct, array_like=True, gc=False):
    """A transformer's voltages in a window, in volts and counted by per cent of its nominal voltage."""

    transformer_id: str
    feeder_id: str
    """Of most of its meters."""
    others: list[str]
    """Feeders on which its window was published, too."""
    revision: int
    """Of its statistics: of two the greater is the newer."""
    nominal_voltage_v: float
    min_voltage_v: float | None
    avg_voltage_v: float | None
    max_voltage_v: float | None
    classes: list[int]
    """Reads by classes of `voltage_bands`: class, reads, class, reads …"""
    as_of: int


class VoltageLevels(Struct, array_like=True, gc=False):
    """The voltages of the transformers of a shard whose window is new or changed."""

    window_end: int
    transformers: list[TransformerLevels]


class FeederLevels(Struct, array_like=True, gc=False):
    """What one transformer adds to the histograms of a feeder in a window."""

    transformer_id: str
    feeder_id: str
    revision: int
    classes: list[int]
    as_of: int


class HistogramInput(Struct, array_like=True, gc=False):
    """What the histograms of some feeders in a window are made of."""

    levels: list[FeederLevels]


class OutsideBands(Struct, array_like=True, gc=False):
    """Of which bands transformers' voltages were outside in a window; of the newest of two publications that holds."""

    window_end: int
    transformers: list[str]
    feeders: list[str]
    revisions: list[int]
    outside: list[int]
    """A sum of bits of `voltage_bands`."""
    as_of: list[int]


class TransformerHeat(Struct, gc=False):
    """`ami.voltage.heatmap`; identity (segment, transformer_id, window_end). Per cent of nominal, two decimals.

    Bands are null where no meter measured a voltage.
    """

    transformer_id: str
    feeder_id: str
    window_start: int
    window_end: int
    nominal_voltage_v: float
    min_pct: float | None
    avg_pct: float | None
    max_pct: float | None
    ansi_c84_1: Literal["A", "B", "OUTSIDE"] | None
    en_50160: Literal["NORMAL", "EXTENDED", "OUTSIDE"] | None
    as_of: int
    revision: int


class FeederHeat(Struct, gc=False):
    """`ami.voltage.heatmap`; identity (segment, feeder_id, window_end). Reads by per cent of nominal."""

    feeder_id: str
    window_start: int
    window_end: int
    reads: int
    from_pct: int
    """Where the first class of `histogram` begins; each is one per cent wide."""
    below: int
    histogram: list[int]
    above: int
    as_of: int
    revision: int


class DayHeat(Struct, gc=False):
    """`ami.voltage.heatmap`; identity (segment, transformer_id, day). Minutes in windows outside a band, so far."""

    transformer_id: str
    feeder_id: str
    day: str
    """Of the utility's time zone, as YYYY-MM-DD."""
    outside_ansi_a_minutes: float
    outside_ansi_b_minutes: float
    outside_en_50160_minutes: float
    as_of: int
    revision: int


class HeatBatch(Struct, array_like=True, gc=False):
    """Rows of the voltage heat map that are published together."""

    transformers: list[TransformerHeat] = field(default_factory=list)
    feeders: list[FeederHeat] = field(default_factory=list)
    days: list[DayHeat] = field(default_factory=list)


class PairTotals(Struct, array_like=True, gc=False):
    """What one (transformer, feeder) pair adds to its feeder's window: energies in millionths of a kWh."""

    transformer_id: str
    feeder_id: str
    revision: int
    """Of the transformer's statistics: of two the greater is the newer."""
    main: bool
    """Whether most of the transformer's meters are on this feeder, which it counts for."""
    consumption: int
    delivered: int
    received: int
    meters_reported: int
    voltage_sum: int
    """Millionths of a volt."""
    voltage_count: int
    min_voltage_v: float | None
    max_voltage_v: float | None
    as_of: int


class VoltageStanding(Struct, array_like=True, gc=False):
    """Whether a transformer's voltages are beyond a limit, by its newest statistics."""

    transformer_id: str
    feeder_id: str
    revision: int
    violated: bool
    as_of: int


class ReceiptStanding(Struct, array_like=True, gc=False):
    """How many meters a transformer in the meter counts has, and how many were heard, by its newest receipt row."""

    transformer_id: str
    feeder_id: str | None
    """None: nothing was heard, and where it is is not known."""
    revision: int
    """Of two of a transformer that was heard the greater is the newer."""
    meters_reported: int
    total_meters: int
    low: bool
    """Whether there is an alert for it."""
    as_of: int
    placed: int | None = None
    """Of one that was not heard: counts what was said of where it is. None of one that was heard."""
    gone: bool = False
    """Whether it is not here any more."""


class FeederInput(Struct, array_like=True, gc=False):
    """What the rows of some feeders in a window are made of."""

    pairs: list[PairTotals] = field(default_factory=list)
    voltages: list[VoltageStanding] = field(default_factory=list)
    receipts: list[ReceiptStanding] = field(default_factory=list)


class HeardOn(Struct, array_like=True, gc=False):
    """On which feeders the transformers of a shard were heard in a window, and those of which nothing was."""

    window_end: int
    heard: dict[str, str]
    """feeder_id by transformer_id."""
    silent: list[ReceiptStanding]
    first: bool
    """Whether these are the rows with which the window was judged."""
    as_of: int
    """The greatest of the rows."""


class SegmentTotals(Struct, array_like=True, gc=False):
    """What transformers add up to in a window; units as in `PairTotals`."""

    consumption: int = 0
    delivered: int = 0
    received: int = 0
    meters_reported: int = 0
    voltage_sum: int = 0
    voltage_count: int = 0
    min_voltage_v: float | None = None
    max_voltage_v: float | None = None
    transformers_reported: int = 0
    meters_judged: int = 0
    """Heard of those that are expected."""
    meters_expected: int = 0
    transformers_expected: int = 0
    transformers_in_violation: int = 0
    as_of: int = 0


class GroupTotals(Struct, array_like=True, gc=False):
    """What a group of feeders adds to the whole system in a window."""

    group: int
    number: int
    """Of two the greater is the newer."""
    totals: SegmentTotals


class ValidatedRead(Struct, gc=False):
    """`ami.reads.validated`, record READ; identity (meter_id, interval_end). The version of an interval that counts."""

    meter_id: str
    service_point_id: str
    customer_id: str | None
    """As `--customer_id` has it; None where it is dropped."""
    transformer_id: str
    interval_start: int
    interval_end: int
    consumption_kwh: float
    delivered_kwh: float
    received_kwh: float
    quality: Literal["ACTUAL", "ESTIMATED"]
    espi_quality: int
    """The same in the codes of ESPI's QualityOfReading."""
    late: bool
    """Whether it reached us after its window's on-time result."""
    revised: bool
    """Whether another version of the interval, with other energies or quality, was read, too."""
    flags: list[str]
    """What the checks of the read alone found, sorted."""
    read_ts: int
    as_of: int
    revision: int


class MeterDay(Struct, gc=False):
    """`ami.reads.validated`, record METER_DAY; identity (meter_id, day). What checks of a meter's whole day found."""

    meter_id: str
    day: str
    """Of the utility's time zone, as YYYY-MM-DD; an interval is of the day in which it begins."""
    intervals_expected: int
    """Of the length that most of the day's intervals have."""
    intervals_reported: int
    intervals_estimated: int
    consumption_kwh: float
    delivered_kwh: float
    received_kwh: float
    register_kwh: float | None
    """Consumption by the day's DAILY read; None without one."""
    missing_minutes: int
    first_gap: int | None
    """Where the first gap begins."""
    longest_zero_run: int
    """Intervals in a row without any energy."""
    spikes: int
    first_spike: int | None
    """interval_end of the first."""
    flags: list[str]
    """What was found, sorted."""
    as_of: int
    revision: int


class ValidatedBatch(Struct, array_like=True, gc=False):
    """Validated reads and days of meters that are published together.

    There is a row for every read of the stream: reads stay the columns that they were computed as, and become rows only
    where somebody asks for them (`codecs.billing_batches`).
    """

    meter_id: list[str] = field(default_factory=list)
    service_point_id: list[str] = field(default_factory=list)
    customer_id: list[str] = field(default_factory=list)
    """Empty where they are dropped."""
    transformer_id: list[str] = field(default_factory=list)
    numbers: list[bytes] = field(default_factory=list)
    """The other fields, as `codecs.billing_batches` has them; none without reads."""
    days: list[MeterDay] = field(default_factory=list)


class CustomerChanges(Struct, array_like=True, gc=False):
    """What is added to a day of customers, or taken away again; columns of `number_columns`."""

    customers: list[str]
    starts: bytes
    ends: bytes
    delivered: bytes
    """Billionths of a kWh; negative where what was counted is taken away. Likewise received."""
    received: bytes
    reads: bytes
    """1, or -1 where it is taken away."""
    estimated: bytes
    """The same where the read is an estimate, else 0."""
    record_times: bytes


class CustomerDayChanges(Struct, array_like=True, gc=False):
    """What days of customers have changed by, and what they have come to; columns of `number_columns`."""

    day: str
    customers: list[str]
    delivered: bytes
    """What is added to the month, billionths of a kWh; likewise received, reads and estimated."""
    received: bytes
    reads: bytes
    estimated: bytes
    day_delivered: bytes
    """What the day has come to, billionths of a kWh."""
    day_received: bytes
    starts: bytes
    """Of the day's last interval; likewise what follows."""
    ends: bytes
    interval_delivered: bytes
    interval_received: bytes
    as_of: bytes


class CustomerMonth(Struct, gc=False):
    """`ami.customer.consumption`, period MONTH; identity (customer_id, month). What a customer has used so far.

    All of its meters together. net is delivered − received.
    """

    customer_id: str
    month: str
    """Of the utility's time zone, as YYYY-MM; an interval is of the month in which it begins."""
    interval_start: int
    """Of the month's last interval."""
    interval_end: int
    interval_delivered_kwh: float
    interval_received_kwh: float
    interval_net_kwh: float
    day: str
    """In which the last interval begins."""
    day_delivered_kwh: float
    day_received_kwh: float
    day_net_kwh: float
    month_delivered_kwh: float
    month_received_kwh: float
    month_net_kwh: float
    intervals: int
    """Reads behind the month."""
    estimated_intervals: int
    as_of: int
    revision: int


class CustomerDay(Struct, gc=False):
    """`ami.customer.consumption`, period DAY; identity (customer_id, day). A day that is over, and its revisions."""

    customer_id: str
    day: str
    delivered_kwh: float
    received_kwh: float
    net_kwh: float
    intervals: int
    estimated_intervals: int
    as_of: int
    revision: int


class CustomerBatch(Struct, array_like=True, gc=False):
    """Rows of customers that are published together; those of months are of one month, in columns as reads are."""

    customer_id: list[str] = field(default_factory=list)
    month: str = ""
    numbers: list[bytes] = field(default_factory=list)
    """The other fields, as `codecs.billing_batches` has them; none without rows of a month."""
    days: list[CustomerDay] = field(default_factory=list)


class SilentMeter(Struct, gc=False):
    """`ami.meters.silent`; identity (day, meter_id). A meter that had not been heard for long at the end of `day`."""

    day: str
    """The UTC day, as YYYY-MM-DD."""
    window_end: int
    """Of the day's last window."""
    meter_id: str
    transformer_id: str
    """On which it was heard last."""
    feeder_id: str | None
    silent_since: int | None
    """End of the last window in which it was heard; None: never, the head-end has only estimated it."""
    windows_missing: int
    status: Literal["LISTED", "WITHDRAWN"]
    """WITHDRAWN: late reads have shown that it was heard, or is on another transformer."""
    revision: int
    as_of: int
    config_id: str | None = None


class SilentMeterBatch(Struct, array_like=True, gc=False):
    """Silent meters that are published together."""

    rows: list[SilentMeter]


class SummaryBatch(Struct, array_like=True, gc=False):
    """Summary rows that are published together: an element of Beam's costs more than a row."""

    rows: list[SummaryRow]


class ReceiptBatch(Struct, array_like=True, gc=False):
    """Receipt rows that are published together."""

    rows: list[ReceiptRow]


class Alert(Struct, gc=False):
    """`ami.alerts.grid` and `ami.alerts.events`; identity alert_id. `window_*` and `feeder_id` None for events."""

    alert_id: str
    alert_source: Literal["COMM", "VOLTAGE", "EVENT"]
    entity_id: str
    alert_time: int
    alert_type: str
    detail_value: float | None
    severity: Literal["WARNING", "CRITICAL"]
    status: AlertStatus
    revision: int
    as_of: int
    window_start: int | None
    window_end: int | None
    feeder_id: str | None
    explained_by: str | None = None
    """What explains it, as in `Alarm.cause`: an outage, or the cause of the alarm that its window is part of, also of
    one that a planned outage holds."""
    event_type: str | None = None
    """What the event map makes of the code; None but for events."""
    event_code: str | None = None
    """As the head-end sent it, as a text; None but for events."""
    config_id: str | None = None
    """Of the rules it was judged by, see `ami.config`."""
    meter_counts_version: str | None = None
    """Of the meter counts it was judged by; None for events."""
    late: bool | None = None
    """Of an event: whether it arrived more than an hour after it happened; None where several are one."""


class Cause(Struct, array_like=True, gc=False, frozen=True):
    """What explains the alerts of one type on a transformer in windows that follow each other."""

    first_window: int
    last_window: int | None
    """None where it goes on."""
    alarm_id: str
    """Or the name of an announced outage or of work."""


class TransformerCauses(Struct, array_like=True, gc=False):
    """All that a group of alarms knows to explain one type of alert on a transformer; nothing where `causes` is empty.

    Of two causes in one window the first holds.
    """

    transformer_id: str
    alert_type: str
    causes: list[Cause]
    group: str = ""


class ExplainInput(Struct, array_like=True, gc=False):
    """What the alerts of a shard's transformers are, and what explains them.

    `published` are alerts as they stand in the topic, ours and those of an attempt that a failure has ended.
    """

    alerts: list[Alert] = field(default_factory=list)
    causes: list[TransformerCauses] = field(default_factory=list)
    published: list[Alert] = field(default_factory=list)


carries(
    RecordBatch,
    KeyedRecords,
    Read,
    Event,
    DeadLetter,
    DeadLetterBatch,
    MeterCount,
    StatisticsBatch,
    ReadProgress,
    DueWindow,
    ReceiptDue,
    JudgeInput,
    SummaryBatch,
    ReceiptBatch,
    Alert,
    Alarm,
    AlarmInput,
    MeterPlaces,
    MeterFeeder,
    GroupInput,
    Announcement,
    ExplainInput,
    ReadPauses,
    HeardMeters,
    HearingInput,
    DayStandings,
    SilentMeterBatch,
    FeederInput,
    HeardOn,
    GroupTotals,
    FeederBatch,
    VoltageLevels,
    HistogramInput,
    OutsideBands,
    HeatBatch,
    ValidatedBatch,
    CustomerBatch,
    CustomerChanges,
    CustomerDayChanges,
)
