"""A step's state as a log: what has come is appended without looking, and read when a timer fires."""

from __future__ import annotations

from typing import Any

from ami_beam.instants import MICROS_PER_SECOND

ONE_TIMER = 5 * MICROS_PER_SECOND
"""Record time of what has come that sets one timer."""


def timer_of(kind: str, record_time: int, step: int = ONE_TIMER) -> str:
    """The tag of the timer for what has come: one timer for all would be put off by each, and never fire in a storm."""
    return f"{kind}/{record_time // step}"


def read_log(log: Any) -> tuple[list[Any], Any | None]:
    """All news since the log was read last, in order, and what was known then; None where nothing was.

    Args:
      log: a bag whose elements have `news`, something that has come, or `kept`, what was known when it was read.
    """
    news, kept = [], None
    for entry in log.read():
        if entry.news is not None:
            news.append(entry.news)
        if entry.kept is not None:
            kept = entry.kept
    return news, kept
