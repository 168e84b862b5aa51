"""The rules of one run, as values: what the options of the command line become before a graph is built.

Transforms take what they need from here and know nothing of the command line. Durations are integer microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ami_beam.consumers import CUSTOMER_CONSUMPTION, VALIDATED_READS
from ami_beam.customer_ids import Policy
from ami_beam.event_map import ARTICLE, EventMap
from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND, format_duration
from ami_beam.quality_map import QualityMap


@dataclass(frozen=True)
class Settings:
    """The effective rules. The defaults are the contract's (design sections 3 to 5)."""

    window: int = 15 * MICROS_PER_MINUTE
    window_closed: Literal["right", "left"] = "right"
    longest_interval: int | None = None
    """Reads longer than the window, but not than this, count in every window that they overlap; None: no read does."""
    collection_delay: int = 5 * MICROS_PER_MINUTE
    """How long after its end a window waits for reads before its on-time result, in record time."""
    receipt_delay: int = 5 * MICROS_PER_MINUTE
    """How long after its end a window's missing reads are held against a transformer; per transformer in the counts."""
    allowed_lateness: int = 24 * MICROS_PER_HOUR
    max_disorder: int = 24 * MICROS_PER_HOUR
    """How far a record's time may lie behind the watermark when it is read; windows are kept so much longer."""
    late_gather: int = 10 * MICROS_PER_SECOND
    """How long late reads are gathered, in record time, before their window is revised."""
    shards: int = 1024
    """Into how many shards the transformers are spread by a stable hash. Results do not depend on it."""
    min_receipt_rate_pct: float = 80.0
    nominal_voltage: float = 230.0
    low_voltage_pct: float = 90.0
    high_voltage_pct: float = 110.0
    alarm_on_windows: int = 2
    """Windows in violation in a row that open an alarm."""
    alarm_off_windows: int = 2
    """Windows beyond the deadband in a row that close it."""
    alarm_deadband_voltage_pct: float = 1.0
    """How far inside the limit a voltage must be for an alarm to close, in per cent of nominal."""
    alarm_deadband_receipt_pct: float = 5.0
    """How far above the least receipt rate."""
    min_missing_meters: int = 2
    """Fewer silent meters are no receipt alarm, whatever their share."""
    tamper_events: int = 3
    """So many tamper events of one meter within a day are an alarm."""
    silent_after: int = 24 * MICROS_PER_HOUR
    """So long without an actual read a meter is on the daily list of silent meters."""
    plausible_voltage: tuple[float, float] = (100.0, 400.0)
    """Both ends are plausible."""
    max_interval_kwh: float = 1000.0
    """Greatest plausible |consumption| per 15 minutes of interval length."""
    future_limit: int = 24 * MICROS_PER_HOUR
    clock_skew: int = 5 * MICROS_PER_MINUTE
    """How far a record time may be ahead of the wall clock when live."""
    source_silent: int = 20 * MICROS_PER_MINUTE
    """So long without a record on the reads topic is an alarm."""
    event_map: EventMap = ARTICLE
    """Which event codes give alerts."""
    quality_map: QualityMap | None = None
    """Which power quality codes of reads are sags and swells; None: none is."""
    event_dedup: int = 48 * MICROS_PER_HOUR
    """For how long, in record time, a resent event is recognised."""
    billing_lateness: int = 45 * 24 * MICROS_PER_HOUR
    """How long after its window's end a read is still taken for billing and customers."""
    customer_id: Policy = "hmac"
    """What results name customers by."""
    customer_key_file: str | None = None
    """Where the key of "hmac" is; workers read it themselves."""
    time_zone: str = "UTC"
    """Of the utility: whose days are counted for customers and over a day."""
    also_publish: tuple[str, ...] = ()
    """Which of `json_outputs.OPTIONAL_TOPICS` is published, too; sorted."""
    source: str = ""
    """What else of the source its state depends on, for `state_label`."""
    live: bool = False
    """Whether the source is a live topic, whose record times can be held against the wall clock."""

    @property
    def bills(self) -> bool:
        """Whether reads are wanted by meter, for billing or customers."""
        return VALIDATED_READS in self.also_publish or CUSTOMER_CONSUMPTION in self.also_publish

    @property
    def apportions(self) -> bool:
        """Whether there are reads that count in several windows."""
        return self.behind_windows > 0

    @property
    def behind_windows(self) -> int:
        """How far the end of the first window that a read counts in can be behind that of its own."""
        return max((self.longest_interval or 0) - self.window, 0)

    def receipt_delay_of(self, own: int | None) -> int:
        """A transformer's receipt delay; None where the meter counts give it none of its own."""
        return self.receipt_delay if own is None else own

    def state_label(self) -> str:
        """What shapes the stateful steps' state: a savepoint does not fit a run with other values.

        It is in the labels of these steps, which some runners know state by, and in the state of `DueWindows`, which
        refuses to go on with another one: Flink knows state by a step's place in the graph.
        """
        return (
            f"window={format_duration(self.window)},{self.window_closed} delay={format_duration(self.collection_delay)}"
            f" receipt={format_duration(self.receipt_delay)} lateness={format_duration(self.allowed_lateness)}"
            f" shards={self.shards}{self.source and f' source={self.source}'}"
        )
