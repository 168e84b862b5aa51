"""Reads back what this pipeline has published: the rows of an output topic that can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import msgspec
from apache_beam.metrics.metric import Metrics

Row = TypeVar("Row")


def readable(
    values: Iterable[bytes | None], parse: Callable[[bytes | str], Row], unreadable: Metrics.DelegatingCounter
) -> Iterator[Row]:
    """The rows of these values; a value that is none of ours is counted as `unreadable` and passed over."""
    for value in values:
        try:
            row = parse(value or b"")
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, LookupError, TypeError, AttributeError):
            unreadable.inc()
        else:
            yield row
