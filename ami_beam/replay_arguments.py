"""The command line of those who read what a run has read: where records are, without writing any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ami_beam import beam_options
from ami_beam.beam_options import Parser
from ami_beam.option_checks import without_runner


class ReplayArguments(NamedTuple):
    """Arguments that `validate` takes, and what it would not: a runner in this process beside a topic."""

    arguments: list[str]
    runner: str
    """Of the replay; DirectRunner unless one was named."""


def replay_arguments(given: Sequence[str]) -> ReplayArguments:
    """The options of `run` made complete for reading only: no sink is used, and no event is read."""
    # What the words say that decides the others; all of them are checked by `validate` like those of a run.
    peek = Parser(add_help=False)
    peek.add_argument("--source", default="kafka")
    peek.add_argument("--reads", default="reads.jsonl.gz")
    peek.add_argument("--runner", default="DirectRunner")
    known, _ = peek.parse_known_args(list(given))
    runner = beam_options.runner_name(known.runner)
    arguments = without_runner(given)
    if known.source == "files":
        arguments += ["--sink=files", f"--runner={runner}", f"--events={known.reads}"]
    else:
        arguments += ["--runner=FlinkRunner"]
    return ReplayArguments(arguments, runner)
