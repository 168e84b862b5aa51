"""An hour of history goes through dead-letter repair and equals the oracle of the undamaged hour."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

from ami_beam import deadletter
from tests.damaged_hour import REPAIR, damaged_rows, hour
from tests.replays import METER_COUNTS, needs_simbench, replay, write_export

pytestmark = needs_simbench


def verdict(oracle: Path, output: Path, shift: int = 0) -> str:
    """What compare.py says; its last line is `equal` or not. `shift`: of the records, in seconds."""
    command = [sys.executable, str(oracle / "compare.py"), str(oracle), str(output), str(shift)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout.strip()


def test_a_damaged_hour_of_files_is_repaired_and_equals_the_oracle(tmp_path: Path, capsys) -> None:
    whole = hour(tmp_path)
    draw, kinds = random.Random(8), Counter[str]()
    folders = {name: tmp_path / name for name in ("reads", "events")}
    for name, rows, share in (("reads", whole.reads, 0.2), ("events", whole.events, 0.5)):
        folders[name].mkdir()
        write_export(folders[name] / "a-original.jsonl.gz", damaged_rows(rows, draw, kinds, share))
    assert set(kinds) == {"unit", "text", "other name", "no zone", "guarded", "code as hex"}
    first = replay(reads=folders["reads"], events=folders["events"], meter_counts=METER_COUNTS)
    assert verdict(whole.oracle, first.output).splitlines()[-1] != "equal"
    repair = tmp_path / "repair.py"
    repair.write_text(REPAIR)
    replayed = 0
    for name in folders:
        arguments = ["replay", "--source=files", f"--output={first.output}", f"--topic=ami.headend.{name}", "--json"]
        arguments += [f"--repair_file={repair}", f"--to={folders[name] / 'b-repaired.jsonl.gz'}", "--yes"]
        # What was damaged before stays.
        assert deadletter.main(arguments) == deadletter.SOME_STAY
        said = json.loads(capsys.readouterr().out)
        assert said["published"] is True
        assert said["left"] > 0
        replayed += said["replayed"]
    assert replayed == kinds.total()
    second = replay(reads=folders["reads"], events=folders["events"], meter_counts=METER_COUNTS)
    assert verdict(whole.oracle, second.output).splitlines()[-1] == "equal"
