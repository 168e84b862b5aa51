"""The meters that are registered to feed in, as each worker has them: read from their file while a job runs."""

from __future__ import annotations

import logging
import time
from hashlib import sha256
from threading import Lock

from apache_beam.metrics import Metrics

from ami_beam import csv_table, producers
from ami_beam.csv_table import TableError
from ami_beam.instants import MICROS_PER_SECOND

_log = logging.getLogger(__name__)


class FollowedProducers:
    """`meter_id in producers`, by the newest good version of a file; what is pickled of it is the path.

    Each worker reads the file by itself when it is first asked, and fails with TableError where it cannot: without
    producers every meter that feeds in would be an alarm. After that a file that is missing or bad leaves the last good
    version in use, is logged and counted (producers_load_failed). Workers may use different versions for `refresh`.

    Args:
      path: of a CSV file, plain or .gz.
      refresh: microseconds of the wall clock after which the file is looked at again, when somebody asks; None: never.
    """

    def __init__(self, path: str, refresh: int | None = None) -> None:
        self._key = path, refresh

    def __contains__(self, meter_id: object) -> bool:
        with _versions_lock:
            version = _versions.get(self._key)
            if version is None:
                version = _versions[self._key] = _Version(*self._key)
            return meter_id in version.current()


class _Version:
    """What a file held when it was good last."""

    def __init__(self, path: str, refresh: int | None) -> None:
        self._path, self._refresh = path, refresh
        self._failed = Metrics.counter("ami", "producers_load_failed")
        self._digest = b""
        self._load()

    def current(self) -> frozenset[str]:
        if self._refresh is not None and time.monotonic() - self._looked >= self._refresh / MICROS_PER_SECOND:
            try:
                self._load()
            except TableError as error:
                self._failed.inc()
                _log.error("Producers not loaded, the last good ones stay in use (workers must reach it): %s", error)
        return self._meters

    def _load(self) -> None:
        self._looked = time.monotonic()
        content = csv_table.read(self._path)
        digest = sha256(content).digest()
        if digest != self._digest:
            self._meters = producers.parse(content, self._path)
            self._digest = digest


_versions: dict[tuple[str, int | None], _Version] = {}
_versions_lock = Lock()
