"""Reads on the transformers that the registry has: each read once, what is counted, and what goes on from there."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ami_beam.instants import MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_MINUTE, format_instant, parse_instant
from ami_beam.io import meter_registry_source
from ami_beam.io.meter_registry_source import FollowedRegistry
from ami_beam.meter_registry import MeterRegistry, parse
from ami_beam.read_columns import ReadColumns, from_reads
from ami_beam.records import DayStandings, MeterStanding, Read
from transforms.place_reads import PlaceReads, place
from transforms.publish_silent_meters import KeptMeters, update

RUNNER = "BundleBasedDirectRunner"
NOON = parse_instant("2026-03-01T12:00:00Z")
HEADER = "meter_id,service_point_id,transformer_id,feeder_id,status,effective_from\n"
REGISTRY = (
    HEADER
    + "M1,S1,T1,F1,,\n"
    + "M2,S2,T1,F1,,\nM2,S2,T2,F2,,2026-03-01T12:00:00Z\n"
    + "M3,S3,T3,F3,INACTIVE,\n"
    + "M4,S4,T4,F4,,2026-03-01T12:00:00Z\n"
    + "OLD,S5,T1,F1,,\nOLD,S5,T1,F1,INACTIVE,2026-03-01T12:00:00Z\nNEW,S5,T1,F1,,2026-03-01T12:00:00Z\n"
)


def registry(text: str = REGISTRY) -> MeterRegistry:
    return parse(io.BytesIO(text.encode()), "registry.csv")


def read(meter: str, transformer: str = "T1", feeder: str = "F1", end: int = NOON, **other) -> Read:
    fields = {
        "meter_id": meter, "service_point_id": "S", "transformer_id": transformer, "feeder_id": feeder,
        "read_type": "INTERVAL", "interval_start": end - 15 * MICROS_PER_MINUTE, "interval_end": end,
        "consumption_kwh": 1.0, "delivered_kwh": 1.5, "received_kwh": 0.5, "voltage_v": 230.0, "power_quality_code": 0,
        "estimated_flag": False, "read_ts": end, "window_end": end, "voltage_rejected": False, "zero_voltage": False,
        "record_time": end, "partition": 0, "offset": 0,
    }  # fmt: skip
    return Read(**(fields | other))


def told(*reads: Read) -> list[tuple[str, str, str | None]]:
    placed = place(from_reads(reads), registry()).reads.reads()
    return [(each.transformer_id, each.feeder_id, each.counts_as) for each in placed]


def test_the_row_that_is_valid_at_interval_end_decides() -> None:
    before = NOON - 1
    assert told(read("M1", "X", "Y"), read("M2", "T9", end=before), read("M2", "T9")) == [
        ("T1", "F1", None), ("T1", "F1", None), ("T2", "F2", None),
    ]  # fmt: skip


def test_a_meter_that_is_not_registered_or_not_yet_stays_where_it_is() -> None:
    assert told(read("M4", "T9", "F9", end=NOON - 1), read("M4", "T9", "F9"), read("M9", "T9", "F9")) == [
        ("T9", "F9", None), ("T4", "F4", None), ("T9", "F9", None),
    ]  # fmt: skip


def test_exchanged_meters_count_as_one_and_the_others_as_themselves() -> None:
    assert told(read("M1"), read("OLD", end=NOON - 1), read("NEW"), read("OLD")) == [
        ("T1", "F1", "M1"), ("T1", "F1", "NEW"), ("T1", "F1", "NEW"), ("T1", "F1", "NEW"),
    ]  # fmt: skip
    # Nothing is made for a batch in which no meter was exchanged, and nothing at all where the head-end is right.
    columns = from_reads([read("M1"), read("M3", "T3", "F3")])
    assert place(columns, registry()).reads is columns


def test_what_is_counted() -> None:
    reads = [
        read("M1"), read("M1", "T2"), read("M1", feeder="F2"), read("M1", "T2", "F2"), read("M9", "T2"),
        read("M3", "T3", "F3"), read("M3"), read("M4", "T4", end=NOON - 1),
    ]  # fmt: skip
    placed = place(from_reads(reads), registry())
    assert (placed.mismatches, placed.unregistered, placed.inactive) == (4, 2, 2)


METERS = st.sampled_from(["M1", "M2", "M3", "M4", "M9", "OLD", "NEW"])
READS = st.builds(
    read, METERS, st.sampled_from(["T1", "T2"]), st.sampled_from(["F1", "F2"]), st.sampled_from([NOON - 1, NOON])
)


@settings(max_examples=100, deadline=None)
@given(st.lists(READS, min_size=1, max_size=20))
def test_nothing_else_of_a_read_changes(reads: list[Read]) -> None:
    reads = [replace(each, offset=number, consumption_kwh=float(number)) for number, each in enumerate(reads)]
    placed = place(from_reads(reads), registry()).reads.reads()
    assert [
        replace(after, transformer_id=before.transformer_id, feeder_id=before.feeder_id, counts_as=None)
        for after, before in zip(placed, reads, strict=True)
    ] == reads


def test_in_a_pipeline(tmp_path: Path) -> None:
    meter_registry_source._versions.clear()
    path = tmp_path / "registry.csv"
    path.write_text(REGISTRY)
    batches = [from_reads([read("M1", "T2"), read("M9", "T9")]), from_reads([read("M3", "T3", "F3")])]

    with TestPipeline(runner=RUNNER) as pipeline:
        followed = FollowedRegistry(str(path))
        reads = pipeline | beam.Create(batches, reshuffle=False).with_output_types(ReadColumns)
        counted = reads | "Counted" >> PlaceReads(followed)
        again = reads | "Again" >> PlaceReads(followed, counted=False)
        for name, placed in (("counted", counted), ("again", again)):
            names = placed | f"Names {name}" >> beam.FlatMap(_names).with_output_types(tuple[str, str])
            assert_that(names, equal_to([("M1", "T1"), ("M9", "T9"), ("M3", "T3")]), label=name)
    counters = counted_in(pipeline)
    assert counters["topology_mismatches"] == counters["unregistered_meters"] == 1
    assert counters["inactive_meter_reads"] == 1
    assert counters["meter_registry_loaded"] == 1


def test_a_file_that_goes_bad_is_counted_and_the_last_good_one_places_reads(tmp_path: Path) -> None:
    meter_registry_source._versions.clear()
    path = tmp_path / "registry.csv"
    path.write_text(REGISTRY)
    followed = FollowedRegistry(str(path), 0)
    assert len(followed.current()) == 8
    path.write_text("nonsense")
    with TestPipeline(runner=RUNNER) as pipeline:
        reads = pipeline | beam.Create([from_reads([read("M1", "T2")])], reshuffle=False).with_output_types(ReadColumns)
        placed = reads | PlaceReads(followed) | beam.FlatMap(_names).with_output_types(tuple[str, str])
        assert_that(placed, equal_to([("M1", "T1")]))
    counters = counted_in(pipeline)
    assert counters["meter_registry_load_failed"] == counters["meter_counts_load_failed"] == 1


def counted_in(pipeline: TestPipeline) -> Counter[str]:
    counters = Counter[str]()
    for counter in pipeline.result.metrics().query()["counters"]:
        counters[counter.key.metric.name] += counter.result
    return counters


def _names(reads: ReadColumns) -> list[tuple[str, str]]:
    return list(zip(reads.meter_id, reads.transformer_id, strict=True))


@pytest.mark.parametrize(
    ("meter", "listed"), [("M1", True), ("M3", False), ("OLD", False), ("NEW", True), ("M9", True)]
)
def test_who_is_inactive_or_was_replaced_is_not_on_the_list_of_silent_meters(meter: str, listed: bool) -> None:
    end = NOON + MICROS_PER_DAY // 2
    news = DayStandings(end, [MeterStanding(meter, "T1", "F1", NOON - MICROS_PER_HOUR, 52)])
    rows = update(KeptMeters(), [news], end, registry())
    assert [(row.meter_id, row.status) for row in rows] == ([(meter, "LISTED")] if listed else [])
    # Without a registry nobody knows better.
    assert len(update(KeptMeters(), [news], end)) == 1


def test_who_turns_out_to_be_inactive_is_taken_from_the_list() -> None:
    end, kept = NOON + MICROS_PER_DAY // 2, KeptMeters()
    news = DayStandings(end, [MeterStanding("M1", "T1", "F1", NOON, 48)])
    (listed,) = update(kept, [news], end, registry())
    inactive = registry(f"{HEADER}M1,S1,T1,F1,,\nM1,S1,T1,F1,INACTIVE,{format_instant(end)}\n")
    (withdrawn,) = update(kept, [news], end + 1, inactive)
    assert (listed.status, withdrawn.status, withdrawn.revision) == ("LISTED", "WITHDRAWN", 1)
