"""What a running job is updated by does not change by accident: labels, state, coders, records; and users are told."""

from __future__ import annotations

import re

import pytest

from ami_beam import graph_steps
from ami_beam.graph_steps import FILE, described, mark
from tests.dockerfile import ROOT


@pytest.fixture(scope="module")
def now() -> str:
    return described()


def test_steps_state_and_coders_are_as_written(now: str) -> None:
    written = FILE.read_text(encoding="utf-8")
    assert now.splitlines() == written.splitlines(), "python -m ami_beam.graph_steps shows it, and what to do"


def test_the_changelog_tells_users_how_to_update(now: str) -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert mark(now) in text.partition("## Unreleased")[2].partition("\n## ")[0]


def test_the_list_has_what_state_is_known_by(now: str) -> None:
    for line in (
        "    BagStateSpec reads: window_statistics.HeldReads",
        "    timer ts-judge: WATERMARK",
        "Reads → output: records.RecordBatch",
        "MeterDays/",
        "DecodeOutages/",
    ):
        assert line in now
    assert "records.Alert: alert_id str, " in now
    # Every record that any step or state has is spelt out.
    named = set(re.findall(r"\brecords\.[A-Z]\w+", now))
    assert len(named) > 40
    assert named <= {line.partition(":")[0] for line in now.partition("[records]")[2].splitlines()}


def test_a_changed_record_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    other = FILE.read_text(encoding="utf-8").replace("alert_id str, ", "alert_id int, ", 1)
    monkeypatch.setattr(graph_steps, "described", lambda: other)
    assert graph_steps.main([]) == 1
    assert "alert_id int" in capsys.readouterr().out
    assert mark(other) not in (ROOT / "CHANGELOG.md").read_text()
