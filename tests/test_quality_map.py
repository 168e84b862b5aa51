"""Quality maps: which power quality codes of reads are sags and swells, and what a bad file says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ami_beam.beam_options import OptionError
from ami_beam.csv_table import TableError
from ami_beam.effective_config import config_id, rules
from ami_beam.options import validate
from ami_beam.quality_map import QualityMap, load, parse
from ami_beam.settings import Settings
from ami_beam.simulator import physics
from tests.stream import HeadEnd, Published, read_json

MAPS = Path(__file__).parents[1] / "templates" / "quality_maps"
HEADER = "source,code,quality\n"


def refusal(text: str) -> str:
    with pytest.raises(TableError) as caught:
        parse(text.encode(), "map.csv")
    return str(caught.value)


class TestFile:
    @pytest.mark.parametrize("path", sorted(MAPS.glob("*.csv")), ids=lambda path: path.stem)
    def test_every_example_has_sags_and_swells(self, path: Path):
        quality_map = load(str(path))
        assert quality_map.codes("SAG")
        assert quality_map.codes("SWELL")

    def test_the_simulator_s_is_what_it_writes(self):
        assert dict(load(str(MAPS / "simulator.csv")).qualities) == {
            physics.QUALITY_NORMAL: "OK",
            physics.QUALITY_SAG: "SAG",
            physics.QUALITY_SWELL: "SWELL",
            physics.QUALITY_OUTAGE: "INTERRUPTION",
        }

    def test_source_may_be_missing_and_codes_are_64_bits(self):
        text = f"quality,code\nSAG,{-(2**63)}\nSWELL,{2**63 - 1}\n"
        assert parse(text.encode(), "map.csv").qualities == ((-(2**63), "SAG"), (2**63 - 1, "SWELL"))
        assert "line 2: code='9223372036854775808' must be a whole number" in refusal(f"{HEADER}a,{2**63},SAG\n")

    def test_each_bad_row_is_named_with_its_fix(self):
        said = refusal(f"{HEADER}a,1,DIP\na,x,SAG\na,3,SAG\na,3,SWELL\na,,SAG\n")
        assert "line 2: quality='DIP' must be one of OK, SAG, SWELL" in said
        assert "line 3: code='x' must be a whole number" in said
        assert "line 5: code 3 is in the map already" in said
        assert "line 6: code=''" in said
        assert "no row" in refusal(HEADER)
        assert "code is missing" in refusal("a,b\n")

    def test_the_option_names_file_and_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        (tmp_path / "transformer_meter_count.csv").write_text("transformer_id,total_meters\nT1,2\n")
        (tmp_path / "map.csv").write_text(HEADER + "a,1,DIP\n")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(OptionError, match="line 2: quality='DIP'"):
            validate(["--bootstrap_servers=b:1", "--quality_map=map.csv"])
        settings, _ = validate(["--bootstrap_servers=b:1", f"--quality_map={MAPS / 'simulator.csv'}"])
        assert settings.quality_map == load(str(MAPS / "simulator.csv"))
        # It decides what is published.
        assert config_id(settings) != config_id(replace(settings, quality_map=None))
        assert rules(settings)["quality_map"] == ((0, "OK"), (1, "SAG"), (2, "SWELL"), (3, "INTERRUPTION"))
        assert rules(Settings())["quality_map"] is None


def morning(quality_map: QualityMap | None) -> Published:
    """Two of three reads sag, one of them on another feeder; a late one swells, and a read is replaced."""
    head_end = HeadEnd(quality_map=quality_map)
    head_end.reads(
        "10:16",
        read_json(power_quality_code=1),
        read_json(meter_id="M2", power_quality_code=1, voltage_v=None, estimated_flag=True),
        read_json(meter_id="M3", power_quality_code=1, feeder_id="F2"),
        read_json(meter_id="M4", power_quality_code=0),
    )
    head_end.reads("10:40", read_json(meter_id="M5", power_quality_code=2))
    head_end.reads("11:10", read_json(power_quality_code=0, read_ts="2026-03-03T11:00:00Z"))
    return head_end.until("12:00").run()


def test_summaries_count_sags_and_swells_and_late_reads_revise_them():
    published = morning(QualityMap(((0, "OK"), (1, "SAG"), (2, "SWELL"))))
    counts = [(row.meters_reported, row.sag_count, row.swell_count) for row in published.summary("10:15", feeder="F1")]
    assert counts == [(3, 2, 0), (4, 2, 1), (4, 1, 1)]
    (other,) = published.summary("10:15", feeder="F2")
    assert (other.sag_count, other.swell_count) == (1, 0)


def test_without_a_map_there_are_none():
    rows = morning(None).summaries
    assert {(row.sag_count, row.swell_count) for row in rows} == {(0, 0)}
