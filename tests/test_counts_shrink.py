"""Which meter counts may follow those in use."""

from __future__ import annotations

import io
import logging
import os
import pickle
import time
from pathlib import Path
from typing import ClassVar

import apache_beam as beam
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from ami_beam import counts_shrink
from ami_beam.counts_shrink import ShrinkGuard, ShrinkRule, Size, size_of, size_of_changes
from ami_beam.csv_table import TableError
from ami_beam.io import meter_registry_source
from ami_beam.io.meter_counts_file import CountsFile
from ami_beam.io.meter_counts_source import FollowedCounts, PolledMeterCounts
from ami_beam.io.meter_registry_source import FollowedRegistry
from ami_beam.meter_counts import MeterCountsError, unpack
from ami_beam.meter_registry import parse
from ami_beam.records import MeterCount
from ami_beam.registry_counts import ReceiptDelays, meter_counts_of
from ami_beam.settings import Settings
from tests.stream import RUNNER

ROWS = [MeterCount(f"T{number}", 10, 120.0, 60_000_000, None, "C1") for number in range(10)]
HEADER = "meter_id,service_point_id,transformer_id,feeder_id,nominal_voltage_v,interval_minutes,status,effective_from\n"


def size(*numbers: int) -> Size:
    return Size(*numbers, *[0] * (5 - len(numbers)))


def sizes(table: Size, now: int) -> Size:
    return table


@pytest.mark.parametrize(
    ("before", "new", "lost"),
    [
        (size(100, 1000), size(80, 800), None),
        (size(100, 1000), size(79, 1000), "transformers from 100 to 79"),
        (size(100, 1000), size(100, 799), "meters from 1,000 to 799"),
        (size(5, 50, 5, 5, 5), size(5, 50, 5, 5, 3), "transformers with a collection group from 5 to 3"),
        (size(5, 50, 5), size(5, 50), "transformers with a nominal voltage from 5 to 0"),
        (size(5, 50, 0, 5), size(5, 50), "transformers with a receipt delay from 5 to 0"),
        (size(), size(), None),
        (size(), size(100, 1000), None),
    ],
)
def test_no_more_than_a_share_may_be_lost(before: Size, new: Size, lost: str | None) -> None:
    assert ShrinkRule(20).shrunk(new, [before]) == lost
    assert ShrinkRule(100).shrunk(new, [before]) is None
    assert (ShrinkRule(0).shrunk(new, [before]) is None) is all(
        now >= was for was, now in zip(before, new, strict=True)
    )


def test_tables_are_compared_as_they_are_now() -> None:
    """What a table has foreseen itself is no shrinking, and what it foresees only later is not yet there."""
    table = [
        MeterCount("T1", 100),
        MeterCount("T1", 10, effective_from=1_000),
        MeterCount("T2", 5, effective_from=2_000),
    ]
    guard = ShrinkGuard(ShrinkRule(20), size_of)
    assert guard.refusal(table, "first", 500) is None
    assert guard.refusal([MeterCount("T1", 9)], "second", 500) is not None
    assert guard.refusal([MeterCount("T1", 9)], "second", 1_500) is None
    assert size_of(table, 2_500) == size(2, 15)


@given(st.lists(st.integers(0, 100), min_size=1, max_size=20))
def test_what_is_in_use_is_never_much_smaller_than_it_was_that_day(steps: list[int]) -> None:
    """However a table shrinks within a day, in one step or in many."""
    guard = ShrinkGuard(ShrinkRule(20), sizes)
    used = [100]
    guard.take(size(100))
    for step in steps:
        if guard.refusal(size(step), "any", 0) is None:
            used.append(step)
    assert min(used) >= 80


def test_after_a_day_a_table_may_have_shrunk_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(counts_shrink.time, "monotonic", lambda: now[0])
    guard = ShrinkGuard(ShrinkRule(20), sizes)
    found = []
    for hours, transformers in ((0, 100), (1, 85), (2, 70), (25, 80), (26, 65), (50, 66), (51, 60)):
        now[0] = hours * 3_600.0
        if guard.refusal(size(transformers), "any", 0) is None:
            found.append(transformers)
    # By the 25th hour the mark is the 85 of then, by the 50th the 80.
    assert found == [100, 85, 80, 66]


def test_an_accepted_id_is_found_among_others(tmp_path: Path) -> None:
    path = tmp_path / "accepted.txt"
    rule = ShrinkRule(20, str(path))
    version = "0123456789abcdef" * 4
    assert not rule.accepts(version)
    for text, accepts in (
        (version, True), (version[:16], True), (f"# by Ann\nffff\n{version[:20]}\n", True), (version[:15], False),
        ("", False), ("1" + version[1:], False),
    ):  # fmt: skip
        path.write_text(text)
        assert rule.accepts(version) is accepts, text
    path.write_bytes(b"\xff\xfe")
    assert not rule.accepts(version)
    assert not ShrinkRule(20).accepts(version)


@given(
    st.lists(
        st.tuples(st.sampled_from("ABCD"), st.sampled_from(["ACTIVE", "INACTIVE"]), st.sampled_from(["", "120", "230"]),
                  st.sampled_from(["", "2026-03-01T00:00:00Z", "2026-03-05T00:00:00Z"])),
        max_size=20,
    )
)  # fmt: skip
def test_a_registry_is_as_large_as_the_counts_that_it_makes(rows: list[tuple[str, str, str, str]]) -> None:
    lines = [
        f"M{number},S{number},T{transformer},F1,{volts},15,{status},{since}"
        for number, (transformer, status, volts, since) in enumerate(rows)
    ]
    found = parse(io.BytesIO((HEADER + "\n".join(["M,S,T,F,,,ACTIVE,", *lines])).encode()), "registry.csv")
    counts = meter_counts_of(found.changes, ReceiptDelays.of_run(Settings()))
    for now in (0, 1_772_400_000_000_000, 1_772_800_000_000_000):
        expected = size_of(counts, now)
        assert size_of_changes(found.changes, now)[:3] == expected[:3]


class TestRegistry:
    @pytest.fixture(autouse=True)
    def fresh(self) -> None:
        meter_registry_source._versions.clear()

    def test_a_registry_that_comes_in_half_places_no_reads(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path, accepted = tmp_path / "registry.csv", tmp_path / "accepted.txt"
        rows = [f"M{number},S{number},T{number % 10},F1,,,,\n" for number in range(100)]
        path.write_text(HEADER + "".join(rows))
        followed = FollowedRegistry(str(path), 0, ShrinkRule(20, str(accepted)))
        whole = followed.current()
        path.write_text(HEADER + "".join(rows[:50]))
        os.utime(path, (5, 5))
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                assert followed.current() is whole
            # Another worker uses it: we have looked already, and do not look with every batch.
            assert followed.current(f"{path.stat().st_size}/5.0") is whole
        assert caplog.text.count("has lost meters from 100 to 50. Its id is") >= 3
        path.write_text(HEADER + "".join(rows[:90]))
        os.utime(path, (6, 6))
        assert len(followed.current()) == 90
        path.write_text(HEADER + "".join(rows[:50]))
        os.utime(path, (7, 7))
        assert len(followed.current()) == 90
        accepted.write_text(f"{path.stat().st_size}/7.0")
        assert len(followed.current()) == 50


class TestWorkersThatBeginAnew:
    """A worker that was restarted compares with what the job was started with."""

    def test_with_a_registry(self, tmp_path: Path) -> None:
        meter_registry_source._versions.clear()
        path = tmp_path / "registry.csv"
        rows = [f"M{number},S{number},T1,F1,,,,\n" for number in range(10)]
        path.write_text(HEADER + "".join(rows))
        followed = FollowedRegistry(str(path), 0, ShrinkRule(20))
        followed.current()
        sent = pickle.dumps(followed)
        meter_registry_source._versions.clear()
        assert pickle.loads(sent) == followed
        path.write_text(HEADER + "".join(rows[:5]))
        with pytest.raises(TableError, match="has lost meters from 10 to 5"):
            pickle.loads(pickle.dumps(pickle.loads(sent))).current()
        path.write_text(HEADER + "".join(rows[:9]))
        assert len(pickle.loads(sent).current()) == 9

    def test_with_a_table_that_the_job_carries(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        counts, path = polled(tmp_path, ROWS)
        path.write_text(as_text(ROWS[:5]))
        for _ in range(100_000):
            (version,) = counts
            assert unpack(version) == ROWS
            if "has lost transformers from 10 to 5" in caplog.text:
                break
        else:
            raise AssertionError(caplog.text)

    def test_without_one_it_does_not_begin_with_much_less(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ami_beam.io.meter_counts_source._MAX_EMBEDDED", 10)
        counts, path = polled(tmp_path, ROWS)
        path.write_text(as_text(ROWS[:5]))
        with pytest.raises(MeterCountsError, match="has lost transformers from 10 to 5"):
            next(iter(counts))
        path.write_text(as_text(ROWS[:9]))
        assert unpack(next(iter(counts))) == ROWS[:9]


class _Heard(logging.Handler):
    """What was logged, for steps of a pipeline in this process."""

    texts: ClassVar[list[str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def _ask(element: bytes, polled: PolledMeterCounts) -> int:
    """Asks until somebody has said that a table was refused."""
    until = time.monotonic() + 120
    while not any("has lost" in text for text in _Heard.texts):
        assert time.monotonic() < until
        (version,) = polled
    return len(unpack(version))


def test_a_look_in_the_background_is_counted_and_gives_the_last_good_table(tmp_path: Path) -> None:
    counts, path = polled(tmp_path, ROWS)
    path.write_text(as_text(ROWS[:5]))
    handler, log = _Heard(), logging.getLogger("ami_beam")
    log.addHandler(handler)
    try:
        with TestPipeline(runner=RUNNER) as pipeline:
            found = pipeline | beam.Create([b""]) | beam.Map(_ask, counts)
            assert_that(found, equal_to([10]))
    finally:
        log.removeHandler(handler)
        _Heard.texts.clear()
    counters = {each.key.metric.name: each.result for each in pipeline.result.metrics().query()["counters"]}
    assert counters["meter_counts_refused"] == 1


def as_text(rows: list[MeterCount]) -> str:
    lines = [f"{row.transformer_id},{row.total_meters},120,1,C1" for row in rows]
    return "\n".join(["transformer_id,total_meters,nominal_voltage_v,receipt_delay_minutes,collection_group", *lines])


def polled(tmp_path: Path, rows: list[MeterCount]) -> tuple[PolledMeterCounts, Path]:
    path = tmp_path / "counts.csv"
    path.write_text(as_text(rows))
    follow = FollowedCounts(CountsFile(str(path)), 0, shrink=ShrinkRule(20))
    return PolledMeterCounts(follow.load(), follow), path
