"""Paths into a JSON document: where an answer has its records, and a record its values.

`data/*/readings/*` are all elements of all lists `readings` in the elements of `data`. From a record, `kwh` is its own
value, `value/amount` one inside it, `../meter_uid` one of the element around it (the next `*` outwards), and
`/meta/zone` one of the whole answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

EACH = "*"


class PathError(ValueError):
    """A path that cannot be followed: says where it ends."""


class Place(NamedTuple):
    """A record in an answer."""

    value: Any
    around: tuple[Any, ...]
    """The elements that it is in, the nearest first; the last is the whole answer."""


def check_path(path: str) -> None:
    """Raises PathError where it can never be followed."""
    parts = path.removeprefix("/").split("/")
    if path not in ("", ".") and "" in parts:
        raise PathError("has an empty name in it")


def records_of(document: Any, path: str) -> Iterator[Place]:
    """Every record, in the order of the answer. Raises PathError where the answer has another shape."""
    parts = [] if path in ("", ".") else path.removeprefix("/").split("/")
    yield from _each(document, parts, (document,), "")


def _each(value: Any, parts: list[str], around: tuple[Any, ...], walked: str) -> Iterator[Place]:
    for number, part in enumerate(parts):
        if part == EACH:
            if not isinstance(value, list):
                raise PathError(f"there is no list at {walked or '/'}")
            rest = parts[number + 1 :]
            for element in value:
                if rest:
                    yield from _each(element, rest, (element, *around), f"{walked}/*")
                else:
                    yield Place(element, around)
            return
        if not isinstance(value, dict) or part not in value:
            raise PathError(f"there is no {walked}/{part}")
        value, walked = value[part], f"{walked}/{part}"
    yield Place(value, around)


def value_at(place: Place, path: str) -> Any:
    """The value at a path from a record; None where there is none."""
    value, around = place.value, place.around
    if path.startswith("/"):
        value, path = around[-1], path[1:]
    while path == ".." or path.startswith("../"):
        if not around:
            return None
        value, around, path = around[0], around[1:], path[3:]
    if path in ("", "."):
        return value
    for part in path.split("/"):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.lstrip("-").isdigit():
            number = int(part)
            value = value[number] if -len(value) <= number < len(value) else None
        else:
            return None
    return value


def put_at(document: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a path of names in a document, objects on the way made where they are missing."""
    *names, last = path.split("/")
    for name in names:
        document = document.setdefault(name, {})
    document[last] = value
