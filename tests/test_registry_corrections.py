"""A meter registry that was wrong and is corrected: what was published is revised as if it had always been right."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam import coders
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.test_stream import TestStream
from apache_beam.testing.util import assert_that
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from ami_beam.codecs.read_block import PackedRead, ReadBlock, correction, pack
from ami_beam.instants import MICROS_PER_MINUTE
from ami_beam.meter_registry import MeterRegistry, parse
from ami_beam.records import MeterCount, StatisticsBatch, SummaryRow
from ami_beam.registry_changes import moved
from ami_beam.settings import Settings
from ami_beam.shards import ShardWindow, shard_of
from tests.stream import RUNNER, HeadEnd, at, read_json
from transforms.corrected_statistics import CorrectedStatistics
from transforms.window_statistics import WindowStatistics

HEADER = "meter_id,service_point_id,transformer_id,feeder_id,effective_from\n"
WRONG = HEADER + "M1,S1,T1,F1,\nM2,S2,T1,F1,\nM3,S3,T2,F2,\n"
RIGHT = HEADER + "M1,S1,T1,F1,\nM2,S2,T2,F2,\nM3,S3,T2,F2,\n"
COUNTS = [MeterCount("T1", 2), MeterCount("T2", 2)]


def registry(text: str) -> MeterRegistry:
    return parse(io.BytesIO(text.encode()), "registry.csv")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "registry.csv"
    path.write_text(WRONG)
    return path


def reads(*meters: str, end: str = "10:15", **fields) -> list[bytes]:
    return [read_json(meter_id=meter, transformer_id="T9", feeder_id="F9", end=end, **fields) for meter in meters]


def final(rows: list[SummaryRow]) -> dict[tuple[str, str, int], SummaryRow]:
    """The last row of each pair that has reads, as a sink keeps them; revisions apart."""
    last: dict[tuple[str, str, int], SummaryRow] = {}
    for row in rows:
        key = row.transformer_id, row.feeder_id, row.window_end
        if key not in last or (row.as_of, row.revision) >= (last[key].as_of, last[key].revision):
            last[key] = row
    return {key: row for key, row in last.items() if row.meters_reported}


class TestStreams:
    def test_both_transformers_are_revised(self, file: Path):
        head_end = HeadEnd(COUNTS, registry=file).reads("10:16", *reads("M1", "M2", "M3"))
        # What makes the steps look at the file is the next record.
        head_end.corrected("11:00", RIGHT).reads("11:05", *reads("M1", end="11:00"))
        published = head_end.until("12:00").run()
        assert [row.meters_reported for row in published.summary("10:15", "T1")] == [2, 1]
        assert [row.meters_reported for row in published.summary("10:15", "T2")] == [1, 2]
        assert [row.total_consumption_kwh for row in published.summary("10:15", "T2")] == [1.0, 2.0]
        assert [row.receipt_rate_pct for row in published.receipt("10:15", "T1")] == [100.0, 50.0]
        assert [row.receipt_rate_pct for row in published.receipt("10:15", "T2")] == [50.0, 100.0]
        assert published.life("LOW_RECEIPT_RATE", "10:15", "T2") == [("RAISED", 50.0), ("CLEARED", 100.0)]
        assert published.life("LOW_RECEIPT_RATE", "10:15", "T1") == [("RAISED", 50.0)]

    def test_a_transformer_that_loses_its_last_read_is_revised_to_nothing(self, file: Path):
        head_end = HeadEnd(COUNTS, registry=file).reads("10:16", *reads("M3"))
        head_end.corrected("11:00", RIGHT.replace("M3,S3,T2,F2", "M3,S3,T1,F1"))
        published = head_end.reads("11:05", *reads("M1", end="11:00")).until("12:00").run()
        first, last = published.summary("10:15", "T2")
        assert (first.meters_reported, last.meters_reported, last.total_consumption_kwh) == (1, 0, 0.0)
        assert last.as_of >= first.as_of
        assert last.avg_voltage_v is last.completeness_pct is None
        assert [row.meters_reported for row in published.summary("10:15", "T1")] == [1]
        assert [row.receipt_rate_pct for row in published.receipt("10:15", "T2")] == [50.0, 0.0]

    def test_late_reads_of_both_go_on_to_where_they_belong(self, file: Path):
        head_end = HeadEnd(COUNTS, registry=file).reads("10:16", *reads("M1", "M2"))
        head_end.corrected("11:00", RIGHT).reads("11:05", *reads("M1", end="11:00"))
        head_end.reads("11:30", *reads("M3"), *reads("M2", consumption_kwh=7.0, read_ts="2026-03-03T11:20:00Z"))
        published = head_end.until("12:00").run()
        assert published.summary("10:15", "T2")[-1].total_consumption_kwh == 8.0
        assert published.summary("10:15", "T1")[-1].total_consumption_kwh == 1.0

    def test_a_second_correction_moves_a_meter_on_and_one_takes_it_back(self, file: Path):
        third = RIGHT.replace("M2,S2,T2,F2", "M2,S2,T3,F3")
        head_end = HeadEnd([*COUNTS, MeterCount("T3", 1)], registry=file).reads("10:16", *reads("M1", "M2", "M3"))
        for clock, text in (("11:00", RIGHT), ("11:20", third), ("11:40", WRONG)):
            head_end.corrected(clock, text).reads(f"{clock[:3]}{int(clock[3:]) + 5:02}", *reads("M1", end=clock))
        published = head_end.until("13:00").run()
        assert [row.meters_reported for row in published.summary("10:15", "T1")] == [2, 1, 2]
        assert [row.meters_reported for row in published.summary("10:15", "T2")] == [1, 2, 1]
        assert [row.meters_reported for row in published.summary("10:15", "T3")] == [1, 0]

    def test_another_feeder_of_the_same_transformer(self, file: Path):
        head_end = HeadEnd(COUNTS, registry=file).reads("10:16", *reads("M1", "M2"))
        head_end.corrected("11:00", WRONG.replace("T1,F1", "T1,F7")).reads("11:05", *reads("M1", end="11:00"))
        published = head_end.until("12:00").run()
        assert [row.meters_reported for row in published.summary("10:15", "T1", "F1")] == [2, 0]
        assert [row.meters_reported for row in published.summary("10:15", "T1", "F7")] == [2]

    def test_from_when_on_it_holds(self, file: Path):
        head_end = HeadEnd(COUNTS, registry=file)
        for end in ("10:15", "10:30", "10:45"):
            head_end.reads(at(end) + MICROS_PER_MINUTE, *reads("M1", "M2", "M3", end=end))
        later = WRONG + "M2,S2,T2,F2,2026-03-03T10:30:00Z\n"
        published = head_end.corrected("11:00", later).reads("11:05", *reads("M1", end="11:00")).until("12:00").run()
        assert [len(published.summary(end, "T1")) for end in ("10:15", "10:30", "10:45")] == [1, 2, 2]
        assert published.summary("10:45", "T2")[-1].meters_reported == 2

    def test_before_a_window_is_due_nothing_wrong_is_published(self, file: Path):
        head_end = HeadEnd(COUNTS, registry=file).reads("10:16", *reads("M1", "M2", "M3"))
        head_end.corrected("10:17", RIGHT).reads("10:18", *reads("M1", end="10:15", consumption_kwh=1.0))
        published = head_end.until("12:00").run()
        assert [row.meters_reported for row in published.summary("10:15", "T1")] == [1]
        assert [row.meters_reported for row in published.summary("10:15", "T2")] == [2]

    def test_a_registry_that_says_the_same_revises_nothing(self, file: Path):
        head_end = HeadEnd(COUNTS, registry=file).reads("10:16", *reads("M1", "M2", "M3"))
        same = HEADER + "".join(reversed(WRONG.splitlines(keepends=True)[1:])) + "M4,S4,T4,F4,\n"
        head_end.corrected("11:00", same).reads("11:05", *reads("M1", end="11:00"))
        published = head_end.until("12:00").run()
        assert {row.revision for row in published.summaries} == {0}


minutes = st.integers(0, 90)
OTHERS = [WRONG, RIGHT, RIGHT.replace("T2,F2", "T3,F3"), RIGHT.replace("M1,S1,T1", "M1,S1,T2")]


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sent=st.lists(
        st.tuples(
            st.sampled_from(["M1", "M2", "M3"]), st.sampled_from([15, 30, 45]), minutes, st.integers(1, 9)
        ),
        min_size=1,
        max_size=12,
    ),
    corrections=st.lists(
        st.tuples(minutes, st.sampled_from(OTHERS)),
        min_size=1,
        max_size=3,
    ),
)  # fmt: skip
@example(
    # The file changes twice before the next record, and others have looked at it in between.
    [("M1", 15, 0, 1), ("M2", 15, 62, 1)], [(41, RIGHT), (63, WRONG), (80, WRONG)],
)  # fmt: skip
def test_in_the_end_all_is_as_if_it_had_been_right_from_the_beginning(file: Path, sent, corrections) -> None:
    def run(told: list[tuple[int, str]], first: str) -> list[SummaryRow]:
        file.write_text(first)
        head_end = HeadEnd([*COUNTS, MeterCount("T3", 1)], registry=file)
        steps = [*((reading[2], 1, reading) for reading in sent), *((after, 0, text) for after, text in told)]
        for after, _, what in sorted(steps, key=lambda step: (step[0], step[1])):
            clock = at("10:46") + after * MICROS_PER_MINUTE
            if isinstance(what, str):
                head_end.corrected(clock, what)
            else:
                meter, minute, _, kwh = what
                resent = f"2026-03-03T11:{kwh:02}:00Z"
                head_end.reads(clock, *reads(meter, end=f"10:{minute}", consumption_kwh=float(kwh), read_ts=resent))
        # The last correction is seen with the next record.
        return head_end.reads("12:30", *reads("M1", end="12:15")).until("14:00").measured()

    told = sorted(corrections, key=lambda each: each[0])
    ours, theirs = run(told, WRONG), run([], told[-1][1])

    def content(row: SummaryRow) -> SummaryRow:
        # as_of never goes back: it may be that of a read which is elsewhere since.
        return changed(row, as_of=0, revision=0)

    assert {key: content(row) for key, row in final(ours).items()} == {
        key: content(row) for key, row in final(theirs).items()
    }


class Fixed:
    """A registry that workers have already while others still place reads by the one before."""

    changes = True

    def __init__(self, text: str):
        self._text = text

    def current(self, at_least: str = "") -> MeterRegistry:
        return replace(registry(self._text), version=at_least or "1")

    def hold(self, registry: MeterRegistry) -> None:
        """There is no other one."""

    def held(self, version: str) -> MeterRegistry | None:
        return None


def packed(meter: str, transformer: str, end: int, record_time: int, feeder: str = "F1") -> PackedRead:
    return PackedRead(meter_id=meter, transformer_id=transformer, interval_end=end, read_ts=end, actual=True,
                      record_time=record_time, partition=0, offset=record_time, feeder_id=feeder, consumption_kwh=1.0,
                      delivered_kwh=1.0, received_kwh=0.0, voltage_v=230.0, voltage_rejected=False,
                      zero_voltage=False)  # fmt: skip


@pytest.mark.parametrize("published_before", [True, False])
def test_reads_that_others_still_place_wrongly_go_on(published_before: bool) -> None:
    rules = Settings(shards=5)
    end = at("10:15")
    due = end + rules.collection_delay

    def block(*rows: PackedRead) -> tuple[ShardWindow, ReadBlock]:
        return (shard_of(rows[0].transformer_id, rules.shards), end), pack(end, rows)

    def corrected(name: str) -> tuple[ShardWindow, ReadBlock]:
        return (shard_of(name, rules.shards), end), correction(end, [name], "2")

    first = [block(packed("M1", "T1", end, end + 1_000)), block(packed("M3", "T2", end, end + 2_000, feeder="F2"))]
    late = [block(packed("M2", "T1", end, due + MICROS_PER_MINUTE))]
    kind = tuple[tuple[int, int], ReadBlock]
    stream = TestStream(coder=coders.registry.get_coder(kind))
    for elements, watermark in (
        (first, due + MICROS_PER_MINUTE if published_before else end + 5_000),
        ([corrected("T1"), corrected("T2")], due + 2 * MICROS_PER_MINUTE),
        (late, due + 10 * MICROS_PER_MINUTE),
    ):
        stream = stream.add_elements(
            [TimestampedValue(each, Timestamp(micros=max(each[1].first_record_time, end))) for each in elements]
        ).advance_watermark_to(Timestamp(micros=watermark))
    options = PipelineOptions([])
    options.view_as(StandardOptions).streaming = True

    def check(batches: list[tuple[ShardWindow, StatisticsBatch]]) -> None:
        rows = sorted(
            (each.transformer_id, each.revision, each.meters_reported)
            for _, batch in batches
            for each in batch.transformers
        )
        assert rows == [("T1", 0, 1), ("T2", 0, 1), ("T2", 1, 2)]

    with TestPipeline(runner=RUNNER, options=options) as pipeline:
        blocks = pipeline | stream.advance_watermark_to_infinity() | beam.Map(lambda each: each).with_output_types(kind)
        statistics, handed = blocks | WindowStatistics(rules, Fixed(RIGHT))
        corrected_ = handed | CorrectedStatistics(rules, Fixed(RIGHT))
        assert_that((statistics, corrected_) | beam.Flatten(), check)


class TestChanges:
    def test_a_meter_that_moves_touches_both_in_its_time(self):
        later = WRONG + "M2,S2,T2,F2,2026-03-03T10:30:00Z\n"
        (change,) = moved(registry(WRONG), registry(later), at("09:00"), at("12:00"))
        assert change == (at("10:30"), at("12:00"), frozenset({"T1", "T2"}))
        assert moved(registry(later), registry(WRONG), at("09:00"), at("12:00")) == {change}
        assert not moved(registry(WRONG), registry(later), at("09:00"), at("10:30"))

    def test_a_new_meter_touches_its_own_and_one_that_is_gone_none(self):
        more = WRONG + "M4,S4,T4,F4,\n"
        assert moved(registry(WRONG), registry(more), 0, 9) == {(0, 9, frozenset({"T4"}))}
        assert not moved(registry(more), registry(WRONG), 0, 9)

    rows = st.lists(
        st.tuples(
            st.sampled_from(["M1", "M2", "M3"]), st.sampled_from(["T1", "T2"]), st.sampled_from(["F1", "F2"]),
            st.integers(0, 5),
        ),
        min_size=1, max_size=8, unique_by=lambda row: (row[0], row[3]),
    )  # fmt: skip

    @staticmethod
    def text(rows) -> str:
        lines = (
            f"{meter},S{meter},{transformer},{feeder},1970-01-01T00:00:0{begin}Z\n"
            for meter, transformer, feeder, begin in rows
        )
        return HEADER + "".join(lines)

    @given(before=rows, after=rows)
    def test_they_are_those_of_every_instant(self, before, after):
        def place(rows, meter: str, second: int):
            known = [row for row in rows if row[0] == meter and row[3] <= second]
            return max(known, key=lambda row: row[3])[1:3] if known else None

        expected: dict[int, set[str]] = {}
        for second in range(1, 6):
            for meter in ("M1", "M2", "M3"):
                was, now = place(before, meter, second), place(after, meter, second)
                if now is not None and was != now:
                    expected.setdefault(second, set()).update({now[0]} if was is None else {was[0], now[0]})
        found: dict[int, set[str]] = {}
        for change in moved(registry(self.text(before)), registry(self.text(after)), 1_000_000, 6_000_000):
            for second in range(change.first // 1_000_000, change.end // 1_000_000):
                found.setdefault(second, set()).update(change.transformers)
        assert found == expected
