"""The meter registry as each worker has it: loaded from its file, and again when that changes while a job runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from threading import Lock
from typing import Any, NamedTuple

import pyarrow as pa
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics

from ami_beam import meter_registry
from ami_beam.arenas import give_back
from ami_beam.counts_shrink import ANY_TABLE, ShrinkGuard, ShrinkRule, Size, size_of_changes
from ami_beam.csv_table import TableError
from ami_beam.io.followed import Followed
from ami_beam.meter_registry import MeterRegistry, readable
from ami_beam.registry_counts import CountChanges

_CHUNK_BYTES = 1 << 20
_log = logging.getLogger(__name__)


class FollowedRegistry:
    """The newest good version of a file; what is pickled of it is the path. One copy a process serves all its steps.

    A process loads the file when it is first asked, and fails with TableError where it cannot: without the registry
    every read would be left where the head-end puts it. After that a file that is missing or bad leaves the last good
    version in use, is logged and counted (meter_registry_load_failed, and as meter counts, too; meter_registry_loaded
    counts the others), and so does one that has lost more of its meters than `shrink` allows (meter_counts_refused).
    Workers may use different versions for `refresh`. What is pickled says how large the version was that this process
    used, if any: the first one that a worker loads must not have lost much of that.

    Args:
      path: of a CSV file, plain or .gz.
      refresh: microseconds of the wall clock after which the file is looked at again, when somebody asks; None: never.
      shrink: which versions may follow the one in use.
    """

    def __init__(self, path: str, refresh: int | None = None, shrink: ShrinkRule = ANY_TABLE) -> None:
        self._key = path, refresh, shrink
        self._begin: Size | None = None

    def __reduce__(self) -> tuple[Callable[..., FollowedRegistry], tuple[Any, ...]]:
        with _versions_lock:
            version = _versions.get(self._key)
        begin = self._begin if version is None else version.size()
        return _sent, (*self._key, begin)

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
            version = _versions[self._key] = _Version(*self._key, self._begin)
        return version


def _sent(path: str, refresh: int | None, shrink: ShrinkRule, begin: Size | None) -> FollowedRegistry:
    followed = FollowedRegistry(path, refresh, shrink)
    followed._begin = begin
    return followed


class _Stamp(NamedTuple):
    """What tells whether a file may have changed without reading it."""

    size: int
    changed: float
    """0 where the file system does not say."""


class _Version:
    """What a file held when it was good last."""

    def __init__(self, path: str, refresh: int | None, shrink: ShrinkRule, begin: Size | None) -> None:
        self._path = path
        self._failed = Metrics.counter("ami", "meter_registry_load_failed")
        # The counts that it makes are as old as it is: one alarm watches both.
        self._counts_failed = Metrics.counter("ami", "meter_counts_load_failed")
        self._refused = Metrics.counter("ami", "meter_counts_refused")
        self._loaded = Metrics.counter("ami", "meter_registry_loaded")
        self._shrink = shrink
        self._guard = ShrinkGuard[CountChanges](shrink, size_of_changes, begin)
        self._shrunk: tuple[_Stamp, str, _ShrunkError] | None = None
        self._stamp: _Stamp | None = None
        self._digest = b""
        self.held: MeterRegistry | None = None
        self._seen: set[str] = set()
        self._followed = Followed(self._load, refresh, self._told)

    def current(self, at_least: str) -> MeterRegistry:
        return self._followed.current(at_once=bool(at_least) and at_least not in self._seen)

    def size(self) -> Size:
        """Of the version that is in use, as it is now."""
        return size_of_changes(self._followed.value.changes, time.time_ns() // 1_000)

    def _told(self, error: TableError) -> None:
        if isinstance(error, _ShrunkError):
            self._refused.inc()
            _log.warning("Meter registry refused, the last good one stays in use: %s", error)
            return
        self._failed.inc()
        self._counts_failed.inc()
        _log.error("Meter registry not loaded, the last good one stays in use (workers must reach it): %s", error)

    def _load(self) -> MeterRegistry | None:
        # Before it is read: what is written meanwhile is then seen the next time.
        stamp = _stamp(self._path)
        if stamp == self._stamp and stamp.changed:
            return None
        if self._shrunk is not None and stamp == self._shrunk[0] and not self._shrink.accepts(self._shrunk[1]):
            # Loading millions of rows again would tell the same.
            raise self._shrunk[2]
        digest = b"" if stamp.changed else _digest(self._path)
        found = None
        if not digest or digest != self._digest:
            loaded = meter_registry.load(self._path)
            version = digest.hex() if digest else f"{stamp.size}/{stamp.changed}"
            # Another worker may use it: we have looked.
            self._seen.add(version)
            lost = self._guard.refusal(loaded.changes, version, time.time_ns() // 1_000)
            if lost is not None:
                error = _ShrunkError(f"{self._path} has lost {lost}. Its id is {version}")
                self._shrunk = (stamp, version, error) if stamp.changed else None
                raise error
            found = replace(loaded, version=version)
            self._loaded.inc()
            pa.default_memory_pool().release_unused()
            give_back()
        self._stamp, self._digest = stamp, digest
        return found


class _ShrunkError(TableError):
    """A registry that must not be used."""


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


_versions: dict[tuple[str, int | None, ShrinkRule], _Version] = {}
_versions_lock = Lock()
