"""Reads back what this pipeline has published: the rows of an output topic that can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import msgspec
from apache_beam.metrics.metric import Metrics

Row = TypeVar("Row")


def readable(
    values: Iterable[bytes | None],
    parse: Callable[[bytes | str], Row],
    unreadable: Metrics.DelegatingCounter | None = None,
) -> Iterator[Row]:
    """The rows of these values; a value that is none of ours is passed over, and counted as `unreadable`."""
    for value in values:
        try:
            row = parse(value or b"")
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, LookupError, TypeError, AttributeError):
            if unreadable is not None:
                unreadable.inc()
        else:
            yield row
