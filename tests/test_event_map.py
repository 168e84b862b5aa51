"""Event maps: which codes give alerts, as numbers and as texts, and what a bad file says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given
from hypothesis import strategies as st

from ami_beam.alert_ids import event_alert_id
from ami_beam.beam_options import OptionError
from ami_beam.codecs.dead_letter_reasons import Reason
from ami_beam.codecs.json_events import EventDecoder
from ami_beam.csv_table import TableError
from ami_beam.effective_config import config_id
from ami_beam.event_map import ARTICLE, EventKind, load, parse
from ami_beam.options import validate
from ami_beam.records import Alert, RecordBatch
from ami_beam.settings import Settings
from transforms.decode_events import DecodeEvents
from transforms.event_alerts import EventAlerts

MAPS = Path(__file__).parents[1] / "templates" / "event_maps"
HEADER = "source,code,event_type,severity\n"
CIM = replace(Settings(), event_map=load(str(MAPS / "iec-61968-9.csv")))
DLMS = replace(Settings(), event_map=load(str(MAPS / "dlms-dsmr.csv")))


def batch(*codes: object) -> RecordBatch:
    values = [
        json.dumps({"meter_id": "M1", "event_code": code, "event_ts": "2026-03-03T10:14:00Z"}).encode()
        for code in codes
    ]
    size = len(codes)
    return RecordBatch("events", [0] * size, list(range(size)), [1_772_532_900_000_000] * size, values)


def gives(settings: Settings, codes: list[object], expected: list[tuple]) -> None:
    """Events of these codes give these alerts, (type, event type, code, detail value, severity), by the real steps."""
    with TestPipeline(runner=FnApiRunner()) as pipeline:
        records = pipeline | beam.Create([batch(*codes)], reshuffle=False).with_output_types(RecordBatch)
        events = records | DecodeEvents(settings)
        facts = events.accepted | EventAlerts(settings) | beam.Map(_facts).with_output_types(Any)
        assert_that(facts, equal_to(expected))


def _facts(alert: Alert) -> tuple:
    return alert.alert_type, alert.event_type, alert.event_code, alert.detail_value, alert.severity


def refusal(text: str) -> str:
    with pytest.raises(TableError) as caught:
        parse(text.encode(), "map.csv")
    return str(caught.value)


class TestFile:
    def test_the_article_s_file_is_what_holds_without_one(self):
        named = {code: (kind.event_type, kind.severity) for code, kind in ARTICLE.kinds}
        assert {c: (k.event_type, k.severity) for c, k in load(str(MAPS / "article.csv")).kinds} == named

    @pytest.mark.parametrize("path", sorted(MAPS.glob("*.csv")), ids=lambda path: path.stem)
    def test_every_example_is_a_map(self, path: Path):
        assert len(load(str(path)).kinds) >= 6

    def test_comments_spaces_and_a_byte_order_mark_do_not_matter(self):
        text = f"\ufeff# ours\n{HEADER}# a code\nx, 7 ,SAG,WARNING\n"
        assert parse(text.encode(), "map.csv").kinds == (("7", EventKind("SAG", "WARNING", "SAG")),)

    def test_columns_may_be_in_any_order_and_source_be_missing(self):
        text = "severity,code,event_type\nCRITICAL,7,LAST_GASP\n"
        assert parse(text.encode(), "map.csv").by_code()["7"].severity == "CRITICAL"

    def test_each_bad_row_is_named_with_its_fix(self):
        said = refusal(f"{HEADER}a,1,SAGG,WARNING\na,2,SAG,HIGH\na,3,SAG,WARNING\na,3,SWELL,WARNING\na,,SAG,WARNING\n")
        assert "line 2: event_type='SAGG' must be one of LAST_GASP" in said
        assert "line 3: severity='HIGH' must be one of WARNING, CRITICAL" in said
        assert "line 5: code '3' is in the map already" in said
        assert "line 6: code must have" in said

    def test_what_is_no_map_is_refused(self):
        assert "code is missing" in refusal("a,b\n")
        assert "no row" in refusal(HEADER)
        assert "the first line must name" in refusal("")
        with pytest.raises(TableError, match="not UTF-8"):
            parse(b"\xff\xfe", "map.csv")

    def test_the_option_names_file_and_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        (tmp_path / "transformer_meter_count.csv").write_text("transformer_id,total_meters\nT1,2\n")
        (tmp_path / "map.csv").write_text(HEADER + "a,1,SAGG,WARNING\n")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(OptionError, match="line 2: event_type='SAGG'"):
            validate(["--bootstrap_servers=b:1", "--event_map=map.csv"])
        with pytest.raises(OptionError, match=r"--event_map=none\.csv"):
            validate(["--bootstrap_servers=b:1", "--event_map=none.csv"])
        settings, _ = validate(["--bootstrap_servers=b:1", f"--event_map={MAPS / 'dlms-dsmr.csv'}"])
        assert settings.event_map == DLMS.event_map
        assert config_id(settings) != config_id(Settings())


class TestCodes:
    def test_a_text_that_the_map_has_gives_an_alert(self):
        gives(CIM, ["0.26.38.85", 17], [("OUTAGE_DETECTED", "OUTAGE_DETECTED", "0.26.38.85", None, "CRITICAL")])

    def test_a_number_and_its_text_are_the_same_event(self):
        gives(DLMS, [40, 40], [("TAMPER", "TAMPER", "40", 40, "WARNING")])
        gives(DLMS, ["40", "40"], [("TAMPER", "TAMPER", "40", None, "WARNING")])
        assert event_alert_id("M1", 40, 0) == event_alert_id("M1", "40", 0)

    def test_the_article_s_codes_are_no_alerts_under_another_map(self):
        gives(DLMS, [3840], [])
        gives(Settings(), [2048], [("TAMPER_DETECTED", "TAMPER", "2048", 2048, "WARNING")])

    def test_a_text_that_no_map_has_is_set_aside(self):
        for settings, code in ((CIM, "0.0.0.0"), (Settings(), "3840")):
            events, letters = EventDecoder(settings).decode(batch(code), None)
            assert (events, [letter.reason for letter in letters]) == ([], [Reason.WRONG_TYPE.value])

    @given(st.lists(st.one_of(st.sampled_from(["40", "0.26.38.85", "x", ""]), st.integers(), st.floats(), st.none())))
    def test_both_paths_agree(self, codes):
        for settings in (CIM, DLMS, Settings()):
            decoder = EventDecoder(settings)
            assert decoder.decode(batch(*codes), None) == decoder.decode_carefully(batch(*codes), None)
