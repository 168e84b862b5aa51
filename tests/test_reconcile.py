"""`python -m ami_beam.reconcile`: what is missing, different or extra, against plain definitions and SQL."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ami_beam import partitioned_rows
from ami_beam.beam_options import OptionError
from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MINUTE, format_instant, parse_instant
from ami_beam.local_days import bounds_of
from ami_beam.local_times import instants_at
from ami_beam.reconcile import main, question_of, reconcile
from ami_beam.reconcile_report import as_text
from ami_beam.reconcile_rows import BadRows
from ami_beam.records import MeterDay, ValidatedRead
from tests.billing_json import validated_json

DAY = parse_instant("2026-03-03T00:00:00Z")
QUARTER = 15 * MICROS_PER_MINUTE
ON = "--day=2026-03-03"
HEADER = "meter_id,interval_end,delivered_kwh"


def read(meter: str = "M1", end: int = DAY + QUARTER, kwh: float = 1.0, **fields: Any) -> ValidatedRead:
    base = ValidatedRead(
        meter, "S", "C", "T", end - QUARTER, end, kwh, kwh, 0.0, "ACTUAL", 17, False, False, [], end, end + 1, 0
    )
    for name, value in fields.items():
        setattr(base, name, value)
    return base


class Desk:
    """A folder with both sides, and the command over them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mdms = folder / "mdms.csv"
        self.output = folder / "differences.jsonl"
        self.validated = folder / "ami.reads.validated.jsonl"

    def publishes(self, *rows: ValidatedRead | MeterDay) -> Desk:
        self.validated.write_bytes(b"".join(validated_json(row) + b"\n" for row in rows))
        return self

    def exports(self, *lines: str, header: str = HEADER) -> Desk:
        self.mdms.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        return self

    def arguments(self, *options: str) -> list[str]:
        when = [] if any(option.startswith(("--day", "--from")) for option in options) else [ON]
        where = [f"--validated={self.validated}", f"--mdms={self.mdms}", f"--output={self.output}"]
        return [*where, *when, *options]

    def outcomes(self, *options: str) -> list[tuple[str, str, str]]:
        """Meter, interval and outcome of all that is not equal, sorted."""
        reconcile(question_of(self.arguments(*options)))
        rows = map(json.loads, self.output.read_text().splitlines())
        return sorted((row["meter_id"], row["interval_end"], row["outcome"]) for row in rows)

    def problems(self, *options: str) -> str:
        with pytest.raises(BadRows) as raised:
            reconcile(question_of(self.arguments(*options)))
        return str(raised.value)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_each_outcome_once(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.publishes(
        read("equal"), read("different", kwh=1.5, quality="ESTIMATED", late=True), read("here"), read("old", end=DAY),
        MeterDay("equal", "2026-03-03", 1, 1, 0, 1.0, 1.0, 0.0, None, 0, None, 0, 0, None, [], DAY, 0),
    )  # fmt: skip
    desk.exports("equal,2026-03-03T00:15:00Z,1.001", "different,2026-03-03T00:15:00Z,1", "there,2026-03-03T00:15:00Z,2")
    assert main(desk.arguments("--json")) == 1
    said = json.loads(capsys.readouterr().out)
    assert {name: each["intervals"] for name, each in said["intervals"].items()} == {
        "equal": 1, "different": 1, "missing_in_mdms": 1, "missing_here": 1,
    }  # fmt: skip
    different = said["intervals"]["different"]
    assert (different["estimated_here"], different["late_here"]) == (1, 1)
    assert (different["delivered_kwh_here"], different["delivered_kwh_mdms"]) == (1.5, 1.0)
    assert said["here"]["rows"] == {"read": 4, "bad": 0, "outside": 1, "older": 0}
    assert (said["meters"], said["meters_not_equal"]) == (4, 3)
    assert said["compared"] == ["delivered_kwh"]
    rows = {row["meter_id"]: row for row in map(json.loads, desk.output.read_text().splitlines())}
    assert (rows["there"]["file_mdms"], rows["there"]["line_mdms"]) == (str(desk.mdms), 4)
    assert rows["here"]["delivered_kwh_mdms"] is None
    assert rows["different"]["quality_here"] == "ESTIMATED"


def test_exit_codes(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.publishes(read()).exports("M1,2026-03-03T00:15:00Z,1")
    assert main(desk.arguments()) == 0
    assert "of which 0 are not equal" in capsys.readouterr().out
    assert main(desk.arguments("--mdms_columns=meter_id=Meter")) == 2
    assert "no column Meter" in capsys.readouterr().err
    assert main(desk.arguments("--day=2026-02-30")) == 2
    assert "Example: --day=2026-03-08" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tolerance", "equal"), [("0.001", True), ("0.000999", False), ("0", False)]
)  # fmt: skip
def test_the_tolerance_itself_is_equal(desk: Desk, tolerance: str, equal: bool) -> None:
    desk.publishes(read(kwh=1.001)).exports("M1,2026-03-03T00:15:00Z,1")
    assert bool(desk.outcomes(f"--tolerance_kwh={tolerance}")) is not equal


def test_the_final_version_counts(desk: Desk) -> None:
    desk.publishes(
        read(kwh=1, as_of=DAY + 5), read(kwh=2, as_of=DAY + 7), read(kwh=3, as_of=DAY + 7), read(kwh=4, as_of=DAY + 6)
    )
    desk.exports("M1,2026-03-03T00:15:00Z,3")
    assert desk.outcomes() == []


@dataclass(frozen=True)
class Row:
    meter: str
    number: int
    kwh: int
    as_of: int = 0


ROWS = st.lists(
    st.builds(Row, st.sampled_from(["A", "B", "Ä", "C"]), st.integers(-1, 5), st.integers(0, 3), st.integers(0, 3)),
    max_size=25,
)


@given(ours=ROWS, theirs=ROWS, in_parts=st.booleans())
def test_it_is_the_plain_definition(
    tmp_path_factory: pytest.TempPathFactory, ours: list[Row], theirs: list[Row], in_parts: bool
) -> None:
    """A dict for each side, the final version of each interval in it."""
    desk = Desk(tmp_path_factory.mktemp("definition"))
    desk.publishes(*(read(r.meter, DAY + r.number * QUARTER, r.kwh / 1000, as_of=DAY + r.as_of) for r in ours))
    once = {(row.meter, row.number): row for row in theirs}
    desk.exports(*(f"{r.meter},{format_instant(DAY + r.number * QUARTER)},{r.kwh / 1000}" for r in once.values()))
    here: dict[tuple[str, int], Row] = {}
    for row in ours:
        key = row.meter, row.number
        if row.number > 0 and (key not in here or row.as_of >= here[key].as_of):
            here[key] = row
    there = {key: row for key, row in once.items() if row.number > 0}
    expected = []
    for meter, number in here.keys() | there.keys():
        a, b = here.get((meter, number)), there.get((meter, number))
        if a is None or b is None:
            outcome = "missing_here" if a is None else "missing_in_mdms"
        elif abs(a.kwh - b.kwh) > 1:
            outcome = "different"
        else:
            continue
        expected.append((meter, format_instant(DAY + number * QUARTER), outcome))
    with pytest.MonkeyPatch.context() as patch:
        if in_parts:
            patch.setattr(partitioned_rows, "MEMORY_ROWS", 7)
            patch.setattr(partitioned_rows, "BLOCK_ROWS", 3)
            patch.setattr(partitioned_rows, "PARTS", 3)
        assert desk.outcomes() == sorted(expected)


def test_it_is_sqls_full_outer_join(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitioned_rows, "MEMORY_ROWS", 5_000)
    monkeypatch.setattr(partitioned_rows, "BLOCK_ROWS", 2_000)
    monkeypatch.setattr(partitioned_rows, "PARTS", 20)
    rows = [
        read(f"M{meter}", DAY + number * QUARTER, round(meter * number % 97 / 7, 4), as_of=DAY + version)
        for meter in range(100)
        for number in range(1, 97)
        for version in range(1 + (meter * number) % 11 // 10)
        if (meter + number) % 41
    ]
    desk.publishes(*rows)
    ends = [format_instant(DAY + number * QUARTER) for number in range(97)]
    desk.exports(
        *(
            f"M{meter},{ends[number]},{round(meter * number % 97 / 7, 4) + (number % 13 == 5)}"
            for meter in range(1, 101)
            for number in range(1, 97)
            if (meter * number) % 37
        )
    )
    theirs = duckdb.sql(
        f"""
        WITH here AS (
          SELECT meter_id, interval_end, delivered_kwh FROM read_json('{desk.validated}', format='newline_delimited')
          QUALIFY row_number() OVER (PARTITION BY meter_id, interval_end ORDER BY as_of DESC) = 1
        ), mdms AS (SELECT * FROM read_csv('{desk.mdms}'))
        SELECT coalesce(h.meter_id, m.meter_id),
               strftime(coalesce(h.interval_end, m.interval_end::TIMESTAMP), '%Y-%m-%dT%H:%M:%SZ'),
               CASE WHEN h.meter_id IS NULL THEN 'missing_here' WHEN m.meter_id IS NULL THEN 'missing_in_mdms'
                    ELSE 'different' END
        FROM here h FULL OUTER JOIN mdms m ON h.meter_id = m.meter_id
             AND h.interval_end::TIMESTAMP = m.interval_end::TIMESTAMP
        WHERE h.meter_id IS NULL OR m.meter_id IS NULL OR abs(h.delivered_kwh - m.delivered_kwh) > 0.0010000001
        ORDER BY ALL
        """
    ).fetchall()
    assert {outcome for _, _, outcome in theirs} == {"missing_here", "missing_in_mdms", "different"}
    assert desk.outcomes() == sorted(theirs)


@pytest.mark.parametrize(
    ("zone", "day", "intervals"),
    [
        ("America/Chicago", "2026-03-08", 92), ("America/Chicago", "2026-11-01", 100),
        ("Europe/Berlin", "2026-03-29", 92), ("Europe/Berlin", "2026-10-25", 100), ("Europe/Berlin", "2026-07-01", 96),
    ],
)  # fmt: skip
@pytest.mark.parametrize("label", ["end", "begin"])
@pytest.mark.parametrize("column", [True, False])
def test_days_of_23_and_25_hours(desk: Desk, zone: str, day: str, intervals: int, label: str, column: bool) -> None:
    """All intervals of a local day, named by a clock on the wall, against zoneinfo's idea of it."""
    clock = ZoneInfo(zone)
    begin = datetime.fromisoformat(day).replace(tzinfo=clock)
    first = round(begin.timestamp()) * 1_000_000
    ends = [first + number * QUARTER for number in range(1, intervals + 1)]
    lines = []
    for meter in ("M1", "M2"):
        for end in ends:
            at = datetime.fromtimestamp((end - QUARTER * (label == "begin")) / 1e6, clock)
            lines.append(f"{meter},{at:%Y-%m-%d %H:%M},1{',' + 'NY'[bool(at.dst())] if column else ''}")
    desk.publishes(*(read(meter, end) for meter in ("M1", "M2") for end in ends))
    desk.exports(*lines, header=HEADER + ",dst" * column)
    options = [f"--day={day}", f"--time_zone={zone}", f"--mdms_interval_label={label}"]
    found = reconcile(question_of(desk.arguments(*options)))
    assert found.totals.equal
    assert sum(each.intervals for each in found.totals.tallies.values()) == 2 * intervals


def test_a_repeated_hour_without_its_first_half(desk: Desk) -> None:
    """What comes after a later time of the meter can only be the second."""
    zone = "America/Chicago"
    (first, second) = instants_at(datetime(2026, 11, 1, 1, 30), zone)
    assert second - first == MICROS_PER_HOUR
    desk.publishes(read(end=first), read(end=second))
    desk.exports("M1,2026-11-01 01:30,1", "M1,2026-11-01 01:30,1")
    day = ("--day=2026-11-01", f"--time_zone={zone}")
    assert desk.outcomes(*day) == []
    desk.exports("M1,2026-11-01 01:45,1", "M1,2026-11-01 01:30,1")
    assert desk.outcomes(*day) == [
        ("M1", format_instant(first), "missing_in_mdms"), ("M1", "2026-11-01T06:45:00Z", "missing_here"),
    ]  # fmt: skip
    desk.exports(*["M1,2026-11-01 01:30,1"] * 3)
    assert "keep one" in desk.problems(*day)


def test_times_that_no_clock_shows(desk: Desk) -> None:
    day = ("--day=2026-03-08", "--time_zone=America/Chicago")
    desk.publishes(read(end=parse_instant("2026-03-08T08:00:00Z"))).exports("M1,2026-03-08 02:00,1")
    assert desk.outcomes(*day) == []
    desk.exports("M1,2026-03-08 02:15,1")
    assert "line 2: interval_end: '2026-03-08 02:15' is on no clock in America/Chicago" in desk.problems(*day)


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2022, 1, 1)),
    st.sampled_from(["America/Chicago", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata", "Africa/Cairo"]),
)
def test_instants_are_those_of_zoneinfo(wall: datetime, zone: str) -> None:
    utc, clock = ZoneInfo("UTC"), ZoneInfo(zone)
    both = {wall.replace(tzinfo=clock, fold=fold).astimezone(utc) for fold in (0, 1)}
    there = sorted(moment for moment in both if moment.astimezone(clock).replace(tzinfo=None) == wall)
    epoch = datetime(1970, 1, 1, tzinfo=utc)
    assert instants_at(wall, zone) == tuple((moment - epoch) // timedelta(microseconds=1) for moment in there)


def test_a_day_whose_midnight_is_skipped() -> None:
    begin, end = bounds_of("2018-11-04", "America/Sao_Paulo")
    assert (format_instant(begin), (end - begin) // MICROS_PER_HOUR) == ("2018-11-04T03:00:00Z", 23)


def bom(text: bytes) -> bytes:
    return b"\xef\xbb\xbf" + text


@pytest.mark.parametrize(
    "change",
    [
        bom,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"M1,", b'"M1",').replace(b",1\n", b',"1"\n'),
        lambda text: text.replace(b"\n", b"\n\n").replace(b",1\n", b", 1 \n"),
        lambda text: text.replace(b"T00:15:00Z", b" 01:15+01:00"),
        lambda text: text.replace(b"2026-03-03T00:15:00Z", b"2026-03-03 00:15"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_csv_that_is_taken(desk: Desk, change: Callable[[bytes], bytes], packed: bool) -> None:
    desk.publishes(read(), read(end=DAY + 96 * QUARTER)).exports("M1,2026-03-03T00:15:00Z,1", "M1,2026-03-03 24:00,1")
    content = change(desk.mdms.read_bytes())
    desk.mdms = desk.folder / ("mdms.csv.gz" if packed else "mdms.csv")
    desk.mdms.write_bytes(gzip.compress(content) if packed else content)
    assert desk.outcomes() == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('M1,2026-03-03T00:15:00Z,"1,5"', "delivered_kwh: '1,5' has a decimal comma; write decimals with a point, 1.5"),
        ('M1,2026-03-03T00:15:00Z,"1,500"', "has commas in it, of thousands or of decimals"),
        ("M1,2026-03-03T00:15:00Z,1,5", "4 values under 3 columns"),
        ("M1,2026-03-03T00:15:00Z,", "delivered_kwh: is empty"),
        ("M1,2026-03-03T00:15:00Z,nan", "delivered_kwh: nan is no energy"),
        ("M1,2026-03-03T00:15:00Z,1e9", "delivered_kwh: 1e9 is no energy"),
        ("M1,2026-03-03T00:15:00Z,0x10", "delivered_kwh: '0x10' is no number"),
        ("M1,03/03/2026 00:15,1", "interval_end: '03/03/2026 00:15' is no time; write YYYY-MM-DD HH:MM"),
        ("M1,2026-02-30 00:15,1", "interval_end: '2026-02-30 00:15' is no time"),
        (" ,2026-03-03T00:15:00Z,1", "meter_id is empty"),
        ('"M"1,2026-03-03T00:15:00Z,1', "is no CSV"),
        ("M\udcff,2026-03-03T00:15:00Z,1", "is not UTF-8 at byte 1"),
    ],
)
def test_a_bad_line_is_named_or_counted(desk: Desk, line: str, problem: str) -> None:
    text = "\n".join([HEADER, "M1,2026-03-03T00:15:00Z,1", line, "M2,2026-03-03T00:15:00Z,1", ""])
    desk.mdms.write_bytes(text.encode(errors="surrogateescape"))
    desk.publishes(read(), read("M2"))
    said = desk.problems()
    assert f"{desk.mdms}, line 3: {problem}" in said or (f"{desk.mdms}, line 3" in said and problem in said)
    found = reconcile(question_of(desk.arguments("--skip_bad_lines")))
    assert found.totals.equal
    assert found.counts[1].bad == 1
    assert problem in found.problems[0]


def test_semicolons_and_other_names(desk: Desk) -> None:
    desk.publishes(read(kwh=1.5)).exports("M1;2026-03-03T00:15:00Z;1.5", header="Zähler;Ende;kWh")
    names = "--mdms_columns=meter_id=Zähler,interval_end=Ende,delivered_kwh=kWh"
    assert "--mdms_delimiter=semicolon" in desk.problems(names)
    assert desk.outcomes(names, "--mdms_delimiter=semicolon") == []


def test_two_rows_of_an_interval_are_refused_or_the_last_counts(desk: Desk) -> None:
    desk.publishes(read()).exports("M1,2026-03-03T00:15:00Z,7", "M1,2026-03-03T00:15:00Z,1")
    assert f"{desk.mdms}, line 2: meter 'M1' has another row" in desk.problems()
    assert desk.outcomes("--skip_bad_lines") == []


def test_all_energies_of_the_export_are_compared(desk: Desk) -> None:
    desk.publishes(read(consumption_kwh=-1.0, delivered_kwh=1.0, received_kwh=2.0))
    header = "meter_id,interval_end,consumption_kwh,delivered_kwh,received_kwh,quality"
    desk.exports("M1,2026-03-03T00:15:00Z,-1,1,2,A", header=header)
    assert desk.outcomes() == []
    desk.exports("M1,2026-03-03T00:15:00Z,-1,1,2.1,A", header=header)
    assert desk.outcomes() == [("M1", "2026-03-03T00:15:00Z", "different")]
    assert json.loads(desk.output.read_text())["quality_mdms"] == "A"


def test_json_lines_of_the_mdms(desk: Desk) -> None:
    desk.mdms = desk.folder / "mdms.jsonl.gz"
    rows = [{"Meter": name, "interval_end": "2026-03-03T00:15:00Z", "delivered_kwh": 1} for name in ("M1", 2)]
    desk.mdms.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    assert desk.publishes(read(), read("2")).outcomes("--mdms_columns=meter_id=Meter") == []
    rows[1]["delivered_kwh"] = "1"  # type: ignore[assignment]
    desk.mdms.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    said = desk.problems("--mdms_columns=meter_id=Meter")
    assert "line 2: Expected `float`, got `str`, column `delivered_kwh`" in said


def test_only_some_meters(desk: Desk) -> None:
    desk.publishes(read("M1"), read("M2")).exports("M3,2026-03-03T00:15:00Z,1")
    (desk.folder / "meters.csv").write_text("meter_id\nM1\n")
    found = desk.outcomes(f"--meters={desk.folder / 'meters.csv'}")
    assert found == [("M1", "2026-03-03T00:15:00Z", "missing_in_mdms")]


@pytest.mark.parametrize("bad", [b"{}", b"nonsense", b'{"record":"READ","meter_id":"M1"}'])
def test_a_record_that_is_no_validated_read(desk: Desk, bad: bytes) -> None:
    desk.publishes(read()).exports("M1,2026-03-03T00:15:00Z,1")
    with desk.validated.open("ab") as file:
        file.write(bad + b"\n")
    assert f"{desk.validated}, line 2: no record of ami.reads.validated" in desk.problems()
    assert desk.outcomes("--skip_bad_lines") == []


def test_what_is_implausible_here_is_different(desk: Desk) -> None:
    desk.publishes(read(kwh=1e300)).exports("M1,2026-03-03T00:15:00Z,1")
    assert desk.outcomes() == [("M1", "2026-03-03T00:15:00Z", "different")]


def test_avro_files(desk: Desk) -> None:
    kinds: dict[str, Any] = dict.fromkeys(("consumption_kwh", "delivered_kwh", "received_kwh"), "double")
    kinds |= dict.fromkeys(("meter_id", "quality"), "string") | dict.fromkeys(("late", "revised"), "boolean")
    kinds |= {name: {"type": "long", "logicalType": "timestamp-micros"} for name in ("interval_end", "as_of")}
    schema = {"type": "record", "name": "R", "fields": [{"name": n, "type": kind} for n, kind in kinds.items()]}
    rows = [read(), read("M2", kwh=0.25, quality="ESTIMATED", as_of=DAY + 1234567)]
    desk.validated = desk.folder / "ami.reads.validated.avro"
    with desk.validated.open("wb") as file:
        fastavro.writer(file, schema, [{name: getattr(row, name) for name in kinds} for row in rows], codec="deflate")
    desk.exports("M1,2026-03-03T00:15:00Z,1", "M2,2026-03-03T00:15:00Z,0.5")
    assert desk.outcomes() == [("M2", "2026-03-03T00:15:00Z", "different")]
    row = json.loads(desk.output.read_text())
    assert (row["quality_here"], row["as_of_here"]) == ("ESTIMATED", "2026-03-03T00:00:01.234567Z")
    content = desk.validated.read_bytes()
    desk.validated.write_bytes(content[:-20])
    assert "damaged Avro" in desk.problems()


def test_lists_as_csv_are_those_as_json(desk: Desk) -> None:
    desk.publishes(read('odd "name", really'), read("M2")).exports("M2,2026-03-03T00:15:00Z,3")
    desk.outcomes()
    as_json = [json.loads(line) for line in desk.output.read_text().splitlines()]
    desk.output = desk.folder / "differences.csv"
    meters = desk.folder / "meters.csv"
    reconcile(question_of(desk.arguments(f"--meters_output={meters}")))
    with desk.output.open(newline="") as file:
        rows = list(csv.DictReader(file))

    def cell(value: Any) -> str:
        return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

    assert rows == [{name: cell(value) for name, value in row.items()} for row in as_json]
    assert sorted(line.partition(",")[0] for line in meters.read_text().splitlines()[1:]) == ['"odd ""name""', "M2"]


def test_names_cannot_steer_a_terminal(desk: Desk) -> None:
    desk.publishes(read("\x1b[31mred")).exports("M2,2026-03-03T00:15:00Z,3")
    assert "\x1b" not in as_text(reconcile(question_of(desk.arguments())))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--day=2026-03-03"], "--mdms"),
        (["--mdms=x.csv", "--validated=nowhere", ON], "--validated=nowhere"),
        (["--mdms=x.csv", ON], "--validated"),
        (["--mdms=x.csv", "--bootstrap_servers=b", ON], "--bootstrap_servers=b"),
        (["--mdms=nowhere.csv", "--bootstrap_servers=b:1", ON], "--mdms=nowhere.csv"),
    ],
)
def test_wrong_options_are_named(options: Sequence[str], named: str) -> None:
    with pytest.raises(OptionError, match=f"^{named}"):
        question_of(options)


@pytest.mark.parametrize(
    "option",
    [
        "--tolerance_kwh=-1", "--mdms_columns=meter=x", "--mdms_interval_label=middle", "--mdms_time_zone=Chicago",
        "--mdms_delimiter=;", "--mdms_interval=1", "--output=list.txt", "--work_folder=nowhere", "--meters=nowhere.csv",
        "--from=2026-03-03T00:00:00Z", "--to=2026-03-03T00:00:00Z", "--start=now", "--time_zone=Chicago",
    ],
)  # fmt: skip
def test_each_wrong_option_is_named_with_what_is_allowed(desk: Desk, option: str) -> None:
    desk.publishes(read()).exports("M1,2026-03-03T00:15:00Z,1")
    arguments = [*desk.arguments(ON), option]
    with pytest.raises(OptionError) as raised:
        question_of(arguments)
    name = option.partition("=")[0]
    assert str(raised.value).startswith("--day" if name in ("--from", "--to") else name)


def test_hint_where_nothing_meets(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.publishes(read()).exports("MTR-M1,2026-03-03T00:15:00Z,1")
    desk.outcomes()
    assert "No interval is on both sides" in caplog.text


def test_rows_are_kept_by_meter_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where only one side is too large for memory."""
    desk = Desk(tmp_path)
    desk.publishes(*(read("M1", kwh=number, as_of=DAY) for number in range(20))).exports("M1,2026-03-03T00:15:00Z,19")
    monkeypatch.setattr(partitioned_rows, "MEMORY_ROWS", 6)
    monkeypatch.setattr(partitioned_rows, "BLOCK_ROWS", 4)
    monkeypatch.setattr(partitioned_rows, "PARTS", 20)
    work = tmp_path / "work"
    work.mkdir()
    question = question_of(desk.arguments(f"--work_folder={work}"))
    assert reconcile(question).totals.equal
    assert reconcile(replace(question, files=[*question.files] * 2)).counts[0].older == 39
    assert list(work.iterdir()) == []
