"""The inputs that ordinary tests run again: a text file a target, an input a line, in hexadecimal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

from tests.fuzz.properties import CHECKS

FILES = Path(__file__).parent / "corpus"
_WATCHED = ("ami_beam", "transforms")


def load(path: Path) -> list[bytes]:
    """The inputs of a file; none where there is no file."""
    return [bytes.fromhex(line) for line in path.read_text().splitlines()] if path.exists() else []


def save(path: Path, inputs: Iterable[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(data.hex() + "\n" for data in inputs))


def keep(target: str, inputs: Iterable[bytes]) -> list[bytes]:
    """Of these inputs a few that together reach whatever all of them reach, the shortest first."""
    kept, reached = [], set()
    for data in sorted(set(inputs), key=lambda each: (len(each), each)):
        reaches = _reaches(target, data)
        if not reaches <= reached:
            reached |= reaches
            kept.append(data)
    return kept


def _reaches(target: str, data: bytes) -> set[tuple[Any, ...]]:
    """The pairs of lines of the product that follow each other in the check of this input."""
    steps: set[tuple[Any, ...]] = set()

    def call(frame: FrameType, event: str, _: Any) -> Any:
        module = frame.f_globals.get("__name__", "")
        if not module.startswith(_WATCHED):
            return None
        before = 0

        def line(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal before
            steps.add((module, before, frame.f_lineno))
            before = frame.f_lineno
            return line

        return line

    sys.settrace(call)
    try:
        CHECKS[target](data)
    finally:
        sys.settrace(None)
    return steps
