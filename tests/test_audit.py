"""The bill of materials is complete, and an audit that could not be made is not taken for a good one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ami_beam.local import jars
from ami_beam.local.process import free_ports
from tools import audit

REQUIREMENTS = Path(__file__).parents[1] / "requirements"


def test_the_bill_lists_every_pinned_package_and_every_locked_jar(tmp_path: Path) -> None:
    path = tmp_path / "sbom.json"
    (port,) = free_ports(1)
    audit.main([f"--output={path}", f"--osv-url=http://127.0.0.1:{port}"])
    bill = json.loads(path.read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    listed = {component["purl"]: component for component in bill["components"]}
    for line in (REQUIREMENTS / "dev.txt").read_text().splitlines():
        if "==" in line and not line.startswith((" ", "#")):
            name, _, version = line.split(" ")[0].partition("==")
            assert f"pkg:pypi/{name.partition('[')[0]}@{version}" in listed
    assert listed["pkg:npm/uplot@1.6.32"]["hashes"]
    for lock in ("flink", "flink_prometheus", "flink_sql", "kafka", "kafka_connect", "schema_registry"):
        for artefact in jars.read_lock(lock):
            group, name, version, *_ = artefact.coordinates.partition("@")[0].split(":")
            (found,) = [
                component
                for purl, component in listed.items()
                if purl.startswith(f"pkg:maven/{group}/{name}@{version}")
                and component["hashes"][0]["content"] == artefact.sha256
            ]
            assert found["hashes"] == [{"alg": "SHA-256", "content": artefact.sha256}]


@pytest.mark.parametrize(("arguments", "code"), [([], 0), (["--strict"], 1)])
def test_a_database_out_of_reach_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int
) -> None:
    (port,) = free_ports(1)
    unreachable = f"--osv-url=http://127.0.0.1:{port}"
    assert audit.main([*arguments, f"--output={tmp_path / 'sbom.json'}", unreachable]) == code
    assert "NOT AUDITED: the vulnerability database cannot be reached" in capsys.readouterr().err


class _Database(BaseHTTPRequestHandler):
    """Answers as OSV does, and knows one weakness of msgspec."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]["name"]
        affected = [{"package": {"name": "msgspec", "ecosystem": "PyPI"}, "ranges": []}]
        weakness = {"id": "TEST-1", "summary": "s", "affected": affected, "modified": "2026-01-01T00:00:00Z"}
        answer = json.dumps({"vulns": [weakness]} if asked == "msgspec" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def database() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Database) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


def test_a_known_weakness_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str], database: str) -> None:
    assert audit.main([f"--output={tmp_path / 'sbom.json'}", f"--osv-url={database}"]) == 1
    assert "TEST-1" in capsys.readouterr().out
