"""What must hold before a job is sent to a Flink cluster: settings that lose data are refused, doubtful ones named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlparse

from ami_beam.beam_options import OptionError
from ami_beam.flink_rest import FlinkRest

FLINK_VERSION = "1.19"
"""What the locked runner is built for."""
_NO_RESTART = {"none", "off", "disable"}
_UNITS = {"": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}


def value_of(arguments: Sequence[str], name: str) -> str | None:
    """The value of an option that may stand as `--name=value` or `--name value`; the last one counts."""
    found = None
    for place, word in enumerate(arguments):
        if word.startswith(f"{name}="):
            found = word.partition("=")[2]
        elif word == name:
            following = arguments[place + 1] if place + 1 < len(arguments) else "--"
            found = "true" if following.startswith("--") else following
    return found


def check_cluster(rest: FlinkRest, arguments: Sequence[str], staged_bytes: int) -> list[str]:
    """Warnings for what is allowed but dangerous. Raises OptionError for what would lose data, FlinkError if no answer.

    Args:
      arguments: the pipeline options of the job, defaults included.
      staged_bytes: the size of what is sent along.
    """
    version = rest.version()
    if not version.startswith(f"{FLINK_VERSION}."):
        raise OptionError("--flink_master", rest.master, f"is Flink {version}", f"Flink {FLINK_VERSION}")
    settings = rest.settings()
    warnings = check_settings(settings, arguments, rest.master)
    slots, free = rest.slots()
    parallelism = int(value_of(arguments, "--parallelism") or slots)
    if parallelism > slots:
        raise OptionError(
            "--parallelism", str(parallelism), f"is more than the {slots} task slots of {rest.master}", f"1 to {slots}"
        )
    if parallelism > free:
        warnings.append(
            f"Only {free} of {slots} task slots are free, and the job needs {parallelism}: it waits until others end."
        )
    limit = bytes_of(settings.get("rest.server.max-content-length", "100 mb"))
    if limit < staged_bytes * 1.1:
        raise OptionError(
            "--flink_master",
            rest.master,
            f"takes requests of up to {limit >> 20} MB, and the job brings jars of {staged_bytes >> 20} MB",
            "rest.server.max-content-length: 1073741824 in Flink's configuration",
        )
    return warnings


def check_settings(settings: Mapping[str, str], arguments: Sequence[str], master: str) -> list[str]:
    """As `check_cluster`, from the cluster's settings alone."""
    interval = value_of(arguments, "--checkpointing_interval")
    if interval is None or not interval.isdigit() or int(interval) < 1:
        raise OptionError(
            "--checkpointing_interval",
            interval,
            "means no checkpoints: after any failure the job begins with empty state, and reads are lost",
            "milliseconds",
            "--checkpointing_interval=10000",
        )
    directory = settings.get("state.checkpoints.dir") or settings.get("execution.checkpointing.dir")
    storage = settings.get("state.checkpoint-storage") or settings.get("execution.checkpointing.storage")
    if storage == "jobmanager" or not directory:
        raise OptionError(
            "--flink_master",
            master,
            "keeps checkpoints on the JobManager's heap: they end with it, and fail above 5 MB",
            "state.checkpoints.dir: a shared file system, in Flink's configuration, and no state.checkpoint-storage",
        )
    retries = value_of(arguments, "--number_of_execution_retries")
    strategy = settings.get("restart-strategy.type") or settings.get("restart-strategy") or ""
    if retries == "0" or (strategy.lower() in _NO_RESTART and retries in (None, "-1")):
        raise OptionError(
            "--number_of_execution_retries" if retries == "0" else "--flink_master",
            retries if retries == "0" else master,
            "does not start a job again after a failure",
            "restart-strategy.type: exponential-delay in Flink's configuration, or no --number_of_execution_retries",
        )
    warnings = []
    if urlparse(directory).scheme in ("", "file"):
        warnings.append(
            f"Checkpoints go to {directory}, a local path: every JobManager and TaskManager must see the same folder."
        )
    if value_of(arguments, "--allow_non_restored_state") not in (None, "false"):
        warnings.append(
            "--allow_non_restored_state: state that no step of this version takes is DROPPED, with every read in it."
        )
    return warnings


def bytes_of(text: str) -> int:
    """Flink's memory sizes: `104857600`, `100mb`, `1 gb`. Zero for what is none."""
    number = text.strip().rstrip("abgkmABGKM ")
    unit = text.strip()[len(number) :].strip().lower()
    unit = f"{unit}b" if unit in ("k", "m", "g") else unit
    return int(number) * _UNITS[unit] if number.isdigit() and unit in _UNITS else 0
