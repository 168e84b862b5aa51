"""Strict RFC 8259: the bytes of one record are exactly one JSON document, or a Rejection says why not.

No input crashes the parser or makes it recurse beyond `MAX_DEPTH`. Where the RFC leaves a choice:

- UTF-8 only, without a byte order mark; NaN and Infinity are not JSON.
- Of duplicate names the last wins.
- Nesting deeper than `MAX_DEPTH` is not accepted (section 9 allows a limit).
- Numbers are never a reason to refuse a document: a float that overflows becomes ±inf and an integer of more than
  `MAX_INTEGER_TEXT` characters becomes ±10**`MAX_INTEGER_TEXT`, so that the range check of the field that holds it
  decides, and a field that nobody reads may hold what it likes.
- An escaped half of a surrogate pair is JSON by the RFC's grammar and is kept; `checks` refuses it in a text that is
  used, because such a text cannot be written as UTF-8 again.
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

from ami_beam.codecs.dead_letter_reasons import Reason, Rejection

MAX_DEPTH = 256
"""Deepest nesting of arrays and objects. Far below Python's recursion limit, which the C scanner shares with us."""
MAX_INTEGER_TEXT = 400
"""Longest integer that is computed exactly: beyond any 64-bit float, and short of Python's own limit on such texts."""

# A string, closed or not, or one bracket. The string never gives back what it took (`*+`): the search is linear.
_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def parse(value: bytes, max_depth: int = MAX_DEPTH) -> object:
    """The document that `value` is. Raises Rejection: INVALID_UTF8 or INVALID_JSON."""
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Rejection(Reason.INVALID_UTF8, f"The value is not UTF-8 at byte {error.start}.") from None
    if may_be_too_deep(value) and _is_too_deep(value, max_depth):
        raise Rejection(Reason.INVALID_JSON, f"The value is nested more than {max_depth} deep.")
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        sentence = f"The value is not one JSON document: {error.msg.removesuffix(' at')} at character {error.pos}."
        raise Rejection(Reason.INVALID_JSON, sentence) from None
    except RecursionError:  # the caller's own stack was nearly full
        raise Rejection(Reason.INVALID_JSON, "The value is nested too deeply.") from None


def parse_first(text: str, start: int) -> tuple[object, int]:
    """The document that begins at `start` of a text that is not too deep, and where it ends. Raises ValueError."""
    try:
        return _DECODER.raw_decode(text, start)
    except (Rejection, RecursionError) as error:
        raise ValueError(str(error)) from None


def may_be_too_deep(value: bytes) -> bool:
    """False proves that `value`, if it is JSON at all, is nested at most `MAX_DEPTH` deep."""
    # Each level takes an opening and a closing bracket.
    return len(value) > 2 * MAX_DEPTH and value.count(b"{") + value.count(b"[") > MAX_DEPTH


def _is_too_deep(value: bytes, max_depth: int) -> bool:
    depth = 0
    for match in _STRUCTURE.finditer(value):
        token = value[match.start()]
        if token in b"[{":
            depth += 1
            if depth > max_depth:
                return True
        elif token in b"]}":
            depth -= 1
    return False


def _integer(text: str) -> int:
    if len(text) <= MAX_INTEGER_TEXT:
        return int(text)
    return -(10**MAX_INTEGER_TEXT) if text.startswith("-") else 10**MAX_INTEGER_TEXT


def _refuse_constant(name: str) -> NoReturn:
    raise Rejection(Reason.INVALID_JSON, f"The value is not one JSON document: it holds {name}.")


_DECODER = json.JSONDecoder(parse_int=_integer, parse_constant=_refuse_constant)
