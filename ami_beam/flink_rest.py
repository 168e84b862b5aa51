"""What ami-beam asks of a Flink cluster through the JobManager's REST interface: its settings, its jobs, savepoints."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

ENDED = {"FINISHED", "CANCELED", "FAILED"}
_TIMEOUT_SECONDS = 10
_POLL_SECONDS = 0.5


class FlinkError(RuntimeError):
    """The JobManager does not answer, or refuses; the message says what was asked and why not."""


@dataclass(frozen=True)
class FlinkJob:
    """A job as the JobManager lists it. States are Flink's: RUNNING, RESTARTING, FAILED, …"""

    id: str
    name: str
    state: str

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class FlinkRest:
    """The REST interface at `master` (host:port). Every call raises FlinkError when it gets no answer or a refusal."""

    def __init__(self, master: str) -> None:
        self.master = master

    def version(self) -> str:
        return str(self._get("/overview").get("flink-version", "unknown"))

    def slots(self) -> tuple[int, int]:
        """Task slots: all, and those that are free."""
        overview = self._get("/overview")
        return int(overview.get("slots-total", 0)), int(overview.get("slots-available", 0))

    def settings(self) -> dict[str, str]:
        """The JobManager's configuration. Flink hides the values of secrets."""
        return {each["key"]: each["value"] for each in self._get("/jobmanager/config")}

    def jobs(self) -> list[FlinkJob]:
        """All jobs that the JobManager remembers."""
        return [FlinkJob(job["jid"], job["name"], job["state"]) for job in self._get("/jobs/overview")["jobs"]]

    def state(self, job: str) -> str:
        return str(self._get(f"/jobs/{job}")["state"])

    def checkpoints(self, job: str) -> dict[str, Any]:
        """Flink's checkpoint statistics: `counts`, `latest`, `history`."""
        return self._get(f"/jobs/{job}/checkpoints")

    def failure(self, job: str) -> tuple[int, str] | None:
        """When the job failed last (milliseconds since 1970), and what said why; None if it never did."""
        entries = self._get(f"/jobs/{job}/exceptions").get("exceptionHistory", {}).get("entries", [])
        return (int(entries[0]["timestamp"]), root_cause(str(entries[0].get("stacktrace", "")))) if entries else None

    def watermarks(self, job: str) -> list[int]:
        """The least input watermark of every step that has one, in milliseconds since 1970."""
        found = []
        for vertex in self._get(f"/jobs/{job}")["vertices"]:
            values = self._get(f"/jobs/{job}/vertices/{vertex['id']}/watermarks")
            marks = [int(each["value"]) for each in values]
            if marks:
                found.append(min(marks))
        return found

    def cancel(self, job: str) -> None:
        """Ask for the end of the job, which comes some time after this returns."""
        self.request(f"/jobs/{job}?mode=cancel", "PATCH")

    def savepoint(self, job: str, directory: str | None, cancel: bool, seconds: float = 600.0) -> str:
        """Take a savepoint and return its path. With `cancel` the job ends with it.

        The job ends by Flink's "cancel with savepoint": its "stop" waits for timers that a Beam source sets anew for
        ever. What the job publishes between the savepoint and its end is published again by the job that goes on from
        there.

        Args:
          directory: where; None for the cluster's `state.savepoints.dir`.
          seconds: how long to wait.
        """
        body = {"cancel-job": cancel, **({"target-directory": directory} if directory else {})}
        trigger = self.request(f"/jobs/{job}/savepoints", "POST", body)["request-id"]
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            answer = self._get(f"/jobs/{job}/savepoints/{trigger}")
            if answer["status"]["id"] == "COMPLETED":
                operation = answer["operation"]
                if "location" in operation:
                    return str(operation["location"])
                cause = operation.get("failure-cause", {})
                raise FlinkError(f"The savepoint failed: {root_cause(str(cause.get('stack-trace') or cause))}")
            time.sleep(_POLL_SECONDS)
        raise FlinkError(f"The savepoint was not complete after {seconds:g} s; it may complete later.")

    def request(self, path: str, method: str = "GET", body: Any = None) -> Any:
        """The answer as JSON."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.master}{path}", data, method=method)
        if data is not None:
            request.add_header("Content-Type", "application/json")
        # Not through a proxy, which the machine may have for other addresses.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
                text = response.read()
            return json.loads(text) if text else {}
        except urllib.error.HTTPError as error:
            raise FlinkError(f"Flink at {self.master} refused {method} {path}: {_refusal(error)}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise FlinkError(f"No answer from a Flink JobManager at {self.master} ({reason}).") from None

    def _get(self, path: str) -> Any:
        return self.request(path)


def _refusal(error: urllib.error.HTTPError) -> str:
    try:
        return root_cause("\n".join(json.loads(error.read())["errors"]))
    except (ValueError, LookupError, TypeError, OSError):
        return f"status {error.code}"


def root_cause(trace: str) -> str:
    """Of a stack trace the line that says most: a Python error in it, else Java's last cause."""
    lines = trace.splitlines()
    # A Python traceback ends with the first line behind its frames that is not indented.
    for number, line in enumerate(lines):
        if line.startswith("Traceback (most recent call last)") or "): Traceback (most recent call last)" in line:
            ending = next((each for each in lines[number + 1 :] if each and not each[0].isspace()), "")
            if ending:
                return ending
    causes = [line for line in lines if line.startswith("Caused by:")]
    line = causes[-1].removeprefix("Caused by:") if causes else next(iter(lines), "")
    return line.strip()
