"""The daily list of silent meters out of reads: as they come, and against what the simulator says was so."""

from __future__ import annotations

import apache_beam as beam
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from ami_beam.instants import MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_MILLI, MICROS_PER_MINUTE, format_instant
from ami_beam.records import MeterCount, RecordBatch
from ami_beam.settings import Settings
from ami_beam.simulator import CollectionRates, FaultRates, Simulation
from ami_beam.simulator.network import meter_id, transformer_id
from tests.stream import HeadEnd, read_json, run_pipeline

START = 1_772_496_000_000_000
"""2026-03-03T00:00:00Z"""
END_OF_DAY_2 = START + 2 * MICROS_PER_DAY
QUIET = FaultRates(outages=0, dead_collectors=0, voltage_faults=0, tampers=0)
DEAD, BACK, HELD_BACK = 1, 3, 5
"""Transformers whose collector is dead to the end, is back after 16 hours, or sends what it held back after 40."""


class Days(Simulation):
    """Two days and a few hours of hourly reads, with late, resent and estimated ones."""

    def __init__(self) -> None:
        super().__init__(
            seed=3,
            meters=60,
            interval=MICROS_PER_HOUR,
            start=START,
            intervals=52,
            faults=QUIET,
            collection=CollectionRates(resend_pct=2, estimate_pct=2, late_pct=2),
        )
        hour = MICROS_PER_HOUR // MICROS_PER_MILLI
        for transformer, since, until in ((DEAD, 14, 60), (BACK, 14, 30), (HELD_BACK, 6, 46)):
            begin, end = (self.clock.start_ms + hours * hour for hours in (since, until))
            backlog = transformer == HELD_BACK
            self._faults._add("SILENT_COLLECTOR", begin, end, transformer, transformer + 1, backlog)

    def meters_of(self) -> dict[str, set[str]]:
        """The meters of each transformer."""
        found: dict[str, set[str]] = {}
        for meter, transformer in enumerate(self.network.transformer_of_meter.tolist()):
            found.setdefault(transformer_id(transformer), set()).add(meter_id(meter))
        return found


def test_who_is_silent_in_truth_is_listed_and_nobody_else():
    simulation = Days()
    records = [(time, value) for topic, time, _, value in simulation if topic == "ami.headend.reads"]
    meters = simulation.meters_of()
    batches = [
        TimestampedValue(
            RecordBatch(
                "ami.headend.reads",
                [0] * len(some),
                list(range(first, first + len(some))),
                [time for time, _ in some],
                [value for _, value in some],
            ),
            Timestamp(micros=some[0][0]),
        )
        for first in range(0, len(records), 1_000)
        if (some := records[first : first + 1_000])
    ]
    settings = Settings(window=MICROS_PER_HOUR, shards=4, source_silent=4 * MICROS_PER_HOUR)
    counts = [MeterCount(name, len(names)) for name, names in meters.items()]
    reads = beam.Create(batches, reshuffle=False) | beam.Map(lambda batch: batch).with_output_types(RecordBatch)
    published = run_pipeline(reads, counts, settings, runner="FnApiRunner")
    assert {condition.first_transformer for condition in simulation.conditions} == {DEAD, BACK, HELD_BACK}
    rows = published.silent_meters
    assert {(row.day, row.transformer_id, row.status, row.revision) for row in rows} == {
        ("2026-03-04", transformer_id(DEAD), "LISTED", 0)
    }
    assert {row.meter_id for row in rows} == meters[transformer_id(DEAD)]
    assert len(rows) == len(meters[transformer_id(DEAD)])
    for row in rows:
        # The collector died at 14:00; the read of 14:00 comes a little later.
        assert row.silent_since is not None
        assert START + 12 * MICROS_PER_HOUR <= row.silent_since <= START + 14 * MICROS_PER_HOUR
        assert row.windows_missing * MICROS_PER_HOUR == END_OF_DAY_2 - row.silent_since
        assert row.window_end == row.as_of == END_OF_DAY_2


SIX_HOURS = 6 * MICROS_PER_HOUR


def reads(head_end: HeadEnd, window: int, meters: str, at: int | None = None) -> None:
    """The reads of a window of six hours, the first by number 1, a minute after its end."""
    end = START + window * SIX_HOURS
    times = {
        "interval_start": format_instant(end - SIX_HOURS),
        "interval_end": format_instant(end),
        "read_ts": format_instant(end + 1),
    }
    head_end.reads(end + MICROS_PER_MINUTE if at is None else at, *(read_json(meter_id=m, **times) for m in meters))


def test_it_comes_when_the_day_is_due_and_a_late_read_takes_it_back():
    head_end = HeadEnd([MeterCount("T1", 4)], live=True, shards=2, window="6h")
    for window in range(1, 10):
        reads(head_end, window, "ABCD" if window <= 2 else "AB")
    reads(head_end, 7, "C", at=START + 9 * SIX_HOURS + MICROS_PER_HOUR)
    published = head_end.until(START + 12 * SIX_HOURS).run()
    since = START + 2 * SIX_HOURS
    assert [
        (row.meter_id, row.status, row.revision, row.silent_since, row.windows_missing)
        for row in sorted(published.silent_meters, key=lambda row: (row.meter_id, row.revision))
    ] == [("C", "LISTED", 0, since, 6), ("C", "WITHDRAWN", 1, since, 6), ("D", "LISTED", 0, since, 6)]
    (withdrawn,) = (row for row in published.silent_meters if row.status == "WITHDRAWN")
    assert withdrawn.as_of > withdrawn.window_end == END_OF_DAY_2


def test_after_a_silence_of_the_head_end_nobody_is_listed_for_it():
    head_end = HeadEnd([MeterCount("T1", 3)], live=True, shards=2, window="6h", source_silent="7h")
    for window in range(1, 6):
        reads(head_end, window, "ABC" if window == 1 else "AB")
    # More than a day and two midnights, of which nothing comes afterwards.
    for window in range(11, 14):
        reads(head_end, window, "AB")
    published = head_end.until(START + 14 * SIX_HOURS).run()
    silences = [alarm for alarm in published.alarms if alarm.alarm_type == "SOURCE_SILENT"]
    assert silences[0].began_at == START + 5 * SIX_HOURS + MICROS_PER_MINUTE
    # C was silent before and is afterwards. Of the windows 2 to 8 those up to 5 count, and of those up to 12 that too.
    assert [(row.day, row.meter_id, row.windows_missing) for row in published.silent_meters] == [
        ("2026-03-04", "C", 4),
        ("2026-03-05", "C", 5),
    ]
