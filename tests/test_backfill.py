"""A backfill of a period publishes the rows of the period, and they are those of a run over everything."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from ami_beam.options import OptionError, validate
from ami_beam.published_period import PublishedPeriod
from ami_beam.simulate import main as simulate
from tests.replays import Replay, replay

Row = dict[str, Any]
ZONE = "America/Chicago"
FROM, UNTIL = "2026-03-04T06:00:00Z", "2026-03-05T06:00:00Z"
"""The fourth of March in Chicago."""
BEGIN, END = datetime.fromisoformat(FROM), datetime.fromisoformat(UNTIL)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four days with faults, from the third of March on."""
    folder = tmp_path_factory.mktemp("history")
    assert simulate([f"--output={folder}", "--meters=25", "--intervals=400", "--planned_outages=2"]) == 0
    return folder


def run(folder: Path, history: Path, *options: str) -> Replay:
    return replay(
        f"--time_zone={ZONE}",
        *options,
        reads=folder / "reads.jsonl.gz",
        events=folder / "events.jsonl.gz",
        meter_counts=history / "transformer_meter_count.csv",
    )


OPERATIONAL = "--also_publish=feeder_summary,voltage_heatmap"
EVERYTHING = f"{OPERATIONAL},validated_reads,customer_consumption", "--customer_id=keep"
PERIOD = f"--publish_from={FROM}", f"--publish_until={UNTIL}"


@pytest.fixture(scope="module")
def whole(history: Path) -> Replay:
    return run(history, history, *EVERYTHING)


def within(row: Row) -> bool:
    """Whether a row is of the period, by the row alone."""
    if "month" in row:
        return False  # no whole month is in it
    if "day" in row and "window_end" not in row:
        return row["day"] == BEGIN.astimezone(ZoneInfo(ZONE)).date().isoformat()
    # An alert's window may be null.
    names = ("alert_time", "window_end", "first_window", "interval_end", "record_time")
    instant = next(row[name] for name in names if name in row)
    return BEGIN < datetime.fromisoformat(instant) <= END


def rows(replay: Replay, keeps: Callable[[Row], bool] = lambda row: True) -> dict[str, list[str]]:
    topics = sorted(path.stem for path in replay.output.glob("*.jsonl") if path.stem != "ami.config")
    return {
        topic: sorted(json.dumps(row | {"config_id": None}) for row in replay.rows(topic) if keeps(row))
        for topic in topics
    }


def test_only_the_rows_of_the_period(history: Path, whole: Replay) -> None:
    expected = rows(whole, within)
    for topic in ("summary", "receipt"):
        assert {json.loads(row)["window_end"] for row in expected[f"ami.transformer.{topic}"]} == {
            (BEGIN + timedelta(minutes=15 * number)).strftime("%Y-%m-%dT%H:%M:%SZ") for number in range(1, 97)
        }
    assert all(expected[topic] for topic in ("ami.alarms", "ami.alerts.grid", "ami.alerts.events", "ami.deadletter"))
    assert any('"METER_DAY"' in row for row in expected["ami.reads.validated"])
    assert rows(run(history, history, *EVERYTHING, *PERIOD)) == expected


def cut(history: Path, folder: Path, begin: datetime, end: datetime) -> Path:
    for name in ("reads.jsonl.gz", "events.jsonl.gz"):
        lines = gzip.decompress((history / name).read_bytes()).splitlines(keepends=True)
        numbered = [json.loads(line) | {"offset": number} for number, line in enumerate(lines)]
        own = [row for row in numbered if begin.timestamp() <= row["ts_ms"] / 1000 < end.timestamp()]
        assert 0 < len(own) < len(lines)
        (folder / name).write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in own).encode()))
    return folder


def test_with_a_day_before_and_the_lateness_after_it_is_as_if_everything_had_been_read(
    history: Path, whole: Replay, tmp_path: Path
) -> None:
    margins = cut(history, tmp_path, BEGIN - timedelta(days=1), END + timedelta(hours=25))
    found = rows(run(margins, history, OPERATIONAL, *PERIOD))
    expected = {topic: of_topic for topic, of_topic in rows(whole, within).items() if topic in found}
    assert len(found) == 9
    assert found == expected


def test_whole_days_and_months_only() -> None:
    def micros(text: str) -> int:
        return int(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1_000_000)

    # The clocks go forward on the eighth: the day has 23 hours, and the month begins at -06:00 and ends at -05:00.
    march = PublishedPeriod(micros("2026-03-01T00:00:00-06:00"), micros("2026-04-01T00:00:00-05:00"), ZONE)
    assert march.has_month("2026-03")
    assert not march.has_month("2026-02")
    assert not PublishedPeriod(march.begin, (march.end or 0) - 1, ZONE).has_month("2026-03")
    eighth = PublishedPeriod(micros("2026-03-08T00:00:00-06:00"), micros("2026-03-09T00:00:00-05:00"), ZONE)
    assert [day for day in range(6, 11) if eighth.has_day(f"2026-03-{day:02}")] == [8]
    assert not PublishedPeriod((eighth.begin or 0) + 1, eighth.end, ZONE).has_day("2026-03-08")
    assert eighth.has(None)
    assert not eighth.has(eighth.begin)
    assert eighth.has(eighth.end)
    assert PublishedPeriod(None, eighth.end, ZONE).has_month("2026-02")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--publish_from=yesterday"], "--publish_from=yesterday"),
        ([f"--publish_from={UNTIL}", f"--publish_until={FROM}"], f"--publish_until={FROM}: is not after"),
    ],
)
def test_wrong_periods_are_named(history: Path, options: list[str], said: str) -> None:
    files = [
        "--source=files",
        "--sink=files",
        f"--reads={history}/reads.jsonl.gz",
        f"--events={history}/events.jsonl.gz",
    ]
    counts = f"--meter_counts={history}/transformer_meter_count.csv"
    with pytest.raises(OptionError, match=said):
        validate([*files, counts, *options])
    live = ["--bootstrap_servers=localhost:9092", counts, f"--publish_until={UNTIL}"]
    with pytest.raises(OptionError, match="a live run publishes everything"):
        validate(live)
