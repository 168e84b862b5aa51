"""Repairs of dead letters: an expression or a Python file of the operator's own, over the decoded record.

The code is the operator's and runs with his rights: names are checked to find mistakes early, not to lock anybody in.
"""

from __future__ import annotations

import ast
import copy
import json
import runpy
import traceback
from collections.abc import Callable, Mapping
from datetime import datetime
from types import CodeType
from typing import Any, NamedTuple

from ami_beam.beam_options import OptionError
from ami_beam.codecs.stored_letters import StoredLetter
from ami_beam.instants import format_instant
from ami_beam.local_days import is_zone
from ami_beam.local_times import instants_at

JsonObject = dict[str, Any]
_EXAMPLE = """--repair='record | {"consumption_kwh": record["consumption_kwh"] / 1000}'"""
_FILE_EXAMPLE = "--repair_file=repair.py"


class RepairError(ValueError):
    """A letter that the repair does not fit; the message says why, and quotes nothing of the record."""


class Repaired(NamedTuple):
    """What is to be published."""

    value: bytes
    before: JsonObject | None
    """None where the original is no JSON object."""
    after: JsonObject | None
    changed: bool


class Repair:
    """`repair(letter)` is what is to be published in a letter's place; None leaves it where it is.

    Raises RepairError where the code fails or gives something else. A result that equals the record is its original
    bytes.

    Args:
      code: of a record and its letter.
      file: where the code is; None for an expression, which is not handed an original that is no JSON object.
    """

    def __init__(self, code: Callable[[Any, StoredLetter], Any], file: str | None = None) -> None:
        self._code = code
        self._file = file
        self._objects_only = file is None

    def __call__(self, letter: StoredLetter) -> Repaired | None:
        assert letter.value is not None
        before = object_of(letter.value)
        if before is None and self._objects_only:
            raise RepairError("the original is no JSON object, which --repair needs; --repair_file gets its bytes")
        try:
            after = self._code(copy.deepcopy(before), letter)
        except Exception as error:  # whatever the operator's code raises
            raise RepairError(f"the repair failed: {_said(error, self._file)}") from None
        if after is None:
            return None
        if isinstance(after, bytes) and not self._objects_only:
            return Repaired(after, before, object_of(after), after != letter.value)
        if not isinstance(after, dict):
            allowed = "an object or None" if self._objects_only else "an object, bytes or None"
            raise RepairError(f"the repair gave {type(after).__name__}, and not {allowed}")
        if _same(after, before):
            return Repaired(letter.value, before, before, False)
        try:
            value = json.dumps(after, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise RepairError(f"the repair's result is no JSON: {_said(error)}") from None
        return Repaired(value, before, after, True)


def _same(after: JsonObject, before: JsonObject | None) -> bool:
    # 1, 1.0 and True are equal to Python, and not the same JSON; the order of fields is not looked at.
    return before is not None and after == before and _typed(after) == _typed(before)


def _typed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _typed(each) for name, each in value.items()}
    return [_typed(each) for each in value] if isinstance(value, list) else (type(value), value)


def _said(error: Exception, error_file: str | None = None) -> str:
    """What went wrong, and in which line of the file, without the values that Python's own messages may quote."""
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str):
        return f"KeyError: {error.args[0][:60]!r}"
    if isinstance(error, HelperError):
        return str(error)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == error_file]
    return type(error).__name__ + (f" in line {lines[-1]}" if lines else "")


def object_of(value: bytes | None) -> JsonObject | None:
    """The JSON object that the bytes are, taken less strictly than the pipeline does; None where they are none."""
    if not value:
        return None
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


class HelperError(ValueError):
    """One of the helpers cannot do what it is asked; the message quotes no value."""


def without(record: Mapping[str, Any], *names: str) -> JsonObject:
    """The record without these fields."""
    return {name: value for name, value in record.items() if name not in names}


def renamed(record: Mapping[str, Any], *pairs: str) -> JsonObject:
    """The record with fields renamed: old, new, old, new …; a field that is not there is passed over."""
    if len(pairs) % 2:
        raise HelperError("renamed takes pairs of names: old, new")
    names = dict(zip(pairs[::2], pairs[1::2], strict=True))
    return {names.get(name, name): value for name, value in record.items()}


def number(value: Any) -> Any:
    """The number that a text says, with a point or one comma for it; numbers and null as they are."""
    if not isinstance(value, str):
        return value
    text = value.strip().replace(",", ".", 1)
    try:
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    except ValueError:
        raise HelperError("number was given a text that says none") from None


def with_zone(text: Any, zone: str) -> Any:
    """A time without a zone as the instant that clocks in `zone` show it at; with one, and what is no text, as it is.

    Raises where clocks show it never or twice: which of both is meant, the text does not say.
    """
    if not is_zone(zone):
        raise HelperError("with_zone was given no name of a time zone, such as America/Chicago")
    if not isinstance(text, str):
        return text
    try:
        wall = datetime.fromisoformat(text)
    except ValueError:
        raise HelperError("with_zone was given a text that is no time") from None
    if wall.tzinfo is not None:
        return text
    instants = instants_at(wall, zone)
    if len(instants) != 1:
        raise HelperError(f"with_zone: clocks show this time {'twice' if instants else 'never'}")
    return format_instant(instants[0])


HELPERS: dict[str, Callable[..., Any]] = {
    each.__name__: each
    for each in (
        without, renamed, number, with_zone,
        abs, all, any, bool, dict, float, int, isinstance, len, list, max, min, round, sorted, str, sum,
    )
}  # fmt: skip
"""All that an expression can call, beside the methods of its values."""


def expression(text: str) -> Repair:
    """The repair of `--repair`. Raises OptionError."""
    allowed = f"a Python expression over record and letter, with {', '.join(HELPERS)}"
    try:
        if not text.strip():
            raise ValueError("is empty")
        # In brackets it may have several lines.
        tree = ast.parse(f"(\n{text}\n)", "--repair", "eval")
        known = {*HELPERS, "record", "letter", *_bound(tree)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and node.id not in known:
                raise ValueError(f"there is no {node.id}")
            if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                raise ValueError(f"{node.attr} is not to be used")
        code: CodeType = compile(tree, "--repair", "eval")
    except SyntaxError as error:
        raise OptionError("--repair", text, f"is no Python expression: {error.msg}", allowed, _EXAMPLE) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise OptionError("--repair", text, str(error) or "is nested too deeply", allowed, _EXAMPLE) from None

    def evaluate(record: Any, letter: StoredLetter) -> Any:
        # All in the globals: a comprehension inside sees no locals.
        return eval(code, {"__builtins__": {}, **HELPERS, "record": record, "letter": letter})

    return Repair(evaluate)


def _bound(tree: ast.AST) -> set[str]:
    """The names that comprehensions, lambdas and := inside give values to."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return names | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}


def from_file(path: str) -> Repair:
    """The repair of `--repair_file`. Raises OptionError."""
    allowed = "a Python file with def repair(record, letter), which returns an object, bytes or None"
    try:
        names = runpy.run_path(path, init_globals=dict(HELPERS))
    except SyntaxError as error:
        problem = f"line {error.lineno}: {error.msg}"
        raise OptionError("--repair_file", path, problem, allowed, _FILE_EXAMPLE) from None
    except OSError as error:
        raise OptionError("--repair_file", path, error.strerror or str(error), allowed, _FILE_EXAMPLE) from None
    except Exception as error:  # whatever the operator's code raises
        problem = f"fails when it is loaded: {type(error).__name__}: {error}"
        raise OptionError("--repair_file", path, problem, allowed, _FILE_EXAMPLE) from None
    code = names.get("repair")
    if not callable(code):
        raise OptionError("--repair_file", path, "has no function repair", allowed, _FILE_EXAMPLE)
    return Repair(code, path)
