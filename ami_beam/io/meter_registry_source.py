"""The meter registry as each worker has it: loaded from its file, and again when that changes while a job runs."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from hashlib import sha256
from threading import Lock
from typing import NamedTuple

import pyarrow as pa
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics

from ami_beam import meter_registry
from ami_beam.arenas import give_back
from ami_beam.csv_table import TableError
from ami_beam.instants import MICROS_PER_SECOND
from ami_beam.meter_registry import MeterRegistry, readable

_CHUNK_BYTES = 1 << 20
_log = logging.getLogger(__name__)


class FollowedRegistry:
    """The newest good version of a file; what is pickled of it is the path. One copy a process serves all its steps.

    A process loads the file when it is first asked, and fails with TableError where it cannot: without the registry
    every read would be left where the head-end puts it. After that a file that is missing or bad leaves the last good
    version in use, is logged and counted (meter_registry_load_failed, and as meter counts, too; meter_registry_loaded
    counts the others). Workers may use different versions for `refresh`.

    Args:
      path: of a CSV file, plain or .gz.
      refresh: microseconds of the wall clock after which the file is looked at again, when somebody asks; None: never.
    """

    def __init__(self, path: str, refresh: int | None = None) -> None:
        self._key = path, refresh

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FollowedRegistry) and other._key == self._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def changes(self) -> bool:
        """Whether a file that changes is looked at again."""
        return self._key[1] is not None

    def current(self, at_least: str = "") -> MeterRegistry:
        """The newest good version. One that was seen elsewhere, `at_least`, is looked for at once."""
        with _versions_lock:
            return self._version().current(at_least)

    def hold(self, registry: MeterRegistry) -> None:
        """Keep this version, and no other one, however often the file changes until somebody asks for it."""
        with _versions_lock:
            self._version().held = registry

    def held(self, version: str) -> MeterRegistry | None:
        """The version that is kept, if it is this one."""
        with _versions_lock:
            held = self._version().held
            return held if held is not None and held.version == version else None

    def _version(self) -> _Version:
        version = _versions.get(self._key)
        if version is None:
            version = _versions[self._key] = _Version(*self._key)
        return version


class _Stamp(NamedTuple):
    """What tells whether a file may have changed without reading it."""

    size: int
    changed: float
    """0 where the file system does not say."""


class _Version:
    """What a file held when it was good last."""

    def __init__(self, path: str, refresh: int | None) -> None:
        self._path, self._refresh = path, refresh
        self._failed = Metrics.counter("ami", "meter_registry_load_failed")
        # The counts that it makes are as old as it is: one alarm watches both.
        self._counts_failed = Metrics.counter("ami", "meter_counts_load_failed")
        self._loaded = Metrics.counter("ami", "meter_registry_loaded")
        self._stamp: _Stamp | None = None
        self._digest = b""
        self._registry: MeterRegistry | None = None
        self.held: MeterRegistry | None = None
        self._seen: set[str] = set()
        self._load()

    def current(self, at_least: str) -> MeterRegistry:
        assert self._registry is not None
        due = self._refresh is not None and time.monotonic() - self._looked >= self._refresh / MICROS_PER_SECOND
        if due or (at_least and at_least not in self._seen):
            try:
                self._load()
            except TableError as error:
                self._failed.inc()
                self._counts_failed.inc()
                _log.error(
                    "Meter registry not loaded, the last good one stays in use (workers must reach it): %s", error
                )
        return self._registry

    def _load(self) -> None:
        self._looked = time.monotonic()
        # Before it is read: what is written meanwhile is then seen the next time.
        stamp = _stamp(self._path)
        if stamp == self._stamp and stamp.changed:
            return
        digest = b"" if stamp.changed else _digest(self._path)
        if not digest or digest != self._digest:
            loaded = meter_registry.load(self._path)
            version = digest.hex() if digest else f"{stamp.size}/{stamp.changed}"
            self._registry = replace(loaded, version=version)
            self._seen.add(version)
            self._loaded.inc()
            pa.default_memory_pool().release_unused()
            give_back()
        self._stamp, self._digest = stamp, digest


def _stamp(path: str) -> _Stamp:
    try:
        (found,) = FileSystems.match([path])[0].metadata_list
    except ValueError:
        raise TableError(f"{path}: no such file") from None
    except Exception as error:  # each file system has its own exceptions
        raise TableError(f"{path}: cannot be read: {error}") from error
    return _Stamp(found.size_in_bytes, found.last_updated_in_seconds or 0.0)


def _digest(path: str) -> bytes:
    found = sha256()
    with readable(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            found.update(chunk)
    return found.digest()


_versions: dict[tuple[str, int | None], _Version] = {}
_versions_lock = Lock()
