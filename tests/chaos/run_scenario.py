"""One scenario with one seed, from its processes' start to the verdict; a module that a process can import."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from ami_beam.local import java
from tests.chaos.headend import HeadEnd
from tests.chaos.scenarios import Scenario


@dataclass
class Result:
    """What a run found; `line` tells it."""

    line: str = ""
    faults: int = 0
    lost: int = 0
    invented: int = 0
    recoveries: list[float] = field(default_factory=list)
    problem: str = ""


def outlive_termination() -> None:
    """Go on when SIGTERM comes: of a pool of which one has left, the others are terminated while they still stop what
    they have started.

    By a handler and not by SIG_IGN, which those whom this process starts would inherit: a broker would never end.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: None)


def run_scenario(scenario: Scenario, seed: int, meters: int, logs: Path | None) -> Result:
    """Never raises: what went wrong is the result's `problem`. Logs and results of failed runs are copied to `logs`."""
    # A shell starts what runs behind it deaf to interrupts, and this process would be, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    outlive_termination()
    result = Result()
    directory = Path(tempfile.mkdtemp(prefix="ami-beam-chaos-"))
    began = time.monotonic()
    # A third less to compute for JVMs that live for two minutes: recovery is measured, not the speed.
    os.environ["JAVA_TOOL_OPTIONS"] = java.LIGHT
    try:
        (directory / "checkpoints").mkdir()
        # Not hash(): a seed gives the same faults on every machine.
        rng = random.Random(f"{scenario.name} {seed}")
        head_end = HeadEnd(directory, seed, **{"meters": meters, **scenario.head_end})
        world, difference = scenario.run(directory, head_end, rng)
        result.faults, result.recoveries = world.faults, world.recoveries
        result.lost, result.invented = len(difference.lost), len(difference.invented)
        if difference:
            result.problem = str(difference)
    except KeyboardInterrupt:
        # A pool would go on with the next one.
        shutil.rmtree(directory, ignore_errors=True)
        os._exit(130)
    except Exception as error:  # whatever it is, the other scenarios shall run
        result.problem = f"{type(error).__name__}: {error}"
    seconds = ", ".join(f"{each:.1f}" for each in result.recoveries)
    result.line = (
        f"{time.strftime('%H:%M:%S')} seed {seed} {scenario.name}: {'FAILED' if result.problem else 'passed'} in"
        f" {time.monotonic() - began:.0f} s, {result.faults} faults, recovered in {seconds or '-'} s {result.problem}"
    )
    if result.problem and logs is not None:
        shutil.copytree(directory, logs / f"{scenario.name}-{seed}", dirs_exist_ok=True)
    shutil.rmtree(directory, ignore_errors=True)
    return result
