"""`python -m ami_beam.flink_stop`: ends a job on a Flink cluster with a savepoint, and prints where that lies.

For a job whose submission has returned (`--return_when=checkpointed`); until then SIGTERM to `ami_beam.run` does it.
Exit codes: 0 the savepoint is complete and the job has ended; 1 it has not, and the message says why.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence

from ami_beam.flink_rest import FlinkError, FlinkJob, FlinkRest

_WAIT_SECONDS = 120.0
_POLL_SECONDS = 0.5
_log = logging.getLogger("ami_beam.flink_stop")


def stop(rest: FlinkRest, name: str, wait_seconds: float = _WAIT_SECONDS, directory: str | None = None) -> str:
    """End the job of that name with a savepoint and return its path.

    The savepoint goes to `directory`, else to the cluster's `state.savepoints.dir`, else beside its checkpoints.
    Raises FlinkError when there is no such job, when the savepoint fails, and then the job runs on, or when the job has
    not ended `wait_seconds` after it.
    """
    deadline = time.monotonic() + wait_seconds
    # Only a running job takes a savepoint, and one that restarts will run soon.
    while (job := _job(rest, name)).state != "RUNNING":
        if time.monotonic() > deadline:
            raise FlinkError(f"Job {name} is {job.state}, and only a running one can take a savepoint.")
        time.sleep(_POLL_SECONDS)
    _log.info("Stopping job %s (%s) with a savepoint.", job.id, name)
    path = rest.savepoint(job.id, directory or _directory(rest), cancel=True)
    deadline = time.monotonic() + wait_seconds
    while any(each.id == job.id and not each.ended for each in rest.jobs()):
        if time.monotonic() > deadline:
            raise FlinkError(f"Savepoint {path} is complete, but job {name} has not ended.")
        time.sleep(_POLL_SECONDS)
    return path


def _directory(rest: FlinkRest) -> str | None:
    """Where savepoints go on a cluster that does not say: None where it does."""
    settings = rest.settings()
    if settings.get("state.savepoints.dir") or settings.get("execution.checkpointing.savepoint-dir"):
        return None
    checkpoints = settings.get("state.checkpoints.dir") or settings.get("execution.checkpointing.dir")
    return f"{checkpoints.rstrip('/')}-savepoints" if checkpoints else None


def _job(rest: FlinkRest, name: str) -> FlinkJob:
    found = [job for job in rest.jobs() if job.name == name and not job.ended]
    if len(found) != 1:
        raise FlinkError(f"{len(found)} jobs named {name} run at {rest.master}, and one was to be stopped.")
    return found[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ami_beam.flink_stop", description=__doc__)
    parser.add_argument("--flink_master", required=True, metavar="HOST:PORT", help="the JobManager's REST address")
    parser.add_argument("--job_name", required=True, metavar="NAME", help="as it was submitted")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        path = stop(FlinkRest(options.flink_master), options.job_name)
    except FlinkError as error:
        print(f"ami_beam.flink_stop: {error}", file=sys.stderr)
        return 1
    _log.info("The job has ended; go on from its savepoint with --savepoint_path=%s", path)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
