"""`python -m ami_beam.report`: which row counts, the numbers behind the pictures, the files, and what is refused."""

from __future__ import annotations

import gzip
import math
import random
import re
from collections.abc import Iterable
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pytest

from ami_beam.codecs.json_outputs import (
    ALARMS_TOPIC,
    CONFIG_TOPIC,
    RECEIPT_TOPIC,
    SUMMARY_TOPIC,
    alarm_json,
    receipt_json,
    summary_json,
)
from ami_beam.effective_config import config_json
from ami_beam.instants import MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_SECOND, parse_instant
from ami_beam.meter_counts import MeterCounts
from ami_beam.records import Alarm, MeterCount, ReceiptRow, SummaryRow
from ami_beam.report import folder as folder_module
from ami_beam.report.__main__ import main, thresholds_of
from ami_beam.report.folder import read_rows, rules_of
from ami_beam.report.page import page
from ami_beam.report.pictures import MOST_NAMED, pictures, together
from ami_beam.report.report_data import (
    UNPLACED,
    Extreme,
    NoFeederError,
    ReportData,
    coarser,
    natural,
    report_data,
    spans,
    steps,
)
from ami_beam.report.tables import MOST_ROWS, alarm_table, receipt_table, time_table, voltage_table
from ami_beam.settings import Settings
from ami_beam.voltage_codes import NO_ROW, Thresholds
from tests.replays import default_replay, needs_simbench
from tests.test_alarm_changes import alarm

DAY = parse_instant("2026-03-03T00:00:00Z")
SIZE = 15 * 60 * MICROS_PER_SECOND
HOSTILE = '<script>alert("1")</script>$F_{<1$\x1b[31m'


def summary(
    window: int,
    transformer: str = "T1",
    feeder: str = "F1",
    low: float | None = 230.0,
    high: float | None = None,
    **more,
) -> SummaryRow:
    """Of the window that begins so many windows after midnight, with two meters."""
    start = DAY + window * SIZE
    high = low if high is None else high
    values = {
        "total_consumption_kwh": 1.0, "total_delivered_kwh": 1.0, "total_received_kwh": 0.25, "meters_reported": 2,
        "as_of": start + 2 * SIZE, "revision": 0, **more,
    }  # fmt: skip
    return SummaryRow(
        transformer, feeder, start, start + SIZE, avg_voltage_v=low, min_voltage_v=low, max_voltage_v=high,
        estimated_count=0, voltage_rejected_count=0, zero_voltage_count=0, **values,
    )  # fmt: skip


def receipt(
    window: int, transformer: str = "T1", feeder: str | None = "F1", heard: int = 2, total: int = 2, as_of: int = 0
) -> ReceiptRow:
    start = DAY + window * SIZE
    rate = heard * 100 / total
    return ReceiptRow(
        transformer, feeder, start, start + SIZE, heard, total, rate, heard, rate, start + 2 * SIZE + as_of, 0
    )


def write_folder(
    path: Path, summaries: Iterable[SummaryRow], receipts: Iterable[ReceiptRow] = (), alarms: Iterable[Alarm] = ()
) -> Path:
    path.mkdir(exist_ok=True)
    for topic, encode, rows in (
        (SUMMARY_TOPIC, summary_json, summaries),
        (RECEIPT_TOPIC, receipt_json, receipts),
        (ALARMS_TOPIC, alarm_json, alarms),
    ):
        (path / f"{topic}.jsonl").write_bytes(b"".join(encode(row) + b"\n" for row in rows))
    return path


def data_of(path: Path, *chosen: str, counts: MeterCounts | None = None) -> ReportData:
    return report_data(read_rows(str(path), None, None), Thresholds(), counts, chosen)


class TestRows:
    def test_the_greatest_as_of_counts_and_of_equal_ones_the_last(self, tmp_path):
        rows = [
            summary(0, low=200.0, as_of=DAY + 5),
            summary(0, low=230.0, as_of=DAY + 9),
            summary(0, low=260.0, as_of=DAY + 7),
            summary(0, low=210.0, as_of=DAY + 9),
        ]
        receipts = [receipt(0, heard=1), receipt(0, heard=2, as_of=1), receipt(0, heard=0)]
        found = data_of(write_folder(tmp_path, rows, receipts))
        assert found.feeders.codes.tolist() == [[2]]
        assert found.feeders.lowest == [Extreme(210.0, pytest.approx(210 / 2.3), "T1", 0)]
        assert found.receipt.system_pct.tolist() == [100.0]

    def test_blocks_of_lines_change_nothing(self, tmp_path, monkeypatch):
        """Versions of many identities in any order, in one block and in many."""
        chance = random.Random(3)
        rows = [
            summary(window, f"T{number}", f"F{number % 3}", float(chance.randrange(180, 280)), as_of=DAY + as_of)
            for window, number, as_of in product(range(5), range(7), range(4))
        ]
        chance.shuffle(rows)
        write_folder(tmp_path, rows, [receipt(0)])
        whole = data_of(tmp_path, "F0", "F1", "F2")
        last = {(row.transformer_id, row.window_end): row for row in sorted(rows, key=lambda row: row.as_of)}
        monkeypatch.setattr(folder_module, "_BLOCK_BYTES", 1000)
        parts = data_of(tmp_path, "F0", "F1", "F2")
        for one, other in zip(whole.chosen, parts.chosen, strict=True):
            assert (one.names, one.codes.tolist()) == (other.names, other.codes.tolist())
            for name, codes in zip(one.names, one.codes.tolist(), strict=True):
                expected = [_code(last[name, DAY + (window + 1) * SIZE]) for window in range(5)]
                assert codes == expected

    def test_lines_that_are_none_of_ours_hide_no_other(self, tmp_path, caplog):
        write_folder(tmp_path, [summary(0), summary(1, low=100.0)], [receipt(0)])
        path = tmp_path / f"{SUMMARY_TOPIC}.jsonl"
        one, other = path.read_bytes().splitlines()
        path.write_bytes(b"\n".join([b"{", one, b'{"transformer_id":1}', b"\xff", b"", other]))
        assert data_of(tmp_path).feeders.codes.tolist() == [[3, 1]]
        assert "3 lines of" in caplog.text

    def test_packed_files_are_read(self, tmp_path):
        write_folder(tmp_path, [summary(0)], [receipt(0)])
        for path in list(tmp_path.iterdir()):
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
        assert data_of(tmp_path).feeders.codes.tolist() == [[3]]

    def test_a_period_is_the_windows_that_end_in_it(self, tmp_path):
        write_folder(tmp_path, map(summary, range(4)), map(receipt, range(4)), [alarm(1, 1), alarm(2, 4, "T2")])
        found = read_rows(str(tmp_path), DAY + SIZE, DAY + 3 * SIZE)
        assert sorted(found.starts) == [DAY + 2 * SIZE, DAY + 3 * SIZE]
        assert report_data(found, Thresholds()).consumption_kwh.tolist() == [1.0, 1.0]

    def test_an_alarm_is_as_it_was_published_last(self, tmp_path):
        first, last = alarm(1, 2), alarm(1, 3)
        last.as_of = first.as_of + 1
        gone = alarm(1, 1, "T2")
        gone.windows_in_violation, gone.state = 0, "CLEARED"
        write_folder(tmp_path, [summary(0)], [receipt(0)], [last, first, gone])
        (found,) = read_rows(str(tmp_path), None, None).alarms
        assert found.last_window == last.last_window


def _code(row: SummaryRow) -> int:
    """In the words of the rule, at 230 V with limits of 10 %."""
    low, high = row.min_voltage_v, row.max_voltage_v
    if low is None or high is None:
        return 0
    if low < 207:
        return 6 if high > 253 else 1
    if high > 253:
        return 5
    return 2 if low < 218.5 else 4 if high > 241.5 else 3


class TestVoltage:
    def test_codes_of_transformers_and_the_worst_of_each_feeder(self, tmp_path):
        rows = [
            summary(0, "T1", "F1", 230), summary(1, "T1", "F1", 206), summary(2, "T1", "F1", 215),
            summary(0, "T2", "F1", 245), summary(1, "T2", "F1", 255), summary(2, "T2", "F1", 230),
            summary(0, "T3", "F2", 230), summary(1, "T3", "F2", None), summary(2, "T3", "F2", 200, 260),
        ]  # fmt: skip
        found = data_of(write_folder(tmp_path, rows), "F1", "F2")
        assert found.feeders.names == ["F1", "F2"]
        assert found.feeders.codes.tolist() == [[4, 6, 2], [3, 0, 6]]
        assert found.feeders.transformers.tolist() == [2, 1]
        assert [(heat.feeder_id, heat.names, heat.codes.tolist()) for heat in found.chosen] == [
            ("F1", ["T1", "T2"], [[3, 1, 2], [4, 5, 3]]),
            ("F2", ["T3"], [[3, 0, 6]]),
        ]
        (lowest, _), (highest, _) = found.feeders.lowest, found.feeders.highest
        assert lowest == Extreme(206.0, pytest.approx(206 / 2.3), "T1", 1)
        assert highest == Extreme(255.0, pytest.approx(255 / 2.3), "T2", 1)
        assert (found.below.tolist(), found.above.tolist(), found.silent.tolist()) == ([0, 1, 1], [0, 1, 1], [0, 1, 0])

    def test_a_silent_transformer_is_on_the_feeder_where_it_was_seen(self, tmp_path):
        """Before it was seen on the one where it comes to be seen; without ever being seen on none."""
        rows = [summary(1, "T1", "F1"), summary(3, "T1", "F2"), *(summary(window, "T2", "F2") for window in range(5))]
        heard = {("T1", 1): "F1", ("T1", 3): "F2", **{("T2", window): "F2" for window in range(5)}}
        receipts = [
            receipt(window, name, heard.get((name, window)), 2 if (name, window) in heard else 0)
            for window, name in product(range(5), ("T1", "T2", "T3"))
        ]
        found = data_of(write_folder(tmp_path, rows, receipts), "F1", "F2", UNPLACED)
        of = {heat.feeder_id: dict(zip(heat.names, heat.codes.tolist(), strict=True)) for heat in found.chosen}
        none = NO_ROW
        assert of == {
            "F1": {"T1": [0, 3, 0, none, none]},
            "F2": {"T1": [none, none, none, 3, 0], "T2": [3] * 5},
            UNPLACED: {"T3": [0] * 5},
        }
        rates = dict(zip(found.receipt.names, found.receipt.feeder_pct.tolist(), strict=True))
        assert rates[UNPLACED] == [0.0] * 5
        assert rates["F2"] == [100.0, 100.0, 100.0, 100.0, 50.0]
        np.testing.assert_equal(rates["F1"], [0.0, 100.0, 0.0, math.nan, math.nan])
        assert found.transformers == 3

    def test_a_pair_without_reads_any_more_is_no_row(self, tmp_path):
        rows = [summary(0, "T1", "F1"), summary(0, "T1", "F1", None, meters_reported=0, as_of=DAY + MICROS_PER_DAY)]
        rows += [summary(0, "T1", "F2", 200), summary(0, "T2", "F1")]
        found = data_of(write_folder(tmp_path, rows, [receipt(0, "T1", "F2"), receipt(0, "T2")]), "F1")
        assert dict(zip(found.chosen[0].names, found.chosen[0].codes.tolist(), strict=True)) == {
            "T1": [NO_ROW],
            "T2": [3],
        }
        assert dict(zip(found.feeders.names, found.feeders.codes.tolist(), strict=True)) == {"F1": [3], "F2": [1]}

    def test_nominal_voltages_are_those_that_hold_at_the_window(self, tmp_path):
        counts = MeterCounts.from_rows(
            [
                MeterCount("T1", 2, 120.0),
                MeterCount("T2", 2, 120.0),
                MeterCount("T2", 2, 240.0, effective_from=DAY + 2 * SIZE),
                MeterCount("T3", 2),
            ]
        )
        rows = [summary(window, name, name, 120.0) for window, name in product(range(2), ("T1", "T2", "T3"))]
        found = data_of(write_folder(tmp_path, rows), counts=counts)
        assert dict(zip(found.feeders.names, found.feeders.codes.tolist(), strict=True)) == {
            "T1": [3, 3],
            "T2": [3, 1],
            "T3": [1, 1],
        }
        assert found.own_nominal

    def test_without_a_choice_the_worst_feeder_is_shown(self, tmp_path):
        write_folder(tmp_path, [summary(0, "T1", "F1"), summary(0, "T2", "F2", 200)])
        assert [heat.feeder_id for heat in data_of(tmp_path).chosen] == ["F2"]
        with pytest.raises(NoFeederError):
            data_of(tmp_path, "F3")


class TestOverTime:
    def test_receipt_of_the_system_and_of_feeders_the_lowest_first(self, tmp_path):
        receipts = [
            receipt(0, "T1", "F1", 8, 10), receipt(1, "T1", "F1", 10, 10),
            receipt(0, "T2", "F1", 1, 3), receipt(1, "T2", "F1", 3, 3),
            receipt(0, "T3", "F2", 1, 8), receipt(1, "T3", None, 0, 8),
        ]  # fmt: skip
        rows = [summary(0, "T3", "F2")]
        found = data_of(write_folder(tmp_path, rows, receipts)).receipt
        assert found.names == ["F2", "F1"]
        assert found.feeder_pct.tolist() == [[12.5, 0.0], [69.2, 100.0]]
        assert found.codes.tolist() == [[1, 0], [1, 3]]
        assert found.system_pct.tolist() == [47.6, 61.9]
        assert found.feeder_mean_pct.tolist() == [6.3, 84.6]
        assert found.system_mean_pct == 54.8

    def test_energy_is_that_of_all_transformers(self, tmp_path):
        rows = [
            summary(0, "T1", total_consumption_kwh=0.1), summary(0, "T2", total_consumption_kwh=0.2),
            summary(2, "T1", total_consumption_kwh=-1.5),
        ]  # fmt: skip
        found = data_of(write_folder(tmp_path, rows, [receipt(1, "T1", None, 0)]))
        np.testing.assert_equal(found.consumption_kwh, [0.3, math.nan, -1.5])
        np.testing.assert_equal(found.received_kwh, [0.5, math.nan, 0.25])
        assert found.profile is None

    def test_times_of_day_are_there_with_several_days(self, tmp_path):
        rows = [
            summary(day * 96 + of_day, total_consumption_kwh=float(day + of_day))
            for day, of_day in [(0, 0), (1, 0), (1, 4), (2, 0), (2, 4)]
        ]
        found = data_of(write_folder(tmp_path, rows)).profile
        assert found is not None
        assert found.starts.tolist() == [0, MICROS_PER_HOUR]
        assert found.days.tolist() == [3, 2]
        assert found.consumption_mean.tolist() == [1.0, 5.5]
        assert (found.consumption_least.tolist(), found.consumption_most.tolist()) == ([0.0, 5.0], [2.0, 6.0])
        assert found.received_mean.tolist() == [0.25, 0.25]

    def test_long_periods_are_told_in_longer_steps(self, tmp_path):
        rows = [summary(window, low=200.0 if window == 5 else 230.0) for window in range(10)]
        found = data_of(write_folder(tmp_path, rows, [receipt(window, heard=window % 3) for window in range(10)]))
        assert [step.consumption_kwh for step in spans(found, 10)] == [1.0] * 10
        hours = spans(found, 9)
        assert [(step.start - DAY) // SIZE for step in hours] == [0, 4, 8]
        assert [(step.end - DAY) // SIZE for step in hours] == [4, 8, 10]
        assert [step.consumption_kwh for step in hours] == [4.0, 4.0, 2.0]
        assert [step.receipt_pct for step in hours] == [37.5, 50.0, 50.0]
        assert [step.below for step in hours] == [0, 1, 0]
        assert found.receipt.in_steps(steps(found, 9), None).tolist() == [37.5, 50.0, 50.0]
        assert found.receipt.in_steps(steps(found, 9), 0).tolist() == [37.5, 50.0, 50.0]

    def test_alarms_are_counted_by_type(self, tmp_path):
        several = [alarm(1, 4), alarm(6, 9, "T2", feeder_id="F2"), alarm(3, 3, "T3", kind="HIGH_VOLTAGE")]
        several[0].state, several[1].state, several[2].state = "ACTIVE", "CLEARED", "UNKNOWN"
        several[1].cause = several[0].alarm_id
        found = data_of(write_folder(tmp_path, [summary(0)], [], several)).alarms
        assert [(each.alarm_type, each.alarms, each.active, each.cleared, each.unknown) for each in found] == [
            ("LOW_VOLTAGE", 2, 1, 1, 0),
            ("HIGH_VOLTAGE", 1, 0, 0, 1),
        ]
        assert (found[0].explained, found[0].entities) == (1, 2)
        assert (found[0].first, found[0].last) == (several[0].first_window, several[1].last_window)


class TestCoarser:
    def test_a_single_violation_is_seen_in_the_smallest_picture(self):
        codes = np.full((500, 3000), 3, np.uint8)
        codes[321, 1234] = 1
        found = coarser(codes, np.arange(500) // 5, np.arange(3000) // 4, "voltage")
        assert found.shape == (100, 750)
        assert np.argwhere(found == 1).tolist() == [[321 // 5, 1234 // 4]]

    def test_what_has_room_stays_as_it_is(self):
        codes = np.array([[3, 1], [NO_ROW, 0]], np.uint8)
        each, together = np.array([0, 1]), np.array([0, 0])
        assert coarser(codes, each, each, "voltage") is codes
        assert coarser(codes, together, each, "voltage").tolist() == [[3, 1]]
        assert coarser(codes, each, together, "voltage").tolist() == [[1], [0]]

    def test_a_time_without_windows_is_never_drawn_as_one_with(self):
        assert together([0, 1, 2, -1, 3, 4, 5, 6, -1], 3).tolist() == [0, 0, 0, 1, 2, 2, 2, 3, 4]
        assert together([0, 1, 2], 1).tolist() == [0, 1, 2]


def test_names_are_sorted_as_people_do():
    assert sorted(["F10", "F2", "F", "2", "G1"], key=natural) == ["2", "F", "F2", "F10", "G1"]


class TestThresholds:
    def test_they_are_those_of_the_run_that_wrote_the_folder(self, tmp_path):
        write_folder(tmp_path, [summary(0)])
        assert thresholds_of(rules_of(str(tmp_path)), {}) == Thresholds()
        settings = Settings(nominal_voltage=240, low_voltage_pct=95, min_receipt_rate_pct=70)
        other = config_json(Settings(), DAY)
        (tmp_path / f"{CONFIG_TOPIC}.jsonl").write_bytes(other + b"\n[]\n{\n" + config_json(settings, DAY) + b"\n")
        rules = rules_of(str(tmp_path))
        assert thresholds_of(rules, {}) == Thresholds(240, 95, 110, 70)
        assert thresholds_of(rules, {"low_voltage_pct": 88.0}) == Thresholds(240, 88, 110, 70)

    def test_rules_of_another_kind_are_passed_over(self):
        assert thresholds_of({"nominal_voltage": "230", "low_voltage_pct": -1}, {}) == Thresholds()


class _Page(HTMLParser):
    """What tags and attributes a page has, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> tuple[Path, ReportData]:
    """A report of names that nobody should have, of two days with a gap, in all formats; made by the command."""
    folder = tmp_path_factory.mktemp("results")
    chance = random.Random(5)
    windows = [*range(20), *range(30, 60), *range(96, 130)]
    rows = [
        summary(window, name, feeder, chance.choice([200.0, 215.0, 230.0, 245.0, 260.0, None]))
        for window in windows
        for name, feeder in (("T1", HOSTILE), (f"T2{HOSTILE}", HOSTILE), ("T3", "馈线"))
    ]
    receipts = [receipt(window, "T1", HOSTILE, chance.randrange(3)) for window in windows]
    alarms = [alarm(1, 4, f"T1{HOSTILE}", kind=f"LOW{HOSTILE}"), alarm(1, 4, "T2")]
    write_folder(folder, rows, receipts, alarms)
    into = tmp_path_factory.mktemp("report")
    arguments = [str(folder), f"--into={into}", f"--feeder={HOSTILE}", "--feeder=馈线", "--formats=png,svg,html"]
    assert main(arguments) == 0
    return into, data_of(folder, HOSTILE, "馈线")


class TestFiles:
    def test_pictures_are_there_in_all_formats(self, drawn):
        into, _ = drawn
        names = {path.stem for path in into.glob("*.png")}
        assert {"voltage-feeders", "receipt-rate", "consumption", "alarms"} < names
        assert len(names) == 6
        for name in names:
            assert re.fullmatch(r"[A-Za-z0-9._-]+", name)
            image = matplotlib.image.imread(into / f"{name}.png")
            height, width, _ = image.shape
            assert width == 1320
            assert 200 < height < 1400
            # Something is drawn: pixels of more colours than one.
            assert len(np.unique(image.reshape(-1, image.shape[2])[::50], axis=0)) > 5
            ElementTree.parse(into / f"{name}.svg")

    def test_the_page_needs_nothing_and_escapes_everything(self, drawn):
        into, _ = drawn
        text = (into / "report.html").read_text(encoding="utf-8")
        found = _Page(text)
        tags = {tag for tag, _ in found.tags}
        assert not tags & {"script", "link", "iframe", "object", "form", "a"}
        assert "<script" not in text
        assert "\x1b" not in text
        assert any('<script>alert("1")</script>' in each for each in found.texts)
        attributes = [(name, value or "") for _, attributes in found.tags for name, value in attributes.items()]
        assert not any(name.startswith("on") for name, _ in attributes)
        addresses = [value for name, value in attributes if name in ("src", "href", "data", "action")]
        assert len(addresses) == 5
        assert all(value.startswith("data:image/png;base64,iVBOR") for value in addresses)
        assert "http://" not in text
        assert "https://" not in text

    def test_pictures_have_words_and_tables_have_headings(self, drawn):
        into, _ = drawn
        found = _Page((into / "report.html").read_text(encoding="utf-8"))
        assert ("html", {"lang": "en"}) in found.tags
        alts = [attributes["alt"] or "" for tag, attributes in found.tags if tag == "img"]
        assert all(len(alt) > 60 for alt in alts)
        assert "2 feeders by 84 windows, 2026-03-03 00:00 to 2026-03-04 08:30 UTC" in alts[0]
        tables = sum(tag == "table" for tag, _ in found.tags)
        assert tables == sum(tag == "caption" for tag, _ in found.tags) == 7
        assert sum(attributes.get("scope") == "col" for tag, attributes in found.tags if tag == "th") > 30

    def test_the_same_folder_gives_the_same_files(self, drawn):
        into, data = drawn
        again = list(pictures(data, ["png", "svg"]))
        for picture in again[:2]:
            for suffix, content in picture.files.items():
                assert (into / f"{picture.name}.{suffix}").read_bytes() == content
        assert page(data, again) == (into / "report.html").read_text(encoding="utf-8")


def test_many_feeders_and_windows_stay_legible(tmp_path):
    """All of them as one map, the worst with their names; tables end somewhere, and say so."""
    rows = [
        summary(window, f"T{number}", f"F{number}", 206.0 if number == 77 and window == 50 else 230.0)
        for number in range(MOST_ROWS + 50)
        for window in range(0, 101, 50)
    ]
    found = data_of(write_folder(tmp_path, rows, [receipt(0, f"T{number}", f"F{number}") for number in range(250)]))
    assert found.feeders.names[:3] == ["F77", "F0", "F1"]
    table = voltage_table(found, found.feeders)
    assert (len(table.rows), table.note) == (MOST_ROWS, "… and 50 more feeders.")
    assert len(receipt_table(found).rows) == MOST_ROWS + 1
    first = next(pictures(found, ["png"]))
    (tmp_path / "first.png").write_bytes(first.files["png"])
    height, _, _ = matplotlib.image.imread(tmp_path / "first.png").shape
    assert height < 120 * (7 + 0.25 * MOST_NAMED)
    assert "F77 in the most, 1." in first.alt


def test_what_is_not_there_is_said(tmp_path, capsys):
    write_folder(tmp_path, [summary(0, low=None)])
    (tmp_path / f"{ALARMS_TOPIC}.jsonl").unlink()
    into = tmp_path / "report"
    assert main([str(tmp_path), f"--into={into}"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        str(into / name)
        for name in ("voltage-feeders.png", "voltage-feeder-F1.png", "consumption.png", "alarms.png", "report.html")
    ]
    text = (into / "report.html").read_text(encoding="utf-8")
    assert "There are no receipt rows in this period." in text
    assert "No alarms in this period." in text


def test_tables_have_the_numbers(tmp_path):
    rows = [summary(0, "T1", "F1", 206.0), summary(1, "T1", "F1", 230.0), summary(1, "T2", "F2", None)]
    receipts = [receipt(0, heard=1), receipt(1), receipt(1, "T2", "F2", 1)]
    found = data_of(write_folder(tmp_path, rows, receipts, [alarm(1, 2)]))
    assert voltage_table(found, found.feeders).rows == [
        [
            "F1",
            "1",
            "1",
            "0",
            "0",
            "0",
            "0",
            "206 V, 89.565 %",
            "T1, 2026-03-03 00:15",
            "230 V, 100.000 %",
            "T1, 2026-03-03 00:30",
        ],
        ["F2", "1", "0", "0", "0", "0", "1", "–", "", "–", ""],
    ]
    assert receipt_table(found).rows == [
        ["whole system", "66.7 %", "50.0 %", "2"],
        ["F2", "50.0 %", "50.0 %", "1"],
        ["F1", "75.0 %", "50.0 %", "1"],
    ]
    assert time_table(found).rows == [
        ["2026-03-03 00:00", "2026-03-03 00:15", "1.000", "0.250", "50.0 %", "1", "0", "0"],
        ["2026-03-03 00:15", "2026-03-03 00:30", "2.000", "0.500", "75.0 %", "0", "0", "1"],
    ]
    ((kind, severity, count, *_),) = alarm_table(found).rows
    assert (kind, severity, count) == ("LOW_VOLTAGE", "WARNING", "1")


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ([], "the following arguments are required: FOLDER"),
            (["--formats=gif"], "--formats=gif: 'gif' is no kind of file. Allowed: png, svg, html"),
            (["--feeder=F11"], "there is no such feeder in {}. Allowed: F1. Example: --feeder=F1"),
            (["--from=yesterday"], "--from=yesterday"),
            (["--from=2026-03-04T00:00:00Z", "--to=2026-03-03T00:00:00Z"], "is not after --from"),
            (["--low_voltage_pct=115"], "--low_voltage_pct=115: is not below the high limit, 110"),
            (["--nominal_voltage=x"], "--nominal_voltage=x: is not a number in range"),
            (["--meter_counts=kafka:counts"], "python -m ami_beam.counts writes one with --csv"),
            (["--meter_counts=none.csv"], "none.csv"),
            (["--nominal=230"], "unrecognized arguments"),
        ],
    )
    def test_a_wrong_option_is_named(self, capsys, tmp_path, arguments, words):
        write_folder(tmp_path / "results", [summary(0)], [receipt(0)])
        given = [str(tmp_path / "results")] if arguments else []
        assert main([*given, f"--into={tmp_path / 'report'}", *arguments]) == 2
        assert words.format(tmp_path / "results") in capsys.readouterr().err
        assert not (tmp_path / "report").exists()

    def test_a_missing_folder_or_file_names_what_to_run(self, capsys, tmp_path):
        assert main([str(tmp_path / "output")]) == 1
        said = capsys.readouterr().err
        assert f"{tmp_path / 'output'}: no such folder" in said
        assert "python -m ami_beam.run --source=files --sink=files" in said
        assert main([str(tmp_path)]) == 1
        said = capsys.readouterr().err
        assert f"has no file {SUMMARY_TOPIC}.jsonl" in said
        assert f"--output={tmp_path}" in said

    def test_a_folder_without_rows_is_an_error_with_the_fix(self, capsys, tmp_path):
        write_folder(tmp_path, [])
        assert main([str(tmp_path)]) == 1
        said = capsys.readouterr().err
        assert "are empty, so the replay accepted no read" in said
        assert "ami.deadletter.jsonl say why" in said
        (tmp_path / f"{SUMMARY_TOPIC}.jsonl").write_bytes(b"\x00avro\n")
        assert main([str(tmp_path)]) == 1
        assert "none of its 1 lines is a row of ours" in capsys.readouterr().err

    def test_a_period_without_a_window_names_those_there_are(self, capsys, tmp_path):
        write_folder(tmp_path, [summary(0)], [receipt(3)])
        assert main([str(tmp_path), "--from=2026-03-04T00:00:00Z"]) == 1
        assert "end from 2026-03-03T00:15:00Z to 2026-03-03T01:00:00Z" in capsys.readouterr().err

    def test_a_place_that_cannot_be_written_is_named(self, capsys, tmp_path):
        write_folder(tmp_path / "results", [summary(0)])
        (tmp_path / "report").touch()
        assert main([str(tmp_path / "results"), f"--into={tmp_path / 'report'}"]) == 1
        assert "Name another folder with --into" in capsys.readouterr().err

    def test_a_damaged_file_is_named(self, capsys, tmp_path):
        write_folder(tmp_path, [], [receipt(0)])
        path = tmp_path / f"{SUMMARY_TOPIC}.jsonl"
        path.unlink()
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(summary_json(summary(0)))[:-9])
        assert main([str(tmp_path)]) == 1
        assert "damaged or truncated .gz" in capsys.readouterr().err

    def test_without_a_library_the_way_to_it_is_said(self, capsys, tmp_path, monkeypatch):
        write_folder(tmp_path, [summary(0)])
        monkeypatch.setattr("ami_beam.report.pictures.find_spec", lambda _: None)
        assert main([str(tmp_path)]) == 2
        assert "pip install 'ami-beam[report]'" in capsys.readouterr().err


@needs_simbench
def test_a_replay_is_shown_as_its_rows_say(tmp_path):
    """Every cell, sum and rate again, row by row, with the alerts as the judges of what is beyond a limit."""
    done = default_replay()
    # One transformer is never heard.
    feeders = {row["feeder_id"] for row in done.rows(SUMMARY_TOPIC)} | {UNPLACED}
    found = data_of(done.output, *feeders)
    assert set(found.feeders.names) == feeders
    ends = [parse_instant(row["window_end"]) for row in done.rows(RECEIPT_TOPIC)]
    assert found.ends.tolist() == sorted(set(ends))
    cell = {
        (name, end): code
        for heat in found.chosen
        for name, codes in zip(heat.names, heat.codes.tolist(), strict=True)
        for end, code in zip(found.ends.tolist(), codes, strict=True)
    }
    alerts = [row for row in done.rows("ami.alerts.grid") if row["alert_source"] == "VOLTAGE"]
    for alert_type, codes in (("LOW_VOLTAGE", {1, 6}), ("HIGH_VOLTAGE", {5, 6})):
        expected = {
            (row["entity_id"], parse_instant(row["window_end"])) for row in alerts if row["alert_type"] == alert_type
        }
        assert {place for place, code in cell.items() if code in codes} == expected
        assert expected
    silent = {
        (row["transformer_id"], parse_instant(row["window_end"]))
        for topic, name, nothing in ((RECEIPT_TOPIC, "meters_reported", 0), (SUMMARY_TOPIC, "min_voltage_v", None))
        for row in done.rows(topic)
        if row[name] == nothing
    }
    assert {place for place, code in cell.items() if code == 0} == silent
    for window, end in enumerate(found.ends.tolist()):
        summaries = [row for row in done.rows(SUMMARY_TOPIC) if parse_instant(row["window_end"]) == end]
        assert found.consumption_kwh[window] == pytest.approx(
            math.fsum(row["total_consumption_kwh"] for row in summaries)
        )
    assert sum(tally.alarms for tally in found.alarms) == len(done.rows(ALARMS_TOPIC))
    assert main([str(done.output), f"--into={tmp_path}"]) == 0
    assert (tmp_path / "report.html").stat().st_size > 200_000
