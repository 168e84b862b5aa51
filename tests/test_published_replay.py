"""What a replay publishes, all kinds of rows of it: held against an export of an MDMS, and as rows of BigQuery."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from ami_beam.results import RESULTS
from tests.replays import everything, needs_simbench
from tests.test_article_sql import article_over_simbench
from tests.test_bigquery import Checker
from tests.test_reconcile import Desk

pytestmark = needs_simbench


def test_every_record_is_a_row_of_one_table() -> None:
    output = everything().output
    seen: set[str] = set()
    for topic in {result.topic for result in RESULTS}:
        checkers = {result.table: Checker(result) for result in RESULTS if result.topic == topic}
        for line in (output / f"{topic}.jsonl").read_bytes().splitlines():
            (found,) = [table for table, checker in checkers.items() if checker.check(line) is not None]
            seen.add(found)
    # The data set has no meter that is silent for a day.
    assert seen >= {result.table for result in RESULTS} - {"silent_meter"}


def test_what_a_replay_has_published_against_an_export_made_of_the_head_ends_reads(tmp_path: Path) -> None:
    """SQL over the same records says what the MDMS has; some of it is left out, and some changed."""
    published = everything().output
    rows = article_over_simbench(right_closed=False).query(
        """
        SELECT meter_id, interval_end, delivered_kwh FROM ami_interval_reads WHERE read_type = 'INTERVAL'
        QUALIFY row_number() OVER (PARTITION BY meter_id, interval_end ORDER BY read_ts DESC, estimated_flag) = 1
        """
    )
    desk = Desk(tmp_path)
    desk.validated = published
    # Too late for windows but not for billing: the SQL, which is about windows, has none of them.
    letters = [row for row in everything().rows("ami.deadletter") if row["reason"] == "TOO_LATE" and row["used"]]
    late = [json.loads(base64.b64decode(row["value_b64"])) for row in letters]
    expected = {(row["meter_id"], row["interval_end"]): "missing_in_mdms" for row in late}
    assert expected
    kept = [row for number, row in enumerate(rows) if number % 50]
    for row in kept[::100]:
        row["delivered_kwh"] += 0.5
    desk.exports(*(f"{row['meter_id']},{row['interval_end']},{row['delivered_kwh']}" for row in kept))
    period = ("--from=2026-03-01T00:00:00Z", "--to=2026-03-10T00:00:00Z")
    expected |= {(row["meter_id"], row["interval_end"]): "missing_in_mdms" for row in rows[::50]}
    expected |= {(row["meter_id"], row["interval_end"]): "different" for row in kept[::100]}
    assert {(meter, end): outcome for meter, end, outcome in desk.outcomes(*period)} == expected
