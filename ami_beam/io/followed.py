"""What a process keeps of something outside that changes while a job runs: the newest good version."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from ami_beam.csv_table import TableError
from ami_beam.instants import MICROS_PER_SECOND

Value = TypeVar("Value")


class Refresh:
    """When it is time to look again.

    Args:
      refresh: microseconds of the wall clock; None: never.
    """

    def __init__(self, refresh: int | None) -> None:
        self._seconds = float("inf") if refresh is None else refresh / MICROS_PER_SECOND
        self._looked = -float("inf")

    def due(self) -> bool:
        return time.monotonic() - self._looked >= self._seconds

    def looked(self) -> None:
        self._looked = time.monotonic()


class Followed(Generic[Value]):
    """The newest value that could be loaded. Raises TableError when it is made, where the first one cannot be.

    Args:
      load: the value, or None where it is still the same; raises TableError.
      refresh: microseconds of the wall clock after which it is loaded again, when somebody asks; None: never.
      failed: is told why a later load failed; the last good value stays in use.
    """

    def __init__(
        self, load: Callable[[], Value | None], refresh: int | None, failed: Callable[[TableError], None]
    ) -> None:
        self._load = load
        self._failed = failed
        self._refresh = Refresh(refresh)
        self._refresh.looked()
        first = load()
        assert first is not None
        self.value = first
        """The newest good one, without a look."""

    def current(self, at_once: bool = False) -> Value:
        """The value; `at_once`: whatever the time."""
        if at_once or self._refresh.due():
            self._refresh.looked()
            try:
                value = self._load()
                self.value = self.value if value is None else value
            except TableError as error:
                self._failed(error)
        return self.value


class Background(Generic[Value]):
    """Work in a thread of its own, which ends with the process: whoever waits for a broker holds nobody up.

    `work` must not raise: it says in its result what went wrong.
    """

    def __init__(self, work: Callable[[], Value]) -> None:
        self._work = work
        self._results: list[Value] = []
        threading.Thread(target=self._run, name="ami-beam-look", daemon=True).start()

    def result(self) -> Value | None:
        """The result, once it is there."""
        return self._results[0] if self._results else None

    def _run(self) -> None:
        self._results.append(self._work())
