"""Fetches the jars a lock file names; what it returns has the locked SHA-256, or it raises and names the artefact.

The jars live in a cache outside the tree (`$AMI_BEAM_CACHE`, else `~/.cache/ami-beam`, each in the folder `jars`) and
are downloaded once, a few at a time. Downloads go to a `.part` file that the next attempt, or the next run, continues;
only a verified jar gets its final name. `$AMI_BEAM_MAVEN_REPOSITORY` replaces Maven Central; proxies and certificate
authorities are taken from the usual variables (`https_proxy`, `SSL_CERT_FILE`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from apache_beam.utils.subprocess_server import JavaJarServer

PATCHES = Path(__file__).with_name("patches.jar")
"""Built by `build_patches`."""
_PARALLEL = 4
_ATTEMPTS = 5
_TIMEOUT_SECONDS = 60
_CHUNK = 1 << 18
# Answers that another attempt will not change. 416 is not one of them: it means the .part file is no prefix of the jar.
_PERMANENT = {400, 401, 403, 404, 410}


class JarError(RuntimeError):
    """A jar could not be had in the locked form; the message names it."""


@dataclass(frozen=True)
class Artefact:
    coordinates: str
    """`group:artifact:version[:classifier][@extension]`; a jar without one."""
    sha256: str

    @property
    def path(self) -> str:
        """Where a Maven repository keeps it, relative to the repository's root."""
        coordinates, _, extension = self.coordinates.partition("@")
        group, artifact, version, *classifier = coordinates.split(":")
        name = "-".join([artifact, version, *classifier])
        return f"{group.replace('.', '/')}/{artifact}/{version}/{name}.{extension or 'jar'}"


def read_lock(name: str) -> list[Artefact]:
    """The artefacts of `<name>.lock` beside this module, in the file's order."""
    text = (Path(__file__).parent / f"{name}.lock").read_text(encoding="utf-8")
    return [Artefact(*line.split()) for line in text.splitlines() if line.strip()]


def cache_directory() -> Path:
    root = os.environ.get("AMI_BEAM_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "ami-beam") / "jars"


def repository() -> str:
    # Beam knows Maven Central's address, so that there is one place that names it.
    return (os.environ.get("AMI_BEAM_MAVEN_REPOSITORY") or JavaJarServer.MAVEN_CENTRAL_REPOSITORY).rstrip("/")


def fetch(name: str) -> list[Path]:
    """All jars of a lock, verified, in the lock's order; the missing ones are downloaded with progress on stderr."""
    cache = cache_directory()
    artefacts = read_lock(name)
    missing = [artefact for artefact in artefacts if not _is_valid(cache / artefact.path, artefact)]
    if missing:
        with exclusive(cache):
            # Another process may have fetched them while this one waited for the cache.
            missing = [artefact for artefact in missing if not _is_valid(cache / artefact.path, artefact)]
            _download_all(name, missing, cache)
    return [cache / artefact.path for artefact in artefacts]


def class_path(name: str) -> str:
    """The jars of a lock as a Java class path."""
    return os.pathsep.join(map(str, fetch(name)))


def flink_class_path() -> str:
    """The class path of everything that runs Beam on Flink: our replacements of classes (`patches`), then Beam's."""
    return os.pathsep.join((str(PATCHES), class_path("flink")))


@contextlib.contextmanager
def exclusive(cache: Path) -> Iterator[None]:
    """One downloading process at a time in a cache, which is made if needed. The kernel frees it after a crash."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".downloading").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_valid(path: Path, artefact: Artefact) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == artefact.sha256
    except FileNotFoundError:
        return False


def _download_all(name: str, artefacts: list[Artefact], cache: Path) -> None:
    if not artefacts:
        return
    progress = _Progress(name, len(artefacts))
    with ThreadPoolExecutor(_PARALLEL) as pool:
        futures = [pool.submit(_download, artefact, cache / artefact.path, progress) for artefact in artefacts]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            progress.close()


class _Sink(Protocol):
    def received(self, size: int) -> None: ...

    def finished(self) -> None: ...


def _download(artefact: Artefact, path: Path, progress: _Sink) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _transfer(f"{repository()}/{artefact.path}", part, progress)
        except urllib.error.HTTPError as error:
            if error.code == 416:
                part.unlink(missing_ok=True)
            if error.code in _PERMANENT or attempt == _ATTEMPTS:
                raise JarError(f"{artefact.coordinates}: the repository answered {error.code}") from error
        except (OSError, http.client.HTTPException) as error:
            if attempt == _ATTEMPTS:
                raise JarError(f"{artefact.coordinates}: {error} ({attempt} attempts)") from error
        else:
            if _is_valid(part, artefact):
                part.replace(path)
                progress.finished()
                return
            # A .part left by something else is a likelier reason than a changed artefact, so once more from the start.
            part.unlink()
            if attempt >= 2:
                raise JarError(f"{artefact.coordinates}: the downloaded jar does not have the locked SHA-256")
        time.sleep(min(0.5 * 2**attempt, 10))


def _transfer(url: str, part: Path, progress: _Sink) -> None:
    """Appends what is missing to `part`. A server that ignores the range sends the whole jar, which replaces it."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{have}":
            return  # nothing is missing: the last run ended between the last byte and the rename
        raise
    with response, part.open("ab" if response.status == 206 else "wb") as file:
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            progress.received(len(chunk))
        # http.client reports a connection that ends early as a normal end when it is read in pieces.
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)


class _Progress:
    """A line on stderr: rewritten in place on a terminal, a new one every few seconds in a log."""

    def __init__(self, name: str, jars: int) -> None:
        self._name, self._jars = name, jars
        self._done = self._bytes = 0
        self._lock = threading.Lock()
        self._terminal = sys.stderr.isatty()
        self._interval = 0.2 if self._terminal else 5.0
        self._next = 0.0

    def received(self, size: int) -> None:
        with self._lock:
            self._bytes += size
            self._show()

    def finished(self) -> None:
        with self._lock:
            self._done += 1
            self._show()

    def close(self) -> None:
        with self._lock:
            self._show(force=True)
            if self._terminal:
                print(file=sys.stderr, flush=True)

    def _show(self, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now < self._next:
            return
        self._next = now + self._interval
        text = f"Downloading the {self._name} jars: {self._done} of {self._jars}, {self._bytes / 1e6:.1f} MB"
        print(f"\r{text}" if self._terminal else text, end="" if self._terminal else "\n", file=sys.stderr, flush=True)
