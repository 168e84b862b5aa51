"""How many shards a run gets that names none."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ami_beam.io.meter_counts_file import load
from ami_beam.io.meter_counts_source import load_version
from ami_beam.options import validate
from ami_beam.run import with_shards
from ami_beam.shard_count import METERS_PER_SHARD, shards_for


def counts(tmp_path: Path, *rows: str) -> Path:
    path = tmp_path / "counts.csv"
    path.write_text("transformer_id,total_meters,effective_from\n" + "".join(f"{row}\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("meters", "shards"),
    [
        (1, 4),
        (80_000, 4),
        (80_001, 16),
        (320_000, 16),
        (1_000_000, 64),
        (5_000_000, 256),
        (150_000_000, 16_384),
    ],
)
def test_shards_grow_with_the_meters(tmp_path: Path, meters: int, shards: int) -> None:
    half = meters // 2
    path = counts(tmp_path, f"TR-1,{meters - half},", *([f"TR-2,{half},"] if half else []))
    assert shards_for(load(str(path))) == shards
    assert meters / shards <= METERS_PER_SHARD


def test_the_newest_count_of_a_transformer_decides(tmp_path: Path) -> None:
    path = counts(tmp_path, "TR-1,900000,", "TR-1,10,2026-03-03T00:00:00Z")
    assert shards_for(load(str(path))) == 4


def test_a_named_number_is_kept_and_a_chosen_one_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    live = ["--runner=FlinkRunner", "--bootstrap_servers=b:9092", f"--meter_counts={counts(tmp_path, 'TR-1,900000,')}"]
    named = validate([*live, "--shards=7"])
    version = load_version(named[1].meter_counts)
    assert with_shards(*named, version).shards == 7
    with caplog.at_level(logging.INFO):
        assert with_shards(*validate(live), version).shards == 64
    assert "--shards=64" in caplog.text


def test_a_replay_has_no_more_than_it_needs(tmp_path: Path) -> None:
    """Nobody goes on from its savepoint, and each shard costs it time."""
    (tmp_path / "reads.jsonl").write_text("")
    files = ["--source=files", "--sink=files", f"--reads={tmp_path}/reads.jsonl", f"--events={tmp_path}/reads.jsonl"]
    for meters, shards in ((20_000, 1), (20_001, 4), (900_000, 64)):
        settings, plan = validate([*files, f"--meter_counts={counts(tmp_path, f'TR-1,{meters},')}"])
        assert with_shards(settings, plan, load_version(plan.meter_counts)).shards == shards
