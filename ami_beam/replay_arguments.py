"""The command line of those who read what a run has read: where records are, without writing any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from apache_beam.io.filesystems import FileSystems

from ami_beam import beam_options
from ami_beam.beam_options import Parser
from ami_beam.input_topics import EVENTS_FILE
from ami_beam.option_checks import without_runner
from ami_beam.options import RunPlan


class ReplayArguments(NamedTuple):
    """Arguments that `validate` takes, and what it would not: a runner in this process beside a topic."""

    arguments: list[str]
    runner: str
    """Of the replay; DirectRunner unless one was named."""


def replay_arguments(given: Sequence[str]) -> ReplayArguments:
    """The options of `run` made complete for reading only: no sink is used.

    Without --events a replay has those of a file events.jsonl.gz beside its reads; where there is none, the path of the
    reads stands for none (`replays_events`).
    """
    # What the words say that decides the others; all of them are checked by `validate` like those of a run.
    peek = Parser(add_help=False)
    peek.add_argument("--source", default="kafka")
    peek.add_argument("--reads", default="reads.jsonl.gz")
    peek.add_argument("--events")
    peek.add_argument("--runner", default="DirectRunner")
    known, _ = peek.parse_known_args(list(given))
    runner = beam_options.runner_name(known.runner)
    arguments = without_runner(given)
    if known.source == "files":
        arguments += ["--sink=files", f"--runner={runner}"]
        if known.events is None:
            beside = FileSystems.join(FileSystems.split(known.reads)[0], EVENTS_FILE)
            arguments.append(f"--events={beside if _exists(beside) else known.reads}")
    else:
        arguments += ["--runner=FlinkRunner"]
    return ReplayArguments(arguments, runner)


def replays_events(plan: RunPlan) -> bool:
    """Whether there are events."""
    return plan.events != plan.reads


def _exists(path: str) -> bool:
    try:
        return FileSystems.exists(path)
    except Exception:  # each file system has its own exceptions; `validate` says what is wrong with the reads
        return False
