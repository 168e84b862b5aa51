"""The jars are what the lock says, however the download went: interrupted, ranged, corrupt or refused."""

from __future__ import annotations

import hashlib
import os
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ami_beam.local import build_patches, jars, lock

CONTENT = bytes(range(256)) * 1000
ARTEFACT = jars.Artefact("org.example:thing:1.2", hashlib.sha256(CONTENT).hexdigest())


class Repository(BaseHTTPRequestHandler):
    """Serves CONTENT under ARTEFACT's path; `script` says what to do with each request, the last entry repeating."""

    script: list[str]
    ranges: list[str | None]

    def do_GET(self) -> None:
        given = self.headers.get("Range")
        self.ranges.append(given)
        todo = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if self.path != f"/{ARTEFACT.path}" or todo == "missing":
            self.send_error(404)
            return
        if todo == "busy":
            self.send_error(503)
            return
        start = int(given.removeprefix("bytes=").removesuffix("-")) if given and todo != "whole" else 0
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = CONTENT[start:] if todo != "corrupt" else b"\0" * len(CONTENT)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if todo == "cut" else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Repository]]:
    handler = type("Handler", (Repository,), {"script": ["serve"], "ranges": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setenv("AMI_BEAM_MAVEN_REPOSITORY", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("AMI_BEAM_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(jars, "read_lock", lambda name: [ARTEFACT])
    monkeypatch.setattr(jars.time, "sleep", lambda seconds: None)
    yield handler
    server.shutdown()
    server.server_close()


def part(tmp_path: Path) -> Path:
    path = tmp_path / "jars" / f"{ARTEFACT.path}.part"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_it_downloads_once(repository: type[Repository], capsys: pytest.CaptureFixture[str]) -> None:
    assert [path.read_bytes() for path in jars.fetch("any")] == [CONTENT]
    assert "1 of 1" in capsys.readouterr().err
    jars.fetch("any")
    assert len(repository.ranges) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("script", "asked"),
    [
        (["cut", "serve"], [None, f"bytes={len(CONTENT) // 2}-"]),
        (["busy", "busy", "serve"], [None, None, None]),
        (["corrupt", "serve"], [None, None]),
    ],
)
def test_it_tries_again(repository: type[Repository], script: list[str], asked: list[str | None]) -> None:
    repository.script = script
    assert jars.fetch("any")[0].read_bytes() == CONTENT
    assert repository.ranges == asked


@pytest.mark.parametrize("answer", ["serve", "whole"])
@pytest.mark.parametrize("have", [CONTENT[:100], CONTENT, b"of something else", CONTENT + b"more"])
def test_a_part_of_an_earlier_run_is_continued_or_replaced(
    repository: type[Repository], tmp_path: Path, have: bytes, answer: str
) -> None:
    repository.script = [answer]
    part(tmp_path).write_bytes(have)
    assert jars.fetch("any")[0].read_bytes() == CONTENT
    assert not part(tmp_path).exists()


def test_another_content_is_an_error_that_names_the_artefact(repository: type[Repository], tmp_path: Path) -> None:
    repository.script = ["corrupt"]
    with pytest.raises(jars.JarError, match=r"org.example:thing:1.2.*SHA-256"):
        jars.fetch("any")
    assert [path for path in tmp_path.rglob("*.jar*") if path.is_file()] == []


def test_a_missing_artefact_is_not_asked_for_again(repository: type[Repository]) -> None:
    repository.script = ["missing"]
    with pytest.raises(jars.JarError, match=r"org.example:thing:1.2.*404"):
        jars.fetch("any")
    assert len(repository.ranges) == 1


def test_a_damaged_jar_in_the_cache_is_replaced(repository: type[Repository], tmp_path: Path) -> None:
    jar = jars.fetch("any")[0]
    jar.write_bytes(b"damaged")
    assert jars.fetch("any")[0].read_bytes() == CONTENT


@pytest.mark.parametrize("name", lock.NAMES)
def test_the_locks_name_every_artefact_once(name: str) -> None:
    artefacts = jars.read_lock(name)
    assert len(artefacts) > 50
    assert len({artefact.path for artefact in artefacts}) == len(artefacts)
    for artefact in artefacts:
        assert len(artefact.sha256) == 64
        assert lock.coordinates(Path(artefact.path)) == artefact.coordinates


def test_the_patches_were_built_from_their_sources() -> None:
    assert build_patches.built_from() == build_patches.sources_hash()
    with zipfile.ZipFile(jars.PATCHES) as archive:
        classes = {name.removesuffix(".class") for name in archive.namelist() if name.endswith(".class")}
    sources = build_patches.SOURCES.rglob("*.java")
    # An inner class stands in its outer one's source.
    assert {name.partition("$")[0] for name in classes} == {
        path.relative_to(build_patches.SOURCES).with_suffix("").as_posix() for path in sources
    }


def test_the_patches_come_first() -> None:
    first, *rest = jars.flink_class_path().split(os.pathsep)
    assert first == str(jars.PATCHES)
    assert rest == list(map(str, jars.fetch("flink")))
