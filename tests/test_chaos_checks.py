"""What `make chaos` compares by: two versions of a row are one, and rows of other identities are not."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from ami_beam.codecs.json_outputs import DEAD_LETTER_TOPIC
from ami_beam.results import RESULTS
from tests.chaos.checks import compare, read_files
from tests.chaos.run_scenario import outlive_termination

ROWS = [result for result in RESULTS if result.topic != DEAD_LETTER_TOPIC]


def row(result, **values):
    kind = {} if result.kind is None else dict([result.kind])
    texts = {name: f"{name} 1" for name in result.row_type.__struct_fields__}
    return texts | kind | {"revision": 0, "as_of": "2026-03-03T00:15:00Z"} | values


@pytest.mark.parametrize("result", ROWS, ids=[result.table for result in ROWS])
def test_the_last_version_of_a_row_counts(result, tmp_path):
    """Whatever else has changed in it: a month's row once was two rows after a midnight, for the day that is in it."""
    nothing = read_files(tmp_path)
    last = row(result, as_of="2026-03-03T00:30:00Z")
    for name in set(result.row_type.__struct_fields__) - {"revision", "as_of"}:
        other = row(result, **{name: "another"})
        found = compare({**nothing, result.topic: [last]}, {**nothing, result.topic: [other, last]})
        assert len(found.invented) == (name in result.identity), name
        assert not found.lost, name


def test_what_a_scenario_starts_can_be_terminated():
    """A scenario outlives SIGTERM. A broker that inherited that never ended, and the scenario waited for good."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        outlive_termination()
        signal.raise_signal(signal.SIGTERM)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        child.terminate()
        assert child.wait(30) == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)
