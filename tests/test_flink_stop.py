"""`python -m ami_beam.flink_stop` ends a job with a savepoint, and says why it cannot."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ami_beam import flink_stop
from ami_beam.flink_rest import FlinkError, FlinkRest


class JobManager(ThreadingHTTPServer):
    """The calls of Flink's REST interface that stopping needs."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.jobs = [{"jid": "a1", "name": "ami-beam", "state": "RUNNING"}]
        self.operation: dict[str, Any] = {"location": "file:/flink-state/savepoints/savepoint-a1"}
        self.ends = True
        self.settings = {
            "state.checkpoints.dir": "s3://ami/checkpoints/",
            "state.savepoints.dir": "s3://ami/savepoints",
        }
        self.asked: list[Any] = []

    @property
    def master(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class Answers(BaseHTTPRequestHandler):
    server: JobManager

    def do_GET(self) -> None:
        if self.path == "/jobmanager/config":
            self._answer([{"key": name, "value": value} for name, value in self.server.settings.items()])
        elif self.path == "/jobs/overview":
            self._answer({"jobs": self.server.jobs})
            for job in self.server.jobs:
                job["state"] = {"RESTARTING": "RUNNING"}.get(job["state"], job["state"])
        else:
            if self.server.ends:
                self.server.jobs[0]["state"] = "CANCELED"
            self._answer({"status": {"id": "COMPLETED"}, "operation": self.server.operation})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, json.loads(body)))
        self._answer({"request-id": "s1"})

    def _answer(self, content: Any) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def manager() -> Iterator[JobManager]:
    with JobManager() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def run(manager: JobManager) -> int:
    return flink_stop.main([f"--flink_master={manager.master}", "--job_name=ami-beam"])


@pytest.mark.parametrize("state", ["RUNNING", "RESTARTING"])
def test_the_job_ends_with_a_savepoint(manager: JobManager, state: str, capsys: pytest.CaptureFixture[str]) -> None:
    manager.jobs[0]["state"] = state
    assert run(manager) == 0
    assert capsys.readouterr().out == "file:/flink-state/savepoints/savepoint-a1\n"
    assert manager.asked == [("/jobs/a1/savepoints", {"cancel-job": True})]


@pytest.mark.parametrize(("name", "state"), [("shadow", "RUNNING"), ("ami-beam", "FINISHED")])
def test_without_such_a_job_nothing_is_asked(
    manager: JobManager, name: str, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manager.jobs[0] |= {"name": name, "state": state}
    assert run(manager) == 1
    assert "0 jobs named ami-beam run at" in capsys.readouterr().err
    assert not manager.asked


def test_a_failed_savepoint_is_an_error(manager: JobManager, capsys: pytest.CaptureFixture[str]) -> None:
    manager.ends = False
    manager.operation = {"failure-cause": {"stack-trace": "CheckpointException\nCaused by: No space left on device"}}
    assert run(manager) == 1
    assert "The savepoint failed: No space left on device" in capsys.readouterr().err


def test_a_job_that_does_not_end_is_an_error(manager: JobManager) -> None:
    manager.ends = False
    with pytest.raises(FlinkError, match=r"savepoint-a1 is complete, but job ami-beam has not ended"):
        flink_stop.stop(FlinkRest(manager.master), "ami-beam", wait_seconds=0.0)


def test_a_job_that_does_not_run_is_an_error(manager: JobManager) -> None:
    manager.jobs[0]["state"] = "CREATED"
    with pytest.raises(FlinkError, match="is CREATED, and only a running one can take a savepoint"):
        flink_stop.stop(FlinkRest(manager.master), "ami-beam", wait_seconds=0.0)


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert flink_stop.main(["--flink_master=127.0.0.1:1", "--job_name=ami-beam"]) == 1
    assert "No answer from a Flink JobManager at 127.0.0.1:1" in capsys.readouterr().err


def test_a_cluster_without_a_folder_for_savepoints_keeps_them_beside_its_checkpoints(manager: JobManager) -> None:
    del manager.settings["state.savepoints.dir"]
    assert run(manager) == 0
    (asked,) = manager.asked
    assert asked[1]["target-directory"] == "s3://ami/checkpoints-savepoints"
