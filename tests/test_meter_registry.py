"""The meter registry: what a file must be, which row holds when, how many meters there are, and reloading."""

from __future__ import annotations

import gzip
import io
import logging
import os
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ami_beam import meter_registry
from ami_beam.csv_table import TableError
from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MINUTE, format_instant, parse_instant
from ami_beam.io import meter_registry_source
from ami_beam.io.meter_counts_file import CountsFile
from ami_beam.io.meter_counts_source import FollowedCounts, LoadMeterCounts, PolledMeterCounts
from ami_beam.io.meter_registry_source import FollowedRegistry
from ami_beam.meter_counts import MeterCounts, counts_of, effective
from ami_beam.meter_registry import COLUMNS, MeterRegistry, load, parse
from ami_beam.options import OptionError, validate
from ami_beam.records import MeterCount
from ami_beam.registry_counts import ReceiptDelays, merged, meter_counts_of
from ami_beam.run import main, warn_of_intervals
from ami_beam.settings import Settings

MARCH = parse_instant("2026-03-01T00:00:00Z")
HEADER = ",".join(COLUMNS) + "\n"
DELAYS = ReceiptDelays.of_run(Settings())
QUARTER, HOUR = 15 * MICROS_PER_MINUTE, MICROS_PER_HOUR


def registry(text: str | bytes) -> MeterRegistry:
    return parse(io.BytesIO(text.encode() if isinstance(text, str) else text), "registry.csv")


def refusal(text: str | bytes) -> str:
    with pytest.raises(TableError) as caught:
        registry(text)
    return str(caught.value)


def place_of(found: MeterRegistry, meter: str, instant: int) -> tuple[str, str, bool] | None:
    rows, registered = found.at([meter], np.array([instant]))
    if not registered[0]:
        return None
    place = found.place[rows[0]]
    return found.transformers[place], found.feeders[place], bool(found.inactive[rows[0]])


def counts(found: MeterRegistry, delays: ReceiptDelays = DELAYS) -> MeterCounts:
    return MeterCounts.from_rows(meter_counts_of(found.changes, delays))


class TestFile:
    @pytest.mark.parametrize(
        "text",
        [
            HEADER + "M1,S1,T1,F1,230,15,ACTIVE,2026-03-01T00:00:00Z\nM2,S2,T1,F1,,,INACTIVE,\n",
            HEADER + '\r\nM1,S1,T1,"F1", 230.0 ,15,,2026-03-01T01:00:00+01:00\r\n\r\nM2,S2,T1,F1,,,INACTIVE,',
            "\ufeffnote,feeder_id,meter_id,transformer_id,service_point_id,effective_from,status\n"
            "a,F1,M1,T1,S1,2026-03-01T00:00:00Z,\nb,F1,M2,T1,S2,,INACTIVE\n",
        ],
    )
    def test_columns_may_stand_anyhow(self, text: str) -> None:
        found = registry(text)
        assert place_of(found, "M1", MARCH) == ("T1", "F1", False)
        assert place_of(found, "M1", MARCH - 1) is None
        assert place_of(found, "M2", 0) == ("T1", "F1", True)
        assert place_of(found, "M3", MARCH) is None

    def test_plain_and_gz(self, tmp_path: Path) -> None:
        text = (HEADER + "M1,S1,T1,F1,,,,\n" * 1).encode()
        (tmp_path / "r.csv").write_bytes(text)
        (tmp_path / "r.csv.gz").write_bytes(gzip.compress(text))
        for name in ("r.csv", "r.csv.gz"):
            assert len(load(str(tmp_path / name))) == 1
        rows = "".join(f"M{number},S{number},T1,F1,,,,\n" for number in range(2_000))
        (tmp_path / "cut.csv.gz").write_bytes(gzip.compress((HEADER + rows).encode())[:-12])
        with pytest.raises(TableError, match=r"truncated \.gz"):
            load(str(tmp_path / "cut.csv.gz"))
        with pytest.raises(TableError, match="cannot be read"):
            load(str(tmp_path / "missing.csv"))

    @pytest.mark.parametrize(
        ("row", "problem", "fix"),
        [
            (",S2,T1,F1,,,,", "meter_id is missing", "as the reads have it"),
            ("M2,,T1,F1,,,,", "service_point_id is missing", "as the reads have it"),
            ("M2,S2, T1,F1,,,,", "transformer_id is ' T1'", "without spaces"),
            ("M2,S2,T1,F1 ,,,,", "feeder_id is 'F1 '", "without spaces"),
            ("M2,S2,T1,F1,0,,,", "nominal_voltage_v is '0'", "volts above 0"),
            ("M2,S2,T1,F1,1e3,,,", "nominal_voltage_v is '1e3'", "volts above 0"),
            ("M2,S2,T1,F1,,0,,", "interval_minutes is '0'", "whole minutes from 1"),
            ("M2,S2,T1,F1,,15m,,", "interval_minutes is '15m'", "whole minutes from 1"),
            ("M2,S2,T1,F1,,,active,", "status is 'active'", "ACTIVE or INACTIVE"),
            ("M2,S2,T1,F1,,,,2026-03-01", "effective_from is '2026-03-01'", "a time with a zone"),
            ("M2,S2,T1,F1,,,,2026-13-01T00:00:00Z", "effective_from is '2026-13-01T00:00:00Z'", "a time with a zone"),
            ("M2,S2,T1", "3 values under 8 columns", "quote commas"),
            ("M1,S2,T2,F2,,,,", "meter_id 'M1' with the same effective_from is on line 2 already", "remove one"),
        ],
    )
    def test_a_bad_row_is_refused_with_line_field_value_and_fix(self, row: str, problem: str, fix: str) -> None:
        said = refusal(f"{HEADER}M1,S1,T1,F1,,,,\n\nM3,S3,T1,F1,,,,\n{row}\n")
        assert f"line 5: {problem}" in said
        assert fix in said
        assert said.startswith("registry.csv: bad meter registry")

    def test_the_same_instant_in_two_zones_is_the_same(self) -> None:
        rows = "M1,S1,T1,F1,,,,2026-03-01T00:00:00Z\nM1,S1,T2,F1,,,,2026-03-01T01:00:00+01:00\n"
        assert "line 3: meter_id 'M1' with the same effective_from is on line 2" in refusal(HEADER + rows)

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("", "no column meter_id and service_point_id"),
            (HEADER, "no rows"),
            (HEADER + "\n\n", "no rows"),
            ("meter_id;service_point_id;transformer_id;feeder_id\nM;S;T;F\n", "no column meter_id"),
            ("meter_id,service_point_id,transformer_id,feeder_id,meter_id\n", "column meter_id is there twice"),
            (HEADER + '"M1,S1,T1,F1,,,,\nM2,S2,T1,F1,,,,\n', "not CSV"),
            (HEADER.encode() + b"M\xff,S1,T1,F1,,,,\n", "not UTF-8"),
            # The quote of a column that nobody needs would swallow a meter.
            (HEADER.strip() + ',note\nM1,S1,T1,F1,,,,,"a\nM2,S2,T1,F1,,,,,b"\n', "over several lines"),
        ],
    )
    def test_a_bad_file_is_refused(self, text: str | bytes, problem: str) -> None:
        assert problem in refusal(text)

    def test_the_first_ten_problems_are_named_and_the_others_counted(self) -> None:
        said = refusal(HEADER + "".join(f"M{number},S,T1,F1,,,?,\n" for number in range(25)))
        assert said.count("status is '?'") == 10
        assert said.endswith("and 15 more")

    def test_rows_are_the_same_in_many_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        text = HEADER + "".join(f"M{n},S{n},T{n % 7},F{n % 3},,,,\n" for n in range(500))
        monkeypatch.setattr(meter_registry, "_BLOCK_BYTES", 300)
        found = registry(text)
        assert [place_of(found, f"M{n}", 0) for n in range(500)] == [
            (f"T{n % 7}", f"F{n % 3}", False) for n in range(500)
        ]
        assert "line 450: status" in refusal(text.replace("M448,S448,T0,F1,,,,", "M448,S448,T0,F1,,,x,"))


TIMES = [None, *(MARCH + hours * HOUR for hours in range(4))]
ROW = st.tuples(
    st.sampled_from("ABCDE"), st.sampled_from("RST"), st.sampled_from(["T1", "T2"]), st.sampled_from(["F1", "F2"]),
    st.sampled_from(["", "120", "230"]), st.sampled_from(["", "15", "30", "60"]),
    st.sampled_from(["", "ACTIVE", "INACTIVE"]), st.sampled_from(TIMES),
)  # fmt: skip
ROWS = st.lists(ROW, min_size=1, max_size=16, unique_by=lambda row: (row[0], row[-1]))
INSTANTS = [0, *(MARCH + minutes * MICROS_PER_MINUTE for minutes in range(-1, 200, 30)), MARCH + HOUR, MARCH + HOUR - 1]


def text_of(rows: list[tuple]) -> str:
    return HEADER + "".join(
        ",".join((*row[:-1], "" if row[-1] is None else format_instant(row[-1]))) + "\n" for row in rows
    )


def valid(rows: list[tuple], instant: int) -> dict[str, tuple]:
    """The rows that hold, by meter; the plain way."""
    found: dict[str, tuple] = {}
    for row in sorted(rows, key=lambda row: -1 if row[-1] is None else row[-1]):
        if row[-1] is None or row[-1] <= instant:
            found[row[0]] = row
    return found


class TestAgainstThePlainWay:
    @settings(max_examples=150, deadline=None)
    @given(ROWS)
    def test_the_row_that_is_valid_at_an_instant(self, rows: list[tuple]) -> None:
        found = registry(text_of(rows))
        meters = [meter for meter in "ABCDEX" for _ in INSTANTS]
        instants = INSTANTS * 6
        places, registered = found.at(meters, np.array(instants))
        for meter, instant, row, there in zip(meters, instants, places.tolist(), registered.tolist(), strict=True):
            expected = valid(rows, instant).get(meter)
            assert there == (expected is not None)
            if expected is not None:
                place = found.place[row]
                assert (found.transformers[place], found.feeders[place]) == expected[2:4]
                assert found.inactive[row] == (expected[6] == "INACTIVE")

    @settings(max_examples=150, deadline=None)
    @given(ROWS)
    def test_totals_voltages_and_delays_at_every_instant(self, rows: list[tuple]) -> None:
        found = registry(text_of(rows))
        table = counts(found)
        for instant in INSTANTS:
            for transformer in ("T1", "T2"):
                active = [
                    row
                    for row in valid(rows, instant).values()
                    if row[2] == transformer and row[6] != "INACTIVE"
                ]  # fmt: skip
                row = table.at(transformer, instant)
                if not active:
                    assert row is None
                    continue
                assert row is not None
                assert row.total_meters == len({row[1] for row in active})
                volts = Counter(float(row[4]) for row in active if row[4])
                most = max(volts.values(), default=0)
                assert row.nominal_voltage_v == min((v for v, n in volts.items() if n == most), default=None)
                longest = max((int(row[5]) for row in active if row[5]), default=0) * MICROS_PER_MINUTE
                extra = max(longest - QUARTER, 0)
                assert row.receipt_delay == (Settings().receipt_delay + extra if extra else None)

    @settings(max_examples=100, deadline=None)
    @given(ROWS)
    def test_there_is_a_count_only_where_something_changes(self, rows: list[tuple]) -> None:
        by_transformer: dict[str, list[MeterCount]] = {}
        for row in meter_counts_of(registry(text_of(rows)).changes, DELAYS):
            by_transformer.setdefault(row.transformer_id, []).append(row)
        for several in by_transformer.values():
            assert [effective(row) for row in several] == sorted({effective(row) for row in several})

    @settings(max_examples=150, deadline=None)
    @given(ROWS)
    def test_which_meters_are_expected(self, rows: list[tuple]) -> None:
        found = registry(text_of(rows))
        for instant in INSTANTS:
            now = valid(rows, instant)
            for meter in "ABCDE":
                if meter not in now:
                    assert found.expects(meter, instant)
                    continue
                point, begin = now[meter][1], -1 if now[meter][-1] is None else now[meter][-1]
                others = [row for row in rows if row[1] == point and row[0] != meter and row[6] != "INACTIVE"]
                later = [row for row in others if begin < (row[-1] or -1) <= instant]
                assert found.expects(meter, instant) == (now[meter][6] != "INACTIVE" and not later)


class TestExchange:
    ROWS = (
        "OLD,S1,T1,F1,,,,\nOLD,S1,T1,F1,,,INACTIVE,2026-03-01T01:00:00Z\nNEW,S1,T1,F1,,,,2026-03-01T01:00:00Z\n"
        "Z,S2,T1,F1,,,,\n"
    )

    def names(self, text: str) -> dict[str, set[str]]:
        """What the rows of each meter count as."""
        found = registry(HEADER + text)
        rows = {meter: np.flatnonzero(found.hashes == hash(meter)) for meter in ("OLD", "NEW", "Z", "A", "B")}
        assert found.counts_as is not None
        return {
            meter: {"itself" if found.counts_as[row] < 0 else found.meters[found.counts_as[row]] for row in places}
            for meter, places in rows.items()
            if len(places)
        }

    def test_both_meters_count_as_the_first_by_name_and_the_total_stays(self) -> None:
        assert self.names(self.ROWS) == {"OLD": {"NEW"}, "NEW": {"NEW"}, "Z": {"itself"}}
        found = registry(HEADER + self.ROWS)
        assert meter_counts_of(found.changes, DELAYS) == [MeterCount("T1", 2)]
        assert found.expects("OLD", MARCH)
        assert not found.expects("OLD", MARCH + HOUR)
        assert found.expects("NEW", MARCH + HOUR)

    def test_a_meter_that_nobody_has_ended_is_replaced_all_the_same(self) -> None:
        found = registry(HEADER + "OLD,S1,T1,F1,,,,\nNEW,S1,T1,F1,,,,2026-03-01T01:00:00Z\n")
        assert found.expects("OLD", MARCH)
        assert not found.expects("OLD", MARCH + HOUR)
        assert meter_counts_of(found.changes, DELAYS) == [MeterCount("T1", 1)]

    def test_meters_that_were_mixed_up_count_as_two(self) -> None:
        later = "2026-03-01T01:00:00Z"
        found = registry(f"{HEADER}A,S1,T1,F1,,,,\nA,S2,T1,F1,,,,{later}\nB,S2,T1,F1,,,,\nB,S1,T1,F1,,,,{later}\n")
        assert found.counts_as is not None
        for instant in (MARCH, MARCH + HOUR):
            rows, _ = found.at(["A", "B"], np.array([instant] * 2))
            assert set(found.meters[found.counts_as[rows]]) == {"A", "B"}

    def test_without_exchanges_nothing_is_kept_for_them(self) -> None:
        found = registry(HEADER + "M1,S1,T1,F1,,,,\nM1,S1,T2,F1,,,,2026-03-01T01:00:00Z\nM2,S2,T1,F1,,,,\n")
        assert found.counts_as is None
        assert found.replaced_at is None


class TestCounts:
    def test_a_transformer_without_active_meters_is_not_expected_until_it_has_one_again(self) -> None:
        rows = (
            "M1,S1,T1,F1,,,,\nM1,S1,T1,F1,,,INACTIVE,2026-03-01T01:00:00Z\nM1,S1,T1,F1,,,ACTIVE,2026-03-01T02:00:00Z\n"
        )
        table = counts(registry(HEADER + rows))
        assert table.at("T1", MARCH) == MeterCount("T1", 1)
        assert table.at("T1", MARCH + HOUR) is None
        assert table.in_shard(0, 1, MARCH + HOUR) == []
        assert table.at("T1", MARCH + 2 * HOUR) == MeterCount("T1", 1, effective_from=MARCH + 2 * HOUR)

    def test_meters_of_different_voltages_are_said(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            found = registry(
                HEADER + "M1,S1,T1,F1,240,,,\nM2,S2,T1,F1,240,,,\nM3,S3,T1,F1,120,,,\nM4,S4,T2,F1,120,,,\n"
            )
        assert "of 1 transformers the meters have different nominal_voltage_v" in caplog.text
        assert [row.nominal_voltage_v for row in meter_counts_of(found.changes, DELAYS)] == [240, 120]

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            # T1 is known to be short, T2 long, of T3 nothing is known, and of T4 not of all.
            ([], {"T1": None, "T2": 50, "T3": None, "T4": 50}),
            (["--longest_interval=60m"], {"T1": 5, "T2": None, "T3": None, "T4": None}),
            (["--longest_interval=30m"], {"T1": 5, "T2": 50, "T3": None, "T4": 50}),
            (["--receipt_delay=4h"], {"T1": None, "T2": 285, "T3": None, "T4": 285}),
            (["--receipt_delay=4h", "--longest_interval=60m"], {"T1": None, "T2": 285, "T3": None, "T4": 285}),
            (["--receipt_delay=1410m"], {"T1": None, "T2": 1440, "T3": None, "T4": 1440}),
        ],
    )
    def test_intervals_decide_the_receipt_delay(self, options: list[str], expected: dict[str, int | None]) -> None:
        intervals = [("T1", "15"), ("T2", "60"), ("T2", "15"), ("T3", ""), ("T4", "60"), ("T4", "")]
        rows = "".join(f"M{n},S{n},{name},F1,,{length},,\n" for n, (name, length) in enumerate(intervals))
        rules, _ = validate([*options, "--bootstrap_servers=b:1", f"--meter_registry={__file__}"])
        found = meter_counts_of(registry(HEADER + rows).changes, ReceiptDelays.of_run(rules))
        assert {row.transformer_id: row.receipt_delay for row in found} == {
            name: None if minutes is None else minutes * MICROS_PER_MINUTE for name, minutes in expected.items()
        }

    def test_meter_counts_beside_a_registry_add_what_it_does_not_say(self) -> None:
        later, other = MARCH + HOUR, MARCH + 2 * HOUR
        found = merged(
            [MeterCount("T1", 5, 230.0, 7), MeterCount("T1", 0, effective_from=later), MeterCount("T3", 1)],
            [
                MeterCount("T1", 9, None, 9, None, "C1"),
                MeterCount("T1", 9, 120.0, None, other, "C2"),
                MeterCount("T2", 4),
            ],
        )
        assert sorted(found, key=lambda row: (row.transformer_id, effective(row))) == [
            MeterCount("T1", 5, 230.0, 9, None, "C1"),
            MeterCount("T1", 0, None, 9, later, "C1"),
            MeterCount("T1", 0, 120.0, None, other, "C2"),
            MeterCount("T2", 4),
            MeterCount("T3", 1),
        ]


class TestRunning:
    @pytest.fixture(autouse=True)
    def fresh(self) -> None:
        meter_registry_source._versions.clear()

    def test_a_changed_file_is_taken_and_a_bad_one_is_not(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "registry.csv"
        path.write_text(HEADER + "M1,S1,T1,F1,,,,\n")
        followed = FollowedRegistry(str(path), 0)
        first = followed.current()
        assert place_of(first, "M1", 0) == ("T1", "F1", False)
        assert followed.current() is first
        path.write_text(HEADER + "M1,S1,T2,F1,,,,\n")
        os.utime(path, (1, 1))
        second = followed.current()
        assert place_of(second, "M1", 0) == ("T2", "F1", False)
        path.write_text(HEADER + "M1,S1,T2,F1,,,?,\n")
        assert followed.current() is second
        assert "status is '?'" in caplog.text
        path.unlink()
        assert followed.current() is second
        path.write_text(HEADER + "M1,S1,T3,F1,,,,\n")
        assert place_of(followed.current(), "M1", 0) == ("T3", "F1", False)

    def test_a_file_that_did_not_change_is_not_read_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "registry.csv"
        path.write_text(HEADER + "M1,S1,T1,F1,,,,\n")
        os.utime(path, (5, 5))
        followed = FollowedRegistry(str(path), 0)
        first = followed.current()
        # The same size and time, so that only reading it would tell.
        path.write_text(HEADER + "M1,S1,T2,F1,,,,\n")
        os.utime(path, (5, 5))
        assert followed.current() is first
        # A file system that does not say when it changed.
        real = meter_registry_source._stamp
        monkeypatch.setattr(meter_registry_source, "_stamp", lambda path: real(path)._replace(changed=0.0))
        second = followed.current()
        assert place_of(second, "M1", 0) == ("T2", "F1", False)
        assert followed.current() is second

    def test_meter_counts_follow_both_files(self, tmp_path: Path) -> None:
        path, table = tmp_path / "registry.csv", tmp_path / "counts.csv"
        path.write_text(HEADER + "M1,S1,T1,F1,,,,\n")
        table.write_text("transformer_id,total_meters,collection_group\nT1,9,C1\n")
        loader = LoadMeterCounts(
            FollowedCounts(CountsFile(str(table)), 0, None, FollowedRegistry(str(path), 0), DELAYS)
        )

        def loaded() -> list[MeterCount | None]:
            return [counts_of(version).at("T1", MARCH) for version in loader.process(None)]

        assert loaded() == [MeterCount("T1", 1, collection_group="C1")]
        assert loaded() == []
        path.write_text(HEADER + "M1,S1,T1,F1,,,,\nM2,S2,T1,F1,,,,\n")
        assert loaded() == [MeterCount("T1", 2, collection_group="C1")]
        table.write_text("transformer_id,total_meters,collection_group\nT1,9,C2\n")
        assert loaded() == [MeterCount("T1", 2, collection_group="C2")]
        path.write_text("nonsense")
        assert loaded() == []

    def test_what_is_sent_to_workers_is_the_path(self, tmp_path: Path) -> None:
        path = tmp_path / "registry.csv"
        path.write_text(HEADER + "".join(f"M{number},S{number},T{number % 9},F1,,,,\n" for number in range(5_000)))
        followed = FollowedRegistry(str(path), 60_000_000)
        follow = FollowedCounts(None, 60_000_000, None, followed, DELAYS)
        initial = follow.load()
        sent = pickle.dumps((followed, PolledMeterCounts(initial, follow)))
        assert len(sent) < len(initial.payload) + 1_000
        there, polled = pickle.loads(sent)
        assert len(there.current()) == 5_000
        (version,) = polled
        assert counts_of(version).at("T8", MARCH) == MeterCount("T8", 555)

    def test_options(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("registry.csv").write_text(HEADER + "M1,S1,T1,F1,,,,\n")
        Path("counts.csv").write_text("transformer_id,total_meters\nT1,1\n")
        base = ["--bootstrap_servers=b:1", "--meter_registry=registry.csv"]
        rules, plan = validate(base)
        assert (plan.meter_registry, plan.meter_counts) == ("registry.csv", None)
        assert "meter_registry" in rules.state_label()
        assert validate([*base, "--meter_counts=counts.csv"])[1].meter_counts == "counts.csv"
        with pytest.raises(OptionError, match=r"--meter_registry.*no such file"):
            validate(["--bootstrap_servers=b:1", "--meter_registry=missing.csv"])
        with pytest.raises(OptionError, match=r"--meter_counts.*no such file"):
            validate(["--bootstrap_servers=b:1"])

    @pytest.mark.parametrize(("option", "said"), [((), True), (("--longest_interval=60m",), False)])
    def test_long_intervals_that_no_option_allows_for_are_said(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, option: tuple[str, ...], said: bool
    ) -> None:
        path = tmp_path / "registry.csv"
        path.write_text(HEADER + "M1,S1,T1,F1,,60,,\nM2,S2,T1,F1,,15,,\n")
        rules, plan = validate(["--bootstrap_servers=b:1", f"--meter_registry={path}", *option])
        warn_of_intervals(rules, plan)
        assert ("With --longest_interval=1h they count" in caplog.text) == said

    def test_a_bad_file_refuses_the_start(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("registry.csv").write_text(HEADER + "M1,S1,T1,F1,,,?,\n")
        Path("reads.jsonl").write_text("")
        options = ["--source=files", "--sink=files", "--reads=reads.jsonl", "--events=reads.jsonl"]
        assert main([*options, "--meter_registry=registry.csv"]) == 2
        assert "line 2: status is '?'" in capsys.readouterr().err
