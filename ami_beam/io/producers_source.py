"""The meters that are registered to feed in, as each worker has them: read from their file while a job runs."""

from __future__ import annotations

import logging
from hashlib import sha256
from threading import Lock

from apache_beam.metrics import Metrics

from ami_beam import csv_table, producers
from ami_beam.csv_table import TableError
from ami_beam.io.followed import Followed

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
                path, refresh = self._key
                file = _File(path)
                version = _versions[self._key] = Followed(file.load, refresh, file.failed)
            return meter_id in version.current()


class _File:
    """A file that is read when it is looked at, and parsed when it has changed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._failed = Metrics.counter("ami", "producers_load_failed")
        self._digest = b""

    def load(self) -> frozenset[str] | None:
        content = csv_table.read(self._path)
        digest = sha256(content).digest()
        if digest == self._digest:
            return None
        found = producers.parse(content, self._path)
        self._digest = digest
        return found

    def failed(self, error: TableError) -> None:
        self._failed.inc()
        _log.error("Producers not loaded, the last good ones stay in use (workers must reach it): %s", error)


_versions: dict[tuple[str, int | None], Followed[frozenset[str]]] = {}
_versions_lock = Lock()
