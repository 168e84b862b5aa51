"""A job on somebody's Flink cluster: what is added to its options, how it is found again, and how it ends.

The cluster needs no jars of Beam's: they are sent along. Its Python code runs in the worker pool beside each
TaskManager (`ami_beam.worker_pool`).
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlparse

from apache_beam.io.filesystems import FileSystems

from ami_beam import flink_stop
from ami_beam.beam_options import OptionError
from ami_beam.flink_checks import check_cluster, value_of
from ami_beam.flink_rest import FlinkError, FlinkJob, FlinkRest
from ami_beam.local import jars
from ami_beam.local.job_server import JobServer
from ami_beam.local.process import TemporaryDirectory
from ami_beam.worker_pool import DEFAULT_PORT

_log = logging.getLogger("ami_beam.run")
_MAX_CONTENT = 1 << 30
_CHECKPOINT_FILE = "_metadata"
_POLL_SECONDS = 0.5
_TELL_SECONDS = 5.0
DEFAULTS: dict[str, str | None] = {
    "--checkpointing_interval": "10000",
    # Without these the checkpoints are deleted with the job, and a lost JobManager takes the job along.
    "--externalized_checkpoints_enabled": None,
    "--retain_externalized_checkpoints_on_cancellation": None,
    # Flink knows a step's state by its place in the graph, where steps are chained by another one. Steps are chained
    # where the parallelism is one and not where it is more: a savepoint would fit its own parallelism only. The flag
    # turns chaining off.
    "--operator_chaining": None,
    # Else what a bundle gives while a checkpoint is taken is kept in it by the number of an output, which may be
    # another output's when the job is submitted again (seen: 'Long cannot be cast to KV', for ever), and is sent behind
    # the watermark that it should have gone before.
    "--finish_bundle_before_checkpointing": None,
    "--sdk_worker_parallelism": "1",
    "--max_bundle_time_mills": "100",
    "--max_bundle_size": "50000",
}
"""Options of a job on a cluster where the command line names none; None for those without a value."""


class FlinkCluster:
    """`with FlinkCluster(master, arguments) as cluster:` puts a job server in front of it; jobs outlive the block.

    Args:
      master: the JobManager's REST address, host:port.
      arguments: the pipeline options of the command line.
    Raises OptionError for what would lose data, FlinkError when nobody answers, StartError without a job server.
    """

    def __init__(self, master: str, arguments: Sequence[str]) -> None:
        if "://" in master:
            raise OptionError(
                "--flink_master", master, "is not an address", "HOST:PORT of the JobManager", "--flink_master=jm:8081"
            )
        self.rest = FlinkRest(master)
        self._closed = threading.Event()
        self.job_name = value_of(arguments, "--job_name") or f"ami-beam-{uuid.uuid4().hex[:8]}"
        self.pipeline_args = self._arguments(arguments)
        staged = sum(path.stat().st_size for path in jars.fetch("flink"))
        self.warnings = check_cluster(self.rest, self.pipeline_args, staged)
        if any(job.name == self.job_name and not job.ended for job in self.rest.jobs()):
            raise OptionError(
                "--job_name",
                self.job_name,
                f"runs already on {master}, and a second one would publish everything twice",
                "another name, or the end of that job first",
            )
        self._directory = TemporaryDirectory("ami-beam-submit-")
        settings = {
            "rest.client.max-content-length": _MAX_CONTENT,
            "io.tmp.dirs": self._directory.path / "tmp",
        }
        self._server = JobServer(master, self._directory.path, settings)

    def __enter__(self) -> Self:
        try:
            self._server.start()
        except BaseException:
            self._close()
            raise
        self.pipeline_args += ("--runner=PortableRunner", f"--job_endpoint={self._server.endpoint}")
        threading.Thread(target=self._tell_failures, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def expansion(self) -> AbstractContextManager[str]:
        """The address for `expansion_service=` of Beam's KafkaIO; its JVM starts and ends with the block."""
        return self._server.expansion()

    def job(self) -> FlinkJob | None:
        """The job that was submitted here, if it is there and has not ended. Raises FlinkError."""
        return next((job for job in self.rest.jobs() if job.name == self.job_name and not job.ended), None)

    def wait_for_checkpoint(self) -> str:
        """Return the job's id when its first checkpoint is complete. Raises JobEndedError when it ends before."""
        seen = None
        while True:
            # The translation takes a while, and an overloaded JobManager may miss a question.
            with suppress(FlinkError):
                job = self.job()
                if job is None and seen is not None:
                    failure = self.rest.failure(seen)
                    reason = failure[1] if failure else "Flink names no failure"
                    raise JobEndedError(f"Job {seen} ended before its first checkpoint: {reason}")
                seen = job.id if job else seen
                if seen is not None and self.rest.checkpoints(seen)["counts"]["completed"]:
                    return seen
            time.sleep(_POLL_SECONDS)

    def stop(self) -> str:
        """End the job with a savepoint, and return its path. Raises FlinkError, and then the job runs on."""
        return flink_stop.stop(self.rest, self.job_name)

    def cancel(self) -> None:
        """Ask for the job's end. Raises FlinkError."""
        job = self.job()
        if job is not None:
            self.rest.cancel(job.id)

    def _tell_failures(self) -> None:
        """Log every failure after which Flink starts the job anew: nothing else tells whoever follows it."""
        told = None
        while not self._closed.wait(_TELL_SECONDS):
            with suppress(FlinkError, LookupError, TypeError, ValueError):
                job = self.job()
                failure = self.rest.failure(job.id) if job is not None else None
                if failure is not None and failure != told:
                    told = failure
                    _log.warning("The job failed, and Flink starts it anew from its last checkpoint: %s", failure[1])

    def _arguments(self, given: Sequence[str]) -> tuple[str, ...]:
        kept, skip = [], False
        for word in given:
            name = word.partition("=")[0]
            if skip:
                skip = False
            elif name in ("--runner", "--flink_master", "--savepoint_path", "--job_name"):
                skip = "=" not in word
            else:
                kept.append(word)
        names = {word.partition("=")[0] for word in kept}
        defaults = dict(DEFAULTS)
        if "--parallelism" not in names:
            defaults["--parallelism"] = str(max(1, self.rest.slots()[0]))
        if "--environment_type" not in names:
            defaults |= {"--environment_type": "EXTERNAL", "--environment_config": f"localhost:{DEFAULT_PORT}"}
        added = [name if value is None else f"{name}={value}" for name, value in defaults.items() if name not in names]
        savepoint = value_of(given, "--savepoint_path")
        if savepoint is not None:
            added.append(f"--savepoint_path={newest_checkpoint(savepoint)}")
        return (*kept, *added, f"--job_name={self.job_name}", "--streaming")

    def _close(self) -> None:
        self._closed.set()
        self._server.stop()
        self._directory.remove()


class JobEndedError(RuntimeError):
    """A job ended that was to go on; the message has Flink's reason."""


def newest_checkpoint(path: str) -> str:
    """The savepoint or checkpoint at `path`, or, where it is a folder of them, the one that was completed last.

    A path on a file system that only the cluster knows is returned as it is, and must be a savepoint's or
    checkpoint's own. Raises OptionError when there is none.
    """
    if "://" in path and not path.startswith("file:"):
        try:
            FileSystems.get_filesystem(path)
        except ValueError:
            return path
    place = unquote(urlparse(path).path) if urlparse(path).scheme == "file" else path
    root = place.rstrip("/")
    patterns = [f"{root}/{_CHECKPOINT_FILE}", f"{root}/*/{_CHECKPOINT_FILE}", f"{root}/*/*/{_CHECKPOINT_FILE}"]
    try:
        if root.endswith(f"/{_CHECKPOINT_FILE}"):
            root, patterns = str(Path(root).parent), [root]
        found = [each for result in FileSystems.match(patterns) for each in result.metadata_list]
    except Exception as error:  # each file system has its own exceptions
        raise OptionError(
            "--savepoint_path", path, f"cannot be read ({error})", "a savepoint, or a folder of checkpoints"
        ) from None
    if not found:
        raise OptionError(
            "--savepoint_path", path, "holds no completed savepoint or checkpoint", "a folder with a file _metadata"
        )
    newest = max(found, key=lambda each: each.last_updated_in_seconds or 0.0)
    chosen = newest.path.removesuffix(f"/{_CHECKPOINT_FILE}")
    return Path(chosen).absolute().as_uri() if "://" not in chosen else chosen
