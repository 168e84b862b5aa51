"""Beam's own options and the runners' Java options: what may stand on the command line beside ours.

Nothing that is not known here is let through, because Beam itself drops an option it does not know and goes on: a
misspelt `--windw=15m` would run with the default window and nobody would notice.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable
from typing import Any, NoReturn

from apache_beam.options.pipeline_options import PipelineOptions


class OptionError(ValueError):
    """A wrong option: names it and its value, what is allowed, and an example that works."""

    def __init__(self, option: str, value: str | None, problem: str, allowed: str = "", example: str = "") -> None:
        self.option = option
        shown = option if value is None else f"{option}={value}"
        parts = [f"{shown}: {problem}"]
        if allowed:
            parts.append(f"Allowed: {allowed}")
        if example:
            parts.append(f"Example: {example}")
        super().__init__(". ".join(part.rstrip(".") for part in parts) + ".")


# Options of Beam's Java runners that the Python SDK forwards without knowing them (FlinkPipelineOptions and the
# options it inherits). --parallelism and --max_parallelism are Python options already.
JAVA_OPTIONS = [
    "allow_non_restored_state",
    "app_name",
    "attached_mode",
    "auto_balance_write_files_sharding_enabled",
    "auto_watermark_interval",
    "checkpoint_timeout_millis",
    "checkpointing_interval",
    "checkpointing_mode",
    "default_environment_config",
    "default_environment_type",
    "disable_metrics",
    "enable_heap_dumps",
    "enable_stable_input_drain",
    "environment_expiration_millis",
    "execution_mode_for_batch",
    "execution_retry_delay",
    "externalized_checkpoints_enabled",
    "fail_on_checkpointing_errors",
    "faster_copy",
    "file_input_split_max_size_mb",
    "finish_bundle_before_checkpointing",
    "flink_conf_dir",
    "force_slot_sharing_group",
    "force_unaligned_checkpoint_enabled",
    "job_check_interval_in_secs",
    "latency_tracking_interval",
    "load_balance_bundles",
    "max_bundle_size",
    "max_bundle_time_mills",
    "min_pause_between_checkpoints",
    "num_concurrent_checkpoints",
    "number_of_execution_retries",
    "object_reuse",
    "operator_chaining",
    "re_iterable_group_by_key_result",
    "report_checkpoint_duration",
    "retain_externalized_checkpoints_on_cancellation",
    "savepoint_path",
    "shutdown_sources_after_idle_ms",
    "state_backend",
    "state_backend_factory",
    "state_backend_storage_path",
    "stable_unique_names",
    "unaligned_checkpoint_enabled",
    "use_data_stream_for_batch",
]
# Beam's Java option is spelt "mills"; the spelling one expects would be forwarded and have no effect.
_JAVA_SPELLING = {"--max_bundle_time_millis": "--max_bundle_time_mills"}

RUNNERS = [
    "DirectRunner",
    "BundleBasedDirectRunner",
    "SwitchingDirectRunner",
    "FnApiRunner",
    "PrismRunner",
    "PortableRunner",
    "FlinkRunner",
    "DataflowRunner",
    "SparkRunner",
    "InteractiveRunner",
    "TestDirectRunner",
    "TestDataflowRunner",
]
_IN_PROCESS = {"directrunner", "bundlebaseddirectrunner", "switchingdirectrunner", "fnapirunner", "interactiverunner"}


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `OptionError` where argparse would end the process, and takes no abbreviation."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(allow_abbrev=False, **arguments)

    def error(self, message: str) -> NoReturn:
        # argparse says "argument --name: what is wrong"
        option, _, problem = message.removeprefix("argument ").partition(": ")
        if not problem:
            option, problem = "command line", message
        raise OptionError(option, None, problem)

    def add_value_provider_argument(self, *names: str, **arguments: Any) -> None:
        """Beam's name for an option that a template may fill in later; here it is an option like any other."""
        self.add_argument(*names, **arguments)


def beam_classes(without: type[PipelineOptions]) -> list[type[PipelineOptions]]:
    """The classes of Beam's own options, in Beam's order; user classes and ours (`without`) left out."""
    classes = PipelineOptions.__subclasses__()
    return [cls for cls in classes if cls is not without and cls.__module__.startswith("apache_beam.")]


def beam_parser(without: type[PipelineOptions]) -> Parser:
    """A parser of everything Beam and its Java runners take."""
    # resolve: classes of Beam's may share a name, and which one wins does not matter for knowing the name
    parser = Parser(add_help=False, conflict_handler="resolve")
    for cls in beam_classes(without):
        cls._add_argparse_args(parser)  # type: ignore[arg-type]
    for name in JAVA_OPTIONS:
        parser.add_argument(f"--{name}", nargs="?", help=argparse.SUPPRESS)
    for name in _JAVA_SPELLING:
        parser.add_argument(name, nargs="?", help=argparse.SUPPRESS)
    return parser


def option_names(parser: argparse.ArgumentParser) -> list[str]:
    """Every option name of the parser, with its dashes."""
    return [name for action in parser._actions for name in action.option_strings]


def check_known(
    arguments: list[str], parser: Parser, our_names: Iterable[str], launched: bool = False
) -> tuple[argparse.Namespace, list[str]]:
    """Beam's values in `arguments`. Raises OptionError for the first argument that neither Beam nor a runner knows.

    `launched`: a flex template's launcher wrote them, and Dataflow has held the parameters against the template's
    metadata. What is unknown is then the launcher's own, of a later version than this: it is passed on, and named in
    the list that is returned.
    """
    values, unknown = parser.parse_known_args(arguments)
    if launched and all(word.startswith("--") for word in unknown):
        return values, sorted(word.partition("=")[0] for word in unknown)
    if not unknown:
        return values, []
    # what follows "=" may be a secret, so it is never repeated
    word = unknown[0].partition("=")[0]
    if not word.startswith("-"):
        raise OptionError(
            "command line",
            None,
            f"the word {word!r} belongs to no option",
            "options only; a value that holds spaces needs quotes",
            "--kafka_config 'sasl.jaas.config=… required username=\"ami\";' security.protocol=SASL_SSL",
        )
    names = [*our_names, *option_names(parser)]
    near = difflib.get_close_matches(word.replace("-", "_").replace("__", "--", 1), names, n=1, cutoff=0.7)
    raise OptionError(
        word,
        None,
        f"no such option; did you mean {near[0]}" if near else "no such option",
        "our options and Beam's, see --help; an option that only your runner knows goes behind --pass_to_runner",
        f"{near[0]}=…" if near else f"--pass_to_runner {word.lstrip('-')}=value",
    )


def java_spelling(arguments: Iterable[str]) -> list[str]:
    """The arguments with each option spelt as its Java runner expects it."""
    spelt = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        spelt.append(_JAVA_SPELLING.get(name, name) + equals + value)
    return spelt


def runner_name(text: str) -> str:
    """The runner in Beam's spelling (`flink` is `FlinkRunner`); a dotted class path as it is."""
    if "." in text:
        return text
    wanted = text.lower().removesuffix("runner") + "runner"
    for name in RUNNERS:
        if name.lower() == wanted:
            return name
    near = difflib.get_close_matches(text, RUNNERS, n=1)
    raise OptionError(
        "--runner",
        text,
        "no such runner" + (f"; did you mean {near[0]}?" if near else ""),
        ", ".join(RUNNERS[:7]) + " and so on",
        "--runner=FlinkRunner",
    )


def runs_in_process(runner: str) -> bool:
    """Whether the runner is one of Beam's Python DirectRunner engines."""
    return runner.rpartition(".")[2].removesuffix("()").lower() in _IN_PROCESS
